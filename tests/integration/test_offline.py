"""Without network, home, namespaces and a usual umask: as in the build roots of OBS and Koji."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.http_git import serve
from tests.fixtures.machine import CHECKOUT, hello, need, pkgkmod, series_and_kernel

PROJECT = """
[project]
name = "hello"
[source]
repository = "{repository}"
revision = "{commit}"
directories = ["{directory}"]
[[target]]
distro = "{distro}"
kernels = ["{kernel}"]
"""


@pytest.fixture
def project(tmp_path):
    driver = hello(tmp_path / "driver")

    def make(distro: str) -> Path:
        folder = tmp_path / distro
        folder.mkdir()
        facts = {"repository": driver.repository, "commit": driver.commit, "directory": driver.directory}
        (folder / "pkgkmod.toml").write_text(PROJECT.format(**facts, distro=distro, kernel=series_and_kernel()[1]))
        return folder

    return make


def in_a_bare_root(folder: Path, *words: str, umask: str = "0077") -> subprocess.CompletedProcess[str]:
    """Run pkgkmod as a user that nobody knows, without network, home and further namespaces, as a farm does."""
    return program_in_a_bare_root(folder, f"PYTHONPATH={CHECKOUT} {sys.executable} -m pkgkmod", *words, umask=umask)


def program_in_a_bare_root(
    folder: Path, program: str, *words: str, umask: str = "0077"
) -> subprocess.CompletedProcess[str]:
    need("unshare")
    own = folder / "tmp"
    own.mkdir(exist_ok=True)
    inner = f'umask {umask}; cd {folder}; exec env -i PATH=/usr/bin:/bin TMPDIR={own} {program} "$@"'
    outer = 'echo 1 >/proc/sys/user/max_user_namespaces; exec unshare --user --map-user=12345 --map-group=12345 "$@"'
    argv = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", outer, "-", "sh", "-c", inner, "-", *words]
    return subprocess.run(argv, capture_output=True, text=True)


@pytest.mark.parametrize(("distro", "stage"), [("debian12", "generate_debian"), ("el9", "generate_spec")])
@pytest.mark.parametrize("umask", ["0077", "0000"])
def test_recipes_are_written_in_a_bare_root(project, distro, stage, umask):
    folder = project(distro)
    done = in_a_bare_root(folder, stage, "--offline", umask=umask)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found = list(folder.glob(f"results/{stage}/{distro}/*/*/*"))
    assert any(file.name.endswith((".spec", "debian")) for file in found)
    reference = {file.name: file.read_bytes() for file in found if file.suffix in (".xz", ".spec")}
    again = folder.with_name(f"{distro}-again")
    again.mkdir()
    (again / "pkgkmod.toml").write_text((folder / "pkgkmod.toml").read_text())
    pkgkmod(stage, cwd=again)
    files = again.glob(f"results/{stage}/{distro}/*/*/*")
    assert {f.name: f.read_bytes() for f in files if f.suffix in (".xz", ".spec")} == reference


@pytest.mark.parametrize("umask", ["0077", "0000"])
def test_an_srpm_alone_is_built_in_a_bare_root(project, tmp_path, kernel, umask):
    need("rpmbuild", "make")
    folder = project("el9")
    pkgkmod("build_source", cwd=folder)
    (source,) = folder.glob("results/build_source/*/*/*/*.src.rpm")
    alone = tmp_path / "alone"
    (alone / "trees").mkdir(parents=True)
    (alone / "trees" / kernel).symlink_to(Path(f"/lib/modules/{kernel}/build").resolve())
    defines = {"_topdir": alone, "_dbpath": alone / "db", "_tmppath": alone / "tmp", "kernel_trees": alone / "trees"}
    words = [word for name, place in defines.items() for word in ("--define", f"{name} {place}")]
    done = program_in_a_bare_root(alone, "rpmbuild", "--rebuild", "--nodeps", *words, str(source), umask=umask)
    assert done.returncode == 0, done.stderr
    (package,) = alone.glob("RPMS/x86_64/kmod-hello-*.rpm")
    argv = ["rpm", "-qp", "--nosignature", "--qf", "[%{FILEMODES:perms} %{FILEUSERNAME} %{FILENAMES}\\n]", str(package)]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert f"-rw-r--r-- root /lib/modules/{kernel}/extra/hello/hello.ko" in listed


@pytest.mark.parametrize("umask", ["0077", "0000"])
def test_a_debian_source_package_alone_is_built_in_a_bare_root(project, tmp_path, kernel, umask):
    need("dpkg-buildpackage", "dh", "make")
    folder = project("debian12")
    pkgkmod("build_source", cwd=folder)
    (source,) = folder.glob("results/build_source/*/*/*/*.dsc")
    alone = tmp_path / "alone"
    alone.mkdir()
    subprocess.run(["dpkg-source", "-x", source, alone / "hello"], check=True, capture_output=True)
    build = "dpkg-buildpackage", "-us", "-uc", "-b", "-d"
    done = program_in_a_bare_root(alone, "sh", "-c", f"cd hello; {' '.join(build)}", umask=umask)
    assert done.returncode == 0, done.stderr
    (package,) = alone.glob(f"hello-modules-{kernel}_*.deb")
    listed = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, text=True, check=True).stdout
    (line,) = [one for one in listed.splitlines() if "/hello.ko" in one]
    assert line.startswith("-rw-r--r-- root/root")


def test_compiling_in_a_bare_root_says_that_it_cannot_isolate_and_works_without(project):
    folder = project("debian12")
    refused = in_a_bare_root(folder, "build_modules", "--offline")
    assert refused.returncode == 11 and "--no-sandbox" in refused.stderr
    done = in_a_bare_root(folder, "build_modules", "--offline", "--no-sandbox")
    assert done.returncode == 0, done.stderr
    assert list(folder.glob("results/build_modules/_/*/*/hello.ko"))


def test_offline_a_server_is_not_asked(tmp_path, project):
    folder = project("debian12")
    with serve(tmp_path) as server:
        text = (folder / "pkgkmod.toml").read_text().replace(str(tmp_path / "driver"), f"{server.url}/driver")
        (folder / "pkgkmod.toml").write_text(text)
        refused = pkgkmod("prepare_sources", "--offline", cwd=folder, code=4, XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert "is not asked" in refused.err and "--offline" in refused.err
        assert server.counts.requests == 0
        pkgkmod("prepare_sources", cwd=folder, XDG_CACHE_HOME=str(tmp_path / "cache"))
        asked = server.counts.requests
        pkgkmod("prepare_sources", "--offline", "--force", cwd=folder, XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert server.counts.requests == asked > 0


def test_offline_an_archive_is_not_asked(tmp_path, project):
    folder = project("debian12")
    (folder / "pkgkmod.toml").write_text(
        (folder / "pkgkmod.toml").read_text()
        + '[plugin.apt]\narchives = ["deb http://127.0.0.1:9/debian bookworm main"]\n'
    )
    refused = pkgkmod("plan", "--offline", cwd=folder, code=6, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert "is not asked for" in refused.err

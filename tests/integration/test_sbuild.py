"""The builder sbuild with the real sbuild and mmdebstrap, for kernels that the archive has."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pkgkmod.builders import sbuild
from pkgkmod.builders.sbuild import SbuildBuilder
from pkgkmod.errors import SandboxError
from pkgkmod.formats.deb import read_deb
from pkgkmod.progress import Progress
from tests.fixtures.machine import HELLO, Driver, commit, lacking, made_once, need, pkgkmod
from tests.fixtures.packaging import make_job

PROJECT = """
[project]
name = "{name}"
version = "1.0"
maintainer = "Jane Packager <jane@example.org>"
[source]
repository = "{repository}"
revision = "{commit}"
directories = ["{directory}"]
[build]
time_limit = {seconds}
[deb]
builder = "sbuild"
dkms = true
"""
TARGET = """
[[target]]
distro = "{distro}"
kernels = ["{kernel}"]
"""
TRIXIE = """
[plugin.apt]
archives = ["deb http://deb.debian.org/debian trixie main"]
"""


@pytest.fixture(autouse=True)
def roots(_cache_of_the_test: None) -> None:
    """Give each test the roots that were made before; nothing else of a cache is shared."""
    need(*SbuildBuilder().tools("deb"))
    try:
        sbuild._check_user(sbuild._build_user("nobody"))
    except SandboxError as error:
        lacking(f"{error.brief}; {error.hint}")
    with made_once("sbuild-roots") as (place, _):
        place.mkdir(exist_ok=True)
    cache = Path(os.environ["XDG_CACHE_HOME"], "pkgkmod")
    cache.mkdir(exist_ok=True)
    (cache / "roots").symlink_to(place)


@pytest.fixture
def beside() -> Iterator[Path]:
    """Give a folder for the builder's own that others may enter, and see that nothing is left in it."""
    folder = Path(tempfile.mkdtemp(prefix="pkgkmod-test-", dir="/var/tmp"))
    folder.chmod(0o711)
    yield folder
    left = [path.name for path in folder.iterdir() if path.name.startswith("pkgkmod-sbuild-")]
    shutil.rmtree(folder)
    assert left == []


def project(folder: Path, driver: Driver, *targets: tuple[str, str], more: str = "", seconds: int = 1800) -> Path:
    """Write a project file."""
    text = PROJECT.format(**vars(driver), seconds=seconds)
    text += "".join(TARGET.format(distro=distro, kernel=kernel) for distro, kernel in targets)
    folder.mkdir()
    (folder / "pkgkmod.toml").write_text(text + more)
    return folder


def broken(tmp_path: Path, path: str, text: str) -> Driver:
    """Return the example driver with something added to a file."""
    folder = tmp_path / "repository"
    shutil.copytree(Path(__file__).parents[2] / "examples/hello", folder)
    with (folder / HELLO / path).open("a") as file:
        file.write(text)
    return Driver("hello", folder, HELLO, commit(folder))


def results(folder: Path, target: str) -> Path:
    """Return the folder of a target's packages."""
    (changes,) = folder.glob(f"results/build_deb/{target}/*/*/*.changes")
    return changes.parent


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of what must be the same in each build."""
    kept = [file for file in folder.iterdir() if file.suffix in (".deb", ".dsc", ".xz")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in kept}


def test_hello_in_a_root_of_bookworm(tmp_path: Path, kernel: str, beside: Path) -> None:
    """The makefile looks around: there is no network interface but the loopback, and nothing of this machine."""
    look = "$(info interfaces: $(shell tail -n +3 /proc/net/dev | cut -d: -f1))\n"
    look += "$(info home: $(wildcard /root/* /var/tmp/*))\n"
    driver = broken(tmp_path, "Makefile", look)
    folder = project(tmp_path / "project", driver, ("debian12", kernel))
    pkgkmod("prepare_sources", cwd=folder)
    pkgkmod("build_deb", cwd=folder, TMPDIR=str(beside))
    place = results(folder, "debian12")
    version = "1.0-1~deb12"
    assert {file.name for file in place.iterdir()} - {"log.txt", "result.json"} == {
        f"hello-dkms_{version}_all.deb",
        f"hello-modules-{kernel}_{version}_amd64.deb",
        f"hello-modules-amd64_{version}_amd64.deb",
        *(f"hello-modules_{version}{end}" for end in (".debian.tar.xz", ".dsc", "_amd64.buildinfo", "_amd64.changes")),
        "hello-modules_1.0.orig.tar.xz",
    }
    (package,) = place.glob(f"hello-modules-{kernel}_*.deb")
    assert read_deb(package).control["Architecture"] == "amd64"
    listed = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, text=True, check=True).stdout
    assert f"/lib/modules/{kernel}/updates/hello/hello.ko" in listed
    log = (place / "log.txt").read_text()
    assert set(re.findall(r"^interfaces: *(.*)$", log, re.MULTILINE)) == {"lo"}
    assert set(re.findall(r"^home: *(.*)$", log, re.MULTILINE)) == {""}
    assert all(file.stat().st_uid == os.geteuid() for file in place.iterdir())
    assert not list(folder.glob("results/build_modules/*"))


@pytest.mark.slow
def test_the_first_error_of_the_compiler_is_shown(tmp_path: Path, kernel: str, beside: Path) -> None:
    driver = broken(tmp_path, "main.c", "int broken(void) { return not_declared; }\n")
    folder = project(tmp_path / "project", driver, ("debian12", kernel))
    pkgkmod("prepare_sources", cwd=folder)
    done = pkgkmod("build_deb", cwd=folder, code=8, TMPDIR=str(beside))
    assert "the modules of debian12 do not compile" in done.err
    assert re.search(rf"{HELLO}/main\.c:\d+:\d+: error: .not_declared. undeclared", done.err)
    assert "log.txt" in done.err


def test_headers_that_the_archive_does_not_have(tmp_path: Path, hello: Driver, kernel: str, beside: Path) -> None:
    gone = re.sub(r"-\d+-", "-1-", kernel)
    tree = tmp_path / "trees" / gone
    shutil.copytree(f"/usr/src/linux-headers-{kernel}", tree, symlinks=True)
    for name in ("include/config/kernel.release", "include/generated/utsrelease.h"):
        (tree / name).write_text((tree / name).read_text().replace(kernel, gone))
    more = f'[plugin.folder]\npaths = ["{tree}"]\n'
    folder = project(tmp_path / "project", hello, ("debian12", gone), more=more)
    pkgkmod("prepare_sources", cwd=folder)
    done = pkgkmod("build_deb", cwd=folder, code=6, TMPDIR=str(beside))
    assert f"sbuild's root cannot have the headers of {gone}" in done.err
    assert "is not installable" in done.err


def test_a_build_that_takes_too_long_is_stopped_and_leaves_nothing(
    tmp_path: Path, hello: Driver, kernel: str, beside: Path
) -> None:
    job = make_job("debian12", (kernel,))
    with sbuild._open_folder(sbuild._build_user("nobody")) as place:  # so that the time is sbuild's alone
        user = sbuild._build_user("nobody")
        sbuild._root_archive("bookworm", job.distro.archives, user, place / "work", Progress())
    folder = project(tmp_path / "project", hello, ("debian12", kernel), seconds=8)
    pkgkmod("prepare_sources", cwd=folder)
    done = pkgkmod("build_deb", cwd=folder, code=18, TMPDIR=str(beside))
    assert "'sbuild' ran longer than 8 s" in done.err


def test_a_root_of_an_archive_that_is_not_there(tmp_path: Path, hello: Driver, kernel: str, beside: Path) -> None:
    more = '[plugin.sbuild.archives]\nbookworm = ["deb http://127.0.0.1:1/debian bookworm main"]\n'
    folder = project(tmp_path / "project", hello, ("debian12", kernel), more=more)
    pkgkmod("prepare_sources", cwd=folder)
    done = pkgkmod("build_deb", cwd=folder, code=6, TMPDIR=str(beside))
    assert "a root of bookworm for sbuild could not be made" in done.err
    assert "127.0.0.1" in done.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root names the user")
def test_a_user_without_sub_uids_is_told_how_to_get_them(tmp_path: Path, hello: Driver, kernel: str) -> None:
    folder = project(tmp_path / "project", hello, ("debian12", kernel), more='[plugin.sbuild]\nuser = "daemon"\n')
    pkgkmod("prepare_sources", cwd=folder)
    done = pkgkmod("build_deb", cwd=folder, code=11)
    assert re.search(r"as root: usermod --add-subuids \d+-\d+ --add-subgids \d+-\d+ daemon", done.err)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hello", "e1000e"])
def test_builds_are_the_same_byte_for_byte(
    tmp_path: Path, name: str, kernel: str, beside: Path, request: pytest.FixtureRequest
) -> None:
    """In two runs of sbuild, and in dpkg-buildpackage on this machine, which is of the same release."""
    driver = request.getfixturevalue(name)
    folder = project(tmp_path / "project", driver, ("debian12", kernel))
    pkgkmod("prepare_sources", cwd=folder)
    found = []
    for options in (("-f",), ("-f",), ("-f", "--from-source", "--local")):
        if "--local" in options:
            text = (folder / "pkgkmod.toml").read_text().replace('builder = "sbuild"', 'builder = "local"')
            (folder / "pkgkmod.toml").write_text(text)
            shutil.rmtree(folder / "results/build_deb")
        pkgkmod("build_deb", *(word for word in options if word != "--local"), cwd=folder, TMPDIR=str(beside))
        found.append(digests(results(folder, "debian12")))
    assert found[0] == found[1] == found[2]
    assert {Path(file).suffix for file in found[0]} == {".deb", ".dsc", ".xz"}


@pytest.mark.slow
def test_two_releases_in_one_build(tmp_path: Path, hello: Driver, kernel: str, beside: Path) -> None:
    """The kernel of trixie is not installed here, and its headers are fetched for the root."""
    targets = (("debian12", kernel), ("debian13", "newest of 6.12.*+deb13-cloud-amd64"))
    folder = project(tmp_path / "project", hello, *targets, more=TRIXIE)
    pkgkmod("prepare_sources", cwd=folder)
    pkgkmod("build_deb", cwd=folder, TMPDIR=str(beside))
    assert "gcc-12_" in (results(folder, "debian12") / "log.txt").read_text()
    log = (results(folder, "debian13") / "log.txt").read_text()
    assert "gcc-14_" in log
    assert list(results(folder, "debian13").glob("hello-modules-6.12.*+deb13-cloud-amd64_*_amd64.deb"))

"""pkgkmod export dkms: what is in the folder, and that the real dkms builds the same modules from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from pkgkmod.modules.kmod_deps import read_module
from tests.fixtures.machine import Driver, hello, lacking, need, pkgkmod, series_and_kernel

PATCH = """\
--- a/drivers/misc/hello/main.c
+++ b/drivers/misc/hello/main.c
@@ -1,1 +1,2 @@
+/* patched */
 // SPDX-License-Identifier: GPL-2.0-or-later
"""
ODD = 'name = "a+b._-c"\nversion = "1~rc1+git_2.x"'


def project(folder: Path, driver: Driver, *, head: str = 'name = "hello"\nversion = "1.0"', more: str = "") -> Path:
    folder.mkdir(parents=True)
    _, kernel = series_and_kernel()
    (folder / "pkgkmod.toml").write_text(
        f"""
[project]
{head}
[source]
repository = "{driver.repository}"
revision = "{driver.commit}"
directories = ["{driver.directory}"]
[[target]]
distro = "debian12"
kernels = ["{kernel}"]
[[target]]
distro = "el9"
kernels = ["{kernel}"]
{more}"""
    )
    return folder


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return hello(tmp_path / "git")


def content(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Mode, time and bytes of all that is below a folder."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        facts = path.lstat()
        found[str(path.relative_to(folder))] = (
            facts.st_mode,
            int(facts.st_mtime),
            path.read_bytes() if path.is_file() else b"",
        )
    return found


def dkms(tree: Path, *words: str, code: int = 0) -> str:
    need("dkms", "make", "gcc")
    if os.getuid():
        lacking("dkms works as root only")
    places = {"--dkmstree": "dkms", "--sourcetree": "src", "--installtree": "modules"}
    for name in places.values():
        (tree / name).mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["dkms", *words, *(word for flag, name in places.items() for word in (flag, str(tree / name)))],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def facts_of(module: Path) -> tuple[dict[str, int] | None, frozenset[str], dict[str, int | None]]:
    """What a module imports, with CRCs, and exports."""
    found = read_module(str(module))
    return found.versions, found.undefined, found.exports


@pytest.mark.parametrize("target", ["debian12", "el9"])
def test_dkms_builds_the_modules_that_pkgkmod_builds(driver: Driver, tmp_path: Path, target: str) -> None:
    _, kernel = series_and_kernel()
    folder = project(tmp_path / "project", driver)
    (folder / "patches").mkdir()
    (folder / "patches/mark.patch").write_text(PATCH)
    pkgkmod("export", "dkms", "--target", target, "-o", tmp_path / "out", cwd=folder)
    exported = tmp_path / "out/hello-1.0"
    assert (exported / "drivers/misc/hello/main.c").read_text().startswith("/* patched */")
    dkms(tmp_path / "tree", "add", str(exported))
    dkms(tmp_path / "tree", "build", "-m", "hello", "-v", "1.0", "-k", kernel)
    pkgkmod("build_modules", "--target", target, "--kernel", kernel, cwd=folder)
    (theirs,) = (tmp_path / "tree/dkms/hello/1.0").rglob("hello.ko*")
    (ours,) = folder.glob("results/build_modules/*/*/*/hello.ko")
    plain = tmp_path / "theirs.ko"
    plain.write_bytes(subprocess.check_output(["xz", "-dc", theirs]) if theirs.suffix == ".xz" else theirs.read_bytes())
    assert facts_of(plain) == facts_of(ours)
    assert facts_of(ours)[0]


def test_dkms_conf_is_the_one_in_the_packages(driver: Driver, tmp_path: Path) -> None:
    folder = project(tmp_path / "project", driver, more="[deb]\ndkms = true\n[rpm]\ndkms = true\n")
    pkgkmod("generate_debian", "--target", "debian12", cwd=folder)
    pkgkmod("generate_spec", "--target", "el9", cwd=folder)
    pkgkmod("export", "dkms", cwd=folder)
    (packaged,) = folder.glob("results/generate_debian/**/hello-dkms.dkms")
    assert (folder / "hello-1.0/dkms.conf").read_text() == packaged.read_text()
    pkgkmod("export", "dkms", "--target", "el9", "--force", cwd=folder)
    (spec,) = folder.glob("results/generate_spec/**/*.spec")
    text = (folder / "hello-1.0/dkms.conf").read_text()
    assert "DEST_MODULE_LOCATION[0]=/extra/hello\n" in text
    assert f"<< 'END'\n{text.rstrip()}\nEND\n" in spec.read_text()


def test_dkms_takes_every_name_and_version_that_a_project_may_have(driver: Driver, tmp_path: Path) -> None:
    folder = project(tmp_path / "project", driver, head=ODD)
    pkgkmod("export", "dkms", cwd=folder)
    dkms(tmp_path / "tree", "add", str(folder / "a+b._-c-1~rc1+git_2.x"))
    assert "a+b._-c/1~rc1+git_2.x" in dkms(tmp_path / "tree", "status")


def test_the_same_sources_give_the_same_folder(driver: Driver, tmp_path: Path) -> None:
    folder = project(tmp_path / "project", driver)
    pkgkmod("export", "dkms", "-o", tmp_path / "one", cwd=folder)
    before = os.umask(0o077)
    try:
        pkgkmod("export", "dkms", "-o", tmp_path / "other", cwd=folder, TZ="America/Lima")
    finally:
        os.umask(before)
    assert content(tmp_path / "one/hello-1.0") == content(tmp_path / "other/hello-1.0")
    assert "dkms.conf" in content(tmp_path / "one/hello-1.0")


def test_a_folder_that_is_there_is_refused_and_only_an_export_is_replaced(driver: Driver, tmp_path: Path) -> None:
    folder = project(tmp_path / "project", driver)
    said = pkgkmod("export", "dkms", "-n", cwd=folder)
    assert "RUN" in said.out and "WRITE" in said.out and not (folder / "hello-1.0").exists()
    pkgkmod("export", "dkms", cwd=folder)
    assert "--force" in pkgkmod("export", "dkms", cwd=folder, code=2).err
    (folder / "hello-1.0/mine").write_text("")
    said = pkgkmod("export", "dkms", "--force", "--json", cwd=folder)
    assert said.events[-1]["event"] == "dkms-folder" and said.events[-1]["modules"] == ["hello"]
    assert not (folder / "hello-1.0/mine").exists() and not list(folder.glob(".hello-1.0*"))
    shutil.rmtree(folder / "hello-1.0")
    (folder / "hello-1.0").mkdir()
    (folder / "hello-1.0/thesis.txt").write_text("years of work")
    assert "not replaced" in pkgkmod("export", "dkms", "--force", cwd=folder, code=2).err
    assert (folder / "hello-1.0/thesis.txt").exists()
    assert "no target 'debain12'" in pkgkmod("export", "dkms", "--target", "debain12", cwd=folder, code=2).err


def test_what_dkms_cannot_be_told_is_said(driver: Driver, tmp_path: Path) -> None:
    folder = project(tmp_path / "project", driver, more='[[module]]\nname = "hello"\nkernels = ["6.*"]\n')
    assert "module.kernels is not in dkms.conf" in pkgkmod("export", "dkms", cwd=folder).err
    other = project(tmp_path / "other", driver, more='[[requires]]\nname = "foo"\n')
    assert "[[requires]] cannot be exported" in pkgkmod("export", "dkms", cwd=other, code=2).err
    assert not (other / "hello-1.0").exists()


ONLY = """
kernels = ["!*-nothing", "*"]
release = '^(5|6)\\.'
oldest = "5.10"
newest = "6.1"
before = "6.13"
machine = "^x86"
config = ["PCI", "!PREEMPT_RT"]
"""


def test_limits_of_kernels_come_back_from_a_dkms_conf(driver: Driver, tmp_path: Path) -> None:
    need("bwrap", "bash")
    folder = project(tmp_path / "project", driver, more=f"[only]{ONLY}")
    pkgkmod("export", "dkms", cwd=folder)
    imported = tmp_path / "imported"
    pkgkmod("import", "dkms", folder / "hello-1.0", "-o", imported, "--distro", "debian12", cwd=tmp_path)
    made = tomllib.loads((imported / "pkgkmod.toml").read_text())
    assert made["only"] == tomllib.loads(ONLY)


def test_dkms_does_not_build_for_kernels_that_are_left_out(driver: Driver, tmp_path: Path) -> None:
    _, kernel = series_and_kernel()
    folder = project(tmp_path / "project", driver, more='[only]\nbefore = "5.4"\n')
    pkgkmod("export", "dkms", cwd=folder)
    dkms(tmp_path / "tree", "add", str(folder / "hello-1.0"))
    said = dkms(tmp_path / "tree", "build", "-m", "hello", "-v", "1.0", "-k", kernel, code=77)
    assert "BUILD_EXCLUSIVE" in said

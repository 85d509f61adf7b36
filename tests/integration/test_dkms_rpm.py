"""NAME-dkms: the real dkms builds of what the package has, into trees of the test's own."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures.fedorakernels import ask, built
from tests.fixtures.machine import Driver, commit, hello, lacking, need
from tests.fixtures.rpmroots import ScratchRoot

DKMS = "[rpm]\ndkms = true\n"
ODD = "a+b._-c"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dkms")
    return built(folder / "project", hello(folder / "git"), DKMS)


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The next release of the same version, and its sources are others."""
    folder = tmp_path_factory.mktemp("rebuilt")
    driver = hello(folder / "git")
    source = driver.repository / driver.directory / "main.c"
    source.write_text(source.read_text() + "\n/* changed */\n")
    other = Driver(driver.name, driver.repository, driver.directory, commit(driver.repository, "Change it"))
    return built(folder / "project", other, DKMS, head='release = "2"')


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("newer")
    return built(folder / "project", hello(folder / "git"), DKMS, head='version = "1.1"')


@pytest.fixture(scope="module")
def kernel() -> str:
    found = [path.parent.name for path in Path("/lib/modules").glob("6.1.*-amd64/build")]
    if not found:
        lacking("no headers of a kernel are installed")
    return min(name for name in found if "rt" not in name and "cloud" not in name)


def machine_environment(folder: Path) -> dict[str, str]:
    # With --rpm_safe_upgrade, dkms leaves files in the folder for temporary files.
    return {**os.environ, "LC_ALL": "C.UTF-8", "TMPDIR": str(folder)}


@dataclass(frozen=True)
class Machine:
    """Where a machine would have the sources, dkms' own files, and the kernels."""

    folder: Path

    def unpack(self, package: Path) -> None:
        self.folder.mkdir(exist_ok=True)
        archive = subprocess.run(["rpm2cpio", package], capture_output=True, check=True).stdout
        subprocess.run(["cpio", "-idmu", "--quiet"], input=archive, cwd=self.folder, check=True)

    def add_kernel(self, kernel: str) -> None:
        (self.folder / "modules" / kernel).mkdir(parents=True)
        (self.folder / "dkms").mkdir(exist_ok=True)

    def dkms(self, *words: str, code: int = 0) -> str:
        need("dkms", "make", "gcc")
        places = ("--dkmstree", "dkms", "--sourcetree", "usr/src", "--installtree", "modules")
        trees = [str(self.folder / word) if not word.startswith("-") else word for word in places]
        # A scriptlet has no terminal either.
        done = subprocess.run(
            ["dkms", *words, *trees],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env=machine_environment(self.folder),
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def modules(self) -> list[str]:
        """The modules that are installed, by kernel and name."""
        place = self.folder / "modules"
        # dkms compresses them as the kernel's own.
        found = [path.relative_to(place) for path in place.rglob("*.ko*")]
        return sorted(f"{path.parts[0]} {path.name.removesuffix('.xz')}" for path in found)


@pytest.fixture
def machine(packages: dict[str, Path], kernel: str, tmp_path: Path) -> Machine:
    if os.getuid():
        lacking("dkms works as root only")
    made = Machine(tmp_path / "machine")
    made.unpack(packages["hello-dkms"])
    made.add_kernel(kernel)
    return made


def test_what_the_package_is(packages: dict[str, Path]) -> None:
    package = packages["hello-dkms"]
    assert package.name == "hello-dkms-1.0-1.fc45.noarch.rpm"
    required = ask(package, "--requires")
    assert {"dkms", "gcc", "make"} <= set(required)
    assert not [one for one in required if "python" in one or "kernel-uname-r" in one]
    files = ask(package, "--list")
    assert {"/usr/src/hello-1.0/dkms.conf", "/usr/src/hello-1.0/pkgkmod.mk"} <= set(files)
    assert not [name for name in files if name.endswith((".ko", ".o")) or not name.startswith("/usr/src/hello-1.0")]


def test_add_build_install_and_remove(machine: Machine, kernel: str) -> None:
    machine.dkms("add", "-m", "hello", "-v", "1.0", "-q", "--rpm_safe_upgrade")
    machine.dkms("build", "-m", "hello", "-v", "1.0", "-q", "--force", "-k", kernel)
    machine.dkms("install", "-m", "hello", "-v", "1.0", "-q", "--force", "-k", kernel)
    assert machine.modules() == [f"{kernel} hello.ko"]
    (module,) = machine.folder.glob("modules/**/hello.ko*")
    said = subprocess.run(["modinfo", "-F", "vermagic", module], capture_output=True, text=True, check=True).stdout
    assert said.split()[0] == kernel
    assert f"hello/1.0, {kernel}, x86_64: installed" in machine.dkms("status")
    machine.dkms("remove", "-m", "hello", "-v", "1.0", "-q", "--all")
    assert machine.modules() == [] and "hello" not in machine.dkms("status")


def test_a_kernel_that_comes_later(machine: Machine, kernel: str) -> None:
    machine.dkms("add", "-m", "hello", "-v", "1.0")
    # What dkms' hook does when a kernel is installed.
    machine.dkms("autoinstall", "-k", kernel)
    assert machine.modules() == [f"{kernel} hello.ko"]
    later = [path.parent.name for path in Path("/lib/modules").glob("6.12.*-amd64/build")]
    if not later:
        lacking("headers of a second series of kernels are not installed")
    machine.add_kernel(later[0])
    machine.dkms("autoinstall", "-k", later[0])
    assert machine.modules() == sorted([f"{kernel} hello.ko", f"{later[0]} hello.ko"])
    machine.dkms("remove", "-m", "hello", "-v", "1.0", "--all")
    assert machine.modules() == []


def test_a_name_and_version_with_every_character_that_a_project_may_have(tmp_path: Path, kernel: str) -> None:
    driver = hello(tmp_path / "git")
    odd = Driver(ODD, driver.repository, driver.directory, driver.commit)
    made = built(tmp_path / "project", odd, DKMS, head='version = "1~rc1+git_2.x"')
    machine = Machine(tmp_path / "machine")
    machine.unpack(made[f"{ODD}-dkms"])
    machine.add_kernel(kernel)
    machine.dkms("install", "-m", ODD, "-v", "1~rc1+git_2.x", "-q", "--force", "-k", kernel)
    assert machine.modules() == [f"{kernel} hello.ko"]
    machine.dkms("remove", "-m", ODD, "-v", "1~rc1+git_2.x", "-q", "--all")
    assert machine.modules() == []


# --- what rpm runs, with the real dkms --------------------------------------------------------------


def transaction(machine: Machine, kernel: str, *scriptlets: tuple[Path, str]) -> None:
    """Run scriptlets as rpm does: each by a shell of its own, all of them children of one process.

    In place of the running kernel, which a build machine has no headers of, dkms gets another one.
    """
    programs = machine.folder / "bin"
    programs.mkdir(exist_ok=True)
    trees = (
        f"--dkmstree {machine.folder}/dkms --sourcetree {machine.folder}/usr/src --installtree {machine.folder}/modules"
    )
    (programs / "dkms").write_text(
        f'#!/bin/sh\ncase $1 in build | install) set -- "$@" -k {kernel};; esac\n'
        f'exec /usr/sbin/dkms "$@" {trees} < /dev/null\n'
    )
    (programs / "dkms").chmod(0o755)
    lines = ["set -e"]
    for number, (package, tag) in enumerate(scriptlets):
        script = machine.folder / f"{number}.sh"
        script.write_text("\n".join(ask(package, "--qf", f"%{{{tag}}}")))
        lines.append(f"/bin/sh {script}")
    environment = machine_environment(machine.folder)
    environment["PATH"] = f"{programs}:{environment['PATH']}"
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_scriptlets_install_upgrade_and_remove(
    machine: Machine, packages: dict[str, Path], rebuilt: dict[str, Path], newer: dict[str, Path], kernel: str
) -> None:
    old, other_release, other_version = (made["hello-dkms"] for made in (packages, rebuilt, newer))
    transaction(machine, kernel, (old, "POSTIN"))
    assert machine.modules() == [f"{kernel} hello.ko"]
    # rpm runs the new package's %post before the old one's %preun.
    machine.unpack(other_release)
    log = machine.folder / f"dkms/hello/1.0/{kernel}/x86_64/log/make.log"
    log.unlink()
    transaction(machine, kernel, (other_release, "POSTIN"), (old, "PREUN"))
    assert machine.modules() == [f"{kernel} hello.ko"] and log.exists()
    machine.unpack(other_version)
    transaction(machine, kernel, (other_version, "POSTIN"), (other_release, "PREUN"))
    assert machine.modules() == [f"{kernel} hello.ko"]
    assert machine.dkms("status").split() == ["hello/1.1,", f"{kernel},", "x86_64:", "installed"]
    transaction(machine, kernel, (other_version, "PREUN"))
    assert machine.modules() == [] and machine.dkms("status") == ""


# --- what rpm runs; dkms is a stand-in that logs ----------------------------------------------------


def test_scriptlets_with_a_stand_in_for_dkms(
    packages: dict[str, Path], rebuilt: dict[str, Path], tmp_path: Path
) -> None:
    root = ScratchRoot(tmp_path / "root")
    root.stand_in("/usr/sbin/dkms")
    root.install(packages["hello-dkms"])
    installing = [
        "dkms add -m hello -v 1.0 -q --rpm_safe_upgrade",
        "dkms build -m hello -v 1.0 -q --force",
        "dkms install -m hello -v 1.0 -q --force",
    ]
    removing = ["dkms remove -m hello -v 1.0 -q --all --rpm_safe_upgrade"]
    assert [str(call) for call in root.log()] == installing
    root.forget()
    root.upgrade(rebuilt["hello-dkms"])
    assert [str(call) for call in root.log()] == installing + removing
    root.forget()
    root.erase("hello-dkms")
    assert [str(call) for call in root.log()] == removing
    assert root.files() == {"/usr/sbin/dkms"}


@pytest.mark.parametrize("present", [True, False])
def test_no_transaction_fails_because_of_a_stand_in_for_dkms(
    present: bool, packages: dict[str, Path], tmp_path: Path
) -> None:
    root = ScratchRoot(tmp_path / "root")
    if present:
        root.stand_in("/usr/sbin/dkms", code=10)
    root.install(packages["hello-dkms"])
    root.erase("hello-dkms")
    assert not [path for path in root.files() if path.startswith("/usr/src")]

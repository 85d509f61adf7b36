"""The builder mock with a stand-in for mock (tests/fixtures/standinmock.py); dnf, rpmbuild and createrepo_c are real.

mock itself is not packaged for Debian, and no RPM distribution is in reach: kernels are real headers of Debian in the
shape of Red Hat's packages, and one package stands for all else that a root has.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pkgkmod.errors import ExitCode
from tests.fixtures import standinmock
from tests.fixtures.aptrepo import key
from tests.fixtures.families import ask, family, query
from tests.fixtures.machine import CHECKOUT, HELLO, Driver, Finished, commit, hello, need, unpacked_debs
from tests.fixtures.rpmrepo import EL, build_rpm, publish, sign

TOOLS = (
    *("elfutils-libelf-devel", "gcc", "kernel-abi-stablelists", "kernel-rpm-macros", "kmod", "make", "python3"),
    *("redhat-rpm-config", "/bin/sh"),
)
# As /etc/mock has them: a template, and what includes it.
TEMPLATE = """
config_opts['basedir'] = '{basedir}'
config_opts['releasever'] = '9'
config_opts['target_arch'] = 'x86_64'
config_opts['dnf.conf'] = \"\"\"
[main]
reposdir=/dev/null
gpgcheck=1
tsflags=noscripts
install_weak_deps=0

[base]
name=base
baseurl={baseurl}
gpgcheck=0
\"\"\"
"""
START = (
    "import sys, pkgkmod.programs as programs\n"
    "programs.SYSTEM_PATH = sys.argv[1] + ':' + programs.SYSTEM_PATH\n"
    "sys.argv[:2] = ['pkgkmod']\n"
    "from pkgkmod.cli import main\nmain()\n"
)


@dataclass(frozen=True)
class Farmhouse:
    """A machine with a mock: its program, its configurations, and where its roots lie."""

    folder: Path

    def run(self, project: Path, *args: object, code: int = 0) -> Finished:
        """Run pkgkmod with this mock in PATH."""
        done = subprocess.run(
            [sys.executable, "-c", START, str(self.folder / "bin"), *map(str, args)],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "XDG_CACHE_HOME": str(self.folder / "cache")},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return Finished(done.returncode, done.stdout, done.stderr)

    def project(self, folder: Path, driver: Driver, more: str = "", requires: str = "") -> Path:
        """Make a project for el9 that is built with this mock."""
        user = 'user = "nobody"' if os.geteuid() == 0 else ""
        extra = f"""
[build]
reuse = false
[rpm]
builder = "mock"
{requires}
[mock]
config = "rocky-9-x86_64"
options = ["--configdir={self.folder / "etc"}", "--isolation=simple"]
{user}
{more}"""
        return family(folder, driver, "el9", extra)


@pytest.fixture(scope="module")
def house() -> Iterator[Farmhouse]:
    """Give a machine with a mock, in a folder that its user may enter."""
    need("dnf", "createrepo_c", "rpmbuild", "bwrap", "unshare")
    plugins = unpacked_debs("dnf-plugins-unpacked", ["dnf-plugins-core"])
    folder = Path(tempfile.mkdtemp(prefix="pkgkmod-test-", dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        for name in ("bin", "etc/templates", "roots", "cache"):
            (folder / name).mkdir(parents=True)
        (folder / "roots").chmod(0o777)
        shutil.copyfile(standinmock.__file__, folder / "bin/mock")
        (folder / "bin/mock").chmod(0o755)
        shutil.copytree(plugins / "usr/lib/python3/dist-packages", folder / "bin/dnf")
        base = publish(folder / "base", build_rpm(folder / "made", "tools", "1-1", provides=TOOLS))
        template = TEMPLATE.format(basedir=folder / "roots", baseurl=base)
        (folder / "etc/templates/rocky-9.tpl").write_text(template)
        config = "config_opts['root'] = 'rocky-9-x86_64'\ninclude('templates/rocky-9.tpl')\n"
        (folder / "etc/rocky-9-x86_64.cfg").write_text(config)
        yield Farmhouse(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def packages(project: Path) -> dict[str, Path]:
    """Return what was built, by name; the source package is `src`."""
    found = project.glob("results/build_rpm/el9/*/*/*.rpm")
    return {"src" if path.name.endswith(".src.rpm") else query(path, "%{name}"): path for path in found}


def log(project: Path) -> str:
    """Return the log of the only build."""
    (file,) = project.glob("results/build_rpm/el9/*/*/log.txt")
    return file.read_text()


def edited(tmp_path: Path, path: str, text: str) -> Driver:
    """Return the example driver with something added to a file."""
    folder = tmp_path / "repository"
    shutil.copytree(CHECKOUT / "examples/hello", folder)
    with (folder / HELLO / path).open("a") as file:
        file.write(text)
    return Driver("hello", folder, HELLO, commit(folder))


def asked(folder: Path) -> tuple[Path, Path]:
    """Make a signed repository with the package `vendor-macros`, and its key; return its folder and the key."""
    package = build_rpm(folder / "made", "vendor-macros", "1-1", arch="noarch")
    sign(key("rpm"), package)
    publish(folder / "extra", package)
    return folder / "extra", key("rpm").armored


def test_with_a_stand_in_the_kernel_of_the_store_and_a_signed_package_are_installed(
    tmp_path: Path, house: Farmhouse
) -> None:
    extra, armored = asked(house.folder)
    project = tmp_path / "p"
    more = f"""repositories = [{{baseurl = "file://{extra}", name = "vendor", gpgkey = "vendor.asc"}}]
macros = {{packager = "the farm"}}
"""
    house.project(project, hello(tmp_path / "repository"), more, requires='build_requires = ["vendor-macros"]')
    shutil.copyfile(armored, project / "vendor.asc")
    house.run(project, "build_rpm")
    made = packages(project)
    assert set(made) == {"src", "kmod-hello"}
    assert any(line.startswith(("kernel(", "ksym(")) for line in ask(made["kmod-hello"], "--requires"))
    text = log(project)
    assert "--- build.log" in text and "--- root.log" in text
    installed = text.partition("--- installed_pkgs.log\n")[2].split()
    assert f"kernel-devel-{EL}" in installed and "vendor-macros-1-1.noarch" in installed
    # The source package is the root's own.
    assert {query(one, "%{buildhost} %{packager}") for one in made.values()} == {"reproducible the farm"}
    (root,) = (house.folder / "cache/pkgkmod/roots").glob("mock-*")
    assert [query(one, "%{name}") for one in root.glob("Packages/*.rpm")] == ["kernel-devel"]


@pytest.mark.slow  # it builds twice
def test_with_a_stand_in_it_is_the_same_byte_for_byte_again_and_without_network(
    tmp_path: Path, house: Farmhouse
) -> None:
    project = house.project(tmp_path / "p", hello(tmp_path / "repository"))
    house.run(project, "build_rpm")
    before = {name: path.read_bytes() for name, path in packages(project).items()}
    shutil.rmtree(project / "results/build_rpm")
    house.run(project, "build_rpm", "-l", "-A", "-v")
    assert {name: path.read_bytes() for name, path in packages(project).items()} == before


def test_failures_with_a_stand_in(tmp_path: Path, house: Farmhouse) -> None:
    extra, _ = asked(house.folder)
    project = house.project(tmp_path / "p", hello(tmp_path / "repository"))
    one = house.run(project, "build_rpm", "-r", "rocky-9-x86_46", code=ExitCode.CONFIG)
    assert "did you mean 'rocky-9-x86_64'?" in one.err
    (project / "broken.cfg").write_text("config_opts['root'] = \n")
    two = house.run(project, "build_rpm", "-r", "broken.cfg", code=ExitCode.CONFIG)
    assert "mock cannot read its configuration" in two.err
    missing = house.run(project, "build_rpm", "-C", "rpm.build_requires=['no-such-thing >= 2']", code=ExitCode.PACKAGE)
    assert "mock's root cannot have no-such-thing >= 2" in missing.err and "mock.repositories" in missing.err
    # The root of the build is in use.
    locks = house.folder.glob("roots/rocky-9-x86_64-pkgkmod-*/buildroot.lock")
    lock = max(locks, key=lambda file: file.stat().st_mtime)
    with lock.open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        locked = house.run(project, "build_rpm", code=ExitCode.SANDBOX)
    assert "another mock is at work" in locked.err and "--uniqueext" in locked.err
    unsigned = [f"mock.repositories=[{{baseurl = 'file://{extra}', gpgkey = 'other.asc'}}]"]
    shutil.copyfile(key("other").armored, project / "other.asc")
    wrong = house.run(
        project, "build_rpm", *words(unsigned), "-C", "rpm.build_requires=['vendor-macros']", code=ExitCode.PACKAGE
    )
    assert "not signed with the key of their repository" in wrong.err
    bad = house.run(project, "build_rpm", "-A", "--no-such-option", code=ExitCode.USAGE)
    assert "it does not understand its options" in bad.err


def words(settings: list[str]) -> list[str]:
    """Return settings as -C takes them."""
    return [word for one in settings for word in ("-C", one)]


def test_errors_of_the_compiler_with_a_stand_in(tmp_path: Path, house: Farmhouse) -> None:
    driver = edited(tmp_path, "main.c", "int broken(void) { return undeclared; }\n")
    project = house.project(tmp_path / "p", driver)
    failed = house.run(project, "build_rpm", code=ExitCode.COMPILE)
    assert "'undeclared' undeclared" in failed.err.replace("\u2018", "'").replace("\u2019", "'")
    assert "do not compile" in failed.err

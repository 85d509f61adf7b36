"""The contenders of bench/matrix.py: what each writes before the clock starts, and the programs that are then timed.

All of them compile the same sources for the same kernels, with the same compiler and options, from the same git
repository; taking the sources out of it is timed, too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

COMPILER = "gcc-12"
"""The compiler of every kernel that takes part."""
_PAYLOAD = "w2.xzdio"  # as pkgkmod's for EL 9, so that nobody wins by compressing less


@dataclass(frozen=True)
class Driver:
    """A driver in a git repository: its sources, and the kernel option that builds it."""

    name: str
    directory: str
    option: str
    repository: Path
    revisions: Mapping[str, str]
    """The revision for each series of kernels."""


@dataclass(frozen=True)
class Matrix:
    """What is to be built: a driver for the kernels (`uname -r`) of each series, with `jobs` parallel jobs."""

    driver: Driver
    kernels: Mapping[str, tuple[str, ...]]
    jobs: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Return each kernel with the revision of its sources."""
        for series, releases in self.kernels.items():
            for release in releases:
                yield release, self.driver.revisions[series]

    @property
    def releases(self) -> tuple[str, ...]:
        """All kernels."""
        return tuple(release for release, _ in self.pairs())

    @property
    def revisions(self) -> dict[str, tuple[str, ...]]:
        """The kernels of each distinct revision."""
        found: dict[str, tuple[str, ...]] = {}
        for release, revision in self.pairs():
            found[revision] = (*found.get(revision, ()), release)
        return found


@dataclass(frozen=True)
class Step:
    """A program that is timed: where it runs, and with which variables on top of the common ones."""

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """Steps that make one line of the table."""

    name: str
    steps: tuple[Step, ...]
    is_tool: bool = False
    """True if the memory of the step's own process is asked for."""


Contender = Callable[[Matrix, Path], list[Phase]]
"""Writes what a packager has written long ago into an empty folder, and says what is to be timed there."""


def _write(path: Path, text: str, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def _kbuild(matrix: Matrix, kernel: str, folder: str) -> str:
    """Return the arguments of the make that compiles the module in `folder` for `kernel`."""
    return f"-C /lib/modules/{kernel}/build M={folder} CC={COMPILER} {matrix.driver.option}=m modules"


def _take_sources(matrix: Matrix, place: Path) -> list[Step]:
    """Take each revision's sources out of git, into src/REVISION."""
    script = 'mkdir -p "src/$2" && git --git-dir="$1" archive "$2:$3" | tar -x -C "src/$2"'
    repository = str(matrix.driver.repository / ".git")
    words = ("sh", "-c", script, "sh", repository)
    return [Step((*words, revision, matrix.driver.directory), place) for revision in matrix.revisions]


def _disk(place: Path) -> list[Step]:
    """Make the repository and the driver disk of the RPMs in disk/rpms."""
    _write(place / "disk/rhdd3", "Driver Update Disk version 3\n")
    index = ("createrepo_c", "--quiet", "--no-database", "--general-compress-type=gz", "disk/rpms/x86_64")
    image = ("xorriso", "-as", "mkisofs", "-quiet", "-V", "OEMDRV", "-r", "-J", "-joliet-long")
    return [Step(index, place), Step((*image, "-o", "driver.iso", "disk"), place)]


def _rpmbuild(place: Path, spec: Path) -> Step:
    folders = {"_topdir": "rpm", "_sourcedir": "sources", "_rpmdir": "disk/rpms", "_dbpath": "rpm/db"}
    words = [word for name, path in folders.items() for word in ("--define", f"{name} {place / path}")]
    return Step(("rpmbuild", "-bb", "--quiet", *words, str(spec)), place)


# --- the floor: one jobserver for all kernels, then packages without a helper ---------------------


def floor(matrix: Matrix, place: Path) -> list[Phase]:
    """Compile all kernels under one make, and pack the finished modules with as little as possible."""
    name = matrix.driver.name
    _write(place / "Makefile", _common_makefile(matrix))
    _write(place / "kmod.spec", _subpackages_spec(matrix, place))
    modules = [f"build/{kernel}/{name}.ko" for kernel in matrix.releases]
    steps = [
        *_take_sources(matrix, place),
        Step(("make", f"-j{matrix.jobs}", "all"), place),
        Step(("strip", "--strip-debug", *modules), place),
        _rpmbuild(place, place / "kmod.spec"),
    ]
    for kernel, module in zip(matrix.releases, modules, strict=True):
        root = f"deb/{kernel}"
        _write(place / root / "DEBIAN/control", _minimal_control(name, kernel))
        installed = f"{root}/lib/modules/{kernel}/updates/{name}/{name}.ko"
        steps.append(Step(("install", "-D", "-m", "0644", module, installed), place))
        steps.append(Step(("dpkg-deb", "--root-owner-group", "--build", root, f"{root}.deb"), place))
    return [Phase("floor", (*steps, *_disk(place)))]


def _common_makefile(matrix: Matrix) -> str:
    lines = [".PHONY: all", f"all: {' '.join(matrix.releases)}"]
    for revision, kernels in matrix.revisions.items():
        lines += [
            f".PHONY: {' '.join(kernels)}",
            f"{' '.join(kernels)}:",
            f"\tmkdir -p build/$@ && cp -R src/{revision}/. build/$@/",
            f"\t+$(MAKE) {_kbuild(matrix, '$@', '$(CURDIR)/build/$@')}",
        ]
    return "\n".join(lines) + "\n"


def _subpackages_spec(matrix: Matrix, place: Path) -> str:
    name = matrix.driver.name
    head = f"""%global debug_package %{{nil}}
%global _build_id_links none
%global __os_install_post %{{nil}}
%global _binary_payload {_PAYLOAD}
Name: kmod-{name}
Version: 1.0
Release: 1
Summary: Kernel module {name}
License: GPL-2.0-only
%description
Kernel module {name}.
%install
"""
    installs, packages = "", ""
    for kernel in matrix.releases:
        folder = f"/lib/modules/{kernel}/extra/{name}"
        installs += f"install -D -m 0644 {place}/build/{kernel}/{name}.ko %{{buildroot}}{folder}/{name}.ko\n"
        packages += f"""%package -n kmod-{name}-{kernel}
Summary: Kernel module {name} for Linux {kernel}
AutoReqProv: no
%description -n kmod-{name}-{kernel}
Kernel module {name} for Linux {kernel}.
%files -n kmod-{name}-{kernel}
{folder}
"""
    return head + installs + packages


def _minimal_control(name: str, kernel: str) -> str:
    return (
        f"Package: {name}-modules-{kernel}\nVersion: 1.0-1\nArchitecture: amd64\n"
        f"Maintainer: Nobody <nobody@localhost>\nDescription: Kernel module {name} for Linux {kernel}\n"
    )


# --- the naive way: each format of each kernel compiles -------------------------------------------


def naive(matrix: Matrix, place: Path) -> list[Phase]:
    """Build each kernel's RPM and DEB by their own programs, which both compile, one after the other."""
    name, repository = matrix.driver.name, str(matrix.driver.repository / ".git")
    steps = []
    for revision in matrix.revisions:
        archive = ("git", f"--git-dir={repository}", "archive", f"--prefix={name}/", "-o", f"sources/{revision}.tar.gz")
        steps.append(Step((*archive, f"{revision}:{matrix.driver.directory}"), place))
    (place / "sources").mkdir()
    for kernel, revision in matrix.pairs():
        spec, source = place / f"specs/{kernel}.spec", place / f"deb/{kernel}/{name}"
        _write(spec, _compiling_spec(matrix, kernel, revision))
        _write_debian(matrix, kernel, source)
        unpack = ("tar", "-xf", f"sources/{revision}.tar.gz", "-C", str(source.parent))
        build = ("dpkg-buildpackage", "-b", "-us", "-uc", "-d")
        steps += [_rpmbuild(place, spec), Step(unpack, place), Step(build, source)]
    return [Phase("naive", (*steps, *_disk(place)))]


def _compiling_spec(matrix: Matrix, kernel: str, revision: str) -> str:
    name = matrix.driver.name
    folder = f"/lib/modules/{kernel}/extra/{name}"
    return f"""%global debug_package %{{nil}}
%global _binary_payload {_PAYLOAD}
Name: kmod-{name}-{kernel}
Version: 1.0
Release: 1
Summary: Kernel module {name} for Linux {kernel}
License: GPL-2.0-only
Source0: {revision}.tar.gz
%description
Kernel module {name} for Linux {kernel}.
%prep
%setup -q -n {name}
%build
make -j{matrix.jobs} {_kbuild(matrix, kernel, "$PWD")}
%install
install -D -m 0644 {name}.ko %{{buildroot}}{folder}/{name}.ko
strip --strip-debug %{{buildroot}}{folder}/{name}.ko
%files
{folder}
"""


def _write_debian(matrix: Matrix, kernel: str, source: Path) -> None:
    name = matrix.driver.name
    package = f"{name}-modules-{kernel}"
    folder = f"debian/{package}/lib/modules/{kernel}/updates/{name}"
    who = "Nobody <nobody@localhost>"
    _write(
        source / "debian/control",
        f"Source: {package}\nSection: kernel\nPriority: optional\nMaintainer: {who}\nRules-Requires-Root: no\n"
        f"Build-Depends: debhelper-compat (= 13)\nStandards-Version: 4.6.2\n\nPackage: {package}\n"
        f"Architecture: amd64\nDepends: ${{misc:Depends}}\nDescription: kernel module {name} for Linux {kernel}\n",
    )
    _write(
        source / "debian/changelog",
        f"{package} (1.0) unstable; urgency=medium\n\n  * Build.\n\n -- {who}  Fri, 01 Mar 2024 12:00:00 +0000\n",
    )
    _write(source / "debian/source/format", "3.0 (native)\n")
    _write(
        source / "debian/rules",
        f"""#!/usr/bin/make -f
%:
	dh $@
override_dh_auto_clean override_dh_auto_configure override_dh_auto_test:
override_dh_auto_build:
	$(MAKE) -j{matrix.jobs} {_kbuild(matrix, kernel, "$(CURDIR)")}
override_dh_auto_install:
	install -D -m 0644 {name}.ko {folder}/{name}.ko
	strip --strip-debug {folder}/{name}.ko
""",
        mode=0o755,
    )


# --- dkms -----------------------------------------------------------------------------------------


def dkms(matrix: Matrix, place: Path) -> list[Phase]:
    """Compile with Debian's dkms, in trees of its own; nothing is installed or packaged."""
    name = matrix.driver.name
    trees = ("--dkmstree", str(place / "dkms"), "--sourcetree", str(place / "src"))
    # Debian's dkms signs what it builds with a key of the machine, which it would make: not asked for here.
    env = {"sign_file": "/nonexistent", "TMPDIR": str(place)}
    (place / "dkms").mkdir()
    steps = _take_sources(matrix, place)
    for number, (revision, kernels) in enumerate(matrix.revisions.items(), start=1):
        module = ("-m", name, "-v", str(number))
        _write(place / f"dkms-{number}.conf", _dkms_conf(matrix, number))
        steps += [
            Step(("mv", f"src/{revision}", f"src/{name}-{number}"), place),
            Step(("cp", f"dkms-{number}.conf", f"src/{name}-{number}/dkms.conf"), place),
            Step(("dkms", "add", *module, *trees), place, env),
            *(Step(("dkms", "build", *module, "-k", kernel, *trees), place, env) for kernel in kernels),
        ]
    return [Phase("dkms", tuple(steps))]


def _dkms_conf(matrix: Matrix, version: int) -> str:
    name = matrix.driver.name
    folder = f"${{dkms_tree}}/{name}/{version}/build"
    return (
        f'PACKAGE_NAME="{name}"\nPACKAGE_VERSION="{version}"\nBUILT_MODULE_NAME[0]="{name}"\n'
        f'DEST_MODULE_LOCATION[0]="/updates/dkms"\nAUTOINSTALL="no"\n'
        # dkms itself puts -j and KERNELRELEASE behind a leading `make`.
        f'MAKE[0]="make {_kbuild(matrix, "${kernelver}", folder)}"\nCLEAN="true"\n'
    )


# --- pkgkmod --------------------------------------------------------------------------------------


def pkgkmod(matrix: Matrix, place: Path) -> list[Phase]:
    """Build everything with pkgkmod, from nothing; then run the same command again."""
    _write(place / "project/pkgkmod.toml", _project(matrix))
    (place / "cache").mkdir()
    command = str(Path(sys.executable).with_name("pkgkmod"))
    step = Step((command, "build"), place / "project", {"XDG_CACHE_HOME": str(place / "cache")})
    return [Phase("pkgkmod", (step,), is_tool=True), Phase("pkgkmod, no change", (step,), is_tool=True)]


def _project(matrix: Matrix) -> str:
    driver = matrix.driver
    revisions = matrix.revisions
    lines = [
        *("[project]", f'name = "{driver.name}"'),
        *("[source]", f'repository = "{driver.repository}"', f'revision = "{next(iter(revisions))}"'),
        f'directories = ["{driver.directory}"]',
    ]
    for distro in ("el9", "debian12"):
        for revision, kernels in revisions.items():
            lines += ["[[target]]", f'distro = "{distro}"', f"kernels = {list(kernels)}"]
            if len(revisions) > 1:
                lines += [f'name = "{distro}-{revision.removeprefix("v")}"', f'revision = "{revision}"']
    return "\n".join(lines) + "\n"


CONTENDERS: dict[str, Contender] = {"floor": floor, "naive": naive, "dkms": dkms, "pkgkmod": pkgkmod}

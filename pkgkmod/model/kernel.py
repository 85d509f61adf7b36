"""Kernels: the release string that `uname -r` prints, and a build tree to compile against."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

# 5.14.0-427.13.1.el9_4.x86_64+rt, 6.4.0-150600.23.47-default, 6.12.117+deb12-cloud-amd64, 7.2.0-rc1-00012-gabc
_RELEASE = re.compile(r"(?P<version>\d+\.\d+(?:\.\d+)*)(?P<local>[A-Za-z0-9._+~-]*)")
_NUMBERS = re.compile(r"\d+|[A-Za-z]+")

# uname -m as it appears at the end of Red Hat's releases.
_MACHINES = ("x86_64", "aarch64", "ppc64le", "s390x", "riscv64", "i686")


@functools.total_ordering
@dataclass(frozen=True)
class KernelRelease:
    """A `uname -r` string of any distribution, ordered by age as far as the string tells."""

    uname_r: str

    def __post_init__(self) -> None:
        if not _RELEASE.fullmatch(self.uname_r) or ".." in self.uname_r:
            raise ValueError(f"not a kernel release: {self.uname_r!r}")

    @property
    def version(self) -> str:
        """Upstream version: `6.1.0` of `6.1.0-56-amd64`."""
        found = _RELEASE.fullmatch(self.uname_r)
        assert found
        return found["version"]

    @property
    def series(self) -> str:
        """First two numbers of the version: `6.1`."""
        return ".".join(self.version.split(".")[:2])

    @property
    def flavour(self) -> str:
        """Kind of kernel: `amd64`, `cloud-amd64`, `default`, `rt`; empty for Red Hat's plain kernel."""
        if self._is_red_hat:
            # 5.14.0-427.el9.x86_64+rt-debug, 5.14.0-427.el9.aarch64+64k
            return self.uname_r.partition("+")[2]
        words = self.uname_r.split("-")
        # 64kb is a flavour, by its pages (SUSE on arm64); rc1 is none.
        letters = [word for word in words[1:] if not re.match(r"\d(?!4kb?$)|rc\d", word) and "deb" not in word]
        return "-".join(letters)

    @property
    def base(self) -> str:
        """The release without the flavour, which all flavours of a build share: `6.4.0-150600.23.47`."""
        return self.uname_r if self._is_red_hat or not self.flavour else self.uname_r.removesuffix(f"-{self.flavour}")

    @property
    def rpm_version(self) -> str:
        """The release as a version that rpm accepts: one dash at most, no `+` changed.

        rpm's own comparison takes all separators for equal, so it still compares as the original
        (rpmvercmp; used by anaconda to match `kernel-modules` with `uname -r`).
        """
        first, dash, rest = self.uname_r.partition("-")
        return first + dash + rest.replace("-", "_")

    @property
    def rpm_suffix(self) -> str:
        """The release as a part of an RPM release: no dash, no machine."""
        return rpm_suffix(self.uname_r)

    @property
    def age(self) -> tuple[tuple[int, int, str], ...]:
        """What orders releases by age; the same for all flavours of one build."""
        return _key(self.uname_r.partition("+")[0] if self._is_red_hat else self.uname_r.removesuffix(self.flavour))

    @property
    def _is_red_hat(self) -> bool:
        return self.uname_r.partition("+")[0].endswith(tuple("." + machine for machine in _MACHINES))

    def __lt__(self, other: KernelRelease) -> bool:
        return (self.age, _key(self.uname_r)) < (other.age, _key(other.uname_r))

    def __str__(self) -> str:
        return self.uname_r


def rpm_suffix(release: str) -> str:
    """Return a kernel's release, or that without its flavour, as a part of an RPM release: no dash, no machine."""
    for machine in _MACHINES:
        release = release.removesuffix("." + machine)
    return re.sub(r"[^A-Za-z0-9.+~]", "_", release)


def _key(text: str) -> tuple[tuple[int, int, str], ...]:
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in _NUMBERS.findall(text))


@dataclass(frozen=True)
class Compiler:
    """A C compiler as a kernel's .config names it: the family (`gcc`, `clang`) and its major version."""

    family: str
    major: int
    text: str

    def __str__(self) -> str:
        return f"{self.family} {self.major}"


@dataclass(frozen=True)
class PackageFile:
    """A package of an archive: what it is called, where it lies, and how it is recognised."""

    name: str
    version: str
    url: str
    """http://, https:// or file://."""
    sha256: str
    size: int
    """Bytes of the package file."""


@dataclass(frozen=True)
class KernelOffer:
    """A kernel that an archive serves as packages, whether they are here already or not."""

    release: KernelRelease
    arch: str
    """Machine name as `uname -m` prints it."""
    source: str
    """Kernel source plugin that found it."""
    packages: tuple[PackageFile, ...]
    """The kernel's own headers package, then those that it needs (common headers, kbuild)."""
    archive: str = ""
    """Where it is from: apt: a line as in sources.list(5); rpm-md: the repository's address."""
    keys: tuple[str, ...] = ()
    """Files of the keys that the packages themselves are signed with (RPM); checked when they are unpacked."""

    @property
    def uname_r(self) -> str:
        """Release string, as `uname -r` prints it."""
        return self.release.uname_r

    @property
    def identity(self) -> str:
        """Digest that stands for the content of all packages."""
        return hashlib.sha256("\n".join(package.sha256 for package in self.packages).encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all package files."""
        return sum(package.size for package in self.packages)


@dataclass(frozen=True)
class Mount:
    """A folder or file of this machine, and the path at which a program in a sandbox sees it."""

    source: Path
    target: Path


def seen_at(path: Path, mounts: tuple[Mount, ...]) -> Path:
    """Return where on this machine lies what a program in a sandbox sees at `path`."""
    return next((m.source / path.relative_to(m.target) for m in mounts if path.is_relative_to(m.target)), path)


@dataclass(frozen=True)
class Kernel:
    """A kernel that modules can be compiled for."""

    release: KernelRelease
    arch: str
    """Machine name as `uname -m` prints it."""
    tree: Path
    """Build tree, at the path it was packaged for: holds Makefile, .config, Module.symvers."""
    source: str
    """Kernel source plugin that found it."""
    identity: str
    """Digest of the build tree's content; empty as long as nobody asked for it (kernels.tree.identified)."""
    compiler: Compiler | None
    """Compiler that built the kernel; None where its .config does not say."""
    also_needs: tuple[Path, ...] = ()
    """Other folders that the build tree's Makefile includes."""
    mounts: tuple[Mount, ...] = ()
    """Where the store keeps the packages' files, and the paths they were packaged for."""
    offer: KernelOffer | None = None
    """The packages that it comes from, if it comes from an archive."""
    root: Path | None = None
    """Folder with the programs of the kernel's suite, seen as `/` when compiling; None: this machine's programs."""

    @property
    def uname_r(self) -> str:
        """Release string, as `uname -r` prints it."""
        return self.release.uname_r

    @property
    def place(self) -> Path:
        """Where the build tree lies on this machine."""
        return seen_at(self.tree, self.mounts)

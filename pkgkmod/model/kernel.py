"""Kernels: the release string that `uname -r` prints, and a build tree to compile against."""

from __future__ import annotations

import functools
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
        base, _, variant = self.uname_r.partition("+")
        if any(base.endswith("." + machine) for machine in _MACHINES):
            # Red Hat: 5.14.0-427.el9.x86_64+rt-debug, 5.14.0-427.el9.aarch64+64k
            return variant
        words = self.uname_r.split("-")
        letters = [word for word in words[1:] if not re.match(r"\d", word) and "deb" not in word]
        return "-".join(letters)

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
        text = self.uname_r
        for machine in _MACHINES:
            text = text.removesuffix("." + machine)
        return re.sub(r"[^A-Za-z0-9.+~]", "_", text)

    def _key(self) -> tuple[tuple[int, int, str], ...]:
        return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in _NUMBERS.findall(self.uname_r))

    def __lt__(self, other: KernelRelease) -> bool:
        return self._key() < other._key()

    def __str__(self) -> str:
        return self.uname_r


@dataclass(frozen=True)
class Compiler:
    """A C compiler as a kernel's .config names it: the family (`gcc`, `clang`) and its major version."""

    family: str
    major: int
    text: str

    def __str__(self) -> str:
        return f"{self.family} {self.major}"


@dataclass(frozen=True)
class Kernel:
    """A kernel that modules can be compiled for."""

    release: KernelRelease
    arch: str
    """Machine name as `uname -m` prints it."""
    tree: Path
    """Build tree: holds Makefile, .config, Module.symvers."""
    source: str
    """Kernel source plugin that found it."""
    identity: str
    """Digest of the build tree's content."""
    compiler: Compiler | None
    """Compiler that built the kernel; None where its .config does not say."""
    also_needs: tuple[Path, ...] = ()
    """Other folders that the build tree's Makefile includes."""

    @property
    def uname_r(self) -> str:
        """Release string, as `uname -r` prints it."""
        return self.release.uname_r

"""Driver disks: the packages that are put on them, where an installer finds them, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pkgkmod.model.distro import Distro


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModuleFacts(_Facts):
    """A kernel module in a package, or bare on a disk."""

    path: str
    """Absolute path in the package; of a bare one, its path on the disk."""
    name: str
    """As the kernel knows it, with underscores."""
    uname_r: str = ""
    """Kernel in whose folder it lies (/lib/modules/UNAME_R); empty for a bare one."""
    vermagic: str = ""
    """Kernel that it was built for, as it says itself."""
    machine: str = ""
    """As `uname -m` says it: x86_64, aarch64; `elf-NUMBER` where that is not known."""
    compression: str = "none"
    """none, gz, xz or zst."""
    aliases: tuple[str, ...] = ()
    depends: tuple[str, ...] = ()
    signed: bool = False
    """Whether a signature is appended, right or wrong."""
    fault: str = ""
    """Why it cannot be read; empty if it can."""

    @property
    def kernel(self) -> str:
        """The kernel that it is for."""
        return self.uname_r or self.vermagic


class Provide(_Facts):
    """A capability that an RPM provides."""

    name: str
    relation: str
    """`=`, `>=`, `<`, ...; empty if there is no version."""
    version: str


class PackageFacts(_Facts):
    """What a package file says about itself, and what modules it has; it depends on the file's content only."""

    format: Literal["rpm", "deb"]
    kind: Literal["binary", "source", "debuginfo"]
    name: str
    version: str
    """[EPOCH:]VERSION-RELEASE."""
    arch: str
    """As the format spells it (x86_64, noarch; amd64, all)."""
    machine: str
    """As `uname -m` says it; empty if it is for all."""
    size: int
    build_time: int
    """Seconds since 1970; 0 if it does not say."""
    summary: str = ""
    payload: str = ""
    """How the files are packed: none, gzip, bzip2, lzma, xz or zstd."""
    control: str = ""
    """Name of the control member (DEB): control.tar.xz."""
    control_path: str = ""
    """Name of the control file in that member (DEB): ./control, as dpkg-deb writes it."""
    provides: tuple[Provide, ...] = ()
    """kernel-modules and installer-enhancement only (RPM)."""
    signed: bool = False
    """Whether the package is signed, right or wrong."""
    modules: tuple[ModuleFacts, ...] = ()
    firmware: tuple[str, ...] = ()
    """Absolute paths of the files below lib/firmware, or usr/lib/firmware (RPM)."""


@dataclass(frozen=True)
class DiskPackage:
    """A package file that is to be put on a disk, or lies on one."""

    path: Path
    facts: PackageFacts
    place: str = ""
    """Its path on the disk, where it lies on one."""

    @property
    def shown(self) -> str:
        """What messages call it."""
        return self.place or self.path.name

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels that its modules are for."""
        return tuple(dict.fromkeys(module.kernel for module in self.facts.modules if module.kernel))


@dataclass(frozen=True)
class DiskRelease:
    """The packages for the installer of one distribution release."""

    distro: Distro
    packages: tuple[DiskPackage, ...]

    @property
    def machines(self) -> tuple[str, ...]:
        """The machines that there are packages for, as `uname -m` says it."""
        found = {package.facts.machine for package in self.packages if package.facts.kind == "binary"}
        return tuple(sorted(found - {""}))

    def of_machine(self, machine: str) -> tuple[DiskPackage, ...]:
        """Return the binary packages for a machine, those for all machines among them."""
        wanted = ("", machine)
        return tuple(p for p in self.packages if p.facts.kind == "binary" and p.facts.machine in wanted)


@dataclass(frozen=True)
class DiskListing:
    """What is on a disk: paths below its root, without a slash in front."""

    files: Collection[str]
    folders: Collection[str]
    links: Mapping[str, str]
    """Symbolic links, with what they point to."""
    read: Callable[[str], bytes]
    """Returns the content of a small file."""


@dataclass(frozen=True)
class FoundTree:
    """A folder of a disk from which an installer takes drivers."""

    layout: str
    place: str
    """The folder that the installer looks for."""
    release: str
    """Name of the distribution as in `data/distros`, or what the disk calls it; empty if that is not to be seen."""
    machine: str
    """As `uname -m` says it; empty if the folder is for all."""
    packages: tuple[str, ...]
    """Paths of the packages on the disk."""
    modules: tuple[str, ...] = ()
    """Paths of bare modules on the disk."""

"""What Debian's installer would not take from a driver disk, and what dpkg would not install in the new system."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pkgkmod.errors import InputError
from pkgkmod.formats.debindex import read_deb_control
from pkgkmod.media.findings import finding
from pkgkmod.model.disk import DiskPackage, DiskRelease
from pkgkmod.model.finding import Finding
from pkgkmod.model.packaging import Disk

FOLDER = "debian-drivers"
"""The installer looks for /media/ID-drivers/CODENAME/*.deb; its own lsb-release says Debian, and no codename."""
DATA_ENDINGS = ("", ".gz", ".xz")
"""How the data archive may be packed: udpkg (1.21) knows these. What is packed in another way gets the last one."""

UDEB = ".udeb"
"""Ending of packages for the installer itself; they are not handed to dpkg."""

LABEL = "OEMDRV"
_READABLE = ("none", "gzip", "xz")
# kmod-udeb (34.2) is built with xz only; kernels unpack modules themselves, but depmod has to read them first.
_MODULES = ("none", "xz")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~-]*")
_RELATION = re.compile(r"[a-z0-9][a-z0-9+.-]+")
# What every system has that the installer made, by the time the packages are installed: packages of priority required
# or important, and what the kernel's images depend on.
_THERE = frozenset(
    (
        *("adduser", "apt", "base-files", "base-passwd", "bash", "coreutils", "cpio", "dash", "debconf"),
        *("debconf-2.0", "debianutils", "dpkg", "findutils", "grep", "gzip", "init", "initramfs-tools"),
        *("init-system-helpers", "kmod", "libc6", "linux-base", "linux-initramfs-tool", "mount", "perl-base"),
        *("passwd", "procps", "sed", "systemd", "systemd-sysv", "tar", "udev", "util-linux"),
    )
)


@dataclass(frozen=True)
class _Needs:
    """What dpkg goes by when it installs a package."""

    provides: frozenset[str]
    """Its name is one of them."""
    depends: tuple[tuple[str, ...], ...]
    """Alternatives of each dependency."""


def file_name(package: DiskPackage) -> str:
    """Return the name that Debian gives the package's file; raise InputError if it says what no package may say.

    A .udeb is for the running installer only.
    """
    facts = package.facts
    # The epoch is left out, as everywhere.
    parts = (facts.name, facts.version.rpartition(":")[2], facts.arch)
    if not all(_PART.fullmatch(part) for part in parts):
        raise InputError(f"{package.shown} has a strange name, version or architecture", hint="build it again")
    return "_".join(parts) + (UDEB if package.path.suffix == UDEB else ".deb")


def _name_on_disk(package: DiskPackage) -> str:
    return PurePosixPath(package.place).name if package.place else file_name(package)


def check_debian(releases: Sequence[DiskRelease], disk: Disk) -> Iterator[Finding]:
    """Yield what is wrong with the disk for Debian's installer."""
    if disk.label != LABEL:
        yield finding(
            "DISK060",
            disk.label,
            f"Debian's installer looks for a disk with the label {LABEL} only",
            f"leave disk.label as it is, {LABEL}",
        )
    packages = [package for release in releases for package in release.packages]
    for package in packages:
        yield from _check_reading(package)
    for release in releases:
        yield from _check_module_root(release)
    yield from _same_file(packages)
    needs = {package: _needs(package) for package in sorted(packages, key=_name_on_disk) if package.path.suffix != UDEB}
    yield from _check_releases(releases, needs)
    yield from _check_installing(needs)


def _check_reading(package: DiskPackage) -> Iterator[Finding]:
    """Yield what the installer cannot read of a package."""
    facts = package.facts
    if package.place:
        yield from _check_place(package)
    elif facts.payload not in _READABLE:
        text = f"the installer does not unpack {facts.payload}: on the disk the package's files are packed with xz"
        yield finding("DISK064", package.shown, text)
    for module in facts.modules:
        if module.compression not in _MODULES:
            yield finding(
                "DISK065",
                f"{package.shown}: {module.path}",
                f"depmod in the installer does not read modules that are packed as .{module.compression}",
                "package it as it is, or with xz: module_compression of the distribution",
            )


def _check_module_root(release: DiskRelease) -> Iterator[Finding]:
    """Yield modules that the installer does not find: up to bookworm /lib is no link to /usr/lib there."""
    root = release.distro.module_root
    for package in release.packages:
        for module in package.facts.modules:
            if module.path.startswith("/usr/lib/modules/") and root == "/lib/modules":
                yield finding(
                    "DISK073",
                    f"{package.shown}: {module.path}",
                    f"the installer of {release.distro.title} looks for modules in {root} only",
                    "build the package for that release",
                )


def _check_place(package: DiskPackage) -> Iterator[Finding]:
    """Yield why the installer skips a package that is on the disk already."""
    facts = package.facts
    if str(PurePosixPath(package.place).parent) != FOLDER:
        yield finding(
            "DISK061", package.shown, f"the installer looks in {FOLDER} only, not in folders below it", "put it there"
        )
    if facts.control != "control.tar.gz" or facts.control_path != "./control":
        yield finding(
            "DISK062",
            package.shown,
            f"the installer reads ./control in control.tar.gz only, this is {facts.control_path} in {facts.control}",
            "pack it anew (`dpkg-deb -Zgzip -b`), or let build_iso make the disk",
        )
    if facts.payload not in _READABLE:
        yield finding(
            "DISK063",
            package.shown,
            f"the installer does not unpack {facts.payload}",
            "pack it anew (`dpkg-deb -Zgzip -b`), or let build_iso make the disk",
        )


def _same_file(packages: Iterable[DiskPackage]) -> Iterator[Finding]:
    """Yield packages whose files would have the same name, and are not the same."""
    known: dict[str, DiskPackage] = {}
    for package in packages:
        if package.place:
            continue
        other = known.setdefault(file_name(package), package)
        if other is not package and _digest(other) != _digest(package):
            yield finding(
                "DISK066",
                package.shown,
                f"{FOLDER} has room for one {file_name(package)}, and there are two: {other.path} and {package.path}",
                "give the versions of each release a suffix of its own (~deb12, ~deb13)",
            )


def _digest(package: DiskPackage) -> str:
    with package.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_releases(releases: Sequence[DiskRelease], needs: Mapping[DiskPackage, _Needs]) -> Iterator[Finding]:
    """Yield what the installers of several releases, or for several kernels, do with each other's packages."""
    bound = _bound_to_kernel(needs)
    files: dict[str, set[str]] = {}
    for package in needs:
        files.setdefault(package.facts.name, set()).add(_name_on_disk(package))
    for release in releases:
        others = [other.distro.title for other in releases if other is not release]
        for package in release.packages:
            name = package.facts.name
            if others and name not in bound and len(files.get(name, ())) == 1:
                yield finding(
                    "DISK067",
                    package.shown,
                    f"it is for {release.distro.title}, and installed by the installer of {' and '.join(others)}, too",
                    "make a disk for each release, or a package that suits all of them",
                )
    for name, ones in sorted(files.items()):
        if len(ones) > 1:
            yield finding(
                "DISK072",
                name,
                f"of {' and '.join(sorted(ones))}, the last one takes the place of the others; if dpkg refuses it, "
                f"none is left",
                "make a disk for each release, with one version of each package",
            )
    kernels = {kernel for package in needs for kernel in package.kernels}
    if len(kernels) > 1:
        yield finding(
            "DISK068",
            FOLDER,
            f"there are modules for {len(kernels)} kernels: all of them are unpacked in the installer; in the new "
            f"system those whose kernel is not there are taken away again, and what depends on them",
        )


def _bound_to_kernel(packages: Mapping[DiskPackage, _Needs]) -> set[str]:
    """Return the names of packages that depend on a kernel, or on such packages: other releases refuse them."""
    bound: set[str] = set()
    while True:
        more = {
            package.facts.name
            for package, needs in packages.items()
            if any(needs_kernel(group) or bound.issuperset(group) for group in needs.depends)
        }
        if more == bound:
            return bound
        bound = more


def _check_installing(packages: Mapping[DiskPackage, _Needs]) -> Iterator[Finding]:
    """Yield what dpkg cannot install: packages are given to it one by one, in the order of their files' names."""
    done: set[str] = set(_THERE)
    every = done.union(*(needs.provides for needs in packages.values()))
    for package, needs in packages.items():
        if package.facts.name.endswith("-dkms") or any("dkms" in group for group in needs.depends):
            yield finding(
                "DISK071",
                package.shown,
                "dkms is not in the new system yet, and the installer has no compiler: the package is taken away again",
                "leave it out, and install it later from a repository (`pkgkmod publish`)",
            )
            continue
        for group in needs.depends:
            if not needs_kernel(group) and not done.intersection(group):
                yield _unmet(package, group, later=bool(every.intersection(group)))
        done |= needs.provides


def _unmet(package: DiskPackage, group: tuple[str, ...], *, later: bool) -> Finding:
    wanted = " | ".join(group)
    if later:
        return finding(
            "DISK070",
            package.shown,
            f"it depends on {wanted}, whose file name comes later: dpkg refuses it, and it is taken away again",
            "change the packages' names, or put them on two disks",
        )
    return finding(
        "DISK069",
        package.shown,
        f"it depends on {wanted}, which is not on the disk; if it is not in the new system by then, the package is "
        f"taken away again",
        "put it on the disk, too",
    )


def needs_kernel(group: tuple[str, ...]) -> bool:
    """Tell whether a dependency is on a kernel."""
    return any(name.startswith("linux-image-") for name in group)


def _needs(package: DiskPackage) -> _Needs:
    """Return what a package depends on; nothing if it cannot be read, which others say."""
    try:
        fields = {name.lower(): value for name, value in read_deb_control(package.path).fields.items()}
    except InputError:
        return _Needs(frozenset((package.facts.name,)), ())
    groups = [
        tuple(_names(group, "|"))
        for field in ("pre-depends", "depends")
        for group in fields.get(field, "").split(",")
        if group.strip()
    ]
    provides = _names(fields.get("provides", ""), ",")
    return _Needs(frozenset((package.facts.name, *provides)), tuple(groups))


def _names(text: str, separator: str) -> Iterator[str]:
    """Yield the packages' names of a list, without versions and machines."""
    return (found[0] for part in text.split(separator) if (found := _RELATION.match(part.strip())))

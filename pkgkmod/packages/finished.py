"""What finished package files say they are, whoever built them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pkgkmod.formats.rpm import RpmHeader, read_header
from pkgkmod.model.artifacts import Package

_SOURCE = (".dsc", ".tar.xz", ".tar.gz", ".tar.bz2", ".tar.zst", ".diff.gz")
_METADATA = (".changes", ".buildinfo")


def describe_rpm(file: Path) -> Package:
    """Return what an RPM says; raise InputError if it is none."""
    header = read_header(file)
    return Package(
        file=file.name,
        name=header.name,
        version=f"{header.version}-{header.release}",
        arch=header.arch,
        kind=_kind(header),
        size=file.stat().st_size,
    )


def _kind(header: RpmHeader) -> Literal["source", "binary", "debuginfo"]:
    if header.arch == "src":
        return "source"
    return "debuginfo" if header.name.endswith("-debuginfo") else "binary"


def describe_deb(file: Path, name: str, version: str) -> Package | None:
    """Return what a DEB says, or a file of the source package NAME VERSION; None for a file of another kind."""
    arch = "source"
    if file.suffix in (".deb", ".ddeb"):  # Ubuntu's debhelper calls packages with debug information so
        from pkgkmod.formats.deb import read_deb  # python-debian takes its time

        control = read_deb(file).control
        name, version, arch = control["Package"], control["Version"], control["Architecture"]
        kind: Literal["source", "binary", "metadata"] = "binary"
    elif file.name.endswith(_SOURCE):
        kind = "source"
    elif file.suffix in _METADATA:
        kind = "metadata"
    else:
        return None
    return Package(file=file.name, name=name, version=version, arch=arch, kind=kind, size=file.stat().st_size)

"""Packages that were built elsewhere, as a farm does, described as those that are built here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pkgkmod.errors import InputError, UsageError
from pkgkmod.formats.deb import read_deb
from pkgkmod.formats.rpm import read_header
from pkgkmod.model.artifacts import Package, PackageFormat
from pkgkmod.reports.shipped import ShippedPackage

_FIELD = re.compile(r"^(Source|Version):[ \t]*(\S{1,200})[ \t]*$", re.MULTILINE)
_LONGEST_DSC = 1 << 20
_ONE_BUILD = "name a folder with the packages of one build"
_SOURCE = (".dsc", ".orig.tar.gz", ".orig.tar.xz", ".debian.tar.gz", ".debian.tar.xz")


def package_files(folder: Path, format: PackageFormat) -> tuple[Path, ...]:
    """Return the files of packages in a folder, and in folders in it; raise UsageError if there are none."""
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", hint="sbom.packages names the folder with the packages")
    endings = (".rpm",) if format == "rpm" else (".deb", ".ddeb", *_SOURCE)
    found = tuple(sorted(path for path in folder.rglob("*") if path.name.endswith(endings) and path.is_file()))
    if not found:
        raise UsageError(f"there is no {format.upper()} package in {folder}")
    names = [path.name for path in found]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise UsageError(f"{twice} is in {folder} twice", hint=_ONE_BUILD)
    return found


def describe(files: Sequence[Path], folder: Path) -> tuple[Package, ...]:
    """Return what the files say of themselves; raise InputError for one that is damaged."""
    name, version = next((_source(path) for path in files if path.suffix == ".dsc"), ("sources", "0"))
    found = tuple(_described(path, folder, name, version) for path in files)
    seen: dict[tuple[str, ...], str] = {}
    for one in found:
        if one.kind != "source" and (other := seen.setdefault((one.name, one.version, one.arch), one.file)) != one.file:
            raise UsageError(f"{other} and {one.file} are the same package", hint=_ONE_BUILD)
    return found


def _source(dsc: Path) -> tuple[str, str]:
    """Return name and version of a Debian source package; the name of its file has no epoch."""
    with dsc.open(encoding="utf-8", errors="replace") as file:
        said = dict(_FIELD.findall(file.read(_LONGEST_DSC)))
    if not {"Source", "Version"} <= set(said):
        raise InputError(f"{dsc} does not say which source package it is of")
    return said["Source"], said["Version"]


def _described(path: Path, folder: Path, source: str, source_version: str) -> Package:
    kind: Literal["source", "binary", "debuginfo"] = "binary"
    if path.suffix == ".rpm":
        header = read_header(path)
        name, version, arch = header.name, f"{header.version}-{header.release}", header.arch
        kind = "source" if arch == "src" else "debuginfo" if name.endswith("-debuginfo") else "binary"
    elif path.name.endswith(_SOURCE):
        name, version, arch, kind = source, source_version, "source", "source"
    else:
        control = read_deb(path).control
        try:
            name, version, arch = control["Package"], control["Version"], control["Architecture"]
        except KeyError as error:
            raise InputError(f"{path} does not say its {error.args[0]}", hint="fetch or build it again") from None
    file = str(path.relative_to(folder))
    return Package(file=file, name=name, version=version, arch=arch, kind=kind, size=path.stat().st_size)


def of_kernels(packages: Iterable[ShippedPackage], kernels: Iterable[str]) -> tuple[ShippedPackage, ...]:
    """Return the packages with modules for some kernels, and those without any; raise UsageError if none has modules.

    Paths are shortened to the names of the files: where they lay tells nothing.
    """
    wanted = set(kernels)
    found = tuple(
        replace(one, file=Path(one.file).name)
        for one in packages
        if not one.modules or wanted.intersection(module.folder for module in one.modules)
    )
    if not any(one.modules for one in found):
        raise UsageError(
            f"none of the packages has modules for {', '.join(sorted(wanted))}",
            hint="the kernels of the project's targets must be those that the packages were built for",
        )
    return found

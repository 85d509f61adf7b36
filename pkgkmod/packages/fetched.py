"""Packages that a farm made, compared with what it was asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pkgkmod.formats import rpmpackage
from pkgkmod.formats.deb import read_deb
from pkgkmod.model.finding import Finding
from pkgkmod.model.verdict import CheckedModule
from pkgkmod.modules.checks.codes import finding

_FOLDER = re.compile(r"/lib/modules/(?P<kernel>[^/]+)/")
_SOURCE = re.compile(r"(?P<name>\S+)(?:\s+\((?P<version>[^)\s]+)\))?")
_BINARY = (".rpm", ".deb", ".ddeb")
_NAMED = 3
"""Kernels that are named in place of one that is missing."""


def compare(
    sent: str, kernels: Sequence[str], files: Iterable[Path], modules: Sequence[CheckedModule]
) -> Iterator[Finding]:
    """Give the kernels without modules, and the packages of other sources.

    `sent` is the file name of the source package, `kernels` those that it is for, and `modules` what is in the files.
    Raise InputError for a package that is damaged.
    """
    made = {kernel for module in modules for kernel in _kernels_of(module)}
    others = sorted(made - set(kernels))
    for kernel in kernels:
        if kernel not in made:
            named = ", ".join(others[:_NAMED]) + (f" and {len(others) - _NAMED} more" if len(others) > _NAMED else "")
            instead = f"; there are some for {named}" if others else ""
            cure = "look at the farm's log for what it was built against"
            yield finding("KMOD080", kernel, f"no package has modules for it{instead}", cure)
    wanted = _known_as(sent)
    for file in files:
        if file.name.endswith(_BINARY) and not _fits(source := _source_of(file), wanted):
            yield finding(
                "KMOD081",
                file.name,
                f"it is of {' '.join(source)}, and {' '.join(wanted)} was sent",
                "fetch again when the farm is done, or submit again",
            )


def _kernels_of(module: CheckedModule) -> set[str]:
    """Return the kernel in whose folder a module lies, and the one that it says it was built for."""
    folder = _FOLDER.search(module.path)
    return {module.kernel, folder["kernel"]} if folder else {module.kernel}


def _known_as(file: str) -> tuple[str, str]:
    """Return name and version in the file name of a source package; of a .dsc with its revision, and no epoch."""
    if file.endswith(".dsc"):
        name, _, version = file.removesuffix(".dsc").partition("_")
        return name, version
    name, version, _ = file.rsplit("-", 2) if file.count("-") > 1 else (file, "", "")
    return name, version


def _source_of(file: Path) -> tuple[str, str]:
    if file.suffix == ".rpm":
        with rpmpackage.explained(file):
            return _known_as(rpmpackage.read_headers(file).source)
    control = read_deb(file).control
    said = _SOURCE.match(control.get("Source", ""))
    version = (said and said["version"]) or control.get("Version", "")
    return (said["name"] if said else control.get("Package", "")), version.rpartition(":")[2]


def _fits(source: tuple[str, str], wanted: tuple[str, str]) -> bool:
    """Tell whether a package is of the sources that were sent; a rebuild of a DEB appends to the version (+b1)."""
    return source[0] == wanted[0] and (source[1] == wanted[1] or source[1].startswith(f"{wanted[1]}+b"))

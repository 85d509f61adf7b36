"""What finished packages bring, byte for byte: their modules and firmware, with digests."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pkgkmod.command import Command, Completed
from pkgkmod.errors import InputError
from pkgkmod.formats import debpackage, rpmpackage
from pkgkmod.formats.debarchive import content_of
from pkgkmod.formats.rpmheader import Tag
from pkgkmod.model.artifacts import Package, PackageFormat
from pkgkmod.modules.kmod_deps import ModuleError, module_name
from pkgkmod.packages.modulefiles import ModuleFile

Run = Callable[[Command], Completed]

_FIRMWARE = ("/lib/firmware/", "/usr/lib/firmware/")
_SIGNED = b"~Module signature appended~\n"  # MODULE_SIG_STRING (include/linux/module_signature.h)


@dataclass(frozen=True)
class ShippedModule:
    """A module in a package, as it is installed: stripped, signed, compressed."""

    path: str
    sha256: str
    size: int
    """Bytes in the package."""
    modinfo: tuple[tuple[str, str], ...] = ()
    """What it says of itself: fields and values, in its order."""
    signed: bool = False
    fault: str = ""
    """Why it cannot be read, if it cannot."""

    @property
    def name(self) -> str:
        """Name as the kernel knows it."""
        return module_name(self.path)

    @property
    def folder(self) -> str:
        """Release of the kernel in whose folder it lies; empty for one that lies elsewhere."""
        return self.path.partition("lib/modules/")[2].partition("/")[0]

    def info(self, key: str) -> tuple[str, ...]:
        """Return the values of a field of modinfo."""
        return tuple(value for name, value in self.modinfo if name == key)


@dataclass(frozen=True)
class ShippedFile:
    """A firmware file in a package."""

    path: str
    sha256: str


@dataclass(frozen=True)
class ShippedPackage:
    """A package file, and what of it becomes a part of somebody's kernel."""

    file: str
    sha256: str
    format: PackageFormat
    name: str
    version: str
    arch: str
    kind: Literal["source", "binary", "debuginfo", "metadata"]
    modules: tuple[ShippedModule, ...] = ()
    firmware: tuple[ShippedFile, ...] = ()
    requires: tuple[str, ...] = ()
    """Names of packages and capabilities that it needs, without versions."""


def read_shipped(
    folder: Path, packages: Sequence[Package], format: PackageFormat, run: Run
) -> tuple[ShippedPackage, ...]:
    """Read package files in a folder, in their order; raise InputError for one that is damaged."""
    # Hashing, decompressing and other programs do not keep the other threads from running.
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    try:
        return tuple(pool.map(lambda package: _shipped(folder, package, format, run), packages))
    finally:
        pool.shutdown(cancel_futures=True)


def _shipped(folder: Path, package: Package, format: PackageFormat, run: Run) -> ShippedPackage:
    path = folder / package.file
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read", details=error.strerror or str(error)) from None
    facts = ShippedPackage(package.file, sha256, format, package.name, package.version, package.arch, package.kind)
    if package.kind != "binary":
        return facts
    return replace(facts, **(_in_rpm(path) if format == "rpm" else _in_deb(path, run)))


def _in_rpm(path: Path) -> dict[str, Any]:
    package = rpmpackage.read_headers(path)
    rpmpackage.check_digests(package)
    with rpmpackage.explained(path):
        digests = package.header.texts(Tag.FILEDIGESTS) if Tag.FILEDIGESTS in package.header else []
        known = dict(zip(package.paths, digests, strict=False)) if package.file_digest == "sha256" else {}
        # Folders and links have no digest.
        firmware = [ShippedFile(name, known[name]) for name in sorted(known) if _is_firmware(name) and known[name]]
        return {
            "modules": _modules(path, rpmpackage.module_contents(package)),
            "firmware": tuple(firmware),
            "requires": tuple(package.header.texts(Tag.REQUIRENAME) if Tag.REQUIRENAME in package.header else ()),
        }


def _in_deb(path: Path, run: Run) -> dict[str, Any]:
    with debpackage.open_package(path, run) as package:
        firmware = {}
        with package.data.open("rb") as data:
            for place, names in package.files.names.items():
                for name in filter(_is_firmware, names):
                    content = content_of(data, package.files.entries[place])
                    firmware[name] = hashlib.sha256(content).hexdigest()
        fields = debpackage.read_control(package)[0].fields
        needs = re.split(r"[,|]", ",".join(fields.get(name, "") for name in ("Pre-Depends", "Depends")))
        return {
            "modules": _modules(path, debpackage.module_contents(package)),
            "firmware": tuple(ShippedFile(name, firmware[name]) for name in sorted(firmware)),
            "requires": tuple(words[0] for text in needs if (words := text.split())),
        }


def _is_firmware(path: str) -> bool:
    return path.startswith(_FIRMWARE)


def _modules(package: Path, contents: Iterator[tuple[tuple[str, ...], bytes]]) -> tuple[ShippedModule, ...]:
    found = [_module(ModuleFile(name, content, package)) for names, content in contents for name in names]
    return tuple(sorted(found, key=lambda module: module.path))


def _module(file: ModuleFile) -> ShippedModule:
    facts = (file.path, hashlib.sha256(file.content).hexdigest(), len(file.content))
    try:
        return ShippedModule(*facts, file.module.modinfo, signed=file.plain.endswith(_SIGNED))
    except ModuleError as error:
        return ShippedModule(*facts, fault=error.reason)

"""Packages and modules opened to be checked: what is in each module, and which firmware is packaged with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.formats import debpackage, rpmpackage
from pkgkmod.modules.checks.compressed import compression_of
from pkgkmod.modules.checks.inside import look_inside
from pkgkmod.modules.checks.opened import Opened, Signature
from pkgkmod.modules.kmod_deps import Module, ModuleError
from pkgkmod.packages.modulefiles import ModuleFile, Run, module_files

_FIRMWARE = re.compile(r"^(?:/usr)?/lib/firmware/(?:updates/)?(?P<name>.+)")


@dataclass(frozen=True)
class OpenedFiles:
    """The modules of some files."""

    modules: tuple[Opened, ...]
    broken: dict[str, str]
    """Why a module cannot be read, by what findings call it."""
    firmware: frozenset[str] | None
    """Firmware that is packaged with them, below /lib/firmware; None if no package was looked at."""


def open_modules(files: Sequence[Path], run: Run, signature: Callable[[bytes], Signature]) -> OpenedFiles:
    """Read all modules of packages, and bare ones; `signature` is given the plain bytes of each.

    Raise InputError for a package that is damaged; a module that is, is told of.
    """
    modules: list[Opened] = []
    broken: dict[str, str] = {}
    for file in module_files(files, run):
        try:
            modules.append(_opened(file, signature))
        except ModuleError as error:
            broken[file.shown] = error.reason
    wanted = any(module.module.info("firmware") for module in modules)
    return OpenedFiles(tuple(modules), broken, _firmware(files, run) if wanted else None)


def read_providers(files: Sequence[Path], run: Run) -> dict[str, tuple[Module, ...]]:
    """Return the modules of other drivers by the kernel that they are for; those that cannot be read are left out."""
    found: dict[str, tuple[Module, ...]] = {}
    for file in module_files(files, run):
        try:
            module = file.module
        except ModuleError:
            continue
        found[module.release] = (*found.get(module.release, ()), module)
    return found


def _opened(file: ModuleFile, signature: Callable[[bytes], Signature]) -> Opened:
    return Opened(
        path=file.path,
        package=file.package.name if file.package else "",
        size=len(file.content),
        module=file.module,
        inside=look_inside(file.plain, file.module),
        compression=compression_of(file.content),
        signature=signature(file.plain),
    )


def _firmware(files: Sequence[Path], run: Run) -> frozenset[str] | None:
    """Return the names of firmware files in packages."""
    paths: list[str] = []
    packages = [file for file in files if file.suffix == ".rpm" or file.suffix in debpackage.ENDINGS]
    for file in packages:
        if file.suffix == ".rpm":
            with rpmpackage.explained(file):
                paths += rpmpackage.read_headers(file).paths
        else:
            with debpackage.open_package(file, run) as opened:
                paths += [name for names in opened.files.names.values() for name in names]
    return frozenset(found["name"] for path in paths if (found := _FIRMWARE.match(path))) if packages else None

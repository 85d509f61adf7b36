"""The modules that are in packages, folders and files, one after the other, as whoever installs them gets them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pkgkmod.command import Command, Completed
from pkgkmod.errors import InputError
from pkgkmod.formats import debpackage, rpmpackage
from pkgkmod.modules.kmod_deps import Module, ModuleError, module_name, parse_module, unpacked
from pkgkmod.programs import find_tool

Run = Callable[[Command], Completed]

_MODULE = re.compile(r"\.ko(\.gz|\.xz|\.zst)?$")
_LARGEST = 2048 * 1024 * 1024  # bytes of a file: a module with its debug information
_ZSTD = b"\x28\xb5\x2f\xfd"
_PACKAGES = (".rpm", *debpackage.ENDINGS)


@dataclass(frozen=True)
class ModuleFile:
    """A module as it lies in a package or on this machine; it may be damaged, or not be a module at all."""

    path: str
    """In a package: where it is installed, from the root on. Otherwise the file."""
    content: bytes
    """As it is, so possibly compressed."""
    package: Path | None = None

    @property
    def name(self) -> str:
        """Name as the kernel knows it."""
        return module_name(self.path)

    @property
    def shown(self) -> str:
        """What to call it in messages: `PACKAGE: PATH`, or the file."""
        return f"{self.package.name}: {self.path}" if self.package else self.path

    @cached_property
    def plain(self) -> bytes:
        """The content, decompressed; raise ModuleError if it is damaged."""
        return plain_bytes(self.content, self.path)

    @cached_property
    def module(self) -> Module:
        """What the module says about itself; raise ModuleError if it cannot be read."""
        return parse_module(self.plain, self.path)


def find_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the packages and modules among `paths`, and in folders among them, in their order.

    Raise InputError for what is neither, and if there are none.
    """
    hint = "give packages (.rpm, .deb), modules (.ko, .ko.xz, ...), or folders that hold some"
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if _is_wanted(one) and one.is_file())
            if not inside:
                raise InputError(f"there is no package and no module in {path}", hint=hint)
        elif not path.exists():
            raise InputError(f"{path} is not there", hint=hint)
        elif not _is_wanted(path) or not path.is_file():
            raise InputError(f"{path} is neither a package nor a module", hint=hint)
        else:
            inside = [path]
        for one in inside:
            found.setdefault(one.resolve(), one)
    if not found:
        raise InputError("there is no package and no module", hint=hint)
    return tuple(found.values())


def _is_wanted(path: Path) -> bool:
    return path.suffix in _PACKAGES or bool(_MODULE.search(path.name))


def module_files(files: Sequence[Path], run: Run) -> Iterator[ModuleFile]:
    """Yield the modules of packages and bare ones, in their order; source packages have none.

    Raise InputError for a package that is damaged, and for a file that cannot be read. What a module's bytes are is
    not looked at here.
    """
    for file in files:
        if file.suffix == ".rpm":
            package = rpmpackage.read_headers(file)
            rpmpackage.check_digests(package)
            if not package.is_source:
                yield from _of(file, rpmpackage.module_contents(package))
        elif file.suffix in debpackage.ENDINGS:
            with debpackage.open_package(file, run) as opened:
                yield from _of(file, debpackage.module_contents(opened))
        else:
            yield ModuleFile(str(file), _bytes(file))


def plain_bytes(content: bytes, path: str) -> bytes:
    """Return a module's bytes without compression; raise ModuleError if they are damaged. `path` is its name."""
    if not content.startswith(_ZSTD):
        return unpacked(content, path)
    find_tool("zstd", needed_for="compressed modules")
    with tempfile.NamedTemporaryFile(prefix="pkgkmod-") as file:
        file.write(content)
        file.flush()
        try:
            return unpacked(content, file.name)
        except ModuleError as error:
            raise ModuleError(path, error.reason) from None


def _of(package: Path, contents: Iterator[tuple[tuple[str, ...], bytes]]) -> Iterator[ModuleFile]:
    for names, content in contents:
        for name in names:
            yield ModuleFile(name, content, package)


def _bytes(file: Path) -> bytes:
    try:
        if file.stat().st_size > _LARGEST:
            raise InputError(f"{file} is too large for a module")
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read", details=error.strerror or str(error)) from None

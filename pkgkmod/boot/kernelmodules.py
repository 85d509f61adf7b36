"""Which of the kernel's own modules are needed beside ours: all of them would not fit into a small machine's memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pkgkmod.errors import InputError
from pkgkmod.modules.kmod_deps import Export, Module, ModuleError, module_name, parse_module
from pkgkmod.packages.modulefiles import plain_bytes

_MODULE = re.compile(r"\.ko(\.gz|\.xz|\.zst)?$")
# What modules ask for by another name while they run (request_module), by the beginning of a symbol that they use:
# the kernel's crypto/api.c and fs/nls/nls_base.c.
_ASKED = {"crypto_": "kernel/crypto", "load_nls": "kernel/fs/nls"}
_SOFT = re.compile(r"(?:pre|post):")


class KernelModules:
    """The modules of a kernel, by name, as its packages bring them."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._files: dict[str, tuple[str, Path]] = {}
        for folder in folders:
            for path in sorted(folder.glob("kernel/**/*")):
                if _MODULE.search(path.name) and path.is_file():
                    self._files.setdefault(module_name(path.name), (str(path.relative_to(folder)), path))

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def chosen(
        self, ours: Iterable[Module], exports: Mapping[str, Export] | None, also: Iterable[str] = ()
    ) -> tuple[tuple[str, Path], ...]:
        """Return path below the kernel's folder and file of each module that ours need, override, or may ask for.

        `also` names others. What ours need is found by the symbols that the kernel's `exports` name, and by what they
        say themselves.
        """
        wanted: dict[str, None] = {}
        folders: set[str] = set()
        waiting = list(also)
        for module in ours:
            waiting += [module.name, *_said(module), *_by_symbols(module, exports or {})]
            folders |= _asked(module)
        while waiting:
            name = waiting.pop()
            if name in self._files and name not in wanted:
                wanted[name] = None
                if own := self._module(name):
                    waiting += _said(own)
                    folders |= _asked(own)
            if not waiting:
                waiting = [name for name, (path, _) in self._files.items() if _is_in(path, folders)]
                waiting = [name for name in waiting if name not in wanted]
        return tuple(sorted(self._files[name] for name in wanted))

    def _module(self, name: str) -> Module | None:
        path = self._files[name][1]
        try:
            return parse_module(plain_bytes(path.read_bytes(), path.name), path.name)
        except (ModuleError, InputError, OSError):
            return None  # it goes along as it is


def _said(module: Module) -> Iterator[str]:
    """Yield the names that a module names itself: those it needs, and those it had better have."""
    for text in module.info("depends"):
        yield from (name.replace("-", "_") for name in text.split(",") if name)
    for text in module.info("softdep"):
        yield from (word.replace("-", "_") for word in text.split() if not _SOFT.fullmatch(word))


def _by_symbols(module: Module, exports: Mapping[str, Export]) -> Iterator[str]:
    for symbol in module.imports:
        if (export := exports.get(symbol)) and export.module != "vmlinux":
            yield module_name(export.module)


def _asked(module: Module) -> set[str]:
    return {folder for begin, folder in _ASKED.items() if any(symbol.startswith(begin) for symbol in module.imports)}


def _is_in(path: str, folders: set[str]) -> bool:
    return any(path.startswith(f"{folder}/") for folder in folders)

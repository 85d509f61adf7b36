"""The modules that come with a kernel: by its Module.symvers, its .config, and the lists that are installed with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pkgkmod.modules.kernelside import KernelSide
from pkgkmod.modules.kmod_deps import module_name

_LISTS = ("modules.order", "modules.builtin", "modules.alias")
_LIMIT = 16 << 20  # bytes of such a list


@dataclass(frozen=True)
class OwnModules:
    """Names as the kernel has them."""

    modules: frozenset[str]
    builtin: frozenset[str] = frozenset()
    """Those that were built in."""
    aliases: tuple[str, ...] = ()
    """Other names that modprobe finds them by, as patterns."""
    complete: bool = False
    """Whether all are known: otherwise those that export symbols, and those that are called like their option."""

    def has(self, name: str) -> bool:
        """Tell whether modprobe finds something by a name."""
        known = name in self.modules or name in self.builtin
        return known or any(fnmatchcase(name, pattern) for pattern in self.aliases)


def own_modules(side: KernelSide, names: Iterable[str], root: Path = Path("/lib/modules")) -> OwnModules:
    """Return a kernel's own modules; `names` are those that are asked for, `root` has the installed kernels."""
    exporting = {module_name(name) for name in side.exporters}
    order, builtin, alias = (_lines(root / side.uname_r / name) for name in _LISTS)
    if order:
        return OwnModules(
            modules=frozenset(module_name(line) for line in order) | exporting,
            builtin=frozenset(module_name(line) for line in builtin),
            aliases=tuple(_patterns(alias)),
            complete=True,
        )
    # Most drivers are called like their option: CONFIG_E1000E. Whether one has another is not known here.
    options = side.options or {}
    states = {name: options.get(name.upper(), "") for name in names}
    return OwnModules(
        modules=frozenset(name for name, state in states.items() if state == "m") | exporting,
        builtin=frozenset(name for name, state in states.items() if state == "y"),
    )


def own_modules_stamp(uname_r: str, root: Path = Path("/lib/modules")) -> list[str]:
    """Return what changes when the lists of an installed kernel do, for fingerprints; no text where there are none."""
    found = []
    for name in _LISTS:
        try:
            status = (root / uname_r / name).stat()
        except OSError:
            continue
        found.append(f"{name}:{status.st_size}:{status.st_mtime_ns}")
    return found


def _lines(file: Path) -> list[str]:
    try:
        if file.stat().st_size > _LIMIT:
            return []
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _patterns(lines: Iterable[str]) -> Iterator[str]:
    """Yield the aliases that are names, not devices: `alias crypto-crc32c crc32c_generic`."""
    for line in lines:
        if ":" in line:  # most are devices, and no module's name has one
            continue
        words = line.split()
        if len(words) == 3:
            yield words[1].replace("-", "_")

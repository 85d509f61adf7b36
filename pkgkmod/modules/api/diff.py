"""What changes between two kernels for modules: the exported symbols, one by one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from pkgkmod.model.kernel import KernelRelease
from pkgkmod.modules.kernelside import KernelSide
from pkgkmod.modules.kmod_deps import Export

ChangeKind = Literal["gone", "gpl", "namespace", "reserved", "crc", "moved", "not gpl", "not reserved", "new"]
"""Of a symbol: nobody exports it now; now for modules under the GPL alone; in another namespace, or in one at all; for
certain modules alone; with another CRC; by another module, or by the kernel itself; for all licences again; for all
modules again; not there before."""

WORSE: tuple[ChangeKind, ...] = ("gone", "gpl", "namespace", "reserved", "crc")
"""What can break a module; a new place is found by modprobe."""

_RESERVED = "module:"


@dataclass(frozen=True)
class SymbolChange:
    """An exported symbol that is not the same in two kernels."""

    symbol: str
    kinds: tuple[ChangeKind, ...]
    """In the order of ChangeKind; never empty."""
    old: Export | None
    new: Export | None

    @property
    def worse(self) -> bool:
        """Whether a module that uses it has to be built again, or changed."""
        return any(kind in WORSE for kind in self.kinds)


@dataclass(frozen=True)
class Risk:
    """A symbol that often changes."""

    symbol: str
    changes: int
    """Between how many pairs of neighbouring kernels it changed."""
    between: tuple[tuple[str, str], ...]
    """These pairs, older kernel first, as `uname -r` prints them."""


def export_changes(old: KernelSide, new: KernelSide, only: Collection[str] | None = None) -> tuple[SymbolChange, ...]:
    """Return what became of the exported symbols, or of those in `only`, by name.

    CRCs are compared where both kernels have them.
    """
    names: Iterable[str] = only if only is not None else {*old.exports, *new.exports}
    crcs = old.has_crcs and new.has_crcs
    found = []
    for name in sorted(names):
        before, after = old.exports.get(name), new.exports.get(name)
        if kinds := _kinds(before, after, crcs=crcs):
            found.append(SymbolChange(name, kinds, before, after))
    return tuple(found)


def _kinds(old: Export | None, new: Export | None, *, crcs: bool) -> tuple[ChangeKind, ...]:
    if old is None:
        return ("new",) if new else ()
    if new is None:
        return ("gone",)
    kinds: list[ChangeKind] = []
    was_gpl, is_gpl = "_GPL" in old.kind, "_GPL" in new.kind
    was_reserved, is_reserved = (export.namespace.startswith(_RESERVED) for export in (old, new))
    if is_gpl and not was_gpl:
        kinds.append("gpl")
    if old.namespace != new.namespace and not is_reserved and not was_reserved and new.namespace:
        kinds.append("namespace")
    if is_reserved and old.namespace != new.namespace:
        kinds.append("reserved")
    if crcs and old.crc != new.crc:
        kinds.append("crc")
    if old.module != new.module:
        kinds.append("moved")
    if was_gpl and not is_gpl:
        kinds.append("not gpl")
    if (was_reserved and not is_reserved) or (old.namespace and not new.namespace):
        kinds.append("not reserved")
    return tuple(kinds)


def risky_symbols(used: Collection[str], sides: Sequence[KernelSide]) -> tuple[Risk, ...]:
    """Return those of the symbols `used` that change between kernels, the most changeful first.

    Neighbours are kernels of one machine and flavour, by age. A change is another CRC, licence or namespace, and that
    the symbol came or went.
    """
    families: dict[tuple[str, str], list[KernelSide]] = defaultdict(list)
    for side in sides:
        families[side.arch, KernelRelease(side.uname_r).flavour].append(side)
    between: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for _, family in sorted(families.items()):
        for old, new in pairwise(sorted(family, key=lambda side: KernelRelease(side.uname_r))):
            for change in export_changes(old, new, used):
                if change.kinds != ("moved",):
                    between[change.symbol].append((old.uname_r, new.uname_r))
    risks = (Risk(symbol, len(pairs), tuple(pairs)) for symbol, pairs in between.items())
    return tuple(sorted(risks, key=lambda risk: (-risk.changes, risk.symbol)))

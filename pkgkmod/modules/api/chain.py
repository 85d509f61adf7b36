"""Why a symbol's CRC changed although it is declared as before: the types that it reaches, and which of them changed.

genksyms puts into a CRC all that is declared of the types that a declaration names, through pointers, too
(scripts/genksyms/genksyms.c). It sees what was included where the symbol is exported; headers alone tell most of that.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pkgkmod.modules.api.declarations import Declaration
from pkgkmod.modules.api.headerindex import HeaderIndex
from pkgkmod.modules.api.signatures import declared_signature, members, tags, words

_DEEPEST = 8
"""Types from the declaration to the one that changed."""
_MOST = 3_000
"""Types that are looked at for one symbol."""
_SHOWN = 3
"""Changed types of one depth that are named."""


@dataclass(frozen=True)
class Chain:
    """A type that changed, and how a declaration comes to it."""

    path: tuple[str, ...]
    """`struct NAME`, or the name of a typedef: first the one that the declaration names, last the one that changed."""
    old: Declaration
    new: Declaration | None
    """None: the type is gone."""

    @property
    def members(self) -> tuple[tuple[str, str], ...]:
        """What changed in it: each member as it was declared and as it is, empty where there is none."""
        before, after = members(self.old.text), members(self.new.text) if self.new else {}
        pairs = ((before.get(name), after.get(name)) for name in dict.fromkeys((*before, *after)))
        return tuple(
            (old.text if old else "", new.text if new else "")
            for old, new in pairs
            if not (old and new) or old.signature != new.signature
        )


class ChainFinder:
    """Finds the nearest types that changed between the headers of two kernels; remembers what it saw."""

    def __init__(self, old: HeaderIndex, new: HeaderIndex, *, seconds: float) -> None:
        """After `seconds`, nothing more is found."""
        self._old = old
        self._new = new
        self._until = time.monotonic() + seconds
        self._changes: dict[str, tuple[Declaration, Declaration | None] | None] = {}
        self._reached: dict[str, tuple[str, ...]] = {}

    @property
    def out_of_time(self) -> bool:
        """Whether it stopped looking."""
        return time.monotonic() > self._until

    def find(self, declared: Sequence[Declaration]) -> tuple[Chain, ...]:
        """Return the nearest changed types that declarations reach; none if there is none, or it was not found."""
        level: list[tuple[str, ...]] = [(tag,) for one in declared for tag in self._types_in(one.text)]
        seen = {path[-1] for path in level}
        for _ in range(_DEEPEST):
            if not level or len(seen) > _MOST or self.out_of_time:
                return ()
            if found := [chain for path in level if (chain := self._chain(path))]:
                return tuple(found[:_SHOWN])
            deeper: list[tuple[str, ...]] = []
            for path in level:
                for tag in self._from(path[-1]):
                    if tag not in seen:
                        seen.add(tag)
                        deeper.append((*path, tag))
            level = deeper
        return ()

    def _chain(self, path: tuple[str, ...]) -> Chain | None:
        tag = path[-1]
        if tag not in self._changes:
            self._changes[tag] = self._change(tag)
        change = self._changes[tag]
        return Chain(path, *change) if change else None

    def _change(self, tag: str) -> tuple[Declaration, Declaration | None] | None:
        before, after = self._old.find_tagged(tag), self._new.find_tagged(tag)
        if not before:
            return None
        if not after:
            # A typedef may have become a macro; a struct that is gone was seen where it was used.
            return (before[0], None) if " " in tag else None
        texts = {one.text for one in after}
        if any(one.text in texts for one in before):
            return None
        signatures = {declared_signature(one) for one in after}
        if any(declared_signature(one) in signatures for one in before):
            return None
        return before[0], after[0]

    def _from(self, tag: str) -> tuple[str, ...]:
        """Return the types that the definition of a type names."""
        if tag not in self._reached:
            found = [inner for one in self._old.find_tagged(tag)[:1] for inner in self._types_in(one.text)]
            self._reached[tag] = tuple(dict.fromkeys(found))
        return self._reached[tag]

    def _types_in(self, text: str) -> tuple[str, ...]:
        named = tags(text)
        without = {tag.partition(" ")[2] for tag in named}
        # Names of types end in _t, or are as short as u32; asking for each word would take long.
        aliases = (word for word in words(text) if word.endswith("_t") and word not in without)
        return (*named, *aliases)

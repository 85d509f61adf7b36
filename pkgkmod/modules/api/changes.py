"""What of a kernel's interface changes for a driver, or at all: symbols, macros, types, members, headers."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pkgkmod.data.kernelchanges import known_change
from pkgkmod.modules.api.chain import Chain, ChainFinder
from pkgkmod.modules.api.declarations import Declaration, Kind
from pkgkmod.modules.api.diff import SymbolChange, export_changes
from pkgkmod.modules.api.fit import all_fit, given_functions, misfit_counts, misfits, takes
from pkgkmod.modules.api.headerindex import HeaderIndex
from pkgkmod.modules.api.includes import lost_headers
from pkgkmod.modules.api.signatures import Member, arity, declared_signature, is_compatible, signature
from pkgkmod.modules.api.use import Place, SourceUses, Use, all_members, find_members
from pkgkmod.modules.kernelside import KernelSide

What = Literal["symbol", "function", "macro", "variable", "type", "enumerator", "member", "header"]
Section = Literal["gone", "changed", "include", "misfit", "restricted", "rebuild", "moved", "new"]
"""It is not there any more; it is declared otherwise; its header has to be included now, since no other one does; it is
used in another way than either kernel declares it; it is for other modules; the same source works, when it is built
again; another module has it; it is new, or for more modules than before."""

WORSE: tuple[Section, ...] = ("gone", "changed", "include", "misfit", "restricted", "rebuild")

# struct HASH_ALG_COMMON; as a member: a macro has the members.
_MACRO_MEMBERS = re.compile(r"[{};] ?(?:(?:struct|union) )?[A-Z][A-Z0-9_]{3,}(?:\([^()]*\))?;")
_CALLED: tuple[Kind, ...] = ("function", "inline", "macro")
_ORDER: tuple[Section, ...] = (*WORSE, "moved", "new")
_SHOWN_FIRST: Mapping[Kind, int] = {"function": 0, "variable": 1, "inline": 2, "macro": 3}


@dataclass(frozen=True)
class ApiChange:
    """One thing that changes."""

    section: Section
    what: What
    name: str
    """For a member `struct NAME.MEMBER`; for a header its path, as it is included."""
    old: Declaration | None = None
    new: Declaration | None = None
    symbol: SymbolChange | None = None
    """What happened to the exported symbol of that name, if it changed."""
    chains: tuple[Chain, ...] = ()
    """For `rebuild`: the types that changed."""
    known: str = ""
    """What is known about the change, in words."""
    note: str = ""
    """What else is to be said."""
    names: tuple[str, ...] = ()
    """For `include`: what of the header is used."""
    places: tuple[Place, ...] = ()
    """The lines of the sources that use it."""
    modules: tuple[str, ...] = ()
    """The finished modules that use it."""

    @property
    def worse(self) -> bool:
        """Whether something has to be done for a driver that uses it."""
        return self.section in WORSE


@dataclass(frozen=True)
class Pair:
    """Two kernels, with their headers where they have some."""

    old: KernelSide
    new: KernelSide
    old_headers: HeaderIndex
    new_headers: HeaderIndex


@dataclass(frozen=True)
class Used:
    """What a driver uses."""

    symbols: Mapping[str, tuple[str, ...]]
    """Those that finished modules import, with the modules."""
    sources: SourceUses = field(default_factory=SourceUses)


def changes_for(pair: Pair, used: Used, *, seconds: float = 5.0) -> tuple[ApiChange, ...]:
    """Return what changes of what a driver uses; `seconds` is the time for looking through types."""
    uses = used.sources.uses
    places: dict[str, list[Place]] = {}
    for use, where in uses.items():
        if use.kind in ("name", "type"):
            places.setdefault(use.name, []).extend(where)
    symbols = {*used.symbols, *(name for name in places if name in pair.old.exports)}
    finder = ChainFinder(pair.old_headers, pair.new_headers, seconds=seconds)
    found = [_symbol_change(change, pair, finder) for change in export_changes(pair.old, pair.new, symbols)]
    said = {change.name for change in found}
    for name in places:
        if name not in said and (change := _name_change(name, pair)):
            found.append(change)
    found = [fitted for change in found if (fitted := _fitted(change, used.sources, pair))]
    found += _misfit_calls(
        used.sources, pair, {change.name for change in found if change.section in ("gone", "changed")}
    )
    found += _member_changes(uses, used.sources, pair)
    found += _header_changes(uses, pair)
    found += _include_changes(uses, used.sources, pair, {change.name for change in found if change.section == "gone"})
    return _in_order(_with_uses(change, used, places) for change in found)


def all_changes(pair: Pair) -> tuple[ApiChange, ...]:
    """Return what changes of the exported symbols; types are not looked through."""
    return _in_order(_symbol_change(change, pair, None) for change in export_changes(pair.old, pair.new))


def _with_uses(change: ApiChange, used: Used, places: Mapping[str, Sequence[Place]]) -> ApiChange:
    where = change.places or tuple(sorted(set(places.get(change.name, ()))))
    return replace(change, places=where, modules=used.symbols.get(change.name, ()))


def _in_order(changes: Iterable[ApiChange]) -> tuple[ApiChange, ...]:
    return tuple(sorted(changes, key=lambda one: (_ORDER.index(one.section), one.what == "symbol", one.name)))


# --- symbols, functions and macros ------------------------------------------------------------------


def _symbol_change(change: SymbolChange, pair: Pair, finder: ChainFinder | None) -> ApiChange:
    name = change.symbol
    before, after = pair.old_headers.find(name), pair.new_headers.find(name)
    old, new = _pair_of(before, after)
    made = ApiChange("moved", "symbol", name, old, new, change)
    if "gone" in change.kinds:
        # What was exported may be an inline function or a macro now: then only finished modules miss it.
        is_same = bool(after) and not _differ(before, after)
        section: Section = "rebuild" if is_same else "changed" if after else "gone"
        return replace(made, section=section, known=_known(name, "gone"))
    if before and after and _differ(before, after):
        return replace(made, section="changed", known=_known(name, "changed"))
    if any(kind in ("gpl", "namespace", "reserved") for kind in change.kinds):
        return replace(made, section="restricted")
    if "crc" in change.kinds:
        declared = [one for one in before if one.kind in ("function", "variable", "inline")]
        return replace(made, section="rebuild", chains=finder.find(declared) if finder else ())
    return replace(made, section="moved" if "moved" in change.kinds else "new")


def _name_change(name: str, pair: Pair) -> ApiChange | None:
    """Return what became of something that headers declare and no kernel exports."""
    before = pair.old_headers.find(name)
    if not before or name.startswith("CONFIG_"):
        return None
    after = pair.new_headers.find(name)
    old, new = _pair_of(before, after)
    assert old
    what = _what(before)
    if not after:
        if name in pair.new.exports or (what == "type" and pair.new_headers.mentions(f"{old.kind} {name} ")):
            return None  # a struct may be known by its name alone
        return ApiChange("gone", what, name, old, None, known=_known(name, "gone"))
    differs = _typedefs_differ(before, after) if what == "type" else what != "enumerator" and _differ(before, after)
    if differs:
        return ApiChange("changed", what, name, old, new, known=_known(name, "changed"))
    return None


def _typedefs_differ(before: Sequence[Declaration], after: Sequence[Declaration]) -> bool:
    """Tell whether a type is another one now; members of structs are looked at one by one."""
    old, new = ({signature(one.text) for one in some if one.kind == "typedef"} for some in (before, after))
    return bool(old and new) and not old & new and not any("{" in text for text in (*old, *new))


def _what(found: Sequence[Declaration]) -> What:
    kinds = {one.kind for one in found}
    if kinds & {"function", "inline"}:
        return "function"
    if kinds & {"struct", "union", "enum", "typedef"}:
        return "type"
    return "macro" if "macro" in kinds else "enumerator" if "enumerator" in kinds else "variable"


def _differ(before: Sequence[Declaration], after: Sequence[Declaration]) -> bool:
    """Tell whether no way in which something is declared is left: options and machines have several."""
    before, after = _values(before), _values(after)
    if not before or not after:
        return False
    if {one.text for one in before} & {one.text for one in after}:
        return False
    if any(one.kind == "macro" for one in (*before, *after)):
        return _arities_differ(before, after)
    new = [declared_signature(one) for one in after]
    return not any(is_compatible(declared_signature(old), one) for old in before for one in new)


def _values(found: Sequence[Declaration]) -> list[Declaration]:
    return [one for one in found if one.kind in _CALLED or one.kind == "variable"]


def _arities_differ(before: Sequence[Declaration], after: Sequence[Declaration]) -> bool:
    """Tell whether calls have another number of arguments; what a macro makes of them is not known."""
    old, new = {arity(one) for one in before}, {arity(one) for one in after}
    return None not in old and None not in new and not old & new


def _pair_of(before: Sequence[Declaration], after: Sequence[Declaration]) -> tuple[Declaration | None, ...]:
    """Return the declarations to show beside each other: of the same kind if there are such."""
    old, new = (sorted(some, key=lambda one: _SHOWN_FIRST.get(one.kind, 9)) for some in (before, after))
    for one in old:
        if other := next((two for two in new if two.kind == one.kind), None):
            return one, other
    return (old[0] if old else None), (new[0] if new else None)


def _fitted(change: ApiChange, sources: SourceUses, pair: Pair) -> ApiChange | None:
    """Return a change as it concerns calls: not at all if only their number of arguments changed, and they know it."""
    if (
        change.section != "changed"
        or change.name not in sources.calls
        or misfit_counts(change.name, sources, pair.new_headers)
    ):
        return change
    if set(takes(change.name, pair.old_headers)) & set(takes(change.name, pair.new_headers)):
        return change
    # Calls have as many arguments as the newer kernel takes, and the older one does not.
    if change.symbol and "crc" in change.symbol.kinds:
        return replace(change, section="rebuild", known="")
    return None


def _misfit_calls(sources: SourceUses, pair: Pair, said: Collection[str]) -> list[ApiChange]:
    """Return what is called with a number of arguments that neither kernel takes."""
    found = []
    for name in sources.calls:
        counts = misfit_counts(name, sources, pair.new_headers) if name not in said else ()
        if not counts:
            continue
        old, new = _pair_of(pair.old_headers.find(name), pair.new_headers.find(name))
        takes_now = " or ".join(str(number) for number in takes(name, pair.new_headers))
        note = f"called with {' and '.join(map(str, counts))} arguments, but it takes {takes_now}"
        places = tuple(place for number in counts for place in sources.calls[name][number])
        found.append(ApiChange("misfit", _what(pair.new_headers.find(name)), name, old, new, note=note, places=places))
    return found


# --- members and headers -----------------------------------------------------------------------------


def _member_changes(uses: Mapping[Use, Sequence[Place]], sources: SourceUses, pair: Pair) -> list[ApiChange]:
    found = []
    for use, places in uses.items():
        if use.kind != "member":
            continue
        change = _member_change(use, pair)
        functions = given_functions(use, sources)
        if change and change.section == "changed" and functions and all_fit(functions, use, pair.new_headers):
            change = None  # the sources know of it
        if change is None and (wrong := misfits(use, sources, pair.new_headers)):
            change = _misfit_member(use, wrong, pair)
        if change:
            found.append(replace(change, places=tuple(places)))
    return found


def _misfit_member(use: Use, wrong: Sequence[Declaration], pair: Pair) -> ApiChange:
    """Return that the sources' functions are of another type than both kernels want."""
    old, new = (find_members(use.owner, use.name, side.find) for side in (pair.old_headers, pair.new_headers))
    names = ", ".join(one.name for one in wrong)
    return ApiChange(
        "misfit",
        "member",
        f"{use.owner}.{use.name}",
        _pointer(use.owner, old[0], pair.old_headers) if old else None,
        _pointer(use.owner, new[0], pair.new_headers) if new else None,
        note=f"given {names}, which is of another type",
    )


def _member_change(use: Use, pair: Pair) -> ApiChange | None:
    if not use.owner:
        # Of which struct it is is not known: it is gone if no struct has such a member.
        if use.name in pair.old_headers.words_of_types and use.name not in pair.new_headers.words_of_types:
            known = _known(use.name, "gone")
            return ApiChange("gone", "member", use.name, known=known)
        return None
    before = find_members(use.owner, use.name, pair.old_headers.find)
    if not before or not any(True for _ in all_members(use.owner, pair.new_headers.find)):
        return None
    after = find_members(use.owner, use.name, pair.new_headers.find)
    if not after and any(_MACRO_MEMBERS.search(one.text) for one in pair.new_headers.find_tagged(use.owner)):
        return None
    made = ApiChange("gone", "member", f"{use.owner}.{use.name}")
    if {one.signature for one in before} & {one.signature for one in after}:
        # acpi_op_remove remove: the same, but for what the name of its type stands for
        alias = _name_change(before[0].type, pair) if _is_alias(before[0], pair) else None
        return replace(made, section="changed", old=alias.old, new=alias.new, known=alias.known) if alias else None
    old, new = _where(use.owner, before[0].text, pair.old_headers), None
    if after:
        new = _where(use.owner, after[0].text, pair.new_headers)
    known = _known_of_member(use, before[0].text, after[0].text if after else "")
    return replace(made, section="changed" if after else "gone", old=old, new=new, known=known)


def _pointer(owner: str, member: Member, headers: HeaderIndex) -> Declaration | None:
    """Return a member, or what the name of its type stands for."""
    aliases = [one for one in headers.find(member.type) if one.kind == "typedef"] if member.type else []
    return aliases[0] if aliases else _where(owner, member.text, headers)


def _is_alias(member: Member, pair: Pair) -> bool:
    found = [one for one in pair.old_headers.find(member.type) if one.kind == "typedef"] if member.type else ()
    return bool(found) and not any("{" in one.text for one in found)


def _where(owner: str, text: str, headers: HeaderIndex) -> Declaration | None:
    found = headers.find_tagged(owner)
    return found[0]._replace(text=text) if found else None


def _include_changes(
    uses: Mapping[Use, Sequence[Place]], sources: SourceUses, pair: Pair, gone: Collection[str]
) -> list[ApiChange]:
    """Return the headers that the sources got through others, and do not get any more, but for those in `gone`."""
    needed = lost_headers(uses, sources, pair.old_headers, pair.new_headers)
    return [
        ApiChange(
            "include",
            "header",
            header,
            names=tuple(sorted(names)),
            places=tuple(sorted({place for places in names.values() for place in places})),
        )
        for header, names in needed.items()
        if header not in gone
    ]


def _header_changes(uses: Mapping[Use, Sequence[Place]], pair: Pair) -> list[ApiChange]:
    found = []
    for use, places in uses.items():
        name = f"<{use.name}"
        if use.kind == "header" and pair.old_headers.included(name) and not pair.new_headers.included(name):
            known = known_change(use.name)
            found.append(ApiChange("gone", "header", use.name, known=known, places=tuple(places)))
    return found


# --- words that are known for some changes ------------------------------------------------------------


def _known(name: str, section: Section) -> str:
    """Return what is known of a change, by what the compiler would say of it."""
    said: Callable[[str], str] = known_change
    return said(f"'{name}' {name}" if section == "gone" else f"'{name}'") or said(name)


def _known_of_member(use: Use, old: str, new: str) -> str:
    name = use.name
    if not new:
        return known_change(f"'{use.owner}' has no member named '{name}'") or known_change(f"{use.owner} {name}")
    if new.startswith("const ") and (known := known_change(f"read-only member '{name}'")):
        return known
    pointers = (text.replace(f"(*{name})", "(*)").replace("(*)(", "(*)(") for text in (old, new))
    return next((text for one in pointers if (text := known_change(_as_said(one)))), "") or known_change(use.owner)


def _as_said(pointer: str) -> str:
    """Return a pointer to a function as gcc's messages spell it."""
    kind, stars, parameters = pointer.partition("(*)")
    types = ", ".join(part.strip() for part in parameters.strip(" ()").split(","))
    return f"incompatible pointer type '{kind.strip()} {stars}({types})'"

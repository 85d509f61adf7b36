"""How the changes of a kernel's interface look, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.report import WIDTH, count, wrapped
from pkgkmod.progress import JsonLines, escape_controls

if TYPE_CHECKING:
    from pkgkmod.modules.api.chain import Chain
    from pkgkmod.modules.api.changes import ApiChange, Pair, Section
    from pkgkmod.modules.api.declarations import Declaration

_NAMED = 3
"""Lines that use something, without -v."""
_LISTED = 6
"""Symbols that one changed type explains, without -v."""
_TYPES = 8
"""Changed types that are told without -v."""
_TYPES_IN_FULL = 4
"""Up to so many, what changed in each is told without -v."""
_LONGEST = 400
"""Characters of a declaration."""

_TITLES: dict[Section, str] = {
    "gone": "Gone",
    "changed": "Declared otherwise",
    "include": "Not included by other headers any more",
    "misfit": "Used as neither kernel declares it",
    "restricted": "Not for all modules any more",
    "rebuild": "Declared as before, with another CRC: modules have to be built again",
    "moved": "Exported by another module",
    "new": "New, or for more modules than before",
}
_COUNTED: dict[Section, str] = {
    "gone": "gone",
    "changed": "declared otherwise",
    "include": "to be included",
    "misfit": "misused",
    "restricted": "restricted",
    "rebuild": "with another CRC only",
    "moved": "moved",
    "new": "new",
}
_COLOURS: dict[Section, str] = {
    "gone": "red",
    "changed": "red",
    "include": "red",
    "restricted": "red",
    "rebuild": "yellow",
}


def summary(changes: Sequence[ApiChange]) -> str:
    """Return how many changes of each kind there are, in words."""
    counts = Counter(change.section for change in changes)
    return ", ".join(f"{counts[section]} {words}" for section, words in _COUNTED.items() if counts[section])


def print_changes(pair: Pair, changes: Sequence[ApiChange], about: str, invocation: Invocation) -> None:
    """Print all changes, by section, or an event for each."""
    if invocation.json_lines:
        _print_json(pair, changes)
        return
    title = f"{pair.old.uname_r} -> {pair.new.uname_r}" + (f", for {about}" if about else "")
    click.secho(escape_controls(title, keep=""), bold=True)
    for section, words in _TITLES.items():
        some = [change for change in changes if change.section == section]
        if not some:
            continue
        click.echo()
        click.secho(words, bold=True, fg=_COLOURS.get(section))
        listing = _brief if section in ("moved", "new") else _by_type if section == "rebuild" else _in_full
        for line in listing(some, verbose=invocation.verbosity > 0):
            click.echo(line)
    if not invocation.quiet:
        click.echo(f"\n{summary(changes)}" if changes else "\nnothing changes")


# --- for people ---------------------------------------------------------------------------------------


def _in_full(changes: Sequence[ApiChange], *, verbose: bool) -> Iterator[str]:
    for change in changes:
        yield from _heading(change)
        for sign, colour, one in _declared(change):
            yield from _wrapped(f"{sign} {shown(one)}", "    ", "        ", colour=colour)
        for note in _notes(change):
            yield from _wrapped(note, "    ", "    ")
        places = change.places if verbose else change.places[:_NAMED]
        for place in places:
            yield from _wrapped(f"{place.file}:{place.line}: {place.text}", "    ", "      ", cut=not verbose)
        if len(places) < len(change.places):
            yield f"    and {count(len(change.places) - len(places), 'line')} more; -v shows all"


def _declared(change: ApiChange) -> Iterator[tuple[str, str | None, Declaration]]:
    """Yield the declarations of both kernels, as a diff; where neither fits, that of the newer one."""
    if change.section == "misfit":
        if change.new:
            yield " ", None, change.new
        return
    if change.old:
        yield "-", "red", change.old
    if change.new:
        yield "+", "green", change.new


def _heading(change: ApiChange) -> Iterator[str]:
    what = "" if change.what in ("symbol", "function") else f" ({change.what})"
    name = f"  {change.name}{what}"
    declared = change.new or change.old
    place = f"{declared.file}:{declared.line}" if declared else ""
    name, place = escape_controls(name, keep=""), escape_controls(place, keep="")
    room = WIDTH - len(name) - len(place)
    if room >= 2:
        yield click.style(name, bold=True) + " " * room + place if place else click.style(name, bold=True)
    else:
        yield click.style(name, bold=True)
        yield f"{place:>{WIDTH}}" if place else ""


def _notes(change: ApiChange) -> Iterator[str]:
    """Yield what else is to be said, in words."""
    yield from _about_symbol(change)
    if change.names:
        named = ", ".join(change.names[:_LISTED])
        more = f" and {len(change.names) - _LISTED} more" if len(change.names) > _LISTED else ""
        yield f"#include <{change.name}> is needed, for {named}{more}"
    yield from filter(None, (change.note, change.known))
    if change.modules and not change.places:
        yield f"used by {', '.join(change.modules)}"


def _about_symbol(change: ApiChange) -> Iterator[str]:
    symbol = change.symbol
    if symbol and symbol.old and symbol.new:
        if "gpl" in symbol.kinds:
            yield "for modules under the GPL only"
        if "namespace" in symbol.kinds:
            yield f'in the namespace {symbol.new.namespace}: it needs MODULE_IMPORT_NS("{symbol.new.namespace}")'
        if "reserved" in symbol.kinds:
            yield f"only for {symbol.new.namespace.removeprefix('module:')}"
        if "moved" in symbol.kinds:
            yield f"exported by {symbol.new.module}, was by {symbol.old.module}"
    if symbol and symbol.new is None and change.new is not None:
        yield "not exported any more: the headers have it"


def _brief(changes: Sequence[ApiChange], *, verbose: bool) -> Iterator[str]:
    for change in changes:
        symbol = change.symbol
        text = ""
        if symbol and symbol.old and symbol.new and "moved" in symbol.kinds:
            text = f": {symbol.old.module} -> {symbol.new.module}"
        elif symbol and symbol.new:
            text = f" in {symbol.new.module}"
        yield from _wrapped(f"{change.name}{text}", "  ", "    ")


def _by_type(changes: Sequence[ApiChange], *, verbose: bool) -> Iterator[str]:
    """Yield symbols, those together that change with the same type, and those that reach it in the same way."""
    groups: dict[Chain | None, dict[tuple[str, ...], list[str]]] = {}
    seen: dict[str, Chain] = {}
    for change in changes:
        nearest = change.chains[0] if change.chains else None
        chain = seen.setdefault(nearest.path[-1], nearest) if nearest else None
        path = nearest.path[:-1] if nearest else ()
        groups.setdefault(chain, {}).setdefault(path, []).append(change.name)
    ordered = sorted(groups.items(), key=lambda one: (not one[0], -sum(map(len, one[1].values()))))
    told = ordered if verbose else ordered[:_TYPES]
    for chain, paths in told:
        if chain:
            what = "changed" if chain.new else "is gone"
            where = f"{chain.old.file}:{chain.old.line}"
            yield from _wrapped(f"{chain.path[-1]} {what} ({where})", "  ", "    ", colour="yellow")
            if verbose or len(groups) <= _TYPES_IN_FULL:
                yield from _member_lines(chain, verbose=verbose)
        elif len(groups) > 1:
            yield click.style("  by a type that was not found in the headers", fg="yellow")
        for path, names in sorted(paths.items(), key=lambda one: (len(one[0]), one[0])):
            through = f"through {' -> '.join(path)}: " if path else ""
            some = names if verbose else names[:_LISTED]
            more = f" and {len(names) - len(some)} more" if len(some) < len(names) else ""
            yield from _wrapped(f"{through}{', '.join(some)}{more}", "    ", "      ")
    if len(told) < len(ordered):
        yield f"  and {count(len(ordered) - len(told), 'type')} more; -v shows all, and what changed in them"


def _member_lines(chain: Chain, *, verbose: bool) -> Iterator[str]:
    """Yield what changed in a type, as a diff."""
    changed = chain.members if chain.new else ()
    told = changed if verbose else changed[:_NAMED]
    for old, new in told:
        for sign, colour, text in (("-", "red", old), ("+", "green", new)):
            if text:
                yield from _wrapped(f"{sign} {text}", "    ", "        ", colour=colour)
    if len(told) < len(changed):
        yield f"    and {count(len(changed) - len(told), 'member')} more; -v shows all"


def shown(one: Declaration) -> str:
    """Return a declaration as a reader of the header would know it."""
    text = one.text if len(one.text) <= _LONGEST else one.text[:_LONGEST] + " ..."
    if one.kind == "macro":
        return f"#define {text}"
    return f"enum {text}: {one.name}" if one.kind == "enumerator" else text


def _wrapped(text: str, first: str, others: str, *, colour: str | None = None, cut: bool = False) -> list[str]:
    room = WIDTH - len(first)
    if cut and len(text := escape_controls(text, keep="")) > room:
        text = text[: room - 4] + " ..."
    return wrapped(text, first, others=others, colour=colour)


# --- for programs -------------------------------------------------------------------------------------


def _print_json(pair: Pair, changes: Sequence[ApiChange]) -> None:
    out = JsonLines()
    for change in changes:
        out.event("api-change", **_facts(change))
    counts = Counter(change.section for change in changes)
    out.event(
        "api-changes",
        old=pair.old.uname_r,
        new=pair.new.uname_r,
        worse=any(change.worse for change in changes),
        **{"counts": {section: counts[section] for section in _COUNTED if counts[section]}},
    )


def _facts(change: ApiChange) -> dict[str, Any]:
    symbol = change.symbol
    return {
        "section": change.section,
        "what": change.what,
        "name": change.name,
        "old": change.old._asdict() if change.old else None,
        "new": change.new._asdict() if change.new else None,
        "symbol": symbol.kinds if symbol else [],
        "old_export": symbol.old._asdict() if symbol and symbol.old else None,
        "new_export": symbol.new._asdict() if symbol and symbol.new else None,
        "chains": [{"path": chain.path, "members": chain.members} for chain in change.chains],
        "known": change.known,
        "note": change.note,
        "names": change.names,
        "uses": [place._asdict() for place in change.places],
        "modules": change.modules,
    }

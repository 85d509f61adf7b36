"""Whether a driver's calls and functions fit what a kernel declares, whatever another kernel declared."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pkgkmod.modules.api.declarations import Declaration
from pkgkmod.modules.api.headerindex import HeaderIndex
from pkgkmod.modules.api.signatures import Member, arity, signature
from pkgkmod.modules.api.use import SourceUses, Use, find_members

_POINTER = re.compile(r"^(.*)\( \* \w+ \) (\(.*)$")
_CALLED = ("function", "inline", "macro")


def misfit_counts(name: str, sources: SourceUses, headers: HeaderIndex) -> tuple[int, ...]:
    """Return the numbers of arguments with which the sources call something that takes another number."""
    declared = [one for one in headers.find(name) if one.kind in _CALLED]
    taken = {arity(one) for one in declared}
    if not declared or None in taken or name in sources.own:
        return ()
    return tuple(sorted(number for number in sources.calls.get(name, ()) if number not in taken))


def takes(name: str, headers: HeaderIndex) -> tuple[int, ...]:
    """Return how many arguments something takes, in each of its declarations."""
    found = {arity(one) for one in headers.find(name) if one.kind in _CALLED}
    return tuple(sorted(number for number in found if number is not None))


def given_functions(use: Use, sources: SourceUses) -> tuple[Declaration, ...] | None:
    """Return the sources' functions that initializers give to a member; None if something else is given, too."""
    found = []
    for name in dict.fromkeys(sources.assigned.get(use, ())):
        own = [one for one in sources.own.get(name, ()) if one.kind in ("function", "inline")]
        if not own:
            return None
        found.append(own[-1])
    # A member is used otherwise as well if it is named more often than it is given something.
    return tuple(found) if len(sources.assigned.get(use, ())) == len(sources.places.get(use, ())) else None


def all_fit(functions: Sequence[Declaration], use: Use, headers: HeaderIndex) -> bool:
    """Tell whether functions are exactly of the type that a member is a pointer to."""
    wanted = pointed_to(find_members(use.owner, use.name, headers.find), headers)
    return bool(functions and wanted) and all(_function_type(one) in wanted for one in functions)


def misfits(use: Use, sources: SourceUses, headers: HeaderIndex) -> tuple[Declaration, ...]:
    """Return the functions given to a member that take another number of parameters, or return something or not."""
    wanted = {_shape(text) for text in pointed_to(find_members(use.owner, use.name, headers.find), headers)}
    if not wanted:
        return ()
    found = []
    for name in dict.fromkeys(sources.assigned.get(use, ())):
        # Of several definitions, a condition that is not known here chooses one.
        own = [one for one in sources.own.get(name, ()) if one.kind in ("function", "inline")]
        if own and not any(_shape(_function_type(one)) in wanted for one in own):
            found.append(own[-1])
    return tuple(found)


def pointed_to(members: Sequence[Member], headers: HeaderIndex) -> set[str]:
    """Return the types of functions that members are pointers to; typedefs are looked up."""
    found: set[str] = set()
    for member in members:
        texts = [member.signature]
        if member.type:
            texts += [signature(one.text) for one in headers.find(member.type) if one.kind == "typedef"]
        found.update(f"{pointer[1]}{pointer[2]}" for text in texts if (pointer := _POINTER.match(text)))
    return found


def _function_type(function: Declaration) -> str:
    return signature(function.text).replace(f" {function.name} (", " (", 1)


def _shape(text: str) -> tuple[bool, int]:
    """Return whether a function returns something, and how many parameters it has."""
    returned, _, rest = text.partition(" (")
    inside = rest.rpartition(")")[0].strip()
    depth = commas = 0
    for token in inside.split():
        depth += (token == "(") - (token == ")")
        commas += token == "," and depth == 0
    return returned.split()[-1:] != ["void"], 0 if inside in ("", "void") else commas + 1

"""Patches of a spec for the tree that the project has: the same changes, with paths that begin at its top.

A spec says with -p how many folders the paths have too many, and applies patches in a folder that it changed to, or
with `patch -d`. Here all of them become patches with -p1, as `series` takes them without further words.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_HUNK = re.compile(
    r"@@ -(?P<old>[0-9]{1,9})(?:,(?P<olds>[0-9]{1,9}))? \+(?P<new>[0-9]{1,9})(?:,(?P<news>[0-9]{1,9}))? @@"
)
_GIT = re.compile(r"diff --git (?P<old>\S+) (?P<new>\S+)$")
_MOVED = re.compile(r"(?P<what>(?:rename|copy) (?:from|to)) (?P<path>.+)$")
_NOWHERE = "/dev/null"
_MOST_STRIPPED = 4


@dataclass(frozen=True)
class MovedPatch:
    """A patch whose paths begin at the top of the tree."""

    content: bytes
    created: frozenset[str]
    removed: frozenset[str]


@dataclass(frozen=True)
class _Change:
    """A file that a patch changes: the lines of its heads, and what they name."""

    first: int
    """Place of its line `---`."""
    old: str
    new: str
    creates: bool
    removes: bool


def move_patch(
    content: bytes, files: Collection[str], *, strip: int | None, folder: str, top: str
) -> MovedPatch | None:
    """Return the patch for a tree with `files`; None if what it changes is not among them.

    `folder` is where the spec applies it, below `top`. If the files are not there, other places and other numbers of
    folders to strip are tried.
    """
    lines = content.decode("latin-1").split("\n")
    changes = list(_changes(lines))
    known = set(files)
    inside = [path for path in known if path == top or path.startswith(f"{top}/")]
    folders = {top, *("/".join(path.split("/")[:n]) for path in inside for n in range(1, path.count("/") + 1))}
    places = dict.fromkeys([f"{top}/{folder}".rstrip("/"), *sorted(folders, key=lambda name: (name.count("/"), name))])
    levels = dict.fromkeys([level for level in (strip, 1, 0, *range(2, _MOST_STRIPPED)) if level is not None])
    for level in levels:
        for place in places:
            named = [_target(change, level, place, known) for change in changes]
            if changes and all(named):
                return _moved(lines, changes, [name for name in named if name], level, place)
    return None


def _changes(lines: list[str]) -> Iterator[_Change]:
    number = 0
    while number + 1 < len(lines):
        if lines[number].startswith("--- ") and lines[number + 1].startswith("+++ "):
            old, new = (_path(lines[number + more]) for more in (0, 1))
            hunk = _HUNK.match(lines[number + 2]) if number + 2 < len(lines) else None
            empty_before = bool(hunk and hunk["old"] == "0" and hunk["olds"] == "0")
            empty_after = bool(hunk and hunk["new"] == "0" and hunk["news"] == "0")
            yield _Change(number, old, new, old == _NOWHERE or empty_before, new == _NOWHERE or empty_after)
            number = _behind_hunks(lines, number + 2)
        else:
            number += 1


def _behind_hunks(lines: list[str], number: int) -> int:
    """Return the place behind the hunks of a file: what looks like a head in them is none."""
    while number < len(lines) and (hunk := _HUNK.match(lines[number])):
        old, new = (int(hunk[name]) if hunk[name] is not None else 1 for name in ("olds", "news"))
        number += 1
        while number < len(lines) and (old > 0 or new > 0):
            sign = lines[number][:1]
            old -= sign in ("-", " ", "")
            new -= sign in ("+", " ", "")
            number += 1
        while number < len(lines) and lines[number].startswith("\\"):
            number += 1
    return number


def _path(line: str) -> str:
    """Return the path in a head, without the time behind it."""
    text = line[4:].rstrip("\r")
    path = text.split("\t")[0] if "\t" in text else re.sub(r"\s+(?:[0-9]{4}-|[A-Z][a-z]{2} [A-Z][a-z]{2} ).*", "", text)
    return path.strip().strip('"')


def _stripped(path: str, level: int) -> str | None:
    parts = [part for part in path.split("/") if part not in ("", ".")] if not path.startswith("/") else []
    return "/".join(parts[level:]) if len(parts) > level and ".." not in parts else None


def _target(change: _Change, level: int, place: str, known: Collection[str]) -> str | None:
    """Return the file that a change is about; None if it is not there."""
    names = [_stripped(path, level) for path in (change.new, change.old) if path != _NOWHERE]
    paths = [f"{place}/{name}" for name in names if name]
    for path in paths:
        if path in known:
            return path
    if not change.creates or not paths:
        return None
    folder = paths[0].rpartition("/")[0]
    return paths[0] if any(path.startswith(f"{folder}/") for path in known) else None


def _moved(lines: list[str], changes: list[_Change], named: list[str], level: int, place: str) -> MovedPatch:
    out = list(lines)
    heads: set[int] = set()
    for change, path in zip(changes, named, strict=True):
        creates, removes = change.creates and change.old != change.new, change.removes and change.old != change.new
        out[change.first] = f"--- {_NOWHERE if creates else f'a/{path}'}"
        out[change.first + 1] = f"+++ {_NOWHERE if removes else f'b/{path}'}"
        heads.add(change.first)
    ends = [_behind_hunks(lines, change.first + 2) for change in changes]
    starts = [0, *ends]
    for start, end in zip(starts, [*(change.first for change in changes), len(lines)], strict=True):
        for number in range(start, end):
            out[number] = _moved_head(lines[number], level, place)
    created = {path for change, path in zip(changes, named, strict=True) if change.creates}
    removed = {path for change, path in zip(changes, named, strict=True) if change.removes}
    return MovedPatch("\n".join(out).encode("latin-1"), frozenset(created), frozenset(removed))


def _moved_head(line: str, level: int, place: str) -> str:
    """Return a line between the changes with the paths that git reads there moved, too."""
    if found := _GIT.match(line):
        old, new = (_stripped(found[name], level) for name in ("old", "new"))
        return f"diff --git a/{place}/{old} b/{place}/{new}" if old and new else line
    if (found := _MOVED.match(line)) and (path := _stripped(found["path"], max(level - 1, 0))):
        return f"{found['what']} {place}/{path}"
    return line

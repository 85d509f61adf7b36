"""Licences as sources name them (SPDX expressions), and as Debian does (machine-readable copyright, short names)."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

from pkgkmod import data

_WORD = re.compile(r"\s*(\(|\)|[A-Za-z0-9][A-Za-z0-9.+-]*)")
_GNU = re.compile(r"(?P<name>A?L?GPL|GFDL)-(?P<major>\d)\.(?P<minor>\d)(?P<later>-only|-or-later|\+)?")
_LONGEST = 200  # characters: no real expression comes near it


@dataclass(frozen=True)
class License:
    """One licence, without alternatives: its SPDX identifier, and the exception that widens it."""

    identifier: str
    exception: str = ""

    @property
    def short_name(self) -> str:
        """Name in a Debian copyright file."""
        gnu = _GNU.fullmatch(self.identifier)
        name = _gnu_name(gnu) if gnu else str(_facts(self.identifier).get("name", self.identifier))
        return f"{name} with {self.exception} exception" if self.exception else name

    @property
    def common_file(self) -> str:
        """File in /usr/share/common-licenses that has its text; empty if there is none."""
        if gnu := _GNU.fullmatch(self.identifier):
            name = _gnu_name(gnu).removesuffix("+")
            return name if name in _table()["common"]["gnu"] else ""
        return str(_facts(self.identifier).get("common", ""))


@dataclass(frozen=True)
class Expression:
    """Licences put together: `word` is `and`, `or`, or empty for a single one."""

    word: str
    parts: tuple[Expression | License, ...]

    @property
    def licenses(self) -> tuple[License, ...]:
        """All licences in it."""
        found: list[License] = []
        for part in self.parts:
            found += (part,) if isinstance(part, License) else part.licenses
        return tuple(dict.fromkeys(found))

    @property
    def debian(self) -> str:
        """The expression as a copyright file says it: `and` binds more closely than `or`, but for a comma."""
        shown = [part.short_name if isinstance(part, License) else part.debian for part in self.parts]
        if self.word == "and" and any(isinstance(p, Expression) and p.word == "or" for p in self.parts):
            return ", and ".join(shown)
        return f" {self.word} ".join(shown)


def parse_spdx(text: str) -> Expression | None:
    """Return what an SPDX expression says; None if it is none."""
    words: list[str] = []
    place = 0
    text = text.strip()
    while place < len(text):
        found = _WORD.match(text, place)
        if not found or len(text) > _LONGEST:
            return None
        words.append(found[1])
        place = found.end()
    try:
        result = _joined(words, "OR")
    except (IndexError, ValueError):
        return None
    return None if words else (result if isinstance(result, Expression) else Expression("", (result,)))


def _joined(words: list[str], joint: str) -> Expression | License:
    """Take an expression from the front of `words`: alternatives (`OR`), or what holds together (`AND`)."""

    def part() -> Expression | License:
        return _joined(words, "AND") if joint == "OR" else _single(words)

    parts = [part()]
    while words and words[0].upper() == joint:
        words.pop(0)
        parts.append(part())
    unique = tuple(dict.fromkeys(parts))
    return unique[0] if len(unique) == 1 else Expression(joint.lower(), unique)


def _single(words: list[str]) -> Expression | License:
    word = words.pop(0)
    if word == "(":
        inside = _joined(words, "OR")
        if words.pop(0) != ")":
            raise ValueError
        return inside
    if word == ")" or word.upper() in ("AND", "OR", "WITH"):
        raise ValueError(word)
    if words and words[0].upper() == "WITH":
        words.pop(0)
        return License(word, words.pop(0))
    return License(word)


def _gnu_name(found: re.Match[str]) -> str:
    minor = "" if found["minor"] == "0" else f".{found['minor']}"
    later = "+" if found["later"] in ("-or-later", "+") else ""
    return f"{found['name']}-{found['major']}{minor}{later}"


def _facts(identifier: str) -> dict[str, Any]:
    found: dict[str, Any] = _table()["license"].get(identifier, {})
    return found


@functools.cache
def _table() -> dict[str, Any]:
    return data.load("licenses.toml")

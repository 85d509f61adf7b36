"""Mistakes in the configuration, in plain words: where, which key, what, and what was meant.

Keys and values are shown with control characters made visible, since project files come from anywhere.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pkgkmod.config.positions import KeyPath
from pkgkmod.errors import ConfigError, did_you_mean
from pkgkmod.model.project import Project

PlaceOf = Callable[[KeyPath, bool], str]
"""Tells where a key is; the second argument says that the key is missing."""

_LONGEST = 60  # characters of a value that are shown
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "an array",
    "dict_type": "a table",
    "model_type": "a table",
}


@dataclass(frozen=True)
class Mistake:
    """One mistake: its place (file and line, or layer) and what it is."""

    place: str
    text: str
    shown: str = ""
    """The line of the file that is meant, where its number is not enough."""

    def __str__(self) -> str:
        return f"{self.place}: {self.text}" + (f"\n  {self.shown}" if self.shown else "")


def raise_all(mistakes: Sequence[Mistake], name: str) -> None:
    """Raise one ConfigError for all mistakes, if there are any; `name` is the project file's."""
    if not mistakes:
        return
    if len(mistakes) == 1:
        raise ConfigError(f"{mistakes[0].place}: {mistakes[0].text}", details=mistakes[0].shown)
    raise ConfigError(
        f"{name}: {len(mistakes)} mistakes",
        details="\n".join(map(str, mistakes)),
        hint="`pkgkmod config schema` prints the JSON Schema that editors use to find these while you type",
    )


def printable(text: str) -> str:
    """Return `text` on one line with control characters made visible."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


def dotted(path: KeyPath) -> str:
    """Return a key as people write it: `target[1].kernels`; entries are counted from 1."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        else:
            name = part if _BARE.fullmatch(part) else f'"{_cut(printable(part))}"'
            text += f".{name}" if text else name
    return text


def value_text(value: object) -> str:
    """Return a value with its kind: `text 'abc'`, `the number 4`."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f"text '{_cut(printable(value))}'"
        case int() | float():
            return f"the number {_cut(str(value))}"
        case list() | tuple():
            return "an array"
        case Mapping():
            return "a table"
        case datetime.date() | datetime.time():
            return f"the date or time {value}"
        case _:
            return _cut(printable(repr(value)))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def reason(error: tomllib.TOMLDecodeError, text: str) -> tuple[str, int]:
    """Return what tomllib found wrong, and on which line, counted from 1."""
    message = str(error)
    place = _PLACE.search(message)
    last_line = text.rstrip().count("\n") + 1
    if not place:
        return printable(message), last_line
    what = message[: place.start()]
    return printable(what[:1].lower() + what[1:]), int(place[1]) if place[1] else last_line


def of_validation(error: ValidationError, values: Mapping[str, Any], place: PlaceOf) -> list[Mistake]:
    """Return pydantic's findings in plain words."""
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        found.setdefault(_existing(details, values), []).append(details)
    return [
        Mistake(place(path, details[0]["type"] == "missing"), f"{dotted(path)}: {_what(path, details)}")
        for path, details in found.items()
    ]


def _existing(details: ErrorDetails, values: Any) -> KeyPath:
    """Return the path of the key that is meant: pydantic adds the names of types and of validators."""
    path: KeyPath = details["loc"]
    if details["type"] == "missing":
        return path if len(path) > 1 else (*path, *_required(path))
    for length, part in enumerate(path):
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return path[:length]
    return path


def _required(path: KeyPath) -> KeyPath:
    """Return the first required key of a table that is missing itself."""
    fields = fields_of(path) or {}
    return tuple(name for name, field in fields.items() if field.is_required())[:1]


def _what(path: KeyPath, details: Sequence[ErrorDetails]) -> str:
    # Several findings for one key are those of the types it may have; where the type was right, its finding counts.
    for one in details:
        if one["type"] not in _EXPECTED:
            return _one(path, one)
    expected = list(dict.fromkeys(_expected(path, one) for one in details))
    return f"expected {' or '.join(expected)}, got {value_text(details[0]['input'])}"


def _expected(path: KeyPath, details: ErrorDetails) -> str:
    """Return the name of the type that was expected; an array of tables is spelled in a way of its own."""
    if details["type"] == "tuple_type" and fields_of((*path, 0)):
        return f"an array of tables ([[{dotted(path)}]])"
    if details["type"] == "model_type":
        return f"a table ([{dotted(path)}])" if isinstance(path[-1], str) else "a table"
    return _EXPECTED[details["type"]]


def _one(path: KeyPath, details: ErrorDetails) -> str:
    limits = details.get("ctx", {})
    match details["type"]:
        case "extra_forbidden":
            return f"unknown key; {_meant(path)}"
        case "missing":
            return _missing(path)
        case "literal_error":
            meant = did_you_mean(str(details["input"]), re.findall("'([^']+)'", limits["expected"]))
            expected = f"expected {limits['expected']}, got {value_text(details['input'])}"
            return f"{expected}; {meant}" if meant else expected
        case "greater_than_equal":
            return f"must be at least {limits['ge']}, is {details['input']}"
        case "greater_than":
            return f"must be more than {limits['gt']}, is {details['input']}"
        case "too_short":
            return f"needs at least {limits['min_length']} entry"
        case "value_error":
            return printable(str(limits["error"]))
        case _:
            return printable(details["msg"])


def _missing(path: KeyPath) -> str:
    *table, name = path
    field = (fields_of(tuple(table)) or {})[str(name)]
    example = f'{name} = "{field.examples[0]}"' if field.examples else f"{name} = ..."
    header = f"[[{table[0]}]]" if isinstance(table[-1], int) else f"[{dotted(tuple(table))}]"
    return f"missing; the table {header} must have it, as in: {example}"


def _meant(path: KeyPath) -> str:
    """Return what an unknown key may have meant: another table's key, a near name, or all that there are."""
    *table, name = path
    known = fields_of(tuple(table)) or {}
    if homes := [section for section in sections() if name in (fields_of((section,)) or {})]:
        return f"it belongs in {' or '.join(f'[{home}]' for home in homes)}"
    return did_you_mean(str(name), known) or f"known are: {', '.join(known)}"


def sections() -> list[str]:
    """Return the names of the tables that the project file may have, those of arrays of tables excepted."""
    return [name for name in Project.model_fields if fields_of((name,))]


def fields_of(path: KeyPath) -> dict[str, FieldInfo] | None:
    """Return the keys that a table may have, as the models say; None if `path` is no table with fixed keys."""
    model: Any = Project
    for part in path:
        if isinstance(part, int) or get_origin(model) is dict:
            model = _model_in(get_args(model))
        else:
            field = model.model_fields.get(part) if isinstance(model, type) and issubclass(model, BaseModel) else None
            model = field.annotation if field else None
    return model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else None


def _model_in(candidates: Iterable[Any]) -> Any:
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)

"""Mistakes in the configuration: collected, worded for people, and told all at once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from pkgkmod.config.positions import KeyPath
from pkgkmod.errors import ConfigError, did_you_mean
from pkgkmod.model.project import Project

_AT = re.compile(r"^(?P<what>.*?) \(at (?:line (?P<line>\d+), column \d+|end of document)\)$")
_VALUE_ERROR = "Value error, "

# pydantic's error types, in plain words; `given` is the value that was found.
_WORDS: Mapping[str, Callable[[str, Mapping[str, Any]], str]] = {
    "string_type": lambda given, _: f"expected a text, got {given}",
    "int_type": lambda given, _: f"expected a whole number, got {given}",
    "int_parsing": lambda given, _: f"expected a whole number, got {given}",
    "int_from_float": lambda given, _: f"expected a whole number, got {given}",
    "bool_type": lambda given, _: f"expected true or false, got {given}",
    "bool_parsing": lambda given, _: f"expected true or false, got {given}",
    "tuple_type": lambda given, _: f"expected a list, got {given}",
    "dict_type": lambda given, _: f"expected a table, got {given}",
    "model_type": lambda given, _: f"expected a table, got {given}",
    "literal_error": lambda given, about: f"expected {about['expected']}, got {given}",
    "greater_than_equal": lambda given, about: f"must be at least {about['ge']}, not {given}",
    "greater_than": lambda given, about: f"must be more than {about['gt']}, not {given}",
    "too_short": lambda given, about: f"needs at least {about['min_length']} entry",
}


@dataclass(frozen=True)
class Mistake:
    """One mistake: where it stands, what it is, and what may help."""

    place: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.what}" + (f"; {self.hint}" if self.hint else "")


def printable(text: str) -> str:
    """Return `text` with everything escaped that could drive a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def reason(error: tomllib.TOMLDecodeError, text: str) -> tuple[str, int]:
    """Return what is wrong with a TOML text, and in which line."""
    found = _AT.match(str(error))
    if not found:
        return str(error), 1
    last = text.rstrip("\n").count("\n") + 1
    what = found["what"][:1].lower() + found["what"][1:]
    return printable(what), min(int(found["line"] or last), last)


def raise_mistakes(name: str, mistakes: Sequence[Mistake]) -> None:
    """Raise ConfigError that tells all mistakes; return if there are none."""
    if len(mistakes) == 1:
        raise ConfigError(f"{mistakes[0].place}: {mistakes[0].what}", hint=mistakes[0].hint)
    if mistakes:
        raise ConfigError(
            f"{printable(name)}: {len(mistakes)} mistakes",
            details="\n".join(str(mistake) for mistake in mistakes),
            hint="`pkgkmod config schema` prints the JSON Schema that editors use to find these while you type",
        )


def in_words(fault: Mapping[str, Any], place: str) -> Mistake:
    """Return what one of pydantic's faults means to the packager."""
    path: KeyPath = tuple(part for part in fault["loc"] if not _is_union_branch(part))
    key = printable(dotted(path))
    if fault["type"] == "extra_forbidden":
        known = tuple(_section_at(path[:-1]).model_fields) if _section_at(path[:-1]) else ()
        hint = did_you_mean(str(path[-1]), known) or (f"known here: {', '.join(known)}" if known else "")
        return Mistake(place, f"{key}: unknown key", hint)
    if fault["type"] == "missing":
        return Mistake(place, f"{key}: missing", f"write it in {_table_of(path)}: {path[-1]} = ...")
    message = str(fault["msg"])
    if fault["type"] == "value_error":
        text = message.removeprefix(_VALUE_ERROR)
        return Mistake(place, printable(f"{key}: {text}" if key else text))
    words = _WORDS.get(fault["type"])
    what = words(_shown(fault["input"]), fault.get("ctx", {})) if words else message
    return Mistake(place, f"{key}: {what}")


def dotted(path: KeyPath) -> str:
    """Return a key path as people write it: `module[1].name`; entries are counted from 1."""
    text = ""
    for part in path:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _is_union_branch(part: object) -> bool:
    # pydantic puts the name of the tried type behind the key where several are allowed (kconfig).
    return isinstance(part, str) and (part in ("bool", "int", "str") or part.startswith("function-after"))


def _table_of(path: KeyPath) -> str:
    return f"the table [{dotted(path[:-1])}]" if len(path) > 1 else "the project file"


def _section_at(path: KeyPath) -> type[BaseModel] | None:
    """Return the model of the table at `path`."""
    kind: Any = Project
    for part in path:
        if isinstance(part, int):
            continue
        field = (
            kind.model_fields.get(part) if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        )
        if field is None:
            return None
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
        kind = next((k for k in inner if isinstance(k, type) and issubclass(k, BaseModel)), None)
        if kind is None:
            return None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text '{printable(value[:60])}'"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    return (
        "a list"
        if isinstance(value, (list, tuple))
        else "a table"
        if isinstance(value, dict)
        else "something else"
    )

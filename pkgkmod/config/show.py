"""The configuration, shown: every value with its origin, as a project file, and as a JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tomlkit
from pydantic import BaseModel

from pkgkmod.config.load import Loaded
from pkgkmod.config.mistakes import dotted, printable
from pkgkmod.config.positions import KeyPath
from pkgkmod.model.project import Project


def show(loaded: Loaded) -> list[tuple[str, str, str]]:
    """Return every key with its value, as TOML spells it, and where it is from."""
    return [
        (printable(dotted(path)), _as_toml_value(value), str(loaded.origin(path)))
        for path, value in _leaves(loaded.project, ())
    ]


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _leaves(getattr(value, name), (*path, name))
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, (*path, name))
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*path, number))
    else:
        yield path, value


def _as_toml_value(value: Any) -> str:
    if value is None:
        return "-"
    return str(tomlkit.item(_lists(value)).as_string())


def _lists(value: Any) -> Any:
    """Return `value` with lists in place of tuples, as TOML writers expect."""
    if isinstance(value, dict):
        return {name: _lists(inner) for name, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def as_toml(loaded: Loaded) -> str:
    """Return the merged configuration as a project file; keys without a value are left out."""
    return tomlkit.dumps(_lists(loaded.project.model_dump(exclude_none=True)))


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the project file."""
    made = Project.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **made,
        "title": "pkgkmod project file",
    }

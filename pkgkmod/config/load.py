"""Loading a project: the layers merged and validated, with all mistakes at once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pkgkmod.config.layers import (
    BUILT_IN,
    COMMAND_LINE,
    OVERRIDE,
    Layer,
    Origin,
    file_layer,
    merge,
    nested,
    profile_layer,
    user_layers,
)
from pkgkmod.config.mistakes import Mistake, in_words, printable, raise_mistakes
from pkgkmod.config.positions import KeyPath
from pkgkmod.errors import ConfigError
from pkgkmod.model.project import Project


@dataclass(frozen=True)
class Loaded:
    """A project, where each of its values is from, and the file."""

    project: Project
    origins: Mapping[KeyPath, Origin]
    path: Path

    @property
    def folder(self) -> Path:
        """Folder of the project file: patches, results and relative paths are there."""
        return self.path.parent

    def origin(self, key: KeyPath) -> Origin:
        """Return where a value is from; built-in if no layer says anything about it."""
        near = (key[:length] for length in range(len(key), 0, -1))
        exact = next((self.origins[k] for k in near if k in self.origins and k == key), None)
        return exact or Origin(BUILT_IN)


def load(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    profile: str | None = None,
    profile_dir: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Loaded:
    """Load the project file `path` with all layers.

    `overrides` are `key=value` texts (-C), `settings` maps dotted keys to values (the command's own
    options). Raise ConfigError that lists every mistake with its file and line.
    """
    path = Path(path).absolute()
    mistakes: list[Mistake] = []
    layers = user_layers(mistakes)
    if profile is not None:
        layers.append(profile_layer(profile, profile_dir, path.parent, mistakes))
    layers.append(file_layer("project", path, mistakes))
    layers += [_override(text) for text in overrides]
    layers += [
        Layer(COMMAND_LINE, values=nested(key.split("."), value)) for key, value in (settings or {}).items()
    ]
    raise_mistakes(path.name, mistakes)
    values, origins = merge(layers)
    try:
        project = Project.model_validate(values)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            place = str(_nearest(fault["loc"], origins) or Origin("project", path))
            mistakes.append(in_words(fault, place))
        raise_mistakes(path.name, list(dict.fromkeys(mistakes)))
        raise AssertionError from error
    return Loaded(project, origins, path)


def _nearest(key: KeyPath, origins: Mapping[KeyPath, Origin]) -> Origin | None:
    """Return the place of a key, or of the nearest table around it."""
    return next((origins[key[:n]] for n in range(len(key), 0, -1) if key[:n] in origins), None)


def _override(text: str) -> Layer:
    """Return the layer of one `-C key=value`."""
    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(
            f"-C {printable(text)}: not of the form key=value", hint="example: -C project.release=2"
        )
    if len(names) == 1 and names[0] not in Project.model_fields:
        names = _section_of(names[0])
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    return Layer(OVERRIDE, values=nested(names, parsed))


def _section_of(key: str) -> list[str]:
    """Return the full name of a key that is given without its section; raise ConfigError unless there is just one."""
    found = [
        section
        for section, field in Project.model_fields.items()
        if isinstance(field.annotation, type)
        and issubclass(field.annotation, BaseModel)
        and key in field.annotation.model_fields
    ]
    if len(found) == 1:
        return [found[0], key]
    if found:
        raise ConfigError(
            f"-C {printable(key)}: several sections have it", hint=" or ".join(f"{s}.{key}" for s in found)
        )
    raise ConfigError(
        f"-C {printable(key)}: no section has such a key", hint="`pkgkmod config show` lists all keys"
    )

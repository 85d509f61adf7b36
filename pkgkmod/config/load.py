"""Loading: the layers together become a validated project, or one error with all mistakes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from pkgkmod import data
from pkgkmod.config.layers import (
    BUILT_IN,
    COMMAND_LINE,
    OVERRIDE,
    Layer,
    Origin,
    file_layer,
    merge,
    nested,
    parse,
    profile_layer,
    short,
    user_layers,
)
from pkgkmod.config.mistakes import (
    Mistake,
    PlaceOf,
    dotted,
    fields_of,
    of_validation,
    printable,
    raise_all,
    sections,
)
from pkgkmod.config.positions import KeyPath
from pkgkmod.config.required import with_names
from pkgkmod.errors import did_you_mean
from pkgkmod.model.project import Project


@dataclass(frozen=True)
class Loaded:
    """A project, and where each of its values is from; what is in no layer is the models' default."""

    project: Project
    origins: Mapping[KeyPath, Origin]
    path: Path
    """The project file, absolute."""

    @property
    def folder(self) -> Path:
        """Folder of the project file: patches, results and relative paths are there."""
        return self.path.parent

    def origin(self, key: KeyPath) -> Origin:
        """Return where a value is from; built-in if no layer says anything about it."""
        return self.origins.get(key, Origin(BUILT_IN))


def load(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    profile: str | None = None,
    profile_dir: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    above: tuple[Path, ...] = (),
    own_layers: Sequence[Layer] = (),
) -> Loaded:
    """Read the project file and all other layers; raise ConfigError with all mistakes at once.

    `overrides` are texts `key=value` (-C); `settings` are values by dotted key, from a command's options. `above` are
    the files of projects that require this one. `own_layers` are what `path` says where it is another tool's.
    """
    path = path.absolute()
    mistakes: list[Mistake] = []
    layers = user_layers(mistakes)
    if profile is not None:
        layers.append(profile_layer(profile, profile_dir, path.parent, mistakes))
    layers += own_layers or [file_layer("project", path, mistakes)]
    own = layers[-1]
    layers += [layer for text in overrides if (layer := override_layer(text, mistakes))]
    layers += _of_options(settings)
    name = printable(short(path))
    raise_all(mistakes, name)

    values, origins = merge(layers)

    def place(key: KeyPath, missing: bool) -> str:
        # What is missing from a table belongs into the project file, whichever layer also names the table.
        if missing and len(key) <= 2:
            return str(own.origin(key))
        return str(next((origins[key[:n]] for n in range(len(key), 0, -1) if key[:n] in origins), own.origin(())))

    project = validate(values, place, name)
    if project.requires or any(module.requires for module in project.module):
        project = with_names(project, path, above, place, lambda file: load(file, above=(*above, path)).project)
    return Loaded(project, origins, path)


def _of_options(settings: Mapping[str, Any] | None) -> list[Layer]:
    return [Layer(COMMAND_LINE, values=nested(key.split("."), value)) for key, value in (settings or {}).items()]


def load_settings(overrides: Sequence[str] = (), settings: Mapping[str, Any] | None = None) -> Project:
    """Return what the machine's and the user's files say, for commands that need no project file.

    `overrides` and `settings` are as for `load`.
    """
    mistakes: list[Mistake] = []
    layers = [*user_layers(mistakes), *(layer for text in overrides if (layer := override_layer(text, mistakes)))]
    layers += _of_options(settings)
    raise_all(mistakes, "the settings")
    values, origins = merge(layers)
    values.setdefault("project", {}).setdefault("name", "none")

    def place(key: KeyPath, missing: bool) -> str:
        return str(next((origins[key[:n]] for n in range(len(key), 0, -1) if key[:n] in origins), Origin(BUILT_IN)))

    return validate(values, place, "the settings")


def validate(values: Mapping[str, Any], place: PlaceOf, name: str) -> Project:
    """Return the project that `values` describe; raise ConfigError with all mistakes.

    `name` is the file that the error is about.
    """
    unknown = list(_unknown_distros(values, place))
    try:
        # Strict, since TOML has types: "yes" is no boolean. Strict models take tuples only.
        project = Project.model_validate(frozen(values), strict=True)
    except ValidationError as error:
        raise_all([*of_validation(error, values, place), *unknown], name)
        raise  # not reached: there is at least one mistake
    raise_all(unknown, name)
    return project


def _unknown_distros(values: Mapping[str, Any], place: PlaceOf) -> Iterator[Mistake]:
    """Yield the targets whose distribution has no data file; the models do not know which there are."""
    known = data.names("distros")
    targets = values.get("target")
    for number, target in enumerate(targets if isinstance(targets, (list, tuple)) else ()):
        distro = target.get("distro") if isinstance(target, Mapping) else None
        if isinstance(distro, str) and distro not in known:
            hint = did_you_mean(distro, known) or f"known: {', '.join(known)}"
            key: KeyPath = ("target", number, "distro")
            text = f"{dotted(key)}: no distribution is called '{printable(distro)}'; {hint}"
            yield Mistake(place(key, False), text)


def frozen(value: Any) -> Any:
    """Return `value` with tuples in place of arrays."""
    if isinstance(value, Mapping):
        return {name: frozen(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(frozen(inner) for inner in value)
    return value


def override_layer(text: str, mistakes: list[Mistake]) -> Layer | None:
    """Return the layer that `[table.]key=value` describes; None, with a mistake noted, if it cannot be read.

    The value is TOML if it reads as such and the key takes it; otherwise it is taken as text.
    """
    key, equals, value = text.partition("=")
    try:
        if not equals:
            raise ValueError(f"'{printable(text)}' must be of the form key=value")
        path = _full_key(_key_path(key))
    except ValueError as error:
        mistakes.append(Mistake(OVERRIDE, str(error)))
        return None
    return Layer(OVERRIDE, values=nested(path, _value(path, value.strip())))


def _key_path(text: str) -> list[str]:
    try:
        values: Any = tomllib.loads(f"{text} = 0")
    except tomllib.TOMLDecodeError:
        raise ValueError(f"'{printable(text)}' is not a key") from None
    path: list[str] = []
    while isinstance(values, dict):
        if len(values) != 1:
            raise ValueError(f"'{printable(text)}' is not a key")
        [(name, values)] = values.items()
        path.append(name)
    return path


def _full_key(path: list[str]) -> list[str]:
    """Add the table to a key that was given without one: [project], or the only one that has such a key."""
    if len(path) > 1 or path[0] in Project.model_fields:
        return path
    known = {section: fields_of((section,)) or {} for section in sections()}
    homes = [section for section, keys in known.items() if path[0] in keys]
    if len(homes) == 1 or homes[:1] == ["project"]:
        return [homes[0], *path]
    name = dotted(tuple(path))
    if homes:
        raise ValueError(f"{name}: there are several: " + ", ".join(f"{home}.{name}" for home in homes))
    meant = did_you_mean(path[0], [*Project.model_fields, *(key for keys in known.values() for key in keys)])
    raise ValueError(f"{name}: unknown key" + (f"; {meant}" if meant else ""))


def _value(path: list[str], text: str) -> Any:
    try:
        values, _ = parse(f"value = {text}")
    except ValueError:
        return text
    if list(values) != ["value"]:
        return text  # several lines that read as several keys
    value = values["value"]
    # version=1.2 means the text, although TOML reads a number.
    return text if not _accepted(path, value) and _accepted(path, text) else value


def _accepted(path: list[str], value: Any) -> bool:
    """Return True if the models take `value` for the key, or do not know the key."""
    field = (fields_of(tuple(path[:-1])) or {}).get(path[-1])
    if field is None:
        return True
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
        adapter.validate_python(frozen(value), strict=True)
    except ValidationError:
        return False
    return True

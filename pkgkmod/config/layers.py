"""The layers of the configuration, and how they are laid over each other.

Last wins: the models' defaults, /etc/pkgkmod.toml, the user's file, a profile, the project file,
`-C key=value`, and the command's own options. Tables are merged, everything else is replaced.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pkgkmod.config.mistakes import Mistake, printable, reason
from pkgkmod.config.positions import KeyPath, locate
from pkgkmod.errors import ConfigError, did_you_mean

SYSTEM_FILE = Path("/etc/pkgkmod.toml")
SYSTEM_PROFILES = Path("/etc/pkgkmod.d/profiles")
BUILT_IN = "built-in"
OVERRIDE = "-C"
COMMAND_LINE = "command line"
_LARGEST = 1024 * 1024  # bytes; nothing that people write comes near
_DEEPEST = 32  # tables in tables; the same


@dataclass(frozen=True)
class Origin:
    """Where a value is from: a layer, and the file and line if it is one."""

    layer: str
    path: Path | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.path is None:
            return self.layer
        place = printable(short(self.path))
        return f"{place}:{self.line}" if self.line else place


@dataclass(frozen=True)
class Layer:
    """One layer: its values, and the line of each if it is a file."""

    name: str
    path: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def origin(self, key: KeyPath) -> Origin:
        """Return the place of a value of this layer, or of the nearest table around it."""
        near_keys = (key[:length] for length in range(len(key), 0, -1))
        return Origin(self.name, self.path, next((self.lines[k] for k in near_keys if k in self.lines), None))


def short(path: Path) -> str:
    """Return `path` as a person at the present folder would write it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def config_home() -> Path | None:
    """Return the folder of the user's settings (XDG base directories: a relative one does not count)."""
    named = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if named.is_absolute():
        return named
    home = Path(os.environ.get("HOME", ""))
    return home / ".config" if home.is_absolute() else None


def read_text(path: Path) -> str:
    """Return the text of a file of the configuration; raise ConfigError if it cannot be had."""
    name = printable(short(path))
    try:
        if not path.exists():
            raise ConfigError(f"{name} does not exist", hint="`pkgkmod init` writes a project file")
        if not path.is_file():
            raise ConfigError(f"{name} is {'a folder' if path.is_dir() else 'not a plain file'}")
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"{name} is too large for a file of settings (over 1 MiB)")
        # Line ends stay as they are: `record_source` writes the text back.
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: not UTF-8 text", hint="save the file in the encoding UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}") from None


def file_layer(name: str, path: Path, mistakes: list[Mistake]) -> Layer:
    """Return the layer that a file holds; what is no TOML becomes a mistake and an empty layer."""
    text = read_text(path)
    try:
        return Layer(name, path, *parse(text))
    except tomllib.TOMLDecodeError as error:
        what, line = reason(error, text)
        shown = text.split("\n")[line - 1].strip()[:100]
        mistakes.append(Mistake(str(Origin(name, path, line)), f"not TOML: {what}", printable(shown)))
    except ValueError as error:
        mistakes.append(Mistake(str(Origin(name, path)), str(error)))
    return Layer(name, path)


def parse(text: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Return the values of a TOML text, and their lines; raise ValueError (TOMLDecodeError) if it is none."""
    try:
        values, lines = tomllib.loads(text), locate(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if max(map(len, lines), default=0) > _DEEPEST:
        raise ValueError("nested too deeply")
    return values, lines


def user_layers(mistakes: list[Mistake]) -> list[Layer]:
    """Return the layers of the machine and of the user, as far as the files exist."""
    found = [("system", SYSTEM_FILE)]
    if home := config_home():
        found.append(("user", home / "pkgkmod.toml"))
    return [file_layer(name, path, mistakes) for name, path in found if path.exists()]


def profile_layer(name: str, folder: Path | None, project_folder: Path, mistakes: list[Mistake]) -> Layer:
    """Return the layer of profile `name`; raise ConfigError, with near names, if there is none.

    Without a folder it is looked for beside the project file, then among the user's, then the machine's.
    """
    home = config_home()
    user = [home / "pkgkmod" / "profiles"] if home else []
    folders = [folder] if folder else [project_folder / "profiles", *user, SYSTEM_PROFILES]
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ConfigError(f"'{printable(name)}' is not the name of a profile", hint="-P names the folder of profiles")
    for candidate in (folder / f"{name}.toml" for folder in folders):
        if candidate.exists():
            return file_layer(f"profile {name}", candidate, mistakes)
    known = sorted({file.stem for folder in folders if folder.is_dir() for file in folder.glob("*.toml")})
    raise ConfigError(
        f"there is no profile '{printable(name)}'",
        details="looked in " + ", ".join(printable(short(folder)) for folder in folders),
        hint=did_you_mean(name, known) or f"there are: {printable(', '.join(known))}" if known else "",
    )


def nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    """Return `value` inside a table for each key."""
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def merge(layers: Sequence[Layer]) -> tuple[dict[str, Any], dict[KeyPath, Origin]]:
    """Lay the layers over each other; return the values, and where each of them is from."""
    values: dict[str, Any] = {}
    origins: dict[KeyPath, Origin] = {}
    for layer in layers:
        _lay_over(values, layer.values, (), layer, origins)
    return values, origins


def _lay_over(
    below: dict[str, Any],
    above: Mapping[str, Any],
    path: KeyPath,
    layer: Layer,
    origins: dict[KeyPath, Origin],
) -> None:
    for name, value in above.items():
        here = (*path, name)
        if isinstance(value, Mapping) and isinstance(below.get(name), dict):
            _lay_over(below[name], value, here, layer, origins)
            continue
        if name in below:
            for old in [key for key in origins if key[: len(here)] == here]:
                del origins[old]
        below[name] = _copy(value, here, layer, origins)


def _copy(value: Any, path: KeyPath, layer: Layer, origins: dict[KeyPath, Origin]) -> Any:
    origins[path] = layer.origin(path)
    if isinstance(value, Mapping):
        return {name: _copy(inner, (*path, name), layer, origins) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(inner, (*path, number), layer, origins) for number, inner in enumerate(value)]
    return value

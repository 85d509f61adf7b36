"""Reading ddiskit's configuration: INI files in layers, whose values name each other in braces.

The form is that of Python 2's RawConfigParser, with ddiskit's own interpolation (ddiskit(1), "Configuration
generation" and "Configuration value evaluation").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pkgkmod.config.layers import read_text, short
from pkgkmod.config.mistakes import Mistake, printable
from pkgkmod.errors import ConfigError, did_you_mean

SITE_FILE = Path("/etc/ddiskit.config")
RESOURCES = Path("/usr/share/ddiskit")
USER_FILE = ".ddiskitrc"
SECTIONS = ("defaults", "global", "spec_file", "rpm_gpg_check")
# What ddiskit itself says, as far as values name it; texts of its own it is not asked for.
BUILT_IN: Mapping[tuple[str, str], str] = {
    ("defaults", "res_dir"): str(RESOURCES),
    ("spec_file", "module_author"): "{global.module_author}",
    ("spec_file", "module_author_email"): "{global.module_author_email}",
    ("spec_file", "module_vendor"): "{global.module_vendor}",
    ("spec_file", "rpm_name"): "kmod-{global.module_vendor}-{module_name}",
    ("spec_file", "module_rpm_release"): "1",
    ("spec_file", "module_description_suffix"): "{description_suffix}",
    ("spec_file", "firmware_description_suffix"): "{description_suffix}",
    ("spec_file", "devel_description_suffix"): "{description_suffix}",
    ("spec_file", "description_suffix"): "",
}

_SECTION = re.compile(r"\[(?P<name>[^]]+)\]")
_OPTION = re.compile(r"(?P<key>[^:=\s][^:=]*?)\s*[:=]\s*(?P<value>.*)")
_COMMENT_BEHIND = re.compile(r"(^|\s);.*")
_NAMED = re.compile(r"{([^{}]*)}")
_NOT_FILLED_IN = re.compile(r"\bENTER_[A-Z_]+\b")
_RECOGNIZED = re.compile(rf"^\[({'|'.join(SECTIONS)})\]", re.MULTILINE | re.IGNORECASE)
_DEPTH = 8  # rounds of interpolation: ddiskit's own limit
_LONGEST = 64 * 1024  # characters of a value: {a}{a}{a}... would grow without end

Key = tuple[str, str]
"""Section and key, both in lower case."""


@dataclass(frozen=True)
class Given:
    """A value as a file has it, and where."""

    text: str
    path: Path | None = None
    line: int = 0

    @property
    def place(self) -> str:
        """File and line, as messages name them."""
        return f"{printable(short(self.path))}:{self.line}" if self.path else "-C"


@dataclass(frozen=True)
class Settings:
    """All layers together; what nobody filled in counts as absent."""

    given: Mapping[Key, Given]
    values: Mapping[Key, str] = field(default_factory=dict)
    """The values with everything put in that they name."""

    @classmethod
    def of(cls, given: Mapping[Key, Given]) -> Settings:
        """Evaluate what was given, last layer only; raise ConfigError for a value that grows without end."""
        texts = {**BUILT_IN, **{key: one.text for key, one in given.items()}}
        return cls(given, {key: _evaluated(key, texts) for key in texts})

    def get(self, section: str, key: str) -> str:
        """Return a value, empty if it is absent or was not filled in (ENTER_...)."""
        value = self.values.get((section, key), "")
        return "" if self.is_unset(value) else value.strip()

    @staticmethod
    def is_unset(value: str) -> bool:
        """Tell whether a value still is what the template has in its place."""
        return _NOT_FILLED_IN.search(value) is not None


def is_module_config(path: Path) -> bool:
    """Tell whether a file is ddiskit's rather than a project file: it has a section that only ddiskit knows."""
    try:
        with path.open("rb") as file:
            start = file.read(_LONGEST)
    except OSError:
        return False
    return path.suffix != ".toml" and _RECOGNIZED.search(start.decode("utf-8", "replace")) is not None


def parse(text: str, path: Path, mistakes: list[Mistake]) -> dict[Key, Given]:
    """Return the values of a file by section and key; lines that are none become mistakes."""
    found: dict[Key, Given] = {}
    section, key = "", None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line[0] in "#;":
            continue
        if line[0].isspace() and key:
            old = found[key]
            found[key] = Given(f"{old.text}\n{line.strip()}", old.path, old.line)
        elif match := _SECTION.match(line):
            section, key = match["name"].strip().lower(), None
        elif section and (match := _OPTION.fullmatch(line.strip())):
            key = (section, match["key"].strip().lower())
            value = _COMMENT_BEHIND.sub("", match["value"]).strip()
            found[key] = Given("" if value == '""' else value, path, number)
        else:
            place = f"{printable(short(path))}:{number}"
            mistakes.append(
                Mistake(place, "neither [section], key = value, nor a comment", printable(line.strip()[:100]))
            )
    return found


def read_layers(
    path: Path,
    *,
    home: Path | None,
    profile: str | None,
    profile_dir: Path | None,
    overrides: Sequence[str],
    mistakes: list[Mistake],
) -> dict[Key, Given]:
    """Return what all layers say, the last one's word for each key.

    They are ddiskit's: the machine's file, the user's, the profile, `path`, and `overrides` ([section.]key=value). A
    profile that somebody names and that is not there is an error; ddiskit passed over it.
    """
    own = parse(read_text(path), path, mistakes)
    commands = dict(_override(text) for text in overrides)
    found: dict[Key, Given] = {}
    for file in (SITE_FILE, home / USER_FILE if home else None):
        if file and file.is_file():
            found |= parse(read_text(file), file, mistakes)
    named = profile or {**found, **own, **commands}.get(("defaults", "profile"), Given("")).text
    if named and not Settings.is_unset(named):
        file = profile_file(named, profile_dir or _profile_dir(found, own))
        # "default" is ddiskit's own, which says nothing.
        if file.is_file() or profile or named != "default":
            found |= parse(read_text(_there(file, named)), file, mistakes)
    return {**found, **own, **commands}


def _profile_dir(*layers: Mapping[Key, Given]) -> Path:
    given = {key: one for layer in layers for key, one in layer.items()}
    settings = Settings.of(given)
    resources = settings.get("defaults", "res_dir") or str(RESOURCES)
    return Path(settings.get("defaults", "profile_dir") or f"{resources}/profiles")


def profile_file(name: str, folder: Path | None = None) -> Path:
    """Return where a profile has to be: a name with a slash is a path, any other is in the folder of profiles."""
    if not name.isprintable() or name in (".", ".."):
        raise ConfigError(f"'{printable(name)}' is not the name of a profile")
    return Path(name) if "/" in name else (folder or RESOURCES / "profiles") / name


def _there(file: Path, name: str) -> Path:
    if file.is_file():
        return file
    folder = file.parent
    known = sorted(one.name for one in folder.iterdir() if one.is_file()) if folder.is_dir() else []
    raise ConfigError(
        f"there is no profile '{printable(name)}' of ddiskit",
        details=f"looked for {printable(str(file))}",
        hint=did_you_mean(name, known) or "-P names the folder of profiles; -p another profile",
    )


def _override(text: str) -> tuple[Key, Given]:
    name, _, value = text.partition("=")
    section, dot, key = name.strip().lower().partition(".")
    # ddiskit takes a key without a section for one of [defaults].
    return ((section, key) if dot else ("defaults", section)), Given(value.strip())


def _evaluated(key: Key, texts: Mapping[Key, str]) -> str:
    value = texts[key]
    for _ in range(_DEPTH):
        new = "".join(_pieces(key, value, texts))
        if new == value:
            break
        value = new
    return value


def _pieces(key: Key, value: str, texts: Mapping[Key, str]) -> Iterator[str]:
    """Yield a value in pieces, with texts in the place of the keys that it names; other braces stay."""
    length = end = 0
    for match in _NAMED.finditer(value):
        section, dot, name = match[1].lower().partition(".")
        named = texts.get((section, name) if dot else (key[0], section), match[0])
        length += match.start() - end + len(named)
        if length > _LONGEST:
            raise ConfigError(f"{'.'.join(key)} grows without end: its values name each other")
        yield value[end : match.start()]
        yield named
        end = match.end()
    yield value[end:]

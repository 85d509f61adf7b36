"""A whole ddiskit project: its configuration and its sources, as a project file would say them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pkgkmod.config.importers.ddiskit import RULES, Conversion, convert
from pkgkmod.config.importers.ddiskitini import SECTIONS, Settings, read_layers
from pkgkmod.config.importers.ddiskitsources import (
    FIRMWARE,
    PATCHES,
    SOURCES,
    SourceFolder,
    firmware_files,
    read_sources,
)
from pkgkmod.config.importers.ddiskittexts import LEFT_OUT
from pkgkmod.config.importers.report import Entry
from pkgkmod.config.layers import Layer
from pkgkmod.config.mistakes import Mistake, printable, raise_all
from pkgkmod.config.positions import KeyPath


@dataclass(frozen=True)
class DdiskitProject:
    """What a ddiskit project is in our terms; where its sources are to be kept is not said yet."""

    conversion: Conversion
    sources: SourceFolder
    entries: tuple[Entry, ...]
    """What became of each value, and of the files."""

    @property
    def values(self) -> dict[str, Any]:
        """The tables of the project file."""
        return self.conversion.values

    @property
    def build_dir(self) -> str:
        """The folder that ddiskit builds, by its path in the kernel tree; `.` if it is the whole of it."""
        directories: Sequence[str] = self.values.get("source", {}).get("directories", ())
        return directories[0] if directories else "."

    @property
    def git_hash(self) -> str:
        """The commit of a kernel repository that the sources are said to be from; may be empty."""
        return self.conversion.settings.get("spec_file", "git_hash")

    @property
    def message(self) -> str:
        """What the commit of the sources says of itself."""
        about = f"{self.values['project']['name']}: the sources of a ddiskit project"
        return f"{about}\n\nTaken from commit {printable(self.git_hash)}." if self.git_hash else about


def read_project(
    path: Path, *, profile: str | None = None, profile_dir: Path | None = None, overrides: Sequence[str] = ()
) -> DdiskitProject:
    """Read ddiskit's file at `path`, its layers, and `src/` beside it; nothing is written.

    Raise ConfigError for files that are none of ddiskit's, SourceError for sources that cannot be read.
    """
    mistakes: list[Mistake] = []
    home = Path(os.environ.get("HOME", ""))
    given = read_layers(
        path,
        home=home if home.is_absolute() else None,
        profile=profile,
        profile_dir=profile_dir,
        overrides=overrides,
        mistakes=mistakes,
    )
    raise_all(mistakes, printable(path.name))
    made = convert(Settings.of(given), path.absolute().parent)
    folder = path.absolute().parent
    build_dir = next(iter(made.values.get("source", {}).get("directories", ())), "")
    sources = read_sources(folder, build_dir)
    if sources.directories:
        made.values.setdefault("source", {})["directories"] = list(sources.directories)
    if (folder / SOURCES / PATCHES).is_dir():
        made.values.setdefault("source", {})["patches"] = f"{SOURCES}/{PATCHES}"
    return DdiskitProject(made, sources, (*made.entries, *sources.entries, *_more(made, folder, sources, build_dir)))


def _more(made: Conversion, folder: Path, sources: SourceFolder, build_dir: str) -> Iterator[Entry]:
    """Yield what configuration and files say of each other."""
    if "version" not in made.values["project"]:
        yield Entry("spec_file.module_version", "", "decide", "nobody says the version: project.version is 1.0")
    if sources.files and build_dir and sources.directories[0] != build_dir:
        yield Entry("spec_file.module_build_dir", build_dir, "decide", f"there is no such folder in {SOURCES}/")
    firmware = firmware_files(folder)
    if firmware and "directory" not in made.values.get("firmware", {}):
        what = "not packaged, since firmware_include is not on; firmware.directory = 'src/firmware' packages it"
        yield Entry(f"{SOURCES}/{FIRMWARE}", ", ".join(firmware), "left out", what)
    if (folder / SOURCES / "extra").is_dir():
        what = "part of the sources, but not packaged: packages have modules and firmware"
        yield Entry(f"{SOURCES}/extra", "", "decide", what)


def as_layers(project: DdiskitProject, path: Path) -> list[Layer]:
    """Return the values as layers of the configuration, each with the file of ddiskit's that says them; `path` last."""
    made = project.conversion
    tables: dict[Path | None, dict[str, Any]] = {}
    lines: dict[Path | None, dict[KeyPath, int]] = {}
    for table, content in made.values.items():
        pairs = content.items() if isinstance(content, dict) else [("", content)]
        for name, value in pairs:
            given = made.settings.given.get(made.origins.get((table, name), ("", "")))
            file = (given.path if given else path) or path
            key: KeyPath = (table, name) if name else (table,)
            if name:
                tables.setdefault(file, {}).setdefault(table, {})[name] = value
            else:
                tables.setdefault(file, {})[table] = value
            if given and given.line:
                lines.setdefault(file, {})[key] = given.line
    files = [file for file in tables if file != path]
    return [Layer("ddiskit", file, tables.get(file, {}), lines.get(file, {})) for file in [*files, path]]


def is_override(text: str) -> bool:
    """Tell whether `[section.]key=value` (-C) is meant for ddiskit's configuration rather than for ours."""
    section, dot, _ = text.partition("=")[0].strip().lower().partition(".")
    # Without a section, ddiskit takes a key for one of [defaults].
    return section in SECTIONS if dot else ("defaults", section) in {**RULES, **LEFT_OUT}

"""What a repository holds: packages with their files, which of them stay, and what may not come in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from pkgkmod.errors import DifferentError

Compare = Callable[[str, str], int]
"""Compares two versions: below, at or above 0 for older, same, newer."""


def _plain(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or not path.parts or str(path) != value or not value.isprintable():
        raise ValueError("must be a plain path below the repository")
    return value


PlainPath = Annotated[str, AfterValidator(_plain)]
"""A path that does not lead out of the repository."""


class StoredFile(BaseModel):
    """A file of a repository."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: PlainPath
    """Below the repository's folder."""
    size: int
    """Bytes."""
    sha256: str


class Entry(BaseModel):
    """A package of a repository; a source package has several files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["binary", "source"]
    name: str
    version: str
    """Full version, as the format spells it: [E:]V-R."""
    counted_as: str
    """The version without the kernel in it: what `keep` counts."""
    arch: str
    source: tuple[str, str] = ("", "")
    """Name and version of the source package, where it is known."""
    files: tuple[StoredFile, ...]
    component: str = ""
    """Which part of the archive it is in (apt)."""
    paragraph: str = ""
    """What the index says of it (apt)."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What may be there once."""
        return self.kind, self.name, self.version, self.arch

    @property
    def label(self) -> str:
        """Name, version and architecture for messages."""
        return f"{self.name} {self.version} {self.arch}"


@dataclass(frozen=True)
class Incoming:
    """A package to publish, and where its files are now, in the order of `entry.files`."""

    entry: Entry
    places: tuple[Path, ...]


def merge(old: Iterable[Entry], incoming: Iterable[Incoming]) -> tuple[Entry, ...]:
    """Return the entries with new ones among them, in a fixed order.

    Raise DifferentError, which lists all of them, for packages and files that are there with other content.
    """
    entries = {entry.key: entry for entry in old}
    digests = {file.path: file.sha256 for entry in entries.values() for file in entry.files}
    faults: dict[str, None] = {}
    for new in (one.entry for one in incoming):
        there = entries.get(new.key)
        if there and {file.sha256 for file in there.files} != {file.sha256 for file in new.files}:
            faults[new.label] = None
        for file in new.files:
            if digests.setdefault(file.path, file.sha256) != file.sha256 and not there:
                faults[f"{new.label}: {PurePosixPath(file.path).name}"] = None
        entries.setdefault(new.key, new)
    if faults:
        raise DifferentError(
            f"{len(faults)} of the packages are in the repository already, with other content",
            details="\n".join(faults),
            hint="raise project.release or project.version: machines that have the old ones would not get the new ones",
        )
    return tuple(entries[key] for key in sorted(entries))


def newest(entries: Sequence[Entry], keep: int, compare: Compare) -> tuple[Entry, ...]:
    """Return the packages of the newest `keep` versions of each name and architecture; 0 keeps all.

    The source of a package that stays, stays as well.
    """
    if not keep:
        return tuple(entries)
    groups: dict[tuple[str, str, str], set[str]] = {}
    for entry in entries:
        groups.setdefault((entry.kind, entry.name, entry.arch), set()).add(entry.counted_as)
    order = functools.cmp_to_key(compare)
    kept = {group: set(sorted(versions, key=order)[-keep:]) for group, versions in groups.items()}
    stays = [entry for entry in entries if entry.counted_as in kept[entry.kind, entry.name, entry.arch]]
    sources = {entry.source for entry in stays if entry.kind == "binary"}
    return tuple(
        entry
        for entry in entries
        if entry.counted_as in kept[entry.kind, entry.name, entry.arch]
        or (entry.kind == "source" and (entry.name, entry.version) in sources)
    )

"""The list of what was imported, kept beside the files: so that an edit later can be named."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.sources.objects import Entry

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FileState:
    """Git's mode and blob id of a file."""

    mode: str
    object_id: str


@dataclass(frozen=True)
class Manifest:
    """The files as they were imported, and those that patches changed (None: removed), by path."""

    imported: Mapping[str, FileState]
    patched: Mapping[str, FileState | None]

    def expected(self) -> dict[str, FileState]:
        """Return all files as they are after patching."""
        after = {**self.imported, **self.patched}
        return {path: state for path, state in after.items() if state is not None}

    def save(self, folder: Path) -> None:
        """Write the list into `folder`."""
        content = {
            "imported": {path: _fact(state) for path, state in sorted(self.imported.items())},
            "patched": {path: state and _fact(state) for path, state in sorted(self.patched.items())},
        }
        (folder / MANIFEST).write_text(json.dumps(content) + "\n", encoding="ascii")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read the list from `folder`; raise OSError or ValueError if it is missing or damaged."""
        content = json.loads((folder / MANIFEST).read_text(encoding="ascii"))
        try:
            return cls(
                {path: _state(fact) for path, fact in content["imported"].items()},
                {path: fact and _state(fact) for path, fact in content["patched"].items()},
            )
        except (KeyError, TypeError, AttributeError) as fault:
            raise ValueError(f"{MANIFEST} is damaged: {fault}") from fault


def _fact(state: FileState) -> str:
    return f"{state.mode} {state.object_id}"


def _state(fact: str) -> FileState:
    mode, object_id = fact.split(" ")
    return FileState(mode, object_id)


def states(entries: Iterable[Entry]) -> dict[str, FileState]:
    """Return the states of imported files, by path."""
    return {entry.path: FileState(entry.mode, entry.object_id) for entry in entries}


def state_on_disk(path: Path, *, like: str = "") -> FileState | None:
    """Return the state of a file as git would record it; None if it is missing.

    `like` is an id that shows which hash the repository uses.
    """
    try:
        if path.is_symlink():
            return FileState("120000", _object_id("blob", os.fsencode(path.readlink()), like))
        mode = "100755" if path.stat().st_mode & 0o100 else "100644"
        return FileState(mode, _object_id("blob", path.read_bytes(), like))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def tree_id(files: Mapping[str, FileState], like: str) -> str:
    """Return the id of the git tree that holds `files`, by their paths relative to it."""
    entries: dict[str, tuple[str, str]] = {}
    below: dict[str, dict[str, FileState]] = {}
    for path, state in files.items():
        name, slash, rest = path.partition("/")
        if slash:
            below.setdefault(name, {})[rest] = state
        else:
            entries[name] = (state.mode, state.object_id)
    entries |= {name: ("40000", tree_id(inside, like)) for name, inside in below.items()}
    # Git sorts folders as if their names ended in a slash.
    ordered = sorted(entries.items(), key=lambda e: os.fsencode(e[0]) + (b"/" if e[1][0] == "40000" else b""))
    content = b"".join(
        mode.encode() + b" " + os.fsencode(name) + b"\0" + bytes.fromhex(object_id)
        for name, (mode, object_id) in ordered
    )
    return _object_id("tree", content, like)


def _object_id(kind: str, content: bytes, like: str) -> str:
    algorithm = "sha256" if len(like) == 64 else "sha1"
    return hashlib.new(algorithm, f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()

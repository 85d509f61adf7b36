"""The files of folders of sources, as git would keep them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pkgkmod.errors import SourceError
from pkgkmod.sources.unpack import LINK

MOST_FILES = 100_000
MOST_BYTES = 1024 * 1024 * 1024
"""What the sources of a driver may have: files, and bytes of all of them."""


@dataclass
class FolderTree:
    """Files by path, with mode and content; what is left out, and why; and when a file was changed last."""

    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    newest: int = 0
    """Seconds since 1970."""


def read_folders(folders: Mapping[str, Path]) -> FolderTree:
    """Return the files of `folders`, each below its name; raise SourceError if there is too much of them."""
    found = FolderTree()
    size = 0
    for name, folder in sorted(folders.items()):
        for path in _walk(folder):
            shown = str(PurePosixPath(name, path.relative_to(folder)))
            if why := _refusal(path, shown, folder):
                found.left_out[shown] = why
                continue
            facts = path.lstat()
            size += facts.st_size
            if len(found.files) >= MOST_FILES or size > MOST_BYTES:
                raise SourceError(f"{folder} is too large for a driver", hint="name the folder of the driver alone")
            found.newest = max(found.newest, int(facts.st_mtime))
            found.files[shown] = _read(path, facts.st_mode)
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(one for one in folders if one.lower() != ".git")
        links = [one for one in folders if Path(parent, one).is_symlink()]
        yield from (Path(parent, one) for one in sorted([*names, *links]) if one.lower() != ".git")


def _refusal(path: Path, shown: str, top: Path) -> str:
    if not shown.isprintable():
        return "its name is not printable"
    if path.is_symlink():
        target = path.readlink()
        inside = Path(os.path.normpath(path.parent / target)).is_relative_to(top)
        return "" if inside and not target.is_absolute() else f"a link to {target}, which leads out"
    return "" if path.is_file() else "neither a file nor a link"


def _read(path: Path, mode: int) -> tuple[str, bytes]:
    if stat.S_ISLNK(mode):
        return LINK, os.fsencode(path.readlink())
    return ("100755" if mode & stat.S_IXUSR else "100644"), path.read_bytes()

"""What is in a file system or an archive that somebody else made: names that lead nowhere else, and not too many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EntryKind = Literal["file", "folder", "link", "other"]

MOST = 100_000
"""Files, folders and links."""
_DEEPEST = 40
_LONGEST = 4096


class DamagedError(Exception):
    """An image or archive is not what its format asks for; the text says why."""


@dataclass(frozen=True)
class Entry:
    """A name in an image."""

    kind: EntryKind
    size: int = 0
    """Bytes of a file."""
    parts: tuple[tuple[int, int], ...] = ()
    """Where a file's content is in the image: offset and length, in bytes."""
    target: str = ""
    """What a link points to."""
    inode: int = 0
    """Number in the file system, where files are read by it."""


class Entries(dict[str, Entry]):
    """Entries by path, without a slash in front. Of two with the same path, the later one counts."""

    def put(self, path: str, entry: Entry) -> None:
        """Add an entry; raise DamagedError for a path that leads out, and if there are too many."""
        names = [name for name in path.split("/") if name not in ("", ".")]
        if ".." in names or "\0" in path:
            raise DamagedError(f"the name {path!r} in it leads out of it")
        if len(names) > _DEEPEST or len(path) > _LONGEST:
            raise DamagedError(f"the name {path[:40]!r}... in it is too long")
        if len(self) >= MOST:
            raise DamagedError(f"there are more than {MOST} files in it")
        if names:
            self[valid("/".join(names))] = entry

    def real(self, path: str) -> str | None:
        """Return where a path leads by way of links; None if it leads out, nowhere, or in a circle."""
        todo = [*reversed(path.split("/"))]
        done: list[str] = []
        links = 0
        while todo:
            name = todo.pop()
            if name == "..":
                if not done:
                    return None
                done.pop()
            elif name not in ("", "."):
                done.append(name)
            entry = self.get("/".join(done))
            if entry and entry.kind == "link":
                links += 1
                if links > _DEEPEST or not entry.target or entry.target.startswith("/"):
                    return None
                done.pop()
                todo += reversed(entry.target.split("/"))
        found = "/".join(done)
        return found if not found or found in self else None


def valid(path: str) -> str:
    """Return a path that other programs, and JSON, can be told: bytes that are no UTF-8 are written out."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_parts(entries: Entries, size: int) -> None:
    """Raise DamagedError if contents lie beyond the end of an image of `size` bytes, or are more than it can hold."""
    for path, entry in entries.items():
        if any(offset + length > size for offset, length in entry.parts):
            raise DamagedError(f"it is cut off: it has {size} bytes, and {path} lies behind them")
    # Hard links have the same parts; other files share none.
    if sum(length for parts in {entry.parts for entry in entries.values()} for _, length in parts) > size:
        raise DamagedError("its files are larger than it is")

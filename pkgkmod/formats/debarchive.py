"""The tar archives in a Debian package, copied with other contents of some files, and nothing else changed."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Protocol

LARGEST_FILE = 512 * 1024 * 1024
"""Bytes of a module, or of a file of control data, which is held in memory."""

_MODULE = re.compile(r"(?:/usr)?/lib/modules/[^/]+/.+\.ko(?:\.gz|\.xz|\.zst)?", re.DOTALL)
_CHUNK = 1024 * 1024
_BLOCK = 512
_RECORD = 20 * _BLOCK
"""What GNU tar fills its archives up to (tar's manual, "The Blocking Factor of an Archive")."""
_NAME, _SIZE, _SUM = slice(0, 100), slice(124, 136), slice(148, 156)
_LONGEST_NAME = 4096 + 2
_MOST_ENTRIES = 500_000
"""Files of an archive; the kernel's sources have about 90,000."""
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
# What dpkg unpacks; it refuses all other kinds (deb(5)).
_EMPTY = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)


class MalformedError(Exception):
    """The file is not what the format asks for."""


class Sink(Protocol):
    """Where the new archive goes."""

    def write(self, data: bytes) -> object:
        """Take some bytes."""


@dataclass(frozen=True)
class Entry:
    """A file in an archive."""

    path: str
    """Absolute."""
    name: str
    """As the archive spells it: `./control`."""
    kind: bytes
    size: int
    link: str
    """Absolute path of the other name, of hard links."""
    start: int
    """Where its headers begin, in bytes; long names have headers of their own."""
    content: int
    """Where its content begins."""
    mode: int = 0o644
    """Permissions."""
    target: str = ""
    """What a symbolic link names, as the archive spells it."""


@dataclass(frozen=True)
class Archive:
    """What an archive holds."""

    entries: tuple[Entry, ...]
    end: int
    """Where the last file ends; zeros follow."""
    length: int
    """Bytes of all."""

    def place(self, path: str) -> int | None:
        """Return the place of a regular file, None if it is not there."""
        found = (place for place, entry in enumerate(self.entries) if entry.path == path and entry.kind in _REGULAR)
        return next(found, None)

    @property
    def names(self) -> dict[int, tuple[str, ...]]:
        """All names of each regular file, hard links among them, by its place."""
        known: dict[str, int] = {}
        names: dict[int, tuple[str, ...]] = {}
        for place, entry in enumerate(self.entries):
            if entry.kind in _REGULAR:
                known[entry.path] = place
                names[place] = (entry.path,)
            elif entry.kind == tarfile.LNKTYPE:
                if entry.link not in known:
                    raise MalformedError(f"{entry.path} is another name of {entry.link}, which is not there")
                known[entry.path] = known[entry.link]
                names[known[entry.path]] += (entry.path,)
        return names

    @property
    def modules(self) -> dict[int, str]:
        """Paths of the kernel modules, by place; of hard links, the first name that is one."""
        found: dict[int, str] = {}
        for place, names in self.module_names.items():
            if not 0 < self.entries[place].size <= LARGEST_FILE:
                raise MalformedError(f"the module {names[0]} has {self.entries[place].size} bytes")
            found[place] = names[0]
        return found

    @property
    def module_names(self) -> dict[int, tuple[str, ...]]:
        """All paths of each kernel module, hard links among them, by place; it may be empty, or too large."""
        named = {place: tuple(filter(_MODULE.fullmatch, names)) for place, names in self.names.items()}
        return {place: names for place, names in named.items() if names}


def read_archive(file: IO[bytes]) -> Archive:
    """Read the headers of an archive; raise MalformedError if it is damaged, or of a kind that dpkg refuses."""
    length = file.seek(0, 2)
    file.seek(0)
    entries: list[Entry] = []
    paths: set[str] = set()
    while (entry := _next_entry(file, length)) is not None:
        if entry.path in paths and entry.kind != tarfile.DIRTYPE:
            raise MalformedError(f"{entry.path} is twice in the archive")
        if len(entries) == _MOST_ENTRIES:
            raise MalformedError(f"its archive holds more than {_MOST_ENTRIES} files")
        paths.add(entry.path)
        entries.append(entry)
    end = file.tell() - _BLOCK
    while data := file.read(_CHUNK):
        if data.strip(b"\0"):
            raise MalformedError("something follows the archive")
    return Archive(tuple(entries), end, length)


def copy_archive(
    source: IO[bytes], archive: Archive, sink: Sink, replace: Mapping[int, Callable[[bytes], bytes]]
) -> None:
    """Copy an archive with other contents of the files at some places."""
    written = 0
    for place, entry in enumerate(archive.entries):
        source.seek(entry.start)
        if place not in replace:
            written += _copy(source, sink, _padded(entry.size) + entry.content - entry.start)
            continue
        heads = _exactly(source, entry.content - entry.start)
        content = _exactly(source, entry.size)
        new = replace[place](content)
        if new != content:
            heads = heads[:-_BLOCK] + _resized(heads[-_BLOCK:], len(new))
        sink.write(heads)
        sink.write(new)
        sink.write(bytes(_padded(len(new)) - len(new)))
        written += len(heads) + _padded(len(new))
    zeros = archive.length - archive.end
    # As it was filled up before: to whole records, or by so many blocks.
    sink.write(bytes(-written % _RECORD or _RECORD if _is_filled(archive) else zeros))


def content_of(source: IO[bytes], entry: Entry) -> bytes:
    """Return the content of a file; raise MalformedError if it is too large to be held in memory."""
    if entry.size > LARGEST_FILE:
        raise MalformedError(f"{entry.path} has {entry.size} bytes")
    source.seek(entry.content)
    return _exactly(source, entry.size)


def renamed(head: bytes, name: str) -> bytes:
    """Return a header with another name, of at most 99 bytes, and the checksum that goes with it."""
    return _summed(name.encode("ascii").ljust(_NAME.stop, b"\0") + head[_NAME.stop :])


def _is_filled(archive: Archive) -> bool:
    zeros = archive.length - archive.end
    return archive.length % _RECORD == 0 and 2 * _BLOCK <= zeros < _RECORD + 2 * _BLOCK


def _next_entry(file: IO[bytes], length: int) -> Entry | None:
    """Return the next file, behind which the archive is then; None at the zeros of its end."""
    start = file.tell()
    long: dict[bytes, str] = {}
    while (info := _header(file)) is not None and info.type in _LONG:
        if not 0 < info.size <= _LONGEST_NAME:
            raise MalformedError("a name in the archive is too long")
        text = _exactly(file, _padded(info.size))[: info.size].rstrip(b"\0")
        long[info.type] = text.decode("utf-8", "surrogateescape")
    if info is None:
        if long:
            raise MalformedError("its archive ends with the name of a file that is not there")
        return None
    is_regular = info.type in _REGULAR
    if not is_regular and info.type not in _EMPTY:
        raise MalformedError(f"its archive holds an entry of type {info.type!r}, which dpkg does not unpack")
    content = file.tell()
    if info.size < 0 or (info.size and not is_regular) or content + _padded(info.size) > length:
        raise MalformedError(f"{info.name!r} has {info.size} bytes in an archive of {length}")
    file.seek(_padded(info.size), 1)
    name = long.get(tarfile.GNUTYPE_LONGNAME, info.name)
    target = long.get(tarfile.GNUTYPE_LONGLINK, info.linkname)
    where = _absolute(target)
    return Entry(_absolute(name), name, info.type, info.size, where, start, content, info.mode & 0o7777, target)


def _header(file: IO[bytes]) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(_exactly(file, _BLOCK), "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        # One block of zeros ends it; Python's class for that is not public.
        if type(error).__name__ == "EOFHeaderError":
            return None
        raise MalformedError(f"its archive is damaged: {error}") from None
    except ValueError as error:
        raise MalformedError(f"its archive is damaged: {error}") from None


def _absolute(name: str) -> str:
    return "/" + name.removeprefix("./").strip("/")


def _padded(size: int) -> int:
    return size + -size % _BLOCK


def _resized(head: bytes, size: int) -> bytes:
    """Return a header with another size, and the checksum that goes with it."""
    return _summed(head[: _SIZE.start] + b"%011o" % size + head[_SIZE.stop - 1 :])


def _summed(head: bytes) -> bytes:
    total = sum(head) - sum(head[_SUM]) + len(head[_SUM]) * ord(" ")
    return head[: _SUM.start] + b"%06o" % total + head[_SUM.stop - 2 :]


def _copy(source: IO[bytes], sink: Sink, size: int) -> int:
    for data in _chunks(source, size):
        sink.write(data)
    return size


def _chunks(source: IO[bytes], size: int) -> Iterator[bytes]:
    while size:
        data = _exactly(source, min(size, _CHUNK))
        size -= len(data)
        yield data


def _exactly(source: IO[bytes], size: int) -> bytes:
    data = source.read(size)
    if len(data) != size:
        raise MalformedError("its archive is not complete")
    return data

"""Cpio archives of the form that the kernel's initrd has ("newc"): read, several of them one after another; written.

The form is described in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import lzma
import re
import stat
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from pkgkmod.formats.entries import DamagedError, Entries, Entry

_HEAD = re.compile(rb"07070[12][0-9A-Fa-f]{104}")
_HEAD_LENGTH = 110
_TRAILER = "TRAILER!!!"
_LONGEST_NAME = 4096
_LONGEST_TARGET = 4096
_CHUNK = 1 << 20
_MEMORY = 1 << 28  # what xz may need
_MAGIC = {
    b"0707": "cpio",
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\x02\x21\x4c\x18": "lz4",
    b"\x5d\0\0": "lzma",
    b"\x89LZO": "lzo",
}


class Sink(Protocol):
    """Where an archive goes."""

    def write(self, data: bytes, /) -> object:
        """Take some bytes."""


@dataclass(frozen=True)
class Member:
    """A file, folder, link or device to be written."""

    path: str
    """Without a slash at its beginning."""
    mode: int
    """Kind and permissions, as in st_mode."""
    content: bytes = b""
    """Of a symbolic link, what it names."""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device."""


def write_archive(sink: Sink, members: Iterable[Member]) -> None:
    """Write an archive: the same members make the same bytes. All belong to root, and are as old as 1970."""
    trailer = Member(_TRAILER, 0)
    for number, member in enumerate((*members, trailer), 1):
        name = member.path.encode("utf-8", "surrogateescape") + b"\0"
        links = 2 if stat.S_ISDIR(member.mode) else 1
        inode = 0 if member is trailer else number
        fields = (inode, member.mode, 0, 0, links, 0, len(member.content), 0, 0, *member.device, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        sink.write(head + bytes(-len(head) % 4))
        sink.write(member.content + bytes(-len(member.content) % 4))


def kind_at(source: BinaryIO, offset: int) -> str:
    """Return what begins at an offset: cpio, a compression (gzip, xz, zstd, ...), or nothing that is known."""
    source.seek(offset)
    head = source.read(8)
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")


def skip_zeros(source: BinaryIO, offset: int) -> int:
    """Return where the zeros end that are put between archives."""
    source.seek(offset)
    while data := source.read(_CHUNK):
        rest = data.lstrip(b"\0")
        if rest:
            return offset + len(data) - len(rest)
        offset += len(data)
    return offset


def read_archive(source: BinaryIO, offset: int, entries: Entries) -> int:
    """Put the entries of the archive at an offset to others, and return where it ends. Raise DamagedError."""
    linked: dict[tuple[bytes, ...], list[str]] = {}
    while True:
        path, fields, content = _next_member(source, offset)
        size = fields[6]
        offset = content + size + -size % 4
        if path == _TRAILER:
            return offset
        kind = stat.S_IFMT(fields[1])
        if kind == stat.S_IFREG:
            entry = Entry("file", size, ((content, size),) if size else ())
        elif kind == stat.S_IFDIR:
            entry = Entry("folder")
        elif kind == stat.S_IFLNK:
            entry = Entry("link", target=_target(source, content, size))
        else:
            entry = Entry("other")
        entries.put(path, entry)
        if kind == stat.S_IFREG and fields[4] > 1:
            # Of hard links, one has the content, the last as a rule.
            names = linked.setdefault(tuple(b"%x" % fields[n] for n in (0, 7, 8)), [])
            names.append(path)
            for name in names if size else ():
                entries.put(name, entry)


def _next_member(source: BinaryIO, offset: int) -> tuple[str, list[int], int]:
    """Return the path of a member, the numbers of its header, and where its content begins."""
    source.seek(offset)
    head = source.read(_HEAD_LENGTH)
    if len(head) < _HEAD_LENGTH:
        raise DamagedError("the archive is cut off")
    if not _HEAD.fullmatch(head):
        raise DamagedError(f"there is something else than a file at byte {offset} of the archive")
    fields = [int(head[place : place + 8], 16) for place in range(6, _HEAD_LENGTH, 8)]
    length = fields[11]
    if not 0 < length <= _LONGEST_NAME:
        raise DamagedError("a name in the archive is too long")
    name = source.read(length)
    if len(name) < length:
        raise DamagedError("the archive is cut off")
    return name.rstrip(b"\0").decode("utf-8", "surrogateescape"), fields, offset + -(-(_HEAD_LENGTH + length) // 4) * 4


def _target(source: BinaryIO, offset: int, size: int) -> str:
    if size > _LONGEST_TARGET:
        raise DamagedError("a link in the archive is too long")
    source.seek(offset)
    return source.read(size).decode("utf-8", "surrogateescape")


def unpack(source: BinaryIO, offset: int, sink: BinaryIO, kind: str, limit: int) -> int:
    """Unpack gzip or xz to its end, and return where that is; raise DamagedError if it is more than `limit` bytes."""
    source.seek(offset)
    unpacker = zlib.decompressobj(wbits=31) if kind == "gzip" else lzma.LZMADecompressor(lzma.FORMAT_XZ, _MEMORY)
    done = 0
    try:
        for data in _inflated(source, unpacker) if kind == "gzip" else _unpacked(source, unpacker):
            done += len(data)
            if done > limit:
                raise DamagedError(f"unpacked, it is larger than {limit >> 20} MiB")
            sink.write(data)
    except (zlib.error, lzma.LZMAError) as error:
        raise DamagedError(f"it cannot be unpacked: {error}") from None
    if not unpacker.eof:
        raise DamagedError("it is cut off")
    return source.tell() - len(unpacker.unused_data)


def end_of_zstd(source: BinaryIO, offset: int) -> int:
    """Return where a zstd frame ends (RFC 8878, 3.1.1); raise DamagedError if it is cut off."""
    source.seek(offset + 4)
    (flags,) = _numbers(source, 1)
    single, content, dictionary = flags >> 5 & 1, flags >> 6, flags & 3
    # The window, the identifier of a dictionary, and the size of the content.
    place = offset + 5 + (not single) + (0, 1, 2, 4)[dictionary] + (single, 2, 4, 8)[content]
    last = False
    while not last:
        source.seek(place)
        head = int.from_bytes(_numbers(source, 3), "little")
        last, kind, size = bool(head & 1), head >> 1 & 3, head >> 3
        place += 3 + (1 if kind == 1 else size)  # one byte that is repeated
    return place + (4 if flags & 4 else 0)  # a checksum


def _numbers(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise DamagedError("it is cut off")
    return data


def _inflated(source: BinaryIO, unpacker: Any) -> Iterator[bytes]:
    """Yield what gzip unpacks to, in pieces of a bounded size."""
    while not unpacker.eof and (data := unpacker.unconsumed_tail or source.read(_CHUNK)):
        yield unpacker.decompress(data, _CHUNK)


def _unpacked(source: BinaryIO, unpacker: Any) -> Iterator[bytes]:
    """Yield what xz unpacks to, in pieces of a bounded size."""
    while not unpacker.eof:
        data = source.read(_CHUNK) if unpacker.needs_input else b""
        if unpacker.needs_input and not data:
            return
        yield unpacker.decompress(data, _CHUNK)

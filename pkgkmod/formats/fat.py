"""Reading FAT file systems: names, and where the contents are.

The format is described in Microsoft's "FAT32 File System Specification" (fatgen103). A reader of our own, since mtools
takes names for patterns and says no sizes; nothing of an image is trusted, and nothing is written.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pkgkmod.formats.entries import DamagedError, Entries, Entry

_LARGEST_TABLE = 128 << 20
_LARGEST_FOLDER = 2 << 20  # 65536 entries, the most that the format allows
_FOLDER, _LABEL, _LONG = 0x10, 0x08, 0x0F
_LOWER_BASE, _LOWER_ENDING = 0x08, 0x10  # Windows NT's flags of short names


@dataclass(frozen=True)
class _Shape:
    """Where the parts of the file system are, in bytes from its beginning."""

    bits: int
    cluster: int
    """Bytes of a cluster."""
    clusters: int
    table: int
    root: int
    """Offset of the root folder (FAT12, FAT16), or its first cluster (FAT32)."""
    root_size: int
    """0 for FAT32, where it is a folder like others."""
    data: int
    label: str
    size: int


@dataclass(frozen=True)
class Fat:
    """What is in a FAT file system."""

    label: str
    size: int
    """Bytes, as the file system says."""
    entries: Entries


def is_fat(head: bytes) -> bool:
    """Tell whether a first sector is that of a FAT file system."""
    return _shape(head) is not None


def read_fat(descriptor: int, start: int, end: int) -> Fat:
    """Return what is in the file system between two offsets of a file. Raise DamagedError."""
    shape = _shape(os.pread(descriptor, 512, start))
    if shape is None:
        raise DamagedError("it is not a FAT file system")
    if start + shape.size > end:
        raise DamagedError(f"it is cut off: the file system has {shape.size} bytes, of which {end - start} are there")
    return _Reader(descriptor, start, shape).read()


def _shape(head: bytes) -> _Shape | None:
    """Return the shape of a file system by its first sector; None if that says something impossible."""
    if len(head) < 512 or head[510:] != b"\x55\xaa" or head[0] not in (0xEB, 0xE9):
        return None
    sector, per_cluster, reserved, tables, roots, sectors = struct.unpack_from("<HBHBHH", head, 11)
    (table_sectors,) = struct.unpack_from("<H", head, 22)
    sectors = sectors or struct.unpack_from("<I", head, 32)[0]
    large_table, root_cluster = struct.unpack_from("<I", head, 36)[0], struct.unpack_from("<I", head, 44)[0]
    powers = (sector in (512, 1024, 2048, 4096), per_cluster and not per_cluster & (per_cluster - 1))
    if not (all(powers) and reserved and tables in (1, 2) and (table_sectors or large_table)):
        return None
    root_size = -(-roots * 32 // sector) * sector
    root = (reserved + tables * (table_sectors or large_table)) * sector
    clusters = (sectors * sector - root - root_size) // (sector * per_cluster)
    if clusters < 1 or (table_sectors and not roots):
        return None
    bits = 12 if clusters < 4085 else 16 if clusters < 65525 else 32
    if (bits == 32) != (not table_sectors):
        return None
    label = head[71:82] if bits == 32 else head[43:54]
    return _Shape(
        bits=bits,
        cluster=sector * per_cluster,
        clusters=clusters,
        table=reserved * sector,
        root=root_cluster if bits == 32 else root,
        root_size=root_size,
        data=root + root_size,
        label="" if label == b"NO NAME    " else _text(label),
        size=sectors * sector,
    )


def _text(name: bytes) -> str:
    return name.decode("cp437").rstrip(" \0")


class _Reader:
    """Reads one file system, and counts its clusters: none belongs to two files."""

    def __init__(self, descriptor: int, start: int, shape: _Shape) -> None:
        self._descriptor, self._start, self._shape = descriptor, start, shape
        self._left = shape.clusters
        self._label = shape.label
        size = -(-(shape.clusters + 2) * shape.bits // 8)
        if size > _LARGEST_TABLE:
            raise DamagedError("the file system is too large")
        self._table = os.pread(descriptor, size, start + shape.table)
        if len(self._table) < size:
            raise DamagedError("it is cut off")

    def read(self) -> Fat:
        """Walk through all folders, each once."""
        shape, entries = self._shape, Entries()
        root = self._folder(shape.root) if shape.bits == 32 else self._bytes([(shape.root, shape.root_size)])
        todo = [("", root)]
        while todo:
            place, content = todo.pop()
            for name, attributes, first, size in _names(content):
                first &= 0xFFFFFFFF if shape.bits == 32 else 0xFFFF  # OS/2 kept something else above
                if attributes & _LABEL:
                    if not place:
                        self._label = name
                    continue
                path = f"{place}/{name}"
                if "/" in name or not name:
                    raise DamagedError(f"the name {name!r} in it is none")
                if attributes & _FOLDER:
                    entries.put(path, Entry("folder"))
                    todo.append((path, self._folder(first)))
                else:
                    entries.put(path, Entry("file", size, self._parts(path, first, size)))
        return Fat(self._label, shape.size, entries)

    def _next(self, cluster: int) -> int:
        """Return the cluster behind another one; 0 at the end."""
        bits = self._shape.bits
        if bits == 12:
            (value,) = struct.unpack_from("<H", self._table + b"\0", cluster * 3 // 2)
            value = value >> 4 if cluster % 2 else value & 0xFFF
        elif bits == 16:
            (value,) = struct.unpack_from("<H", self._table, cluster * 2)
        else:
            value = struct.unpack_from("<I", self._table, cluster * 4)[0] & 0x0FFFFFFF
        return 0 if value >= (0x0FFFFFF8 if bits == 32 else 0xFFF8 if bits == 16 else 0xFF8) else value

    def _chain(self, cluster: int) -> Iterator[int]:
        """Yield the offsets of a file's clusters."""
        while cluster:
            if not 2 <= cluster < self._shape.clusters + 2 or not self._left:
                raise DamagedError("its table of clusters is damaged")
            self._left -= 1
            yield self._shape.data + (cluster - 2) * self._shape.cluster
            cluster = self._next(cluster)

    def _parts(self, path: str, first: int, size: int) -> tuple[tuple[int, int], ...]:
        parts: list[list[int]] = []
        left = size
        for offset in self._chain(first) if size else ():
            length = min(left, self._shape.cluster)
            if parts and sum(parts[-1]) == offset:
                parts[-1][1] += length
            else:
                parts.append([offset, length])
            left -= length
            if not left:
                break
        if left:
            raise DamagedError(f"the end of {path[1:]} is missing")
        return tuple((self._start + offset, length) for offset, length in parts)

    def _folder(self, first: int) -> bytes:
        parts = []
        for offset in self._chain(first):
            parts.append((offset, self._shape.cluster))
            if len(parts) * self._shape.cluster > _LARGEST_FOLDER:
                raise DamagedError("a folder is too large")
        return self._bytes(parts)

    def _bytes(self, parts: list[tuple[int, int]]) -> bytes:
        return b"".join(os.pread(self._descriptor, length, self._start + offset) for offset, length in parts)


def _names(folder: bytes) -> Iterator[tuple[str, int, int, int]]:
    """Yield name, attributes, first cluster and size of what is in a folder."""
    long: dict[int, bytes] = {}
    for place in range(0, len(folder) - 31, 32):
        record = folder[place : place + 32]
        if not record[0]:
            return
        if record[0] == 0xE5:  # removed
            long.clear()
        elif record[11] & 0x3F == _LONG:
            if record[0] & 0x40:
                long.clear()
            long[record[0] & 0x3F] = bytes([record[13]]) + record[1:11] + record[14:26] + record[28:32]
        else:
            name = _long_name(long, record) or _short_name(record)
            long.clear()
            if name not in (".", ".."):
                high, low = struct.unpack_from("<H", record, 20)[0], struct.unpack_from("<H", record, 26)[0]
                yield name, record[11], high << 16 | low, struct.unpack_from("<I", record, 28)[0]


def _long_name(long: dict[int, bytes], record: bytes) -> str:
    """Return the long name of a record; empty if those before it belong to another one."""
    check = 0
    for byte in record[:11]:
        check = ((check >> 1) + ((check & 1) << 7) + byte) & 0xFF
    pieces = [long.get(number, b"") for number in range(1, len(long) + 1)]
    if not pieces or any(not piece or piece[0] != check for piece in pieces):
        return ""
    text = b"".join(piece[1:] for piece in pieces).decode("utf-16-le", "replace")
    return text.partition("\0")[0]


def _short_name(record: bytes) -> str:
    if record[11] & _LABEL:
        return _text(record[:11])
    first = b"\xe5" if record[0] == 0x05 else record[:1]
    base, ending = _text(first + record[1:8]), _text(record[8:11])
    base = base.lower() if record[12] & _LOWER_BASE else base
    ending = ending.lower() if record[12] & _LOWER_ENDING else ending
    return f"{base}.{ending}" if ending else base

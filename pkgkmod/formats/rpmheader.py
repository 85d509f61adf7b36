"""The headers of an RPM package: an index of tags and a store of their values (rpm's manual, "RPM v4 Package format").

A header is not changed: `patched` returns another one, in which values of the same length took the place of some.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import IO

MOST_BYTES = 64 * 1024 * 1024
"""Of a header; one of 13,000 files has 1.7 MB."""
MOST_FILES = 250_000
"""Of a package, or values of another tag that is read; the kernel's sources have 90,000 files."""
_MOST_TEXTS = 1 << 20  # of any tag; all are looked at, for where they end

_MAGIC = b"\x8e\xad\xe8\x01\0\0\0\0"
_ENTRY = struct.Struct(">IIiI")  # tag, type, offset in the store, count
_START = 16  # the magic, and the lengths of index and store
_INT16, _INT32, _INT64, _STRING, _BIN, _STRINGS, _TRANSLATED = 3, 4, 5, 6, 7, 8, 9
_WIDTHS = {1: 1, 2: 1, _INT16: 2, _INT32: 4, _INT64: 8, _BIN: 1}
_LETTERS = {2: "B", _INT16: "H", _INT32: "I", _INT64: "Q"}


class Tag(IntEnum):
    """Tags of the header that are read or written here (rpm, include/rpm/rpmtag.h)."""

    HEADERIMMUTABLE = 63
    LONGARCHIVESIZE = 271
    NAME = 1000
    VERSION = 1001
    RELEASE = 1002
    EPOCH = 1003
    SUMMARY = 1004
    BUILDTIME = 1006
    SIZE = 1009
    ARCH = 1022
    FILESIZES = 1028
    FILEMODES = 1030
    FILEDIGESTS = 1035
    FILEFLAGS = 1037
    SOURCERPM = 1044
    ARCHIVESIZE = 1046
    PROVIDENAME = 1047
    REQUIRENAME = 1049
    FILEDEVICES = 1095
    FILEINODES = 1096
    SOURCEPACKAGE = 1106
    PROVIDEFLAGS = 1112
    PROVIDEVERSION = 1113
    DIRINDEXES = 1116
    BASENAMES = 1117
    DIRNAMES = 1118
    PAYLOADFORMAT = 1124
    PAYLOADCOMPRESSOR = 1125
    PAYLOADFLAGS = 1126
    LONGFILESIZES = 5008
    LONGSIZE = 5009
    FILEDIGESTALGO = 5011
    PAYLOADDIGEST = 5092
    PAYLOADDIGESTALGO = 5093
    PAYLOADDIGESTALT = 5097
    PAYLOADSIZE = 5112
    PAYLOADSIZEALT = 5113
    RPMFORMAT = 5114
    PAYLOADSHA512 = 5121
    PAYLOADSHA512ALT = 5122
    PAYLOADSHA3_256 = 5123
    PAYLOADSHA3_256ALT = 5124


class SignatureTag(IntEnum):
    """Tags of the signature header: digests and sizes, and in `SIGNATURES` what only the signer can make."""

    HEADERSIGNATURES = 62
    SHA1 = 269
    LONGSIZE = 270
    LONGARCHIVESIZE = 271
    SHA256 = 273
    SHA3_256 = 279
    RESERVED = 999
    SIZE = 1000
    MD5 = 1004
    PAYLOADSIZE = 1007
    RESERVEDSPACE = 1008


FILE_SIGNATURES = frozenset({274, 275, 276, 277})
"""Signatures of single files: IMA, fs-verity."""

SIGNATURES = frozenset({267, 268, 278, 1002, 1005, 1006}) | FILE_SIGNATURES
"""Signatures of the package (DSA, RSA, OPENPGP, PGP, GPG, PGP5) and of its files."""


class MalformedError(Exception):
    """The file is not what the format asks for."""


@dataclass(frozen=True)
class Entry:
    """Where the value of a tag is: `start` and `end` count from the beginning of the header."""

    type: int
    count: int
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """A header, and where each value lies in it."""

    blob: bytes
    """All of it, from its magic on: what the header's digests are about."""
    entries: Mapping[int, Entry]

    def __contains__(self, tag: int) -> bool:
        return tag in self.entries

    def raw(self, tag: int) -> bytes:
        """Return a value as it is stored; raise MalformedError if it is not there."""
        entry = self._entry(tag)
        return self.blob[entry.start : entry.end]

    def numbers(self, tag: int) -> list[int]:
        """Return numbers; raise MalformedError if there are none, or something else."""
        entry = self._entry(tag)
        if entry.type not in _LETTERS or entry.count > MOST_FILES:
            raise MalformedError(f"tag {int(tag)} holds no numbers, or too many")
        return list(struct.unpack(f">{entry.count}{_LETTERS[entry.type]}", self.raw(tag)))

    def number(self, tag: int) -> int:
        """Return a single number."""
        return self.numbers(tag)[0]

    def texts(self, tag: int) -> list[str]:
        """Return texts; what is no UTF-8 is kept as surrogates."""
        entry = self._entry(tag)
        if entry.type not in (_STRING, _STRINGS, _TRANSLATED) or entry.count > MOST_FILES:
            raise MalformedError(f"tag {int(tag)} holds no text, or too much")
        return [text.decode("utf-8", "surrogateescape") for text in self.raw(tag)[:-1].split(b"\0")]

    def text(self, tag: int) -> str:
        """Return a single text."""
        return self.texts(tag)[0]

    def with_numbers(self, tag: int, values: Iterable[int]) -> Header:
        """Return the header with other numbers; raise MalformedError if one is too large for its field."""
        values, entry = tuple(values), self._entry(tag)
        try:
            return self.patched({tag: struct.pack(f">{entry.count}{_LETTERS[entry.type]}", *values)})
        except (struct.error, KeyError):
            raise MalformedError(f"tag {int(tag)} cannot hold {max(values, default=0)}") from None

    def with_texts(self, tag: int, values: Iterable[str]) -> Header:
        """Return the header with other texts, as long as those that are there."""
        raw = b"".join(value.encode("utf-8", "surrogateescape") + b"\0" for value in values)
        return self.patched({tag: raw})

    def patched(self, values: Mapping[int, bytes]) -> Header:
        """Return the header with other values of the same length."""
        blob = bytearray(self.blob)
        for tag, value in values.items():
            entry = self._entry(tag)
            if len(value) != entry.end - entry.start:
                raise MalformedError(f"the value of tag {int(tag)} is {entry.end - entry.start} bytes long")
            blob[entry.start : entry.end] = value
        return Header(bytes(blob), self.entries)

    def _entry(self, tag: int) -> Entry:
        if tag not in self.entries:
            raise MalformedError(f"it has no tag {int(tag)}")
        return self.entries[tag]


def read_header_blob(file: IO[bytes], left: int, region: int) -> Header:
    """Read a header, of which `region` is the tag that encloses it; `left` bytes of the file are there to read.

    Raise MalformedError unless every value lies where rpm itself accepts it (rpm, lib/header.c).
    """
    start = file.read(_START)
    if len(start) < _START or not start.startswith(_MAGIC[:4]):
        raise MalformedError("a header does not begin as one")
    count, length = struct.unpack(">II", start[8:])
    whole = _START + count * _ENTRY.size + length
    if not 0 < count < 65536 or length > MOST_BYTES or whole > left:
        raise MalformedError(f"a header says that it has {count} entries and {length} bytes")
    blob = start + file.read(whole - _START)
    if len(blob) < whole:
        raise MalformedError("it ends in a header")
    return Header(blob, _entries(blob, count, region))


def _entries(blob: bytes, count: int, region: int) -> dict[int, Entry]:
    store = _START + count * _ENTRY.size
    entries: dict[int, Entry] = {}
    end = store
    tag, kind, offset, size = _ENTRY.unpack_from(blob, _START)
    trailer = _ENTRY.pack(region, _BIN, -count * _ENTRY.size, _ENTRY.size)
    if (tag, kind, size) != (region, _BIN, _ENTRY.size) or blob[store + max(0, offset) :] != trailer:
        raise MalformedError("a header is not one region, as rpmbuild writes it")
    for number in range(1, count):
        tag, kind, offset, size = _ENTRY.unpack_from(blob, _START + number * _ENTRY.size)
        start = store + offset
        if start < end or tag in entries or not 0 < size <= len(blob):
            raise MalformedError(f"the value of tag {tag} lies where it must not")
        end = _end(blob, kind, start, size)
        if end > len(blob) - _ENTRY.size:
            raise MalformedError(f"the value of tag {tag} leads out of the header")
        entries[tag] = Entry(kind, size, start, end)
    return entries


def _end(blob: bytes, kind: int, start: int, count: int) -> int:
    if kind in _WIDTHS:
        return start + count * _WIDTHS[kind]
    if kind not in (_STRING, _STRINGS, _TRANSLATED) or count > _MOST_TEXTS or (kind == _STRING and count != 1):
        raise MalformedError(f"{count} values of type {kind} are not known")
    for _ in range(count):
        start = blob.find(b"\0", start) + 1
        if not start:
            raise MalformedError("a text does not end")
    return start


def signature_header(values: Mapping[int, bytes], size: int) -> bytes:
    """Return a signature header of `size` bytes, if that is enough: what is left is reserved for signatures.

    Values are digests and sizes as they are stored, by SignatureTag.
    """
    made = _packed(values)
    reserved = size - len(made) - _ENTRY.size
    return _packed({**values, SignatureTag.RESERVEDSPACE: bytes(reserved)}) if reserved > 0 else made


def _packed(values: Mapping[int, bytes]) -> bytes:
    index, store = b"", b""
    for tag, value in sorted(values.items()):
        kind = _signature_type(tag)
        store += bytes(-len(store) % (_WIDTHS[kind] if kind in (_INT32, _INT64) else 1))
        index += _ENTRY.pack(tag, kind, len(store), len(value) if kind == _BIN else 1)
        store += value
    count = len(values) + 1
    region = (SignatureTag.HEADERSIGNATURES, _BIN)
    index = _ENTRY.pack(*region, len(store), _ENTRY.size) + index
    store += _ENTRY.pack(*region, -count * _ENTRY.size, _ENTRY.size)
    return _MAGIC + struct.pack(">II", count, len(store)) + index + store


def _signature_type(tag: int) -> int:
    if tag in (SignatureTag.SIZE, SignatureTag.PAYLOADSIZE):
        return _INT32
    if tag in (SignatureTag.LONGSIZE, SignatureTag.LONGARCHIVESIZE):
        return _INT64
    return _STRING if tag in (SignatureTag.SHA1, SignatureTag.SHA256, SignatureTag.SHA3_256) else _BIN

"""How a module is compressed, and whether the kernel's own decompressors read it: by the first bytes of the file."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

Kind = Literal["", "gzip", "xz", "zstd"]

ENDINGS: dict[Kind, str] = {"": ".ko", "gzip": ".ko.gz", "xz": ".ko.xz", "zstd": ".ko.zst"}

_XZ, _ZSTD, _GZIP = b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x1f\x8b"
# The .xz file format 1.1.0, 2.1.1.2.
_CHECKS = {0: "none", 1: "CRC32", 4: "CRC64", 10: "SHA-256"}
_FILTERS = {0x03: "delta", 0x04: "x86", 0x05: "powerpc", 0x06: "ia64", 0x07: "arm", 0x08: "armthumb", 0x09: "sparc"}
_LZMA2 = 0x21
# lib/xz/xz_dec_stream.c: CRC32, or none at all. lib/decompress_unxz.c and lib/xz/Kconfig: filters by architecture.
_KERNEL_CHECKS = ("none", "CRC32")
_ZSTD_WINDOW = 1 << 27  # ZSTD_WINDOWLOG_LIMIT_DEFAULT: more has to be asked for, and nobody asks
_GZIP_NAME = 0x08


@dataclass(frozen=True)
class Compression:
    """What the head of a compressed file says; `kind` is empty for one that is not compressed."""

    kind: Kind
    check: str = ""
    """xz: what the content is checked with."""
    dictionary: int = 0
    """xz: bytes of the dictionary; 0 if it cannot be told."""
    filters: tuple[str, ...] = ()
    """xz: filters besides LZMA2."""
    window: int = 0
    """zstd: bytes of the window."""
    flags: int = 0
    """gzip: what the header has besides what all have."""

    @property
    def refused(self) -> str:
        """Say why the kernel's decompressor (CONFIG_MODULE_DECOMPRESS) refuses it; nothing if it does not."""
        if self.kind == "xz" and self.check not in _KERNEL_CHECKS:
            return f"its content is checked with {self.check}, and the kernel knows CRC32 only"
        if self.kind == "xz" and "delta" in self.filters:
            return "it uses the filter 'delta', which the kernel has not"
        if self.kind == "zstd" and self.window > _ZSTD_WINDOW:
            return f"its window of {self.window >> 20} MiB is larger than the 128 MiB that the kernel takes"
        # kernel/module/decompress.c: module_gzip_header_len
        if self.kind == "gzip" and self.flags & ~_GZIP_NAME:
            return "its gzip header has parts that the kernel does not skip"
        return ""


def compression_of(content: bytes) -> Compression:
    """Return how a file is compressed; what is cut off or damaged behind the first bytes is left at zero."""
    if content.startswith(_XZ):
        return _xz(content)
    if content.startswith(_ZSTD):
        return Compression("zstd", window=_zstd_window(content))
    if content.startswith(_GZIP):
        return Compression("gzip", flags=content[3] if len(content) > 3 else 0)
    return Compression("")


def _xz(content: bytes) -> Compression:
    number = content[7] & 0x0F if len(content) > 7 else 0
    filters, dictionary = [], 0
    # The first block's header: its size, flags, sizes if they are there, then the filters.
    at = 14
    flags = content[13] if len(content) > 13 else 0
    for bit in (0x40, 0x80):
        if flags & bit:
            _, at = _number(content, at)
    for _ in range((flags & 0x03) + 1):
        name, at = _number(content, at)
        size, at = _number(content, at)
        if name == _LZMA2 and size == 1 and at < len(content):
            dictionary = _dictionary(content[at])
        elif name in _FILTERS:
            filters.append(_FILTERS[name])
        at += size
    return Compression("xz", _CHECKS.get(number, f"check {number}"), dictionary, tuple(filters))


def _dictionary(bits: int) -> int:
    """Return the bytes of an LZMA2 dictionary (.xz format, 5.3.1)."""
    if bits >= 40:
        return 0xFFFFFFFF if bits == 40 else 0
    return (2 | (bits & 1)) << (bits // 2 + 11)


def _number(content: bytes, at: int) -> tuple[int, int]:
    """Return a number in several bytes, seven bits each, and where it ends (.xz format, 1.2)."""
    value = 0
    for count, byte in enumerate(content[at : at + 9]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, at + count + 1
    return 0, len(content)


def _zstd_window(content: bytes) -> int:
    """Return the window that a frame needs (RFC 8878, 3.1.1.1)."""
    if len(content) < 6:
        return 0
    descriptor = content[4]
    if not descriptor & 0x20:  # no single segment: there is a window descriptor
        exponent, mantissa = content[5] >> 3, content[5] & 7
        base = 1 << (10 + exponent)
        return base + base // 8 * mantissa
    # The window is the content's size, which stands behind the dictionary's number.
    at = 5 + (0, 1, 2, 4)[descriptor & 3]
    layout = ("B", "H", "I", "Q")[descriptor >> 6]
    if len(content) < at + struct.calcsize(layout):
        return 0
    (size,) = struct.unpack_from("<" + layout, content, at)
    return int(size) + (256 if layout == "H" else 0)

"""How the archives in a Debian package are compressed: as those that they take the place of, or anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pkgkmod.command import Command, Completed
from pkgkmod.errors import PackageError
from pkgkmod.programs import find_tool

ANEW: Mapping[str, tuple[str, ...]] = {
    "": (),
    ".gz": ("gzip", "-q", "-n", "-9"),
    # One thread: xz 5.6 makes other bytes with several. A check that small readers know, too (xz-embedded's README).
    ".xz": ("xz", "-q", "-6", "--check=crc32", "--threads=1"),
}
"""Programs for archives that were packed in another way, by the ending of the archive's name."""


def as_before(ending: str, begin: bytes) -> tuple[str, ...]:
    """Return the program that compresses as the archive was whose first 64 bytes are given."""
    return _PACKERS[ending](begin) if ending else ()


def pack(plain: Path, ending: str, argv: tuple[str, ...], run: Callable[[Command], Completed]) -> Path:
    """Compress an archive, which is gone then; return the new file. Raise PackageError if that fails."""
    if not ending:
        return plain
    find_tool(argv[0], needed_for="Debian packages")
    done = run(Command((*argv, plain.name), plain.parent))
    packed = plain.with_name(plain.name + ending)
    if not done.ok or not packed.is_file():
        raise PackageError(f"{packed.name} cannot be packed again", details="\n".join(done.tail[-3:]), log=done.log)
    return packed


def _gzip(begin: bytes) -> tuple[str, ...]:
    # RFC 1952, XFL: 2 is the best compression, 4 the quickest.
    return "gzip", "-q", "-n", {2: "-9", 4: "-1"}.get(begin[8], "-6")


def _xz(begin: bytes) -> tuple[str, ...]:
    """Return the xz that packs as before: its check, and the level by the size of its dictionary (.xz format, 3.1)."""
    check = {0: "none", 1: "crc32", 4: "crc64", 10: "sha256"}.get(begin[7], "crc64")
    place = 14
    for bit in (0x40, 0x80):  # sizes that xz wrote with threads; seven bits to a byte
        if begin[13] & bit:
            place += next((n for n, byte in enumerate(begin[place:], 1) if byte < 0x80), 0)
    bits = begin[place + 2] if begin[place : place + 2] == b"\x21\x01" else 0
    # xz(1): dictionaries of the presets; of two with the same one, the higher, as dpkg-deb's own 6.
    level = {12: 0, 16: 1, 18: 2, 20: 4, 22: 6, 24: 7, 26: 8, 28: 9}.get(bits, 6)
    # One thread: xz 5.6 makes other bytes with several.
    return "xz", "-q", f"-{level}", f"--check={check}", "--threads=1"


def _zstd(begin: bytes) -> tuple[str, ...]:
    """Return the zstd that packs as before: its check, and the level by the window (RFC 8878, 3.1.1.1)."""
    check = "--check" if begin[4] & 0x04 else "--no-check"
    # Without a window the archive is small, and the level that Ubuntu takes costs nothing.
    window = 23 if begin[4] & 0x20 else 10 + (begin[5] >> 3)
    level = ("-3",) if window < 22 else ("-12",) if window == 22 else ("-19",) if window < 25 else ("--ultra", "-22")
    return "zstd", "-q", *level, "--single-thread", check, "--rm"


_PACKERS: Mapping[str, Callable[[bytes], tuple[str, ...]]] = {
    ".gz": _gzip,
    ".xz": _xz,
    ".zst": _zstd,
}

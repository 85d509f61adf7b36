"""Unpacking the archives in Debian packages: small ones here, others by the programs that everybody has."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pkgkmod.command import Command, Completed
from pkgkmod.formats.debarchive import MalformedError
from pkgkmod.programs import find_tool

# What dpkg-deb makes; it can still read bzip2 and lzma, which it does not make any more (dpkg-deb(1), -Z).
PROGRAMS = {
    "": (),
    ".gz": ("gzip", "-q", "-d"),
    ".xz": ("xz", "-q", "-d", "--memlimit=256MiB"),
    ".zst": ("zstd", "-q", "-d", "--rm", "--memory=256MB"),
}
"""Programs that unpack, by the ending of what they unpack; they put the result beside it."""
_MEMORY = 256 << 20
_SMALL = 1 << 20
"""Bytes, packed: for less, starting a program takes longer than all else."""
_AT_ONCE = 1 << 20


def unpack(packed: Path, ending: str, most: int, run: Callable[[Command], Completed]) -> Path:
    """Unpack a file in place of itself; return what it is called then.

    Raise MalformedError if it is damaged, would be larger than `most` bytes, or takes more than 256 MiB of memory.
    """
    unpacked = packed.with_name(packed.name.removesuffix(ending))
    if ending in (".gz", ".xz") and packed.stat().st_size <= _SMALL:
        _write(packed, ending, unpacked, most)
        packed.unlink()
    elif argv := PROGRAMS[ending]:
        for tool in ("prlimit", argv[0]):
            find_tool(tool, needed_for="Debian packages")
        done = run(Command(("prlimit", f"--fsize={most}", *argv, packed.name), packed.parent))
        if not done.ok:
            raise _malformed(packed, "\n".join(done.tail[-3:]) or _too_large(most))
    if not unpacked.is_file():
        raise MalformedError(f"{packed.name} cannot be unpacked")
    return unpacked


def _write(packed: Path, ending: str, unpacked: Path, most: int) -> None:
    size = 0
    with unpacked.open("wb") as output:
        try:
            for piece in _pieces(packed.read_bytes(), ending):
                size += len(piece)
                if size > most:
                    raise _malformed(packed, _too_large(most))
                output.write(piece)
        except (lzma.LZMAError, zlib.error) as error:
            raise _malformed(packed, str(error)) from None


def _pieces(content: bytes, ending: str) -> Iterator[bytes]:
    """Yield what is in an archive, of several streams one after the other if there are such."""
    while content:
        reader: Any = lzma.LZMADecompressor(memlimit=_MEMORY) if ending == ".xz" else zlib.decompressobj(wbits=31)
        while not reader.eof:
            piece = reader.decompress(content, _AT_ONCE)
            content = b"" if ending == ".xz" else reader.unconsumed_tail  # the other keeps what is left itself
            yield piece
            if not piece and not content and not reader.eof:
                raise lzma.LZMAError("it ends too early")
        content = reader.unused_data.lstrip(b"\0")  # padding


def _malformed(packed: Path, why: str) -> MalformedError:
    return MalformedError(f"{packed.name} cannot be unpacked: {why}")


def _too_large(most: int) -> str:
    return f"damaged, or larger than {most >> 20} MiB"

"""cpio archives that installers read: a driver disk inside an initrd, and SUSE's .dud files.

They are written here and not by cpio: that takes names from its standard input only, and puts the number of links
of folders into the archive, which is not the same on all file systems. The layout, `newc`, is described in the
kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from typing import BinaryIO

from pkgkmod.command import Command
from pkgkmod.media.carriers.tree import Run, needing_room, read_tree, refuse, run_checked

_TRAILER = "TRAILER!!!"
_MOST = 0xFFFFFFFF  # a field has eight hexadecimal digits
_BLOCK = 512  # archives end at such a border, as those of GNU cpio do


class _Writer:
    """An archive that is being written; all entries belong to root and have the time `epoch`."""

    def __init__(self, sink: BinaryIO, epoch: int) -> None:
        self._sink = sink
        self._epoch = min(max(epoch, 0), _MOST)
        self._entries = 0

    def add_file(self, name: str, path: Path) -> None:
        """Add a file, 0444."""
        size = path.stat().st_size
        if size > _MOST:
            raise refuse(path, "files of a cpio archive must be smaller than 4 GiB", "leave it out")
        self._head(name, stat.S_IFREG | 0o444, 1, size)
        with path.open("rb") as source:
            shutil.copyfileobj(source, self._sink, 1024 * 1024)
        self._pad(4)

    def add_folder(self, name: str) -> None:
        """Add a folder, 0755."""
        self._head(name, stat.S_IFDIR | 0o755, 2, 0)

    def add_link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        text = target.encode()
        self._head(name, stat.S_IFLNK | 0o777, 1, len(text))
        self._sink.write(text)
        self._pad(4)

    def close(self) -> None:
        """Write the end of the archive."""
        self._entries = -1  # the trailer has inode 0
        self._epoch = 0
        self._head(_TRAILER, 0, 1, 0)
        self._pad(_BLOCK)

    def _head(self, name: str, mode: int, links: int, size: int) -> None:
        self._entries += 1
        raw = name.encode() + b"\0"
        # Inode, mode, owner, group, links, time, size, four numbers of devices, length of the name, checksum (unused).
        fields = (self._entries, mode, 0, 0, links, self._epoch, size, 0, 0, 0, 0, len(raw), 0)
        self._sink.write(b"070701" + b"".join(b"%08X" % field for field in fields) + raw)
        self._pad(4)

    def _pad(self, border: int) -> None:
        self._sink.write(b"\0" * (-self._sink.tell() % border))


def write_initrd(disk: Path, image: Path, *, epoch: int, scratch: Path, run: Run) -> None:
    """Make an archive for the kernel's initrd that holds a driver disk as /dd.img.

    It may be put behind another initrd, and another one behind it. Raise InputError if the disk is too large,
    PackageError if gzip fails.
    """
    plain = scratch / "initrd.cpio"
    with needing_room(scratch), plain.open("wb") as sink:
        writer = _Writer(sink, epoch)
        writer.add_file("dd.img", disk)
        writer.close()
    _pack(plain, image, run)
    # The kernel skips zeros between archives; one that is not compressed must begin at a border of four bytes
    # (init/initramfs.c).
    with needing_room(scratch), image.open("ab") as sink:
        sink.write(b"\0" * (-sink.tell() % 4))


def write_dud(folder: Path, image: Path, *, epoch: int, scratch: Path, run: Run) -> None:
    """Make a .dud file, a cpio archive packed with gzip, of a folder; links are kept.

    Raise InputError for files that it cannot hold, PackageError if gzip fails.
    """
    plain = scratch / "dud.cpio"
    with needing_room(scratch), plain.open("wb") as sink:
        writer = _Writer(sink, epoch)
        for name in read_tree(folder):
            path = folder / name
            if str(name) == _TRAILER:
                raise refuse(path, "its name would end a cpio archive")
            if path.is_symlink():
                writer.add_link(str(name), str(path.readlink()))
            elif path.is_dir():
                writer.add_folder(str(name))
            else:
                writer.add_file(str(name), path)
        writer.close()
    _pack(plain, image, run)


def _pack(plain: Path, image: Path, run: Run) -> None:
    """Pack a file with gzip: neither name nor time in its head; the same bytes with the same gzip."""
    packed = plain.with_name(f"{plain.name}.gz")
    run_checked(run, Command(("gzip", "-9", "-n", "-f", str(plain)), cwd=plain.parent))
    with needing_room(image.parent):
        shutil.move(packed, image)

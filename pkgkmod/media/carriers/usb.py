"""Images of USB sticks: a partition table, and a FAT file system in each partition.

A partition table of the old kind (MBR) and FAT are what all installers read: Debian's looks at disks and at partitions
of USB sticks, anaconda and linuxrc at every file system with the label, cloud-init for `cidata` on vfat and iso9660.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath

from pkgkmod.command import Command
from pkgkmod.errors import InputError
from pkgkmod.media.carriers.tree import Run, needing_room, read_tree, refuse, run_checked

_SECTOR = 512
_MIB = 1024 * 1024
_1980 = 315532800  # FAT knows no earlier time
LONGEST_LABEL = 11
"""Characters of a FAT file system's label."""
_LABEL = re.compile(f"[A-Z0-9_]{{1,{LONGEST_LABEL}}}")
_FORBIDDEN = frozenset('"*/:<>?\\|')
_DEVICES = re.compile(r"(con|prn|aux|nul|clock\$|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_ROOT_ENTRIES = 512  # of FAT12 and FAT16, whose root has a fixed size
_AT_ONCE = 64 * 1024  # characters in one call's arguments


@dataclass(frozen=True)
class Partition:
    """A partition: its label, and the folder whose files are in it."""

    label: str
    folder: Path


@dataclass(frozen=True)
class _Entry:
    """A file or folder of a partition: where it is put, and what it is made of."""

    place: PurePosixPath
    source: Path
    is_folder: bool
    size: int

    @property
    def slots(self) -> int:
        """Entries of 32 bytes that its name takes: one, and one for each 13 characters of a long name."""
        return 1 + -(-len(self.place.name) // 13)


@dataclass(frozen=True)
class _Kind:
    """A kind of FAT: its bits, sectors of a cluster, and how many clusters it has."""

    bits: int
    sectors: int
    least: int
    most: int


# By the number of clusters a reader tells FAT16 (4085 and more) from FAT32 (65525 and more); some room is left at the
# borders. Small clusters for small disks, so that they are not mostly empty. FAT32 with clusters of one sector is for
# few files in one folder that FAT16 has no room for.
_KINDS = (
    _Kind(16, 4, 4200, 64000),
    _Kind(16, 8, 4200, 64000),
    _Kind(32, 1, 66000, 400000),
    _Kind(32, 8, 66000, 0xFFFFFF),
    _Kind(32, 64, 66000, 0xFFFFFF),
)


@dataclass(frozen=True)
class _FileSystem:
    """What is made in a partition."""

    label: str
    entries: tuple[_Entry, ...]
    kind: _Kind
    start: int
    """Where it begins, in bytes."""
    size: int
    """In bytes."""


def write_usb(partitions: Sequence[Partition], image: Path, *, epoch: int, scratch: Path, run: Run) -> None:
    """Make the image of a USB stick; links in the folders become copies.

    Raise InputError for labels and files that FAT cannot hold, PackageError if a program fails.
    """
    systems: list[_FileSystem] = []
    for partition in partitions:
        start = systems[-1].start + systems[-1].size if systems else _MIB
        systems.append(_planned(partition, start))
    end = systems[-1].start + systems[-1].size
    if len(systems) > 4 or end > 2**32 * _SECTOR:
        raise InputError("the image of a USB stick has room for four partitions and 2 TiB", hint="leave something out")
    with needing_room(scratch), image.open("wb") as sink:
        sink.truncate(end)  # zeros that take no room
        sink.write(_partition_table(systems, epoch))
    for system in systems:
        for command in _commands(system, image, max(epoch, _1980), scratch):
            run_checked(run, command)


def _planned(partition: Partition, start: int) -> _FileSystem:
    """Find what a partition holds, and how large it has to be."""
    if not _LABEL.fullmatch(partition.label):
        raise InputError(
            f"'{partition.label}' cannot be the label of a USB stick's file system",
            hint="FAT takes 1 to 11 of A-Z, 0-9 and _; OEMDRV is what installers look for",
        )
    read_tree(partition.folder)
    entries = tuple(_contents(partition.folder, PurePosixPath(), (Path(os.path.realpath(partition.folder)),)))
    _check_names(entries)
    in_root = sum(entry.slots for entry in entries if len(entry.place.parts) == 1) + 1  # the label takes one
    for kind in _KINDS:
        clusters = max(_clusters(entries, kind.sectors * _SECTOR), kind.least)
        if clusters <= kind.most and (kind.bits == 32 or in_root <= _ROOT_ENTRIES):
            table = clusters * kind.bits // 8
            size = clusters * kind.sectors * _SECTOR + 2 * table + _ROOT_ENTRIES * 32 + 128 * _SECTOR
            return _FileSystem(partition.label, entries, kind, start, -(-size // _MIB) * _MIB)
    raise InputError(f"{partition.folder} is too large for FAT", hint="leave some files out")


def _contents(folder: Path, place: PurePosixPath, above: tuple[Path, ...]) -> Iterator[_Entry]:
    """Return what is in a folder, sorted, folders before their contents; links are followed."""
    for path in sorted(folder.iterdir()):
        real = Path(os.path.realpath(path))
        if not path.is_dir():
            yield _Entry(place / path.name, real, False, real.stat().st_size)
        elif real in above:
            raise refuse(path, "it is a link to a folder that it lies in", "put the files themselves there")
        else:
            yield _Entry(place / path.name, real, True, 0)
            yield from _contents(path, place / path.name, (*above, real))


def _check_names(entries: Sequence[_Entry]) -> None:
    """Raise InputError for names that FAT, or the programs that write it, do not take."""
    seen: dict[str, _Entry] = {}
    for entry in entries:
        why = _fault(entry)
        if why:
            raise refuse(entry.source, f"{entry.place} on a USB stick: {why}")
        other = seen.setdefault(str(entry.place).upper(), entry)
        if other is not entry:
            raise refuse(entry.source, f"FAT does not tell {entry.place} and {other.place} apart")


def _fault(entry: _Entry) -> str:
    name = entry.place.name
    if _FORBIDDEN & set(name) or name[-1] in ". ":
        return "FAT allows none of " + " ".join(sorted(_FORBIDDEN)) + " in names, nor a dot or space at their end"
    if len(name) > 255 or max(name) > "\uffff":
        return "FAT allows names of 255 characters, of Unicode's first plane only"
    if not name.isascii() and len(entry.place.stem) <= 8 and len(entry.place.suffix) <= 4:
        # mtools gives it no long name, and what a short one says depends on the reader's code page.
        return "FAT keeps a short name safely only in ASCII"
    if _DEVICES.fullmatch(name):
        return "this is the name of a device there"
    if (entry.is_folder or entry.source.name != name) and {"[", "]"} & set(name):
        return "mtools takes brackets in the name of a folder or link for a pattern"
    return "files must be smaller than 4 GiB" if entry.size >= 2**32 else ""


def _clusters(entries: Sequence[_Entry], cluster: int) -> int:
    """Return how many clusters of so many bytes the files and folders take, and some more to spare."""
    slots: dict[PurePosixPath, int] = {PurePosixPath(): 1}
    for entry in entries:
        if entry.is_folder:
            slots[entry.place] = 2  # itself, and the folder above
        slots[entry.place.parent] += entry.slots
    sizes = [entry.size for entry in entries] + [32 * number for number in slots.values()]
    needed = sum(-(-size // cluster) for size in sizes)
    return needed + needed // 50 + _MIB // cluster


def _partition_table(systems: Sequence[_FileSystem], epoch: int) -> bytes:
    """Return the first sector: no code, and nothing to boot. sfdisk would have to be told through a pipe."""
    table = b""
    for system in systems:
        kind = 0x0C if system.kind.bits == 32 else 0x0E  # FAT by sector numbers
        # Cylinders, heads and sectors are given as "beyond what they can tell": all readers use sector numbers.
        beyond = b"\xfe\xff\xff"
        table += struct.pack("<B3sB3sII", 0, beyond, kind, beyond, system.start // _SECTOR, system.size // _SECTOR)
    identity = bytes.fromhex(_identity(epoch, *systems))
    return b"\0" * 440 + identity + b"\0\0" + table.ljust(64, b"\0") + b"\x55\xaa"


def _identity(epoch: int, *systems: _FileSystem) -> str:
    """Return a number for what is there, in place of a random one: eight hexadecimal digits."""
    digest = hashlib.sha256(str(epoch).encode())
    for system in systems:
        digest.update(system.label.encode())
        for entry in system.entries:
            digest.update(f"\0{entry.place}\0{entry.size}".encode())
    return digest.hexdigest()[:8]


def _commands(system: _FileSystem, image: Path, epoch: int, scratch: Path) -> Iterator[Command]:
    """Describe the calls that make a file system inside the image and fill it."""
    kind = system.kind
    first = str(system.start // _SECTOR)
    number = _identity(epoch, system)
    yield Command(
        (
            *("mkfs.vfat", "--invariant", "-F", str(kind.bits), "-s", str(kind.sectors), "-S", str(_SECTOR)),
            *(("-r", str(_ROOT_ENTRIES)) if kind.bits == 16 else ()),
            *("-n", system.label, "-i", number, "-h", first, "--offset", first, str(image), str(system.size // 1024)),
        ),
        cwd=scratch,
        env={"SOURCE_DATE_EPOCH": str(epoch)},
    )
    target = ("-i", f"{image}@@{system.start}")
    # mtools takes the time of everything from SOURCE_DATE_EPOCH, by the clock of TZ, which is UTC. The order of the
    # names is that of the arguments; with -s it would be that of the file system they are read from.
    env = {"SOURCE_DATE_EPOCH": str(epoch), "MTOOLS_SKIP_CHECK": "1"}
    for some in _portions([f"::/{entry.place}" for entry in system.entries if entry.is_folder]):
        yield Command(("mmd", *target, *some), cwd=scratch, env=env)
    files = sorted((entry for entry in system.entries if not entry.is_folder), key=lambda entry: entry.place.parts)
    for parent, ones in groupby(
        sorted(files, key=lambda entry: entry.place.parent.parts), lambda one: one.place.parent
    ):
        yield from _copies(list(ones), (*target, "-Q"), f"::/{parent}/" if parent.parts else "::/", scratch, env)


def _copies(
    entries: Sequence[_Entry], options: Sequence[str], target: str, scratch: Path, env: dict[str, str]
) -> Iterator[Command]:
    """Describe the calls that copy files to one folder; those that are links get their own call, with their name."""
    plain = [str(entry.source) for entry in entries if entry.source.name == entry.place.name]
    for some in _portions(plain):
        yield Command(("mcopy", *options, *some, target), cwd=scratch, env=env)
    for entry in entries:
        if entry.source.name != entry.place.name:
            yield Command(("mcopy", *options, str(entry.source), target + entry.place.name), cwd=scratch, env=env)


def _portions(texts: Sequence[str]) -> Iterator[list[str]]:
    """Divide arguments among calls: the kernel limits how long they may be."""
    some: list[str] = []
    for text in texts:
        if some and sum(map(len, some)) + len(text) > _AT_ONCE:
            yield some
            some = []
        some.append(text)
    if some:
        yield some

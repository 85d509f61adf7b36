"""Opening driver disks, whoever made them: ISO images, images of USB sticks, archives of an initrd, folders."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pkgkmod.errors import InputError
from pkgkmod.formats.cpio import end_of_zstd, kind_at, read_archive, skip_zeros, unpack
from pkgkmod.formats.entries import DamagedError, Entries, Entry, check_parts, valid
from pkgkmod.media.volumes import Reader, Volume, copy_parts, copy_range
from pkgkmod.progress import Progress

_LARGEST_ARCHIVE = 2 << 30
"""Bytes of an unpacked archive."""
_MOST_ARCHIVES = 16
"""One behind the other in an initrd, and images in one."""
_EXPECTED = "what can be read: ISO images, images of USB sticks (FAT, ext), archives (.dud, initrd), folders"
_UNREADABLE = ("bzip2", "lz4", "lzma", "lzo")


@dataclass(frozen=True)
class OpenedDisk:
    """A driver disk, and the file systems on it."""

    path: Path
    carrier: str
    """iso, usb, initrd, dud or folder."""
    title: str
    """What it is, in words."""
    size: int
    volumes: tuple[Volume, ...]


def open_disk(path: Path, scratch: Path, progress: Progress) -> OpenedDisk:
    """Open a disk; `scratch` is an empty folder. Raise InputError if it is none, damaged, or cut off."""
    try:
        if path.is_dir():
            return open_folder(path)
        if not path.exists():
            raise InputError(f"there is no file {path}", hint=_EXPECTED)
        if not path.is_file():
            raise InputError(f"{path} is not a file", hint=f"copy the stick to one: `dd if={path} of=stick.img`")
        disk = _open_image(path, Reader(scratch, progress))
    except DamagedError as error:
        raise InputError(
            f"{path} cannot be read: {error}", hint="copy it anew, and compare its digest with that of the original"
        ) from None
    if disk is None:
        raise InputError(f"{path} is not the image of a disk", hint=_hint(path))
    return disk


def open_folder(path: Path) -> OpenedDisk:
    """Open a folder, such as one where a disk is mounted. Raise InputError if it holds too much."""
    try:
        return OpenedDisk(path, "folder", "folder", 0, (_folder(path),))
    except DamagedError as error:
        raise InputError(f"{path} cannot be read: {error}", hint=_EXPECTED) from None


def _hint(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] == b"\xed\xab\xee\xdb" or head[:8] == b"!<arch>\n":
        return "it is a package: `pkgkmod iso check` takes packages"
    return _EXPECTED


def _open_image(path: Path, reader: Reader) -> OpenedDisk | None:
    size = path.stat().st_size
    with path.open("rb") as source:
        kind = kind_at(source, 0)
        if kind:
            return _open_archive(path, source, reader)
    if volume := reader.volume(path, 0, size):
        iso = volume.kind == "ISO 9660"
        title = "ISO image" if iso else f"{volume.kind} file system"
        return OpenedDisk(path, "iso" if iso else "usb", title, size, (volume,))
    volumes = [
        volume
        for number, start, end in _partitions(path, size, reader)
        if (volume := reader.volume(path, start, end, f"partition {number}"))
    ]
    return OpenedDisk(path, "usb", "image of a USB stick", size, tuple(volumes)) if volumes else None


def _partitions(path: Path, size: int, reader: Reader) -> Iterator[tuple[int, int, int]]:
    """Yield number, beginning and end, in bytes, of the partitions of an image."""
    with path.open("rb") as file:
        if file.read(512)[510:] != b"\x55\xaa":
            return
    link = reader.new_file()
    link.symlink_to(path.absolute())
    text = reader.output(("sfdisk", "--json", str(link)), "reading images of USB sticks")
    try:
        # Warnings may stand before it.
        table = json.loads(text[text.index(b"{") :])["partitiontable"]
        sector = int(table.get("sectorsize", 512))
        found = [(int(one["start"]) * sector, int(one["size"]) * sector) for one in table["partitions"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedError("its table of partitions is damaged") from None
    for number, (start, length) in enumerate(found, 1):
        if start >= size:
            raise DamagedError(f"it is cut off: it has {size} bytes, and partition {number} begins behind them")
        yield number, start, min(start + length, size)


def _open_archive(path: Path, source: BinaryIO, reader: Reader) -> OpenedDisk | None:
    """Open an initrd or a .dud file; images at its root are disks, too (`inst.dd=/dd.img`)."""
    volumes: list[Volume] = []
    packed = set()
    for archive, kind in _archives(path, source, reader):
        packed.add(kind)
        volumes.append(archive)
    if not volumes:
        return None
    inside = [
        (volume, name)
        for volume in volumes
        for name, entry in volume.entries.items()
        if "/" not in name and name.endswith((".img", ".iso")) and entry.kind == "file"
    ]
    for volume, name in inside[:_MOST_ARCHIVES]:
        copy = reader.new_file()
        volume.copy({name: copy})
        if found := _open_image(copy, reader):
            volumes += [_named(one, name) for one in found.volumes]
    is_dud = not inside and any("linux/suse" in volume.listing.folders for volume in volumes)
    title = f"archive ({', '.join(['cpio', *sorted(packed - {'cpio'})])})"
    return OpenedDisk(path, "dud" if is_dud else "initrd", title, path.stat().st_size, tuple(volumes))


def _named(volume: Volume, name: str) -> Volume:
    place = f"{name}, {volume.place}" if volume.place else name
    return Volume(volume.kind, volume.label, volume.size, place, volume.entries, volume.copy)


def _archives(path: Path, source: BinaryIO, reader: Reader) -> Iterator[tuple[Volume, str]]:
    """Yield the archives in a file, each with how it is packed; the kernel reads them one after the other."""
    offset, count = 0, 0
    while True:
        offset = skip_zeros(source, offset)
        kind = kind_at(source, offset)
        if not kind:
            if offset < path.stat().st_size:
                raise DamagedError(f"there is no archive at byte {offset}")
            return
        count += 1
        if count > _MOST_ARCHIVES:
            raise DamagedError(f"there are more than {_MOST_ARCHIVES} archives in it")
        if kind in _UNREADABLE:
            raise DamagedError(f"it is packed with {kind}, which pkgkmod does not read")
        if kind == "cpio":
            entries = Entries()
            offset = read_archive(source, offset, entries)
            yield _archive_volume(path, entries), kind
            continue
        plain = reader.new_file()
        if kind == "zstd":
            end = end_of_zstd(source, offset)
            _unzstd(path, offset, end, plain, reader)
            offset = end
        else:
            with plain.open("xb") as sink:
                offset = unpack(source, offset, sink, kind, _LARGEST_ARCHIVE)
        with plain.open("rb") as unpacked:
            for entries in _plain_archives(unpacked):
                yield _archive_volume(plain, entries), kind


def _plain_archives(source: BinaryIO) -> Iterator[Entries]:
    offset = 0
    for _ in range(_MOST_ARCHIVES):
        offset = skip_zeros(source, offset)
        if kind_at(source, offset) != "cpio":
            return
        entries = Entries()
        offset = read_archive(source, offset, entries)
        yield entries


def _archive_volume(image: Path, entries: Entries) -> Volume:
    size = image.stat().st_size
    check_parts(entries, size)
    return Volume("cpio", "", size, "", entries, copy_parts(image, entries))


def _unzstd(path: Path, offset: int, end: int, destination: Path, reader: Reader) -> None:
    """Unpack a part of a file with zstd, of which Python has no module yet."""
    packed = reader.new_file()
    copy_range(path, offset, end, packed)
    reader.output(("zstd", "-d", "-q", "-o", destination.name, packed.name), "reading archives")


def _folder(root: Path) -> Volume:
    """Return what is in a folder."""
    entries = Entries()
    paths: dict[str, Path] = {}
    for parent, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = Path(parent, name)
            place = str(path.relative_to(root))
            with contextlib.suppress(FileNotFoundError):
                entries.put(place, _entry(path))
                paths[valid(place)] = path.absolute()

    def copy(wanted: Mapping[str, Path]) -> None:
        for place, destination in wanted.items():
            destination.symlink_to(paths[place])

    return Volume("folder", "", 0, "", entries, copy)


def _entry(path: Path) -> Entry:
    if path.is_symlink():
        return Entry("link", target=str(path.readlink()))
    if path.is_dir():
        return Entry("folder")
    return Entry("file", path.stat().st_size) if path.is_file() else Entry("other")

"""Tar archives that somebody else made, unpacked below a folder and nowhere else, and not without end."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pkgkmod.errors import InputError

_MOST = 200_000
"""Files and folders; the kernel's sources have about 90,000."""
_LARGEST = 4 << 30
"""Bytes of all files; the kernel's sources have 1.4 GiB."""
_DEEPEST = 60
_LONGEST, _LONGEST_PART = 2048, 255
"""Bytes of a path, and of one name in it (limits.h has more for the whole, and the same for a name)."""
_CHUNK = 1 << 20


@dataclass
class Unpacked:
    """What was unpacked."""

    files: int = 0
    newest: int = 0
    """Time of the newest file, in seconds since 1970."""
    left_out: list[str] = field(default_factory=list)
    """What is no file, folder or link inside, with the reason."""


@dataclass(frozen=True)
class _Link:
    path: str
    target: str
    time: int


def unpack_tarball(path: Path, destination: Path) -> Unpacked:
    """Unpack a tar archive, compressed or not, into a folder that exists; modes are 0644 or 0755, times as they were.

    Devices, and links that lead out, are left out. Raise InputError for what is no archive, for names that lead out,
    and for more than a source tree holds.
    """
    found = Unpacked()
    try:
        with tarfile.open(path, "r|*") as archive:
            for link in list(_unpack(archive, path, destination, found)):
                _make_link(link, destination, found)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError) as error:
        raise InputError(f"{path.name} cannot be unpacked", details=str(error), hint="give a tar archive") from None
    except OSError as error:
        if error.errno is not None:  # of a file system; what bz2 and gzip have to say has no number
            raise
        raise InputError(f"{path.name} cannot be unpacked", details=str(error), hint="give a tar archive") from None
    return found


def _unpack(archive: tarfile.TarFile, path: Path, destination: Path, found: Unpacked) -> Iterator[_Link]:
    """Write files and folders; yield symbolic links, which come last, so that nothing is written through one."""
    size = 0
    for number, member in enumerate(archive):
        size += member.size
        if number >= _MOST or size > _LARGEST:
            raise InputError(f"{path.name} holds more than a source tree has", hint="give the driver's sources alone")
        name = _checked(member.name, path)
        if not name:
            continue
        if ".git" in name.lower().split("/"):  # another repository cannot be a part of one
            found.left_out.append(f"{name}: git's own files")
            continue
        place = destination / name
        time = max(0, min(int(member.mtime), 1 << 32))
        if member.isdir():
            _folder(place, path)
        elif member.isreg():
            content = archive.extractfile(member)
            assert content
            _folder(place.parent, path)
            _write(place, content, member.mode, time)
            found.files += 1
            found.newest = max(found.newest, time)
        elif member.issym():
            _folder(place.parent, path)
            yield _Link(name, member.linkname, time)
        elif member.islnk() and (destination / _checked(member.linkname, path)).is_file():
            _folder(place.parent, path)
            with (destination / _checked(member.linkname, path)).open("rb") as content:
                _write(place, content, member.mode, time)
            found.files += 1
        else:
            found.left_out.append(f"{name}: it is no file or folder")


def _checked(name: str, path: Path) -> str:
    """Return a member's name without `./`; raise InputError if it leads out, or cannot be shown."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or not name.isprintable():
        raise InputError(f"{path.name} holds a name that is not safe to write: {name!r}")
    too_long = len(name.encode()) > _LONGEST or any(len(part.encode()) > _LONGEST_PART for part in parts)
    if len(parts) > _DEEPEST or too_long:
        raise InputError(f"{path.name} holds a name that is too long: {name[:40]!r}...")
    return "/".join(parts)


def _folder(place: Path, path: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{path.name} holds {place.name!r} as a file and as a folder") from None


def _write(place: Path, content: IO[bytes], mode: int, time: int) -> None:
    place.unlink(missing_ok=True)  # of two with the same name, the later one counts
    wanted = 0o755 if mode & 0o100 else 0o644
    handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, wanted)
    with os.fdopen(handle, "wb") as file:
        while data := content.read(_CHUNK):
            file.write(data)
        os.fchmod(handle, wanted)
        file.flush()
        os.utime(handle, (time, time))


def _make_link(link: _Link, destination: Path, found: Unpacked) -> None:
    place, root = destination / link.path, os.path.realpath(destination)
    if link.target.startswith("/") or "\0" in link.target or not 0 < len(link.target) < _LONGEST:
        found.left_out.append(f"{link.path}: a link that leads out, to {link.target!r}")
        return
    if place.exists() or place.is_symlink():
        found.left_out.append(f"{link.path}: a link with the name of a file")
        return
    real = os.path.realpath(place.parent / link.target)
    if not (real == root or real.startswith(root + "/")) or not os.path.realpath(place.parent).startswith(root):
        found.left_out.append(f"{link.path}: a link that leads out, to {link.target!r}")
        return
    place.symlink_to(link.target)
    os.utime(place, (link.time, link.time), follow_symlinks=False)

"""The archive in an RPM package (cpio, "new ASCII" format), copied with other contents of the kernel modules."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pkgkmod.formats.rpmheader import Header, MalformedError, Tag

Replace = Callable[[str, bytes], bytes]
"""Is given path and content of a module, and returns what takes its place."""

LARGEST_MODULE = 512 * 1024 * 1024
"""Bytes of a module's file, which is held in memory."""

_MODULE = re.compile(r"(?:/usr)?/lib/modules/[^/]+/.+\.ko(?:\.gz|\.xz|\.zst)?", re.DOTALL)
_CHUNK = 1024 * 1024
_HEAD = re.compile(rb"070701[0-9A-Fa-f]{104}")
_HEAD_LENGTH = 110
_SIZE, _NAME_LENGTH = slice(54, 62), slice(94, 102)
"""Fields of eight letters: the length of the content, and that of the name."""
_LONGEST_NAME = 4096 + 2
_TRAILER = b"TRAILER!!!"
_GHOST = 1 << 6
"""RPMFILE_GHOST: listed, but not in the archive."""


def is_module_path(path: str) -> bool:
    """Tell whether a path is that of a module below a kernel's folder, where depmod and installers look for them."""
    return bool(_MODULE.fullmatch(path))


class Source(Protocol):
    """An archive that is read from its beginning."""

    def read(self, size: int) -> bytes:
        """Return as many bytes, or what is left."""


class Sink(Protocol):
    """Where the new archive goes."""

    def write(self, data: bytes) -> object:
        """Take some bytes."""


@dataclass(frozen=True)
class PackagedFile:
    """A file of a package, as its header describes it."""

    path: str
    size: int
    mode: int
    is_ghost: bool
    """Listed, but not in the archive."""
    links: tuple[int, ...]
    """Places in the list of files of all names of this regular file, its own included."""

    @property
    def is_module(self) -> bool:
        """Tell whether it is a kernel module that the package brings."""
        return stat.S_ISREG(self.mode) and not self.is_ghost and is_module_path(self.path)


def paths_of(header: Header) -> Iterator[str]:
    """Yield the paths of all files and folders of a package, of any format."""
    if Tag.BASENAMES not in header:
        return
    names, folders, places = header.texts(Tag.BASENAMES), header.texts(Tag.DIRNAMES), header.numbers(Tag.DIRINDEXES)
    if len(names) != len(places) or max(places) >= len(folders):
        raise MalformedError("its lists of files are not of one length")
    for name, place in zip(names, places, strict=True):
        yield folders[place] + name


def files_of(header: Header) -> Iterator[PackagedFile]:
    """Yield the files and folders of a package of format 4, in the header's order."""
    paths = list(paths_of(header))
    if not paths:
        return
    sizes, modes = header.numbers(Tag.FILESIZES), header.numbers(Tag.FILEMODES)
    # rpmbuild writes all of these; rpmpack (google/rpmpack, rpm.go), with which nfpm makes packages, no devices.
    flags = header.numbers(Tag.FILEFLAGS) if Tag.FILEFLAGS in header else [0] * len(paths)
    devices = header.numbers(Tag.FILEDEVICES) if Tag.FILEDEVICES in header else [0] * len(paths)
    numbers = header.numbers(Tag.FILEINODES) if Tag.FILEINODES in header else list(range(len(paths)))
    inodes = list(zip(devices, numbers, strict=False))
    if len({len(one) for one in (paths, sizes, modes, flags, inodes)}) != 1:
        raise MalformedError("its lists of files are not of one length")
    links: dict[tuple[int, int], list[int]] = {}
    for number, inode in enumerate(inodes):
        if stat.S_ISREG(modes[number]) and not flags[number] & _GHOST:
            links.setdefault(inode, []).append(number)
    for number, path in enumerate(paths):
        yield PackagedFile(
            path=path,
            size=sizes[number],
            mode=modes[number],
            is_ghost=bool(flags[number] & _GHOST),
            links=tuple(links.get(inodes[number], ())) if stat.S_ISREG(modes[number]) else (),
        )


@dataclass(frozen=True)
class _Member:
    head: bytes
    name: bytes
    """With the zeros behind it."""
    size: int

    @property
    def path(self) -> str:
        return self.name.rstrip(b"\0").decode("utf-8", "surrogateescape")


def copy_archive(files: Sequence[PackagedFile], source: Source, sink: Sink, replace: Replace) -> dict[int, bytes]:
    """Copy an archive, and return the contents that `replace` changed, by place in `files`.

    The files must be those that the header lists, in whatever order, so what a small file unpacks to is bounded.
    Raise MalformedError otherwise.
    """
    places = {file.path: place for place, file in enumerate(files)}
    left = {place for place, file in enumerate(files) if file.is_module}
    changed: dict[int, bytes] = {}
    seen: set[int] = set()
    while (member := _next_member(source)).path != _TRAILER.decode():
        place = _place_of(member, places)
        if place in seen:
            raise MalformedError(f"{files[place].path} is twice in the archive")
        seen.add(place)
        path = _module_of(files, place, member)
        if path is None:
            sink.write(member.head + member.name)
            _copy(source, sink, member.size + -member.size % 4)
            continue
        content = _exactly(source, member.size + -member.size % 4)[: member.size]
        new = replace(path, content)
        head = member.head[: _SIZE.start] + b"%08x" % len(new) + member.head[_SIZE.stop :]
        sink.write(head + member.name + new + bytes(-len(new) % 4))
        left.difference_update(files[place].links)
        if new != content:
            changed |= dict.fromkeys(files[place].links, new)
    if left:
        raise MalformedError(f"{files[min(left)].path} is not in the archive")
    rest = _read(source, _HEAD_LENGTH)
    if rest.strip(b"\0"):
        raise MalformedError("something follows the archive")
    sink.write(member.head + member.name + rest)
    return changed


def read_modules(files: Sequence[PackagedFile], source: Source) -> Iterator[tuple[tuple[str, ...], bytes]]:
    """Yield all names of each kernel module, hard links among them, and its content, which may be empty.

    The whole archive is read, with the same checks as when it is copied.
    """
    places = {file.path: place for place, file in enumerate(files)}
    left = {place for place, file in enumerate(files) if file.is_module}
    seen: set[int] = set()
    while (member := _next_member(source)).path != _TRAILER.decode():
        place = _place_of(member, places)
        if place in seen:
            raise MalformedError(f"{files[place].path} is twice in the archive")
        seen.add(place)
        names = _checked_modules(files, place, member)
        # Of hard links, one has the content.
        if names and place in left and (member.size or not files[place].size):
            yield tuple(names), _exactly(source, member.size + -member.size % 4)[: member.size]
            left.difference_update(files[place].links)
        else:
            _copy(source, _Nowhere(), member.size + -member.size % 4)
    if left:
        raise MalformedError(f"{files[min(left)].path} is not in the archive")


def read_files(
    files: Sequence[PackagedFile], source: Source, wanted: Callable[[str], bool]
) -> Iterator[tuple[tuple[str, ...], int, bytes]]:
    """Yield all names, mode and content of each wanted regular file; of a symbolic link, the content is its target.

    What the package lists but does not bring is left out.
    """
    places = {file.path: place for place, file in enumerate(files)}
    left = {place for place, file in enumerate(files) if wanted(file.path) and not file.is_ghost}
    left = {place for place in left if stat.S_ISREG(files[place].mode) or stat.S_ISLNK(files[place].mode)}
    while (member := _next_member(source)).path != _TRAILER.decode():
        place = _place_of(member, places)
        file = files[place]
        _checked_modules(files, place, member)
        names = tuple(one for one in file.links or (place,) if one in left)
        # Of hard links, one has the content.
        if names and (member.size or not file.size):
            if member.size > LARGEST_MODULE:
                raise MalformedError(f"{file.path} has {member.size} bytes")
            content = _exactly(source, member.size + -member.size % 4)[: member.size]
            yield tuple(files[one].path for one in names), file.mode, content
            left.difference_update(names)
        else:
            _copy(source, _Nowhere(), member.size + -member.size % 4)
    if left:
        raise MalformedError(f"{files[min(left)].path} is not in the archive")


class _Nowhere:
    def write(self, data: bytes) -> object:
        return data


def _next_member(source: Source) -> _Member:
    head = _exactly(source, _HEAD_LENGTH)
    if not _HEAD.fullmatch(head):
        raise MalformedError("its archive is not of the form that rpm writes")
    length = int(head[_NAME_LENGTH], 16)
    if not 0 < length <= _LONGEST_NAME:
        raise MalformedError("a name in the archive is too long")
    return _Member(head, _exactly(source, length + -(_HEAD_LENGTH + length) % 4), int(head[_SIZE], 16))


def _place_of(member: _Member, places: dict[str, int]) -> int:
    """Return the place of a member in the list of files; names begin with a dot, in source packages with nothing."""
    for path in (member.path.removeprefix("."), member.path, f"/{member.path}"):
        if path in places:
            return places[path]
    raise MalformedError(f"its archive holds {member.path!r}, which its header does not list")


def _module_of(files: Sequence[PackagedFile], place: int, member: _Member) -> str | None:
    """Return the module's path if the member has the content of a module; of hard links, only the last one has it."""
    names = _checked_modules(files, place, member)
    if names and not files[place].size:
        raise MalformedError(f"the module {names[0]} is empty")
    return names[0] if names and member.size else None


def _checked_modules(files: Sequence[PackagedFile], place: int, member: _Member) -> list[str]:
    """Return the names of the module that a member is one of, none if it is no module; MalformedError for its size."""
    file = files[place]
    if stat.S_ISREG(file.mode) and member.size != file.size and (member.size or len(file.links) < 2):
        raise MalformedError(f"{file.path} has {member.size} bytes in the archive, and {file.size} in the header")
    names = [files[one].path for one in file.links if files[one].is_module]
    if names and file.size > LARGEST_MODULE:
        raise MalformedError(f"the module {names[0]} has {file.size} bytes")
    return names


def _copy(source: Source, sink: Sink, size: int) -> None:
    while size:
        data = _exactly(source, min(size, _CHUNK))
        sink.write(data)
        size -= len(data)


def _exactly(source: Source, size: int) -> bytes:
    data = _read(source, size) if size else b""  # asked for nothing, rpm's library says that xz is damaged
    if len(data) != size:
        raise MalformedError("its archive is not complete")
    return data


def _read(source: Source, size: int) -> bytes:
    try:
        return source.read(size)
    except OSError as error:  # what rpm's library says of a compressed file that it cannot read
        raise MalformedError(f"its archive cannot be unpacked: {error}") from None

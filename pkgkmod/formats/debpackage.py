"""Debian package files, taken apart and put together again with other modules, and nothing else changed.

A package is an ar archive of `debian-binary`, a control archive and a data archive, each a tar file that may be
compressed (deb(5)). Packing and unpacking is left to the programs that everybody has.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import IO

from pkgkmod.command import Command, Completed
from pkgkmod.errors import DiskFullError, InputError
from pkgkmod.formats.debarchive import Archive, MalformedError, content_of, copy_archive, read_archive, renamed
from pkgkmod.formats.debindex import DebControl, parse_control
from pkgkmod.formats.debpackers import ANEW, as_before, pack
from pkgkmod.formats.debunpack import PROGRAMS, unpack

Run = Callable[[Command], Completed]
Replace = Callable[[str, bytes], bytes]
"""Is given path and content of a module, and returns what takes its place."""

ENDINGS = (".deb", ".ddeb", ".udeb")
"""How the files of Debian's binary packages end."""

_AR = b"!<arch>\n"
_HEAD = re.compile(rb"(?P<name>[!-~]{1,16}) *(?P<facts>[0-9 ]{32})(?P<size>[0-9]{1,10}) *`\n")
_HEAD_LENGTH = 60
_TIME, _SIZE = slice(16, 28), slice(48, 58)
_MOST_MEMBERS = 32
_LARGEST_CONTROL, _LARGEST_DATA = 64 << 20, 8 << 30
"""Bytes of the archives, unpacked."""
_CONTROL = "./control"
_BLOCK = 512
_SIGNATURE = "_gpg"
"""Beginning of the names of members with signatures (debsigs)."""


@dataclass(frozen=True)
class _Member:
    name: str
    head: bytes
    content: int
    size: int

    @property
    def compression(self) -> str:
        return self.name.partition(".tar")[2]


@dataclass(frozen=True)
class DebPackage:
    """A package file, with its archives unpacked."""

    path: Path
    members: tuple[_Member, ...]
    control: Path
    data: Path

    @cached_property
    def files(self) -> Archive:
        """What the data archive holds."""
        with self.data.open("rb") as file:
            return read_archive(file)

    @property
    def time(self) -> int:
        """When it was packed, in seconds since 1970, as its first member says it."""
        said = self.members[0].head[_TIME].strip()
        return int(said) if said.isdigit() else 0

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of the kernel modules."""
        return tuple(self.files.modules.values())

    @property
    def is_signed(self) -> bool:
        """Tell whether it has signatures in it, right or wrong; hardly any package has."""
        return any(member.name.startswith(_SIGNATURE) for member in self.members)


@contextmanager
def open_package(
    path: Path, run: Run, folder: Path | None = None, *, packed: Sequence[str] = (), most: int = 0
) -> Iterator[DebPackage]:
    """Open a package, unpacked below `folder`; raise InputError if it is none, or is damaged.

    A data archive in one of the ways `packed` (endings) is left packed: `convert` needs it no other way. One of more
    than `most` bytes, unpacked, counts as damaged; 0 stands for the most of any package.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".repackage-") as place, _explained(path):
        with _opened(path) as file:
            members = tuple(_members(file))
            control, data = _archives(members)
            unpacked = _unpack(file, control, _LARGEST_CONTROL, Path(place), run)
            if data.compression in packed:
                package = DebPackage(path, members, unpacked, Path(place, data.name))
            else:
                package = DebPackage(
                    path, members, unpacked, _unpack(file, data, most or _LARGEST_DATA, Path(place), run)
                )
                _ = package.files.names  # what is wrong with them is said here
        yield package


def visit_modules(package: DebPackage, visit: Callable[[str, bytes], object]) -> None:
    """Call `visit` with path and content of each module; of hard links, with the first name only."""
    with package.data.open("rb") as file:
        for place, path in package.files.modules.items():
            visit(path, content_of(file, package.files.entries[place]))


def module_contents(package: DebPackage) -> Iterator[tuple[tuple[str, ...], bytes]]:
    """Yield names and content of each module, be it empty."""
    with package.data.open("rb") as file:
        for place, names in package.files.module_names.items():
            yield names, content_of(file, package.files.entries[place])


def file_contents(package: DebPackage, wanted: Callable[[str], bool]) -> Iterator[tuple[tuple[str, ...], int, bytes]]:
    """Yield names, mode and content of the wanted files, and of symbolic links, with their target as content."""
    regular = package.files.names
    with package.data.open("rb") as file:
        for place, entry in enumerate(package.files.entries):
            names = tuple(filter(wanted, regular.get(place, (entry.path,) if entry.kind == tarfile.SYMTYPE else ())))
            if names and place in regular:
                yield names, stat.S_IFREG | entry.mode, content_of(file, entry)
            elif names:
                yield names, stat.S_IFLNK | 0o777, entry.target.encode("utf-8", "surrogateescape")


def compressor(package: DebPackage) -> str:
    """Return how the data archive is packed: none, gzip, xz or zstd."""
    return (PROGRAMS[_archives(package.members)[1].compression] or ("none",))[0]


def read_control(package: DebPackage) -> tuple[DebControl, str, str]:
    """Return what the package says of itself, and the names of the control archive and of the control file in it."""
    with package.control.open("rb") as file:
        archive = read_archive(file)
        place = archive.place("/control")
        if place is None:
            raise MalformedError("it has no control file")
        entry = archive.entries[place]
        return parse_control(package.path, content_of(file, entry)), _archives(package.members)[0].name, entry.name


def repackage(package: DebPackage, destination: Path, replace: Replace, run: Run) -> None:
    """Write the package anew, with what `replace` returns for each module, and their digests and size in its control.

    Everything else is as it was. A package in which nothing changes is copied. Raise InputError if the package is
    damaged; nothing is at `destination` then that was not there before.
    """
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".repackage-") as place, _explained(package.path):
        folder, whole = Path(place), Path(place, "package")
        digests, grown = _with_modules(package, folder / "data.tar", replace)
        if digests:
            _with_digests(package, folder / "control.tar", digests, grown)
            _assemble(package, whole, _packed_as_before(package, folder, run))
        else:
            shutil.copyfile(package.path, whole)
        whole.chmod(0o644)
        whole.replace(destination)


def convert(package: DebPackage, destination: Path, control: str, data: Sequence[str], run: Run) -> None:
    """Write the package with its control archive packed as `control` says, its data archive in one of the ways `data`.

    Ways are endings: `.gz`, `.xz`, or none. A data archive in another way is packed in the last of them; the control
    file is called ./control, as dpkg-deb does. Nothing else changes; signatures, which would be wrong, are left out.
    """
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".repackage-") as place, _explained(package.path):
        folder, whole = Path(place), Path(place, "package")
        old = dict(zip(("control", "data"), _archives(package.members), strict=True))
        archives: dict[str, Path] = {}
        if _write_control_named(package.control, folder / "control.tar") or old["control"].compression != control:
            archives[old["control"].name] = pack(folder / "control.tar", control, ANEW[control], run)
        if old["data"].compression not in data:
            shutil.copyfile(package.data, folder / "data.tar")
            archives[old["data"].name] = pack(folder / "data.tar", data[-1], ANEW[data[-1]], run)
        if archives:
            _assemble(package, whole, archives)
        else:
            shutil.copyfile(package.path, whole)
        whole.chmod(0o644)
        whole.replace(destination)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except MalformedError as error:
        raise InputError(
            f"{path} cannot be read as a Debian package", details=str(error), hint="fetch or build it again"
        ) from None


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read as a Debian package", details=error.strerror or str(error)) from None


def _members(file: IO[bytes]) -> Iterator[_Member]:
    size = os.fstat(file.fileno()).st_size
    if file.read(len(_AR)) != _AR:
        raise MalformedError("it does not begin as a package does")
    for _ in range(_MOST_MEMBERS):
        head = file.read(_HEAD_LENGTH)
        if not head:
            return
        found = _HEAD.fullmatch(head)
        if not found or file.tell() + int(found["size"]) > size:
            raise MalformedError("it is cut off, or one of its members is no member of an ar archive")
        # ar may end names with a slash, and dpkg takes that.
        name = found["name"].decode("ascii").removesuffix("/")
        member = _Member(name, head, file.tell(), int(found["size"]))
        yield member
        file.seek(member.size + member.size % 2, 1)
    raise MalformedError(f"it has more than {_MOST_MEMBERS} members")


def _archives(members: tuple[_Member, ...]) -> tuple[_Member, _Member]:
    """Return the control and data archives."""
    names = [member.name for member in members]
    if not names or names[0] != "debian-binary" or len(set(names)) != len(names):
        raise MalformedError("its first member is not debian-binary, or one of its members is there twice")
    found = {
        kind: [member for member in members if member.name.partition(".tar")[0] == kind] for kind in ("control", "data")
    }
    for kind, ones in found.items():
        if len(ones) != 1 or ".tar" not in ones[0].name or ones[0].compression not in PROGRAMS:
            raise MalformedError(f"it has no {kind} archive, or one that is packed in an unknown way")
    return found["control"][0], found["data"][0]


def _unpack(file: IO[bytes], member: _Member, most: int, folder: Path, run: Run) -> Path:
    packed = folder / member.name
    file.seek(member.content)
    with packed.open("wb") as output:
        _copy(file, output, member.size)
    return unpack(packed, member.compression, most, run)


def _with_modules(package: DebPackage, new: Path, replace: Replace) -> tuple[dict[str, tuple[str, str]], int]:
    """Write the data archive; return old and new MD5 by path of what changed, and by how many KiB it all grew."""
    archive, names, modules = package.files, package.files.names, package.files.modules
    changed: dict[str, tuple[str, str]] = {}
    grown = 0

    def exchange(place: int, content: bytes) -> bytes:
        nonlocal grown
        made = replace(modules[place], content)
        if made != content:
            changed.update(dict.fromkeys(names[place], (_md5(content), _md5(made))))
            # As dpkg-gencontrol counts: each file takes whole KiB.
            grown += -(-len(made) // 1024) - -(-len(content) // 1024)
        return made

    actions = {place: partial(exchange, place) for place in modules}
    with package.data.open("rb") as source, new.open("wb") as output:
        copy_archive(source, archive, output, actions)
    return changed, grown


def _with_digests(package: DebPackage, new: Path, digests: Mapping[str, tuple[str, str]], grown: int) -> None:
    """Write the control archive, with the MD5 sums of the modules that changed, and the size of all."""
    with package.control.open("rb") as source, new.open("wb") as output:
        archive = read_archive(source)
        edits: dict[str, Callable[[bytes], bytes]] = {
            "/md5sums": lambda text: _edited_md5sums(text, digests),
            "/control": lambda text: _edited_size(text, grown),
        }
        places = {archive.place(path): edit for path, edit in edits.items()}
        if archive.place("/control") is None:
            raise MalformedError("it has no control file")
        copy_archive(source, archive, output, {place: edit for place, edit in places.items() if place is not None})


def _edited_md5sums(text: bytes, digests: Mapping[str, tuple[str, str]]) -> bytes:
    lines = text.split(b"\n")
    for number, line in enumerate(lines):
        digest, _, name = line.partition(b"  ")
        path = "/" + _unescaped(digest, name).decode("utf-8", "surrogateescape").removeprefix("./")
        if path not in digests:
            continue
        before, after = digests[path]
        if digest.lstrip(b"\\").decode("ascii", "replace") != before:
            raise MalformedError(f"it is damaged: the MD5 sum of {path} is another")
        lines[number] = line.replace(before.encode(), after.encode(), 1)
    return b"\n".join(lines)


def _unescaped(digest: bytes, name: bytes) -> bytes:
    """Return a name as it is; md5sum marks lines with escapes by a backslash in front (coreutils' manual)."""
    if not digest.startswith(b"\\"):
        return name
    return re.sub(rb"\\([\\nr])", lambda found: {b"n": b"\n", b"r": b"\r"}.get(found[1], b"\\"), name)


def _edited_size(text: bytes, grown: int) -> bytes:
    def edit(found: re.Match[bytes]) -> bytes:
        return found[1] + b"%d" % max(int(found[2]) + grown, 0)

    return re.sub(rb"(?im)^(Installed-Size:[ \t]*)([0-9]{1,18})(?=[ \t]*$)", edit, text, count=1)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _write_control_named(control: Path, new: Path) -> bool:
    """Write the control archive, with ./control as the name of the control file; tell whether it had another one."""
    with control.open("rb") as source, new.open("wb") as output:
        archive = read_archive(source)
        place = archive.place("/control")
        if place is None:
            raise MalformedError("it has no control file")
        shutil.copyfileobj(_from(source, 0), output)
        # The header itself is the last block in front of the content.
        begin = archive.entries[place].content - _BLOCK
        before = _from(source, begin).read(_BLOCK)
        if begin != archive.entries[place].start:
            raise MalformedError("the name of its control file is packed as long ones are")
        output.seek(begin)
        output.write(renamed(before, _CONTROL))
        return before.partition(b"\0")[0] != _CONTROL.encode("ascii")


def _from(file: IO[bytes], place: int) -> IO[bytes]:
    file.seek(place)
    return file


def _packed_as_before(package: DebPackage, folder: Path, run: Run) -> dict[str, Path]:
    """Compress the archives in `folder` as those of the package are; return them by the names of its members."""
    archives: dict[str, Path] = {}
    for member in _archives(package.members):
        with package.path.open("rb") as file:
            begin = _from(file, member.content).read(64)
        plain = folder / member.name.removesuffix(member.compression)
        archives[member.name] = pack(plain, member.compression, as_before(member.compression, begin), run)
    return archives


def _assemble(package: DebPackage, whole: Path, archives: Mapping[str, Path]) -> None:
    """Write the package with other archives, by the names of the members; signatures in it are left out."""
    with package.path.open("rb") as file, whole.open("wb") as output:
        output.write(_AR)
        for member in package.members:
            if member.name.startswith(_SIGNATURE):
                continue
            if packed := archives.get(member.name):
                size = packed.stat().st_size
                if size >= 10**10:
                    raise InputError(f"{package.path} would grow beyond what ar holds", hint="leave some files out")
                output.write(_head(member, packed.name, size))
                with packed.open("rb") as new:
                    _copy(new, output, size)
            else:
                size = member.size
                output.write(member.head)
                _copy(_from(file, member.content), output, size)
            output.write(b"\n" * (size % 2))


def _head(member: _Member, name: str, size: int) -> bytes:
    """Return the head of a member with another size; its name stays as it is spelled, if it is the same one."""
    begin = member.head[: _SIZE.start]
    if name != member.name:
        begin = b"%-16s" % name.encode("ascii") + begin[16:]
    return begin + b"%-10d" % size + member.head[_SIZE.stop :]


def _copy(source: IO[bytes], output: IO[bytes], size: int) -> None:
    while size:
        data = source.read(min(size, 1 << 20))
        if not data:
            raise MalformedError("it is cut off")
        try:
            output.write(data)
        except OSError as error:
            raise DiskFullError("the package cannot be written", details=str(error), hint="free some space") from None
        size -= len(data)

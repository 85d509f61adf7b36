"""File systems in images that somebody else made: what is in them, and copies of their files under names of our own.

Nothing is mounted. Programs are given offsets and numbers, never a name out of an image.
"""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pkgkmod.command import Command, run
from pkgkmod.errors import InputError
from pkgkmod.formats.entries import DamagedError, Entries, Entry, EntryKind, check_parts
from pkgkmod.formats.fat import is_fat, read_fat
from pkgkmod.model.disk import DiskListing
from pkgkmod.programs import find_tool
from pkgkmod.progress import Progress

SECTOR = 2048
"""Bytes of a block of an ISO image."""

_SMALL = 1 << 20
_CHUNK = 1 << 20
# What a program may take: a damaged image can lead it in a circle.
_LIMITS = ("prlimit", "--cpu=20", f"--as={2 << 30}", f"--fsize={2 << 30}")
_COMPLAINT = re.compile(r"FAILURE|FATAL|SORRY|[Ee]rror")
_QUOTED = r"'(?:[^']|'\"'\"')*'"
_LISTED = re.compile(rf"(?P<kind>[-a-z])\S{{9,10}} +\d+ [^']+(?P<path>{_QUOTED})(?: -> (?P<target>{_QUOTED}))?")
_PLACED = re.compile(rf"File data lba: *\d+ , *(?P<lba>\d+) , *(?P<blocks>\d+) , *(?P<size>\d+) , (?P<path>{_QUOTED})")
_ESCAPED = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_CONTROLS = {b"a": b"\a", b"b": b"\b", b"e": b"\x1b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_INODE = re.compile(rb"/(?P<inode>\d+)/(?P<mode>\d{6})/\d+/\d+/(?P<name>[^/]+)/(?P<size>\d*)/")
_EXT_KINDS: Mapping[bytes, EntryKind] = {b"04": "folder", b"10": "file", b"12": "link"}
_DEEPEST = 40


@dataclass(frozen=True)
class Volume:
    """A file system or archive, with what is in it."""

    kind: str
    """Folder, ISO 9660, FAT, ext, cpio."""
    label: str
    size: int
    place: str
    """Where it is in the image: `partition 2`; empty if it is all of it."""
    entries: Entries
    copy: Callable[[Mapping[str, Path]], None]
    """Copies files, by path, to files that are not there yet. Raises DamagedError."""
    memory: dict[str, bytes] = field(default_factory=dict)

    @cached_property
    def listing(self) -> DiskListing:
        """What layouts are shown of it."""
        return DiskListing(
            files=frozenset(path for path, entry in self.entries.items() if entry.kind == "file"),
            folders=frozenset(self._folders()),
            links={path: entry.target for path, entry in self.entries.items() if entry.kind == "link"},
            read=self.read,
        )

    def _folders(self) -> Collection[str]:
        """Return all folders; an archive need not name those that its files are in."""
        found = {path for path, entry in self.entries.items() if entry.kind == "folder"}
        for path in self.entries:
            while (path := path.rpartition("/")[0]) and path not in found:
                found.add(path)
        return found

    def read(self, path: str) -> bytes:
        """Return the content of a small file; raise InputError if it is none."""
        real = self.entries.real(path)
        entry = self.entries.get(real or "")
        if real is None or entry is None or entry.kind != "file" or entry.size > _SMALL:
            raise InputError(f"{path} is no small file of the disk", hint="the disk is damaged, or no driver disk")
        if real not in self.memory:
            self.memory[real] = self._content(real)
        return self.memory[real]

    def _content(self, path: str) -> bytes:
        with tempfile.TemporaryDirectory(prefix="pkgkmod-") as scratch:
            self.copy({path: Path(scratch, "file")})
            return Path(scratch, "file").read_bytes()


def copy_parts(image: Path, entries: Entries) -> Callable[[Mapping[str, Path]], None]:
    """Return what copies files out of an image in which their places are known; hard links are copied once."""

    def copy(wanted: Mapping[str, Path]) -> None:
        made: dict[tuple[tuple[int, int], ...], Path] = {}
        with image.open("rb", buffering=0) as source:
            for path, destination in wanted.items():
                parts = entries[path].parts
                if parts in made:
                    os.link(made[parts], destination)
                    continue
                with destination.open("xb", buffering=0) as sink:
                    for offset, length in parts:
                        _copy(source.fileno(), sink.fileno(), offset, length)
                if parts:
                    made[parts] = destination

    return copy


def _copy(source: int, sink: int, offset: int, length: int) -> None:
    while length:
        done = os.sendfile(sink, source, offset, min(length, _CHUNK))
        if not done:
            raise DamagedError("it is cut off")
        offset, length = offset + done, length - done


def copy_range(image: Path, start: int, end: int, destination: Path) -> None:
    """Copy a part of an image to a file that is not there yet."""
    with image.open("rb", buffering=0) as source, destination.open("xb", buffering=0) as sink:
        _copy(source.fileno(), sink.fileno(), start, end - start)


@dataclass(frozen=True)
class Reader:
    """Reads file systems; `scratch` is a folder of its own."""

    scratch: Path
    progress: Progress
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def volume(self, image: Path, start: int, end: int, place: str = "") -> Volume | None:
        """Return the file system between two offsets of an image; None if none is known. Raise DamagedError."""
        with image.open("rb") as file:
            head = os.pread(file.fileno(), 40 * 1024, start)
            if head[32769:32774] == b"CD001":
                return self._iso(image, start, end, place, head)
            if head[1080:1082] == b"\x53\xef":
                return self._ext(image, start, end, place, head)
            if is_fat(head[:512]):
                found = read_fat(file.fileno(), start, end)
                check_parts(found.entries, end)
                return Volume("FAT", found.label, found.size, place, found.entries, copy_parts(image, found.entries))
        return None

    def new_file(self) -> Path:
        """Return a name in the scratch folder that is free."""
        return self.scratch / f"image-{next(self._numbers)}"

    def output(self, argv: tuple[str, ...], needed_for: str) -> bytes:
        """Return what a program wrote; raise DamagedError if it failed."""
        for tool in (_LIMITS[0], argv[0]):
            find_tool(tool, needed_for=needed_for)
        log = self.new_file()
        done = run(Command((*_LIMITS, *argv), cwd=self.scratch), log=log, progress=self.progress)
        if not done.ok:
            said = [line for line in done.tail if _COMPLAINT.search(line)] or ["it gave no reason"]
            why = "it took too long, or too much room" if done.returncode < 0 else said[0].strip()
            raise DamagedError(f"{argv[0]} gave up: {why}")
        return log.read_bytes()

    def _iso(self, image: Path, start: int, end: int, place: str, head: bytes) -> Volume:
        label = head[32808:32840].decode("utf-8", "replace").rstrip(" \0")
        size = int.from_bytes(head[32848:32852], "little") * SECTOR
        if start:
            copy = self.new_file()
            copy_range(image, start, min(end, start + size), copy)
            image, start, end = copy, 0, copy.stat().st_size
        entries = self._iso_entries(image)
        check_parts(entries, end)
        return Volume("ISO 9660", label, size, place, entries, copy_parts(image, entries))

    def _iso_entries(self, image: Path) -> Entries:
        """Return what xorriso lists: names as the kernel shows them, of Rock Ridge, Joliet, or plain ones."""
        listing = self.new_file()
        words = ("-no_rc", "-abort_on", "FATAL", "-ecma119_map", "lowercase", "-indev", f"stdio:{image.absolute()}")
        # Names are between quotes, and what is not ASCII is escaped.
        output = ("-backslash_codes", "encode_output", "-logfile", "R", str(listing))
        find = ("-find", "/", "-exec", "lsdl", "--", "-find", "/", "-type", "f", "-exec", "report_lba", "--")
        self.output(("xorriso", *words, *output, *find), "reading ISO images")
        return listed(listing.read_text("ascii", "replace"))

    def _ext(self, image: Path, start: int, end: int, place: str, head: bytes) -> Volume:
        # The super block: ext4(5) in the kernel's Documentation/filesystems/ext4/super.rst.
        size = int.from_bytes(head[1028:1032], "little") << (10 + min(head[1048], 6))
        if start + size > end:
            raise DamagedError(f"it is cut off: the file system has {size} bytes, of which {end - start} are there")
        link = self.new_file()
        link.symlink_to(image.absolute())
        debugfs = Debugfs(self, f"{link.name}?offset={start}")
        entries = debugfs.entries()
        if sum(entry.size for entry in {e.inode: e for e in entries.values()}.values()) > size:
            raise DamagedError("its files are larger than it is")
        label = head[1144:1160].partition(b"\0")[0].decode("utf-8", "replace")
        return Volume("ext", label, size, place, entries, lambda wanted: debugfs.copy(wanted, entries))


def listed(text: str) -> Entries:
    """Return what a listing of xorriso tells: of each file lsdl, and of each part of one report_lba."""
    entries, places = Entries(), dict[str, list[tuple[int, int]]]()
    for line in text.splitlines():
        if found := _PLACED.fullmatch(line):
            parts = places.setdefault(_unquoted(found["path"]), [])
            # Files over 4 GiB have several parts; the size is that of all.
            left = int(found["size"]) - sum(length for _, length in parts)
            if (length := min(left, int(found["blocks"]) * SECTOR)) > 0:
                parts.append((int(found["lba"]) * SECTOR, length))
        elif found := _LISTED.fullmatch(line):
            target = _unquoted(found["target"] or "''")
            kinds = {"-": Entry("file"), "d": Entry("folder"), "l": Entry("link", target=target)}
            entries.put(_unquoted(found["path"]), kinds.get(found["kind"], Entry("other")))
    for path, parts in places.items():
        entries.put(path, Entry("file", sum(length for _, length in parts), tuple(parts)))
    return entries


def _unquoted(text: str) -> str:
    """Return a name as it is, of the form in which xorriso shows it."""
    plain = text[1:-1].replace("'\"'\"'", "'").encode("ascii", "replace")
    return _ESCAPED.sub(_control, plain).decode("utf-8", "surrogateescape")


def _control(found: re.Match[bytes]) -> bytes:
    code = found[1]
    return bytes([int(code, 8) & 0xFF]) if code.isdigit() and len(code) == 3 else _CONTROLS.get(code, code)


@dataclass(frozen=True)
class Debugfs:
    """Reads an ext file system by the numbers of its files: its names never are words of a command."""

    reader: Reader
    device: str

    def entries(self) -> Entries:
        """Return what is there; each folder is listed once."""
        entries = Entries()
        folders, seen = {2: ""}, {2}  # 2 is the root
        for _ in range(_DEEPEST):
            if not folders:
                break
            below: dict[int, str] = {}
            for number, lines in self._each("ls -p", folders).items():
                for found in filter(None, map(_INODE.fullmatch, lines)):
                    name = found["name"].decode("utf-8", "surrogateescape")
                    if name in (".", ".."):
                        continue
                    inode, kind = int(found["inode"]), _EXT_KINDS.get(found["mode"][:2], "other")
                    path = f"{folders[number]}/{name}"
                    size = int(found["size"] or 0) if kind == "file" else 0
                    entries.put(path, Entry(kind, size, inode=inode))
                    if kind == "folder" and inode not in seen:
                        seen.add(inode)
                        below[inode] = path
            folders = below
        links = {entry.inode: path for path, entry in entries.items() if entry.kind == "link"}
        for inode, lines in self._each("stat", links).items() if links else ():
            fast = [line for line in lines if line.startswith(b'Fast link dest: "')]
            target = fast[0][17:-1].decode("utf-8", "surrogateescape") if fast else ""
            entries[links[inode]] = Entry("link", target=target, inode=inode)
        return entries

    def _each(self, command: str, inodes: Collection[int]) -> dict[int, list[bytes]]:
        """Return what a command says of each inode."""
        script = self.reader.new_file()
        script.write_text("".join(f"{command} <{inode}>\n" for inode in inodes))
        output = self.reader.output(("debugfs", "-c", "-f", script.name, self.device), "reading ext file systems")
        if b" while trying to open " in output:
            raise DamagedError("debugfs cannot read it")
        found: dict[int, list[bytes]] = {}
        lines: list[bytes] = []
        for line in output.splitlines():
            if begin := re.fullmatch(rb"debugfs: [a-z -]+<(\d+)>.*", line):
                lines = found.setdefault(int(begin[1]), [])
            else:
                lines.append(line)
        return {inode: lines for inode, lines in found.items() if inode in inodes}

    def copy(self, wanted: Mapping[str, Path], entries: Entries) -> None:
        """Copy files; raise DamagedError for one that is not all there."""
        script = self.reader.new_file()
        numbers = {entries[path].inode for path in wanted}
        script.write_text("".join(f"dump <{inode}> {script.name}.{inode}\n" for inode in numbers))
        self.reader.output(("debugfs", "-c", "-f", script.name, self.device), "reading ext file systems")
        for path, destination in wanted.items():
            made = script.with_name(f"{script.name}.{entries[path].inode}")
            if not made.is_file() or made.stat().st_size != entries[path].size:
                raise DamagedError(f"{path} is damaged")
            os.link(made, destination)

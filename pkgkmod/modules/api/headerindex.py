"""What all headers of a kernel declare: read once, and kept in the user's cache."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import posixpath
import re
import signal
import sqlite3
import stat
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path

from pkgkmod.cachefolder import cache_folder
from pkgkmod.errors import DiskFullError, InputError, KernelError
from pkgkmod.kernels.tree import identified, read_options
from pkgkmod.model.kernel import Kernel, seen_at
from pkgkmod.modules.api.declarations import Declaration, declarations
from pkgkmod.modules.api.headertext import Conditions, HeaderText, read_header
from pkgkmod.progress import Progress
from pkgkmod.workspace import digest

_VERSION = 6
"""Raised when headers are read differently."""
_LARGEST = 4 * 1024 * 1024
"""Bytes of a header; the largest of Linux 6.12 has half a megabyte."""
_MOST = 200_000_000
"""Bytes of all headers; those of Linux 6.12 have 45 million."""
_MACRO_TEXT = 60
"""Characters that are kept of what a macro stands for."""
_KEPT = 90 * 24 * 60 * 60
"""Seconds that an index is kept that nobody asks."""
_HALF_MADE = 24 * 60 * 60
"""Seconds after which nobody can still be writing an index."""
_MAKING = ".making-"
_SOURCE_ARCHES = {"x86_64": "x86", "i686": "x86", "aarch64": "arm64", "ppc64le": "powerpc", "s390x": "s390"}
"""Folders below arch/; others are called as the machine, or like riscv64."""
# trace/events: each file is one macro call after the other.
_SKIPPED = ("include/trace/events", "include/config")
_SCHEMA = """
CREATE TABLE files (id INTEGER PRIMARY KEY, path TEXT NOT NULL);
CREATE TABLE declarations (
    name TEXT NOT NULL, number INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, file INTEGER NOT NULL,
    line INTEGER NOT NULL, PRIMARY KEY (name, number)
) WITHOUT ROWID;
CREATE TABLE includes (file INTEGER NOT NULL, path TEXT NOT NULL);
"""


class HeaderIndex:
    """What the headers of a kernel declare."""

    def __init__(self, file: Path) -> None:
        self._database = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)
        self._found: dict[str, tuple[Declaration, ...]] = {}
        self._closures: dict[frozenset[str], frozenset[str]] = {}

    def find(self, name: str) -> tuple[Declaration, ...]:
        """Return all that is declared with a name: macros, functions, types, enumerators; by file and line."""
        if name not in self._found:
            rows = self._database.execute(
                "SELECT name, kind, text, path, line FROM declarations JOIN files ON files.id = file WHERE name = ? "
                "ORDER BY number",
                (name,),
            )
            self._found[name] = tuple(Declaration(*row) for row in rows)
        return self._found[name]

    def find_tagged(self, tag: str) -> tuple[Declaration, ...]:
        """Return the definitions of `struct NAME`, `union NAME` or `enum NAME`, or of the type called NAME."""
        kind, _, name = tag.rpartition(" ")
        return tuple(one for one in self.find(name) if one.kind == (kind or "typedef"))

    def mentions(self, text: str) -> bool:
        """Tell whether any declaration has a text in it."""
        query = "SELECT 1 FROM declarations WHERE instr(text, ?) LIMIT 1"
        return self._database.execute(query, (text,)).fetchone() is not None

    @functools.cached_property
    def version(self) -> int | None:
        """LINUX_VERSION_CODE of the kernel; None if its headers do not say."""
        for one in self.find("LINUX_VERSION_CODE"):
            if found := re.fullmatch(r"LINUX_VERSION_CODE (\d+)", one.text):
                return int(found[1])
        return None

    def included(self, name: str) -> str:
        """Return the path of the header that `<NAME` or `"NAME` includes; nothing if there is none."""
        return included_path(name, "", self._files, self._searched)

    def reached(self, paths: Iterable[str]) -> frozenset[str]:
        """Return all headers that are read where some are included; those that every file gets are among them."""
        start = frozenset(paths)
        if start not in self._closures:
            found = {*start, *_ALWAYS}
            stack = list(found)
            while stack:
                new = self._includes.get(stack.pop(), set()) - found
                found |= new
                stack += new
            self._closures[start] = frozenset(found)
        return self._closures[start]

    @functools.cached_property
    def _includes(self) -> Mapping[str, set[str]]:
        query = "SELECT files.path, includes.path FROM includes JOIN files ON files.id = file"
        found: dict[str, set[str]] = {}
        for file, path in self._database.execute(query):
            found.setdefault(file, set()).add(path)
        return found

    @functools.cached_property
    def _files(self) -> Mapping[str, None]:
        return dict.fromkeys(path for (path,) in self._database.execute("SELECT path FROM files ORDER BY id"))

    @functools.cached_property
    def _searched(self) -> tuple[str, ...]:
        return _searched(self._files)

    @functools.cached_property
    def words_of_types(self) -> frozenset[str]:
        """All words in the definitions of structs and unions: a name that is not here is no member of any."""
        rows = self._database.execute("SELECT text FROM declarations WHERE kind IN ('struct', 'union', 'typedef')")
        found: set[str] = set()
        for (text,) in rows:
            found.update(_WORD.findall(text))
        return frozenset(found)


# LINUXINCLUDE and USERINCLUDE in the kernel's Makefile.
_INCLUDED_FROM = (
    *("{arch}/include/", "{arch}/include/generated/", "include/", "{arch}/include/uapi/"),
    *("{arch}/include/generated/uapi/", "include/uapi/", "include/generated/uapi/"),
)
_ALWAYS = ("include/linux/compiler-version.h", "include/linux/kconfig.h", "include/linux/compiler_types.h")
_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def header_indexes(kernels: Sequence[Kernel], progress: Progress) -> tuple[HeaderIndex, ...]:
    """Return what the headers of each kernel declare; those not read before are read now, side by side.

    Raise KernelError for a kernel without headers.
    """
    kernels = [identified(kernel) for kernel in kernels]
    missing = {place: kernel for kernel in kernels if not _is_whole(place := _place(kernel))}
    if missing:
        names = ", ".join(kernel.uname_r for kernel in missing.values())
        with progress.step(f"Reading the headers of {names}"):
            _make([(place, header_folders(kernel), _options(kernel)) for place, kernel in missing.items()])
    for place in map(_place, kernels):
        with contextlib.suppress(OSError):
            os.utime(place)
    return tuple(HeaderIndex(_place(kernel)) for kernel in kernels)


def _is_whole(place: Path) -> bool:
    """Tell whether an index is there and can be read; a damaged one is made anew."""
    if not place.is_file():
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{place.as_uri()}?mode=ro", uri=True)) as database:
            database.execute("SELECT 1 FROM files, declarations, includes LIMIT 1").fetchone()
    except sqlite3.Error:
        return False
    return True


def header_folders(kernel: Kernel) -> tuple[tuple[Path, str], ...]:
    """Return the folders with a kernel's headers, and what they are called in its tree.

    Raise KernelError if there is none.
    """
    arch = _SOURCE_ARCHES.get(kernel.arch, kernel.arch.removesuffix("64"))
    trees = [seen_at(path, kernel.mounts) for path in (kernel.tree, *kernel.also_needs)]
    found = [(tree / name, name) for tree in trees for name in ("include", f"arch/{arch}/include")]
    there = tuple((folder, name) for folder, name in found if folder.is_dir())
    if not any((folder / "linux" / "module.h").is_file() for folder, _ in there):
        raise KernelError(
            f"the build tree of {kernel.uname_r} has no headers to compare",
            hint=f"{trees[0]} should have include/linux/module.h, or include the Makefile of a folder that has",
        )
    return there


def _options(kernel: Kernel) -> dict[str, str]:
    return dict(read_options(kernel.place))


def _place(kernel: Kernel) -> Path:
    key = digest({"kernel": kernel.identity, "arch": kernel.arch, "version": _VERSION})
    return cache_folder() / "headers" / f"{kernel.uname_r}-{key[:24]}.sqlite"


_Task = tuple[Path, tuple[tuple[Path, str], ...], dict[str, str]]


def _make(tasks: Sequence[_Task]) -> None:
    folder = tasks[0][0].parent
    folder.mkdir(parents=True, exist_ok=True)
    _remove_old(folder)
    # Not forked: this process has threads.
    others = [get_context("spawn").Process(target=_write_aside, args=(task,), daemon=True) for task in tasks[1:]]
    for process in others:
        process.start()
    try:
        _write_index(tasks[0])
        for process in others:
            process.join()
    finally:
        for process in others:
            process.terminate()
            process.join()
            for file in folder.glob(f"{_MAKING}{process.pid}-*"):
                file.unlink(missing_ok=True)
    for task in tasks[1:]:
        if not _is_whole(task[0]):  # what was wrong there is told here
            _write_index(task)


def _write_aside(task: _Task) -> None:
    """Be the other process, which says nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    with contextlib.suppress(Exception):
        _write_index(task)


def _remove_old(folder: Path) -> None:
    for file in folder.iterdir():
        with contextlib.suppress(OSError):
            age = time.time() - file.stat().st_mtime
            if age > _KEPT or (file.name.startswith(_MAKING) and age > _HALF_MADE):
                file.unlink()


def _write_index(task: _Task) -> None:
    """Read all headers, and put what they declare into a new file; another one like it is replaced."""
    place, folders, options = task
    gc.disable()  # nothing that is made here refers to itself; looking for that takes a tenth of the time
    handle, name = tempfile.mkstemp(dir=place.parent, prefix=f"{_MAKING}{os.getpid()}-")
    os.close(handle)
    try:
        database = sqlite3.connect(name)
        with contextlib.closing(database), database:
            database.execute("PRAGMA synchronous = OFF")
            database.execute("PRAGMA journal_mode = MEMORY")
            database.executescript(_SCHEMA)
            headers = {shown: path for folder, called in folders for path, shown in headers_below(folder, called)}
            found = read_headers(((path, shown) for shown, path in headers.items()), Conditions(options))
            _fill(database, headers, found)
        Path(name).replace(place)
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise DiskFullError(f"no space left on the disk where {place.parent} lies") from None
        raise InputError(
            f"what headers declare cannot be kept in {place.parent}",
            details=str(error),
            hint="XDG_CACHE_HOME names another place for the cache",
        ) from None
    finally:
        Path(name).unlink(missing_ok=True)
        gc.enable()


def _fill(database: sqlite3.Connection, names: Collection[str], headers: Iterable[tuple[str, HeaderText]]) -> None:
    files = {name: number for number, name in enumerate(names)}
    places = _searched(files)
    found: list[Declaration] = []
    included: list[tuple[int, str]] = []
    for shown, header in headers:
        found += header_declarations(header, shown)
        paths = (included_path(name, posixpath.dirname(shown), files, places) for name, _ in header.includes)
        included += [(files[shown], path) for path in dict.fromkeys(paths) if path]
    rows = [
        (one.name, number, one.kind, one.text, files[one.file], one.line) for number, one in enumerate(sorted(found))
    ]
    database.executemany("INSERT INTO files VALUES (?, ?)", ((number, path) for path, number in files.items()))
    database.executemany("INSERT INTO declarations VALUES (?, ?, ?, ?, ?, ?)", rows)
    database.executemany("INSERT INTO includes VALUES (?, ?)", included)


def included_path(name: str, folder: str, files: Collection[str], places: Sequence[str]) -> str:
    """Return which of `files` is included as `<NAME` or `"NAME` from a folder; nothing if none is."""
    plain = name[1:]
    if name.startswith('"') and (beside := posixpath.normpath(f"{folder}/{plain}")) in files:
        return beside
    return next((path for place in places if (path := place + plain) in files), "")


def _searched(files: Iterable[str]) -> tuple[str, ...]:
    """Return the folders that kbuild searches for headers, in order."""
    arch = next((path[: path.index("/include/")] for path in files if path.startswith("arch/")), "arch/none")
    return tuple(place.format(arch=arch) for place in _INCLUDED_FROM)


def read_headers(headers: Iterable[tuple[Path, str]], conditions: Conditions) -> Iterator[tuple[str, HeaderText]]:
    """Yield headers, with what they are called."""
    total = 0
    for path, shown in headers:
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            total += len(content)
            if total > _MOST:
                return
            yield shown, read_header(content, conditions)


def header_declarations(header: HeaderText, shown: str) -> Iterator[Declaration]:
    """Yield what a header declares, macros included; `shown` is what it is called."""
    for macro in header.macros:
        text = f"{macro.name}{macro.parameters or ''} {macro.body[:_MACRO_TEXT]}".rstrip()
        yield Declaration(macro.name, "macro", text, shown, macro.line)
    yield from declarations(header.code, shown)


def headers_below(folder: Path, called: str) -> Iterator[tuple[Path, str]]:
    """Yield the headers in a folder, and what they are called; not links, nor files too large for a header."""
    for parent, folders, names in os.walk(folder):
        below = os.path.relpath(parent, folder)
        shown = called if below == "." else f"{called}/{below}"
        if shown in _SKIPPED:
            folders.clear()
            continue
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if name.endswith(".h") and _is_header(path):
                yield path, f"{shown}/{name}"


def _is_header(path: Path) -> bool:
    try:
        facts = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_size <= _LARGEST

"""What imported files use outside the imported folders: includes, Makefiles' -I folders, shared objects.

This reads C and make as text, without conditions: it finds what may be needed. Which of it exists is asked of
the commit (importer.py), and what does not exist is forgotten.
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pkgkmod.sources.unpack import folders_above, walk_files

_INCLUDE = re.compile(rb'#[ \t]*include[ \t]*(["<][^">\r\n]+)[">]')
_MAKEFILES = ("Makefile", "Kbuild")
_ASSIGNMENT = re.compile(r"\s*(?:export\s+|override\s+)?([\w.-]+)\s*[:+?]*=(.*)")
_VARIABLE = re.compile(r"\$[({]([\w.-]+)[)}]")
_FOLDER = re.compile(r"-I\s*([^\s'\"]+)")
_OBJECT = re.compile(r"(?<!\S)((?:[\w.-]+/)*(?:\.\./)+[\w./+-]+)\.o(?!\S)")
_MAKE_INCLUDE = re.compile(r"\s*-?s?include\s+(.+)")

# Stand for the two folders in expanded text; neither can occur in a Makefile.
_SRCTREE, _SRC = "\0tree", "\0src"
_BUILT_IN = {"srctree": _SRCTREE, "abs_srctree": _SRCTREE, "src": _SRC, "obj": _SRC, "srcroot": _SRC}


@dataclass(frozen=True)
class Reach:
    """A line of `file` that uses something outside: the first of the paths `needs` that exists."""

    file: str
    line: int
    needs: tuple[str, ...]


@dataclass(frozen=True)
class _Folder:
    """A folder that a Makefile names with -I, by its path in the kernel tree."""

    path: str
    by_srctree: bool


class Include(NamedTuple):
    """An #include line of a source: `quoted` ones are looked for beside the file first."""

    line: int
    quoted: bool
    name: str


def is_source(path: str) -> bool:
    """Say whether `path` is a C or assembler source, by its name."""
    return path.endswith((".c", ".h", ".S"))


def read_includes(content: bytes) -> tuple[Include, ...]:
    """Return the #include lines of a source."""
    found = []
    line, counted = 1, 0
    for match in _INCLUDE.finditer(content):
        start = match.start()
        if content[content.rfind(b"\n", 0, start) + 1 : start].strip():
            continue  # behind something else: a comment, a text
        line += content.count(b"\n", counted, start)
        counted = start
        written = match[1]
        found.append(Include(line, written[:1] == b'"', os.fsdecode(written[1:])))
    return tuple(found)


def outside_reaches(tree: Path, includes: Mapping[str, Sequence[Include]] | None = None) -> tuple[Reach, ...]:
    """Return what the sources and Makefiles below `tree` may need that is not there.

    `includes` holds, by path, those of sources that were read already.
    """
    files = list(walk_files(tree))
    makefiles = {path: _lines(tree / path) for path in files if posixpath.basename(path) in _MAKEFILES}
    here = {*files, *folders_above(files)}
    named = _folders_by_place(makefiles)
    searched = functools.cache(lambda place: _searched(place, named))
    found: list[Reach] = []
    for path in files:
        if path in makefiles:
            found += _makefile_reaches(path, makefiles[path], here)
        elif is_source(path):
            known = (includes or {}).get(path)
            if known is None:
                known = () if (tree / path).is_symlink() else read_includes((tree / path).read_bytes())
            found += _source_reaches(path, known, here, searched(posixpath.dirname(path)))
    return tuple(found)


def include_folders(tree: Path) -> tuple[str, ...]:
    """Return the folders, relative to `tree`, that Makefiles there name as `-I$(srctree)/...` and that were
    imported.

    Outside the kernel's own build, $(srctree) is the kernel's build tree: so the build has to name them
    itself.
    """
    makefiles = {path: _lines(tree / path) for path in walk_files(tree) if posixpath.basename(path) in _MAKEFILES}
    named = {f.path for folders in _folders_by_place(makefiles).values() for f in folders if f.by_srctree}
    return tuple(sorted(path for path in named if (tree / path).is_dir()))


# --- C -------------------------------------------------------------------------------------------


def _searched(place: str, named: dict[str, tuple[_Folder, ...]]) -> tuple[str, ...]:
    """Return the -I folders for sources in `place`: those of its Makefile, and of all above
    (subdir-ccflags-y)."""
    parts = place.split("/")
    above = ["", *("/".join(parts[:end]) for end in range(1, len(parts) + 1))]
    return tuple(dict.fromkeys(folder.path for parent in above for folder in named.get(parent, ())))


def _source_reaches(path: str, includes: Iterable[Include], here: set[str], searched: Sequence[str]) -> Iterator[Reach]:
    place = posixpath.dirname(path)
    outside = any(folder not in here for folder in searched)
    for line, quoted, name in includes:
        # The kernel's own, or beside the file, as most are: seen at a glance.
        if (not quoted and not outside) or (quoted and f"{place}/{name}" in here):
            continue
        # Beside the file, too: a header that was imported alone has its neighbours where it came from.
        if needs := _candidates([place, *searched] if quoted else searched, name, here):
            yield Reach(path, line, needs)


def _candidates(folders: Sequence[str], name: str, here: set[str]) -> tuple[str, ...]:
    """Return where `name` could be; nothing if it is in one of the folders already."""
    needs: list[str] = []
    for folder in folders:
        path = _joined(folder, name)
        if path in here:
            return ()
        if path and path not in needs:
            needs.append(path)
    return tuple(needs)


# --- make ----------------------------------------------------------------------------------------


def _lines(makefile: Path) -> list[tuple[int, str]]:
    """Return the lines of a Makefile with their numbers: continued ones joined, comments away, variables
    expanded."""
    if makefile.is_symlink():
        return []
    lines: list[tuple[int, str]] = []
    start, pending = 1, ""
    text = makefile.read_text(encoding="utf-8", errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):
        if not pending:
            start = number
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        lines.append((start, (pending + line).partition("#")[0]))
        pending = ""
    variables = dict(_BUILT_IN)
    for _, line in lines:
        if match := _ASSIGNMENT.fullmatch(line):
            variables.setdefault(match[1], match[2].strip())
    return [(number, _expanded(line, variables)) for number, line in lines]


def _expanded(line: str, variables: dict[str, str]) -> str:
    for _ in range(5):  # deep enough for real ones; a variable that names itself ends here, too
        if "$" not in line or len(line) > 10_000:
            break
        line = _VARIABLE.sub(lambda match: variables.get(match[1], match[0]), line)
    return line


def _folders_by_place(makefiles: dict[str, list[tuple[int, str]]]) -> dict[str, tuple[_Folder, ...]]:
    """Return the -I folders of each folder that has a Makefile."""
    found: dict[str, dict[_Folder, None]] = {}
    for path, lines in makefiles.items():
        place = posixpath.dirname(path)
        for _, line in lines:
            for match in _FOLDER.finditer(line):
                folder = _kernel_path(match[1], place)
                if folder and not _provided(folder):
                    by_srctree = not match[1].startswith(_SRC)
                    found.setdefault(place, {})[_Folder(folder, by_srctree)] = None
    return {place: tuple(folders) for place, folders in found.items()}


def _makefile_reaches(path: str, lines: Iterable[tuple[int, str]], here: set[str]) -> Iterator[Reach]:
    place = posixpath.dirname(path)
    for number, line in lines:
        for match in _OBJECT.finditer(line):
            base = _joined(place, match[1])
            if base and not here & {base + ".c", base + ".S"}:
                yield Reach(path, number, (base + ".c", base + ".S"))
        if included := _MAKE_INCLUDE.fullmatch(line):
            for word in included[1].split():
                needed = _kernel_path(word, place)
                if needed and "*" not in needed and needed not in here and not _provided(needed):
                    yield Reach(path, number, (needed,))


def _kernel_path(word: str, place: str) -> str:
    """Return the path in the kernel tree that a word of the Makefile in folder `place` means; empty if
    none."""
    word = word.replace(_SRCTREE + "/", "").replace(_SRCTREE, ".").replace(_SRC, place)
    # Make runs at the top of the tree: a relative path starts there.
    return "" if "$" in word or "\0" in word or word.startswith(("/", "-")) else _joined("", word)


# --- paths ---------------------------------------------------------------------------------------


def _joined(folder: str, name: str) -> str:
    """Return `name` seen from `folder`, shortest form; empty if that leads outside the kernel tree."""
    path = posixpath.normpath(posixpath.join(folder, name))
    return "" if path in (".", "..") or path.startswith(("../", "/")) or not path.isprintable() else path


def _provided(path: str) -> bool:
    """Say whether the kernel's own headers, or its build system, bring `path`."""
    parts = path.split("/")
    headers = parts[0] == "include" or (parts[0] == "arch" and parts[2:3] == ["include"])
    return headers or parts[0] in ("scripts", "tools")

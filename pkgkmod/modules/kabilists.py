"""The kABI lists of Red Hat's kernel trees, read and added to.

There are three formats, each a class here. Which a tree has is found by looking; they list exports as lines of
Module.symvers, or only their names.
"""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pkgkmod.errors import InputError
from pkgkmod.progress import escape_controls

# Where kernel trees of RHEL 6 to 10 and CentOS Stream keep the lists; the first that is there is taken.
FOLDERS = ("redhat/kabi/kabi-module", "redhat/kabi")
# Makefile.rhelver since RHEL 8, Makefile before.
_RELEASE_FILES = ("Makefile.rhelver", "Makefile")

# A name that C knows. What else a module's string table holds must not become a file name or a line of a list.
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_EXPORT = re.compile(
    r"(?P<crc>0x[0-9a-f]{8})\t(?P<symbol>[A-Za-z_]\w{0,254})\t(?P<module>[!-~]+)"
    r"\t(?P<kind>EXPORT_[A-Z_]+)(?:\t(?P<namespace>[!-~]*))?",
    re.ASCII,
)
_RANGE = re.compile(r"#(\d+)-(\d*)")
_INDEX = re.compile(r"#I:(\d+)")
_MINOR = re.compile(rb"^RHEL_MINOR[ \t]*:?=[ \t]*(\d+)[ \t]*$", re.MULTILINE)
_LONGEST = 64 << 20  # bytes; a Module.symvers has 2 MiB
_HEADING = re.compile(r"\[\w+\]", re.ASCII)


def is_symbol(name: str) -> bool:
    """Tell whether this can be the name of an exported symbol."""
    return _SYMBOL.fullmatch(name) is not None


@dataclass(frozen=True)
class Export:
    """A symbol that a kernel exports, as a line of its Module.symvers says."""

    crc: int
    symbol: str
    module: str
    """`vmlinux`, or the module's path in the kernel tree, without `.ko`."""
    kind: str
    """EXPORT_SYMBOL, EXPORT_SYMBOL_GPL and the like."""
    namespace: str | None = None
    """None: Module.symvers has no such column (before 5.4)."""

    @property
    def line(self) -> str:
        """The line of Module.symvers, without line end."""
        columns = [f"0x{self.crc:08x}", self.symbol, self.module, self.kind]
        return "\t".join(columns if self.namespace is None else [*columns, self.namespace])


def parse_export(line: str) -> Export | None:
    """Return the export in a line of Module.symvers, or of a kABI list; None if it is not one."""
    found = _EXPORT.fullmatch(line)
    if found is None:
        return None
    return Export(int(found["crc"], 16), found["symbol"], found["module"], found["kind"], found["namespace"])


def read_exports(path: Path, symbols: Collection[str]) -> dict[str, Export]:
    """Return those of `symbols` that a kernel exports, from its Module.symvers (also .gz and .xz)."""
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
    opened = openers.get(path.suffix, open)
    try:
        with opened(path, "rb") as file:
            content: bytes = file.read(_LONGEST + 1)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise InputError(f"{path} cannot be read as a Module.symvers", details=str(error)) from None
    exports = {}
    for number, raw in enumerate(content.split(b"\n") if len(content) <= _LONGEST else [b"(too long)"], 1):
        line = raw.decode("ascii", "replace")
        export = parse_export(line)
        if export is None and line:
            raise InputError(
                f"{path}, line {number}: not a line of a Module.symvers",
                details=escape_controls(line[:200]),
                hint="the file lies in the kernel's build tree",
            )
        if export and export.symbol in symbols:
            exports[export.symbol] = export
    return exports


@dataclass(frozen=True)
class Listed:
    """How a list has a symbol."""

    export: Export | None
    """None: it lists names only."""
    gone: str = ""
    """Until when it was listed, in words; empty: it still is."""


class KabiList(Protocol):
    """A kABI list of one architecture."""

    @property
    def path(self) -> str:
        """The file or folder, in the kernel tree."""

    def find(self, symbol: str) -> Listed | None:
        """Return how the list has a symbol, None if it has not."""

    def entry(self, export: Export) -> str:
        """Return the line that lists a symbol."""

    def with_symbols(self, exports: Sequence[Export]) -> dict[str, bytes]:
        """Return the files, by path, that differ once these symbols are on the list."""


class Tree(Protocol):
    """Files of a kernel tree."""

    def names(self, folder: str) -> frozenset[str] | None:
        """Return the names of what lies in a folder; None if there is no such folder."""

    def read(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Return the contents of those of `paths` that are there."""


@dataclass(frozen=True)
class SymbolFolder:
    """A folder with a file for each symbol, from RHEL 7.1 on (redhat/kabi/show-kabi reads it).

    `#FROM-TO` are the minor releases, `#I:N` says which line counts, `#P:` where the symbol is defined.
    """

    path: str
    files: Mapping[str, str]
    minor: int | None

    def find(self, symbol: str) -> Listed | None:
        """Return how the folder has a symbol."""
        if symbol not in self.files:
            return None
        lines = self._lines(symbol)
        span = next((found for line in lines if (found := _RANGE.fullmatch(line))), None)
        export = parse_export(lines[self._current(symbol, lines)])
        if span is None or export is None or export.symbol != symbol:
            raise self._unreadable(symbol)
        over = span[2] and (self.minor is None or int(span[2]) <= self.minor)
        return Listed(export, f"taken off the list in minor release {span[2]}" if over else "")

    def entry(self, export: Export) -> str:
        """Return the line that counts in the symbol's file."""
        return export.line

    def with_symbols(self, exports: Sequence[Export]) -> dict[str, bytes]:
        """Return the files of these symbols; what a file says besides is kept."""
        return {f"{self.path}/{export.symbol}": self._file(export).encode() for export in exports}

    def _file(self, export: Export) -> str:
        if self.minor is None:
            raise InputError(
                "the kernel tree does not say which minor release it is",
                details=f"neither {' nor '.join(_RELEASE_FILES)} sets RHEL_MINOR",
                hint="give the release that the symbols are listed from: --minor N",
            )
        found = self.find(export.symbol)
        if found is None:
            return f"#{self.minor}-\n{export.line}\n"
        lines = self._lines(export.symbol)
        lines[self._current(export.symbol, lines)] = export.line
        if found.gone:
            lines = [f"#{self.minor}-" if _RANGE.fullmatch(line) else line for line in lines]
        return "".join(line + "\n" for line in lines)

    def _lines(self, symbol: str) -> list[str]:
        return self.files[symbol].removesuffix("\n").split("\n")

    def _current(self, symbol: str, lines: Sequence[str]) -> int:
        """Return the number of the line that counts."""
        index = next((int(found[1]) for line in lines if (found := _INDEX.fullmatch(line))), 0)
        exports = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
        if index >= len(exports):
            raise self._unreadable(symbol)
        return exports[index]

    def _unreadable(self, symbol: str) -> InputError:
        return other_format(f"{self.path}/{symbol}", "a line `#FROM-TO`, then one as in Module.symvers")


@dataclass(frozen=True)
class SymversList:
    """One file with lines of Module.symvers (Module.kabi_ARCH, up to RHEL 7.0)."""

    path: str
    lines: tuple[str, ...]

    def __post_init__(self) -> None:
        for line in self.lines:
            if line and not line.startswith("#") and parse_export(line) is None:
                raise other_format(self.path, "lines as in Module.symvers", line)

    def find(self, symbol: str) -> Listed | None:
        """Return how the file has a symbol."""
        found = next((line for line in self.lines if self._name(line) == symbol), None)
        return Listed(parse_export(found)) if found else None

    def entry(self, export: Export) -> str:
        """Return the line of a symbol."""
        return export.line

    def with_symbols(self, exports: Sequence[Export]) -> dict[str, bytes]:
        """Return the file with these symbols, each where the order of the names has it."""
        replaced = {export.symbol for export in exports}
        kept = [line for line in self.lines if self._name(line) not in replaced]
        return {self.path: _merged(kept, map(self.entry, exports), self._name)}

    @staticmethod
    def _name(line: str) -> str:
        return line.split("\t")[1] if line and not line.startswith("#") else ""


@dataclass(frozen=True)
class NameList:
    """One file with a heading, then names behind tabs (kabi_whitelist_ARCH, kabi_stablelist_ARCH)."""

    path: str
    lines: tuple[str, ...]

    def __post_init__(self) -> None:
        for number, line in enumerate(self.lines):
            heading = number == 0 and _HEADING.fullmatch(line)
            if line and not heading and not (line[0] in " \t" and is_symbol(line.strip())):
                raise other_format(self.path, "a heading, then names behind tabs", line)

    def find(self, symbol: str) -> Listed | None:
        """Return whether the file has a symbol."""
        return Listed(None) if any(self._name(line) == symbol for line in self.lines) else None

    def entry(self, export: Export) -> str:
        """Return the line of a symbol."""
        return f"\t{export.symbol}"

    def with_symbols(self, exports: Sequence[Export]) -> dict[str, bytes]:
        """Return the file with these symbols, each where the order of the names has it."""
        new = [self.entry(export) for export in exports if self.find(export.symbol) is None]
        return {self.path: _merged(self.lines, new, self._name)} if new else {}

    @staticmethod
    def _name(line: str) -> str:
        return "" if line.startswith("[") else line.strip()


_ONE_FILE: Mapping[str, type[SymversList] | type[NameList]] = {
    "Module.kabi_{arch}": SymversList,
    "kabi_stablelist_{arch}": NameList,
    "kabi_whitelist_{arch}": NameList,
}


def _merged(lines: Sequence[str], new: Iterable[str], name: Callable[[str], str]) -> bytes:
    """Return a list with new lines in their places; what is not in order already stays as it is."""
    merged = list(lines)
    while merged and not merged[-1]:
        merged.pop()
    for line in sorted(new, key=name):
        place = next((n for n, other in enumerate(merged) if name(other) > name(line)), len(merged))
        merged.insert(place, line)
    return "".join(line + "\n" for line in merged).encode()


def other_format(path: str, wanted: str, line: str = "") -> InputError:
    """Return the error for a file that is not a kABI list of the format that its name says."""
    return InputError(
        f"{escape_controls(path, keep='')} is there in another format",
        details=f"expected: {wanted}" + (f"\nfound: {escape_controls(line[:200])}" if line else ""),
        hint="look at the file in the kernel tree; --kabi-dir names another folder",
    )


def open_lists(
    tree: Tree, arch: str, symbols: Sequence[str], *, folder: str | None = None, minor: int | None = None
) -> tuple[KabiList, ...]:
    """Return the kABI lists of an architecture, from `folder` or where Red Hat has them; none if there are none.

    Of a folder with a file for each symbol only `symbols` are read. A `folder` that is given is taken for such a
    one, whether it is there or not, unless files of the other formats lie in it.
    """
    for place in (folder,) if folder else FOLDERS:
        lists = _lists_in(tree, place, arch, symbols, minor)
        if lists:
            return lists
        if folder or (place.endswith("/kabi-module") and tree.names(place) is not None):
            # An architecture that is new on the lists: git keeps no empty folders.
            return (SymbolFolder(_of_arch(place, arch), {}, minor),)
    return ()


def _of_arch(folder: str, arch: str) -> str:
    return folder.replace("{arch}", arch) if "{arch}" in folder else f"{folder}/kabi_{arch}"


def _lists_in(tree: Tree, folder: str, arch: str, symbols: Sequence[str], minor: int | None) -> tuple[KabiList, ...]:
    place = _of_arch(folder, arch)
    if (there := tree.names(place)) is not None:
        paths = {f"{place}/{symbol}": symbol for symbol in symbols if symbol in there}
        contents = tree.read(list(paths))
        return (SymbolFolder(place, {paths[path]: _text(path, raw) for path, raw in contents.items()}, minor),)
    names = {f"{folder}/{name.format(arch=arch)}": kind for name, kind in _ONE_FILE.items()}
    found = tree.read(list(names))
    return tuple(names[path](path, _lines(path, raw)) for path, raw in found.items())


def _lines(path: str, raw: bytes) -> tuple[str, ...]:
    return tuple(_text(path, raw).removesuffix("\n").split("\n"))


def _text(path: str, raw: bytes) -> str:
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise other_format(path, "ASCII text") from None


def parse_list(path: str, raw: bytes) -> KabiList:
    """Return the kABI list in a file that may be anywhere, of either format."""
    lines = _lines(path, raw)
    first = next((line for line in lines if line and not line.startswith("#")), "")
    return SymversList(path, lines) if parse_export(first) else NameList(path, lines)


def minor_release(tree: Tree) -> int | None:
    """Return the minor release of RHEL that a kernel tree is of, None if it does not say."""
    for content in tree.read(_RELEASE_FILES).values():
        if found := _MINOR.search(content):
            return int(found[1])
    return None

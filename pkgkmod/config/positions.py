"""On which line of a TOML text each key is; tomllib does not say.

The text must be one that tomllib accepts: only its structure is followed here, nothing is checked again.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left

KeyPath = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'  # up to two quotes may stand before the closing three
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'",
    re.DOTALL,
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]+")


def locate(text: str) -> dict[KeyPath, int]:
    """Return the line, counted from 1, of each key, table and array entry of a valid TOML text."""
    return _Scanner(text).document()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.newlines = [found.start() for found in re.finditer("\n", text)]
        self.lines: dict[KeyPath, int] = {}
        self.entries: dict[KeyPath, int] = {}
        """Arrays of tables, with the number of tables read so far."""

    def document(self) -> dict[KeyPath, int]:
        """Read the whole text."""
        table: KeyPath = ()
        while self.more():
            table = self.header() if self.at("[") else self.pair(table)
        return self.lines

    def header(self) -> KeyPath:
        """Read [a.b] or [[a.b]]; return the path of the table that begins."""
        line = self.line()
        array = self.skip("[[")
        if not array:
            self.skip("[")
        *parents, name = self.keys()
        path: KeyPath = ()
        for key in parents:
            path = self.inner((*path, key))
            self.lines.setdefault(path, line)
        path = (*path, name)
        if array:
            self.lines.setdefault(path, line)
            self.entries[path] = self.entries.get(path, 0) + 1
            path = self.inner(path)
        self.lines[path] = line
        self.skip("]]" if array else "]")
        return path

    def inner(self, path: KeyPath) -> KeyPath:
        """Return the path of the table that `path` means: the last one of an array of tables."""
        return (*path, self.entries[path] - 1) if path in self.entries else path

    def pair(self, table: KeyPath) -> KeyPath:
        """Read `key = value`; return the table it is in."""
        line = self.line()
        path = table
        for key in self.keys():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self.skip("=")
        self.value(path)
        return table

    def value(self, path: KeyPath) -> None:
        """Read a value."""
        self.more()
        if self.skip("["):
            self.array(path)
        elif self.skip("{"):
            while self.more() and not self.skip("}"):
                self.pair(path)
                self.skip(",")
        elif not self.match(_STRING):
            self.match(_SCALAR)

    def array(self, path: KeyPath) -> None:
        """Read the rest of an array."""
        count = 0
        while self.more() and not self.skip("]"):
            self.lines[*path, count] = self.line()
            self.value((*path, count))
            self.skip(",")
            count += 1

    def keys(self) -> list[str]:
        """Read a key, dotted or not, quoted or not."""
        found = [self.key()]
        while self.skip("."):
            found.append(self.key())
        return found

    def key(self) -> str:
        self.more()
        if quoted := self.match(_STRING):
            return str(tomllib.loads(f"key = {quoted}")["key"])
        return self.match(_BARE_KEY)

    def line(self) -> int:
        return bisect_left(self.newlines, self.position) + 1

    def more(self) -> bool:
        """Pass blanks and comments; return False at the end of the text."""
        self.match(_BLANK)
        return self.position < len(self.text)

    def at(self, mark: str) -> bool:
        return self.text.startswith(mark, self.position)

    def skip(self, mark: str) -> bool:
        """Pass blanks and `mark`; return False if it is not there."""
        self.more()
        if not self.at(mark):
            return False
        self.position += len(mark)
        return True

    def match(self, pattern: re.Pattern[str]) -> str:
        """Pass what `pattern` matches and return it; empty if it does not match."""
        found = pattern.match(self.text, self.position)
        if not found:
            return ""
        self.position = found.end()
        return found[0]

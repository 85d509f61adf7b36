"""A header as the compiler of one kernel would see it: no comments, no directives, only the branches of its options.

Nothing is included and no macro is expanded: each header is read by itself. Conditions that need more than the
kernel's options are not known; outside of braces both of their branches are kept.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

# Runs of characters are taken at once, without alternatives: most of the time goes into these two.
_COMMENT = re.compile(
    rb"""/\*[^*]*(?:\*(?!/)[^*]*)*(?:\*/|\Z)|//[^\n\\]*(?:\\.[^\n\\]*)*"""
    rb"""|"[^"\\\n]*(?:\\.[^"\\\n]*)*"|'[^'\\\n]*(?:\\.[^'\\\n]*)*'""",
    re.DOTALL,
)
_DIRECTIVE = re.compile(
    rb"^[ \t]*#[ \t]*(?:define[ \t]+(?P<macro>\w+)(?P<parameters>\([^()]*\))?|(?P<word>\w+))"
    rb"(?P<rest>[^\n\\]*(?:\\.[^\n\\]*)*)",
    re.MULTILINE | re.DOTALL,
)
_CONTINUED = re.compile(rb"\\\r?\n")
_TOKEN = re.compile(r"\s*(\|\||&&|[<>=!]=|[!()<>,]|\w+|$|.)", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_GUARD = re.compile(r"!\s*defined\s*\(?\s*(\w+)\s*\)?", re.ASCII)
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]+|\d+)[uUlL]*")
_INCLUDE = re.compile(rb"""[ \t]*(<[^<>\n]+|"[^"\n]+)[>"]""")
_CONDITIONAL = frozenset({b"undef", b"if", b"ifdef", b"ifndef", b"elif", b"else", b"endif", b"elifdef", b"elifndef"})
_COMPARED: Mapping[str, Callable[[int, int], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_ASKS = frozenset({"defined", "IS_ENABLED", "IS_BUILTIN", "IS_MODULE", "IS_REACHABLE"})
_LONGEST = 4000
"""Characters of a condition that is looked at."""
_DEEPEST = 40

# What is known of every module's compilation besides the kernel's options.
_SET: Mapping[str, bool] = {
    "__KERNEL__": True,
    "MODULE": True,
    "__GNUC__": True,
    "__linux__": True,
    "__ASSEMBLY__": False,
    "__ASSEMBLER__": False,
    "__cplusplus": False,
    "__CHECKER__": False,
    "__GENKSYMS__": False,
    "__DOC__": False,
}


class Macro(NamedTuple):
    """A #define."""

    name: str
    parameters: str | None
    """In parentheses; None for one that takes no arguments."""
    body: str
    line: int


@dataclass(frozen=True)
class HeaderText:
    """What is left of a header."""

    code: bytes
    """With the lines of the header, so that line numbers stay right."""
    macros: tuple[Macro, ...]
    includes: tuple[tuple[str, int], ...] = ()
    """Headers that are included, `<NAME` or `"NAME`, with the lines."""
    defined: frozenset[str] = frozenset()
    """Macros that are defined at its end, whatever is not known of its conditions."""
    unsure: tuple[tuple[int, int], ...] = ()
    """First and last line of each part of which it is not known whether it counts."""


class Conditions:
    """Tells what the conditions of headers are for a kernel: true, false, or not known."""

    def __init__(
        self, options: Mapping[str, str] | None, version: int | None = None, defined: Collection[str] = ()
    ) -> None:
        """`version` is LINUX_VERSION_CODE, `defined` are macros that are known to be defined."""
        self.version = version
        self._options = options
        self._defined = defined
        self._known: dict[str, bool | None] = {}

    def given(self, defined: Collection[str]) -> Conditions:
        """Return the same for sources that define more macros."""
        return Conditions(self._options, self.version, {*self._defined, *defined})

    def value(self, text: str) -> bool | None:
        """Return what an expression behind #if is worth."""
        if text not in self._known:
            self._known[text] = None if len(text) > _LONGEST else _Expression(text, self).value()
        return self._known[text]

    def defined(self, name: str) -> bool | None:
        """Tell whether a macro is defined."""
        if name in self._defined:
            return True
        if self._options is not None and name.startswith("CONFIG_"):
            option = name.removeprefix("CONFIG_")
            if option.endswith("_MODULE") and self._options.get(option.removesuffix("_MODULE")) == "m":
                return True
            return self._options.get(option, "n") not in ("n", "m")
        return _SET.get(name)

    def asked(self, question: str, name: str) -> bool | None:
        """Answer `defined(NAME)`, `IS_ENABLED(NAME)` and the like."""
        if question == "defined":
            return self.defined(name)
        if self._options is None or not name.startswith("CONFIG_"):
            return None
        value = self._options.get(name.removeprefix("CONFIG_"), "n")
        wanted = {"IS_BUILTIN": ("y",), "IS_MODULE": ("m",)}.get(question, ("y", "m"))
        return value in wanted


class _Expression:
    """Reads an expression of #if; what is not understood is not known."""

    def __init__(self, text: str, conditions: Conditions) -> None:
        self._tokens = [token for token in _TOKEN.findall(text) if token]
        self._at = 0
        self._conditions = conditions

    def value(self) -> bool | None:
        found = self._any(0)
        return found if self._at == len(self._tokens) else None

    def _next(self, *wanted: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] in wanted:
            self._at += 1
            return True
        return False

    def _any(self, depth: int) -> bool | None:
        found = self._all(depth)
        while self._next("||"):
            other = self._all(depth)
            found = True if True in (found, other) else None if None in (found, other) else False
        return found

    def _all(self, depth: int) -> bool | None:
        found = self._one(depth)
        while self._next("&&"):
            other = self._one(depth)
            found = False if False in (found, other) else None if None in (found, other) else True
        return found

    def _one(self, depth: int) -> bool | None:
        if depth > _DEEPEST:
            return None
        if self._next("!"):
            found = self._one(depth + 1)
            return None if found is None else not found
        if self._next("("):
            found = self._any(depth + 1)
            return found if self._next(")") else None
        return self._word()

    def _word(self) -> bool | None:
        start = self._at
        left = self._number()
        if left is not None:
            sign = self._tokens[self._at] if self._at < len(self._tokens) else ""
            if sign not in _COMPARED:
                return left != 0
            self._at += 1
            right = self._number()
            return None if right is None else _COMPARED[sign](left, right)
        self._at = start
        word = self._take()
        if word not in _ASKS:
            return _SET.get(word)
        brackets = self._next("(")
        name = self._take()
        if brackets and not self._next(")"):
            return None
        return self._conditions.asked(word, name)

    def _take(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1] if self._at <= len(self._tokens) else ""

    def _number(self) -> int | None:
        """Return a number, or what stands for one: KERNEL_VERSION(6, 1, 0), LINUX_VERSION_CODE."""
        word = self._take()
        if found := _NUMBER.fullmatch(word):
            return int(found[1], 16 if found[1][:2] in ("0x", "0X") else 10)
        # Drivers have such macros under names of their own, too: LTTNG_KERNEL_VERSION.
        if word.endswith("LINUX_VERSION_CODE"):
            return self._conditions.version
        if not word.endswith("KERNEL_VERSION"):
            return None
        words = [self._take() for _ in range(7)]
        if words[::2] != ["(", ",", ",", ")"] or not all(part.isdecimal() for part in words[1::2]):
            return None
        major, minor, patch = (int(part) for part in words[1::2])
        return (major << 16) + (minor << 8) + min(patch, 255)


@dataclass
class _Branch:
    """A branch of a condition that is open."""

    outer: bool
    """Whether what is around it is kept."""
    kept: bool
    decided: bool
    """A branch before was true: no other one can be."""
    unsure: bool
    """Whether it is not known if it counts."""
    doubtful: bool
    """Whether any condition so far was not known."""
    guard: str = ""
    """The macro that has to be undefined for it."""


@dataclass
class _Reader:
    conditions: Conditions
    branches: list[_Branch] = field(default_factory=list)
    depth: int = 0
    defined: set[str] = field(default_factory=set)
    """Macros that are defined here for sure."""

    @property
    def kept(self) -> bool:
        return not self.branches or self.branches[-1].kept

    @property
    def unsure(self) -> bool:
        return any(branch.unsure for branch in self.branches)

    def define(self, macro: str) -> None:
        """Follow a #define that is kept; what keeps a header from being read twice is no answer to a question."""
        if not self.unsure and all(branch.guard != macro for branch in self.branches):
            self.defined.add(macro)

    def directive(self, word: str, rest: bytes) -> None:
        """Follow a directive that opens, changes or ends a condition."""
        text = _CONTINUED.sub(b" ", rest).decode("latin-1").strip()
        if word in ("if", "ifdef", "ifndef"):
            self._open(word, text)
        elif word == "undef":
            self.defined.discard(text)
        elif self.branches and word == "endif":
            self.branches.pop()
        elif self.branches:
            branch = self.branches[-1]
            value = None if word == "else" else self._value(word.removeprefix("el"), text)
            branch.doubtful = branch.doubtful or (value is None and word != "else")
            branch.unsure, branch.guard = branch.doubtful, ""
            branch.kept = branch.outer and not branch.decided and value is not False
            branch.decided = branch.decided or value is True

    def _open(self, word: str, text: str) -> None:
        value = self._value(word, text)
        found = _GUARD.fullmatch(f"!defined({text})" if word == "ifndef" else text) if value is None else None
        chosen = value is None and self.depth > 0  # one branch has to be, or braces would not match
        self.branches.append(
            _Branch(
                outer=self.kept,
                kept=self.kept and value is not False,
                decided=value is True or chosen,
                unsure=value is None and not found,
                doubtful=value is None,
                guard=found[1] if found else "",
            )
        )

    def _value(self, word: str, text: str) -> bool | None:
        conditions = self.conditions
        if self.defined and not self.defined.isdisjoint(_NAME.findall(text)):
            conditions = conditions.given(self.defined)
        if word == "if":
            return conditions.value(text)
        found = conditions.defined(text.partition(" ")[0])
        return found if word == "ifdef" or found is None else not found


def read_header(content: bytes, conditions: Conditions) -> HeaderText:
    """Return a header without comments and directives, and its macros."""
    text = _COMMENT.sub(_blank_comment, content)
    reader = _Reader(conditions)
    macros: list[Macro] = []
    includes: list[tuple[str, int]] = []
    parts: list[bytes] = []
    unsure: list[tuple[int, int]] = []
    end = line = 0
    for found in _DIRECTIVE.finditer(text):
        between = text[end : found.start()]
        lines = between.count(b"\n")
        if reader.kept:
            parts.append(between)
            reader.depth += between.count(b"{") - between.count(b"}")
            if reader.unsure:
                unsure.append((line + 1, line + 1 + lines))
        else:
            parts.append(b"\n" * lines)
        line += lines
        name, parameters, word, rest = found.groups()
        if name and reader.kept:
            macros += _macro(name, parameters, rest, line + 1)
            reader.define(name.decode("latin-1"))
        elif word == b"include":
            included = _INCLUDE.match(rest) if reader.kept else None
            includes += [(included[1].decode("latin-1"), line + 1)] if included else ()
        elif word in _CONDITIONAL:
            reader.directive(word.decode(), rest)
        end = found.end()
        if lines := text.count(b"\n", found.start(), end):
            parts.append(b"\n" * lines)
            line += lines
    parts.append(text[end:] if reader.kept else b"")
    return HeaderText(b"".join(parts), tuple(macros), tuple(includes), frozenset(reader.defined), tuple(unsure))


def _macro(name: bytes, parameters: bytes | None, rest: bytes, line: int) -> tuple[Macro, ...]:
    if b"\\" in rest:
        rest = _CONTINUED.sub(b" ", rest)
    words = b" ".join(rest.split())
    if words == name:  # says only that there is a declaration of that name
        return ()
    taken = " ".join(_CONTINUED.sub(b" ", parameters).decode("latin-1").split()) if parameters else None
    return (Macro(name.decode("latin-1"), taken, words[:_LONGEST].decode("latin-1"), line),)


def _blank_comment(found: re.Match[bytes]) -> bytes:
    text = found[0]
    return text if text[:1] != b"/" else b" " + b"\n" * text.count(b"\n")

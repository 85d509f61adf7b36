"""The text of a spec: marked before rpm expands it, and taken apart afterwards, so that each line keeps its number.

rpm itself expands the macros and decides the conditionals (`rpmspec --parse`); what it prints no longer says from
which line it came. So marks are put in: comments in the scripts, and dependencies with made-up names among the tags,
since rpm drops comments there. What rpm would turn into commands, %setup and %patch, is hidden from it as a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

SCRIPTS = ("prep", "generate_buildrequires", "conf", "build", "install", "check", "clean")
SCRIPTLETS = (
    *("pre", "post", "preun", "postun", "pretrans", "posttrans", "preuntrans", "postuntrans", "verifyscript"),
    *("triggerin", "triggerun", "triggerpostun", "triggerprein", "filetriggerin", "filetriggerun", "trigger"),
    *("filetriggerpostun", "transfiletriggerin", "transfiletriggerun", "transfiletriggerpostun"),
)
_SECTIONS = ("package", "description", "files", "changelog", "sourcelist", "patchlist", *SCRIPTS, *SCRIPTLETS)
_HEADER = re.compile(rf"%(?P<name>{'|'.join(sorted(_SECTIONS, key=len, reverse=True))})(?:\s+(?P<rest>.*))?")
_CONDITION = re.compile(r"\s*%(?:if|ifarch|ifnarch|ifos|ifnos|elif|elifarch|elifos|else|endif)\b")
_DEFINITION = re.compile(r"\s*%(?:define|global|undefine|bcond\w*|include|dnl)\b")
_HIDDEN = re.compile(r"\s*%(?P<what>setup|autosetup|autopatch|patch)(?P<number>[0-9]*)(?![A-Za-z_])(?P<rest>.*)")
_BRACED = re.compile(r"\s*%\{(?P<what>autosetup|autopatch|patch)(?P<number>[0-9]*)\b(?P<rest>[^{}]*)\}\s*$")
_MARK = re.compile(r"\s*#pkgkmod@(?P<line>[0-9]{1,7})$")
_TAG_MARK = re.compile(r"Provides: pkgkmod-(?P<what>line|package)\((?P<line>[0-9]{1,7})\)$")
_DONE = re.compile(r"\s*#pkgkmod:(?P<text>.*)")


@dataclass(frozen=True)
class Line:
    """A line with its number in the spec; continued lines are one."""

    number: int
    text: str


@dataclass
class Part:
    """A section: the tags in front (`preamble`), %prep, %post -n NAME, ..."""

    name: str
    rest: str = ""
    """What stands behind the name."""
    number: int = 1
    lines: list[Line] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The section as the spec calls it."""
        return f"%{self.name} {self.rest}".strip() if self.name != "preamble" else "preamble"


def marked(text: str) -> str:
    """Return the spec with marks for `rpmspec`."""
    return "".join(f"{line}\n" for line in _marked(text.splitlines()))


def _marked(lines: Sequence[str]) -> Iterator[str]:
    section, depth, continued = "preamble", 0, False
    for number, line in enumerate(lines, start=1):
        header = _HEADER.fullmatch(line.rstrip()) if not depth and not continued else None
        inside = bool(depth or continued)
        depth = _depth(line, depth)
        continued = line.endswith("\\")
        if header:
            section = header["name"]
            yield line
            if section == "package":
                yield f"Provides: pkgkmod-package({number})"
            continue
        if not inside and line.strip() and not _CONDITION.match(line) and not _DEFINITION.match(line):
            if section in ("preamble", "package") and not line.lstrip().startswith("#"):
                yield f"Provides: pkgkmod-line({number})"
            elif section in SCRIPTS or section in SCRIPTLETS:
                yield f"#pkgkmod@{number}"
        yield _hidden(line) if section == "prep" and not inside else line


def _hidden(line: str) -> str:
    """Return what rpm would turn into commands as a comment, in which it still expands macros."""
    found = _BRACED.match(line) or _HIDDEN.match(line)
    return f"#pkgkmod:{found['what']} {found['number'] or '-'} {found['rest'].strip()}" if found else line


def _depth(line: str, depth: int) -> int:
    """Return how many braces of macros are open behind a line."""
    place = 0
    while place < len(line):
        if not depth:
            place = line.find("%{", place)
            if place < 0:
                return 0
            place += 1
        depth += {"{": 1, "}": -1}.get(line[place], 0)
        place += 1
    return depth


def parts_of(expanded: str, text: str) -> list[Part]:
    """Return the sections of what `rpmspec --parse` printed of the marked spec `text`; the tags in front come first.

    rpm 4.18 does not print the line that begins a section behind %prep, so marks decide where one begins.
    """
    headers = [
        (number, found)
        for number, line in enumerate(text.splitlines(), start=1)
        if (found := _HEADER.fullmatch(line.rstrip()))
    ]
    parts = [Part("preamble")]
    number, begun = 1, ""
    for raw in expanded.splitlines():
        if mark := _MARK.fullmatch(raw) or _TAG_MARK.fullmatch(raw.strip()):
            number, begun = int(mark["line"]), ""
            above = next((one for one in reversed(headers) if one[0] <= number), None)
            if above and above[0] != parts[-1].number:
                parts.append(Part(above[1]["name"], (above[1]["rest"] or "").strip(), above[0]))
            continue
        if not begun and (header := _HEADER.fullmatch(raw.rstrip())):
            # Of two with the same name in the branches of a condition it may be the wrong one: only its number is.
            number = next(
                (n for n, found in headers if n > parts[-1].number and found["name"] == header["name"]), number
            )
            parts.append(Part(header["name"], (header["rest"] or "").strip(), number))
            continue
        if done := _DONE.fullmatch(raw):
            raw = f"%{done['text']}"
        begun = f"{begun} {raw.strip()}" if begun else raw.rstrip()
        if begun.endswith("\\") and parts[-1].name not in ("description", "changelog", "preamble"):
            begun = begun.removesuffix("\\").rstrip()
            continue
        parts[-1].lines.append(Line(_number(begun, number, text) if parts[-1].name == "files" else number, begun))
        begun = ""
    return [part for part in parts if part.name != "preamble" or part is parts[0]]


def _number(line: str, start: int, text: str) -> int:
    """Return the number of a line of %files, where rpm drops marks; that of the section if a macro made the line."""
    behind = enumerate(text.splitlines()[start:], start=start + 1)
    return next((number for number, raw in behind if raw.strip() == line.strip()), start)


def conditions(text: str) -> list[Line]:
    """Return the conditions that a spec hangs on."""
    return [
        Line(number, line.strip())
        for number, line in enumerate(text.splitlines(), start=1)
        if re.match(r"\s*%(?:if|ifarch|ifnarch|ifos|ifnos|elif|elifarch)\b", line)
    ]


def programs(text: str) -> list[Line]:
    """Return the lines whose macros run programs: %(...) and %{lua:...}."""
    return [
        Line(number, line.strip())
        for number, line in enumerate(text.splitlines(), start=1)
        if re.search(r"(?<!%)%(?:\(|\{lua:)", line) and not line.lstrip().startswith("#")
    ]

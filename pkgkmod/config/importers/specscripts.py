"""What the scripts of a spec do: what packages do by themselves, what the importer carries over, and all the rest."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pkgkmod import data
from pkgkmod.config.importers.spectext import SCRIPTLETS, Line, Part

_BEHIND_WORDS = re.compile(r"^(?:do|then|else)\s+")
_PIECES = re.compile(r""";(?!;)(?=(?:[^"'`]|"(?:\\.|[^"\\])*"|'[^']*'|`[^`]*`)*$)""")
_LONGEST = 4096  # characters of a line that is taken apart
_MAKE = re.compile(r"(?:\S*/)?(?:g?make|%\{?(?:make_build|__make)\}?)(?=\s)")
_VARIABLE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<sign>[+:?]?=)(?P<value>.*)", re.DOTALL)
_PATCH_PROGRAM = re.compile(r"(?:\S*/)?patch\s.*<\s*(?P<file>\S+)")
_OVERRIDE = re.compile(r"(?:/\S*/BUILDROOT/?|%\{?buildroot\}?|\$\{?RPM_BUILD_ROOT\}?)")
_FLAGS = ("EXTRA_CFLAGS", "KCFLAGS", "CFLAGS_MODULE", "ccflags-y")
# What a call of kbuild has, and pkgkmod gives by itself.
_KBUILD = frozenset(["V", "M", "SUBDIRS", "KERNELRELEASE", "KVERSION", "KVER", "KERNEL_VERSION", "TARGET"])
_GOALS = frozenset(["modules", "module", "all", "default", "clean"])


@dataclass(frozen=True)
class Applied:
    """A patch as %prep applies it."""

    number: int | None
    """Number of the tag; None if it is named by its file."""
    file: str
    strip: int | None
    folder: str
    """Where, below the folder of the sources."""
    reverse: bool
    line: Line


@dataclass
class Prepared:
    """What %prep does."""

    name: str = ""
    """Folder that the archive unpacks to (-n); NAME-VERSION if empty."""
    created: bool = False
    """The archive is unpacked in a new folder (-c)."""
    patches: list[Applied] = field(default_factory=list)
    every_patch: Applied | None = None
    """All patches are applied (%autosetup, %autopatch)."""
    more_archives: list[Line] = field(default_factory=list)
    rest: list[Line] = field(default_factory=list)
    """What was not understood."""


@dataclass
class Built:
    """What %build does."""

    calls: list[Line] = field(default_factory=list)
    """Calls of make."""
    folders: list[str] = field(default_factory=list)
    """Folders that kbuild is called for (M=), as the script names them."""
    options: dict[str, str] = field(default_factory=dict)
    """Kernel options, without CONFIG_."""
    flags: list[Line] = field(default_factory=list)
    """Flags for the compiler."""
    plain: list[Line] = field(default_factory=list)
    """Calls of the driver's own make."""
    variables: list[Line] = field(default_factory=list)
    """Other variables that the calls set."""
    rest: list[Line] = field(default_factory=list)


@functools.cache
def _known(kind: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in data.load("specs.toml")["known"][kind]))


def is_known(line: Line, *kinds: str) -> bool:
    """Tell whether a line of a script does what packages do by themselves, or nothing."""
    return any(_known(kind).match(line.text) for kind in kinds)


def commands(lines: Sequence[Line]) -> Iterator[Line]:
    """Yield the single commands of a script: loops and conditions taken apart, paths of programs left out."""
    for line in lines:
        if line.text.lstrip().startswith("#"):
            continue
        for piece in _PIECES.split(line.text) if len(line.text) < _LONGEST else (line.text,):
            text = piece.strip()
            while found := _BEHIND_WORDS.match(text):
                text = text[found.end() :].lstrip()
            text = re.sub(r"\s*\|\|\s*(?::|true)$", "", text)
            text = re.sub(r"^/(?:usr/)?s?bin/(?=[a-z])", "", text)
            yield Line(line.number, text)


def prepared(part: Part) -> Prepared:
    """Return what %prep does."""
    found = Prepared()
    folder: list[str] = []
    for line in commands(part.lines):
        word, _, rest = line.text.partition(" ")
        if word in ("%setup", "%autosetup"):
            _setup(word, line, found)
        elif word in ("%patch", "%autopatch"):
            _patch(word, line, "/".join(folder), found)
        elif program := _PATCH_PROGRAM.match(line.text):
            found.patches.append(_by_name(program["file"], line, "/".join(folder)))
        elif word in ("pushd", "cd", "popd"):
            _change(word, rest.strip().strip("\"'"), folder)
        elif not is_known(line, "control", "prep"):
            found.rest.append(line)
    return found


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else None


def _setup(word: str, line: Line, found: Prepared) -> None:
    # Behind the word stands `-`, where a patch has its number.
    words = iter(_words(line.text)[2:])
    for option in words:
        letter, value = option[:2], option[2:]
        if letter in ("-n", "-a", "-b", "-p", "-S", "-N") and letter != "-N" and not value:
            value = next(words, "")
        if letter == "-n":
            found.name = value
        elif letter == "-c":
            found.created = True
        elif letter in ("-a", "-b") and value != "0":
            found.more_archives.append(line)
        elif letter == "-p":
            strip = _number(value)
            found.every_patch = Applied(None, "", strip, "", False, line)
    if word == "%autosetup" and found.every_patch is None:
        found.every_patch = Applied(None, "", None, "", False, line)
    if word == "%autosetup" and "-N" in line.text.split():
        found.every_patch = None


def _patch(word: str, line: Line, folder: str, found: Prepared) -> None:
    words = _words(line.text)[1:]
    numbers = [number for number in map(_number, words[:1]) if number is not None]
    strip, reverse, place = None, False, folder
    rest = iter(words[1:])
    for option in rest:
        letter, value = option[:2], option[2:]
        if letter in ("-p", "-P", "-b", "-d", "-F", "-z", "-m", "-M") and not value:
            value = next(rest, "")
        if letter == "-p":
            strip = _number(value)
        elif (number := _number(value if letter == "-P" else option)) is not None:
            numbers.append(number)
        elif letter == "-d":
            place = f"{folder}/{value}".strip("/")
        elif letter == "-R":
            reverse = True
    if word == "%autopatch":
        found.every_patch = Applied(None, "", strip, place, reverse, line)
        return
    found.patches += [Applied(number, "", strip, place, reverse, line) for number in numbers or [0]]


def _by_name(file: str, line: Line, folder: str) -> Applied:
    strip = re.search(r"\s-p\s?([0-9]+)", line.text)
    name = file.strip("\"'").rpartition("/")[2]
    reverse = bool(re.search(r"\s-R\b", line.text))
    return Applied(None, name, _number(strip[1]) if strip else None, folder, reverse, line)


def _change(word: str, where: str, folder: list[str]) -> None:
    if word == "popd" or where in ("..", "-"):
        del folder[-1:]
    elif where and not where.startswith(("/", "$", "%")) and ".." not in where.split("/"):
        folder.append(where.strip("/"))


def built(part: Part) -> Built:
    """Return what %build does."""
    found = Built()
    for line in commands(part.lines):
        exported = re.sub(r"^export\s+", "", line.text)
        variable = _VARIABLE.fullmatch(exported)
        if _MAKE.match(line.text):
            _make(line, found)
        elif variable and variable["name"] in _FLAGS:
            found.flags.append(line)
        elif not is_known(line, "control", "build"):
            found.rest.append(line)
    return found


def _make(line: Line, found: Built) -> None:
    found.calls.append(line)
    folders, goals, unknown = [], [], []
    words = iter(_words(line.text)[1:])
    for word in words:
        variable = _VARIABLE.fullmatch(word)
        if word in ("-C", "-f", "-j", "-o", "-I"):
            next(words, "")
        elif variable is None:
            goals += [word] if not word.startswith("-") else []
        elif variable["name"] in ("M", "SUBDIRS"):
            folders.append(variable["value"])
        elif variable["name"].startswith("CONFIG_"):
            found.options[variable["name"].removeprefix("CONFIG_")] = variable["value"]
        elif variable["name"] in _FLAGS:
            found.flags.append(Line(line.number, word))
        elif variable["name"] not in _KBUILD:
            unknown.append(Line(line.number, word))
    found.folders += folders
    found.variables += unknown
    if not folders or not _GOALS.issuperset(goals):
        found.plain.append(line)


def not_understood(part: Part) -> list[Line]:
    """Return the lines of %install, a scriptlet or %files that do something that packages do not do by themselves."""
    if part.name == "files":
        # Comments, and the conditions that rpm has decided already, are none.
        return [line for line in part.lines if not is_known(Line(line.number, line.text.strip()), "files")]
    kind = "scriptlet" if part.name in SCRIPTLETS else part.name if part.name in ("install", "clean") else "control"
    return [line for line in commands(part.lines) if not is_known(line, "control", kind)]

"""What a booted kernel said, read: all of it is hostile text, of modules that can do whatever they want.

Only lines that begin with the boot's token count, and these are on a port of their own. A module that reads memory
could still find both: a boot proves what honest modules do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pkgkmod.boot.installed import TriedModule, merged
from pkgkmod.model.prediction import Ending, LoadResult
from pkgkmod.modules.kmod_deps import module_name

_MOST_LINES, _LONGEST = 200, 400
"""Of the kernel's lines while a module was loaded, and characters of one."""
_TIME = re.compile(r"^(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?")
_TRACED = re.compile(r"(?:calling  |initcall |probe of )\S")
_RETURNED = re.compile(r"initcall \S+ \[(?P<name>\w+)\] returned (?P<code>-?\d+) after")
_INSERTED = re.compile(r"insmod (?P<path>/\S+)")
# First lines of what the kernel says when something in it broke (kernel/panic.c, lib/bug.c, arch/*/mm/fault.c).
_BROKEN = re.compile(
    r"BUG: |kernel BUG at|Oops|general protection fault|Unable to handle kernel|Kernel panic|divide error|"
    r"invalid opcode|stack-protector|Internal error"
)
_WARNED = re.compile(r"WARNING: ")
_NOT_THERE = {-19: "No such device", -6: "No such device or address"}  # ENODEV, ENXIO
_TAINTS = re.compile(r"verification failed|taints kernel|tainting kernel")
_STUCK = "soft lockup"


@dataclass
class Tried:
    """What was said about one module, so far."""

    name: str
    words: dict[str, list[str]] = field(default_factory=dict)
    """Lines by their kind."""
    ended: bool = False

    def lines(self, kind: str) -> list[str]:
        """Return the lines of a kind."""
        return self.words.get(kind, [])

    def word(self, kind: str) -> str:
        """Return the last line of a kind, or nothing."""
        return (self.lines(kind) or [""])[-1]


@dataclass
class Said:
    """What was said in one boot."""

    kernel: str = ""
    """What `uname -r` printed there; empty if it did not get that far."""
    enforced: bool = False
    depmod: list[str] = field(default_factory=list)
    modules: list[Tried] = field(default_factory=list)
    done: bool = False
    console: list[str] = field(default_factory=list)
    """What the kernel printed by itself."""


def read_said(folder: Path, results: str, console: str, token: str) -> Said:
    """Read the files of the ports; they may be cut off anywhere, or hold anything."""
    said = Said(console=[clean for line in _lines(folder / console) if (clean := _clean(line))])
    for line in _lines(folder / results):
        _, found, text = line.partition(f"{token} ")
        if found:
            kind, _, rest = text.partition(" ")
            _take(said, kind, rest)
    return said


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_bytes().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rstrip("\r") for line in text.split("\n")]


def _clean(line: str) -> str:
    return _TIME.sub("", line)[:_LONGEST].rstrip()


def _take(said: Said, kind: str, rest: str) -> None:
    """Take in a line of init's."""
    if kind == "kernel":
        said.kernel = rest
    elif kind == "enforced":
        said.enforced = rest in ("Y", "1")
    elif kind == "depmod":
        said.depmod.append(rest)
    elif kind in ("done", "enrolled"):
        said.done = True
    elif kind == "begin":
        said.modules.append(Tried(rest))
    elif said.modules:
        said.modules[-1].ended |= kind in ("end", "died", "late")
        said.modules[-1].words.setdefault(kind, []).append(rest)


def results_of(said: Said, modules: Sequence[TriedModule], kernel: str) -> Iterator[tuple[TriedModule, LoadResult]]:
    """Yield what came of the modules that were begun; of the last one nothing, if it is not known."""
    places: dict[str, str] = {}
    for tried in said.modules:
        for path in _inserted(tried):
            places[module_name(path)] = path
        if not tried.ended and not _broken_lines(said.console):
            return
        for module in modules:  # several files may be of one name
            if module.name == tried.name:
                yield module, _result(module, tried, said, places, kernel)


def _result(module: TriedModule, tried: Tried, said: Said, places: dict[str, str], kernel: str) -> LoadResult:
    ending, reason, started = _ending(module, tried, said, places)
    log = [line for line in map(_clean, tried.lines("log")) if line and not _TRACED.match(line)]
    if ending == "timeout":
        log += [f"at {line}" for line in tried.lines("stack")]
    if not tried.ended:
        log += _from_trouble(said.console)
    return LoadResult(
        module=module.name,
        path=places.get(module.name, module.path),
        kernel=kernel,
        ending=ending,
        reason=reason,
        started=started,
        unloaded=tried.word("removed") == "0",
        needs=tuple(dict.fromkeys(n for path in _inserted(tried) if (n := module_name(path)) != module.name)),
        log=tuple(log[:_MOST_LINES]),
    )


def _inserted(tried: Tried) -> list[str]:
    return [found["path"] for line in tried.lines("out") if (found := _INSERTED.match(line))]


def _ending(module: TriedModule, tried: Tried, said: Said, places: dict[str, str]) -> tuple[Ending, str, bool]:
    """Return how it ended, why, and whether the kernel had taken the module and called its init."""
    log = [_clean(line) for line in tried.lines("log")]
    code = _returned(module.name, log)
    started = code is not None or any(line.startswith("calling  ") and f"[{module.name}]" in line for line in log)
    when = "when it was taken out: " if "status" in tried.words else ""
    if "late" in tried.words:
        return "timeout", f"{when}it did not come back within {tried.word('late')} s", started
    if "died" in tried.words or not tried.ended:
        broken = _broken_lines([*log, *said.console])
        if any(_STUCK in line for line in broken):
            return "timeout", f"{when}it kept the processor for itself", True
        return "oops", when + (broken[0] if broken else "the kernel stopped"), True
    if tried.word("status") == "0":
        return _of_loaded(module, tried, log, places)
    if code in _NOT_THERE:
        return "no device", _NOT_THERE[code], True
    if code:
        return "refused", f"its own init returned {code}: {_modprobe_words(tried)}", True
    words = _refusal(module.name, tried, log)
    if words in _NOT_THERE.values() and (needed := _without_device(log)):
        return "no device", f"{words}, says {needed}, which it needs", started
    return "refused", words, started


def _without_device(log: Sequence[str]) -> str:
    """Return the module whose init said that there is no device."""
    for line in log:
        found = _RETURNED.search(line)
        if found and int(found["code"]) in _NOT_THERE:
            return found["name"]
    return ""


def _of_loaded(
    module: TriedModule, tried: Tried, log: Sequence[str], places: dict[str, str]
) -> tuple[Ending, str, bool]:
    """Tell which file it was that was loaded: another one may stand before ours."""
    there = {line.split(" ")[0] for line in tried.lines("loaded")}
    if module.name not in there:
        return "refused", "modprobe was content, but the module is not there", False
    path = places.get(module.name, "")
    if path and merged(path) != module.path:
        return "not tried", f"{path} was loaded in its place", False
    warned = next((line for line in log if _WARNED.search(line)), "")
    return "loaded", warned, True


def _returned(name: str, log: Sequence[str]) -> int | None:
    found = [match for line in log if (match := _RETURNED.search(line))]
    return next((int(match["code"]) for match in reversed(found) if match["name"] == name), None)


def _broken_lines(lines: Sequence[str]) -> list[str]:
    return [clean for line in lines if (clean := _clean(line)) and _BROKEN.search(clean)]


def _from_trouble(console: Sequence[str]) -> Sequence[str]:
    """Return what a kernel printed from where it broke on."""
    begin = next((number for number, line in enumerate(console) if _BROKEN.search(line)), len(console))
    return console[begin:]


def _refusal(name: str, tried: Tried, log: Sequence[str]) -> str:
    """Return the kernel's words about it, or else modprobe's."""
    about = [line for line in log if line.startswith((f"{name}: ", f"module {name}: ", "Loading of "))]
    about = [line.removeprefix("module ").removeprefix(f"{name}: ") for line in about if not _TAINTS.search(line)]
    others = len(about) - 1
    if about:
        return about[0] + (f" (and {others} more)" if others > 0 else "")
    return _modprobe_words(tried)


def _modprobe_words(tried: Tried) -> str:
    words = [re.sub(r"^modprobe: (?:ERROR|FATAL): ", "", line) for line in tried.lines("err")]
    last = next((line for line in reversed(words) if line), f"modprobe ended with {tried.word('status')}")
    return _clean(re.sub(r"^could not insert '[^']*': ", "", last))

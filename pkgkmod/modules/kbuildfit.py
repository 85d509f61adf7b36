"""Whether kbuild alone builds a driver as its own make would: read off the commands and the Makefiles, nothing is run.

kbuild descends into the driver's folders from one above, so what names the folder that kbuild was started in ($(M),
$(PWD)) means another one there, and what a Makefile hands down to the folders below it is not handed down.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from pkgkmod.modules.makefiles import makefile_of, module_rules

_PLACE = re.compile(r"\$[({](?:M|PWD|CURDIR|KBUILD_EXTMOD|srctree|shell[^)]*pwd)\b")
_OWN_VALUE = re.compile(r"^\s*(?:export\s+)?\w+\s*[:?+]?=\s*\$\(shell pwd\)\s*$|^\s*PWD\s*[:?]?=")
_NO_WORDS = ("modules", "V=1", "V=0", "KERNELRELEASE=$KERNEL")


def why_own_make(commands: str, tree: Path, folder: str, modules: Sequence[tuple[str, str]]) -> str:
    """Return why the driver in `folder` of `tree` needs its own make; nothing if kbuild builds it alone.

    `commands` are those of build.make, `modules` names and folders of `tree` of what is to be built.
    """
    lines = [line for line in commands.splitlines() if line.strip()]
    if len(lines) > 1:
        return "something is run before make"
    started = _started_in(commands, folder)
    if not started:
        return "its make does more than start kbuild"
    known = {(rule.name, rule.directory) for place in started for rule in module_rules(tree, (place,))}
    for name, place in modules:
        if place not in started:
            return f"{place} is built by way of another folder, which may hand settings down"
        if (name, place) not in known:
            return f"no obj-m line of {place} names {name}.o"
    return next((why for place in started if (why := _names_a_place(tree / place, place))), "")


def _started_in(commands: str, folder: str) -> list[str]:
    """Return the folders in which the commands start kbuild, one after the other; none if they do more."""
    found = []
    try:
        words = shlex.split(commands.replace("\\\n", " "))
    except ValueError:
        return []
    while words:
        end = words.index("&&") if "&&" in words else len(words)
        command, words = words[:end], words[end + 1 :]
        place = next((word.removeprefix("M=") for word in command if word.startswith("M=")), "")
        plain = [word for word in command if word not in _NO_WORDS and not word.startswith("M=")]
        if plain != ["make", "-C", "$KERNEL_TREE"] or not re.fullmatch(r"\$SOURCES(/[A-Za-z0-9._+/-]*)?", place):
            return []
        found.append((folder + place.removeprefix("$SOURCES")).rstrip("/"))
    return found


def _names_a_place(folder: Path, shown: str) -> str:
    makefile = makefile_of(folder)
    if makefile is None:
        return f"{shown} has no Makefile"
    text = makefile.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith("\t") or line.lstrip().startswith("#") or _OWN_VALUE.match(line):
            continue
        if found := _PLACE.search(line):
            return f"its Makefile depends on where kbuild is started: {found[0]})"
    return ""

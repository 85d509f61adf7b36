"""What the imported Makefiles would build: modules, the options they hang on, and the folders they lie in.

The Makefiles are read, not run: they come from outside. What kbuild's documentation allows in obj-
lines is understood (Documentation/kbuild/makefiles.rst, sections 3.1 to 3.6).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_OBJ = re.compile(
    r"^[ \t]*obj-(?P<when>[ym]|\$[({]CONFIG_(?P<option>\w+)[)}])[ \t]*(?:\+=|:=|=)[ \t]*(?P<what>[^#\n]*)",
    re.M,
)
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
_FOLDER_NAME = re.compile(r"[A-Za-z0-9_.+/-]+")


@dataclass(frozen=True)
class ModuleRule:
    """A module that a Makefile can build: `obj-$(CONFIG_OPTION) += NAME.o` in `directory`."""

    name: str
    directory: str
    option: str | None
    """Option, without CONFIG_, that must be `m`; None for obj-m."""
    outer_options: tuple[str, ...] = ()
    """Options on which the way down to the directory hangs."""


def makefile_of(folder: Path) -> Path | None:
    """Return the folder's Kbuild file, or else its Makefile, as kbuild chooses."""
    for name in ("Kbuild", "Makefile"):
        if (folder / name).is_file():
            return folder / name
    return None


def module_rules(tree: Path, directories: tuple[str, ...]) -> tuple[ModuleRule, ...]:
    """Return the modules that the Makefiles in and below `directories` (relative to `tree`) define."""
    found: dict[tuple[str, str], ModuleRule] = {}
    below: dict[str, tuple[str, ...]] = dict.fromkeys(directories, ())
    seen: set[str] = set()
    while below:
        directory, outer = below.popitem()
        if directory in seen:
            continue
        seen.add(directory)
        for option, words in _obj_lines(tree / directory):
            for word in words:
                if word.endswith("/"):
                    child = f"{directory}/{word.rstrip('/')}"
                    inner = (*outer, option) if option else outer
                    if ".." not in child.split("/") and (tree / child).is_dir():
                        below[child] = inner
                elif word.endswith(".o") and "/" not in word:
                    name = word.removesuffix(".o")
                    found.setdefault((name, directory), ModuleRule(name, directory, option, outer))
    return tuple(sorted(found.values(), key=lambda rule: (rule.directory, rule.name)))


def _obj_lines(folder: Path) -> Iterator[tuple[str | None, list[str]]]:
    """Yield the option (None for obj-m) and the words of each obj- line; obj-y builds no module itself."""
    makefile = makefile_of(folder)
    if makefile is None:
        return
    text = makefile.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ")
    for line in _OBJ.finditer(text):
        words = _WORD.findall(line["what"])
        if line["when"] == "y":
            words = [word for word in words if word.endswith("/")]
        yield line["option"], words


def usable_directory(directory: str) -> bool:
    """Tell whether a folder's name can stand in a makefile."""
    return _FOLDER_NAME.fullmatch(directory) is not None

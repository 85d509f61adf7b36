"""Kernel options: which ones the sources ask about, and which values they get.

In-tree sources say `obj-$(CONFIG_E1000E)` and `IS_ENABLED(CONFIG_E1000E_HWTS)`. The options of the
modules that are built become `m`, the project's `[kconfig]` table comes next, and the kernel's .config
answers for the rest. make and the compiler are told the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pkgkmod.errors import ConfigError
from pkgkmod.model.project import Project
from pkgkmod.modules.makefiles import ModuleRule

_ASKED = re.compile(r"\bCONFIG_([A-Za-z0-9_]+)")
_C_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_HASH_COMMENT = re.compile(r"#[^\n]*")
_KCONFIG_ENTRY = re.compile(
    r"^(?:menu)?config[ \t]+(\w+)\s*\n(?:[ \t]*#.*\n)*[ \t]+(bool|tristate|def_bool|def_tristate)\b", re.M
)
_NUMBER = re.compile(r"-?\d+|0x[0-9A-Fa-f]+")
_TEXT = re.compile(r"[A-Za-z0-9_ .,:/+@=-]*")
_C_SOURCES = (".c", ".h", ".S")

ValueOrigin = Literal["module", "project", "kernel", "not set"]


@dataclass(frozen=True)
class OptionValue:
    """An option as the sources will see it: `y`, `m`, `n`, a number, or a quoted text."""

    name: str
    value: str
    origin: ValueOrigin
    files: tuple[str, ...]
    """Files that ask about it."""


def asked_options(tree: Path) -> dict[str, tuple[str, ...]]:
    """Return the options, without CONFIG_, that Makefiles and C sources ask about, with the files that do."""
    asked: dict[str, set[str]] = {}
    for parent, folders, names in os.walk(tree):
        folders.sort()
        for name in names:
            path = Path(parent, name)
            is_c = name.endswith(_C_SOURCES)
            if path.is_symlink() or not (is_c or name in ("Makefile", "Kbuild")):
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
            text = (_C_COMMENT if is_c else _HASH_COMMENT).sub(" ", text)
            for option in _ASKED.findall(text):
                asked.setdefault(option, set()).add(str(path.relative_to(tree)))
    # The C name of an option that is `m`: CONFIG_FOO_MODULE asks about FOO.
    for option in [o for o in asked if o.endswith("_MODULE")]:
        asked.setdefault(option.removesuffix("_MODULE"), set()).update(asked.pop(option))
    return {option: tuple(sorted(files)) for option, files in sorted(asked.items())}


def boolean_options(tree: Path) -> frozenset[str]:
    """Return the options that imported Kconfig files declare as bool: they cannot be `m`."""
    found: set[str] = set()
    for path in tree.rglob("Kconfig*"):
        if path.is_file() and not path.is_symlink():
            entries = _KCONFIG_ENTRY.findall(path.read_text(encoding="utf-8", errors="replace"))
            found.update(name for name, kind in entries if "bool" in kind)
    return frozenset(found)


def overrides(project: Project, rules: tuple[ModuleRule, ...], tree: Path) -> dict[str, str]:
    """Return the options whose value is set for the sources, whatever the kernel says.

    Raise ConfigError if the project sets an option of its own modules to something that does not
    build them, or if a value cannot be spelled in a makefile.
    """
    booleans = boolean_options(tree)
    own: dict[str, str] = {}
    for rule in rules:
        for option in rule.outer_options:
            own.setdefault(option, "y" if option in booleans else "m")
        if rule.option:
            own[rule.option] = "m"
    chosen = {name: _spelled(name, value) for name, value in project.kconfig.items()}
    for name in sorted(own.keys() & chosen.keys()):
        if chosen[name] not in (own[name], "m"):
            raise ConfigError(
                f"kconfig.{name} is '{chosen[name]}', but the modules are only built when it is '{own[name]}'",
                hint=f"remove {name} from the [kconfig] table",
            )
    return dict(sorted({**own, **chosen}.items()))


def _spelled(name: str, value: bool | int | str) -> str:
    if isinstance(value, bool):
        return "y" if value else "n"
    text = str(value)
    if text in ("y", "m", "n") or _NUMBER.fullmatch(text):
        return text
    if not _TEXT.fullmatch(text):
        raise ConfigError(
            f"kconfig.{name}: {text!r} cannot be given to make",
            hint="use y, m, n, a number, or a text of letters, digits, spaces and .,:/+@=_-",
        )
    return f'"{text}"'


def option_values(
    asked: Mapping[str, tuple[str, ...]],
    overridden: Mapping[str, str],
    project: Project,
    kernel_options: Mapping[str, str],
) -> tuple[OptionValue, ...]:
    """Return the value of every option that is asked about or set, and where the value comes from."""
    values = []
    for name in sorted({*asked, *overridden}):
        origin: ValueOrigin
        if name in overridden:
            value, origin = overridden[name], "project" if name in project.kconfig else "module"
        elif name in kernel_options:
            value, origin = kernel_options[name], "kernel"
        else:
            value, origin = "n", "not set"
        values.append(OptionValue(name, value, origin, asked.get(name, ())))
    return tuple(values)


def make_words(overridden: Mapping[str, str]) -> tuple[str, ...]:
    """Return the overridden options as words of a shell command line that starts make."""
    words = []
    for name, value in overridden.items():
        text = "" if value == "n" else value
        words.append(f"'CONFIG_{name}={text}'" if '"' in text else f"CONFIG_{name}={text}")
    return tuple(words)


def header_lines(overridden: Mapping[str, str]) -> tuple[str, ...]:
    """Return the overridden options as preprocessor lines, as the kernel's autoconf.h would say them."""
    lines = []
    for name, value in overridden.items():
        lines += [f"#undef CONFIG_{name}", f"#undef CONFIG_{name}_MODULE"]
        if value == "m":
            lines.append(f"#define CONFIG_{name}_MODULE 1")
        elif value != "n":
            lines.append(f"#define CONFIG_{name} {'1' if value == 'y' else value}")
    return tuple(lines)

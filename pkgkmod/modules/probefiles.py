"""The files with which a kernel is asked: C for the compiler, a list for awk, and the header with the answers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path

from pkgkmod import data
from pkgkmod.errors import CompileError, SourceError
from pkgkmod.model.probes import Probe

PROBES_FOLDER = "pkgkmod-probes"
PROBES_MAKEFILE = "pkgkmod-probes.mk"
ANSWERS = "config.h"
"""The answers, beside the modules that were compiled with them."""
_FILES = {"Kbuild": "pkgkmod-probes.kbuild", "ask.sh": "pkgkmod-probes.sh", "answers.awk": "pkgkmod-probes.awk"}
# The compiler must take the first and refuse the second, or it does not answer at all.
_CONTROLS = (
    "#include <linux/module.h>\n",
    "void pkgkmod_probe(void)\n{\n\tpkgkmod_no_such_function(1);\n}\n",
)
# Questions are compiled together from this number on.
_GROUP = 3
_TOGETHER = ("call", "args", "type", "member")
_LITERAL = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_BEYOND = re.compile(r"""[{};#"'\\]|/[*/]|\b_Pragma\b|\basm\b""")
_LINE = re.compile(r"#define (?P<yes>\w+) (?P<value>\d+)|/\* #undef (?P<no>\w+) \*/")


def probe_texts() -> dict[str, str]:
    """Return the programs that ask, the same for all projects, by their names in a build folder."""
    folder = files(data).joinpath("build")
    names = {PROBES_MAKEFILE: PROBES_MAKEFILE} | {f"{PROBES_FOLDER}/{here}": name for here, name in _FILES.items()}
    return {place: folder.joinpath(name).read_text(encoding="utf-8") for place, name in names.items()}


def probe_ingredients(probes: Mapping[str, Probe]) -> dict[str, object]:
    """Return what fingerprints say of a project's questions; nothing if it has none."""
    if not probes:
        return {}
    return {"probes": {name: probe.model_dump() for name, probe in probes.items()}, "asked by": probe_texts()}


def c_texts(probe: Probe) -> tuple[str, ...]:
    """Return the C files that ask the compiler; none if it is not the compiler's to answer."""
    return tuple(_includes(probe) + text for text in _questions(probe))


def _includes(probe: Probe) -> str:
    return "".join(f"#include <{name}>\n" for name in probe.includes)


def _questions(probe: Probe) -> tuple[str, ...]:
    match probe.kind:
        case "call":
            return (_function(f"(void)(\n{probe.call}\n\t)"),)
        case "args":
            return tuple(_function(f"(void)(\n{expression}\n\t)") for expression in probe.args)
        case "type":
            # sizeof alone would take the name of a variable, too.
            return (_function(f"{probe.type} *known = 0;\n\t(void)sizeof(*known)"),)
        case "member":
            owner, _, member = str(probe.member).partition(".")
            # By its value: a bit field has no address and no size.
            return (_function(f"{owner} *known = 0;\n\t(void)known->{member}"),)
        case "header":
            return (f"#include <{probe.header}>\n",)
        case "code":
            return (f"{probe.code}\n",)
        case _:
            return ()


def _function(statement: str) -> str:
    return f"void pkgkmod_probe(void);\nvoid pkgkmod_probe(void)\n{{\n\t{statement};\n}}\n"


def write_probes(probes: Mapping[str, Probe], folder: Path) -> None:
    """Put what asks a kernel into the build folder `folder`; nothing if there are no questions.

    Files have numbers for names: no text of a project is read by make or a shell. Raise SourceError if the sources
    have files of the same names: pkgkmod.mk includes the makefile where it is.
    """
    if taken := [name for name in (PROBES_FOLDER, PROBES_MAKEFILE) if os.path.lexists(folder / name)]:
        raise SourceError(f"the imported sources have {taken[0]} at their top: that name is pkgkmod's own")
    if not probes:
        return
    asked = folder / PROBES_FOLDER
    asked.mkdir()
    for name, text in probe_texts().items():
        (folder / name).write_text(text, encoding="utf-8")
    texts: list[str] = []
    lines = []
    for name, probe in sorted(probes.items()):
        lines.append(" ".join([name, *_words(probe, len(_CONTROLS) + len(texts))]))
        texts += c_texts(probe)
    (asked / "list").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    groups = _groups(probes)
    grouped = {number for group in groups for number in group}
    for number, text in enumerate((*_CONTROLS, *texts) if texts else ()):
        suffix = "part" if number in grouped else "c"
        (asked / f"{number}.{suffix}").write_text(text, encoding="utf-8")
    for number, group in enumerate(groups, len(_CONTROLS) + len(texts)):
        (asked / f"{number}.group").write_text(_together(group), encoding="utf-8")


def _groups(probes: Mapping[str, Probe]) -> list[dict[int, str]]:
    """Return the questions, by number, that can be compiled as one file: those with the same headers."""
    groups: dict[str, dict[int, str]] = {}
    number = len(_CONTROLS)
    for _, probe in sorted(probes.items()):
        texts = c_texts(probe)
        if probe.kind in _TOGETHER and all(_stays_within(text) for text in (probe.call or "", *probe.args)):
            group = groups.setdefault(_includes(probe), {})
            group |= {number + i: text for i, text in enumerate(texts)}
        number += len(texts)
    return [group for group in groups.values() if len(group) >= _GROUP]


def _stays_within(expression: str) -> bool:
    """Tell whether no mistake in an expression can reach beyond it: it declares nothing, and closes what it opens."""
    plain = _LITERAL.sub("", expression)
    open_ones = []
    for char in plain:
        if char in "([":
            open_ones.append(char)
        elif char in ")]" and (not open_ones or open_ones.pop() + char not in ("()", "[]")):
            return False
    return not open_ones and not _BEYOND.search(plain)


def _together(group: Mapping[int, str]) -> str:
    """Return one file of several questions; the compiler takes each for a file of its own."""
    before, _, _ = next(iter(group.values())).partition("void pkgkmod_probe(")
    parts = [before]
    for number, text in group.items():
        parts.append(f'#line 1 "question {number}"\n')
        parts.append(text.removeprefix(before).replace("void pkgkmod_probe(", f"void pkgkmod_probe_{number}("))
    return "".join(parts)


def _words(probe: Probe, number: int) -> list[str]:
    """Return a question in the words of the list; its first C file is `number`."""
    match probe.kind:
        case "symbol":
            return ["symbol", str(probe.symbol), "any" if probe.gpl else "free"]
        case "config":
            return ["config", str(probe.config)]
        case "args":
            return ["first", *(str(number + i) for i in range(len(probe.args)))]
        case _:
            return ["compile", str(number)]


def answers_header(kernel: str, answers: Mapping[str, int]) -> str:
    """Return the header with the answers, as the makefile also writes it; 0 is a no."""
    lines = [
        f"/* What {kernel} has: answers to the [probe] tables of the project. */",
        "#ifndef PKGKMOD_COMPAT_CONFIG_H",
        "#define PKGKMOD_COMPAT_CONFIG_H",
        "",
        *(f"#define {name} {value}" if value else f"/* #undef {name} */" for name, value in sorted(answers.items())),
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def answers_file(folder: Path, kernel: str) -> Path:
    """Return where in a build folder the makefile looks for the answers of a kernel before it asks."""
    return folder / "build" / f"probes-{kernel}" / "config.h"


def read_answers(header: Path, names: Iterable[str]) -> dict[str, int]:
    """Return the answers in a header that the makefile wrote; raise CompileError if one of `names` has none."""
    found = {}
    for line in header.read_text(encoding="utf-8").splitlines():
        if match := _LINE.fullmatch(line):
            found[match["yes"] or match["no"]] = int(match["value"] or 0)
    if missing := [name for name in names if name not in found]:
        raise CompileError(f"make succeeded, but did not answer the probe {missing[0]}")
    return {name: found[name] for name in names}

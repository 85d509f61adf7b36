"""Asking kernels what they have: answers that are known, those in their files, and the compiler's."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from pkgkmod import data
from pkgkmod.cachefolder import cache_folder
from pkgkmod.command import Command, Completed
from pkgkmod.errors import CompileError, KernelError
from pkgkmod.kernels.compiler import compiler_stamps
from pkgkmod.kernels.tree import read_options
from pkgkmod.model.kernel import Kernel
from pkgkmod.model.probes import Probe
from pkgkmod.model.project import Build
from pkgkmod.modules.askedonce import keep_option_answers
from pkgkmod.modules.buildfolder import OPTIONS_FILE
from pkgkmod.modules.compile import compile_command, first_error
from pkgkmod.modules.probefiles import (
    answers_file,
    answers_header,
    c_texts,
    probe_texts,
    read_answers,
    write_probes,
)
from pkgkmod.workspace import digest, write_atomically

_WHY = re.compile(r":\d+:(?:\d+:)? (?:fatal )?error: (.*)$")
_LONGEST = 200  # characters of a compiler's message that are kept
_DAY = 24 * 60 * 60


@dataclass(frozen=True)
class Answer:
    """What a kernel answers: 0 is no, and otherwise the value of the macro."""

    value: int
    why: str = ""
    """For a no: the compiler's first error, or what is not there."""
    known: bool = True
    """True if nothing had to be compiled for it now."""


def known_answers(probes: Mapping[str, Probe], kernel: Kernel, build: Build) -> dict[str, Answer]:
    """Return the answers that need no compiler: those given before, and those in the kernel's files.

    Raise KernelError if the build tree has no Module.symvers to read, CompilerError if the kernel's compiler is not
    installed.
    """
    found = {}
    if any(probe.compiles for probe in probes.values()):
        remembered = _read(_memory(kernel, build))
        for name, probe in probes.items():
            if probe.compiles and (answer := remembered.get(_question(probe))):
                found[name] = answer
    if any(probe.symbol for probe in probes.values()):
        exported = exports(kernel)
        found |= {name: _is_exported(probe, exported) for name, probe in probes.items() if probe.symbol}
    options = read_options(kernel.place) if any(probe.config for probe in probes.values()) else {}
    for name, probe in probes.items():
        if probe.config:
            is_set = options.get(probe.config, "n") != "n"
            found[name] = Answer(1) if is_set else Answer(0, f"CONFIG_{probe.config} is not set")
    return found


def ask_kernel(
    probes: Mapping[str, Probe],
    kernel: Kernel,
    build: Build,
    folder: Path,
    run: Callable[[Command], Completed],
    *,
    options_asked: Path | None = None,
) -> dict[str, Answer]:
    """Return all answers; what is not known is compiled in the new folder `folder`, in one make, and remembered.

    `options_asked` is as the `answers` of compile_command. Raise CompileError if compiling does not work at all for
    this kernel: that is no answer.
    """
    known = known_answers(probes, kernel, build)
    unknown = {name: probe for name, probe in probes.items() if name not in known}
    if not unknown:
        return known
    folder.mkdir()
    write_probes(unknown, folder)
    makefile = files(data).joinpath("build", "pkgkmod.mk").read_text(encoding="utf-8")
    (folder / "pkgkmod.mk").write_text(makefile, encoding="utf-8")
    (folder / OPTIONS_FILE).touch()
    command = compile_command(folder, kernel, build, answers=options_asked, goal="probes")
    done = run(command)
    if not done.ok:
        _raise_broken(done, kernel)
    if options_asked:
        keep_option_answers(folder, options_asked)
    values = read_answers(answers_file(folder, kernel.uname_r), unknown)
    reasons = _reasons(answers_file(folder, kernel.uname_r).parent / "asked")
    made = {name: Answer(value, "" if value else reasons.get(name, "")) for name, value in values.items()}
    memory = _memory(kernel, build)
    _write(memory, _read(memory) | {_question(unknown[name]): answer for name, answer in made.items()})
    return known | {name: replace(answer, known=False) for name, answer in made.items()}


def give_answers(answers: Mapping[str, Answer], kernel: str, folder: Path) -> Path:
    """Write the header with a kernel's answers to where the makefile of a build folder looks for it; return it."""
    header = answers_file(folder, kernel)
    header.parent.mkdir(parents=True, exist_ok=True)
    values = {name: answer.value for name, answer in answers.items()}
    header.write_text(answers_header(kernel, values), encoding="utf-8")
    return header


def _raise_broken(done: Completed, kernel: Kernel) -> None:
    """Raise CompileError: kernel tree and compiler do not fit, and no question is answered."""
    text = done.log.read_text(encoding="utf-8", errors="replace")
    raise CompileError(
        f"the probes cannot be answered for {kernel.uname_r}: compiling for it does not work at all",
        details=first_error(text.splitlines()) or (done.tail[-1] if done.tail else "make failed"),
        hint="the kernel's build tree is damaged, or the compiler is not the one that it is made for",
        log=done.log,
    )


def exports(kernel: Kernel) -> dict[str, str]:
    """Return the symbols that a kernel exports to all modules, with how: `EXPORT_SYMBOL`, `EXPORT_SYMBOL_GPL`.

    Raise KernelError if its build tree does not say.
    """
    file = kernel.place / "Module.symvers"
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise KernelError(f"{kernel.uname_r}: what it exports is not known: {file}: {error.strerror}") from None
    found = {}
    for line in lines:
        # CRC, symbol, module, kind and namespace; the namespace came third in Linux 5.3 to 5.7.
        parts = line.split("\t")
        kind = next((part for part in parts[3:] if part.startswith("EXPORT_")), "")
        if kind and not parts[-1].startswith("module:"):  # for these modules alone (Linux 6.16)
            found[parts[1]] = kind
    return found


def _is_exported(probe: Probe, exported: Mapping[str, str]) -> Answer:
    kind = exported.get(str(probe.symbol))
    if kind is None:
        return Answer(0, f"{probe.symbol} is not exported")
    if "_GPL" in kind and not probe.gpl:
        return Answer(0, f"{probe.symbol} is exported to GPL modules only")
    return Answer(1)


def _reasons(asked: Path) -> dict[str, str]:
    """Return for each macro what the compiler had against it, in the last of its files."""
    reasons = {}
    for line in (asked / "list").read_text(encoding="utf-8").splitlines():
        name, kind, *numbers = line.split()
        if kind not in ("compile", "first"):
            continue
        file = asked / f"{numbers[-1]}.err"  # not there for each yes
        said = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
        reasons[name] = next((found[1][:_LONGEST] for one in said if (found := _WHY.search(one))), "")
    return reasons


# --- what is remembered ----------------------------------------------------------------------------


def _question(probe: Probe) -> str:
    return digest(c_texts(probe))


def _memory(kernel: Kernel, build: Build) -> Path:
    """Return the file with the answers of a kernel, as its build tree, its compiler and the way of asking are now."""
    stamps = compiler_stamps(kernel, any_compiler=build.any_compiler)
    key = digest({"kernel tree": kernel.identity, **stamps, "asked by": probe_texts()})
    return cache_folder() / "probes" / f"{kernel.uname_r}-{key[:24]}.json"


def prune_answers(*, unused_for: float, dry_run: bool = False) -> list[tuple[Path, int]]:
    """Remove the answers that nobody used for `unused_for` seconds; return these files, with their bytes."""
    before = time.time() - unused_for
    found: list[tuple[float, Path, int]] = []
    folder = cache_folder() / "probes"
    for file in (*folder.glob("*.json"), *folder.glob(".*.json.*")):  # the latter: of runs that were killed
        with contextlib.suppress(OSError):
            facts = file.lstat()
            found.append((facts.st_mtime, file, facts.st_size))
    doomed = [(file, size) for used, file, size in sorted(found) if used <= before]
    for file, _ in () if dry_run else doomed:
        file.unlink(missing_ok=True)
    return doomed


def _read(file: Path) -> dict[str, Answer]:
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > _DAY:
                os.utime(file)  # it is in use
        return {question: Answer(int(value), str(why)) for question, (value, why) in saved.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # nothing was asked yet, or it cannot be read: it is asked again


def _write(file: Path, answers: Mapping[str, Answer]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    saved = {question: [answer.value, answer.why] for question, answer in sorted(answers.items())}
    write_atomically(file, json.dumps(saved, indent=0) + "\n")

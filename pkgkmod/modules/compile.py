"""Compiling the modules of one kernel: one kbuild call, in a sandbox."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from pkgkmod.command import Command, Completed, Sandbox
from pkgkmod.errors import CompileError
from pkgkmod.kernels.compiler import find_compiler, make_variables
from pkgkmod.model.artifacts import BuiltModule, ModuleSet
from pkgkmod.model.kernel import Kernel
from pkgkmod.model.project import Build

# gcc, clang and the assembler: FILE:LINE[:COLUMN]: [fatal ]error: TEXT; modpost: ERROR: modpost: TEXT
_ERROR = re.compile(r"^(?:[^\s:][^:]*:\d+:(?:\d+:)? (?:fatal )?error: |[^\s:][^:]*:\d+: Error: |ERROR: modpost: )(.*)$")
_MAKE_ERROR = re.compile(r"^make(?:\[\d+\])?: \*\*\* |^[^\s:]*:\d+: \*\*\* |^.*: (?:command )?not found$")


def job_count(build: Build) -> int:
    """Return how many jobs make may run."""
    return build.jobs or len(os.sched_getaffinity(0))


def compile_command(folder: Path, kernel: Kernel, build: Build) -> Command:
    """Describe the make that compiles the build folder `folder` for `kernel`.

    Raise CompilerError if the kernel's compiler is not installed.
    """
    compiler = find_compiler(kernel, any_compiler=build.any_compiler)
    variables = ["KERNEL_" + v if v.startswith("CC=") else v for v in make_variables(kernel, compiler)]
    return Command(
        (
            *("make", "-f", "pkgkmod.mk", f"-j{job_count(build)}", "modules"),
            f"KERNEL={kernel.uname_r}",
            f"KERNEL_TREE={kernel.tree}",
            *variables,
        ),
        cwd=folder,
        sandbox=Sandbox(folder, (kernel.tree, *kernel.also_needs)) if build.sandbox else None,
        time_limit=build.time_limit,
    )


def collect_modules(folder: Path, names: Iterable[str], kernel: Kernel, compiler: str) -> ModuleSet:
    """Describe the finished modules in `folder`; raise CompileError if one was not made."""
    modules = []
    for name in names:
        file = folder / f"{name}.ko"
        if not file.is_file():
            raise CompileError(f"make succeeded, but did not make {name}.ko for {kernel.uname_r}")
        modules.append(BuiltModule(name=name, file=file.name, size=file.stat().st_size))
    return ModuleSet(
        uname_r=kernel.uname_r,
        arch=kernel.arch,
        compiler=compiler,
        modules=tuple(modules),
        symvers="Module.symvers",
    )


def first_error(lines: Iterable[str]) -> str:
    """Return the first error in a build log: the compiler's if there is one, otherwise make's; or nothing."""
    make_error = ""
    for line in lines:
        if _ERROR.match(line):
            return line.rstrip()
        if not make_error and _MAKE_ERROR.match(line):
            make_error = line.rstrip()
    return make_error


def raise_compile_error(done: Completed, kernel: Kernel, folder: Path) -> None:
    """Raise CompileError with the first compiler error of a failed build on top."""
    text = done.log.read_text(encoding="utf-8", errors="replace").replace(f"{folder}/build/{kernel.uname_r}/", "")
    first = first_error(text.splitlines()) or (done.tail[-1] if done.tail else "make failed")
    raise CompileError(
        f"the modules do not compile for {kernel.uname_r}",
        details=first,
        hint="a patch for this kernel, or other sources, may help; the log has the whole story",
        log=done.log,
    )

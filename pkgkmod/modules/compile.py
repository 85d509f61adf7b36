"""Compiling the modules of one kernel: one kbuild call, in a sandbox."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from pkgkmod.cachefolder import cache_folder
from pkgkmod.command import Command, Completed
from pkgkmod.data.kernelchanges import known_change
from pkgkmod.errors import CompileError
from pkgkmod.kernels.compiler import find_compiler, make_variables
from pkgkmod.model.artifacts import BuiltModule, ModuleSet
from pkgkmod.model.kernel import Kernel
from pkgkmod.model.project import Build
from pkgkmod.modules.askedonce import give_option_answers
from pkgkmod.programs import find_tool
from pkgkmod.sandbox import Sandbox, isolation

# gcc, clang and the assembler: FILE:LINE[:COLUMN]: [fatal ]error: TEXT; modpost: ERROR: modpost: TEXT; our own;
# gcc of an option that it does not know: gcc: error: TEXT. What configure scripts quote behind // is none.
_ERROR = re.compile(
    r"^(?!//)(?:[^\s:][^:]*:\d+:(?:\d+:)? (?:fatal )?error: |[^\s:][^:]*:\d+: Error: "
    r"|ERROR: modpost: |pkgkmod\.mk: error: |(?:\S*/)?(?:gcc|clang|cc1|ld)[\w.-]*: (?:fatal )?error: )(.*)$"
)
_MAKE_ERROR = re.compile(r"^make(?:\[\d+\])?: \*\*\* |^[^\s:]*:\d+: \*\*\* |^.*: (?:command )?not found$")

_CCACHE_PLACE = Path("/tmp/pkgkmod-build")


def compile_command(
    folder: Path, kernel: Kernel, build: Build, *, answers: Path | None = None, goal: str = "modules"
) -> Command:
    """Describe the make that compiles the build folder `folder` for `kernel`, as a part of the common budget of jobs.

    `answers` is a folder with what the compiler said about options for other kernels (`keep_option_answers`).
    Raise CompilerError if the kernel's compiler is not installed.
    """
    compiler = find_compiler(kernel, any_compiler=build.any_compiler)
    variables = ["KERNEL_" + v if v.startswith("CC=") else v for v in make_variables(kernel, compiler)]
    sandbox = kernel_sandbox(folder, (kernel,)) if isolation(build.sandbox)[0] else None
    env = {}
    if build.ccache and not kernel.root:
        find_tool("ccache", needed_for="build.ccache")
        variables = [v.replace("KERNEL_CC=", "KERNEL_CC=ccache ", 1) for v in variables]
        cache = _compiler_cache()
        env = {"CCACHE_DIR": str(cache)}
        # The path of what is compiled is a part of what ccache goes by.
        sandbox = replace(sandbox, shared=cache, place=_CCACHE_PLACE) if sandbox else None
    elif answers:
        env = give_option_answers(folder, answers)
    return Command(
        (
            *("make", "-f", "pkgkmod.mk", goal),
            f"KERNEL={kernel.uname_r}",
            f"KERNEL_TREE={kernel.tree}",
            *variables,
        ),
        cwd=folder,
        env=env,
        sandbox=sandbox,
        time_limit=build.time_limit,
        makes=True,
    )


def _compiler_cache() -> Path:
    folder = cache_folder() / "ccache"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o1777)  # the compiler may run as another user; the folders above are closed to others
    return folder


def kernel_sandbox(folder: Path, kernels: Sequence[Kernel]) -> Sandbox:
    """Return the sandbox in which `folder` is written and the files of kernels lie where they were packaged for."""
    trees = [path for k in kernels if not k.mounts for path in (k.tree, *k.also_needs)]
    mounts = [mount for kernel in kernels for mount in kernel.mounts]
    root = next((kernel.root for kernel in kernels if kernel.root), None)
    return Sandbox(folder, tuple(dict.fromkeys(trees)), tuple(dict.fromkeys(mounts)), root)


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
    text = done.log.read_text(encoding="utf-8", errors="replace")
    for place in (folder, _CCACHE_PLACE):
        text = text.replace(f"{place}/build/{kernel.uname_r}/", "")
    first = first_error(text.splitlines()) or (done.tail[-1] if done.tail else "make failed")
    raise CompileError(
        f"the modules do not compile for {kernel.uname_r}",
        details="\n".join(filter(None, (first, known_change(first)))),
        hint="a patch for this kernel, or other sources, may help; the log has the whole story",
        log=done.log,
    )

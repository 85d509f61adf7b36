"""The compiler that fits a kernel: the family and major version that built it."""

from __future__ import annotations

import shutil
from pathlib import Path

from pkgkmod.data import package_of_tool
from pkgkmod.errors import CompilerError
from pkgkmod.kernels.roots import needs_pahole, stamp
from pkgkmod.model.kernel import Compiler, Kernel
from pkgkmod.programs import SYSTEM_PATH, capture, tool_stamp


def find_compiler(kernel: Kernel, *, any_compiler: bool = False) -> Path:
    """Return the compiler that built `kernel`, in the kernel's build root if it has one.

    With `any_compiler`, one of the same family but another major version will do where the right one
    is missing. Raise CompilerError otherwise: a module of another compiler may not compile, and may
    not load where the kernel uses compiler plugins.
    """
    wanted = kernel.compiler or Compiler("gcc", 0, "")
    if kernel.root:
        return Path("/usr/bin", f"{wanted.family}-{wanted.major}" if wanted.major else wanted.family)
    exact = shutil.which(f"{wanted.family}-{wanted.major}", path=SYSTEM_PATH)
    if exact:
        return Path(exact)
    plain = shutil.which(wanted.family, path=SYSTEM_PATH)
    major = _major(plain) if plain else 0
    if plain and (any_compiler or wanted.major in (0, major)):
        return Path(plain)
    here = f"{wanted.family} here is version {major}" if plain else f"{wanted.family} is not installed"
    raise CompilerError(
        f"{kernel.uname_r} was built with {wanted}, and {here}",
        details=f"the kernel's .config says: {wanted.text}" if wanted.text else "",
        hint=f"install {wanted.family}-{wanted.major}; or set build.any_compiler = true to try with what is here"
        if plain
        else package_of_tool(wanted.family),
    )


def is_another(compiler: Path, kernel: Kernel) -> str:
    """Return what a compiler of this machine is, such as `gcc 12`, if another one built the kernel; or nothing."""
    if kernel.root or kernel.compiler is None:
        return ""
    major = _major(str(compiler))
    return f"{kernel.compiler.family} {major}" if major not in (0, kernel.compiler.major) else ""


def compiler_stamps(kernel: Kernel, *, any_compiler: bool = False) -> dict[str, str]:
    """Return what identifies the programs that compile and link for a kernel, for fingerprints."""
    compiler = find_compiler(kernel, any_compiler=any_compiler)
    if kernel.root:
        return {"compiler": f"{compiler} of {stamp(kernel.root)}"}
    found = {"compiler": tool_stamp(str(compiler)), "linker": tool_stamp("ld")}
    if needs_pahole(kernel):
        found["pahole"] = tool_stamp("pahole", needed_for=f"type information of modules for {kernel.uname_r}")
    return found


def _major(compiler: str) -> int:
    name, _, version = Path(compiler).resolve().name.rpartition("-")
    if name and version.isdigit():  # Debian: gcc is a link to gcc-12; this starts no program
        return int(version)
    text = capture(compiler, "-dumpversion").partition(".")[0]
    return int(text) if text.isdigit() else 0


def make_variables(kernel: Kernel, compiler: Path) -> tuple[str, ...]:
    """Return the make variables that tell kbuild to use `compiler`."""
    if compiler.name.startswith("clang"):
        return (
            f"LLVM={compiler.name.removeprefix('clang')}" if "-" in compiler.name else "LLVM=1",
            f"CC={compiler}",
        )
    return (f"CC={compiler}",)

"""Reading a kernel build tree: its release, architecture, options and compiler."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from pkgkmod.data.arches import machine_of
from pkgkmod.errors import KernelError
from pkgkmod.model.kernel import Compiler, Kernel, KernelRelease

_OPTION = re.compile(r"^CONFIG_([A-Za-z0-9_]+)=(.*)$", re.MULTILINE)
_UTS_RELEASE = re.compile(r'#define UTS_RELEASE "([^"]+)"')
# Debian's header packages: `include /usr/src/linux-headers-6.1.0-56-common/Makefile`
_INCLUDED = re.compile(r"^include (/\S+)/Makefile$", re.MULTILINE)
_COMPILER = re.compile(r"(?:.*[^a-z])?(gcc|clang)\b", re.IGNORECASE)


def read_kernel(tree: Path, source: str) -> Kernel:
    """Read the build tree in `tree`; raise KernelError that says what is missing in it."""
    tree = Path(os.path.abspath(tree))
    options = read_options(tree)
    makefile = _read(tree / "Makefile")
    needs = tuple(Path(found) for found in _INCLUDED.findall(makefile))
    for folder in needs:
        if not (folder / "Makefile").is_file():
            raise KernelError(f"the kernel build tree {tree} includes {folder}, which is not there")
    return Kernel(
        release=_release(tree),
        arch=_arch(options, tree),
        tree=tree,
        source=source,
        identity=_identity((tree, *needs)),
        compiler=_compiler(options),
        also_needs=needs,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise KernelError(
            f"{path.parent} is not a usable kernel build tree: {path.name}: {error.strerror}",
            hint="a build tree holds Makefile, .config and Module.symvers; headers packages install one",
        ) from None


@functools.cache
def read_options(tree: Path) -> Mapping[str, str]:
    """Return the kernel's options, without CONFIG_, with their values as .config spells them."""
    return dict(_OPTION.findall(_read(tree / ".config")))


def _release(tree: Path) -> KernelRelease:
    # Not include/config/kernel.release: in Debian's header packages it holds the upstream version.
    found = _UTS_RELEASE.search(_read(tree / "include/generated/utsrelease.h"))
    try:
        return KernelRelease(found[1] if found else "")
    except ValueError as error:
        raise KernelError(f"the kernel build tree {tree} names no release: {error}") from None


def _arch(options: Mapping[str, str], tree: Path) -> str:
    if machine := machine_of(options):
        return machine
    raise KernelError(f"the kernel build tree {tree} is for an architecture that is not known here")


def _compiler(options: Mapping[str, str]) -> Compiler | None:
    text = options.get("CC_VERSION_TEXT", "").strip('"')
    clang, gcc = int(options.get("CLANG_VERSION", "0")), int(options.get("GCC_VERSION", "0"))
    if clang:
        return Compiler("clang", clang // 10000, text)
    return Compiler("gcc", gcc // 10000, text) if gcc else None


@functools.cache
def _identity(folders: tuple[Path, ...]) -> str:
    """Digest over names, sizes and times of all files, and over the content of those that say most.

    Reading 17,000 headers takes seconds, asking for their sizes and times 0.1 s.
    """
    total = hashlib.sha256()
    for folder in folders:
        for name in (".config", "Module.symvers", "Makefile", "include/generated/utsversion.h"):
            if (folder / name).is_file():
                total.update((folder / name).read_bytes())
        entries = []
        stack = [str(folder)]
        while stack:
            with os.scandir(stack.pop()) as found:
                for entry in found:
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(entry.path)
                    else:
                        facts = entry.stat(follow_symlinks=False)
                        entries.append(f"{entry.path} {facts.st_size} {facts.st_mtime_ns}")
        entries.sort()
        total.update("\n".join(entries).encode("utf-8", "surrogateescape"))
    return total.hexdigest()

"""Which kernels a target asks for, among those that the kernel sources have."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from pkgkmod.errors import KernelError, near
from pkgkmod.model.kernel import Kernel
from pkgkmod.model.project import Project
from pkgkmod.plugins import KERNEL_SOURCES, KernelSource, load, registered

NEWEST = "newest"


def available_kernels(project: Project, base: Path) -> tuple[Kernel, ...]:
    """Return all kernels of all kernel sources, oldest first; the first source that has a release serves it."""
    found: dict[str, Kernel] = {}
    for name in registered(KERNEL_SOURCES):
        source: KernelSource = load(KERNEL_SOURCES, name)
        for kernel in source.kernels(project.plugin.get(name, {}), base):
            found.setdefault(kernel.uname_r, kernel)
    return tuple(sorted(found.values(), key=lambda kernel: kernel.release))


def select_kernels(wanted: Sequence[str], available: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """Return the kernels that the releases, patterns and `newest` of `wanted` mean, oldest first.

    Raise KernelError, with the nearest names, if one of them means no kernel.
    """
    chosen: dict[str, Kernel] = {}
    for text in wanted:
        if text == NEWEST:
            matching = list(available[-1:])
        else:
            matching = [kernel for kernel in available if fnmatchcase(kernel.uname_r, text)]
        if not matching:
            raise _not_found(text, available)
        chosen.update((kernel.uname_r, kernel) for kernel in matching)
    return tuple(sorted(chosen.values(), key=lambda kernel: kernel.release))


def _not_found(text: str, available: Sequence[Kernel]) -> KernelError:
    names = [kernel.uname_r for kernel in available]
    if not names:
        hint = (
            "install the headers of a kernel (linux-headers-..., kernel-devel), or name folders in plugin.folder.paths"
        )
    elif close := near(text, names):
        hint = f"nearest: {', '.join(close)}; `pkgkmod kernels list` shows all {len(names)}"
    else:
        hint = f"there are: {', '.join(names[-5:])}"
    what = "no kernel build tree found" if text == NEWEST else f"kernel build tree {text} not found"
    return KernelError(what, hint=hint)

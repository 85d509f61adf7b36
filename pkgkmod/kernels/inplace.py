"""A kernel's files put together where they can be used without a sandbox."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

from pkgkmod.model.kernel import Kernel

_INCLUDE = re.compile(r"^include (?=/)", re.MULTILINE)


def in_place(kernel: Kernel, folder: Path) -> Kernel:
    """Return the kernel with its files below `folder`, linked from the store; one that needs no mounts as it is.

    Makefiles that include others by the path they were packaged for are given the path they have now.
    """
    if not kernel.mounts:
        return kernel
    for mount in kernel.mounts:
        place = folder / mount.target.relative_to("/")
        shutil.copytree(mount.source, place, symlinks=True, copy_function=_link, dirs_exist_ok=True)
    tree = folder / kernel.tree.relative_to("/")
    makefile = tree / "Makefile"
    text = makefile.read_text(encoding="utf-8")
    makefile.unlink()  # a link to the store's
    makefile.write_text(_INCLUDE.sub(f"include {folder}", text), encoding="utf-8")
    return replace(kernel, tree=tree, mounts=(), also_needs=())


def _link(source: str, destination: str) -> None:
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:  # another file system
        shutil.copy2(source, destination, follow_symlinks=False)

"""Build roots: the programs of another suite, for kernels that this machine's programs cannot compile for."""

from __future__ import annotations

from pathlib import Path

from pkgkmod.model.kernel import Kernel
from pkgkmod.progress import Progress


def recipe_for(kernel: Kernel) -> None:
    """Return what a root for `kernel` is made of; no kind of root is known yet."""
    return None


def root_folder(recipe: None, *, progress: Progress, cache: Path) -> Path:
    """Return the folder of a root."""
    raise ValueError("no kind of root is known")


def stamp(root: Path) -> str:
    """Return what identifies a root's programs."""
    return str(root)


def prune(cache: Path, older_than_days: float | None, dry_run: bool) -> list[tuple[Path, int]]:
    """Remove roots that were not used; return what was removed."""
    return []


def host_tools_work(place: Path) -> bool:
    """Tell whether this machine can run a tree's programs."""
    return True

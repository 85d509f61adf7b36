"""Kernels whose build trees lie in folders that the project names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pkgkmod.errors import KernelError
from pkgkmod.kernels.tree import read_kernel
from pkgkmod.model.kernel import Kernel
from pkgkmod.plugins import check_settings


class FolderSettings(BaseModel):
    """`[plugin.folder]` of the project file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    paths: tuple[str, ...] = ()
    """Build trees, absolute or beside the project file; * stands for any name."""


class FolderKernels:
    """Unpacked headers packages and kernel build trees, wherever they are."""

    name = "folder"

    def kernels(self, settings: Mapping[str, Any], base: Path) -> Iterator[Kernel]:
        """Return the build trees of `plugin.folder.paths`; raise KernelError if one is not there."""
        hint = "it takes one key: paths, a list of folders"
        wanted = check_settings(FolderSettings, settings, self.name, hint=hint).paths
        for text in wanted:
            path = base / Path(text).expanduser()
            found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
            if not found:
                raise KernelError(f"no kernel build tree at {path}", hint="correct plugin.folder.paths")
            yield from (read_kernel(folder, self.name, identify=False) for folder in found)

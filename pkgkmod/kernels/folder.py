"""Kernels whose build trees lie in folders that the project names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pkgkmod.errors import KernelError, PluginError
from pkgkmod.kernels.tree import read_kernel
from pkgkmod.model.kernel import Kernel


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
        try:
            wanted = FolderSettings.model_validate(settings).paths
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in ("plugin.folder", *first["loc"]))
            raise PluginError(f"{key}: {first['msg']}", hint="it takes one key: paths, a list of folders") from None
        for text in wanted:
            path = base / Path(text).expanduser()
            found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
            if not found:
                raise KernelError(f"no kernel build tree at {path}", hint="correct plugin.folder.paths")
            yield from (read_kernel(folder, self.name) for folder in found)

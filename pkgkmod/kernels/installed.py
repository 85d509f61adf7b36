"""Kernels whose build trees are installed on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pkgkmod.errors import KernelError
from pkgkmod.kernels.tree import read_kernel
from pkgkmod.model.kernel import Kernel

MODULES = Path("/lib/modules")


class InstalledKernels:
    """`/lib/modules/*/build`, which the headers packages of all distributions provide."""

    name = "installed"

    def kernels(self, settings: Mapping[str, Any], base: Path) -> Iterator[Kernel]:
        """Return the installed build trees; one that is incomplete is left out."""
        for build in sorted(MODULES.glob("*/build")):
            if (build / "Makefile").exists():
                try:
                    yield read_kernel(build.resolve(), self.name, identify=False)
                except KernelError:
                    continue  # half-removed headers packages are common; `kernel not found` names the rest

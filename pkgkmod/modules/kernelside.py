"""What a kernel has for modules: its exported symbols with their CRCs, and its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.errors import KernelError
from pkgkmod.kernels.tree import read_options
from pkgkmod.model.kernel import Kernel
from pkgkmod.modules.kmod_deps import Export, ModuleError, read_symvers


@dataclass(frozen=True)
class KernelSide:
    """A kernel as modules see it."""

    uname_r: str
    arch: str
    """Machine name as `uname -m` prints it."""
    exports: Mapping[str, Export]
    """By symbol: those of the kernel itself (module `vmlinux`), and of its own modules."""
    options: Mapping[str, str] | None
    """Of its .config, without CONFIG_; None if there is only a Module.symvers."""

    @property
    def has_crcs(self) -> bool:
        """Whether it compares CRCs (CONFIG_MODVERSIONS); without its .config, whether any export has one."""
        if self.options is not None:
            return self.options.get("MODVERSIONS") == "y"
        return any(export.crc for export in self.exports.values())


def kernel_side(kernel: Kernel) -> KernelSide:
    """Read what a kernel's build tree says; raise KernelError if it has no Module.symvers that can be read."""
    exports = read_exports(kernel.place, kernel.uname_r)
    return KernelSide(kernel.uname_r, kernel.arch, exports, read_options(kernel.place))


def read_exports(tree: Path, uname_r: str) -> Mapping[str, Export]:
    """Return the exports in a build tree's Module.symvers; raise KernelError if it cannot be read."""
    for name in ("Module.symvers", "symvers.gz", "symvers.xz"):
        if (tree / name).is_file():
            try:
                return read_symvers(str(tree / name))
            except ModuleError as error:
                raise KernelError(f"what {uname_r} exports is not known: {error}") from None
    raise KernelError(
        f"what {uname_r} exports is not known: {tree} has no Module.symvers",
        hint="the packages with kernel headers have it; a tree of your own has it after `make modules`",
    )

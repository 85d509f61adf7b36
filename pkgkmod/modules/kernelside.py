"""What a kernel has for modules: its exported symbols with their CRCs, and its options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pkgkmod.errors import KernelError
from pkgkmod.kernels.tree import read_options
from pkgkmod.model.kernel import Kernel
from pkgkmod.modules import kmod_deps
from pkgkmod.modules.kmod_deps import Export

_KERNEL = "vmlinux"


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
    modules: frozenset[str] | None = None
    """All that export symbols, as Module.symvers names them; None: those that `exports` names."""

    @property
    def exporters(self) -> frozenset[str]:
        """Return its own modules that export symbols, by path or name."""
        named = frozenset(export.module for export in self.exports.values()) if self.modules is None else self.modules
        return named - {_KERNEL}

    @property
    def has_crcs(self) -> bool:
        """Whether it compares CRCs (CONFIG_MODVERSIONS); without its .config, whether any export has one."""
        if self.options is not None:
            return self.options.get("MODVERSIONS") == "y"
        return any(export.crc for export in self.exports.values())


def kernel_side(kernel: Kernel, symbols: Iterable[str] | None = None) -> KernelSide:
    """Read what a kernel's build tree says; raise KernelError if it has no Module.symvers that can be read.

    `symbols` are those that are of interest; all are read without it, which takes four times as long.
    """
    exports: Mapping[str, Export]
    with _explained(kernel.uname_r):
        file = _symvers(kernel.place, kernel.uname_r)
        modules: frozenset[str] | None = None
        if symbols is None:
            exports = kmod_deps.read_symvers(file)
        else:
            exports, modules = _read_exports(file, _stamp(file), frozenset(symbols))
    return KernelSide(kernel.uname_r, kernel.arch, exports, read_options(kernel.place), modules)


@lru_cache(maxsize=16)  # packages of several formats are for the same kernels
def _read_exports(file: str, stamp: object, symbols: frozenset[str]) -> tuple[Mapping[str, Export], frozenset[str]]:
    del stamp  # of the file: another content is another question
    return kmod_deps.read_exports(file, symbols)


def _stamp(file: str) -> tuple[int, ...]:
    status = Path(file).stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_exports(tree: Path, uname_r: str) -> Mapping[str, Export]:
    """Return the exports in a build tree's Module.symvers; raise KernelError if it cannot be read."""
    with _explained(uname_r):
        return kmod_deps.read_symvers(_symvers(tree, uname_r))


def _symvers(tree: Path, uname_r: str) -> str:
    for name in ("Module.symvers", "symvers.gz", "symvers.xz"):
        if (tree / name).is_file():
            return str(tree / name)
    raise KernelError(
        f"what {uname_r} exports is not known: {tree} has no Module.symvers",
        hint="the packages with kernel headers have it; a tree of your own has it after `make modules`",
    )


@contextmanager
def _explained(uname_r: str) -> Iterator[None]:
    try:
        yield
    except (kmod_deps.ModuleError, OSError) as error:
        raise KernelError(f"what {uname_r} exports is not known: {error}") from None

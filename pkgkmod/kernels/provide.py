"""From a kernel that an archive offers to one that can be compiled for: fetched, unpacked, with a root if needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pkgkmod.cachefolder import cache_folder
from pkgkmod.errors import CompilerError, PkgkmodError
from pkgkmod.kernels.compiler import find_compiler
from pkgkmod.kernels.roots import host_tools_work, recipe_for, root_folder
from pkgkmod.kernels.select import Found
from pkgkmod.kernels.store import Store
from pkgkmod.model.kernel import Kernel, KernelOffer
from pkgkmod.model.project import Build
from pkgkmod.plugins import KERNEL_SOURCES, KernelArchive, load
from pkgkmod.progress import Progress


def provide_kernels(
    found: Sequence[Found], build: Build, *, fetch: bool, progress: Progress
) -> tuple[dict[str, Kernel], dict[str, PkgkmodError]]:
    """Return the kernels, by release, ready to compile for, and what is wrong with those that cannot be had.

    Without `fetch`, those that are not here yet have no place.
    """
    store = Store()
    ready: dict[str, Kernel] = {}
    absent: dict[str, PkgkmodError] = {}
    with store.in_use():
        for item in found:
            try:
                kernel = item if isinstance(item, Kernel) else _provided(item, store, fetch=fetch, progress=progress)
                ready[kernel.uname_r] = _with_root(kernel, build, make=fetch, progress=progress)
            except PkgkmodError as error:
                absent[item.uname_r] = error
    return ready, absent


def is_here(kernel: Kernel) -> bool:
    """Tell whether a kernel needs no fetching."""
    return kernel.offer is None or bool(kernel.mounts)


def _provided(offer: KernelOffer, store: Store, *, fetch: bool, progress: Progress) -> Kernel:
    if store.has(offer):
        return store.kernel(offer)
    if fetch:
        return store.fetch(offer, archive_of(offer), progress)
    return Kernel(offer.release, offer.arch, Path("/nonexistent"), offer.source, offer.identity, None, offer=offer)


def repair_kernel(kernel: Kernel, progress: Progress) -> None:
    """Make sure that a kernel of the store is whole before it is compiled for; raise KernelError if it cannot be."""
    if kernel.offer:
        Store().repaired(kernel, archive_of(kernel.offer), progress)


def archive_of(offer: KernelOffer) -> KernelArchive:
    """Return the plugin that found a kernel."""
    archive: KernelArchive = load(KERNEL_SOURCES, offer.source)
    return archive


def _with_root(kernel: Kernel, build: Build, *, make: bool, progress: Progress) -> Kernel:
    """Return the kernel with a build root of its suite, if this machine cannot compile for it."""
    if not build.roots or not build.sandbox or not kernel.mounts or _works_here(kernel, build):
        return kernel
    recipe = recipe_for(kernel)
    if recipe is None or not make:
        return kernel
    return replace(kernel, root=root_folder(recipe, progress=progress, cache=cache_folder()))


def _works_here(kernel: Kernel, build: Build) -> bool:
    try:
        find_compiler(kernel, any_compiler=build.any_compiler)
    except CompilerError:
        return False
    return host_tools_work(kernel.place)

"""From a kernel that an archive offers to one that can be compiled for: fetched, unpacked, with a root if needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pkgkmod.cachefolder import cache_folder
from pkgkmod.errors import CompilerError, KernelError, PkgkmodError, SandboxError, ToolError
from pkgkmod.kernels.compiler import compiler_stamps
from pkgkmod.kernels.roots import host_tools_complaint, recipe_for, root_folder
from pkgkmod.kernels.select import Found
from pkgkmod.kernels.store import Store
from pkgkmod.kernels.tree import identified
from pkgkmod.model.kernel import Kernel, KernelOffer
from pkgkmod.model.project import Build
from pkgkmod.plugins import KERNEL_SOURCES, KernelArchive, load
from pkgkmod.progress import Progress

_LOOKING = threading.Lock()
"""Held while a kernel's files are looked at: the list of them takes 10 MB, and threads would not be quicker."""


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
                ready[kernel.uname_r] = _with_root(identified(kernel), build, make=fetch, progress=progress)
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
        with _LOOKING:
            Store().repaired(kernel, archive_of(kernel.offer), progress)
    recipe = recipe_for(kernel) if kernel.root else None
    if recipe and kernel.root:
        was_there = kernel.root.is_dir()
        root_folder(recipe, progress=progress, cache=cache_folder())
        if not was_there:  # fingerprints are of compilers that the new one may not have
            raise KernelError(
                f"the build root of {recipe.suite} was removed meanwhile, and had to be made again",
                hint="run the same command again",
            )


def archive_of(offer: KernelOffer) -> KernelArchive:
    """Return the plugin that found a kernel."""
    archive: KernelArchive = load(KERNEL_SOURCES, offer.source)
    return archive


def _with_root(kernel: Kernel, build: Build, *, make: bool, progress: Progress) -> Kernel:
    """Return the kernel with a build root of its release, if this machine cannot compile for it."""
    if not build.roots or not build.sandbox or not kernel.mounts:
        return kernel
    recipe = recipe_for(kernel)
    if recipe is None or _has_tools(kernel, build):
        try:
            complaint = host_tools_complaint(kernel, cache_folder())
        except (SandboxError, ToolError):  # no bubblewrap, or none allowed: told when something is compiled
            return kernel
        if recipe is None and complaint:
            raise KernelError(
                f"the programs in the header packages of {kernel.uname_r} do not run on this machine",
                details=complaint,
                hint="they are made for the distribution release of the kernel; use a machine with that one",
            )
        if recipe is None or not complaint:
            return kernel
    if make:
        root_folder(recipe, progress=progress, cache=cache_folder())
    return replace(kernel, root=recipe.place(cache_folder()))


def _has_tools(kernel: Kernel, build: Build) -> bool:
    """Tell whether this machine has what the kernel's modules are compiled with."""
    try:
        compiler_stamps(kernel, any_compiler=build.any_compiler)
    except (CompilerError, ToolError):
        return False
    return True

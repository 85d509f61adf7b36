"""Which kernels a target asks for, among those that can be had."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from pkgkmod.data.arches import machine_of_arch
from pkgkmod.errors import KernelError, near
from pkgkmod.model.fields import KERNEL_CHOICE
from pkgkmod.model.kernel import Kernel, KernelOffer, KernelRelease
from pkgkmod.model.project import Project
from pkgkmod.plugins import KERNEL_SOURCES, KernelArchive, KernelSource, load, registered
from pkgkmod.progress import Progress

Found = Kernel | KernelOffer
_NAMED = re.compile(r"\d+\.\d+[A-Za-z0-9._+~-]*-[A-Za-z0-9._+~-]+")
"""A release as distributions have it: nothing of a pattern in it, and more than a version."""
F = TypeVar("F", Kernel, KernelOffer, Found)


def local_kernels(project: Project, base: Path) -> tuple[Kernel, ...]:
    """Return the kernels whose build trees lie on this machine; the first source that has a release serves it."""
    found: dict[str, Kernel] = {}
    for name in registered(KERNEL_SOURCES):
        source: KernelSource | KernelArchive = load(KERNEL_SOURCES, name)
        if not isinstance(source, KernelArchive):
            for kernel in source.kernels(project.plugin.get(name, {}), base):
                found.setdefault(kernel.uname_r, kernel)
    return in_order(found.values())


def offered_kernels(project: Project, base: Path, *, ask: bool, progress: Progress) -> tuple[KernelOffer, ...]:
    """Return the kernels of the configured archives, for this machine's architecture.

    `ask` asks the archives for news; otherwise they are taken as they were seen last.
    """
    found: dict[str, KernelOffer] = {}
    for name in registered(KERNEL_SOURCES):
        source: KernelSource | KernelArchive = load(KERNEL_SOURCES, name)
        if isinstance(source, KernelArchive) and name in project.plugin:
            for offer in source.offers(project.plugin[name], base, ask=ask, progress=progress):
                if offer.arch == os.uname().machine:
                    found.setdefault(offer.uname_r, offer)
    return in_order(found.values())


def available_kernels(
    project: Project,
    base: Path,
    *,
    ask: bool = False,
    prefer_archives: bool = False,
    progress: Progress | None = None,
) -> tuple[Found, ...]:
    """Return all kernels that can be built for, oldest first.

    One that lies here is not fetched from an archive, unless `prefer_archives`: then it can be had elsewhere, too.
    """
    offers = offered_kernels(project, base, ask=ask, progress=progress or Progress())
    found: dict[str, Found] = {offer.uname_r: offer for offer in offers}
    local: dict[str, Found] = {kernel.uname_r: kernel for kernel in local_kernels(project, base)}
    return in_order(({**local, **found} if prefer_archives else {**found, **local}).values())


def with_named(
    wanted: Sequence[str], available: Sequence[Found], progress: Progress | None = None
) -> tuple[Found, ...]:
    """Return the kernels, and those of `wanted` that are releases of none: of these, nothing but the name is known.

    Where a release does not say its machine, it is this one.
    """
    known = [kernel.uname_r for kernel in available]
    more = []
    for text in dict.fromkeys(wanted):
        if text in known or not _NAMED.fullmatch(text) or ".." in text:
            continue
        words = re.split(r"[.+-]", text)
        said = (machine_of_arch(word, "deb") or machine_of_arch(word, "rpm") for word in words)
        machine = next((one for one in said if one), os.uname().machine)
        more.append(Kernel(KernelRelease(text), machine, Path("/nonexistent"), "named", f"named {text}", None))
        if progress:
            close = near(text, known, most=1)
            nearest = f"; the nearest that is: {close[0]}" if close else ""
            progress.warn_once(f"kernel {text} is in no archive that is known here, and is taken at its word{nearest}")
    return in_order((*available, *more))


def in_order(kernels: Any) -> tuple[Any, ...]:
    """Return kernels oldest first; of one age, those with the longer names: plain flavours are last."""
    return tuple(sorted(kernels, key=lambda k: (k.release.age, -len(k.uname_r), k.uname_r)))


def select_kernels(wanted: Sequence[str], available: Sequence[F]) -> tuple[F, ...]:
    """Return the kernels that the releases, patterns, `newest ...` and `all` of `wanted` mean, oldest first.

    `!PATTERN` takes kernels out again. Raise KernelError, with the nearest names, if one of them means no kernel.
    """
    chosen: dict[str, F] = {}
    for text in wanted:
        if text.startswith("!"):
            chosen = {name: kernel for name, kernel in chosen.items() if not fnmatchcase(name, text[1:].strip())}
            continue
        matching = _meant(text, available)
        if not matching:
            raise _not_found(text, available)
        chosen.update((kernel.uname_r, kernel) for kernel in matching)
    if not chosen:
        raise KernelError(
            f"no kernel is left of {', '.join(wanted)}", hint="a !PATTERN takes out what stands before it"
        )
    return in_order(chosen.values())


def _meant(text: str, available: Sequence[F]) -> list[F]:
    choice = re.fullmatch(KERNEL_CHOICE, text)
    if text == "all" or not choice:
        return [kernel for kernel in available if text == "all" or fnmatchcase(kernel.uname_r, text)]
    matching = [kernel for kernel in available if fnmatchcase(kernel.uname_r, choice["pattern"] or "*")]
    grouped: dict[str, list[F]] = {}
    for kernel in matching:
        grouped.setdefault(getattr(kernel.release, choice["group"]) if choice["group"] else "", []).append(kernel)
    number = int(choice["number"] or 1)
    return [kernel for kernels in grouped.values() for kernel in kernels[-number:]]


def _not_found(text: str, available: Sequence[Found]) -> KernelError:
    names = [kernel.uname_r for kernel in available]
    if not names:
        hint = (
            "install the headers of a kernel (linux-headers-..., kernel-devel), name folders in plugin.folder.paths, "
            "or an archive in plugin.apt.archives or plugin.rpm-md.repositories"
        )
    elif close := near(text, names):
        hint = f"nearest: {', '.join(close)}; `pkgkmod kernels list` shows all {len(names)}"
    else:
        hint = f"there are: {', '.join(names[-5:])}; `pkgkmod kernels list` asks the archives for newer ones"
    what = "no kernel build tree found" if text == "newest" else f"kernel build tree {text} not found"
    return KernelError(what, hint=hint)

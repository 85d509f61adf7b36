"""Kernels as they are booted: the kernel's file and its own modules, from where its headers are."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pkgkmod.errors import KernelError
from pkgkmod.kernels.apt import AptKernels
from pkgkmod.kernels.provide import archive_of
from pkgkmod.kernels.store import Store
from pkgkmod.model.kernel import Kernel, KernelOffer, KernelRelease
from pkgkmod.model.project import Project
from pkgkmod.plugins import ImageArchive
from pkgkmod.progress import Progress

# Debian, Ubuntu; Red Hat, Fedora, SUSE. Other machines call it vmlinux or Image.
_FILES = ("boot/{kind}-{release}", "lib/modules/{release}/{kind}", "usr/lib/modules/{release}/{kind}")
_KINDS = ("vmlinuz", "Image", "vmlinux", "image")
_ASKING = threading.Lock()
"""Held while an archive's index is read: the next kernel finds it there."""
_MODULES = ("lib/modules/{release}", "usr/lib/modules/{release}")


@dataclass(frozen=True)
class KernelImage:
    """A kernel that can be booted."""

    uname_r: str
    arch: str
    """Machine name as `uname -m` prints it."""
    file: Path
    modules: tuple[Path, ...]
    """Folders that stand for /lib/modules/UNAME_R: one for each of its packages that has modules; may be none."""
    shown: str
    """What messages call it: the package with its version, or the file."""
    identity: str
    """Changes when the kernel or its modules do."""


def find_image(kernel: Kernel | KernelOffer, project: Project, base: Path, progress: Progress) -> KernelImage:
    """Return the kernel as it is booted: the one that is installed here, or else fetched from its headers' archive.

    Nothing is installed, and nothing of a package is run. Raise KernelError if nobody has it.
    """
    if found := installed_image(kernel):
        return found
    with _ASKING:
        offer = image_offer(kernel, project, base, progress)
    roots = Store().unpacked(offer, archive_of(offer), progress)
    return _of_packages(kernel, offer, roots)


def image_offer(kernel: Kernel | KernelOffer, project: Project, base: Path, progress: Progress) -> KernelOffer:
    """Return the packages that hold a kernel, as its archive offers them; raise KernelError if it does not."""
    offer = kernel.offer if isinstance(kernel, Kernel) else kernel
    archive = archive_of(offer) if offer else AptKernels()
    if not isinstance(archive, ImageArchive):
        raise KernelError(
            f"the kernel {kernel.uname_r} itself is not to be had: '{archive.name}' has headers only",
            hint="name a kernel file with --image",
        )
    settings: Mapping[str, object] = project.plugin.get(archive.name, {})
    return archive.image(kernel, settings, base, progress)


def installed_image(kernel: Kernel | KernelOffer) -> KernelImage | None:
    """Return a kernel that is installed on this machine with its modules; None if it is not, or not its headers."""
    return _in_root(Path("/"), kernel) if isinstance(kernel, Kernel) and kernel.offer is None else None


def image_of_file(file: Path, uname_r: str, arch: str) -> KernelImage:
    """Return a file as a kernel; its modules are those that are installed for it, if any.

    Raise KernelError if it is not there, or if it is known to be another kernel.
    """
    try:
        with file.open("rb") as opened:
            said = _release_in(opened)
    except OSError as error:
        raise KernelError(
            f"{file} cannot be read: {error.strerror}", hint="--image names a kernel, such as /boot/vmlinuz-..."
        ) from None
    if said and uname_r and said != uname_r:
        raise KernelError(f"{file} is the kernel {said}, not {uname_r}")
    if not (said or uname_r):
        raise KernelError(f"{file} does not say which kernel it is", hint="name its release with --kernel")
    release = KernelRelease(said or uname_r).uname_r
    modules = tuple(one for one in _module_folders(Path("/"), release) if (one / "kernel").is_dir())
    return KernelImage(release, arch, file.absolute(), modules, str(file), _stamp(file))


def _release_in(file: BinaryIO) -> str:
    """Return the release that an x86 kernel says of itself; empty for others (Documentation/arch/x86/boot.rst)."""
    head = file.read(0x210)
    if head[0x202:0x206] != b"HdrS":
        return ""
    file.seek(int.from_bytes(head[0x20E:0x210], "little") + 0x200)
    said = file.read(128).partition(b"\0")[0].decode("ascii", "replace").partition(" ")[0]
    try:
        return KernelRelease(said).uname_r
    except ValueError:
        return ""


def _in_root(root: Path, kernel: Kernel | KernelOffer) -> KernelImage | None:
    """Return a kernel by what is installed below a root."""
    file = _kernel_file(root, kernel.uname_r)
    modules = _module_folders(root, kernel.uname_r)
    if file is None or not any((folder / "kernel").is_dir() for folder in modules):
        return None
    return KernelImage(kernel.uname_r, kernel.arch, file, modules, str(file), _stamp(file))


def _of_packages(kernel: Kernel | KernelOffer, offer: KernelOffer, roots: tuple[Path, ...]) -> KernelImage:
    for root, package in zip(roots, offer.packages, strict=True):
        if file := _kernel_file(root, kernel.uname_r):
            folders = tuple(folder for one in roots for folder in _module_folders(one, kernel.uname_r))
            shown = f"{package.name} {package.version}"
            return KernelImage(kernel.uname_r, kernel.arch, file, folders, shown, offer.identity)
    names = ", ".join(f"{package.name} {package.version}" for package in offer.packages)
    raise KernelError(f"the packages of {kernel.uname_r} hold no kernel that can be booted", details=names)


def _kernel_file(root: Path, release: str) -> Path | None:
    found = (root / form.format(kind=kind, release=release) for form in _FILES for kind in _KINDS)
    # Ubuntu lets only root read the kernels in /boot.
    usable = (path for path in found if path.is_file() and _is_below(path, root) and os.access(path, os.R_OK))
    return next(usable, None)


def _module_folders(root: Path, release: str) -> tuple[Path, ...]:
    found = (root / form.format(release=release) for form in _MODULES)
    # On most machines /lib is a link to /usr/lib: one folder by two names.
    return tuple({path.resolve(): path for path in found if path.is_dir() and _is_below(path, root)}.values())


def _is_below(path: Path, root: Path) -> bool:
    """Tell whether a path stays below the root if links are followed: a package's links may lead anywhere."""
    return path.resolve().is_relative_to(root.resolve())


def _stamp(file: Path) -> str:
    facts = file.stat()
    return f"{file}:{facts.st_size}:{facts.st_mtime_ns}"

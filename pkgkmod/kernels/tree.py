"""Reading a kernel build tree: its release, architecture, options and compiler."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pkgkmod.data.arches import machine_of
from pkgkmod.errors import KernelError
from pkgkmod.model.kernel import Compiler, Kernel, KernelOffer, KernelRelease, Mount, seen_at

_OPTION = re.compile(r"^CONFIG_([A-Za-z0-9_]+)=(.*)$", re.MULTILINE)
_UTS_RELEASE = re.compile(r'#define UTS_RELEASE "([^"]+)"')
# Debian's header packages: `include /usr/src/linux-headers-6.1.0-56-common/Makefile`; SUSE's:
# `include ../../../linux-6.4.0-150600.23.47/Makefile`
_INCLUDED = re.compile(r"^include ((?:/|\.\./)[^\s$]+)/Makefile$", re.MULTILINE)


def read_kernel(
    tree: Path,
    source: str,
    *,
    mounts: tuple[Mount, ...] = (),
    offer: KernelOffer | None = None,
    identify: bool = True,
) -> Kernel:
    """Read the build tree in `tree`; raise KernelError that says what is missing in it.

    With `mounts`, `tree` is the path it was packaged for, and the files lie where the mounts say. Without `identify`,
    the kernel's identity, for which all files are asked for their times, is left to `identified`.
    """
    tree = Path(os.path.abspath(tree))
    place = seen_at(tree, mounts)
    if not mounts:
        tree, mounts = _unpacked(place)
    options = read_options(place)
    needs = _included(place, tree)
    for folder in needs:
        if not (seen_at(folder, mounts) / "Makefile").is_file():
            raise KernelError(f"the kernel build tree {place} includes {folder}, which is not there")
    kernel = Kernel(
        release=_release(place),
        arch=_arch(options, place),
        tree=tree,
        source=source,
        identity=offer.identity if offer else "",
        compiler=_compiler(options),
        also_needs=needs,
        mounts=mounts,
        offer=offer,
    )
    return identified(kernel) if identify else kernel


def identified(kernel: Kernel) -> Kernel:
    """Return a kernel with its identity; one that has it stays as it is."""
    if kernel.identity:
        return kernel
    folders = (kernel.tree, *kernel.also_needs)
    return replace(kernel, identity=_identity(tuple(seen_at(path, kernel.mounts) for path in folders)))


def packaged_folders(root: Path) -> Iterator[Mount]:
    """Return the folders of unpacked header packages below `root`, and the paths they were packaged for.

    These are what distributions put below /usr/src, and kbuild's programs, which Debian puts below /usr/lib.
    """
    # Folders that several kernels share: Red Hat's, and SUSE's with a folder for each machine and flavour.
    shared = {root / "usr/src/kernels", *root.glob("usr/src/linux-*-obj")}
    for pattern in ("usr/src/kernels/*", "usr/src/linux-*-obj/*/*", "usr/src/*", "usr/lib/linux-kbuild-*"):
        for folder in sorted(root.glob(pattern)):
            if folder.is_dir() and not folder.is_symlink() and folder not in shared:
                yield Mount(folder, Path("/", folder.relative_to(root)))


def _unpacked(place: Path) -> tuple[Path, tuple[Mount, ...]]:
    """Tell the path and the mounts of a tree that was unpacked with its path (`dpkg-deb -x`), not installed.

    It is used where it lies if it needs nothing else.
    """
    root = next((parent.parents[1] for parent in place.parents if parent.parts[-2:] == ("usr", "src")), Path("/"))
    if root == Path("/") or not _included(place, place):
        return place, ()
    return Path("/", place.relative_to(root)), tuple(packaged_folders(root))


def _included(place: Path, tree: Path) -> tuple[Path, ...]:
    """Return the folders that a tree includes, which lies in `place` and was packaged for the path `tree`."""
    return tuple(Path(os.path.normpath(tree / found)) for found in _INCLUDED.findall(_read(place / "Makefile")))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise KernelError(
            f"{path.parent} is not a usable kernel build tree: {path.name}: {error.strerror}",
            hint="a build tree holds Makefile, .config and Module.symvers; headers packages install one",
        ) from None


@functools.cache
def read_options(tree: Path) -> Mapping[str, str]:
    """Return the kernel's options, without CONFIG_, with their values as .config spells them."""
    return dict(_OPTION.findall(_read(tree / ".config")))


def _release(tree: Path) -> KernelRelease:
    # Not include/config/kernel.release: in Debian's header packages it holds the upstream version.
    found = _UTS_RELEASE.search(_read(tree / "include/generated/utsrelease.h"))
    try:
        return KernelRelease(found[1] if found else "")
    except ValueError as error:
        raise KernelError(f"the kernel build tree {tree} names no release: {error}") from None


def _arch(options: Mapping[str, str], tree: Path) -> str:
    if machine := machine_of(options):
        return machine
    raise KernelError(f"the kernel build tree {tree} is for an architecture that is not known here")


def _compiler(options: Mapping[str, str]) -> Compiler | None:
    text = options.get("CC_VERSION_TEXT", "").strip('"')
    clang, gcc = int(options.get("CLANG_VERSION", "0")), int(options.get("GCC_VERSION", "0"))
    if clang:
        return Compiler("clang", clang // 10000, text)
    return Compiler("gcc", gcc // 10000, text) if gcc else None


def _identity(folders: tuple[Path, ...]) -> str:
    """Digest over the folders of a build tree."""
    total = hashlib.sha256()
    for folder in folders:
        total.update(_folder_identity(folder).encode())
    return total.hexdigest()


@functools.cache
def _folder_identity(folder: Path) -> str:
    """Digest over names, sizes and times of all files, and over the content of those that say most.

    Reading 17,000 headers takes seconds, asking for their sizes and times 0.1 s. Several flavours share a
    folder with most of them.
    """
    total = hashlib.sha256()
    for name in (".config", "Module.symvers", "Makefile", "include/generated/utsversion.h", "include/config/auto.conf"):
        if (folder / name).is_file():
            total.update((folder / name).read_bytes())
    # include/config has an empty file for each option of .config, some 7,000 in all.
    total.update(manifest_digest(folder, without=folder / "include/config").encode())
    return total.hexdigest()


def manifest_digest(folder: Path, *, without: Path | None = None) -> str:
    """Return a digest over the path below `folder`, size and time of change of each file; not over content.

    `without` names a folder that is left out.
    """
    entries = []
    stack = [str(folder)]
    left_out, start = str(without), len(str(folder)) + 1
    while stack:
        with os.scandir(stack.pop()) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    if entry.path != left_out:
                        stack.append(entry.path)
                else:
                    facts = entry.stat(follow_symlinks=False)
                    entries.append(f"{entry.path[start:]} {facts.st_size} {facts.st_mtime_ns}\n")
    entries.sort()
    total = hashlib.sha256()
    for line in entries:  # one text of them all would be of several megabytes, in each thread
        total.update(line.encode("utf-8", "surrogateescape"))
    return total.hexdigest()

"""The store: header packages of any kernel, unpacked once, never installed, shared by all projects.

    kernels/packages/SHA256/root/...   a package's files, at the paths they were packaged for
    kernels/packages/SHA256/entry.json what it is, and what its files looked like when they were unpacked
    kernels/packages/SHA256/package    an RPM of headers itself, which clean roots install
    kernels/known/IDENTITY.json        what was read of a kernel, so that it is read once

A package is named by its digest, so two archives that serve the same one share it, and an entry can only be
whole: it is unpacked aside and renamed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pkgkmod.cachefolder import cache_folder
from pkgkmod.errors import KernelError
from pkgkmod.kernels.tree import manifest_digest, packaged_folders, read_kernel
from pkgkmod.model.kernel import Compiler, Kernel, KernelOffer, Mount, PackageFile
from pkgkmod.plugins import KernelArchive
from pkgkmod.progress import Progress
from pkgkmod.workspace import write_atomically

_ENTRY = "entry.json"
_PACKAGE = "package"


@dataclass(frozen=True)
class Entry:
    """A package in the store."""

    package: PackageFile
    folder: Path
    used: float
    """When a build used it last, seconds since 1970."""
    bytes: int
    """Space that its files take."""


class Store:
    """The store of one user; several processes may use it at a time."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder() / "kernels"
        self._packages = self.folder / "packages"
        self._known = self.folder / "known"

    def has(self, offer: KernelOffer) -> bool:
        """Tell whether all packages of a kernel are here."""
        return all((self._packages / package.sha256 / _ENTRY).exists() for package in offer.packages)

    def kernel(self, offer: KernelOffer) -> Kernel:
        """Return a kernel whose packages are here; raise KernelError if they hold no usable build tree."""
        record = self._known / f"{offer.identity}.json"
        try:
            facts = json.loads(record.read_text(encoding="utf-8"))
            return self._from_record(facts, offer)
        except (OSError, ValueError, KeyError, TypeError):
            roots = [self._packages / package.sha256 / "root" for package in offer.packages]
            kernel = self._read(offer, tuple(mount for root in roots for mount in packaged_folders(root)))
        self._known.mkdir(parents=True, exist_ok=True)
        _write_json(record, self._to_record(kernel))
        return kernel

    def _to_record(self, kernel: Kernel) -> dict[str, Any]:
        return {
            "release": kernel.uname_r,
            "arch": kernel.arch,
            "tree": str(kernel.tree),
            "also_needs": [str(path) for path in kernel.also_needs],
            "compiler": asdict(kernel.compiler) if kernel.compiler else None,
            # Kept, not looked for each time: one that was removed would be missed by nobody.
            "mounts": [(str(m.source.relative_to(self._packages)), str(m.target)) for m in kernel.mounts],
        }

    def _from_record(self, facts: dict[str, Any], offer: KernelOffer) -> Kernel:
        if facts["release"] != offer.uname_r:
            raise ValueError(facts["release"])
        return Kernel(
            release=offer.release,
            arch=facts["arch"],
            tree=Path(facts["tree"]),
            source=offer.source,
            identity=offer.identity,
            compiler=Compiler(**facts["compiler"]) if facts["compiler"] else None,
            also_needs=tuple(Path(path) for path in facts["also_needs"]),
            mounts=tuple(Mount(self._packages / source, Path(target)) for source, target in facts["mounts"]),
            offer=offer,
        )

    @staticmethod
    def _read(offer: KernelOffer, mounts: tuple[Mount, ...]) -> Kernel:
        """Find the build tree of the offer's release among its packages' folders."""
        trees = [m.target for m in mounts if (m.source / "include/generated/utsrelease.h").is_file()]
        # SUSE: /usr/src/linux-VERSION-obj/ARCH/FLAVOUR
        for mount in mounts:
            found = sorted(mount.source.glob("*/*/include/generated/utsrelease.h"))
            trees += [mount.target / path.parents[2].relative_to(mount.source) for path in found]
        for tree in trees:
            kernel = read_kernel(tree, offer.source, mounts=mounts, offer=offer)
            if kernel.uname_r == offer.uname_r:
                _check_own(kernel)
                return kernel
        names = ", ".join(f"{package.name} {package.version}" for package in offer.packages)
        raise KernelError(f"the packages of {offer.uname_r} hold no build tree for it", details=f"unpacked: {names}")

    def fetch(self, offer: KernelOffer, archive: KernelArchive, progress: Progress) -> Kernel:
        """Fetch and unpack what is missing of a kernel; raise KernelError if it cannot be had."""
        with self.in_use():
            for package in offer.packages:
                with self._locked(package):
                    if not (self._packages / package.sha256 / _ENTRY).exists():
                        self._add(package, offer, archive, progress, keep=_is_rpm(package))
            return self.kernel(offer)

    def package_file(self, package: PackageFile, progress: Progress) -> Path:
        """Return the file of a package, whose digest is right; raise KernelError if it cannot be had (again)."""
        with self.in_use(), self._locked(package):
            file = self._packages / package.sha256 / _PACKAGE
            if not _has_digest(file, package.sha256):
                from pkgkmod.kernels.download import fetch_package

                file.parent.mkdir(parents=True, exist_ok=True)
                aside = file.with_name(f".new-{_PACKAGE}")
                with progress.step(f"Fetching {package.name} {package.version}"):
                    fetch_package(package, aside, progress)
                aside.chmod(0o444)
                aside.replace(file)
            return file

    def unpacked(self, offer: KernelOffer, archive: KernelArchive, progress: Progress) -> tuple[Path, ...]:
        """Fetch and unpack packages that need not be headers, and return where the files of each lie.

        What is here and was damaged is fetched again. Raise KernelError if one cannot be had.
        """
        for package in offer.packages:
            folder = self._packages / package.sha256
            with self.in_use(), self._locked(package):
                if _is_intact(folder):
                    os.utime(folder / _ENTRY)
                    continue
                if (folder / _ENTRY).exists():
                    progress.warning(f"{package.name} {package.version} is damaged in the store: it is fetched again")
                self._add(package, offer, archive, progress)
        return tuple(self._packages / package.sha256 / "root" for package in offer.packages)

    def _add(
        self,
        package: PackageFile,
        offer: KernelOffer,
        archive: KernelArchive,
        progress: Progress,
        *,
        keep: bool = False,
    ) -> None:
        from pkgkmod.kernels.download import fetch_package  # urllib is not needed where all is here

        self._packages.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=self._packages, prefix=".new-"))
        try:
            file = aside / _PACKAGE
            with progress.step(f"Fetching {package.name} {package.version}"):
                fetch_package(package, file, progress)
                archive.unpack(file, package, offer, aside / "root")
            if not keep:
                file.unlink()
            space = _make_readable(aside)
            facts = {
                "package": asdict(package),
                "source": offer.source,
                "archive": offer.archive,
                "files": manifest_digest(aside / "root"),
                "bytes": space,
            }
            _write_json(aside / _ENTRY, facts)
            _remove(self._packages / package.sha256)  # what is left of a damaged one
            aside.rename(self._packages / package.sha256)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def repaired(self, kernel: Kernel, archive: KernelArchive | None, progress: Progress) -> None:
        """Make sure that the kernel's files are as they were unpacked, fetching again what was damaged.

        Cheap enough for a compile (0.1 s), too slow for a run with nothing to do. Marks the packages as used.
        Raise KernelError if a damaged package cannot be had again.
        """
        if kernel.offer is None:
            return
        for package in kernel.offer.packages:
            folder = self._packages / package.sha256
            with self.in_use(), self._locked(package):
                if _is_intact(folder):
                    os.utime(folder / _ENTRY)
                    continue
                progress.warning(f"{package.name} {package.version} is damaged in the store: it is fetched again")
                if archive is None:
                    raise KernelError(
                        f"{package.name} {package.version} is damaged in the store, and its archive is not configured",
                        details=f"it came from {kernel.offer.archive}",
                    )
                self._add(package, kernel.offer, archive, progress, keep=_is_rpm(package))

    def entries(self) -> list[Entry]:
        """Return the packages that are here, the one that was used longest ago first."""
        found = []
        for path in self._packages.glob(f"*/{_ENTRY}"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                facts = json.loads(path.read_text(encoding="utf-8"))
                package = PackageFile(**facts["package"])
                found.append(Entry(package, path.parent, path.stat().st_mtime, int(facts["bytes"])))
        return sorted(found, key=lambda entry: entry.used)

    def prune(self, *, unused_for: float, dry_run: bool = False) -> list[Entry]:
        """Remove the packages that no build used for `unused_for` seconds; return what is (or would be) removed.

        Waits until no run uses the store, unless it is a `dry_run`.
        """
        before = time.time() - unused_for
        if dry_run:
            return [entry for entry in self.entries() if entry.used <= before]
        with self._flocked(self.folder / ".in-use", fcntl.LOCK_EX):
            doomed = [entry for entry in self.entries() if entry.used <= before]
            leftovers = list(self._packages.glob(".*"))  # of killed runs
            for path in (*(entry.folder for entry in doomed), *leftovers):
                _remove(path)
            for record in self._known.glob("*.json"):
                if not self._is_known(record):
                    record.unlink(missing_ok=True)
        return doomed

    def _is_known(self, record: Path) -> bool:
        """Tell whether the packages of a kernel that was read once are still here."""
        try:
            sources = [source for source, _ in json.loads(record.read_text(encoding="utf-8"))["mounts"]]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return all((self._packages / source).exists() for source in sources)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep `prune` from removing anything."""
        with self._flocked(self.folder / ".in-use", fcntl.LOCK_SH):
            yield

    @contextmanager
    def _locked(self, package: PackageFile) -> Iterator[None]:
        """Let one process at a time work on a package."""
        with self._flocked(self.folder / "locks" / package.sha256[:16], fcntl.LOCK_EX):
            yield

    @staticmethod
    @contextmanager
    def _flocked(file: Path, kind: int) -> Iterator[None]:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as lock:
            fcntl.flock(lock, kind)
            try:
                yield
            finally:
                # Closing alone would not do where a process that was forked meanwhile still has it open.
                fcntl.flock(lock, fcntl.LOCK_UN)


def _is_rpm(package: PackageFile) -> bool:
    return package.url.endswith(".rpm")


def _has_digest(file: Path, sha256: str) -> bool:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
    except OSError:
        return False


def _check_own(kernel: Kernel) -> None:
    """Refuse a tree that includes what is in none of its packages, even where this machine has it installed."""
    for folder in kernel.also_needs:
        if not any(folder.is_relative_to(mount.target) for mount in kernel.mounts):
            raise KernelError(f"the packages of {kernel.uname_r} include {folder}, which is in none of them")


def _is_intact(folder: Path) -> bool:
    try:
        facts = json.loads((folder / _ENTRY).read_text(encoding="utf-8"))
        return bool(facts["files"] == manifest_digest(folder / "root"))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _make_readable(folder: Path) -> int:
    """Let everybody read, whatever the umask: the compiler runs as another user. Nobody may write.

    Return how many bytes the files hold.
    """
    space = 0
    folders = [str(folder)]
    while folders:
        place = folders.pop()
        Path(place).chmod(0o755)
        with os.scandir(place) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    facts = entry.stat(follow_symlinks=False)
                    space += facts.st_size
                    os.chmod(entry.path, 0o555 if facts.st_mode & 0o100 else 0o444)  # noqa: PTH101
    return space


def _remove(path: Path) -> None:
    """Take an entry out of the way in one step, then remove it; there may be none."""
    if not os.path.lexists(path):
        return
    doomed = Path(tempfile.mkdtemp(dir=path.parent, prefix=".old-"))
    with contextlib.suppress(OSError):
        path.rename(doomed / "package")
    shutil.rmtree(doomed, ignore_errors=True)


def _write_json(path: Path, content: object) -> None:
    write_atomically(path, json.dumps(content, indent=1))

"""A repository for mock's root: of the packages that a job's kernels came in, and of drivers that it builds on.

    roots/mock-DIGEST/Packages/...    the RPMs: those of kernels are links to the store's, as the archive served them
    roots/mock-DIGEST/keys/...        keys of the project's further repositories, where mock's root sees them, too
    roots/mock-DIGEST/repodata/...    by createrepo_c
    roots/mock-DIGEST/entry.json      what it holds; with it, `kernels prune` knows its size and last use

It has the same path for the same content, so that what dnf remembers of it serves the next build, and one without
network.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from pkgkmod.cachefolder import cache_folder
from pkgkmod.command import Command, run
from pkgkmod.errors import PackageError
from pkgkmod.kernels.store import Store
from pkgkmod.model.kernel import Kernel, PackageFile
from pkgkmod.programs import find_tool
from pkgkmod.progress import Progress
from pkgkmod.workspace import digest, write_atomically

_ENTRY = "entry.json"
_FORM = 1
"""Raised when something else is made of the same packages."""


def kernel_packages(kernels: Iterable[Kernel]) -> tuple[PackageFile, ...]:
    """Return the RPMs that kernels came in; those of folders, and installed ones, came in none that is known."""
    offers = [kernel.offer for kernel in kernels if kernel.offer]
    packages = {one.sha256: one for offer in offers for one in offer.packages if one.url.endswith(".rpm")}
    return tuple(packages[key] for key in sorted(packages))


def local_repository(
    packages: Iterable[PackageFile], keys: Mapping[str, bytes], progress: Progress, *, more: Iterable[Path] = ()
) -> Path:
    """Return a repository of packages, with keys beside them by file name; it is made if it is not there or not whole.

    `more` are RPMs that were made on this machine.

    Raise KernelError if a package cannot be had, PackageError if createrepo_c fails.
    """
    find_tool("createrepo_c", needed_for="the repository of kernels for mock")
    packages = tuple(packages)
    own = {f"{_sha256(path)[:16]}.rpm": path for path in more}
    content = [_FORM, [one.sha256 for one in packages], sorted(own), sorted(keys)]
    home = cache_folder() / "roots" / f"mock-{digest(content)[:16]}"
    locks = home.parent / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / home.name).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process makes it, the others wait
        if not _is_whole(home):
            _make(home, packages, own, keys, progress)
        os.utime(home / _ENTRY)
    return home


def key_name(content: bytes) -> str:
    """Return the file name that a key has in the repository."""
    return f"{hashlib.sha256(content).hexdigest()[:16]}.asc"


def _is_whole(home: Path) -> bool:
    try:
        listed = json.loads((home / _ENTRY).read_text(encoding="utf-8"))["files"]
        return bool(listed == _digests(home))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _digests(home: Path) -> dict[str, str]:
    found = {}
    for path in sorted(path for path in home.rglob("*") if path.is_file() and path.name != _ENTRY):
        found[str(path.relative_to(home))] = _sha256(path)
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _make(
    home: Path,
    packages: Iterable[PackageFile],
    own: Mapping[str, Path],
    keys: Mapping[str, bytes],
    progress: Progress,
) -> None:
    """Make a repository aside and rename it."""
    aside = home.with_name(f".new-{home.name}")
    shutil.rmtree(aside, ignore_errors=True)  # of a killed run
    try:
        (aside / "Packages").mkdir(parents=True)
        (aside / "keys").mkdir()
        store = Store()
        for package in packages:
            _put(store.package_file(package, progress), aside / "Packages" / _file_name(package))
        for name, path in own.items():
            shutil.copyfile(path, aside / "Packages" / name)
        for name, content in keys.items():
            (aside / "keys" / name).write_bytes(content)
        _createrepo(aside, progress)
        _make_readable(aside)
        files = _digests(aside)
        size = sum((aside / name).stat().st_size for name in files)
        write_atomically(aside / _ENTRY, json.dumps({"files": files, "bytes": size}, indent=1))
        shutil.rmtree(home, ignore_errors=True)
        aside.rename(home)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _file_name(package: PackageFile) -> str:
    return f"{re.sub(r'[^A-Za-z0-9.+-]', '_', package.name)[:80]}-{package.sha256[:16]}.rpm"


def _put(source: Path, destination: Path) -> None:
    try:
        os.link(source, destination)
    except OSError:  # another file system
        shutil.copyfile(source, destination)


def _createrepo(folder: Path, progress: Progress) -> None:
    argv = ("createrepo_c", "--quiet", "--no-database", "--general-compress-type=gz", "--revision=0")
    log = folder.with_name(f"{folder.name}.log")
    log.unlink(missing_ok=True)
    done = run(Command((*argv, "--set-timestamp-to-revision", str(folder)), folder), log=log, progress=progress)
    if not done.ok:
        raise PackageError(f"createrepo_c failed ({done.returncode})", details="\n".join(done.tail[-10:]), log=done.log)
    log.unlink()


def _make_readable(folder: Path) -> None:
    """Let mock's package manager read, whatever the umask."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
        elif path.stat().st_nlink == 1:  # the store's own files stay as they are
            path.chmod(0o644)

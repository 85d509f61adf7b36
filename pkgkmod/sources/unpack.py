"""Writing files of a git tree below a folder, and nowhere else."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pkgkmod.errors import SourceError
from pkgkmod.sources.objects import Entry

LINK = "120000"  # git's mode of a symbolic link
_EXECUTABLE = 0o100


def refuse_unsafe(files: Sequence[Entry]) -> None:
    """Raise SourceError for submodules, and for names that could lead outside or break a line of text."""
    if submodules := [file.path for file in files if file.kind == "commit"]:
        raise SourceError(
            f"a submodule cannot be imported: {submodules[0]}",
            details="\n".join(submodules),
            hint="name the folders beside it instead of the one that holds it; "
            "a submodule's files can be imported from its own repository",
        )
    for file in files:
        parts = file.path.split("/")
        if not file.path.isprintable() or any(p in ("", ".", "..") or p.lower() == ".git" for p in parts):
            raise SourceError(
                f"the commit holds a file name that is not safe to write: {file.path!r}",
                hint="name the folders that are needed one by one, without that file",
            )
    _refuse_clashes(files)


def _refuse_clashes(files: Sequence[Entry]) -> None:
    """Raise SourceError if a path is there twice, or is a file and a folder: made-up trees can say so."""
    paths = {file.path for file in files}
    folders = folders_above(paths)
    twice = sorted(paths & folders)
    if len(paths) != len(files) or twice:
        name = twice[0] if twice else next(p for p, count in Counter(f.path for f in files).items() if count > 1)
        raise SourceError(f"the commit holds the name {name!r} twice", details="the tree was not made by git")


def folders_above(paths: Iterable[str]) -> set[str]:
    """Return all folders on the way to `paths`, the top excepted."""
    found: set[str] = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def write_files(tree: Path, files: Sequence[Entry], contents: Iterable[bytes], *, epoch: int) -> None:
    """Write `files`, checked by `refuse_unsafe`, below `tree`: modes 0644 or 0755, times `epoch`
    (seconds)."""
    known: set[str] = set()
    for file, content in zip(files, contents, strict=True):
        path = f"{tree}/{file.path}"
        folder = path.rpartition("/")[0]
        if folder not in known:
            Path(folder).mkdir(parents=True, exist_ok=True)
            known.add(folder)
        if file.mode == LINK:
            _write_link(path, file, content, epoch)
            continue
        mode = 0o755 if int(file.mode, 8) & _EXECUTABLE else 0o644
        # Never through a link, never over something.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            _write_all(handle, content)
            os.fchmod(handle, mode)
            os.utime(handle, (epoch, epoch))
        finally:
            os.close(handle)


def _write_all(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]


def _write_link(path: str, file: Entry, content: bytes, epoch: int) -> None:
    if b"\0" in content or not content:
        raise SourceError(f"the symbolic link {file.path} has no usable target")
    os.symlink(content, path)  # noqa: PTH211 (a name of bytes)
    os.utime(path, (epoch, epoch), follow_symlinks=False)


def walk_files(tree: Path) -> Iterator[str]:
    """Give the paths of all files and links below `tree`, relative to it, sorted folder by folder."""
    for folder, folders, files in os.walk(tree):
        folders.sort()
        links = [name for name in folders if Path(folder, name).is_symlink()]
        prefix = os.path.relpath(folder, tree)
        for name in sorted([*files, *links]):
            yield name if prefix == "." else f"{prefix}/{name}"


def escaping_links(tree: Path) -> list[str]:
    """Return the links below `tree` that are absolute or lead outside, as `PATH -> TARGET`."""
    root = os.path.realpath(tree)
    found = []
    for path in walk_files(tree):
        full = f"{root}/{path}"
        if not os.path.islink(full):  # noqa: PTH114 (thousands of files)
            continue
        target = Path(full).readlink()
        # Resolved for real: a link to a folder changes what '..' behind it means.
        real = os.path.realpath(full)
        if target.is_absolute() or not (real == root or real.startswith(root + "/")):
            found.append(f"{path} -> {target}")
    return found

"""What all carriers of a driver disk need: the tree that is put on them, and programs that succeed."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pkgkmod.command import Command, Completed
from pkgkmod.errors import DiskFullError, InputError, PackageError

Run = Callable[[Command], Completed]


def run_checked(run: Run, command: Command) -> None:
    """Run a program; raise PackageError with its last lines if it fails."""
    done = run(command)
    if not done.ok:
        raise PackageError(f"{command.argv[0]} failed", details="\n".join(done.tail[-10:]), log=done.log)


@contextlib.contextmanager
def needing_room(folder: Path) -> Iterator[None]:
    """Raise DiskFullError if what is written to `folder` in here does not fit."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError(
            "no space left on the disk while making an image of the driver disk",
            hint=f"free some space where {folder} lies, then run the same command again",
        ) from None


def read_tree(folder: Path) -> tuple[Path, ...]:
    """Return all that lies below a folder, links not followed: relative paths, sorted, folders before their contents.

    Raise InputError for what no carrier can take: devices, names that are not text, and links that lead nowhere or
    out of the folder.
    """
    root = Path(os.path.realpath(folder))
    found = []
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            _check_entry(path, root)
            found.append(path.relative_to(folder))
    return tuple(sorted(found, key=lambda path: path.parts))


def refuse(path: Path, why: str, hint: str = "give it another name") -> InputError:
    """Return the error for a file that cannot be put on a carrier; odd characters of its name are spelled out."""
    return InputError(f"{str(path)!a} cannot be put on the driver disk: {why}", hint=hint)


def _check_entry(path: Path, root: Path) -> None:
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise refuse(path, "its name is not UTF-8") from None
    if not path.name.isprintable():
        raise refuse(path, "its name has a character that cannot be shown")
    if path.is_symlink():
        real = Path(os.path.realpath(path))
        # An absolute link means something else on the machine that reads the disk.
        if path.readlink().is_absolute() or not real.is_relative_to(root) or not real.exists():
            raise refuse(path, "it is a link that leads out of the folder, or nowhere", "put the file itself there")
    elif not path.is_file() and not path.is_dir():
        raise refuse(path, "it is neither a file nor a folder", "leave devices, pipes and sockets out")

"""Filling the folder that becomes a driver disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def copy_file(source: Path, destination: Path) -> None:
    """Copy a file to where there is none yet, with the folders above it; one that is there already must be the same."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    if not destination.exists():
        shutil.copyfile(source, destination)


def set_times(folder: Path, epoch: int) -> None:
    """Give every file, link and folder below `folder`, and itself, the time `epoch`; files 0444, folders 0755."""
    for parent, _, _ in os.walk(folder, topdown=False):
        for path in Path(parent).iterdir():  # links to folders are not among the names of files
            if path.is_file() and not path.is_symlink():
                path.chmod(0o444)
            os.utime(path, (epoch, epoch), follow_symlinks=False)
        Path(parent).chmod(0o755)
    os.utime(folder, (epoch, epoch))

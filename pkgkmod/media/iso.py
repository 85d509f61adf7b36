"""ISO images that are the same wherever and whenever they are made."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from pkgkmod.command import Command


def iso_command(folder: Path, image: Path, *, label: str, epoch: int) -> Command:
    """Describe the xorriso call that makes `image` of `folder`.

    Rock Ridge and Joliet, files 0444, folders 0555, owner 0, all times `epoch` (seconds since 1970).
    """
    moment = datetime.fromtimestamp(epoch, UTC).strftime("%Y%m%d%H%M%S00")
    return Command(
        (
            *("xorriso", "-no_rc", "-as", "mkisofs", "-quiet"),
            *("-V", label, "-r", "-J", "-joliet-long"),
            *("-uid", "0", "-gid", "0", "-dir-mode", "0555", "-file-mode", "0444"),
            f"--modification-date={moment}",
            *("--set_all_file_dates", "set_to_mtime"),
            *("-o", str(image), str(folder)),
        ),
        cwd=folder,
        env={"SOURCE_DATE_EPOCH": str(epoch)},
    )


def set_times(folder: Path, epoch: int) -> None:
    """Give every file and folder below `folder` the time `epoch`."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            os.utime(Path(parent, name), (epoch, epoch), follow_symlinks=False)
        os.utime(parent, (epoch, epoch))

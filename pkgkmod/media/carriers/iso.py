"""ISO images that are the same wherever and whenever they are made."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pkgkmod.command import Command
from pkgkmod.media.carriers.tree import Run, read_tree, run_checked


def iso_command(folder: Path, image: Path, *, label: str, epoch: int, weights: Path) -> Command:
    """Describe the xorriso call that makes `image` of `folder`, with contents in the order of the file `weights`.

    Rock Ridge and Joliet, files 0444, folders 0555, owner 0, all times `epoch` (seconds since 1970).
    """
    moment = datetime.fromtimestamp(epoch, UTC).strftime("%Y%m%d%H%M%S00")
    return Command(
        (
            *("xorriso", "-no_rc", "-as", "mkisofs", "-quiet"),
            *("-V", label, "-r", "-J", "-joliet-long", "-iso-level", "3"),
            *("-uid", "0", "-gid", "0", "-dir-mode", "0555", "-file-mode", "0444"),
            f"--modification-date={moment}",
            *("--set_all_file_dates", f"={epoch}"),
            *("--sort-weight-list", str(weights)),
            *("-o", str(image), str(folder)),
        ),
        cwd=weights.parent,
        env={"SOURCE_DATE_EPOCH": str(epoch)},
    )


def write_iso(folder: Path, image: Path, *, label: str, epoch: int, scratch: Path, run: Run) -> None:
    """Make an ISO image of a folder. Raise InputError for files that it cannot hold, PackageError if xorriso fails."""
    weights = scratch / "weights"
    weights.write_text(sort_weights(folder), encoding="utf-8")
    run_checked(run, iso_command(folder, image, label=label, epoch=epoch, weights=weights))


def sort_weights(folder: Path) -> str:
    """Return xorriso's list of weights, by which the contents of files come in the order of their paths.

    libisofs keeps files by their inodes, which depend on the file system that they lie on. xorriso 1.5.4 writes them by
    their paths nonetheless, but nothing says that all versions do.
    """
    files = [path for path in read_tree(folder) if not (folder / path).is_symlink() and (folder / path).is_file()]
    # The heaviest comes first.
    return "".join(f"{len(files) - number} /{path}\n" for number, path in enumerate(files))

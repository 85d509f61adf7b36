"""Finished results of all projects of a user, by fingerprint: nothing is built twice.

    results/STAGE/FINGERPRINT/   a copy of a workspace's result

A fingerprint covers all that shapes a result, so one that was made elsewhere is as good as a new one. It is
checked against its digests whenever it is taken.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.cachefolder import cache_folder
from pkgkmod.workspace import RESULT_FILE, OutputFile, Result, Workspace


def _folder() -> Path:
    return cache_folder() / "results"


def finished_before(stage: str, fingerprint: str) -> Result | None:
    """Return the result with this fingerprint, if any project made it and it is still whole."""
    found = Workspace.read(_folder() / stage / fingerprint)
    if found is None or found.fingerprint != fingerprint or found.state != "ok":
        return None
    return found


def take(found: Result, workspace: Workspace, key: tuple[str, str, str]) -> Result | None:
    """Copy a result into a workspace, as its own; return None if it turns out to be damaged."""
    with workspace.draft() as draft:
        try:
            shutil.copytree(found.folder, draft.folder, symlinks=True, dirs_exist_ok=True)
            os.utime(found.folder / RESULT_FILE)
        except (OSError, shutil.Error):
            return None
        known = {output.path: output.sha256 for output in found.outputs}
        if any(not _equals(draft.folder, path, sha256) for path, sha256 in known.items()):
            shutil.rmtree(found.folder, ignore_errors=True)
            return None
        return workspace.adopt(draft, found, key)


def _equals(folder: Path, path: str, sha256: str) -> bool:
    file = folder / os.fsdecode(path.encode("utf-8"))
    return os.path.lexists(file) and OutputFile.of(folder, file).sha256 == sha256


def remember(result: Result) -> None:
    """Keep a copy of a finished result for other workspaces; a full disk does not matter."""
    place = _folder() / result.stage / result.fingerprint
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=place.parent, prefix=".new-"))
    try:
        shutil.copytree(result.folder, aside, symlinks=True, dirs_exist_ok=True)
        aside.chmod(0o755)
        aside.rename(place)
    except (OSError, shutil.Error):
        shutil.rmtree(aside, ignore_errors=True)


@dataclass(frozen=True)
class Kept:
    """A result that is kept, its size in bytes, and when it was last used (seconds since 1970)."""

    folder: Path
    bytes: int
    used: float


def kept_results() -> list[Kept]:
    """Return all that is kept, the one that was used longest ago first."""
    found = []
    for file in _folder().glob(f"*/*/{RESULT_FILE}"):
        with contextlib.suppress(OSError):
            size = sum(path.lstat().st_size for path in file.parent.rglob("*"))
            found.append(Kept(file.parent, size, file.stat().st_mtime))
    return sorted(found, key=lambda kept: kept.used)


def prune(*, unused_for: float, dry_run: bool = False) -> list[Kept]:
    """Remove what nobody used for `unused_for` seconds; return what is (or would be) removed."""
    before = time.time() - unused_for
    doomed = [kept for kept in kept_results() if kept.used <= before]
    if not dry_run:
        for kept in doomed:
            shutil.rmtree(kept.folder, ignore_errors=True)
        for leftover in _folder().glob("*/.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
    return doomed

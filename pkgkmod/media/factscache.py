"""What package files said when they were read before, by the digest of their content.

    packages/SHA256.json   {"reader": VERSION, "facts": ...}

An entry of another reader, or one that is damaged, counts as none. Entries that were not used for 90 days go away, and
so do those used longest ago of more than 5000, whenever one is written on another day than the last time.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from pathlib import Path

from pydantic import ValidationError

from pkgkmod.cachefolder import cache_folder
from pkgkmod.model.disk import PackageFacts

READER = 2
"""Raised whenever the same file would be read as something else."""

_DAY = 24 * 60 * 60
_UNUSED = 90 * _DAY
_MOST = 5000
_LARGEST = 1 << 20
"""Bytes of an entry; a package of 100 modules has some 100 KiB. Larger ones are not kept."""
_SWEPT = ".swept"
"""Its time is that of the last removal."""


def recall(sha256: str) -> PackageFacts | None:
    """Return what is known of a file with this digest; None if it was not read before."""
    file = _entry(sha256)
    try:
        status = file.stat()
        if status.st_size > _LARGEST:
            return None
        entry = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(entry, dict) or entry.get("reader") != READER or entry.get("sha256") != sha256:
            return None
        facts = PackageFacts.model_validate(entry.get("facts"))
    except (OSError, ValueError, RecursionError, ValidationError):
        return None
    if time.time() - status.st_mtime > _DAY:
        with contextlib.suppress(OSError):
            os.utime(file)
    return facts


def remember(sha256: str, facts: PackageFacts) -> None:
    """Keep what was read; a folder that cannot be written does not matter."""
    entry = {"reader": READER, "sha256": sha256, "facts": facts.model_dump(mode="json")}
    content = json.dumps(entry, sort_keys=True).encode()
    if len(content) > _LARGEST:
        return
    file = _entry(sha256)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        _sweep(file.parent)
        descriptor, aside = tempfile.mkstemp(dir=file.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as output:
                output.write(content)
            Path(aside).rename(file)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise


def _entry(sha256: str) -> Path:
    return cache_folder() / "packages" / f"{sha256}.json"


def _sweep(folder: Path) -> None:
    """Remove what nobody uses, once a day."""
    mark, now = folder / _SWEPT, time.time()
    if mark.exists() and abs(now - mark.stat().st_mtime) < _DAY:
        return
    mark.touch()
    used: list[tuple[float, Path]] = []
    for file in (*folder.glob("*.json"), *folder.glob(".new-*")):
        with contextlib.suppress(FileNotFoundError):
            used.append((file.stat().st_mtime, file))
    used.sort(reverse=True)
    for place, (when, file) in enumerate(used):
        is_leftover = file.name.startswith(".new-") and now - when > _DAY
        if place >= _MOST or now - when > _UNUSED or is_leftover:
            file.unlink(missing_ok=True)

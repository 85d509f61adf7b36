"""The folder that keeps what can be fetched or made again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pkgkmod.errors import InputError

_NOWHERE = Path("/nonexistent")
"""Home of the accounts that have none; a tool may have made such a folder by mistake."""


def cache_folder() -> Path:
    """Return pkgkmod's folder below the user's cache (XDG base directories); it may be removed at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "pkgkmod"


def _home() -> Path:
    """Return the user's home; where there is none, as in build roots, a folder for temporary files."""
    try:
        home = Path.home()
        if home != _NOWHERE and os.access(home, os.W_OK):
            return home
    except RuntimeError:  # no HOME, and no entry in passwd
        pass
    place = Path(tempfile.gettempdir(), f"pkgkmod-home-{os.getuid()}")
    place.mkdir(mode=0o700, exist_ok=True)
    if place.is_symlink() or place.stat().st_uid != os.getuid():
        raise InputError(
            f"{place} belongs to somebody else", hint="remove it, or set XDG_CACHE_HOME to a folder of your own"
        )
    return place

"""Changes of the kernel on which drivers break, by the compiler's error."""

from __future__ import annotations

import functools
import re
import tomllib
from importlib.resources import files

from pkgkmod import data


@functools.cache
def _changes() -> tuple[tuple[re.Pattern[str], str], ...]:
    text = files(data).joinpath("kernelchanges.toml").read_text(encoding="utf-8")
    entries = tomllib.loads(text)["change"]
    return tuple((re.compile(entry["error"]), f"since Linux {entry['since']}, {entry['text']}") for entry in entries)


def known_change(error: str) -> str:
    """Return which change of the kernel is behind a compiler's error, in words; empty if it is not known."""
    # Compilers quote as the locale says; ours is C.UTF-8, with U+2018 and U+2019.
    plain = re.sub("[\u2018\u2019]", "'", error)
    return next((text for pattern, text in _changes() if pattern.search(plain)), "")

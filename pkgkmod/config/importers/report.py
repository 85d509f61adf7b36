"""What became of each value of another tool's project: nothing is dropped without a word."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pkgkmod.config.mistakes import printable

Outcome = Literal["carried", "changed", "decide", "left out"]
"""It is in the project file; in another form than it was; the packager has to choose; it has no place there."""

_LONGEST = 160  # characters of a value that are shown
_WIDTH = 100  # columns of the comments in a project file


@dataclass(frozen=True)
class Entry:
    """One value, and what became of it."""

    key: str
    """As the other tool calls it, or the path of a file."""
    value: str
    outcome: Outcome
    text: str
    """The key it was carried to, or why it was not."""
    place: str = ""
    """File and line, as far as there are any."""

    @property
    def shown(self) -> str:
        """The value on one line, cut if it is long."""
        value = printable(self.value)
        return value if len(value) <= _LONGEST else value[: _LONGEST - 1] + "…"

    @property
    def needs_a_look(self) -> bool:
        """Tell whether the project file does not say the same."""
        return self.outcome != "carried"


def comments(entries: Sequence[Entry], source: str) -> str:
    """Return what was not carried as it was, as comments for the end of a project file; empty if all was."""
    listed = [entry for entry in entries if entry.needs_a_look]
    if not listed:
        return ""
    lines = ["", f"# What {printable(source)} says, and this file does not, or not in the same words:"]
    for entry in listed:
        said = f" = {entry.shown}" if entry.value else ""
        lines += textwrap.wrap(
            f"{entry.outcome}: {printable(entry.key)}{said}: {printable(entry.text)}",
            _WIDTH,
            initial_indent="# - ",
            subsequent_indent="#   ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    return "\n".join(lines) + "\n"

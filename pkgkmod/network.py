"""Whether this process may use the network; `--offline` forbids it."""

from __future__ import annotations

_allowed = True

HINT = "leave --offline out to ask for it"


def stay_offline() -> None:
    """Let nothing more be asked for over the network by this process; folders (file://) may be read."""
    global _allowed
    _allowed = False


def is_offline() -> bool:
    """Tell whether `stay_offline` was called."""
    return not _allowed

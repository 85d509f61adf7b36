"""The rpm library: the only import of `rpm`."""

from __future__ import annotations

import functools
import tempfile
import threading
from typing import IO, Any

from pkgkmod.errors import ToolError

_LOCK = threading.Lock()


def load() -> tuple[Any, IO[str]]:
    """Return the library, and the file that gets its messages, which would go to standard error otherwise.

    One thread loads it, and others wait: in a virtual environment, the module named rpm replaces itself with the
    system's while it is imported, and a second thread would get what is there by then.
    """
    with _LOCK:
        return _loaded()


@functools.cache
def _loaded() -> tuple[Any, IO[str]]:
    try:
        import rpm
    except ImportError as error:
        raise ToolError(
            "the Python bindings of rpm are not installed",
            details=str(error),
            hint="install the distribution's package python3-rpm",
        ) from None
    messages = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (stays open)
    rpm.setLogFile(messages)
    return rpm, messages

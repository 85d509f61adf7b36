"""What failed, with the first error in its log."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pkgkmod.data.kernelchanges import known_change
from pkgkmod.modules.compile import first_error
from pkgkmod.reports.facts import Failure
from pkgkmod.workspace import LOG_FILE, Result

_LOG_LIMIT = 8 * 1024 * 1024  # bytes that are read of a log
_BEFORE, _BEHIND = 3, 8  # lines of a log that are shown around its first error
_LAST = 12  # lines that are shown of a log without an error that is known as one
# Where a build runs; the log's reader has no such folder.
_SCRATCH = re.compile(r"/[^\s:'\"=]*?/pkgkmod-\d+-[0-9a-f]{12}/[^/\s]+/")
_BUILD = re.compile(r"(?:/tmp/pkgkmod-build/|build/)build/[^/\s:]+/")


def failures_of(results: Iterable[Result], base: Path) -> tuple[Failure, ...]:
    """Return the results that failed; `base` is the project's folder."""
    return tuple(_failure(result, base) for result in results if result.state == "failed")


def _failure(result: Result, base: Path) -> Failure:
    log = result.folder / LOG_FILE
    lines = _lines(log)
    error = first_error(lines)
    return Failure(
        stage=result.stage,
        target=result.target,
        kernel=result.kernel,
        reason=result.reason,
        error=error,
        change=known_change(error),
        excerpt=tuple(_around(lines, error)),
        log=str(log.relative_to(base)) if lines and log.is_relative_to(base) else "",
    )


def _lines(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            text = file.read(_LOG_LIMIT).decode("utf-8", "replace")
    except OSError:
        return []
    return [_BUILD.sub("", _SCRATCH.sub("", line)) for line in text.splitlines()]


def _around(lines: Sequence[str], error: str) -> Sequence[str]:
    if not error:
        return lines[-_LAST:]
    place = next((number for number, line in enumerate(lines) if line.rstrip() == error), 0)
    return lines[max(place - _BEFORE, 0) : place + _BEHIND]

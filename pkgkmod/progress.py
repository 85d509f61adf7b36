"""What is happening, told to a person at a terminal, to a log, or to a program.

The rest of the code reports events here and never prints. Three speakers share one small interface:
`Plain` writes lines, `Live` adds what moves at the bottom of a terminal, `JsonLines` writes one object a line.
Steps run side by side, so every speaker may be called from any thread.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console


def escape_controls(text: str, *, keep: str = "\n\t") -> str:
    """Return `text` with control characters made visible, but for `keep`: names from git must not drive a terminal."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def human_size(size: int) -> str:
    """Return a size in bytes as people write it: 157 KiB."""
    amount, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"


class Progress:
    """Base of all speakers, and the one that says nothing."""

    verbose = False
    _warned: frozenset[str] = frozenset()

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Announce a step; report its end with the time it took, or that it failed."""
        started = time.monotonic()
        self.started(text)
        try:
            yield
        except Exception:
            self.finished(text, time.monotonic() - started, ok=False)
            raise
        except BaseException:  # Ctrl-C: it did not fail
            self.abandoned(text)
            raise
        self.finished(text, time.monotonic() - started, ok=True)

    def started(self, text: str) -> None:
        """A step begins."""

    def finished(self, text: str, seconds: float, *, ok: bool) -> None:
        """A step ended after `seconds`."""

    def abandoned(self, text: str) -> None:
        """A step was stopped from outside."""

    def info(self, text: str) -> None:
        """Something worth a line."""

    def warning(self, text: str) -> None:
        """Something that should be looked at."""

    def warn_once(self, text: str) -> None:
        """Something that should be looked at, and that many steps would say."""
        if text not in self._warned:
            self._warned |= {text}
            self.warning(text)

    def amount(self, done: int, total: int) -> None:
        """The present step has done `done` of `total`."""

    def matrix(self, cells: Sequence[tuple[str, str]]) -> None:
        """The run that begins will settle these cells of a table: what each is about, and the stage."""

    def cell(self, cell: tuple[str, str], state: str) -> None:
        """A cell is running, done, skipped, kept, reused, failed or excluded."""

    def command(self, argv: Sequence[str], log: Path | None) -> None:
        """A program is started; shown when verbose."""

    def output(self, line: str) -> None:
        """A line that a program wrote; shown when very verbose."""

    def event(self, kind: str, **facts: Any) -> None:
        """Something for programs only."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Plain(Progress):
    """One line an event, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None, *, verbosity: int = 0, quiet: bool = False) -> None:
        self.stream = stream or sys.stderr
        self.verbosity = verbosity
        self.verbose = verbosity > 0
        self.quiet = quiet
        self._lock = RLock()

    def write(self, text: str) -> None:
        """Write one line."""
        with self._lock:
            self.stream.write(escape_controls(text) + "\n")
            self.stream.flush()

    def started(self, text: str) -> None:
        """A step begins."""
        if not self.quiet:
            self.write(f"... {text}")

    def finished(self, text: str, seconds: float, *, ok: bool) -> None:
        """A step ended."""
        if not self.quiet or not ok:
            self.write(f"{'ok ' if ok else 'FAILED'} {text} ({seconds:.1f} s)")

    def info(self, text: str) -> None:
        """Something worth a line."""
        if not self.quiet:
            self.write(text)

    def warning(self, text: str) -> None:
        """Something that should be looked at."""
        self.write(f"warning: {text}")

    def command(self, argv: Sequence[str], log: Path | None) -> None:
        """Show a program's command line with -v."""
        if self.verbosity >= 1:
            self.write(f"+ {shlex.join(argv)}" + (f"  (log: {log})" if log else ""))

    def output(self, line: str) -> None:
        """Show a program's output with -vv."""
        if self.verbosity >= 2:
            self.write(f"| {line}")


class Live(Plain):
    """Lines with colours; below them a table of what runs for many kernels, or a moving line about the present step."""

    def __init__(self, *, verbosity: int = 0, quiet: bool = False, console: Console | None = None) -> None:
        super().__init__(verbosity=verbosity, quiet=quiet)
        from rich.text import Text

        from pkgkmod.terminal import Screen

        self._screen = Screen(console)
        self._make_text = Text

    def write(self, text: str) -> None:
        """Write one line above what moves."""
        self._say("", text)

    def _say(self, mark: str, text: str, *, style: str = "", more: str = "") -> None:
        line = self._make_text(mark, style=style)
        self._screen.say(self._make_text.assemble(line, escape_controls(text), (more, "dim")))

    def started(self, text: str) -> None:
        """A step begins: it moves into the last line."""
        if not self.quiet:
            self._screen.begin(escape_controls(text, keep=""))

    def finished(self, text: str, seconds: float, *, ok: bool) -> None:
        """A step ended: it becomes a line of its own, unless the table tells it."""
        self._screen.end(escape_controls(text, keep=""))
        if not self._screen.has_table and (not self.quiet or not ok):
            mark, style = ("✓ ", "green") if ok else ("✗ ", "red")
            self._say(mark, text, style=style, more=f" {seconds:.1f} s")

    def abandoned(self, text: str) -> None:
        """A step was stopped from outside: no line says that it failed."""
        self._screen.end(escape_controls(text, keep=""))

    def warning(self, text: str) -> None:
        """Something that should be looked at, in yellow."""
        self._say("warning: ", text, style="yellow")

    def amount(self, done: int, total: int) -> None:
        """Show how far the present step is."""
        self._screen.amount(f" ({done} of {total})")

    def matrix(self, cells: Sequence[tuple[str, str]]) -> None:
        """Make ready a table, if there is more than one kernel or target in it."""
        if not self.quiet:
            self._screen.announce(
                [(escape_controls(row, keep=""), escape_controls(stage, keep="")) for row, stage in cells]
            )

    def cell(self, cell: tuple[str, str], state: str) -> None:
        """Change a cell of the table."""
        row, stage = cell
        self._screen.settle(escape_controls(row, keep=""), escape_controls(stage, keep=""), state)

    def event(self, kind: str, **facts: Any) -> None:
        """Say why a step failed, where the table has only room for a mark."""
        if kind == "failed" and self._screen.has_table:
            where = "/".join(facts[key] for key in ("target", "kernel") if facts[key] != "_")
            self._say("✗ ", f"{facts['stage']} {where}".rstrip() + f": {facts['reason']}", style="red")

    def close(self) -> None:
        """Leave the table as it is in the end, or take the moving line away, and show the cursor."""
        self._screen.close()


class JsonLines(Progress):
    """One JSON object a line, on standard output; the keys are in docs/reference/json-lines.md."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.verbose = True
        self._lock = RLock()

    def event(self, kind: str, **facts: Any) -> None:
        """Write one object."""
        line = json.dumps({"event": kind, **facts}, default=str) + "\n"
        with self._lock:
            self.stream.write(line)
            self.stream.flush()

    def started(self, text: str) -> None:
        """A step begins."""
        self.event("step-started", step=text)

    def finished(self, text: str, seconds: float, *, ok: bool) -> None:
        """A step ended."""
        self.event("step-finished", step=text, seconds=round(seconds, 3), ok=ok)

    def info(self, text: str) -> None:
        """Something worth a line."""
        self.event("info", text=text)

    def warning(self, text: str) -> None:
        """Something that should be looked at."""
        self.event("warning", text=text)

    def amount(self, done: int, total: int) -> None:
        """The present step has done `done` of `total`."""
        self.event("amount", done=done, total=total)

    def matrix(self, cells: Sequence[tuple[str, str]]) -> None:
        """The run that begins will settle these cells."""
        self.event("matrix", cells=len(cells))

    def cell(self, cell: tuple[str, str], state: str) -> None:
        """A cell is running, or settled."""
        self.event("cell", row=cell[0], stage=cell[1], state=state)

    def command(self, argv: Sequence[str], log: Path | None) -> None:
        """A program is started."""
        self.event("command", argv=list(argv), log=log)


def open_progress(*, json_lines: bool, verbosity: int, quiet: bool) -> Progress:
    """Return the speaker that suits where standard error goes."""
    if json_lines:
        return JsonLines()
    if not verbosity and _can_draw(sys.stderr):
        return Live(quiet=quiet)
    return Plain(verbosity=verbosity, quiet=quiet)


def _can_draw(stream: TextIO) -> bool:
    """Tell whether something may move there: on a terminal that knows how to, and has the characters."""
    able = os.environ.get("TERM") not in ("dumb", "unknown") and "utf" in (stream.encoding or "").lower()
    return stream.isatty() and able

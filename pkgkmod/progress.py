"""What is happening, told to a person at a terminal, to a log, or to a program.

The rest of the code reports events here and never prints. Three speakers share one small interface:
`Plain` writes lines, `Live` adds a line that moves on a terminal, `JsonLines` writes one object a line.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


def escape_controls(text: str) -> str:
    """Return `text` with control characters made visible: names from git must not drive a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


class Progress:
    """Base of all speakers, and the one that says nothing."""

    verbose = False

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Announce a step; report its end with the time it took, or that it failed."""
        started = time.monotonic()
        self.started(text)
        try:
            yield
        except BaseException:
            self.finished(text, time.monotonic() - started, ok=False)
            raise
        self.finished(text, time.monotonic() - started, ok=True)

    def started(self, text: str) -> None:
        """A step begins."""

    def finished(self, text: str, seconds: float, *, ok: bool) -> None:
        """A step ended after `seconds`."""

    def info(self, text: str) -> None:
        """Something worth a line."""

    def warning(self, text: str) -> None:
        """Something that should be looked at."""

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

    def write(self, text: str) -> None:
        """Write one line."""
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
    """Lines with colours, and a moving last line that says what is going on."""

    def __init__(self, *, verbosity: int = 0, quiet: bool = False) -> None:
        super().__init__(verbosity=verbosity, quiet=quiet)
        from rich.console import Console
        from rich.markup import escape
        from rich.status import Status

        self._console = Console(stderr=True, highlight=False, soft_wrap=False)
        self._escape = escape
        self._make_status = Status
        self._status: Status | None = None
        self._texts: list[str] = []

    def write(self, text: str) -> None:
        """Write one line above the moving one."""
        self._console.print(self._escape(escape_controls(text)))

    def _show(self, extra: str = "") -> None:
        if not self._texts:
            self.close()
            return
        width = max(self._console.width - 4, 20)
        text = escape_controls(self._texts[-1] + extra)
        text = self._escape(text if len(text) <= width else text[: width - 1] + "…")
        if self._status is None:
            self._status = self._make_status(text, console=self._console, spinner="dots")
            self._status.start()
        else:
            self._status.update(text)

    def started(self, text: str) -> None:
        """A step begins: it moves into the last line."""
        if not self.quiet:
            self._texts.append(text)
            self._show()

    def finished(self, text: str, seconds: float, *, ok: bool) -> None:
        """A step ended: it becomes a line of its own."""
        if text in self._texts:
            self._texts.remove(text)
        self._show()
        if not self.quiet or not ok:
            mark = "[green]✓[/green]" if ok else "[red]✗[/red]"
            self._console.print(f"{mark} {self._escape(escape_controls(text))} [dim]{seconds:.1f} s[/dim]")

    def warning(self, text: str) -> None:
        """Something that should be looked at, in yellow."""
        self._console.print(f"[yellow]warning:[/yellow] {self._escape(escape_controls(text))}")

    def amount(self, done: int, total: int) -> None:
        """Show how far the present step is."""
        if not self.quiet:
            self._show(f" ({done} of {total})")

    def close(self) -> None:
        """Take the moving line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None


class JsonLines(Progress):
    """One JSON object a line, on standard output; the keys are in docs/reference/json-lines.md."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.verbose = True

    def event(self, kind: str, **facts: Any) -> None:
        """Write one object."""
        self.stream.write(json.dumps({"event": kind, **facts}, default=str) + "\n")
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

    def command(self, argv: Sequence[str], log: Path | None) -> None:
        """A program is started."""
        self.event("command", argv=list(argv), log=log)


def open_progress(*, json_lines: bool, verbosity: int, quiet: bool) -> Progress:
    """Return the speaker that suits where standard error goes."""
    if json_lines:
        return JsonLines()
    if sys.stderr.isatty() and not verbosity:
        return Live(quiet=quiet)
    return Plain(verbosity=verbosity, quiet=quiet)

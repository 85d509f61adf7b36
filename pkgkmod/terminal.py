"""What moves at the bottom of a terminal: the table of a run, or one line about the present step.

All text that comes in here has no control characters any more. It is never read as markup.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Condition, Thread, get_ident

from rich.console import Console
from rich.live import Live as Area
from rich.text import Text

from pkgkmod.livetable import Board, shortened

_FRAME = 0.125
_TABLE_FRAME = 0.2
"""Seconds from one look at what has changed to the next; a line is cheap, a table costs 3 ms of CPU time."""
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


@dataclass(eq=False)
class _Step:
    text: str
    thread: int
    amount: str = ""


class Screen:
    """A terminal: lines that stay, and below them what moves. All methods may be called from any thread."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._lock = Condition()
        self._area: Area | None = None
        self._ticker: Thread | None = None
        self._board: Board | None = None
        self._steps: list[_Step] = []
        self._drawn_second = -1

    @property
    def has_table(self) -> bool:
        """Tell whether the table is on the screen."""
        return self._board is not None and self._board.has_begun

    def say(self, text: Text) -> None:
        """Write a line above what moves."""
        with self._lock:
            self.console.print(text)

    def announce(self, cells: Sequence[tuple[str, str]]) -> None:
        """Make ready a table of these rows and stages; it is shown once something runs."""
        with self._lock:
            self._leave_table()
            board = Board(cells)
            self._board = board if board.is_worthwhile and self.console.is_terminal else None

    def settle(self, row: str, stage: str, state: str) -> None:
        """Change a place in the table."""
        with self._lock:
            if self._board:
                if not self.has_table and state == "running":
                    self._take_away()
                self._board.take(row, stage, state)
                self._changed()

    def begin(self, text: str) -> None:
        """A step begins in this thread."""
        with self._lock:
            self._steps.append(_Step(text, get_ident()))
            self._changed()

    def end(self, text: str) -> None:
        """A step of this thread ended."""
        with self._lock:
            for step in reversed(self._steps):
                if step.text == text and step.thread == get_ident():
                    self._steps.remove(step)
                    break
            self._changed()

    def amount(self, text: str) -> None:
        """Show how far this thread's step is."""
        with self._lock:
            own = [step for step in self._steps if step.thread == get_ident()] or self._steps
            if own:
                own[-1].amount = text
                self._changed()

    def close(self) -> None:
        """Leave the table in its last state, take the line away, and show the cursor; may be called again."""
        with self._lock:
            self._steps.clear()
            self._leave_table()
            self._take_away()
            self._lock.notify_all()

    def _is_busy(self) -> bool:
        return self._board.is_running if self._board and self._board.has_begun else bool(self._steps)

    def _changed(self) -> None:
        """Have it drawn soon: by a thread that lives while something runs."""
        self._drawn_second = -1
        if not self._is_busy():
            if not self.has_table:
                self._take_away()
            return
        if not self.console.is_terminal:
            return
        if self._area is None:
            # Nobody else writes to the terminal; what goes to standard output is not for it.
            self._area = Area(
                console=self.console,
                auto_refresh=False,
                get_renderable=self._render,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            atexit.register(self.close)
            self._area.start()
        if self._ticker is None:
            self._ticker = Thread(target=self._tick, name="terminal", daemon=True)
            self._ticker.start()

    def _tick(self) -> None:
        with self._lock:
            try:
                while self._is_busy():
                    # Only the line has something that turns; the table changes with events, and each second.
                    second = int(time.monotonic())
                    if not self.has_table or second != self._drawn_second:
                        self._drawn_second = second
                        self._draw()
                    self._lock.wait(_TABLE_FRAME if self.has_table else _FRAME)
                self._draw()
            except OSError:
                pass  # the terminal is gone; who writes next notices
            finally:
                self._ticker = None

    def _draw(self) -> None:
        if self._area:
            self._area.refresh()

    def _render(self) -> Text:
        width, height = self.console.size
        if self._board and self._board.has_begun:
            lines = self._board.lines(width, height)
            lines[-1].append(self._detail(width - 1 - lines[-1].cell_len), style="dim")
        else:
            lines = [self._line()]
        for line in lines:
            line.truncate(width - 1, overflow="ellipsis")
        return Text("\n", no_wrap=True, overflow="crop").join(lines)

    def _line(self) -> Text:
        if not self._steps:
            return Text()
        step = self._steps[-1]
        others = len({other.thread for other in self._steps} - {step.thread})
        more = f" and {others} more" if others else ""
        frame = _SPINNER[int(time.monotonic() / _FRAME) % len(_SPINNER)]
        width = max(self.console.width - 4 - len(step.amount + more), 20)
        return Text(frame, style="green").append(f" {shortened(step.text, width)}{step.amount}{more}", "default")

    def _detail(self, width: int) -> str:
        """Return what is done inside a step of the table, if that is told and there is room."""
        outer: set[int] = set()
        inner = []
        for step in self._steps:
            if step.thread in outer:
                inner.append(step)
            outer.add(step.thread)
        room = width - 2 - len(inner[-1].amount) if inner else 0
        return f"  {shortened(inner[-1].text, room)}{inner[-1].amount}" if room >= 20 else ""

    def _leave_table(self) -> None:
        board = self._board
        if board and board.has_begun and self._area:
            board.stop()
            self._take_away(transient=False)
        self._board = None

    def _take_away(self, *, transient: bool = True) -> None:
        if self._area is None:
            return
        try:
            self._area.transient = transient
            self._area.stop()
        finally:
            self._area = None
            self.console.show_cursor(True)
            atexit.unregister(self.close)

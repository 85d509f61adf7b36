"""The table of a run: what has become of each kernel in each stage, in as many lines as there is room for.

All text that comes in here has no control characters any more. It is never read as markup.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size
from rich.text import Text

_PREFIXES = ("prepare_", "build_", "generate_")
_PROJECT_ROW = "all"
_GAP = 2
_MARKS = {
    "waiting": ("·", "dim"),
    "running": ("", "cyan"),
    "done": ("✓", "green"),
    "reused": ("=", "green dim"),
    "skipped": ("=", "dim"),
    "kept": ("✎", "yellow"),
    "excluded": ("-", "dim"),
    "stopped": ("■", "yellow"),
    "failed": ("✗", "bold red"),
}
_WORST_FIRST = ("failed", "stopped", "excluded", "kept", "done", "reused", "skipped")
_IMPORTANCE = {"running": 0, "failed": 1}
_ROW_WORDS = {"skipped": "unchanged", "reused": "from the cache", "excluded": "left out", "kept": "edited by hand"}


def short_time(seconds: float) -> str:
    """Return a duration in at most four characters: 42s, 4:07, 12m, 2h."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 600:
        return f"{whole // 60}:{whole % 60:02}"
    return f"{whole // 60}m" if whole < 6000 else f"{whole // 3600}h"


def clock_time(seconds: float) -> str:
    """Return a duration as 0:42 or 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def shortened(text: str, width: int) -> str:
    """Return `text` in at most `width` columns; kernels differ in both ends of their names, so the middle goes."""
    if cell_len(text) <= width:
        return text
    if width < 8:
        return set_cell_size(text, width)
    tail = text[-(width // 3) :]
    return set_cell_size(f"{set_cell_size(text, width - 1 - cell_len(tail)).rstrip()}…{tail}", width).rstrip()


@dataclass
class _Cell:
    """The steps that share a place in the table: most often one."""

    total: int = 0
    running: int = 0
    since: float = 0.0
    ended: Counter[str] = field(default_factory=Counter)

    @property
    def settled(self) -> int:
        return self.ended.total()

    @property
    def state(self) -> str:
        if self.running:
            return "running"
        if self.settled < self.total and not self.ended["failed"]:
            return "waiting"
        return next(state for state in _WORST_FIRST if self.ended[state])

    def take(self, state: str, now: float) -> None:
        if state == "running":
            self.since = self.since if self.running else now
            self.running = min(self.running + 1, self.total - self.settled)
            return
        if self.settled < self.total:
            self.ended[state if state in _MARKS else "done"] += 1
        if state in ("done", "failed"):  # the others are settled without running
            self.running -= 1
        self.running = max(min(self.running, self.total - self.settled), 0)

    def stop(self) -> None:
        """Nothing runs any more."""
        self.ended["stopped"] += self.running
        self.running = 0

    def text(self, now: float) -> tuple[str, str]:
        """Return what is shown, and its style."""
        state = self.state
        mark, style = _MARKS[state]
        if state == "running":
            mark = short_time(now - self.since)
            style = _MARKS["failed"][1] if self.ended["failed"] else style
        if state == "failed" and self.total > 1:
            return f"{mark} {self.ended['failed']}/{self.total}", style
        if self.total > 1 and self.settled + self.running > 0 and self.settled < self.total:
            return f"{mark if state == 'running' else ''} {self.settled}/{self.total}".strip(), style
        return mark, style


@dataclass(eq=False)
class _Row:
    index: int
    label: str
    cells: dict[str, _Cell] = field(default_factory=dict)

    @property
    def state(self) -> str:
        states = {cell.state for cell in self.cells.values()}
        order = ("running", "failed", "stopped", "waiting", "kept", "done", "reused", "excluded", "skipped")
        return next(state for state in order if state in states)


class Board:
    """The table of a run: a row for each kernel or target, a column for each stage."""

    def __init__(self, cells: Sequence[tuple[str, str]], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stages = list(dict.fromkeys(stage for _, stage in cells))
        names = list(dict.fromkeys(row for row, _ in cells))
        self._rows = {name: _Row(index, name or _PROJECT_ROW) for index, name in enumerate(names)}
        for row, stage in cells:
            self._rows[row].cells.setdefault(stage, _Cell()).total += 1
        self._steps = len(cells)
        self._started: float | None = None
        self._shown: set[_Row] = set()
        self._over = False
        self._heads = _headings(self._stages)
        self._widths = [self._width(stage, head) for stage, head in zip(self._stages, self._heads, strict=True)]

    @property
    def is_worthwhile(self) -> bool:
        """Tell whether a stage has more than one row; otherwise a table says no more than a line."""
        return any(sum(stage in row.cells for row in self._rows.values()) > 1 for stage in self._stages)

    @property
    def has_begun(self) -> bool:
        """Tell whether anything ran."""
        return self._started is not None

    @property
    def is_running(self) -> bool:
        """Tell whether anything runs now."""
        return any(cell.running for cell in self._all_cells())

    def take(self, row: str, stage: str, state: str) -> None:
        """Note what became of a step; steps that were not announced have no place."""
        cell = self._rows[row].cells.get(stage) if row in self._rows else None
        if cell:
            now = self._clock()
            if state == "running" and self._started is None:
                self._started = now
            cell.take(state, now)

    def stop(self) -> None:
        """The run is over: what still runs was stopped, and what is unchanged needs no line."""
        self._over = True
        for cell in self._all_cells():
            cell.stop()

    def lines(self, width: int, height: int) -> list[Text]:
        """Return the table for a terminal of this size."""
        now = self._clock()
        rows, others = self._chosen(max(height - 5, 3))
        gap, label, widths = self._layout(width - 1)
        head = Text(" " * label, style="bold")
        for name, size in zip(self._heads, widths, strict=True):
            head.append(" " * gap + set_cell_size(name, size))
        lines = [head]
        for row in rows:
            state = row.state
            style = {"failed": "red", "running": ""}.get(state, "" if state == "kept" else "dim")
            line = Text().append(set_cell_size(shortened(row.label, label), label), style)
            for stage, size in zip(self._stages, widths, strict=True):
                text, style = row.cells[stage].text(now) if stage in row.cells else ("", "")
                line.append(" " * gap).append(set_cell_size(text, size), style)
            lines.append(line)
        if others:
            states = Counter(_ROW_WORDS.get(row.state, row.state) for row in others)
            what = (
                ", ".join(f"{count} {word}" for word, count in states.items())
                if len(states) > 1
                else next(iter(states))
            )
            lines.append(Text(f"… {len(others)} more: {what}", style="dim"))
        lines.append(self._totals(now))
        for line in lines:
            line.rstrip()
        return lines

    def _totals(self, now: float) -> Text:
        ended: Counter[str] = Counter()
        running = 0
        for cell in self._all_cells():
            ended.update(cell.ended)
            running += cell.running
        text = Text(f"{ended.total() - ended['stopped']} of {self._steps} steps")
        for count, word, style in (
            (running, "running", "cyan"),
            (ended["failed"], "failed", "bold red"),
            (ended["stopped"], "stopped", "yellow"),
        ):
            if count:
                text.append(", ").append(f"{count} {word}", style)
        return text.append(f", {clock_time(now - (self._started or now))}")

    def _all_cells(self) -> Iterable[_Cell]:
        return (cell for row in self._rows.values() for cell in row.cells.values())

    def _width(self, stage: str, head: str) -> int:
        most = max(row.cells[stage].total for row in self._rows.values() if stage in row.cells)
        return max(cell_len(head), 4 if most == 1 else len(f"0:00 {most}/{most}"))

    def _layout(self, width: int) -> tuple[int, int, list[int]]:
        """Return gap, width of the names, and widths of the columns, so that names keep what they need if possible."""
        longest = max(cell_len(row.label) for row in self._rows.values())
        narrow = [
            min(size, 4) if size == cell_len(head) else size
            for size, head in zip(self._widths, self._heads, strict=True)
        ]
        for gap, widths in ((_GAP, self._widths), (1, self._widths), (1, narrow)):
            left = width - sum(widths) - gap * len(widths)
            if left >= min(longest, 24):
                break
        return gap, max(min(longest, left), 8), widths

    def _chosen(self, room: int) -> tuple[list[_Row], list[_Row]]:
        """Return the rows that are shown, in their order, and the others.

        A row stays until its place is needed, so that no more moves than has to.
        """
        rows = list(self._rows.values())
        if self._over:
            rows = [row for row in rows if row.state != "skipped"] or rows
        hidden = [row for row in self._rows.values() if row not in rows]
        if len(rows) + bool(hidden) <= room:
            return rows, hidden
        ranked = sorted(rows, key=self._rank)
        self._shown = set(ranked[: room - 1])
        return sorted(self._shown, key=lambda row: row.index), [*ranked[room - 1 :], *hidden]

    def _rank(self, row: _Row) -> tuple[int, bool, bool, int]:
        """Return what sorts a row behind those that matter more; of the settled ones, the oldest goes first."""
        settled = row.state not in ("running", "waiting")
        return (_IMPORTANCE.get(row.state, 2), row not in self._shown, settled, -row.index if settled else row.index)


def _headings(stages: Sequence[str]) -> list[str]:
    """Return short names of the stages; two that would be the same stay long."""
    short = [next((s.removeprefix(p) for p in _PREFIXES if s.startswith(p) and s != p), s) for s in stages]
    return [name if short.count(name) == 1 else stage for name, stage in zip(short, stages, strict=True)]

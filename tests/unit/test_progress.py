"""The speakers: lines, JSON lines, and what moves at the bottom of a terminal."""

import io
import json
import re
import sys
import threading
import time

import pytest
from rich.console import Console

from pkgkmod.livetable import Board, clock_time, short_time, shortened
from pkgkmod.progress import JsonLines, Live, Plain, open_progress

KERNELS = [f"6.1.0-{number}-amd64" for number in range(20, 60)]
STAGES = ("build_modules", "generate_debian", "build_deb")


def cells_of(kernels, stages=STAGES):
    return [("", "prepare_sources"), *((k, s) for s in stages for k in kernels), ("", "build_iso")]


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """Keeps what was written, and can tell what a terminal of endless height would show."""

    def screen(self):
        lines, row, column = [""], 0, 0
        for control, text in re.findall(r"(\x1b\[[0-9;?]*[A-Za-z]|[\r\n])|([^\x1b\r\n]+)", self.getvalue()):
            if control == "\r":
                column = 0
            elif control == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            elif control == "\x1b[2K":
                lines[row] = ""
            elif control.endswith("A"):
                row -= int(control[2:-1])
                assert row >= 0
            elif text:
                lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
                column += len(text)
        return [line.rstrip() for line in lines]

    @property
    def cursor_is_shown(self):
        return self.getvalue().rfind("\x1b[?25h") >= self.getvalue().rfind("\x1b[?25l")


def live(terminal, width=80, height=24, **more):
    console = Console(
        file=terminal, force_terminal=True, width=width, height=height, highlight=False, color_system="standard"
    )
    return Live(console=console, **more)


def wait_for(terminal, text):
    """Wait until the terminal shows `text`."""
    limit = time.monotonic() + 30
    while not any(text in line for line in terminal.screen()):
        assert time.monotonic() < limit, terminal.screen()
        time.sleep(0.02)


def without_times(lines):
    return [re.sub(r", \d+:\d\d$| \d+\.\d s$", "", line) for line in lines]


def shown(board, width=80, height=24):
    return [line.plain for line in board.lines(width, height)]


def row_of(board, name, **size):
    return next(line for line in shown(board, **size) if line.startswith(name)).split()[1:]


def test_durations_fit_their_column():
    assert [short_time(s) for s in (0.9, 59, 60, 599, 600, 5999, 6000, 360000)] == [
        "0s",
        "59s",
        "1:00",
        "9:59",
        "10m",
        "99m",
        "1h",
        "100h",
    ]
    assert (clock_time(42), clock_time(3723)) == ("0:42", "1:02:03")


def test_long_names_lose_their_middle():
    assert shortened("5.14.0-427.13.1.el9_4.x86_64", 20) == "5.14.0-427.13…x86_64"
    assert shortened("6.1.0-56-amd64", 20) == "6.1.0-56-amd64"
    assert len(shortened("x" * 99, 5)) == 5


def test_a_row_for_each_kernel_and_a_column_for_each_stage():
    board = Board(cells_of(KERNELS[:2]))
    lines = shown(board)
    assert lines[0].split() == ["sources", "modules", "debian", "deb", "iso"]
    assert [line.split()[0] for line in lines[1:4]] == ["all", "6.1.0-20-amd64", "6.1.0-21-amd64"]
    assert lines[4] == "0 of 8 steps, 0:00"
    column = lines[0].index("deb ")
    assert [line[column : column + 1] for line in lines[1:4]] == [" ", "·", "·"]


@pytest.mark.parametrize(
    ("state", "mark"),
    [("done", "✓"), ("skipped", "="), ("reused", "="), ("kept", "✎"), ("failed", "✗"), ("excluded", "-")],
)
def test_each_state_has_its_mark(state, mark):
    board = Board(cells_of(KERNELS[:2]))
    board.take(KERNELS[0], "build_modules", state)
    assert row_of(board, KERNELS[0]) == [mark, "·", "·"]
    assert shown(board)[-1] == f"1 of 8 steps{', 1 failed' if state == 'failed' else ''}, 0:00"


def test_what_runs_shows_its_seconds_and_what_was_cut_off_is_marked():
    clock = Clock()
    board = Board(cells_of(KERNELS[:2]), clock)
    board.take(KERNELS[0], "build_modules", "running")
    clock.now += 72
    assert row_of(board, KERNELS[0]) == ["1:12", "·", "·"]
    assert shown(board)[-1] == "0 of 8 steps, 1 running, 1:12"
    board.stop()
    assert row_of(board, KERNELS[0]) == ["■", "·", "·"]
    assert shown(board)[-1] == "0 of 8 steps, 1 stopped, 1:12"


def test_steps_that_share_a_cell_are_counted_and_the_worst_is_shown():
    kernel = KERNELS[0]
    board = Board([(kernel, "build_deb")] * 3 + [(KERNELS[1], "build_deb")], Clock())
    assert row_of(board, kernel) == ["·"]
    for state in ("skipped", "running", "running"):
        board.take(kernel, "build_deb", state)
    assert row_of(board, kernel) == ["0s", "1/3"]
    board.take(kernel, "build_deb", "failed")
    assert row_of(board, kernel) == ["0s", "2/3"]
    board.take(kernel, "build_deb", "done")
    assert row_of(board, kernel) == ["✗", "1/3"]
    assert not board.is_running
    assert shown(board)[-1] == "3 of 4 steps, 1 failed, 0:00"


def test_steps_that_were_not_announced_change_nothing():
    board = Board(cells_of(KERNELS[:2]))
    before = shown(board)
    board.take("6.9.9-other", "build_modules", "failed")
    board.take(KERNELS[0], "other_stage", "failed")
    assert shown(board) == before


def test_of_many_rows_those_that_run_or_failed_are_shown():
    board = Board(cells_of(KERNELS), Clock())
    assert len(shown(board)) == 21
    board.take(KERNELS[37], "build_modules", "running")
    board.take(KERNELS[38], "build_modules", "failed")
    for stage in STAGES:
        board.take(KERNELS[0], stage, "done")
        board.take(KERNELS[39], stage, "done")
    lines = shown(board)
    assert len(lines) == 21
    assert row_of(board, KERNELS[37])[0] == "0s"
    assert row_of(board, KERNELS[38])[0] == "✗"
    assert lines[-2] == "… 23 more: 21 waiting, 2 done"
    assert not any(line.startswith(KERNELS[0]) for line in lines)


def test_a_row_stays_where_it_is_until_its_place_is_needed():
    board = Board(cells_of(KERNELS), Clock())
    before = shown(board)
    for stage in STAGES:
        board.take(KERNELS[0], stage, "done")
    after = shown(board)
    assert [line.split()[0] for line in after[:-2]] == [line.split()[0] for line in before[:-2]]
    board.take(KERNELS[30], "build_modules", "running")
    names = [line.split()[0] for line in shown(board)[1:-2]]
    assert KERNELS[30] in names and KERNELS[0] not in names
    assert [name for name in names if name != KERNELS[30]] == [
        line.split()[0] for line in before[1:-2] if KERNELS[0] not in line
    ]


def test_in_the_end_unchanged_rows_are_only_counted():
    board = Board(cells_of(KERNELS[:5]), Clock())
    for kernel in KERNELS[:4]:
        for stage in STAGES:
            board.take(kernel, stage, "skipped")
    board.take("", "prepare_sources", "skipped")
    board.take(KERNELS[4], "build_modules", "running")
    board.take(KERNELS[4], "build_modules", "done")
    board.stop()
    assert [line.split()[0] for line in shown(board)[1:-2]] == ["all", KERNELS[4]]
    assert shown(board)[-2] == "… 4 more: unchanged"


@pytest.mark.parametrize("size", [(80, 24), (60, 10), (40, 24), (20, 5), (200, 60)])
def test_the_table_fits_its_terminal(size):
    width, height = size
    terminal = Terminal()
    speaker = live(terminal, width, height)
    speaker.matrix(cells_of(KERNELS, (*STAGES, "generate_spec", "build_rpm")))
    speaker.cell((KERNELS[0], "build_modules"), "running")
    wait_for(terminal, "0 of")
    speaker.close()
    assert max(map(len, terminal.screen())) < width
    assert len(terminal.screen()) <= max(height, 8)


def test_stages_whose_short_names_are_the_same_keep_their_long_ones():
    board = Board([("a", "build_rpm"), ("b", "generate_rpm"), ("a", "build_deb")])
    assert shown(board)[0].split() == ["build_rpm", "generate_rpm", "deb"]


def test_with_a_table_steps_have_no_lines_but_notes_have():
    terminal = Terminal()
    speaker = live(terminal)
    cells = cells_of(KERNELS[:3])
    with speaker.step("Fetching a package"):
        pass
    speaker.matrix(cells)
    speaker.cell(cells[1], "running")
    wait_for(terminal, "1 running")
    with speaker.step("build_modules 6.1.0-20-amd64"):
        speaker.warning("look at this")
    speaker.cell(cells[1], "failed")
    speaker.event("failed", stage="build_modules", target="_", kernel=KERNELS[0], reason="make ended with 2")
    speaker.close()
    speaker.info("behind")
    lines = terminal.screen()
    assert lines[0].startswith("✓ Fetching a package")
    assert lines[1] == "warning: look at this"
    assert lines[2] == "✗ build_modules 6.1.0-20-amd64: make ended with 2"
    assert lines[3].split() == ["sources", "modules", "debian", "deb", "iso"]
    assert without_times(lines)[-3] == "1 of 11 steps, 1 failed"
    assert lines[-2:] == ["behind", ""]
    assert terminal.cursor_is_shown


def test_what_is_inside_a_step_stands_behind_the_sum():
    terminal = Terminal()
    speaker = live(terminal)
    speaker.matrix(cells_of(KERNELS[:3]))
    speaker.cell(("", "prepare_sources"), "running")
    with speaker.step("prepare_sources"):
        with speaker.step("Importing igc at 1f2e"):
            speaker.amount(5, 10)
            wait_for(terminal, "  Importing igc at 1f2e (5 of 10)")
        speaker.close()
    assert "Importing" not in "".join(terminal.screen())


def test_when_nothing_runs_there_is_no_table():
    terminal = Terminal()
    speaker = live(terminal)
    cells = cells_of(KERNELS)
    speaker.matrix(cells)
    for cell in cells:
        speaker.cell(cell, "skipped")
    speaker.close()
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("quiet", [True, False])
def test_one_kernel_or_few_words_need_no_table(quiet):
    terminal = Terminal()
    speaker = live(terminal, quiet=quiet)
    cells = cells_of(KERNELS if quiet else KERNELS[:1])
    speaker.matrix(cells)
    speaker.cell(cells[1], "running")
    with speaker.step("build_modules 6.1.0-20-amd64"):
        pass
    with pytest.raises(ValueError), speaker.step("build_deb"):
        raise ValueError
    speaker.cell(cells[1], "done")
    speaker.close()
    assert without_times(terminal.screen()) == [
        *([] if quiet else ["✓ build_modules 6.1.0-20-amd64"]),
        "✗ build_deb",
        "",
    ]


def test_names_cannot_drive_the_terminal():
    terminal = Terminal()
    speaker = live(terminal, width=120)
    evil = "6.1\x1b[2J\n[red]:warning:"
    shown_as = "6.1\\x1b[2J\\n[red]:warning:"
    speaker.matrix([(evil, "build_modules"), ("b", "build_modules")])
    speaker.cell((evil, "build_modules"), "running")
    with speaker.step(evil), speaker.step(evil + "inner"):
        wait_for(terminal, shown_as + "inner")
    speaker.info("[bold]x[/bold]\x1b[31m :smile:")
    speaker.event("failed", stage="build_modules", target="_", kernel="k", reason="[/]\x07")
    speaker.close()
    assert "\x1b[2J" not in terminal.getvalue() and "\x07" not in terminal.getvalue()
    assert "[bold]x[/bold]\\x1b[31m :smile:" in terminal.screen()
    assert "✗ build_modules k: [/]\\x07" in terminal.screen()


def hammer(work, threads=8):
    """Call `work` with the number of a thread from that many at once."""
    pool = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join(60)
        assert not thread.is_alive()


def test_many_threads_leave_a_terminal_in_order():
    terminal = Terminal()
    speaker = live(terminal)
    kernels = KERNELS[:8]
    speaker.matrix(cells_of(kernels))

    def work(number):
        for stage in STAGES:
            speaker.cell((kernels[number], stage), "running")
            with speaker.step(f"{stage} {number}"):
                for turn in range(20):
                    speaker.amount(turn, 20)
                    speaker.info(f"note {number} {stage} {turn} end")
            speaker.cell((kernels[number], stage), "done")

    hammer(work)
    speaker.close()
    lines = terminal.screen()
    notes = [line for line in lines if line.startswith("note")]
    assert sorted(notes) == sorted(f"note {n} {s} {t} end" for n in range(8) for s in STAGES for t in range(20))
    assert len(lines) == len(notes) + 1 + 9 + 1 + 1
    assert [line.split()[1:] for line in lines[len(notes) + 2 : -2]] == [["✓", "✓", "✓"]] * 8
    assert without_times(lines)[-2] == "24 of 26 steps"
    assert not any(thread.name == "terminal" for thread in threading.enumerate())


def test_many_threads_share_the_moving_line():
    terminal = Terminal()
    speaker = live(terminal)

    def work(number):
        for turn in range(20):
            with speaker.step(f"step {number} {turn}"):
                speaker.amount(turn, 20)

    hammer(work)
    speaker.close()
    assert sorted(filter(None, without_times(terminal.screen()))) == sorted(
        f"✓ step {number} {turn}" for number in range(8) for turn in range(20)
    )


@pytest.mark.parametrize("make", [Plain, JsonLines])
def test_many_threads_write_whole_lines(make, tmp_path):
    path = tmp_path / "log"
    with path.open("w") as stream:
        speaker = make(stream)
        hammer(lambda number: [speaker.info(f"note {number} {turn} " + "x" * 99) for turn in range(200)])
    lines = path.read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines] if make is JsonLines else lines
    assert sorted(texts) == sorted(f"note {n} {t} " + "x" * 99 for n in range(8) for t in range(200))


def test_plain_says_nothing_of_a_table():
    stream = io.StringIO()
    speaker = Plain(stream)
    speaker.matrix(cells_of(KERNELS))
    speaker.cell((KERNELS[0], "build_modules"), "running")
    with speaker.step("build_modules"):
        pass
    assert stream.getvalue() == "... build_modules\nok  build_modules (0.0 s)\n"


def test_programs_hear_of_each_cell():
    stream = io.StringIO()
    speaker = JsonLines(stream)
    speaker.matrix(cells_of(KERNELS[:2]))
    speaker.cell((KERNELS[0], "build_modules"), "running")
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"event": "matrix", "cells": 8},
        {"event": "cell", "row": KERNELS[0], "stage": "build_modules", "state": "running"},
    ]


@pytest.mark.parametrize("table", [True, False])
def test_an_interrupted_run_leaves_the_terminal_in_order(table):
    terminal = Terminal()
    speaker = live(terminal)
    if table:
        speaker.matrix(cells_of(KERNELS[:2]))
    try:
        speaker.cell((KERNELS[0], "build_modules"), "running")
        speaker.started("build_modules")
        wait_for(terminal, "1 running" if table else "build_modules")
        assert not terminal.cursor_is_shown
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        speaker.close()
    assert terminal.cursor_is_shown
    end = terminal.getvalue()
    speaker.close()
    assert terminal.getvalue() == end
    left = [line for line in without_times(terminal.screen()) if line]
    assert left[-1:] == (["0 of 8 steps, 1 stopped"] if table else [])


def test_a_second_run_gets_a_table_of_its_own():
    terminal = Terminal()
    speaker = live(terminal)
    for _ in range(2):
        speaker.matrix(cells_of(KERNELS[:2]))
        speaker.cell((KERNELS[0], "build_modules"), "running")
        speaker.cell((KERNELS[0], "build_modules"), "done")
    speaker.close()
    assert [line for line in without_times(terminal.screen()) if line.startswith("1 of")] == ["1 of 8 steps"] * 2


def test_no_color_leaves_the_marks(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    speaker = live(terminal)
    speaker.matrix(cells_of(KERNELS[:2]))
    speaker.cell((KERNELS[0], "build_modules"), "running")
    speaker.cell((KERNELS[0], "build_modules"), "failed")
    speaker.close()
    assert "✗" in terminal.getvalue()
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", terminal.getvalue())


@pytest.mark.parametrize(
    ("term", "encoding", "verbosity", "speaker"),
    [
        ("xterm", "utf-8", 0, Live),
        ("dumb", "utf-8", 0, Plain),
        ("unknown", "utf-8", 0, Plain),
        ("xterm", "latin-1", 0, Plain),
        ("xterm", "utf-8", 1, Plain),
    ],
)
def test_who_speaks_depends_on_the_terminal(monkeypatch, term, encoding, verbosity, speaker):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", term)
    assert type(open_progress(json_lines=False, verbosity=verbosity, quiet=False)) is speaker


def test_what_runs_for_long_costs_next_to_nothing():
    terminal = Terminal()
    speaker = live(terminal, height=40)
    speaker.matrix(cells_of(KERNELS[:30]))
    for kernel in KERNELS[:4]:
        speaker.cell((kernel, "build_modules"), "running")
    wait_for(terminal, "4 running")
    started, cpu, drawn = time.monotonic(), time.process_time(), terminal.getvalue().count("running")
    time.sleep(1.5)
    assert time.process_time() - cpu < 0.1
    # A frame for each second, and none in between.
    assert terminal.getvalue().count("running") - drawn <= time.monotonic() - started + 2
    speaker.close()

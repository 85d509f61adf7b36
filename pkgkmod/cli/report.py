"""How errors and results look."""

from __future__ import annotations

import errno
import os
import textwrap
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from pkgkmod.errors import DiskFullError, ExitCode, InputError, PkgkmodError
from pkgkmod.progress import JsonLines, escape_controls

_PLACES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""What is wrong with a place, not with pkgkmod."""

WIDTH = 80
"""Columns of a page."""


def print_error(error: PkgkmodError, *, json_lines: bool = False) -> None:
    """Say what is wrong, why, and what to do next, on standard error (and to programs that asked for JSON)."""
    if json_lines:
        JsonLines().event(
            "error",
            brief=error.brief,
            details=error.details,
            hint=error.hint,
            log=error.log,
            code=int(error.exit_code),
        )
    click.echo(click.style("error:", fg="red", bold=True) + " " + escape_controls(error.brief), err=True)
    for line in error.details.splitlines():
        click.echo("  " + escape_controls(line), err=True)
    if error.hint:
        click.echo(click.style("hint:", bold=True) + " " + escape_controls(error.hint), err=True)
    if error.log:
        click.echo(f"log: {shortest(error.log)}", err=True)


def report_failure(error: Exception, *, json_lines: bool) -> ExitCode:
    """Say what went wrong, and return the exit code for it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" where {error.filename} lies" if error.filename else ""
        hint = f"free some space{where}, then run the same command again"
        error = DiskFullError("no space left on the disk", hint=hint)
    if isinstance(error, OSError) and error.errno in _PLACES and error.filename:
        what = f"{os.fsdecode(error.filename)}: {error.strerror}"
        error = InputError(what, hint="XDG_CACHE_HOME and TMPDIR name other places for the cache and temporary files")
    if isinstance(error, PkgkmodError):
        print_error(error, json_lines=json_lines)
        return error.exit_code
    print_bug(error)
    return ExitCode.BUG


def print_bug(error: Exception) -> None:
    """Say that this is a fault of pkgkmod; the traceback appears only with PKGKMOD_TRACEBACK=1."""
    click.echo(f"{click.style('error:', fg='red', bold=True)} {type(error).__name__}: {error}", err=True)
    if os.environ.get("PKGKMOD_TRACEBACK"):
        click.echo("".join(traceback.format_exception(error)), err=True)
    else:
        click.echo("hint: this is a bug in pkgkmod; PKGKMOD_TRACEBACK=1 shows where, for a report", err=True)


def shortest(path: Path) -> str:
    """Return a path relative to the current folder where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def count(number: int, noun: str) -> str:
    """Return a number with its noun: 1 kernel, 2 patches."""
    plural = {"entry": "entries", "patch": "patches"}.get(noun, f"{noun}s")
    return f"{number} {noun if number == 1 else plural}"


def wrapped(text: str, indent: str = "", *, others: str | None = None, colour: str | None = None) -> list[str]:
    """Return a text as lines of 80 columns, for a terminal; `others` is the indent of all but the first one.

    Without it, they are indented by two columns more. Words stay whole, so that they can be copied.
    """
    lines = textwrap.wrap(
        escape_controls(text, keep=""),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  " if others is None else others,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [click.style(line, fg=colour) for line in lines]


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns as wide as their longest cell; the last one is never cut, so that it can be copied."""
    cells = [list(headers), *([escape_controls(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    for number, row in enumerate(cells):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(click.style(line, bold=True) if number == 0 else line)

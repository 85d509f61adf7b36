"""How findings about modules look: by the module that they are about, or as JSON lines."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.report import count
from pkgkmod.progress import JsonLines, escape_controls

if TYPE_CHECKING:
    from pkgkmod.model.finding import Finding
    from pkgkmod.model.verdict import Verdict

_COLOURS = {"error": "red", "warning": "yellow", "note": None}
_NAMED = 3
"""Kernels that are named in the last line."""


def report_verdicts(verdicts: Sequence[Verdict], invocation: Invocation) -> None:
    """Print what was found: errors and warnings, with -v notes, and how much that is."""
    if invocation.json_lines:
        for verdict in verdicts:
            _show_json(verdict)
        return
    for verdict in verdicts:
        shown = [one for one in verdict.findings if one.severity != "note" or invocation.verbosity]
        by_subject = sorted(shown, key=lambda one: one.subject)
        for subject, ones in groupby(by_subject, key=lambda one: one.subject):
            click.secho(escape_controls(subject, keep=""), bold=True)
            for one in ones:
                for line in _lines(one):
                    click.echo(line)
    if not invocation.quiet:
        click.echo(_summary(verdicts, verbose=invocation.verbosity > 0))


def _lines(one: Finding) -> Iterator[str]:
    head = f"  {one.severity} {one.code}: "
    lines = _wrapped(head + escape_controls(one.text, keep=""), "    ")
    colour = _COLOURS[one.severity]
    yield "  " + click.style(one.severity, fg=colour) + lines[0][2 + len(one.severity) :]
    yield from lines[1:]
    if one.cure:
        yield from _wrapped(f"    {escape_controls(one.cure, keep='')}", "    ")


def _wrapped(text: str, indent: str) -> list[str]:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _summary(verdicts: Sequence[Verdict], *, verbose: bool) -> str:
    modules = [module for verdict in verdicts for module in verdict.modules]
    kernels = list(dict.fromkeys(module.kernel for module in modules if module.kernel))
    named = ", ".join(kernels) if len(kernels) <= _NAMED else f"{len(kernels)} kernels"
    counts = Counter(one.severity for verdict in verdicts for one in verdict.findings)
    parts = [count(counts[kind], kind) for kind in ("error", "warning") if counts[kind]]
    if not counts["error"]:
        parts.insert(0, "no errors")
    if counts["note"]:
        parts.append(count(counts["note"], "note") + ("" if verbose else " (-v shows them)"))
    unchecked = sorted({release for verdict in verdicts for release in verdict.unchecked})
    more = f"; not here: {', '.join(unchecked)}" if unchecked else ""
    head = count(len(modules), "module") + (f" for {named}" if named else "")
    return escape_controls(f"{head}: {', '.join(parts)}{more}", keep="")


def _show_json(verdict: Verdict) -> None:
    out = JsonLines()
    for module in verdict.modules:
        out.event("checked-module", target=verdict.target, **module.model_dump())
    for one in verdict.findings:
        out.event("finding", target=verdict.target, **one.model_dump())
    for release in verdict.unchecked:
        out.event("unchecked", target=verdict.target, kernel=release)

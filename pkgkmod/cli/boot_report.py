"""How boots look: a table of modules and kernels, and below it why a module did not load."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from pkgkmod.cli.report import count
from pkgkmod.progress import JsonLines, escape_controls

if TYPE_CHECKING:
    from pkgkmod.model.prediction import BootReport, Ending, LoadResult

_WIDTH = 80
_COLUMN = 11
"""Characters of a cell: the longest ending, and two blanks."""
_LINES = 6
"""Of the kernel's words that are shown without -v."""
_COLOURS: dict[Ending, str] = {
    "loaded": "green",
    "no device": "green",
    "refused": "red",
    "oops": "red",
    "timeout": "red",
    "not tried": "yellow",
}
_KEY_HINT = (
    "the kernels did not trust the key that signed the modules: name its certificate in [signing], and install "
    "the machine's firmware (ovmf)"
)


def is_bad(result: LoadResult) -> bool:
    """Tell whether a module is not as it should be."""
    return result.ending not in ("loaded", "no device")


def summary(report: BootReport) -> str:
    """Return in a few words what is wrong with a boot; empty if nothing is."""
    if report.failure:
        return report.failure.splitlines()[0]
    bad = [result for result in report.results if is_bad(result)]
    if not bad:
        return ""
    shown = ", ".join(f"{result.module} ({result.ending})" for result in bad[:5])
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    return f"{len(bad)} of {count(len(report.results), 'module')} did not load: {shown}{more}"


def show(reports: Sequence[BootReport], *, json_lines: bool, verbose: bool) -> None:
    """Print what came of the boots."""
    if json_lines:
        for report in reports:
            for result in report.results:
                JsonLines().event("load", **result.model_dump())
            JsonLines().event("boot", **report.model_dump(exclude={"results"}), ok=not summary(report))
        return
    _show_kernels(reports)
    _show_table(reports)
    for line in _reasons(reports, verbose=verbose):
        click.echo(line)
    enforced = [report for report in reports if report.enforced]
    if enforced and not all(report.trusts_key for report in enforced):
        click.echo()
        for line in _wrapped(_KEY_HINT, ""):
            click.echo(line)


def _show_kernels(reports: Sequence[BootReport]) -> None:
    click.secho("KERNEL", bold=True)
    for number, report in enumerate(reports, 1):
        click.echo(escape_controls(f"{number:3}  {report.kernel}", keep=""))
        facts = "not up" if report.failure else f"{report.seconds:.0f} s, {report.accelerator}"
        more = ", signed modules only" if report.enforced else ""
        for line in _wrapped(f"{facts}{more}; {report.image}", "     "):
            click.echo(click.style(line, fg="red" if report.failure else None))


def _show_table(reports: Sequence[BootReport]) -> None:
    """Print modules in rows and kernels, by their numbers, in columns; several tables where that is too wide."""
    names = sorted({result.module for report in reports for result in report.results})
    if not names:
        return
    width = min(max(map(len, (*names, "MODULE"))), _WIDTH - _COLUMN)
    fitting = max((_WIDTH - width) // _COLUMN, 1)
    for start in range(0, len(reports), fitting):
        part = reports[start : start + fitting]
        head = "".join(f"{start + number:>{_COLUMN}}" for number in range(1, len(part) + 1))
        click.secho(f"\n{'MODULE':{width}}{head}", bold=True)
        for name in names:
            cells = "".join(_cell(report, name) for report in part)
            click.echo(f"{escape_controls(name, keep='')[:width]:{width}}{cells}")


def _cell(report: BootReport, name: str) -> str:
    endings = [result.ending for result in report.results if result.module == name]
    if not endings:
        return f"{'-':>{_COLUMN}}"
    return click.style(f"{endings[0]:>{_COLUMN}}", fg=_COLOURS[endings[0]])


def _reasons(reports: Sequence[BootReport], *, verbose: bool) -> Iterator[str]:
    """Yield each reason once, with the kernels that gave it, and what the kernel said."""
    for report in reports:
        if report.failure:
            yield ""
            yield click.style(escape_controls(f"{report.kernel}:", keep=""), bold=True)
            for line in report.failure.splitlines():
                yield from _wrapped(line, "  ")
    said: dict[tuple[str, str, str], list[LoadResult]] = {}
    for report in reports:
        for result in report.results if not report.failure else ():
            if result.reason or verbose:
                said.setdefault((result.module, result.ending, result.reason), []).append(result)
    for (module, ending, reason), results in sorted(said.items()):
        if ending == "no device" and not verbose:
            continue
        yield ""
        yield from _told(module, ending, reason, results, verbose=verbose)


def _told(module: str, ending: str, reason: str, results: Sequence[LoadResult], *, verbose: bool) -> Iterator[str]:
    kernels = [result.kernel for result in results]
    where = ", ".join(kernels) if len(kernels) < 3 else f"{len(kernels)} kernels"
    yield click.style(escape_controls(f"{module}: {ending} in {where}", keep=""), bold=True)
    yield from _wrapped(reason, "  ") if reason else ()
    first = results[0]
    if verbose:
        yield from _wrapped(f"file: {first.path}", "  ")
        yield from _wrapped(f"loaded with it: {', '.join(first.needs)}", "  ") if first.needs else ()
        yield from _wrapped("could not be taken out again", "  ") if ending == "loaded" and not first.unloaded else ()
    if verbose or ending in ("oops", "timeout"):
        log = first.log
        if not verbose and reason in log:
            log = log[log.index(reason) + 1 :]
        lines = log if verbose else log[:_LINES]
        for line in lines:
            yield from _wrapped(line, "    ")
        if len(log) > len(lines):
            yield f"    ({len(log) - len(lines)} more lines; -v shows them)"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        escape_controls(text, keep=""),
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + ("  " if indent else ""),
        break_on_hyphens=False,
    )

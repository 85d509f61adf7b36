"""pkgkmod report: one page about the finished work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options
from pkgkmod.cli.report import count, shortest
from pkgkmod.errors import InputError, PkgkmodError, ToolError
from pkgkmod.progress import JsonLines, Progress, human_size

if TYPE_CHECKING:
    from pkgkmod.config.load import Loaded
    from pkgkmod.engine.lock import Lock
    from pkgkmod.model.kernel import KernelOffer, KernelRelease
    from pkgkmod.reports.facts import Facts

_FILE = "results/report.html"


@click.command()
@click.option("-o", "--output", metavar="FILE", help=f"Where to write it (default: {_FILE}); - for standard output.")
@click.option("--open", "show", is_flag=True, help="Show it in the browser.")
@click.option("--kernels", multiple=True, metavar="PATTERN", help="Predict for these kernels, too.")
@click.option("--no-predict", is_flag=True, help="Do not ask what kernels will do with the modules.")
@command_options
@click.pass_context
def report(
    ctx: click.Context,
    /,
    output: str | None,
    show: bool,
    kernels: tuple[str, ...],
    no_predict: bool,
    **given: Any,
) -> None:
    """Write a page about the finished work: what was built, checked, predicted and booted, and of what it is made.

    It is one HTML file that can be mailed: it loads nothing. Kernels are those that were built for; with --kernels
    further ones that are here, by release or pattern. Nothing is built or fetched.
    """
    from pkgkmod.reports.page import page_of

    invocation: Invocation = ctx.obj.with_options(given)
    loaded = invocation.load()
    progress = invocation.progress()
    try:
        facts = _facts(loaded, kernels, predict=not no_predict, progress=progress)
    finally:
        progress.close()
    page = page_of(facts)
    if output == "-":
        click.echo(page, nl=False)
        return
    file = Path(output) if output else loaded.folder / _FILE
    _write(file, page)
    _tell(file, page, facts, json_lines=invocation.json_lines)
    if show:
        _show(file)


def _facts(loaded: Loaded, patterns: tuple[str, ...], *, predict: bool, progress: Progress) -> Facts:
    from pkgkmod.engine.lock import read_lock
    from pkgkmod.kernels.here import kernels_here
    from pkgkmod.kernels.select import select_kernels
    from pkgkmod.network import stay_offline
    from pkgkmod.reports.gather import gather
    from pkgkmod.reports.outlook import Builds, with_dependencies, with_predictions

    stay_offline()
    here = kernels_here(loaded.project, loaded.folder)
    more = select_kernels(patterns, here) if patterns else ()
    lock = read_lock(loaded.folder)
    facts = gather(loaded.project, loaded.folder, _offers(loaded, lock), _wanted(loaded, lock))
    builds = Builds(loaded.project, loaded.folder, facts.rows)
    facts = with_dependencies(facts, builds)
    if not predict:
        return facts
    wanted = {row.release for row in facts.rows if row.state != "excluded"} | {kernel.uname_r for kernel in more}
    asked = [kernel for kernel in here if kernel.uname_r in wanted]
    with progress.step(f"Predicting what {count(len(asked), 'kernel')} will do with the modules"):
        return with_predictions(facts, builds, asked)


def _wanted(loaded: Loaded, lock: Lock | None) -> set[KernelRelease] | None:
    """Return the kernels that the targets ask for; None if that cannot be said here."""
    from pkgkmod.engine.resolve import wanted_kernels

    try:
        wanted = wanted_kernels(loaded.project, loaded.folder, lock=lock)
    except PkgkmodError:
        return None
    return {kernel.release for found in wanted.values() for kernel in found}


def _offers(loaded: Loaded, lock: Lock | None) -> list[KernelOffer]:
    """Return the kernels of the lock, and those of archives as their indexes that are here say."""
    from pkgkmod.kernels.select import offered_kernels

    locked = [kernel.offer(loaded.folder) for kernel in (lock.kernel if lock else ()) if kernel.package]
    try:
        return [*locked, *offered_kernels(loaded.project, loaded.folder, ask=False, progress=Progress())]
    except PkgkmodError:  # an index that was never fetched
        return locked


def _write(file: Path, page: str) -> None:
    from pkgkmod.workspace import write_atomically

    if not file.parent.is_dir() or file.is_dir():
        what = "is a folder" if file.is_dir() else f"cannot be written: there is no folder {file.parent}"
        raise InputError(f"{file} {what}", hint="-o names the file to write")
    write_atomically(file, page)


def _tell(file: Path, page: str, facts: Facts, *, json_lines: bool) -> None:
    size = len(page.encode())
    built = [row for row in facts.rows if row.state in ("ok", "farm")]
    if json_lines:
        severities = [one.finding.severity for one in facts.findings]
        found = {f"{name}s": severities.count(name) for name in ("error", "warning", "note")}
        numbers = {"kernels": len(built), "modules": len(facts.modules), "failures": len(facts.failures)}
        JsonLines().event("report", file=file, size=size, **numbers, **found)
        return
    parts = [count(len(built), "kernel"), count(len(facts.modules), "module")]
    parts += [count(len(facts.failures), "failure")] if facts.failures else []
    parts += [count(len(facts.findings), "finding")] if facts.checked else []
    click.echo(f"{shortest(file.absolute())}: {', '.join(parts)}; {human_size(size)}")


def _show(file: Path) -> None:
    # Not through pkgkmod's own door to programs: a browser needs the user's display, session and home.
    import webbrowser

    if not webbrowser.open(file.absolute().as_uri()):
        raise ToolError("there is no browser to show the page", hint=f"it is in {file}; BROWSER names a program")

"""pkgkmod probe: what each kernel answers to the project's questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options
from pkgkmod.cli.report import count
from pkgkmod.errors import PartialError, PkgkmodError, UsageError
from pkgkmod.progress import JsonLines, escape_controls

if TYPE_CHECKING:
    from pkgkmod.model.kernel import Kernel
    from pkgkmod.model.project import Project
    from pkgkmod.modules.probes import Answer
    from pkgkmod.progress import Progress

_WIDTH = 80


@click.command()
@click.option("--target", multiple=True, metavar="NAME", help="Only this target; may be given several times.")
@click.option("--kernel", multiple=True, metavar="RELEASE", help="Only this kernel or pattern.")
@click.option("--why", is_flag=True, help="Say for each no what the compiler said, or what is not there.")
@click.option("-n", "--dry-run", is_flag=True, help="Say how many answers are known, and compile nothing.")
@command_options
@click.pass_context
def probe(
    ctx: click.Context,
    /,
    target: tuple[str, ...],
    kernel: tuple[str, ...],
    why: bool,
    dry_run: bool,
    **given: Any,
) -> None:
    """Show what each kernel answers to the project's [probe.NAME] tables.

    What is not known yet is compiled, in one make for each kernel, and remembered: no build asks it again.
    """
    from pkgkmod.engine.lock import read_lock
    from pkgkmod.engine.resolve import resolve_jobs

    invocation: Invocation = ctx.obj.with_options(given)
    loaded = invocation.load()
    if not loaded.project.probe:
        raise UsageError(
            "the project has no probes",
            hint='a question to each kernel is a table such as: [probe.HAVE_PRINTK] with symbol = "_printk"',
        )
    progress = invocation.progress()
    try:
        resolved = resolve_jobs(
            loaded.project,
            loaded.folder,
            targets=target,
            kernels=kernel,
            lock=read_lock(loaded.folder),
            fetch=not dry_run,
            progress=progress,
        )
        kernels = {one.uname_r: one for job in resolved.jobs for one in job.kernels}
        if dry_run:
            _print_known(loaded.project, list(kernels.values()), progress, json_lines=invocation.json_lines)
            return
        found, failed = _ask(loaded.project, list(kernels.values()), loaded.folder, progress)
    finally:
        progress.close()
    _print(found, json_lines=invocation.json_lines)
    if why and not invocation.json_lines:
        _print_reasons(found)
    _raise({**resolved.absent, **failed}, len(found))


def _ask(
    project: Project, kernels: Sequence[Kernel], folder: Path, progress: Progress
) -> tuple[dict[str, dict[str, Answer]], dict[str, PkgkmodError]]:
    """Return the answers by kernel, and what is wrong with those that gave none."""
    from pkgkmod.modules.probes import known_answers

    found: dict[str, dict[str, Answer]] = {}
    failed: dict[str, PkgkmodError] = {}
    asked: list[Kernel] = []
    for kernel in kernels:
        try:
            found[kernel.uname_r] = known_answers(project.probe, kernel, project.build)
        except PkgkmodError as error:
            failed[kernel.uname_r] = error
            continue
        if len(found[kernel.uname_r]) < len(project.probe):
            asked.append(kernel)
    if asked:
        with _asker(project, folder, progress) as ask:
            for kernel in asked:
                more = len(project.probe) - len(found[kernel.uname_r])
                try:
                    with progress.step(f"Asking {kernel.uname_r} {count(more, 'question')}"):
                        found[kernel.uname_r] = ask(kernel)
                except PkgkmodError as error:
                    failed[kernel.uname_r] = error
                    del found[kernel.uname_r]
    return found, failed


@contextmanager
def _asker(project: Project, folder: Path, progress: Progress) -> Iterator[Callable[[Kernel], dict[str, Answer]]]:
    """Give what compiles a kernel's questions in a scratch folder; a failure's log is kept beside the results."""
    import shutil

    from pkgkmod.command import run
    from pkgkmod.jobserver import JobServer, sensible_jobs
    from pkgkmod.kernels.compiler import compiler_stamps
    from pkgkmod.kernels.inplace import in_place
    from pkgkmod.kernels.provide import repair_kernel
    from pkgkmod.modules.probes import ask_kernel
    from pkgkmod.sandbox import isolation
    from pkgkmod.workspace import Workspace, digest

    workspace = Workspace(folder)
    isolated, why_not = isolation(project.build.sandbox)
    if why_not:
        progress.warn_once(why_not)
    budget = JobServer(sensible_jobs(project.build.jobs))

    def ask(kernel: Kernel) -> dict[str, Answer]:
        repair_kernel(kernel, progress)
        stamps = compiler_stamps(kernel, any_compiler=project.build.any_compiler)
        with workspace.scratch() as scratch:
            log = scratch / "log.txt"
            try:
                return ask_kernel(
                    project.probe,
                    kernel if isolated else in_place(kernel, scratch / "kernel"),
                    project.build,
                    scratch / "probes",
                    lambda command: run(command, log=log, progress=progress, jobs=budget),
                    options_asked=workspace.for_this_run(f"answers-{digest(stamps)[:12]}"),
                )
            except PkgkmodError as error:
                if error.log == log:
                    error.log = Path(shutil.copyfile(log, workspace.results / f"probe-{kernel.uname_r}.log"))
                raise

    try:
        with workspace.locked(progress):
            yield ask
    finally:
        budget.close()


def _raise(failed: Mapping[str, PkgkmodError], others: int) -> None:
    """Raise what is wrong with the only kernel, or say how many gave no answers."""
    if not failed:
        return
    first = next(iter(failed.values()))
    if len(failed) == 1 and not others:
        raise first
    raise PartialError(
        f"{count(len(failed), 'kernel')} gave no answers",
        details="\n".join(
            f"{name}: {error.brief}" + (f"\n  {error.details}" if error.details else "")
            for name, error in failed.items()
        ),
        hint=first.hint,
        log=first.log,
    )


def _print_known(project: Project, kernels: Sequence[Kernel], progress: Progress, *, json_lines: bool) -> None:
    """Say what is known, and what would be compiled."""
    from pkgkmod.kernels.provide import is_here
    from pkgkmod.modules.probes import known_answers

    for kernel in kernels:
        here = is_here(kernel)
        try:
            known = len(known_answers(project.probe, kernel, project.build)) if here else 0
        except PkgkmodError as error:
            if len(kernels) == 1:
                raise
            progress.warning(f"{kernel.uname_r}: {error.brief}")
            continue
        unknown = len(project.probe) - known
        if json_lines:
            JsonLines().event("probe", kernel=kernel.uname_r, known=known, unknown=unknown, fetched=here)
        else:
            rest = f"{unknown} to be compiled" if unknown else "nothing to compile"
            click.echo(f"{kernel.uname_r}: {known} known, {rest}" + ("" if here else ", once it is fetched"))


def _print(found: Mapping[str, Mapping[str, Answer]], *, json_lines: bool) -> None:
    if json_lines:
        for kernel, answers in found.items():
            for name, answer in sorted(answers.items()):
                facts = {"value": answer.value, "why": answer.why, "known": answer.known}
                JsonLines().event("probe", kernel=kernel, name=name, **facts)
        return
    if not found:
        return
    kernels = list(found)
    click.secho("KERNEL", bold=True)
    for number, kernel in enumerate(kernels, 1):
        click.echo(f"{number:3}  {kernel}")
    names = sorted({name for answers in found.values() for name in answers})
    width = max(len(name) for name in names)
    fitting = max((_WIDTH - width) // 5, 1)
    for start in range(0, len(kernels), fitting):
        part = kernels[start : start + fitting]
        click.secho(f"\n{'PROBE':{width}}" + "".join(f"{start + i:5}" for i in range(1, len(part) + 1)), bold=True)
        for name in names:
            click.echo(f"{name:{width}}" + "".join(f"{found[kernel][name].value or '-':>5}" for kernel in part))


def _print_reasons(found: Mapping[str, Mapping[str, Answer]]) -> None:
    """Say each reason once, with the kernels that gave it."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for kernel, answers in found.items():
        for name, answer in sorted(answers.items()):
            if not answer.value:
                reasons.setdefault((name, answer.why), []).append(kernel)
    for (name, reason), kernels in sorted(reasons.items()):
        where = ", ".join(kernels) if len(kernels) < 4 else f"{len(kernels)} kernels"
        click.echo(f"\n{name} in {where}:\n  {escape_controls(reason)}")

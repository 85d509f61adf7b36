"""plan and build: running stages, and saying what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options
from pkgkmod.cli.report import human_size, shortest
from pkgkmod.errors import did_you_mean

if TYPE_CHECKING:
    from pkgkmod.config.load import Loaded
    from pkgkmod.engine.plan import Selection
    from pkgkmod.model.job import Job
    from pkgkmod.progress import Progress
    from pkgkmod.workspace import Result


def run_stages(
    invocation: Invocation, stages: Sequence[str], given: Mapping[str, Any], *, force: Sequence[str] = ()
) -> None:
    """Run stages and what they need, or show the plan; print what was made."""
    from pkgkmod.engine.execute import execute
    from pkgkmod.workspace import Workspace

    loaded = invocation.load()
    selection = _select(loaded, stages, given, force)
    workspace = Workspace(loaded.folder)
    progress = invocation.progress()
    _warn_of_absent_plugins(loaded, progress)
    if given.get("dry_run"):
        _print_plan(selection, workspace, invocation)
        return
    try:
        run = execute(selection, workspace, progress)
    finally:
        progress.close()
    made = [result for key, result in run.results.items() if key[0] in stages and _is_product(result, stages)]
    _copy_disk(loaded, made)
    _print_results(made, invocation, progress)
    if run.failure:
        raise run.failure


def _warn_of_absent_plugins(loaded: Loaded, progress: Progress) -> None:
    """Say which settings nobody will read; a stage that is needed and absent is an error of its own."""
    from pkgkmod.plugins import BUILDERS, KERNEL_SOURCES, STAGES, registered

    known = {name for group in (STAGES, BUILDERS, KERNEL_SOURCES) for name in registered(group)}
    for name in sorted(set(loaded.project.plugin) - known):
        hint = did_you_mean(name, known) or "its package is not installed here"
        progress.warning(f"plugin.{name}: no plugin of that name; {hint}")


def _select(loaded: Loaded, stages: Sequence[str], given: Mapping[str, Any], force: Sequence[str]) -> Selection:
    from pkgkmod.engine.plan import Selection, needs_jobs
    from pkgkmod.engine.resolve import resolve_jobs

    jobs: tuple[Job, ...] = ()
    if needs_jobs(stages, loaded.project):
        jobs = resolve_jobs(
            loaded.project, loaded.folder, targets=given.get("target", ()), kernels=given.get("kernel", ())
        )
    return Selection(loaded.project, loaded.folder, jobs, tuple(stages), tuple(force))


def _print_plan(selection: Selection, workspace: Any, invocation: Invocation) -> None:
    from pkgkmod.engine.plan import make_plan
    from pkgkmod.progress import JsonLines

    for decision in make_plan(selection, workspace):
        stage, target, kernel = decision.step.key
        if invocation.json_lines:
            JsonLines().event(
                "plan",
                stage=stage,
                target=target,
                kernel=kernel,
                action=decision.action,
                reason=decision.reason,
            )
        else:
            colour = {"RUN": "green", "KEEP": "yellow"}.get(decision.action)
            click.echo(f"{click.style(decision.action, fg=colour):4} {decision.step.title}: {decision.reason}")


def _is_product(result: Result, stages: Sequence[str]) -> bool:
    """Tell whether a result is worth a line at the end: of many stages, only those that make packages and disks."""
    return len(stages) == 1 or "packages" in result.artifact


def _copy_disk(loaded: Loaded, made: Sequence[Result]) -> None:
    """Put the driver disk where the project wants a copy of it."""
    from pkgkmod.cli.ddiskit import move_into_place

    for result in made:
        if result.stage == "build_iso" and loaded.project.disk.file:
            move_into_place(result.folder / result.artifact["file"], Path(loaded.project.disk.file).expanduser())


def files_of(result: Result) -> list[tuple[str, int]]:
    """Return the files, with sizes, that a result is about: packages, images, specs."""
    artifact = result.artifact
    if "packages" in artifact and artifact["packages"] and isinstance(artifact["packages"][0], dict):
        return [(package["file"], package["size"]) for package in artifact["packages"]]
    if "modules" in artifact:
        return [(module["file"], module["size"]) for module in artifact["modules"]]
    names = [artifact.get(key) for key in ("spec", "debian", "tree", "archive", "file")]
    found = [(name, result.folder / name) for name in names if name]
    return [(name, path.stat().st_size if path.is_file() else 0) for name, path in found]


def _print_results(made: Sequence[Result], invocation: Invocation, progress: Progress) -> None:
    if invocation.json_lines:
        for result in made:
            paths = [str(result.folder / name) for name, _ in files_of(result)]
            progress.event(
                "result",
                stage=result.stage,
                target=result.target,
                kernel=result.kernel,
                folder=result.folder,
                files=paths,
            )
        return
    for result in made:
        target = "" if result.target == "_" else f" {result.target}"
        kernels = result.artifact.get("kernels") or ([] if result.kernel == "_" else [result.kernel])
        click.secho(f"{result.stage}{target}" + (f" for {', '.join(kernels)}" if kernels else ""), bold=True)
        click.echo(f"in {shortest(result.folder)}")
        files = files_of(result)
        width = max((len(name) for name, _ in files), default=0)
        for name, size in files:
            click.echo(f"  {name:{width}}  {human_size(size):>8}" if size else f"  {name}/")


_TARGET = click.option("--target", multiple=True, metavar="NAME", help="Only this target; may be given several times.")
_KERNEL = click.option("--kernel", multiple=True, metavar="RELEASE", help="Only this kernel or pattern.")


@click.command()
@_TARGET
@_KERNEL
@click.option("--from-source", is_flag=True, help="Compile inside rpmbuild and dpkg-buildpackage, as a farm does.")
@click.option("-j", "--jobs", type=int, metavar="N", help="Parallel jobs of make.")
@click.option("-f", "--force", is_flag=True, help="Run every stage although nothing changed.")
@click.option("-n", "--dry-run", is_flag=True, help="Show the plan only, as `pkgkmod plan` does.")
@command_options
@click.pass_context
def build(ctx: click.Context, /, **given: Any) -> None:
    """Run every stage that is needed: sources, modules, recipes, packages, driver disk."""
    from pkgkmod.engine.plan import default_stages

    settings: dict[str, Any] = {"build.from_source": True} if given["from_source"] else {}
    if given["jobs"] is not None:
        settings["build.jobs"] = given["jobs"]
    ctx.find_root().obj = invocation = ctx.obj.with_options(given).with_settings(settings)
    stages = default_stages()
    run_stages(invocation, stages, given, force=stages if given["force"] else ())


@click.command()
@click.argument("stages", nargs=-1)
@_TARGET
@_KERNEL
@command_options
@click.pass_context
def plan(ctx: click.Context, /, stages: tuple[str, ...], **given: Any) -> None:
    """Show what `build`, or the named STAGES, would run and skip, and why. Nothing is touched."""
    from pkgkmod.engine.plan import default_stages

    ctx.find_root().obj = invocation = ctx.obj.with_options(given)
    names = tuple(stage.replace("-", "_") for stage in stages) or default_stages()
    run_stages(invocation, names, {**given, "dry_run": True})

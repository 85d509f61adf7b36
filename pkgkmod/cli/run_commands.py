"""plan and build: running stages, and saying what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.builder_choice import BUILDER, with_builder
from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options
from pkgkmod.cli.report import count, shortest
from pkgkmod.errors import did_you_mean
from pkgkmod.progress import human_size

_NAMED = 3
"""Kernels that are named in a heading; more are counted."""

if TYPE_CHECKING:
    from pkgkmod.config.load import Loaded
    from pkgkmod.engine.outcome import Outcome, Run
    from pkgkmod.engine.plan import Selection
    from pkgkmod.progress import Progress
    from pkgkmod.workspace import Result


def run_stages(
    invocation: Invocation, stages: Sequence[str], given: Mapping[str, Any], *, force: Sequence[str] = ()
) -> None:
    """Run stages and what they need, or show the plan; print what was made."""
    from pkgkmod.config.importers.ddiskitini import is_module_config
    from pkgkmod.engine.execute import execute
    from pkgkmod.workspace import Workspace

    invocation, others = with_builder(invocation, stages, given)
    loaded = invocation.load()
    progress = invocation.progress()
    _warn_of_absent_plugins(loaded, progress)
    if others:
        progress.info(others)
    try:
        selection = select(loaded, stages, given, progress, force=force)
        workspace = Workspace(loaded.folder)
        if given.get("dry_run"):
            _print_plan(selection, workspace, invocation)
            return
        if is_module_config(invocation.config):
            from pkgkmod.cli.moduleconfig import keep_sources

            keep_sources(invocation, progress)
        run = execute(selection, workspace, progress)
    finally:
        progress.close()
    made = [result for key, result in run.results.items() if key[0] in stages and _is_product(result, stages)]
    _copy_disk(loaded, made)
    _tell_findings(run, progress)
    _print_results(made, invocation, progress)
    if stages == ("build_iso",):
        _print_instructions(made, invocation)
    _print_sum(run, selection, progress)
    if run.failure:
        raise run.failure


def _print_sum(run: Run, selection: Selection, progress: Progress) -> None:
    """Say in one line what was done, and what was not done again."""
    counts = Counter(run.outcomes.values())
    kernels = {kernel.uname_r for job in selection.jobs for kernel in job.kernels}
    over = f" over {count(len(kernels), 'kernel')}" if kernels else ""
    words: dict[Outcome, str] = {
        "done": "run",
        "reused": "taken from the cache",
        "skipped": "unchanged",
        "kept": "edited by hand",
    }
    words |= {"failed": "failed", "excluded": "left out"}
    parts = [f"{counts[outcome]} {word}" for outcome, word in words.items() if counts[outcome]]
    if set(counts) == {"skipped"}:
        progress.info(f"nothing to do: all {counts.total()} steps{over} are unchanged")
    elif parts:
        progress.info(f"{count(counts.total(), 'step')}{over}: {', '.join(parts)}")


def _warn_of_absent_plugins(loaded: Loaded, progress: Progress) -> None:
    """Say which settings nobody will read; a stage that is needed and absent is an error of its own."""
    from pkgkmod.plugins import BUILDERS, KERNEL_SOURCES, STAGES, registered

    known = {name for group in (STAGES, BUILDERS, KERNEL_SOURCES) for name in registered(group)}
    for name in sorted(set(loaded.project.plugin) - known):
        hint = did_you_mean(name, known) or "its package is not installed here"
        progress.warning(f"plugin.{name}: no plugin of that name; {hint}")


def select(
    loaded: Loaded,
    stages: Sequence[str],
    given: Mapping[str, Any],
    progress: Progress,
    *,
    force: Sequence[str] = (),
    by_name: bool = False,
) -> Selection:
    """Return what the command line asks for, with kernels fetched unless only the plan is wanted.

    With `by_name`, a kernel that is named by its release need not be known here.
    """
    from pkgkmod.engine.lock import read_lock
    from pkgkmod.engine.plan import Selection, needs_jobs, needs_kernels
    from pkgkmod.engine.resolve import Resolved, chosen_targets, resolve_jobs

    project, base = loaded.project, loaded.folder
    targets = chosen_targets(project.target, given.get("target", ()))
    resolved = Resolved(())
    lock = read_lock(base)
    if lock:
        lock.check_sources(project, base)
    if needs_jobs(stages, project):
        resolved = resolve_jobs(
            project,
            base,
            targets=given.get("target", ()),
            kernels=given.get("kernel", ()),
            lock=lock,
            fetch=not given.get("dry_run") and needs_kernels(stages, project),
            by_name=by_name,
            progress=progress,
        )
    return Selection(
        project,
        base,
        resolved.jobs,
        tuple(stages),
        tuple(force),
        targets=targets,
        absent=resolved.absent,
        excluded=resolved.excluded,
        fail_fast=not given.get("keep_going", True),
    )


def _print_plan(selection: Selection, workspace: Any, invocation: Invocation) -> None:
    from pkgkmod.engine.plan import make_plan, needs_kernels
    from pkgkmod.kernels.provide import is_here
    from pkgkmod.progress import JsonLines

    fetched = needs_kernels(selection.stages, selection.project)
    kernels = [kernel for job in selection.jobs for kernel in job.kernels] if fetched else []
    missing = {kernel.uname_r: kernel.offer for kernel in kernels if kernel.offer and not is_here(kernel)}
    # Their .config is in the packages.
    later = ["only.config"] if selection.project.only.config else []
    for release, offer in missing.items():
        if invocation.json_lines:
            facts = {"stage": "fetch", "target": "_", "kernel": release, "action": "FETCH", "reason": offer.archive}
            JsonLines().event("plan", **facts, unchecked=later)
        else:
            told = f"; then {later[0]} is checked" if later else ""
            click.echo(f"{click.style('FETCH', fg='green')} kernel {release}: {human_size(offer.size)}{told}")
    for release, why in selection.excluded.items():
        if invocation.json_lines:
            JsonLines().event("plan", stage="build_modules", target="_", kernel=release, action="EXCLUDED", reason=why)
        else:
            click.echo(f"{'SKIP':5} kernel {release}: {why}")
    for decision in make_plan(selection, workspace):
        stage, target, kernel = decision.step.key
        reason = "its kernel is not here yet" if kernel in missing else decision.reason
        if invocation.json_lines:
            JsonLines().event(
                "plan",
                stage=stage,
                target=target,
                kernel=kernel,
                action=decision.action,
                reason=reason,
            )
        else:
            colour = {"RUN": "green", "KEEP": "yellow", "REUSE": "cyan"}.get(decision.action)
            click.echo(f"{click.style(f'{decision.action:5}', fg=colour)} {decision.step.title}: {reason}")


def _is_product(result: Result, stages: Sequence[str]) -> bool:
    """Tell whether a result is worth a line at the end: of many stages, only those that make packages and disks."""
    return len(stages) == 1 or "packages" in result.artifact


def _copy_disk(loaded: Loaded, made: Sequence[Result]) -> None:
    """Put the driver disk where the project wants a copy of it."""
    from pkgkmod.cli.ddiskit import move_into_place
    from pkgkmod.cli.disk_command import copies

    for result in made:
        if result.stage == "build_iso" and loaded.project.disk.file:
            files = [image["file"] for image in result.artifact["images"]]
            wanted = copies(Path(loaded.project.disk.file).expanduser(), result.artifact["name"], files)
            for file, copy in zip(files, wanted, strict=True):
                move_into_place(result.folder / file, copy)


def _tell_findings(run: Run, progress: Progress) -> None:
    """Say what was found in modules that were checked now, and always the errors that the project lets pass."""
    checked = {key: outcome for key, outcome in run.outcomes.items() if key[0] == "check" and key in run.results}
    if checked:
        from pkgkmod.model.verdict import Verdict
        from pkgkmod.packages.checkpackages import tell

        for key, outcome in checked.items():
            found = run.results[key].load(Verdict).findings
            tell([one for one in found if outcome != "skipped" or one.severity == "error"], progress)


def _print_instructions(made: Sequence[Result], invocation: Invocation) -> None:
    """Say what to tell the installers."""
    from pkgkmod.progress import escape_controls

    if invocation.json_lines or invocation.quiet:
        return
    for result in made:
        text = (result.folder / result.artifact["readme"]).read_text(encoding="utf-8")
        click.echo(f"\n{escape_controls(text)}", nl=False)


def files_of(result: Result) -> list[tuple[str, int]]:
    """Return the files, with sizes, that a result is about: packages, images, specs."""
    artifact = result.artifact
    if "images" in artifact:
        return [(image["file"], image["size"]) for image in artifact["images"]]
    if "packages" in artifact and artifact["packages"] and isinstance(artifact["packages"][0], dict):
        return [(package["file"], package["size"]) for package in artifact["packages"]]
    if "symvers" in artifact:
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
    for (stage, target), group in _grouped(made).items():
        kernels = list(dict.fromkeys(kernel for result in group for kernel in _kernels_of(result)))
        name = stage if target == "_" else f"{stage} {target}"
        named = ", ".join(kernels) if len(kernels) <= _NAMED else f"{len(kernels)} kernels"
        click.secho(f"{name} for {named}" if kernels else name, bold=True)
        for result in group:
            click.echo(f"in {shortest(result.folder)}")
            files = files_of(result)
            width = max((len(name) for name, _ in files), default=0)
            for name, size in files:
                click.echo(f"  {name:{width}}  {human_size(size):>8}" if size else f"  {name}/")


def _grouped(made: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """Return results by stage and target, those of older kernels first."""
    from pkgkmod.model.kernel import KernelRelease

    grouped: dict[tuple[str, str], list[Result]] = {}
    for result in sorted(made, key=lambda result: () if result.kernel == "_" else KernelRelease(result.kernel).age):
        grouped.setdefault((result.stage, result.target), []).append(result)
    return grouped


def _kernels_of(result: Result) -> list[str]:
    return result.artifact.get("kernels") or ([] if result.kernel == "_" else [result.kernel])


_TARGET = click.option("--target", multiple=True, metavar="NAME", help="Only this target; may be given several times.")
_KERNEL = click.option("--kernel", multiple=True, metavar="RELEASE", help="Only this kernel or pattern.")


@click.command()
@_TARGET
@_KERNEL
@BUILDER
@click.option("--from-source", is_flag=True, help="Compile inside rpmbuild and dpkg-buildpackage, as a farm does.")
@click.option("-j", "--jobs", type=int, metavar="N", help="Parallel jobs of all programs together.")
@click.option(
    "--keep-going/--fail-fast", default=True, help="When a kernel fails, finish the others (default), or stop."
)
@click.option("--no-reuse", is_flag=True, help="Build everything in this project, taking nothing from the cache.")
@click.option("-f", "--force", is_flag=True, help="Run every stage although nothing changed.")
@click.option("-n", "--dry-run", is_flag=True, help="Show the plan only, as `pkgkmod plan` does.")
@command_options
@click.pass_context
def build(ctx: click.Context, /, **given: Any) -> None:
    """Run every stage that is needed: sources, modules, recipes, packages, driver disk."""
    from pkgkmod.engine.plan import default_stages
    from pkgkmod.plugins import STAGES, registered

    settings: dict[str, Any] = {"build.from_source": True} if given["from_source"] else {}
    if given["no_reuse"]:
        settings["build.reuse"] = False
    if given["jobs"] is not None:
        settings["build.jobs"] = given["jobs"]
    ctx.find_root().obj = invocation = ctx.obj.with_options(given).with_settings(settings)
    force = tuple(registered(STAGES)) if given["force"] else ()
    run_stages(invocation, default_stages(), given, force=force)


@click.command()
@click.argument("stages", nargs=-1)
@_TARGET
@_KERNEL
@BUILDER
@command_options
@click.pass_context
def plan(ctx: click.Context, /, stages: tuple[str, ...], **given: Any) -> None:
    """Show what `build`, or the named STAGES, would run and skip, and why. Nothing is touched."""
    from pkgkmod.engine.plan import default_stages

    ctx.find_root().obj = invocation = ctx.obj.with_options(given)
    names = tuple(stage.replace("-", "_") for stage in stages) or default_stages()
    run_stages(invocation, names, {**given, "dry_run": True})

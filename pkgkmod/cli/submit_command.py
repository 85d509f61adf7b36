"""submit: source packages given to a build farm; how they stand there; what was made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.builder_choice import complete_farms
from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options, with_options
from pkgkmod.cli.report import count, shortest
from pkgkmod.cli.submit_report import print_status
from pkgkmod.errors import FarmError, UsageError, did_you_mean
from pkgkmod.progress import escape_controls

if TYPE_CHECKING:
    from pkgkmod.config.load import Loaded
    from pkgkmod.engine.journal import Journal
    from pkgkmod.engine.submit import Wanted
    from pkgkmod.errors import PkgkmodError
    from pkgkmod.farms import Farm, FarmSession, SourcePackage
    from pkgkmod.progress import Progress
    from pkgkmod.workspace import Result, Workspace

_RECIPES = {"rpm": "generate_spec", "deb": "generate_debian"}
"""Stages that make the recipes, by format."""

_BUILDER = click.option(
    "--builder",
    metavar="NAME",
    help="Farm; may be left out where the project has settings of one.",
    shell_complete=complete_farms,
)
_TARGET = click.option("--target", multiple=True, metavar="NAME", help="Only this target; may be given several times.")
_KERNEL = click.option("--kernel", multiple=True, metavar="RELEASE", help="Only this kernel or pattern.")
_LIMIT = click.option(
    "--time-limit", type=click.IntRange(1), metavar="S", help="With --wait: seconds after which to stop waiting."
)
_OPTIONS = [
    _BUILDER,
    _TARGET,
    _KERNEL,
    click.option("--wait", "waits", is_flag=True, help="Wait until everything is built; say what failed, and why."),
    click.option("--fetch", "fetches", is_flag=True, help="Wait, and fetch the packages."),
    _LIMIT,
    click.option("--again", is_flag=True, help="Send what failed at the farm once more, although nothing changed."),
    click.option("-n", "--dry-run", is_flag=True, help="Make the source packages, and show what would be sent."),
]


@dataclass(frozen=True)
class _Farm:
    """The farm that is meant, with its settings and its journal."""

    farm: Farm
    settings: Mapping[str, Any]
    loaded: Loaded
    workspace: Workspace
    journal: Journal

    def session(self, progress: Progress) -> FarmSession:
        """Log in."""
        from pkgkmod.network import HINT, is_offline

        if is_offline():
            raise FarmError(f"{self.farm.name} is not asked", hint=HINT)
        with progress.step(f"Connecting to {self.farm.name}"):
            return self.farm.connect(self.settings, self.loaded.folder, progress)


@click.group(invoke_without_command=True)
@with_options(_OPTIONS)
@command_options
@click.pass_context
def submit(ctx: click.Context, /, **given: Any) -> None:
    """Give the project's source packages to a build farm.

    What was sent before, and did not change, is not sent again: the same command goes on where a killed one was.
    """
    invocation = ctx.obj.with_options(given)
    if ctx.invoked_subcommand:
        ctx.obj = invocation
        return
    ctx.find_root().obj = invocation
    progress = invocation.progress()
    try:
        chosen = _chosen(invocation, given["builder"])
        items = _wanted(chosen, _source_packages(chosen, given, progress))
        _refuse_parts(items, chosen, given)
        if given["dry_run"]:
            _print_wanted(items, chosen, invocation)
            return
        session = chosen.session(progress)
        from pkgkmod.engine.submit import send

        sent = send(items, session, chosen.journal, progress, again=given["again"])
        progress.info(f"{count(sent, 'source package')} sent to {chosen.farm.name}")
        keys = [one.key for one in items]
        made: list[Result] = []
        error: PkgkmodError | None = None
        if given["waits"] or given["fetches"]:
            made, error = _finish(chosen, session, keys, given, progress)
    finally:
        progress.close()
    _print_fetched(made, invocation)
    if error:
        raise error
    if not (given["waits"] or given["fetches"]) and not invocation.json_lines:
        click.echo(f"{count(len(items), 'submission')} at {chosen.farm.name}; `pkgkmod submit status` shows them")


@submit.command("status")
@with_options([_BUILDER])
@command_options
@click.pass_context
def status(ctx: click.Context, /, **given: Any) -> None:
    """Ask the farm how the submissions stand; with --offline, show what it said last.

    Of many, it shows how many stand how, and what failed; with -v, all.
    """
    from pkgkmod.engine.submit import ask
    from pkgkmod.network import is_offline

    invocation = ctx.obj.with_options(given)
    progress = invocation.progress()
    try:
        chosen = _chosen(invocation, given["builder"] or _before(ctx))
        found = chosen.journal.all()
        if found and not is_offline() and not all(one.has_ended for one in found):
            found = ask(chosen.session(progress), chosen.journal)
    finally:
        progress.close()
    print_status(found, json_lines=invocation.json_lines, verbose=invocation.verbosity > 0)


@submit.command("fetch")
@with_options([_BUILDER])
@command_options
@click.pass_context
def fetch(ctx: click.Context, /, **given: Any) -> None:
    """Fetch the packages of what was built at the farm; what is not done yet is left for later."""
    from pkgkmod.engine.fetch import fetch as fetch_all
    from pkgkmod.engine.submit import ask

    invocation = ctx.obj.with_options(given)
    progress = invocation.progress()
    try:
        chosen = _chosen(invocation, given["builder"] or _before(ctx))
        if not chosen.journal.all():
            raise UsageError(f"nothing was given to {chosen.farm.name}", hint="`pkgkmod submit` sends source packages")
        session = chosen.session(progress)
        found = ask(session, chosen.journal)
        ready = [one for one in found if one.has_ended]
        for one in found:
            if not one.has_ended:
                progress.warning(f"{one.id} is not done yet")
        made = fetch_all(ready, session, chosen.journal, chosen.workspace, progress)
        error = _check(chosen, made, progress)
    finally:
        progress.close()
    _print_fetched(made, invocation)
    if error:
        raise error


def _before(ctx: click.Context) -> str | None:
    """Return the farm that is named in front of the subcommand: `submit --builder NAME status`."""
    name: str | None = ctx.parent.params["builder"] if ctx.parent else None
    return name


def _chosen(invocation: Invocation, name: str | None) -> _Farm:
    from pkgkmod.engine.journal import Journal
    from pkgkmod.farms import Farm
    from pkgkmod.plugins import BUILDERS, load, registered
    from pkgkmod.workspace import Workspace

    loaded = invocation.load()
    farms = {one: found for one in registered(BUILDERS) if isinstance(found := load(BUILDERS, one), Farm)}
    configured = [one for one in farms if one in loaded.project.plugin]
    if name is None:
        if len(configured) != 1:
            raise UsageError(
                "which farm is meant is not known" if configured else "the project has no settings of a farm",
                hint=f"name one: --builder {' or --builder '.join(configured or farms)}",
            )
        (name,) = configured
    if name not in farms:
        raise UsageError(f"no farm is called '{name}'", hint=did_you_mean(name, farms) or f"known: {', '.join(farms)}")
    workspace = Workspace(loaded.folder)
    settings = loaded.project.plugin.get(name, {})
    return _Farm(farms[name], settings, loaded, workspace, Journal(workspace, name))


def _source_packages(chosen: _Farm, given: Mapping[str, Any], progress: Progress) -> list[SourcePackage]:
    """Make the source packages of the targets of the farm's format."""
    from pkgkmod.cli.run_commands import select
    from pkgkmod.data.distros import find_distro
    from pkgkmod.engine.execute import execute
    from pkgkmod.farms import SourcePackage
    from pkgkmod.model.artifacts import PackageSet, Recipe

    project, format = chosen.loaded.project, chosen.farm.format
    fitting = [one.id for one in project.target if format in (None, find_distro(one.distro).format)]
    targets = [one for one in given["target"] or fitting if one in fitting]
    if format and not targets:
        raise UsageError(f"{chosen.farm.name} makes {format.upper()}s, and no target that is meant has these")
    # Also with --dry-run: what would be sent is made, and may depend on options of kernels that are not here.
    given = {**given, "target": tuple(targets), "dry_run": False}
    selection = select(chosen.loaded, ("build_source",), given, progress, by_name=True)
    run = execute(selection, chosen.workspace, progress)
    if run.failure:
        raise run.failure
    found = []
    for job in selection.jobs:
        key = (job.target.id, job.kernel_label)
        recipe, made = run.results[(_RECIPES[job.distro.format], *key)], run.results[("build_source", *key)]
        files = [made.folder / one.file for one in made.load(PackageSet).packages]
        first = sorted(files, key=lambda file: file.suffix != ".dsc")
        found.append(SourcePackage(job, recipe.load(Recipe), recipe.folder, tuple(first)))
    return found


def _wanted(chosen: _Farm, packages: Sequence[SourcePackage]) -> tuple[Wanted, ...]:
    from pkgkmod.engine.submit import wanted

    return wanted(chosen.farm, packages, chosen.settings)


def _refuse_parts(items: Sequence[Wanted], chosen: _Farm, given: Mapping[str, Any]) -> None:
    """Raise UsageError where a farm is given a part of what is one package there: the rest would be gone."""
    if given["kernel"] and (group := next((one.group for one in items if one.group), "")):
        raise UsageError(
            f"all kernels are one package at {chosen.farm.name}, {group}: --kernel would take the others out of it",
            hint="leave --kernel out; `multibuild = false` makes a package for each kernel",
        )


def _finish(
    chosen: _Farm,
    session: FarmSession,
    keys: Sequence[tuple[str, str]],
    given: Mapping[str, Any],
    progress: Progress,
) -> tuple[list[Result], PkgkmodError | None]:
    """Wait, fetch and check what was built; return that, and what went wrong."""
    from pkgkmod.engine.fetch import fetch as fetch_all
    from pkgkmod.engine.submit import failure, wait

    wait(session, chosen.journal, progress, keys=keys, time_limit=given["time_limit"])
    ended = [one for key in keys if (one := chosen.journal.get(*key))]
    made: list[Result] = []
    wrong = None
    if given["fetches"]:
        good = [one for one in ended if not one.failed]
        made = fetch_all(good, session, chosen.journal, chosen.workspace, progress)
        wrong = _check(chosen, made, progress)
    failed = failure(ended, session, chosen.journal)
    if failed and wrong:
        progress.warning("\n".join((wrong.brief, wrong.details)))
    return made, failed or wrong


def _check(chosen: _Farm, made: Sequence[Result], progress: Progress) -> PkgkmodError | None:
    """Look into what was fetched; return what is wrong with it, if that is to fail."""
    from pkgkmod.engine.fetched import check_fetched

    return check_fetched(made, chosen.loaded.project, chosen.loaded.folder, chosen.workspace, progress)


def _print_wanted(items: Sequence[Wanted], chosen: _Farm, invocation: Invocation) -> None:
    from pkgkmod.engine.submit import is_sent
    from pkgkmod.progress import JsonLines

    for one in items:
        sent = is_sent(one, chosen.journal)
        name = one.package.files[0].name
        if invocation.json_lines:
            target, kernel = one.key
            JsonLines().event("submission-plan", target=target, kernel=kernel, file=name, asks=one.words, sent=sent)
        else:
            action = f"{'SKIP' if sent else 'SEND':5}"
            why = "was sent before" if sent else one.words
            click.echo(f"{click.style(action, fg=None if sent else 'green')} {name}: {escape_controls(why, keep='')}")


def _print_fetched(made: Sequence[Result], invocation: Invocation) -> None:
    from pkgkmod.cli.run_commands import files_of
    from pkgkmod.progress import JsonLines, human_size

    for result in made:
        if invocation.json_lines:
            paths = [str(result.folder / name) for name, _ in files_of(result)]
            JsonLines().event(
                "fetched", target=result.target, kernel=result.kernel, folder=str(result.folder), files=paths
            )
            continue
        click.echo(f"in {shortest(result.folder)}")
        width = max((len(name) for name, _ in files_of(result)), default=0)
        for name, size in files_of(result):
            click.echo(f"  {name:{width}}  {human_size(size):>8}")

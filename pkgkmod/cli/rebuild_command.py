"""rebuild: the same inputs again, elsewhere, and whether the same bytes come out."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options
from pkgkmod.cli.report import count
from pkgkmod.cli.run_commands import select
from pkgkmod.errors import DifferentError, UsageError

if TYPE_CHECKING:
    from pkgkmod.config.load import Loaded
    from pkgkmod.engine.compare import Comparison
    from pkgkmod.workspace import Result


@click.command()
@click.option("--compare", is_flag=True, help="Compare with the project's results, and show the first difference.")
@click.option("--from-source", is_flag=True, help="Compile inside rpmbuild and dpkg-buildpackage, as a farm does.")
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Build in DIR, and leave it there.")
@click.option("--target", multiple=True, metavar="NAME", help="Only this target; may be given several times.")
@click.option("--kernel", multiple=True, metavar="RELEASE", help="Only this kernel or pattern.")
@click.option("-j", "--jobs", type=int, metavar="N", help="Parallel jobs; one more than the machine has if absent.")
@command_options
@click.pass_context
def rebuild(ctx: click.Context, /, compare: bool, keep: Path | None, **given: Any) -> None:
    """Build everything once more, in another folder, with another number of jobs, taking nothing from the cache.

    With --compare, the modules, packages and disks are compared with those of the project, byte by byte.
    """
    from pkgkmod.engine.execute import execute
    from pkgkmod.engine.plan import default_stages
    from pkgkmod.jobserver import sensible_jobs
    from pkgkmod.plugins import ProjectUnit, SourceUnit
    from pkgkmod.workspace import Workspace

    jobs = given["jobs"] or sensible_jobs(0) + 1
    settings: dict[str, Any] = {"build.reuse": False, "build.jobs": jobs}
    if given["from_source"]:
        settings["build.from_source"] = True
    ctx.find_root().obj = invocation = ctx.obj.with_options(given).with_settings(settings)
    loaded = invocation.load()
    progress = invocation.progress()
    if compare and not Workspace(loaded.folder).all():
        raise UsageError("there is nothing to compare with", hint="run `pkgkmod build` first")
    with tempfile.TemporaryDirectory(prefix="pkgkmod-rebuild-", dir="/var/tmp") as aside:
        folder = (keep or Path(aside)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            run = execute(select(loaded, default_stages(), given, progress), Workspace(folder), progress)
        finally:
            progress.close()
        if run.failure:
            raise run.failure
        if compare:
            # The disk of a part of the targets is another one.
            left_out = (SourceUnit, ProjectUnit) if given["target"] or given["kernel"] else SourceUnit
            made = [r for key, r in run.results.items() if not isinstance(run.steps[key].unit, left_out)]
            _compare(loaded, made, invocation, same_inputs=not given["from_source"])
        elif keep:
            click.echo(f"built in {folder}")


def _compare(loaded: Loaded, made: Sequence[Result], invocation: Invocation, *, same_inputs: bool) -> None:
    from pkgkmod.engine.compare import compare_results
    from pkgkmod.progress import JsonLines
    from pkgkmod.workspace import Workspace

    comparison = compare_results(Workspace(loaded.folder), made, same_inputs=same_inputs)
    if invocation.json_lines:
        for name, same in comparison.files.items():
            JsonLines().event("compared", file=name, same=same)
        for name in comparison.alone:
            JsonLines().event("compared", file=name, same=None)
    else:
        _print(comparison)
    if comparison.different:
        raise DifferentError(
            f"{len(comparison.different)} of {len(comparison.files)} files are not the same",
            details=f"the first difference, in {comparison.different[0]}:\n{comparison.first_difference}",
            hint="a time, a path, or an order of files that the sources bring in is the usual reason",
        )
    if comparison.alone:
        raise UsageError(
            f"the project has no counterpart to {count(len(comparison.alone), 'result')} of these inputs",
            details="\n".join(comparison.alone),
            hint="run `pkgkmod build` first, for the same targets and kernels",
        )


def _print(comparison: Comparison) -> None:
    for name, same in comparison.files.items():
        click.echo(f"{click.style('same' if same else 'OTHER', fg='green' if same else 'red'):5}  {name}")
    if not comparison.different and comparison.files:
        which = "the files that were compared" if comparison.alone else "files"
        click.echo(f"all {len(comparison.files)} {which} are the same, byte by byte")

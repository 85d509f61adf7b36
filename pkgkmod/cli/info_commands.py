"""Commands that only tell: status, kconfig, distros, completion."""

from __future__ import annotations

import time
from typing import Any

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options
from pkgkmod.cli.report import print_table, shortest
from pkgkmod.cli.run_commands import files_of
from pkgkmod.errors import UsageError
from pkgkmod.progress import JsonLines, human_size


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Show older results, too.")
@command_options
@click.pass_context
def status(ctx: click.Context, /, everything: bool, **given: Any) -> None:
    """Show the newest result of each stage, target and kernel: state, files and place."""
    from pkgkmod.workspace import Workspace

    invocation: Invocation = ctx.obj.with_options(given)
    loaded = invocation.load()
    results = Workspace(loaded.folder).all()
    if not everything:
        newest = {}
        for result in sorted(results, key=lambda r: r.finished):
            newest[(result.stage, result.target, result.kernel)] = result
        results = sorted(newest.values(), key=lambda r: r.finished)
    if invocation.json_lines:
        for result in results:
            JsonLines().event("status", **result.model_dump(exclude={"outputs", "ingredients"}))
        return
    if not results:
        click.echo("nothing has been made yet; `pkgkmod plan` shows what `pkgkmod build` would do")
        return
    for result in results:
        where = "/".join(part for part in (result.target, result.kernel) if part != "_")
        edited = " (edited by hand)" if result.state == "ok" and result.changed_files() else ""
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(result.finished))
        if result.state == "excluded":
            click.echo(f"{click.style('skipped', fg='yellow')} {result.stage} {where}: {result.reason}")
            continue
        colour = "green" if result.state == "ok" else "red"
        click.echo(
            f"{click.style(result.state, fg=colour):6} {result.stage} {where}{edited}  {when}  {result.seconds:.1f} s"
        )
        click.echo(f"       {shortest(result.folder)}")
        if result.reason:
            click.echo(f"       {result.reason}")
        for name, size in files_of(result) if result.state == "ok" else ():
            click.echo(f"       - {name}" + (f"  {human_size(size)}" if size else "/"))


@click.command()
@click.option("--kernel", metavar="RELEASE", help="Kernel whose .config answers; the newest of the targets if absent.")
@command_options
@click.pass_context
def kconfig(ctx: click.Context, /, kernel: str | None, **given: Any) -> None:
    """List the kernel options that the sources ask about, their values, and where each value is from."""
    from pkgkmod.engine.resolve import resolve_jobs
    from pkgkmod.kernels.tree import read_options
    from pkgkmod.modules.kconfig import asked_options, option_values
    from pkgkmod.modules.survey import survey
    from pkgkmod.workspace import Workspace

    invocation: Invocation = ctx.obj.with_options({**given, "quiet": True})
    loaded = invocation.load()
    jobs = resolve_jobs(loaded.project, loaded.folder, kernels=(kernel,) if kernel else ()).jobs
    chosen, label = max(
        ((k, job.source_label) for job in jobs for k in job.kernels), key=lambda found: found[0].release
    )
    result = Workspace(loaded.folder).newest("prepare_sources", label, "_")
    if result is None or result.state != "ok":
        raise UsageError("no sources have been imported yet", hint="run `pkgkmod prepare_sources` first")
    tree = result.folder / "tree"
    overridden = survey(loaded.project, tree).overridden
    values = option_values(asked_options(tree), overridden, loaded.project, read_options(chosen.place))
    if invocation.json_lines:
        for value in values:
            JsonLines().event("option", name=value.name, value=value.value, origin=value.origin, files=value.files)
        return
    origins = {
        "module": "set for the modules",
        "project": "[kconfig] of the project",
        "kernel": f".config of {chosen.uname_r}",
        "not set": f"not set in {chosen.uname_r}",
    }
    rows = [
        [
            f"CONFIG_{v.name}",
            v.value,
            origins[v.origin],
            f"{len(v.files)} file{'s' if len(v.files) != 1 else ''}",
        ]
        for v in values
    ]
    print_table(["OPTION", "VALUE", "FROM", "ASKED IN"], rows)


@click.command()
def distros() -> None:
    """List the distributions that can be targets."""
    from pkgkmod.data import names
    from pkgkmod.data.distros import find_distro

    found = [find_distro(name) for name in names("distros")]
    rows = [[d.id, d.format, ", ".join(d.installers) or "-", d.title] for d in found]
    print_table(["DISTRO", "PACKAGES", "DRIVER DISK", "TITLE"], rows)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL; bash: source <(pkgkmod completion bash)."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "pkgkmod", "_PKGKMOD_COMPLETE").source())

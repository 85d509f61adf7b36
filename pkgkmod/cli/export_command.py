"""export: the project in a form that other tools build from."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options
from pkgkmod.cli.report import count
from pkgkmod.errors import UsageError

if TYPE_CHECKING:
    from pkgkmod.config.load import Loaded
    from pkgkmod.model.project import Target
    from pkgkmod.progress import Progress
    from pkgkmod.workspace import Result


@click.group()
def export() -> None:
    """Write the project in the form of another tool."""


@export.command()
@click.option(
    "-o",
    "--output",
    "place",
    type=click.Path(path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Folder in which NAME-VERSION is made (default: this one).",
)
@click.option("--target", metavar="NAME", help="Target that the folder is for; the first if absent.")
@click.option("-f", "--force", is_flag=True, help="Replace a folder that was exported before.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")
@command_options
@click.pass_context
def dkms(ctx: click.Context, /, **given: Any) -> None:
    """Write the folder NAME-VERSION that dkms builds from: the patched sources, and dkms.conf.

    It holds what a package NAME-dkms installs below /usr/src; `dkms add FOLDER` takes it, and needs no pkgkmod.
    """
    from pkgkmod.packages.dkms import dkms_folder_name

    invocation: Invocation = ctx.obj.with_options(given)
    loaded = invocation.load()
    target = _target(loaded, given["target"])
    folder = given["place"] / dkms_folder_name(loaded.project.for_target(target))
    _refuse_existing(folder, force=given["force"])
    if loaded.project.requires:
        raise UsageError(
            "a project with [[requires]] cannot be exported for dkms",
            details="for the kernels that it builds for there are no symbols of the other driver to build on",
        )
    if given["dry_run"]:
        _print_plan(invocation, target, folder)
        return
    progress = invocation.progress()
    try:
        if some := [module.name for module in loaded.project.module if module.kernels]:
            progress.warning(f"dkms builds {', '.join(some)} for all kernels: module.kernels is not in dkms.conf")
        sources = _import(loaded, target, progress)
        modules = _write(loaded, target, sources, folder)
        if invocation.json_lines:
            progress.event("dkms-folder", folder=str(folder.absolute()), modules=list(modules))
        else:
            click.echo(f"wrote {folder}: {count(len(modules), 'module')} ({', '.join(modules)})")
            info = loaded.project.for_target(target).project
            progress.info(f"next: dkms add {folder}; dkms build {info.name}/{info.version}")
    finally:
        progress.close()


def _print_plan(invocation: Invocation, target: Target, folder: Path) -> None:
    from pkgkmod.cli.run_commands import run_stages
    from pkgkmod.progress import JsonLines

    run_stages(invocation, ("prepare_sources",), _choice(target, dry_run=True))
    if invocation.json_lines:
        JsonLines().event("plan", stage="export", target=target.id, kernel="_", action="WRITE", reason=str(folder))
    else:
        click.echo(f"WRITE export {target.id}: {folder}")


def _target(loaded: Loaded, name: str | None) -> Target:
    from pkgkmod.engine.resolve import chosen_targets

    targets = chosen_targets(loaded.project.target, (name,) if name else ())
    if not targets:
        raise UsageError(
            "the project has no target", hint="a [[target]] table says for which distribution dkms.conf is written"
        )
    return targets[0]


def _choice(target: Target, *, dry_run: bool = False) -> Mapping[str, Any]:
    return {"target": (target.id,), "dry_run": dry_run}


def _refuse_existing(folder: Path, *, force: bool) -> None:
    """Raise UsageError for what is at the place already, unless it was exported before and may be replaced."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not force:
        raise UsageError(f"{folder} is there already", hint="--force replaces it, -o puts it elsewhere")
    exported = all((folder / name).is_file() for name in ("dkms.conf", "pkgkmod.mk"))
    if folder.is_symlink() or not exported:
        raise UsageError(
            f"{folder} is not replaced: it was not exported before", hint="move it away, or give another folder with -o"
        )


def _import(loaded: Loaded, target: Target, progress: Progress) -> Result:
    """Return the sources of a target, imported and patched."""
    from pkgkmod.cli.run_commands import select
    from pkgkmod.engine.execute import execute
    from pkgkmod.workspace import Workspace

    selection = select(loaded, ("prepare_sources",), _choice(target), progress)
    run = execute(selection, Workspace(loaded.folder), progress)
    if run.failure:
        raise run.failure
    return run.results["prepare_sources", target.source_label, "_"]


def _write(loaded: Loaded, target: Target, sources: Result, folder: Path) -> tuple[str, ...]:
    """Write the folder aside, and put it into its place in one step; return the names of its modules."""
    from pkgkmod.data.distros import find_distro
    from pkgkmod.model.artifacts import SourceTree
    from pkgkmod.packages.dkms import write_dkms_folder

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as aside:
            made = Path(aside, folder.name)
            modules = write_dkms_folder(
                loaded.project.for_target(target),
                sources.folder,
                sources.load(SourceTree).provenance,
                made,
                base=loaded.folder,
                distro=find_distro(target.distro),
            )
            if folder.exists():
                folder.rename(Path(aside, "before"))
            made.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UsageError(f"{folder} cannot be written", details=error.strerror or str(error)) from None
    return modules

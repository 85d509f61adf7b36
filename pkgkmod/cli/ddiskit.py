"""What the commands that ddiskit had do beyond running their stage; its flags keep letters and meaning."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.errors import SourcesChangedError, UsageError

_PATH = click.Path(path_type=Path)


def prepare_sources_options() -> list[click.Parameter]:
    """Return the options of prepare_sources that write or check, rather than import."""
    return [
        click.Option(
            ["-t", "--config-template"],
            type=_PATH,
            metavar="FILE",
            help="Project file to start a new one from.",
        ),
        click.Option(["-M", "--major"], type=int, metavar="N", help="Major release of the distribution (new project)."),
        click.Option(["-m", "--minor"], type=int, metavar="N", help="Minor release of the distribution (new project)."),
        click.Option(
            ["--check"], is_flag=True, help="Only tell whether the imported files are as git and patches say."
        ),
    ]


def generate_options() -> list[click.Parameter]:
    """Return the further options of generate_spec and generate_debian."""
    return [
        click.Option(["-t", "--template"], type=_PATH, metavar="FILE", help="Template to use (its folder is searched).")
    ]


def build_rpm_options() -> list[click.Parameter]:
    """Return the further options of build_rpm."""
    return [click.Option(["-G", "--generate"], is_flag=True, help="Generate the spec anew, even over edits by hand.")]


def template_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings for `-t`: the folder of the template takes precedence."""
    template: Path | None = given.get("template")
    if template is None:
        return {}
    if not template.is_file():
        raise UsageError(f"the template {template} is not a file", hint="give a file, such as kmod.spec.j2")
    return {"rpm.templates": str(template.parent.resolve()), "deb.templates": str(template.parent.resolve())}


def with_sources(invocation: Invocation, given: Mapping[str, Any]) -> tuple[Invocation, Callable[[], None]]:
    """Return the invocation for the sources given with -g, -r and -d, and what writes them to the project file.

    The revision becomes a full commit id. They are to be written once they were imported. Where there is
    no project file yet, one is made, as ddiskit did.
    """
    from pkgkmod.cachefolder import cache_folder
    from pkgkmod.cli.moduleconfig import with_files
    from pkgkmod.config.importers.ddiskitini import is_module_config
    from pkgkmod.config.write import record_source
    from pkgkmod.sources.repository import resolve_source

    if is_module_config(invocation.config):
        return with_files(invocation, dry_run=given["dry_run"]), lambda: None
    chosen = {key: invocation.settings.get(f"source.{key}") for key in ("repository", "revision", "directories")}
    if not invocation.config.exists():
        _new_project(invocation.config, chosen, given)
    elif not any(chosen.values()):
        return invocation, lambda: None
    repository = chosen["repository"]
    if repository and Path(repository).expanduser().exists():
        invocation = invocation.with_settings({"source.repository": os.path.abspath(Path(repository).expanduser())})
    loaded = invocation.load()
    source = loaded.project.source
    progress = invocation.progress()
    commit = resolve_source(source, base=loaded.folder, cache=cache_folder(), progress=progress)

    def record() -> None:
        for line in record_source(
            invocation.config,
            repository=source.repository,
            revision=commit,
            directories=source.directories,
            comment=source.revision if source.revision not in (None, commit) else None,
        ):
            progress.info(line)

    return invocation.with_settings({"source.revision": commit}), record


def _new_project(path: Path, chosen: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    from pkgkmod.cli.project_commands import default_targets, write_project_file

    if given["config_template"]:
        path.write_bytes(given["config_template"].read_bytes())
        return
    if not (chosen["repository"] and chosen["directories"]):
        raise UsageError(
            f"there is no {path} here",
            hint="`pkgkmod init` writes one; so does prepare_sources when it is given -g REPO and -d DIR",
        )
    name = Path(chosen["directories"][0]).name.lower()
    targets = [(f"el{given['major']}", given["minor"])] if given["major"] is not None else default_targets()
    write_project_file(path, name=name, targets=targets)


def check_sources(invocation: Invocation) -> None:
    """Say whether the imported files equal the recorded git trees plus patches; fail where the level is `fail`."""
    from pkgkmod.model.artifacts import SourceTree
    from pkgkmod.sources.verify import tree_differences
    from pkgkmod.workspace import Workspace

    loaded = invocation.load()
    level = loaded.project.source.check
    workspace = Workspace(loaded.folder)
    labels = list(dict.fromkeys(target.source_label for target in loaded.project.target)) or ["_"]
    imported = [result for label in labels if (result := workspace.newest("prepare_sources", label, "_"))]
    if not any(result.state == "ok" for result in imported):
        raise UsageError("no sources have been imported yet", hint="run `pkgkmod prepare_sources` first")
    if level == "off":
        click.echo("not checked: source.check is off")
        return
    for result in imported:
        tree = result.load(SourceTree)
        differences = tree_differences(result.folder, tree)
        if differences and level == "fail":
            raise SourcesChangedError(
                f"{len(differences)} imported files are not what git and the patches say",
                details="\n".join(differences),
                hint="make a patch of the edits, or import again with `pkgkmod prepare_sources --force`",
            )
        for line in differences:
            click.echo(line)
        if not differences:
            click.echo(f"the imported files are those of {tree.provenance.commit} plus patches")


def move_into_place(made: Path, destination: Path) -> None:
    """Put a finished file where it was asked for, in one step."""
    import shutil

    aside = destination.with_name(f".{destination.name}.{os.getpid()}")
    try:
        shutil.copyfile(made, aside)
        aside.replace(destination)
    finally:
        aside.unlink(missing_ok=True)

"""import: a project file of another tool's project, with a report of what became of each of its values."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import PROJECT_FILE, with_options
from pkgkmod.cli.report import count, shortest
from pkgkmod.errors import UsageError
from pkgkmod.progress import JsonLines, escape_controls

if TYPE_CHECKING:
    from pkgkmod.config.importers.ddiskitproject import DdiskitProject
    from pkgkmod.config.importers.report import Entry
    from pkgkmod.progress import Progress

KEPT = "sources"
"""The repository that an import makes of a project's sources, beside the project file."""
_COLOURS = {"carried": "green", "changed": "yellow", "decide": "red", "left out": None}
_ORDER = ("decide", "changed", "left out", "carried")
_PATH = click.Path(path_type=Path)

IMPORT_OPTIONS = [
    click.option("-o", "--output", type=_PATH, metavar="DIR", help="Folder for the new project (default: the same)."),
    click.option("-f", "--force", is_flag=True, help="Write over a project file that is there."),
    click.option("-n", "--dry-run", is_flag=True, help="Only show the project file, and what became of each value."),
    click.option("--json", "json_lines", is_flag=True, help="Speak in JSON lines, for programs."),
    click.option("--quiet", is_flag=True, help="Do not list what was carried over as it was."),
]
"""What every import takes."""


# In files of their own, which are loaded when they are used.
_ELSEWHERE = {"dkms": "import_dkms:dkms", "spec": "import_spec:spec"}


class _Imports(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = _ELSEWHERE[cmd_name].partition(":")
        found: click.Command = getattr(import_module(f"pkgkmod.cli.{module}"), attribute)
        return found


@click.group("import", cls=_Imports)
def import_group() -> None:
    """Make a project file of another tool's project."""


@import_group.command("ddiskit")
@click.argument("folder", type=_PATH, metavar="DIR")
@click.option("-c", "--config", metavar="FILE", default="module.config", help="ddiskit's file (module.config).")
@click.option("-g", "--git-dir", metavar="REPO", help="Kernel repository that git_hash is from: a folder or a URL.")
@click.option("-p", "--profile", metavar="NAME", help="Profile of ddiskit.")
@click.option("-P", "--profile-dir", type=_PATH, metavar="DIR", help="Folder of ddiskit's profiles.")
@with_options(IMPORT_OPTIONS)
@click.pass_context
def ddiskit(ctx: click.Context, /, folder: Path, config: str, **given: Any) -> None:
    """Make a project file of the ddiskit project in DIR, and a repository of its sources.

    The sources in src/ become a git repository, sources/, unless the kernel repository given with -g has git_hash and
    the same files. Patches and firmware stay where they are, or are copied with -o. DIR itself is not changed.
    """
    from pkgkmod.config.importers.ddiskitproject import read_project
    from pkgkmod.config.importers.projectfile import check_absent

    invocation: Invocation = ctx.obj.with_options({key: given[key] for key in ("json_lines", "quiet")})
    if folder.is_file():
        folder, config = folder.parent, folder.name
    output: Path = given["output"] or folder
    file = output / PROJECT_FILE
    if not given["dry_run"]:
        check_absent(file, force=given["force"])
    profile_dir = given["profile_dir"] or invocation.profile_dir
    project = read_project(folder / config, profile=given["profile"] or invocation.profile, profile_dir=profile_dir)
    entries = [*project.entries]
    progress = invocation.progress()
    try:
        found = _in_repository(project, given["git_dir"], entries, progress) if given["git_dir"] else None
        text = _text(project, config, entries, found, apart=not _same(output, folder))
        if not given["dry_run"]:
            _write(project, folder, output, text, force=given["force"], repository=found is None, progress=progress)
    finally:
        progress.close()
    if given["dry_run"] and not invocation.json_lines:
        click.echo(escape_controls(text), nl=False)
    print_report(entries, invocation)
    if not given["dry_run"] and not invocation.json_lines:
        click.echo(f"wrote {shortest(file.absolute())}; next: pkgkmod -c {shortest(file.absolute())} plan")


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _in_repository(
    project: DdiskitProject, repository: str, entries: list[Entry], progress: Progress
) -> tuple[str, str] | None:
    """Return the repository and the full commit if it has the same files; None, with a word about it, if not."""
    from pkgkmod.cachefolder import cache_folder
    from pkgkmod.cli.moduleconfig import files_of
    from pkgkmod.config.importers.report import Entry
    from pkgkmod.sources.treecommit import difference

    folder = Path(repository).expanduser()
    location = os.path.abspath(folder) if folder.exists() else repository
    if not project.git_hash:
        raise UsageError("-g needs git_hash in module.config", hint="without -g, src/ becomes a repository of its own")
    commit, differs = difference(
        location,
        project.git_hash,
        files_of(project),
        project.build_dir,
        base=Path.cwd(),
        cache=cache_folder(),
        progress=progress,
    )
    if differs:
        what = f"{location} at {commit[:12]} is not what src/ has: {differs}; {KEPT}/ has what is in src/"
        entries.append(Entry("git_hash", project.git_hash, "decide", what))
        return None
    return location, commit


def _text(
    project: DdiskitProject, name: str, entries: Sequence[Entry], found: tuple[str, str] | None, *, apart: bool
) -> str:
    from pkgkmod.cli.moduleconfig import commit_of_sources
    from pkgkmod.config.importers.ddiskitsources import FIRMWARE, PATCHES
    from pkgkmod.config.importers.projectfile import project_text

    values = {table: dict(keys) if isinstance(keys, dict) else keys for table, keys in project.values.items()}
    source = values.pop("source", {})
    if found:
        source = {"repository": found[0], "revision": found[1], **source}
    elif project.sources.files:
        source = {"repository": KEPT, "revision": commit_of_sources(project).commit, **source}
    if source:
        values["source"] = source
    if apart and "patches" in source:
        source["patches"] = PATCHES
    if apart and "directory" in values.get("firmware", {}):
        values["firmware"]["directory"] = FIRMWARE
    return project_text(values, entries, name)


def _write(
    project: DdiskitProject, folder: Path, output: Path, text: str, *, force: bool, repository: bool, progress: Progress
) -> None:
    from pkgkmod.cli.moduleconfig import commit_of_sources
    from pkgkmod.config.importers.ddiskitsources import FIRMWARE, PATCHES, SOURCES
    from pkgkmod.config.importers.projectfile import write_project
    from pkgkmod.sources.treecommit import write_worktree

    output.mkdir(parents=True, exist_ok=True)
    if repository and project.sources.files:
        write_worktree(output / KEPT, commit_of_sources(project), progress)
    if not _same(output, folder):
        copy_files(folder / SOURCES / PATCHES, output / PATCHES)
        if "directory" in project.values.get("firmware", {}):
            copy_files(folder / SOURCES / FIRMWARE, output / FIRMWARE)
    # Last: where it is, the rest is, too.
    write_project(output / PROJECT_FILE, text, force=force)


def copy_files(source: Path, destination: Path) -> None:
    """Copy the plain files below a folder; raise UsageError if other ones are there already."""
    if not source.is_dir():
        return
    files = [file for file in sorted(source.rglob("*")) if file.is_file() and not file.is_symlink()]
    content = {str(file.relative_to(source)): file for file in files}
    if destination.exists():
        there = {str(file.relative_to(destination)): file for file in destination.rglob("*") if file.is_file()}
        if set(there) != set(content) or any(there[name].read_bytes() != content[name].read_bytes() for name in there):
            raise UsageError(f"{destination} is there already, and holds other files", hint="move it away")
        return
    aside = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}."))
    try:
        for name, file in content.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, aside / name)
        aside.chmod(0o755)
        aside.replace(destination)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def print_report(entries: Sequence[Entry], invocation: Invocation) -> None:
    """Say what became of each value: those that need a decision first."""
    if invocation.json_lines:
        for entry in entries:
            JsonLines().event(
                "imported", key=entry.key, value=entry.value, outcome=entry.outcome, text=entry.text, place=entry.place
            )
        return
    for outcome in _ORDER:
        listed = [entry for entry in entries if entry.outcome == outcome]
        if not listed or (outcome == "carried" and invocation.quiet):
            continue
        click.secho(f"{outcome} ({count(len(listed), 'value')})", bold=True, fg=_COLOURS[outcome], err=True)
        for entry in listed:
            for line in _lines(entry):
                click.echo(escape_controls(line), err=True)


def _lines(entry: Entry) -> Iterator[str]:
    place = f" ({entry.place})" if entry.place else ""
    said = f" = {entry.shown}" if entry.value else ""
    width = shutil.get_terminal_size().columns if sys.stderr.isatty() else 100
    yield f"  {entry.key}{said}{place}"
    yield from textwrap.wrap(
        escape_controls(entry.text, keep=""),
        width,
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )

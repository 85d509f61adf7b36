"""`-c module.config`: ddiskit's own file in the place of a project file, read anew by each command."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.report import count
from pkgkmod.config.importers.ddiskitini import profile_file
from pkgkmod.config.importers.ddiskitproject import DdiskitProject, as_layers, is_override, read_project
from pkgkmod.config.importers.ddiskitsources import SOURCES
from pkgkmod.config.load import load
from pkgkmod.errors import UsageError
from pkgkmod.sources.treecommit import Files, TreeCommit, make_commit, recorded_commit, write_commit

if TYPE_CHECKING:
    from pkgkmod.config.load import Loaded
    from pkgkmod.progress import Progress

_GIVEN = ("source.repository", "source.revision", "source.directories")
REPOSITORY = "results/.src.git"
"""Where the sources in src/ are kept as commits, by what they hold."""


def load_module_config(invocation: Invocation) -> Loaded:
    """Return the project that ddiskit's file describes; raise ConfigError if it cannot be one.

    `-C section.key=value` with one of ddiskit's sections, and a profile that ddiskit has, are ddiskit's; others ours.
    """
    path = invocation.config.absolute()
    project, ours = _read(invocation)
    if project.sources.files:
        source: dict[str, Any] = project.values.setdefault("source", {})
        source |= {"repository": REPOSITORY, "revision": _commit_of(commit_of_sources(project), path.parent)}
    return load(
        path,
        overrides=[text for text in invocation.overrides if not is_override(text)],
        profile=invocation.profile if ours else None,
        profile_dir=invocation.profile_dir,
        settings=invocation.settings,
        own_layers=as_layers(project, path),
    )


def keep_sources(invocation: Invocation, progress: Progress) -> None:
    """Write the sources in src/ into a repository in the results, so that they can be imported.

    Say how much of ddiskit's file needs a look.
    """
    project, _ = _read(invocation)
    open_questions = [entry for entry in project.entries if entry.outcome in ("changed", "decide")]
    if open_questions:
        words = f"{count(len(open_questions), 'value')} of {invocation.config.name} cannot be taken as they are"
        progress.info(f"{words}: `pkgkmod import ddiskit -n {shlex.quote(str(invocation.config.parent))}` lists them")
    folder = invocation.config.absolute().parent
    made = commit_of_sources(project)
    if project.sources.files and _commit_of(made, folder) != recorded_commit(folder / REPOSITORY, made.label):
        write_commit(folder / REPOSITORY, made)


def with_files(invocation: Invocation, *, dry_run: bool) -> Invocation:
    """Put the files given with -g, -r and -d into src/, as ddiskit did, and return the invocation without these.

    Raise UsageError if src/ has sources already. Nothing happens without -g, -r and -d, and with `dry_run`.
    """
    from pkgkmod.cachefolder import cache_folder
    from pkgkmod.sources.repository import resolve_source
    from pkgkmod.sources.treecommit import write_tree

    if dry_run or not any(key.startswith("source.") and key in _GIVEN for key in invocation.settings):
        return invocation
    loaded = invocation.load()
    folder = loaded.folder / SOURCES
    project, _ = _read(invocation)
    if project.sources.files:
        raise UsageError(f"{folder} has sources already", hint="without -g, -r and -d, these are taken")
    source, progress = loaded.project.source, invocation.progress()
    cache = cache_folder()
    commit = resolve_source(source, base=Path.cwd(), cache=cache, progress=progress)
    with progress.step(f"Copying {', '.join(source.directories)} at {commit[:12]} to {SOURCES}/"):
        write_tree(source, commit, folder, base=Path.cwd(), cache=cache, progress=progress)
    progress.info(f"for {invocation.config.name}: git_hash = {commit}")
    settings = {key: value for key, value in invocation.settings.items() if key not in _GIVEN}
    return replace(invocation, settings=settings)


def _read(invocation: Invocation) -> tuple[DdiskitProject, bool]:
    """Return the project, and whether the profile is one of ours."""
    named, folder = invocation.profile, invocation.profile_dir
    theirs = named if named and profile_file(named, folder).is_file() else None
    overrides = [text for text in invocation.overrides if is_override(text)]
    project = read_project(invocation.config.absolute(), profile=theirs, profile_dir=folder, overrides=overrides)
    return project, named is not None and theirs is None


def files_of(project: DdiskitProject) -> Files:
    """Return what src/ holds, as git would keep it."""
    return {path: (file.mode, file.content) for path, file in project.sources.files.items()}


def commit_of_sources(project: DdiskitProject) -> TreeCommit:
    """Return the commit of what src/ holds."""
    return make_commit(files_of(project), epoch=epoch_of(project), message=project.message)


def epoch_of(project: DdiskitProject) -> int:
    """Return the date of the sources, in seconds since 1970: SOURCE_DATE_EPOCH, or when the newest file was changed."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(given) if given.isdecimal() and given.isascii() else max(project.sources.newest, 0)


def _commit_of(made: TreeCommit, folder: Path) -> str:
    """Return the commit's id; of the same files, it stays what it was, whenever they were touched."""
    if os.environ.get("SOURCE_DATE_EPOCH"):
        return made.commit
    return recorded_commit(folder / REPOSITORY, made.label) or made.commit

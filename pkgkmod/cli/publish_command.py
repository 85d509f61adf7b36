"""publish: finished packages as repositories that apt, dnf and zypper install from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options, with_options
from pkgkmod.cli.report import count
from pkgkmod.cli.sign_command import key_settings
from pkgkmod.errors import UsageError, did_you_mean
from pkgkmod.progress import JsonLines, escape_controls

if TYPE_CHECKING:
    from pydantic import BaseModel

    from pkgkmod.model.artifacts import PackageFormat
    from pkgkmod.model.packaging import Signing
    from pkgkmod.model.project import Project
    from pkgkmod.model.project import Publish as Settings
    from pkgkmod.progress import Progress
    from pkgkmod.publish.entries import Incoming
    from pkgkmod.publish.gpg import Signer
    from pkgkmod.publish.repository import Change, Style
    from pkgkmod.signing.openssl import Run

    M = TypeVar("M", bound=BaseModel)

_PATH = click.Path(path_type=Path)
_SETTINGS = ("origin", "label", "component", "url", "keep")

_OPTIONS = [
    click.option("--apt", type=_PATH, metavar="DIR", help="Repository for apt, of DEBs and their sources."),
    click.option("--rpm-md", type=_PATH, metavar="DIR", help="Repository for dnf, yum and zypper, of RPMs."),
    click.option("--suite", metavar="NAME", help="With FILES: suite (apt) or release; else as their versions say."),
    click.option("--url", metavar="URL", help="Address at which users reach the folder."),
    click.option("--origin", metavar="TEXT", help="Who publishes (apt); the vendor if absent."),
    click.option("--label", metavar="TEXT", help="What is published; the project's name if absent."),
    click.option("--component", metavar="NAME", help="Component of the apt repository (main)."),
    click.option("--prune", "keep", type=click.IntRange(1), metavar="N", help="Keep the newest N versions only."),
    click.option("--package-key", metavar="ID", help="GPG key that signs the index."),
    click.option("--gpg-home", metavar="DIR", help="Folder of the GPG keyring (~/.gnupg)."),
    click.option("--target", multiple=True, metavar="NAME", help="Only this target; may be given several times."),
    click.option("-n", "--dry-run", is_flag=True, help="Show what would be published only."),
]


@click.command()
@click.argument("files", nargs=-1, type=_PATH)
@with_options(_OPTIONS)
@command_options
@click.pass_context
def publish(ctx: click.Context, /, **given: Any) -> None:
    """Put finished packages into a repository for apt, dnf or zypper.

    Without FILES, these are the newest packages of the project. With FILES (packages, or folders of them), no project
    is needed. They are added to what is in DIR; nothing there is ever written over, and readers see the old index or
    the new one. The index is signed with package_key in [signing], or --package-key.
    """
    invocation: Invocation = ctx.obj.with_options({**given, "output": None})
    if not given["apt"] and not given["rpm_md"]:
        raise UsageError("publish where to?", hint="give --apt DIR, --rpm-md DIR, or both")
    if given["suite"] and not given["files"]:
        raise UsageError("--suite goes with FILES", hint="the packages of a project know theirs")
    if given["target"] and given["files"]:
        raise UsageError("--target does not go with FILES", hint="it chooses among the packages of a project")
    progress = invocation.progress()
    try:
        with tempfile.TemporaryDirectory(prefix="pkgkmod-") as scratch:
            done = list(_published(_session(invocation, given, progress, Path(scratch))))
    finally:
        progress.close()
    for one in done:
        _tell(one, invocation, dry_run=given["dry_run"])


@dataclass(frozen=True)
class _Session:
    given: Mapping[str, Any]
    project: Project
    base: Path
    settings: Settings
    signing: Signing
    signer: Signer | None
    run: Run
    scratch: Path
    progress: Progress


@dataclass(frozen=True)
class _Published:
    """What became of a repository."""

    format: PackageFormat
    root: Path
    changes: Sequence[Change]
    session: _Session

    @property
    def url(self) -> str:
        return (self.session.settings.url or self.root.absolute().as_uri()).rstrip("/")

    @property
    def name(self) -> str:
        """Name of the files that a user writes."""
        return self.session.project.project.name if self.session.project.project.name != "none" else "drivers"


def _session(invocation: Invocation, given: Mapping[str, Any], progress: Progress, scratch: Path) -> _Session:
    from pkgkmod.command import run
    from pkgkmod.config.load import load_settings
    from pkgkmod.publish.gpg import Signer
    from pkgkmod.signing.rpmsign import find_package_key, keyring

    if invocation.config.exists() or not given["files"]:
        loaded = invocation.load()
        project, base = loaded.project, loaded.folder
    else:
        project, base = load_settings(invocation.overrides), Path.cwd()
    keys = key_settings({"key": None, "certificate": None, "hash": None, **given})
    signing = _with(project.signing, {key.partition(".")[2]: value for key, value in keys.items()})
    settings = _with(project.publish, {key: given[key] for key in _SETTINGS if given[key] is not None})
    signer = None

    def logged(command: Any) -> Any:
        return run(command, log=scratch / "log", progress=progress)

    if signing.package_key:
        signer = Signer(find_package_key(signing.package_key, keyring(signing.gpg_home, base)), logged)
    return _Session(given, project, base, settings, signing, signer, logged, scratch, progress)


def _with(model: M, values: Mapping[str, Any]) -> M:
    """Return a table of the settings with options on top; raise UsageError, in the words of options, if it is wrong."""
    from pydantic import ValidationError

    try:
        return type(model).model_validate({**model.model_dump(), **values})
    except ValidationError as error:
        words = [(".".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, ")) for one in error.errors()]
        said = "; ".join(f"{place}: {text}".removeprefix(": ") for place, text in words)
        raise UsageError(said, hint="`pkgkmod publish --help` lists the options") from None


def _published(session: _Session) -> Iterator[_Published]:
    from pkgkmod.publish.checks import check_signatures
    from pkgkmod.publish.repository import checked_series, plan
    from pkgkmod.publish.repository import publish as put

    given, progress = session.given, session.progress
    roots: dict[PackageFormat, Path] = {}
    roots |= {"deb": given["apt"]} if given["apt"] else {}
    roots |= {"rpm": given["rpm_md"]} if given["rpm_md"] else {}
    found = _found(session, roots)
    for format, suites in found.items():
        files = [file for paths in suites.values() for file in paths]
        with progress.step(f"checking {count(len(files), 'file')}"):
            check_signatures(files, format, session.signing, session.base, session.signer, session.run, session.scratch)
    if session.signer is None:
        progress.warning(
            "the repository is not signed: whoever can change it on its way can install anything on its users' "
            "machines; package_key in [signing], or --package-key, names a key"
        )
    for format, root in roots.items():
        wanted: dict[str, list[Incoming]] = {}
        for suite, paths in found[format].items():
            wanted |= _read(format, paths, checked_series(suite), root, session)
        style = _style(format, session)
        if given["dry_run"]:
            changes = plan(root, style, wanted, session.settings.keep)
        else:
            with progress.step(f"publishing into {root}"):
                changes = put(root, style, wanted, session.settings.keep, progress)
                if session.signer:
                    session.signer.write_public_key(root)
        yield _Published(format, root, changes, session)


def _found(session: _Session, formats: Mapping[PackageFormat, Path]) -> dict[PackageFormat, dict[str, list[Path]]]:
    """Return the files to publish, by format and suite."""
    from pkgkmod.publish.collect import by_suite, find_files, of_project
    from pkgkmod.workspace import Workspace

    given, project = session.given, session.project
    if given["files"]:
        files = find_files(given["files"], formats)
        return {format: by_suite(paths, format, given["suite"]) for format, paths in files.items()}
    known = [target.id for target in project.target]
    if unknown := [name for name in given["target"] if name not in known]:
        hint = did_you_mean(unknown[0], known) or f"there are: {', '.join(known)}"
        raise UsageError(f"the project has no target '{unknown[0]}'", hint=hint)
    workspace = Workspace(session.base)
    return {format: of_project(workspace, project, format, given["target"], session.progress) for format in formats}


def _read(
    format: PackageFormat, paths: Sequence[Path], suite: str, root: Path, session: _Session
) -> dict[str, list[Incoming]]:
    from pkgkmod.publish import apt, rpmmd

    if format == "deb":
        return {suite: apt.read_packages(paths, suite, session.settings.component)}
    return rpmmd.read_packages(paths, suite, root)


def _style(format: PackageFormat, session: _Session) -> Style:
    from pkgkmod.publish.apt import AptStyle
    from pkgkmod.publish.rpmmd import RpmMdStyle

    if format == "rpm":
        return RpmMdStyle(session.run, session.signer)
    info, settings = session.project.project, session.settings
    name = "pkgkmod" if info.name == "none" else info.name
    origin = settings.origin or info.vendor or name
    return AptStyle(origin, settings.label or name, settings.component, session.signer)


# --- what users read -------------------------------------------------------------------------------


def _tell(done: _Published, invocation: Invocation, *, dry_run: bool) -> None:
    texts = _for_users(done)
    if invocation.json_lines:
        for change in done.changes:
            JsonLines().event(
                "published",
                folder=str(done.root),
                series=change.series,
                added=[entry.label for entry in change.added],
                removed=[entry.label for entry in change.removed],
                packages=len(change.entries),
                dry_run=dry_run,
            )
        JsonLines().event("repository", folder=str(done.root), url=done.url, files=texts)
        return
    for change in done.changes:
        for mark, entries in (("+", change.added), ("-", change.removed)):
            for entry in entries:
                click.echo(escape_controls(f"  {mark} {entry.label}", keep=""))
        would = "would hold" if dry_run else "holds"
        news = f"{len(change.added)} added, {len(change.removed)} removed" if change.is_new_index else "nothing new"
        click.echo(escape_controls(f"{change.series}: {news}; it {would} {count(len(change.entries), 'package')}"))
    if dry_run or invocation.quiet:
        return
    for file, text in texts.items():
        click.echo(f"\n{click.style(file, bold=True)}")
        click.echo(escape_controls("".join(f"  {line}\n" for line in text.splitlines())), nl=False)


def _for_users(done: _Published) -> dict[str, str]:
    """Return the files that a user of the repository writes, by path."""
    from pkgkmod.publish.apt import sources_file
    from pkgkmod.publish.rpmmd import repo_file

    signer = done.session.signer
    key_url = f"{done.url}/{signer.public_name}" if signer else None
    if done.format == "deb":
        key = f"/etc/apt/keyrings/{done.name}.asc" if signer else None
        component = done.session.settings.component
        fetched = {key: f"(the file {key_url})"} if key else {}
        return fetched | {
            f"/etc/apt/sources.list.d/{done.name}-{change.series}.sources": sources_file(
                done.url, change.series, component, key
            )
            for change in done.changes
        }
    label = done.session.settings.label or done.name
    releases = dict.fromkeys(change.series.partition("/")[0] for change in done.changes)
    return {
        f"{done.name}-{release}.repo, in /etc/yum.repos.d or /etc/zypp/repos.d": repo_file(
            f"{done.name}-{release}", f"{label} for {release}", f"{done.url}/{release}/$basearch", key_url
        )
        for release in releases
    }

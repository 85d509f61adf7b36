"""Where sources come from: a repository in a folder, or one behind a URL."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pkgkmod.errors import SourceError, near
from pkgkmod.model.project import Source
from pkgkmod.progress import Progress
from pkgkmod.sources.gitcommand import GitFailure, GitFolder, without_credentials
from pkgkmod.sources.objects import Entry, Objects, borrow_objects

FULL_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.IGNORECASE)
SHORT_HASH = re.compile(r"[0-9a-f]{4,39}", re.IGNORECASE)

_URL = re.compile(r"(https?|ssh|git|file)://[^/\s]*/?\S*")
# user@host:path, as scp has it; the host must not look like an option, for ssh's sake.
_SCP = re.compile(r"(?:[\w.+~][\w.+~-]*@)?[\w\[][\w.:\]-]*:(?!:)[^\s:-]\S*")
_HOST_AS_OPTION = re.compile(r"\w+://(?:[^/@]*@)?-")


@dataclass(frozen=True)
class Origin:
    """A repository, as the project names it: a folder (`path`) or a remote URL."""

    location: str
    is_remote: bool
    path: Path | None

    @property
    def shown(self) -> str:
        """The location as it may be shown and saved: without user name and password."""
        return without_credentials(self.location)


class Repository(Protocol):
    """A repository that sources are imported from."""

    objects: Objects

    def resolve(self, revision: str) -> str:
        """Return the full id of the commit that `revision` names; raise SourceError if there is none."""

    def select(self, commit: str, paths: Sequence[str]) -> dict[str, Entry]:
        """Return those of `paths` that exist in `commit`."""

    def files(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return all files and submodules below `entries`."""

    def provide(self, files: Sequence[Entry]) -> None:
        """See to it that the contents of `files` can be read."""

    def describe(self, commit: str) -> str:
        """Return a name for `commit` as `git describe` makes it."""


def parse_origin(location: str, base: Path) -> Origin:
    """Return the origin that `location` names; folders are relative to `base`. Raise SourceError if it is
    neither."""
    if location.startswith("-") or not location.isprintable() or _HOST_AS_OPTION.match(location):
        raise _refused(location)
    if location.startswith("file://"):
        path = Path(location.removeprefix("file://").removeprefix("localhost"))
        if path.is_absolute() and path.is_dir():
            return Origin(location, False, path)
        raise SourceError(f"no folder at {location}", hint="a file:// URL has three slashes and an absolute path")
    if _URL.fullmatch(location):
        return Origin(location, True, None)
    folder = Path(base, os.path.expanduser(location))  # noqa: PTH111 (Path's raises for unknown users)
    if folder.is_dir():
        return Origin(location, False, folder.resolve())
    if "::" not in location and "://" not in location and _SCP.fullmatch(location):
        return Origin(location, True, None)
    if "::" in location or "://" in location:
        raise _refused(location)
    raise SourceError(
        f"no repository at {folder}",
        details="the folder does not exist",
        hint="give a folder, or a URL: https://, ssh://, git://, file://, user@host:path",
    )


def _refused(location: str) -> SourceError:
    return SourceError(
        f"not a repository that can be imported from: {without_credentials(location)!r}",
        hint="give a folder, or a URL: https://, ssh://, git://, file://, user@host:path",
    )


@contextmanager
def open_repository(
    origin: Origin, *, cache: Path, progress: Progress, low_bandwidth: bool = False
) -> Iterator[Repository]:
    """Open a repository for reading; remote ones are cached below `cache`."""
    with tempfile.TemporaryDirectory(prefix="pkgkmod-git-") as aside:
        if origin.path is not None:
            yield LocalRepository(origin, Path(aside), progress)
        else:
            from pkgkmod.sources.remote import RemoteRepository  # which knows this module

            yield RemoteRepository(origin, Path(aside), cache, progress, low_bandwidth=low_bandwidth)


def origin_of(source: Source, base: Path) -> Origin:
    """Return the origin that a project names; raise SourceError if it names none."""
    if source.repository is None:
        raise SourceError(
            "the project does not say which repository the sources come from",
            hint="`pkgkmod prepare_sources -g REPO -r REV -d FOLDER` writes it down",
        )
    return parse_origin(source.repository, base)


def resolve(origin: Origin, revision: str, *, cache: Path, progress: Progress) -> str:
    """Return the full id of the commit that `revision` names: a hash, tag, branch, or HEAD."""
    with open_repository(origin, cache=cache, progress=progress) as repository:
        return repository.resolve(revision)


def resolve_source(source: Source, *, base: Path, cache: Path, progress: Progress | None = None) -> str:
    """Return the full commit id of a project's revision (HEAD if it has none).

    A full id is taken as it is, and no git runs; whether it exists is seen when it is imported.
    """
    revision = source.revision or "HEAD"
    if FULL_HASH.fullmatch(revision):
        return revision.lower()
    return resolve(origin_of(source, base), revision, cache=cache, progress=progress or Progress())


class LocalRepository:
    """A repository in a folder of this machine. It is only read: no index, reference, work tree or object
    changes."""

    def __init__(self, origin: Origin, aside: Path, progress: Progress) -> None:
        assert origin.path
        self._origin = origin
        git_folder = _git_folder(origin.path)
        # Named outright, so that git asks not whose folder it is: root may import from a packager's
        # repository.
        self._git = GitFolder(git_folder, progress)
        common = git_folder / "commondir"
        shared = git_folder / common.read_text().strip() if common.is_file() else git_folder
        sha256 = self._git.attempt("rev-parse", "--show-object-format") == "sha256"
        self.objects = borrow_objects(aside / "local", [(shared / "objects").resolve()], progress, sha256=sha256)

    def resolve(self, revision: str) -> str:
        """Return the full commit id; all that `git rev-parse` understands is understood."""
        found = GitFailure(1, "") if revision.startswith("-") else self._parse(revision)
        if isinstance(found, str):
            return found
        names = self._git.text("for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads", "refs/tags").splitlines()
        raise no_such_revision(revision, self._origin, names, found.message)

    def _parse(self, revision: str) -> str | GitFailure:
        # A partial clone would ask its server about a hash it lacks, and keep the answer: so ask the
        # borrower.
        folder = self.objects.folder if FULL_HASH.fullmatch(revision) else self._git
        return folder.attempt("rev-parse", "--verify", f"{revision}^{{commit}}")

    def select(self, commit: str, paths: Sequence[str]) -> dict[str, Entry]:
        """Return those of `paths` that exist in `commit`."""
        return _complete(self.objects.entries(commit, paths), self._origin)

    def files(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return all files and submodules below `entries`."""
        return [file for entry in entries for file in _complete(self.objects.files(entry), self._origin)]

    def provide(self, files: Sequence[Entry]) -> None:
        """Do nothing: what is not here cannot be had."""

    def describe(self, commit: str) -> str:
        """Return what `git describe --tags` says, or the short hash."""
        found = self._git.attempt("describe", "--tags", "--always", "--abbrev=12", commit)
        return found if isinstance(found, str) else commit[:12]


_Found = TypeVar("_Found")


def _complete(found: _Found | None, origin: Origin) -> _Found:
    if found is None:
        raise SourceError(
            f"the repository {origin.shown} lacks some of the commit's folders",
            details="it is a partial clone, or damaged",
            hint="a partial clone's own origin can be imported from by its URL; otherwise ask `git fsck`",
        )
    return found


def no_such_revision(revision: str, origin: Origin, names: Sequence[str], reason: str = "") -> SourceError:
    """Return the error for a revision that names no commit, with the branches and tags spelled like it."""
    alike = near(revision, names)
    known = f"branches and tags with like names: {', '.join(alike)}" if alike else "`git log` shows what there is"
    return SourceError(f"no revision {revision!r} in {origin.shown}", details=without_credentials(reason), hint=known)


def _git_folder(path: Path) -> Path:
    """Return the git folder of a repository: its .git, what a .git file points to (work trees), or itself
    (bare)."""
    dot_git = path / ".git"
    if dot_git.is_file():
        pointer = dot_git.read_text(encoding="utf-8", errors="surrogateescape").strip()
        dot_git = path / pointer.removeprefix("gitdir:").strip()
    for folder in (dot_git, path):
        if (folder / "HEAD").exists() and ((folder / "objects").is_dir() or (folder / "commondir").is_file()):
            return folder.resolve()
    raise SourceError(f"{path} is not a git repository", hint="name the folder that holds .git, or a bare repository")

"""A repository behind a URL: only what is needed crosses the wire, and a cache keeps it.

The cache holds one bare repository for each URL. A commit is fetched alone and without file contents; then
the contents of the chosen folders in one request. Git's own way, one request for each file it stumbles on, is
never taken: objects are read through a folder that does not know the server (objects.py), so that what is
missing is seen.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pkgkmod.errors import DiskFullError, SourceError
from pkgkmod.network import HINT, is_offline
from pkgkmod.progress import Progress
from pkgkmod.sources.gitcommand import GitFailure, GitFolder, git_failed
from pkgkmod.sources.objects import Entry, borrow_objects
from pkgkmod.sources.repository import FULL_HASH, SHORT_HASH, Origin, no_such_revision

# Protocol 0 hands out only what a reference names; old HTTP servers know no shallow fetches.
_REFUSED_HASH = re.compile(r"unadvertised object|want \w+ not valid|dumb http|does not support shallow", re.IGNORECASE)
_NO_FILTERS = re.compile(r"filtering not recognized", re.IGNORECASE)
_UNKNOWN_HASH = re.compile(r"not our ref|couldn't find remote ref|no such remote ref", re.IGNORECASE)
_REFERENCE = re.compile(r"[\w][\w./+-]*")

_PARTIAL = (
    "[core]\nbare = true\nrepositoryformatversion = 1\n"
    "[extensions]\npartialClone = origin\n"
    '[remote "origin"]\npromisor = true\npartialclonefilter = blob:none\n'
)
_WHOLE = "[core]\nbare = true\nrepositoryformatversion = 0\n"
_ALL_REFERENCES = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")


class RemoteRepository:
    """A repository behind a URL."""

    def __init__(
        self, origin: Origin, aside: Path, cache: Path, progress: Progress, *, low_bandwidth: bool = False
    ) -> None:
        self._origin = origin
        self._progress = progress
        self._low_bandwidth = low_bandwidth
        self._fresh = False  # nothing at all was in the cache
        self._commit = ""  # the one that objects are fetched for
        digest = hashlib.sha256(origin.shown.encode()).hexdigest()[:24]
        self._place = cache / f"git-{digest}"
        self._place.mkdir(parents=True, exist_ok=True)
        # In the environment, where neither the list of processes nor the cache shows a password.
        self._settings = {"remote.origin.url": origin.location, "fetch.negotiationAlgorithm": "noop"}
        self._partial = self._folder("partial", _PARTIAL)
        lenders = [self._place / kind / "objects" for kind in ("partial", "whole")]
        self.objects = borrow_objects(aside / "remote", lenders, progress)

    # --- revisions -----------------------------------------------------------------------------------

    def resolve(self, revision: str) -> str:
        """Return the full commit id; a full hash is taken as it is, without asking the server."""
        if FULL_HASH.fullmatch(revision):
            return revision.lower()
        if not _REFERENCE.fullmatch(revision) or ".." in revision:
            raise SourceError(
                f"revision {revision!r} cannot be asked of a server",
                hint="give a tag, a branch, HEAD, or a commit's hash",
            )
        short = bool(SHORT_HASH.fullmatch(revision))
        if short and (known := self._commits_like(self._partial, revision)):
            return known[0]
        references = self._references(() if short else (revision, f"{revision}^{{}}"))
        if found := _named(references, revision):
            return found
        if short:
            return self._from_history(revision, references)
        names = [name.split("/", 2)[2] for name in self._references(("refs/heads/*", "refs/tags/*"))]
        raise no_such_revision(revision, self._origin, [name for name in names if not name.endswith("^{}")])

    def _references(self, patterns: Sequence[str]) -> dict[str, str]:
        """Ask the server for references: name to object id."""
        self._need_network()
        listed = self._partial.attempt("ls-remote", "--quiet", "origin", *patterns)
        if isinstance(listed, GitFailure):
            raise self._unreachable(listed)
        return {name: object_id for object_id, _, name in (line.partition("\t") for line in listed.splitlines())}

    def _commits_like(self, folder: GitFolder, short: str) -> list[str]:
        found = folder.text("rev-parse", f"--disambiguate={short.lower()}").split()
        if not found:
            return []
        request = "".join(f"{object_id}\n" for object_id in found).encode()
        kinds = folder.text("cat-file", "--batch-check=%(objecttype) %(objectname)", stdin=request).splitlines()
        commits = [line.split()[1] for line in kinds if line.startswith("commit ")]
        if len(commits) > 1:
            raise SourceError(
                f"the short hash {short} stands for several commits", details="\n".join(commits),
                hint="give more of its digits",
            )  # fmt: skip
        return commits

    def _from_history(self, short: str, references: Mapping[str, str]) -> str:
        """Find a short hash among the tips of branches and tags, else among all their commits."""
        tips = {object_id for object_id in references.values() if object_id.startswith(short.lower())}
        if len(tips) == 1:
            return tips.pop()
        self._progress.info(
            f"a server cannot be asked for the short hash {short}: fetching the list of all commits of "
            f"{self._origin.shown} (a full hash would spare this)"
        )

        def refuse(line: str) -> None:
            if _NO_FILTERS.search(line):
                raise SourceError(
                    f"the short hash {short} cannot be found at {self._origin.shown}",
                    details="the server can only send all of its history, which is not worth it",
                    hint="give the full hash (40 digits)",
                )

        history = self._folder("history", _PARTIAL)
        with self._locked():
            failure = history.fetch("--filter=tree:0", "--no-tags", "origin", *_ALL_REFERENCES, heard=refuse)
        if failure:
            raise self._unreachable(failure)
        if found := self._commits_like(history, short):
            return found[0]
        raise SourceError(
            f"no revision {short!r} in {self._origin.shown}",
            details="no commit of its branches and tags starts so",
            hint="give the full hash, if the commit is not on a branch",
        )

    # --- objects -------------------------------------------------------------------------------------

    def select(self, commit: str, paths: Sequence[str]) -> dict[str, Entry]:
        """Return those of `paths` that exist in `commit`, fetching the commit and its folders if they are not
        here."""
        self._commit = commit
        with self._locked():
            if self.objects.missing([commit]):
                self._fresh = not any(self._place.glob("*/objects/pack/*.pack"))
                kind = "tree:0" if self._low_bandwidth else "blob:none"
                self._fetch([commit], "--depth=1", f"--filter={kind}")
            found = self.objects.entries(commit, paths)
            if found is None:
                self._walk_down(commit, paths)
                found = self.objects.entries(commit, paths)
        assert found is not None
        return found

    def files(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return all files and submodules below `entries`."""
        listings = {entry: self.objects.files(entry) for entry in entries}
        if lacking := [entry.object_id for entry, files in listings.items() if files is None]:
            with self._locked():
                # Unfiltered: the folders come with all that is below them, in one request.
                self._fetch(lacking)
                self._fresh = False
            listings = {entry: self.objects.files(entry) for entry in entries}
        return [file for files in listings.values() for file in files or ()]

    def provide(self, files: Sequence[Entry]) -> None:
        """Fetch the contents of `files` that are not here, in one request."""
        contents = [file.object_id for file in files if file.kind == "blob"]
        with self._locked():
            # Looking for thousands of objects that are not there takes git long: not where nothing can be.
            lacking = list(dict.fromkeys(contents)) if self._fresh else self.objects.missing(contents)
            self._fresh = False
            if lacking:
                self._fetch(lacking)

    def describe(self, commit: str) -> str:
        """Return the short hash: a commit that was fetched alone knows no tag before it."""
        return commit[:12]

    def _walk_down(self, commit: str, paths: Sequence[str]) -> None:
        """Fetch the folders on the way to `paths`, one request for each level."""
        level = {"": self.objects.commit(commit).tree}
        ways = {parent for path in paths for parent in _parents(path)}
        while level:
            if lacking := self.objects.missing(level.values()):
                self._fetch(lacking, "--filter=tree:0")
            level = {
                f"{folder}{child.path}/": child.object_id
                for folder, tree in level.items()
                for child in self.objects.children(tree)
                if child.kind == "tree" and f"{folder}{child.path}" in ways
            }

    def _fetch(self, wanted: Sequence[str], *options: str) -> None:
        """Fetch objects by their ids; if the server refuses that, fetch what it will give."""
        self._need_network()
        request = "".join(f"{object_id}\n" for object_id in wanted).encode()
        failure = self._partial.fetch("--no-tags", *options, "--stdin", "origin", stdin=request, heard=self._told)
        if failure is None:
            return
        if _UNKNOWN_HASH.search(failure.message):
            raise self._unknown()
        if not _REFUSED_HASH.search(failure.message):
            raise self._unreachable(failure)
        self._fetch_whole(self._commit)
        if self.objects.missing(wanted):
            raise self._unknown()

    def _need_network(self) -> None:
        if is_offline() and not self._origin.location.startswith("file:"):
            raise SourceError(f"{self._origin.shown} is not asked, and not all that is wanted of it is here", hint=HINT)

    def _told(self, line: str) -> None:
        if _NO_FILTERS.search(line):
            self._progress.info(
                f"the server of {self._origin.shown} cannot leave file contents out: fetching all files of the commit"
            )

    def _fetch_whole(self, commit: str) -> None:
        """Fetch by name, without filters: the commit alone if a reference names it, else all history."""
        whole = self._folder("whole", _WHOLE)
        name = next((n for n, i in self._references(()).items() if i == commit and not n.endswith("^{}")), None)
        what = f"all files of {name}" if name else "all of its history"
        self._progress.info(f"the server of {self._origin.shown} does not hand out single commits: fetching {what}")
        failure = None
        if name:
            failure = whole.fetch("--no-tags", "--depth=1", "origin", f"+{name}:refs/pkgkmod/{commit}")
        if not name or failure:
            deepen = ["--unshallow"] if (whole.path / "shallow").exists() else []
            failure = whole.fetch("--no-tags", *deepen, "origin", *_ALL_REFERENCES)
        if failure:
            raise self._unreachable(failure)

    # --- the cache -----------------------------------------------------------------------------------

    def _folder(self, kind: str, config: str) -> GitFolder:
        """Return a git folder of the cache; make it, at one blow, if it is not there."""
        place = self._place / kind
        if not place.exists():
            aside = Path(tempfile.mkdtemp(prefix=f"{kind}.", dir=self._place))
            for folder in ("objects/info", "objects/pack", "refs"):
                (aside / folder).mkdir(parents=True)
            (aside / "config").write_text(config, encoding="ascii")
            (aside / "HEAD").write_text("ref: refs/heads/none\n", encoding="ascii")
            try:
                aside.rename(place)
            except OSError:  # another process was quicker
                shutil.rmtree(aside)
        return GitFolder(place, self._progress, settings=self._settings)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time fetch into this repository's cache."""
        with (self._place / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._progress.info(f"waiting for another run that fetches from {self._origin.shown}")
                fcntl.flock(file, fcntl.LOCK_EX)
            # What a killed run left: git would wait for these locks for ever.
            for leftover in (*self._place.rglob("*.lock"), *self._place.glob("*/objects/pack/tmp_*")):
                leftover.unlink()
            yield

    def _unknown(self) -> SourceError:
        return SourceError(
            f"{self._origin.shown} does not have commit {self._commit}",
            hint="look whether the commit was pushed there, or import from the repository that has it",
        )

    def _unreachable(self, failure: GitFailure) -> SourceError | DiskFullError:
        known = git_failed(("fetch",), failure.message)
        if isinstance(known, DiskFullError):
            return known
        return SourceError(
            f"cannot fetch from {self._origin.shown}",
            details=failure.message,
            hint="check the address, the network, and your rights: `git ls-remote URL` tries the same",
        )


def _named(references: Mapping[str, str], revision: str) -> str | None:
    """Return what `revision` names, in git's order (gitrevisions(7)); of annotated tags, the commit."""
    for form in (revision, f"refs/{revision}", f"refs/tags/{revision}", f"refs/heads/{revision}"):
        if form in references:
            return references.get(form + "^{}", references[form])
    return None


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]

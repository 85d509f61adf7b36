"""A kernel tree in git: files of a commit are read, and changed ones become a patch, or a commit on a branch.

The packager's repository stays as it is: index, work tree, HEAD, and all branches but the one that is asked for. What
is made goes through an index of our own; only for a branch are objects written to the repository, and the branch is
set in one step, if it still is where it was.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pkgkmod.errors import SourceError, ToolError, UsageError
from pkgkmod.progress import Progress, escape_controls
from pkgkmod.sources.gitcommand import GitFailure, GitFolder
from pkgkmod.sources.objects import Entry
from pkgkmod.sources.repository import LocalRepository, Origin, _git_folder
from pkgkmod.sources.unpack import LINK, folders_above

_MAX_FILE = 16 * 1024 * 1024  # bytes: the longest kABI list there was has 100 KiB

# Of the packager's: it may be looked for in the reflog.
_LOGGED = {"core.logAllRefUpdates": "true"}
# What the packager likes in patches (format.*, diff.*) must not change what is made.
_NO_CONFIG = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
_PATCH_OPTIONS = ("--stdout", "-1", "--no-signature", "--no-renames", "--full-index", "--no-ext-diff", "--no-textconv")


@dataclass(frozen=True)
class Person:
    """Who commits, as git's configuration says."""

    name: str
    mail: str

    @property
    def signature(self) -> str:
        """The line that ends a commit message in kernel trees."""
        return f"Signed-off-by: {self.name} <{self.mail}>"


@contextmanager
def open_kernel_tree(folder: Path, progress: Progress) -> Iterator[KernelTree]:
    """Open the git repository in `folder`; raise SourceError if there is none."""
    if not folder.is_dir():
        raise SourceError(
            f"no kernel tree at {folder}", hint="name the folder of a git repository; a URL has to be cloned first"
        )
    with tempfile.TemporaryDirectory(prefix="pkgkmod-kabi-") as aside:
        yield KernelTree(folder, Path(aside), progress)


class KernelTree:
    """The git repository of a kernel."""

    def __init__(self, folder: Path, aside: Path, progress: Progress) -> None:
        self.folder = folder
        self._aside = aside
        self._git_folder = _git_folder(folder)
        self._real = GitFolder(self._git_folder, progress)
        self._repository = LocalRepository(Origin(str(folder), False, folder), aside, progress)
        self._progress = progress

    def resolve(self, revision: str) -> str:
        """Return the full id of the commit that `revision` names; raise SourceError if there is none."""
        return self._repository.resolve(revision)

    def branch(self, name: str) -> str | None:
        """Return the commit that a branch stands at, None if there is no such branch.

        Raise UsageError for what cannot be a branch's name, or if it is checked out.
        """
        reference = f"refs/heads/{name}"
        malformed = name.startswith("-") or isinstance(self._real.attempt("check-ref-format", reference), GitFailure)
        if malformed or name == "HEAD":
            raise UsageError(f"not a name for a branch: {name!r}", hint="it could be kabi-e1000e")
        found = self._real.text("for-each-ref", "--format=%(refname) %(objectname) %(worktreepath)", reference)
        for line in found.splitlines():
            full_name, commit, place = line.split(" ", 2)
            if full_name == reference and place:
                raise UsageError(
                    f"the branch {name} is checked out in {place}",
                    hint="name another branch; a commit here would change what `git status` says there",
                )
            if full_name == reference:
                return commit
        return None

    def at(self, commit: str) -> Snapshot:
        """Return the files of a commit, to be read."""
        return Snapshot(self._repository, commit, self.folder)

    def person(self) -> Person:
        """Return who commits here; raise ToolError where git's configuration does not say."""
        said = [self._real.attempt("config", "--get", key) for key in ("user.name", "user.email")]
        name, mail = (_plain(answer) if isinstance(answer, str) else "" for answer in said)
        if not name or not mail:
            raise ToolError(
                "git does not know who commits",
                details="user.name and user.email are not both set for this repository",
                hint='`git config --global user.name "Your Name"`, and the same for user.email',
            )
        return Person(name, mail)

    def commit(self, parent: str, files: Mapping[str, bytes], message: str, branch: str, *, old: str | None) -> str:
        """Commit `files` on top of `parent`, set the branch to it, and return the commit's id.

        `old` is where the branch stands (None: it must not be there). Raise SourceError if it moved meanwhile.
        """
        self._refuse_to_own()
        made = self._write(self._writer(self._shared()), parent, files, message)
        logged = replace(self._real, settings=_LOGGED)
        expected = old or "0" * len(made)
        moved = logged.attempt("update-ref", "-m", "pkgkmod update_kabi", f"refs/heads/{branch}", made, expected)
        if isinstance(moved, GitFailure):
            raise SourceError(
                f"the branch {branch} cannot be set", details=moved.message.strip(), hint="run the same command again"
            )
        return made

    def patch(self, parent: str, files: Mapping[str, bytes], message: str) -> bytes:
        """Return a patch that changes `files` as `git am` takes it; nothing is written to the repository."""
        writer = self._writer({})
        commit = self._write(writer, parent, files, message)
        # A shallow clone ends somewhere: git must not look for what is before.
        (writer.path / "shallow").write_text(parent + "\n", encoding="ascii")
        with writer.stream("format-patch", *_PATCH_OPTIONS, commit) as out:
            return out.read()

    def _writer(self, environment: Mapping[str, str]) -> GitFolder:
        """Return a git folder of our own, with an index of its own.

        In the repository itself its configuration would count, and git might fetch what is missing.
        """
        scratch = self._repository.objects.folder
        index = {"GIT_INDEX_FILE": str(self._aside / "index")}
        return replace(scratch, environment={**scratch.environment, **_NO_CONFIG, **index, **environment})

    def _shared(self) -> dict[str, str]:
        """Return the variables that make git write objects to the repository, with the modes that are right there."""
        objects = {"GIT_OBJECT_DIRECTORY": self._real.text("rev-parse", "--git-path", "objects")}
        shared = self._real.attempt("config", "--get", "core.sharedRepository")
        if isinstance(shared, str) and shared.isalnum():
            with (self._repository.objects.folder.path / "config").open("a") as config:
                config.write(f"[core]\nsharedRepository = {shared}\n")
        return objects

    def _write(self, writer: GitFolder, parent: str, files: Mapping[str, bytes], message: str) -> str:
        """Write blobs, trees and a commit through an index of our own, and return the commit's id."""
        (self._aside / "index").unlink(missing_ok=True)
        modes = self.at(parent).modes(files)
        with tempfile.TemporaryDirectory(dir=self._aside) as folder:
            names = []
            for number, content in enumerate(files.values()):
                names.append(f"{folder}/{number}")
                Path(names[-1]).write_bytes(content)
            listed = "".join(name + "\n" for name in names).encode()
            blobs = writer.text("hash-object", "-w", "--no-filters", "--stdin-paths", stdin=listed).splitlines()
        entries = [f"{modes[path]} {blob}\t{path}\0" for path, blob in zip(files, blobs, strict=True)]
        writer.text("read-tree", parent)
        writer.text("update-index", "-z", "--add", "--index-info", stdin="".join(entries).encode())
        # A partial clone need not have the files that stay as they are.
        tree = writer.text("write-tree", "--missing-ok")
        person = self.person()
        who = {
            f"GIT_{role}_{key}": value
            for role in ("AUTHOR", "COMMITTER")
            for key, value in (("NAME", person.name), ("EMAIL", person.mail))
        }
        signing = replace(writer, environment={**writer.environment, **who})
        return signing.text("commit-tree", tree, "-p", parent, "-F", "-", stdin=message.encode())

    def _refuse_to_own(self) -> None:
        """Refuse to leave root's files in somebody's repository: git could not add to their folders any more."""
        owner = self._git_folder.stat().st_uid
        if os.geteuid() == 0 and owner != 0:
            raise UsageError(
                f"{self.folder} does not belong to root",
                hint="run this as the repository's owner, or write a patch with -o FILE",
            )


@dataclass(frozen=True)
class Snapshot:
    """The files of one commit. A symbolic link, submodule or file in the way is an error, never followed."""

    repository: LocalRepository
    commit: str
    folder: Path

    def names(self, folder: str) -> frozenset[str] | None:
        """Return the names of what lies in a folder; None if there is no such folder."""
        entry = self._entries([folder]).get(folder)
        if entry is None:
            return None
        if entry.kind != "tree":
            raise self._in_the_way(entry)
        return frozenset(child.path for child in self.repository.objects.children(entry.object_id))

    def read(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Return the contents of those of `paths` that are there."""
        found = self._files(paths)
        contents = self.repository.objects.contents([entry.object_id for entry in found.values()])
        return dict(zip(found, contents, strict=True))

    def modes(self, paths: Mapping[str, object]) -> dict[str, str]:
        """Return the git mode of each of `paths`: that of the file that is there, or that of a new one."""
        found = self._files(list(paths))
        return {path: found[path].mode if path in found else "100644" for path in paths}

    def _files(self, paths: Sequence[str]) -> dict[str, Entry]:
        found = self._entries(paths)
        for entry in found.values():
            if entry.kind != "blob" or entry.mode == LINK:
                raise self._in_the_way(entry)
        self._refuse_large(found)
        return found

    def _refuse_large(self, found: Mapping[str, Entry]) -> None:
        ids = "".join(entry.object_id + "\n" for entry in found.values()).encode()
        objects = self.repository.objects.folder
        answer = objects.text("cat-file", "--batch-check=%(objectsize)", "--buffer", stdin=ids) if found else ""
        for path, size in zip(found, answer.splitlines(), strict=True):
            if size.isdigit() and int(size) > _MAX_FILE:
                raise SourceError(f"{path} in {self.folder} is no kABI list: it has {int(size) >> 20} MiB")

    def _entries(self, paths: Sequence[str]) -> dict[str, Entry]:
        """Return the entries of those of `paths` that are there, after a look at all folders on the way."""
        above = sorted(folders_above(paths))
        found: dict[str, Entry] = {}
        everything = [*above, *(path for path in paths if path not in above)]
        for start in range(0, len(everything), 500):  # far below what the kernel takes as arguments
            found.update(self.repository.select(self.commit, everything[start : start + 500]))
        for path in above:
            if path in found and found[path].kind != "tree":
                raise self._in_the_way(found[path])
        return {path: found[path] for path in paths if path in found}

    def _in_the_way(self, entry: Entry) -> SourceError:
        what = {"commit": "a submodule", "tree": "a folder"}.get(entry.kind, "a file")
        if entry.mode == LINK:
            what = "a symbolic link"
        path = escape_controls(entry.path, keep="")
        return SourceError(
            f"{path} is {what} in the kernel tree",
            details=f"{self.folder}, commit {self.commit[:12]}",
            hint="name the folder of the kABI lists with --kabi-dir",
        )


def _plain(text: str) -> str:
    """Return a name or address as a commit can hold it: one line, without angle brackets and control characters."""
    return " ".join("".join(c if c.isprintable() and c not in "<>" else " " for c in text).split())

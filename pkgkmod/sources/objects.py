"""Reading commits, trees and blobs through a git folder of our own.

The folder holds no objects: it borrows those of the packager's repository, or of the cache. So nothing there
can change, none of that repository's settings, attributes or filters touches the files, and nothing is
fetched unasked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

from pkgkmod.errors import SourceError
from pkgkmod.progress import Progress
from pkgkmod.sources.gitcommand import GitFailure, GitFolder, git_failed

_LATEST = 2**33 - 1  # what the time field of a tar archive holds


@dataclass(frozen=True)
class Entry:
    """A file, folder or submodule (`commit`) of a tree: its path in the kernel tree, git mode and object
    id."""

    path: str
    mode: str
    kind: Literal["tree", "blob", "commit"]
    object_id: str


@dataclass(frozen=True)
class Commit:
    """What a commit says about itself."""

    tree: str
    author_date: str
    epoch: int
    subject: str


@dataclass(frozen=True)
class Objects:
    """The objects of one repository."""

    folder: GitFolder

    def commit(self, commit: str) -> Commit:
        """Return what commit `commit` says; raise SourceError if it is missing."""
        raw = os.fsencode(self.folder.text("cat-file", "commit", commit)).decode(errors="replace")
        head, _, message = raw.partition("\n\n")
        headers = dict(reversed([line.partition(" ")[::2] for line in head.split("\n")]))
        author, committer = _when(headers.get("author", "")), _when(headers.get("committer", ""))
        subject = " ".join(message.strip().partition("\n\n")[0].split())
        return Commit(
            headers["tree"],
            author.isoformat(),
            min(max(int(committer.timestamp()), 0), _LATEST),
            "".join(c for c in subject if c.isprintable()),
        )

    def entries(self, commit: str, paths: Sequence[str]) -> dict[str, Entry] | None:
        """Return those of `paths` that exist in `commit`; None if trees on the way are missing."""
        found = {}
        if "." in paths:
            found["."] = Entry(".", "040000", "tree", self.commit(commit).tree)
        if others := [path for path in paths if path != "."]:
            listed = self.folder.attempt("ls-tree", "-t", "-z", commit, "--", *others)
            if isinstance(listed, GitFailure):
                return None
            # -t: of a path inside another one, both are listed; and so are the folders on the way.
            found |= {entry.path: entry for entry in _parse(listed) if entry.path in paths}
        return found

    def children(self, tree: str) -> list[Entry]:
        """Return what lies directly in tree `tree`, with paths relative to it."""
        return _parse(self.folder.text("ls-tree", "-z", tree))

    def files(self, entry: Entry) -> list[Entry] | None:
        """Return all files and submodules below a tree, or the file itself; None if trees are missing."""
        if entry.kind != "tree":
            return [entry]
        listed = self.folder.attempt("ls-tree", "-r", "-z", entry.object_id)
        if isinstance(listed, GitFailure):
            return None
        prefix = "" if entry.path == "." else entry.path + "/"
        return [Entry(prefix + e.path, e.mode, e.kind, e.object_id) for e in _parse(listed)]

    def missing(self, object_ids: Iterable[str]) -> list[str]:
        """Return those of `object_ids` that are not here, each once."""
        wanted = dict.fromkeys(object_ids)
        if not wanted:
            return []
        answer = self.folder.text("cat-file", "--batch-check", "--buffer", stdin="\n".join(wanted).encode() + b"\n")
        return [line.split(" ")[0] for line in answer.splitlines() if line.endswith(" missing")]

    def contents(self, object_ids: Sequence[str]) -> Iterator[bytes]:
        """Give the content of blobs, in their order; raise SourceError if one is missing."""
        if not object_ids:
            return
        request = "\n".join(object_ids).encode() + b"\n"
        with self.folder.stream("cat-file", "--batch", "--buffer", stdin=request) as out:
            for object_id in object_ids:
                words = out.readline().split()
                if len(words) != 3 or words[1] != b"blob":
                    raise SourceError(
                        f"the repository lacks the file content {object_id}",
                        details="it may be a partial clone, or damaged",
                        hint="`git fsck` tells; a partial clone's own origin can be imported from by its URL",
                    )
                content = out.read(int(words[2]) + 1)
                if len(content) != int(words[2]) + 1:
                    raise git_failed(("cat-file",), f"it ended in the middle of {object_id}")
                yield content[:-1]


def borrow_objects(place: Path, lenders: Sequence[Path], progress: Progress, *, sha256: bool = False) -> Objects:
    """Make an empty git folder at `place` that reads the objects in the folders `lenders`."""
    (place / "objects").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "HEAD").write_text("ref: refs/heads/none\n", encoding="ascii")
    config = "[core]\nbare = true\nrepositoryformatversion = "
    config += "1\n[extensions]\nobjectformat = sha256\n" if sha256 else "0\n"
    (place / "config").write_text(config, encoding="ascii")
    quoted = ['"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"' for path in lenders]
    variables = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": ":".join(quoted)}
    return Objects(GitFolder(place, progress, environment=variables))


def _parse(listed: str) -> list[Entry]:
    entries = []
    for record in listed.split("\0")[:-1]:
        facts, _, path = record.partition("\t")
        mode, kind, object_id = facts.split(" ")
        entries.append(Entry(path, mode, kind, object_id))  # type: ignore[arg-type]
    return entries


def _when(person: str) -> datetime:
    """Parse the time of `NAME <MAIL> SECONDS ZONE`; commits can hold any nonsense there."""
    try:
        seconds, zone = person.split(" ")[-2:]
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:5]))
        return datetime.fromtimestamp(int(seconds), timezone(-offset if zone[0] == "-" else offset))
    except (ValueError, OverflowError, OSError, IndexError):
        return datetime.fromtimestamp(0, UTC)

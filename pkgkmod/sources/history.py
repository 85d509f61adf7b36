"""What a packager's repository knows beside the imported files: what happened to them, and the texts of licences.

Only repositories on this machine are asked: of one behind a URL single commits are fetched, and that when sources
are imported, not later.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pkgkmod.errors import SourceError
from pkgkmod.model.project import Source
from pkgkmod.progress import Progress
from pkgkmod.sources.gitcommand import GitFailure
from pkgkmod.sources.repository import LocalRepository, origin_of

_LICENSE_FOLDERS = ("preferred", "dual", "deprecated", "exceptions", "other")


@contextmanager
def _repository(source: Source, base: Path, progress: Progress) -> Iterator[LocalRepository | None]:
    origin = origin_of(source, base)
    with tempfile.TemporaryDirectory(prefix="pkgkmod-git-") as aside:
        yield LocalRepository(origin, Path(aside), progress) if origin.path is not None else None


def commits_between(source: Source, before: str, after: str, *, base: Path, progress: Progress) -> tuple[str, ...]:
    """Return the subjects of the commits that `after` has and `before` has not, newest first, without merges.

    Only commits that touch the project's folders count. There are none if the repository does not have them.
    """
    try:
        with _repository(source, base, progress) as repository:
            if repository is None:
                return ()
            span = (f"{before}..{after}", "--", *source.directories)
            said = repository.objects.folder.attempt("log", "--no-merges", "--format=tformat:%s", "-z", *span)
    except SourceError:
        return ()
    return () if isinstance(said, GitFailure) else tuple(subject for subject in said.split("\0") if subject)


def license_texts(
    source: Source, commit: str, identifiers: Iterable[str], *, base: Path, progress: Progress
) -> dict[str, str]:
    """Return the files in the kernel's folder LICENSES for some SPDX identifiers, as far as `commit` has them."""
    wanted = {f"LICENSES/{folder}/{name}": name for name in identifiers for folder in _LICENSE_FOLDERS}
    if not wanted:
        return {}
    try:
        with _repository(source, base, progress) as repository:
            if repository is None:
                return {}
            found = [e for e in repository.select(commit, list(wanted)).values() if e.kind == "blob"]
            contents = repository.objects.contents([entry.object_id for entry in found])
            pairs = zip(found, contents, strict=True)
            return {wanted[entry.path]: content.decode("utf-8", "replace") for entry, content in pairs}
    except SourceError:
        return {}

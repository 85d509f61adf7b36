"""The folder of repositories: what is in it changes in one step, or not at all.

    DIR/pool/..., DIR/el9/x86_64/Packages/...     packages; none is ever written over
    DIR/dists/SUITE, DIR/el9/x86_64/repodata      links to the index of the current generation
    DIR/.publish/                                 the generations, a lock, and what is in the making

A generation is an index with the list of its packages. It is made aside; then the link to it is renamed over the old
one. What is not in such a list was put there by somebody else, and is left alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from pkgkmod.errors import InputError
from pkgkmod.progress import Progress
from pkgkmod.publish.entries import Entry, Incoming, PlainPath, StoredFile, merge, newest
from pkgkmod.workspace import digest, write_atomically

HIDDEN = ".publish"
_STATE = "state.json"
_INDEX = "index"
_PENDING = "pending.json"
_KEPT_INDEXES = 2  # earlier ones whose files stay, under the names of their digests, for readers under way


class State(BaseModel):
    """What a generation holds; saved beside its index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    link: str
    """Path of the link that makes it the current one, below the repository's folder."""
    number: int
    settings: str
    """Digest of all that goes into the index besides the packages."""
    entries: tuple[Entry, ...] = ()
    retired: tuple[PlainPath, ...] = ()
    """Files that the generation before had: a reader may still ask for them."""
    doomed: tuple[PlainPath, ...] = ()
    """Files that the generation before had retired: they are removed."""
    lasting: tuple[tuple[str, ...], ...] = ()
    """Files of the index that are named by their digests: its own, then those of the indexes before."""

    @property
    def files(self) -> dict[str, StoredFile]:
        """All files of the packages, by path."""
        return {file.path: file for entry in self.entries for file in entry.files}


class Style(Protocol):
    """A kind of repository: what is different between apt's and rpm-md."""

    def link(self, series: str) -> str:
        """Return the path of the link to the index of a series of packages."""

    def settings(self) -> Mapping[str, str]:
        """Return what goes into the index besides the packages."""

    def compare(self, one: str, other: str) -> int:
        """Compare two versions: below, at or above 0 for older, same, newer."""

    def write(self, draft: Draft) -> tuple[str, ...]:
        """Write the index into `draft.folder`; return which of its files are named by their digests."""


@dataclass(frozen=True)
class Draft:
    """An index in the making."""

    root: Path
    """The repository's folder; the packages lie there already."""
    series: str
    entries: tuple[Entry, ...]
    folder: Path
    previous: Path | None
    """The current index, if there is one."""


@dataclass(frozen=True)
class Change:
    """What publishing does to a series: a suite, or the packages of a release and architecture."""

    series: str
    entries: tuple[Entry, ...]
    added: tuple[Entry, ...]
    removed: tuple[Entry, ...]
    is_new_index: bool


def plan(root: Path, style: Style, wanted: Mapping[str, Sequence[Incoming]], keep: int) -> list[Change]:
    """Return what publishing would do; nothing is touched. Raise DifferentError for packages that are not to go in."""
    return [_change(root, style, series, incoming, keep) for series, incoming in sorted(wanted.items())]


def publish(
    root: Path, style: Style, wanted: Mapping[str, Sequence[Incoming]], keep: int, progress: Progress
) -> list[Change]:
    """Add packages to the series that they are for, and keep the newest `keep` versions of each (0: all).

    A series may be given without packages, to sign or prune it anew. The current indexes stay in place until all new
    ones are finished. Raise DifferentError as `plan` does; InputError if something that is not of this repository is
    in the way.
    """
    with _readable_by_all():
        _make_root(root)
        return _publish(root.resolve(), style, wanted, keep, progress)


def _publish(
    root: Path, style: Style, wanted: Mapping[str, Sequence[Incoming]], keep: int, progress: Progress
) -> list[Change]:
    with _locked(root, progress):
        _recover(root)
        try:
            changes = plan(root, style, wanted, keep)
            news = [change for change in changes if change.is_new_index]
            staying = {file.path for change in news for entry in change.entries for file in entry.files}
            _place(root, [one for incoming in wanted.values() for one in incoming], staying)
            finished = [_finish(root, style, change) for change in news]
            for made in finished:
                _switch(root, *made)
        finally:
            _recover(root)  # what is doomed now; or all that a run that failed has made
    return changes


def existing_series(root: Path, pattern: str) -> list[str]:
    """Return the parts that `*` stands for in the paths of links that are there: `dists/*` gives the suites."""
    return sorted(
        str(path.relative_to(root).parent if path.name == "repodata" else path.name)
        for path in root.glob(pattern)
        if path.is_symlink()
    )


def _change(root: Path, style: Style, series: str, incoming: Sequence[Incoming], keep: int) -> Change:
    old = current(root, style.link(series))
    before = old.entries if old else ()
    for entry in before:
        for file in entry.files:
            _check_there(root, file)
    entries = newest(merge(before, incoming), keep, style.compare)
    known, staying = {entry.key for entry in before}, {entry.key for entry in entries}
    return Change(
        series=series,
        entries=entries,
        added=tuple(entry for entry in entries if entry.key not in known),
        removed=tuple(entry for entry in before if entry.key not in staying),
        is_new_index=old is None or known != staying or old.settings != digest(style.settings()),
    )


def _check_there(root: Path, file: StoredFile) -> None:
    try:
        size = (root / file.path).stat().st_size
    except OSError:
        size = -1
    if size != file.size:
        raise InputError(
            f"{root / file.path} {'is not there' if size < 0 else 'was changed'} since it was published",
            hint="put it back, or publish into an empty folder",
        )


# --- generations -----------------------------------------------------------------------------------


def current(root: Path, link: str) -> State | None:
    """Return the current generation behind a link; raise InputError if something else is in its place."""
    path = root / link
    if not os.path.lexists(path):
        return None
    try:
        target = path.parent / path.readlink()
        return State.model_validate_json((target.parent / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        raise InputError(
            f"{path} was not made by pkgkmod",
            hint="publish into a folder of its own; a copy of a published folder must keep its symbolic links and "
            f"the folder {HIDDEN}",
        ) from None


def _generations(root: Path) -> Iterator[tuple[Path, State, bool]]:
    """Yield each generation: its folder, what it holds, and whether it is the current one."""
    for file in sorted((root / HIDDEN / "generations").rglob(_STATE)):
        with suppress(OSError, ValidationError):
            state = State.model_validate_json(file.read_text(encoding="utf-8"))
            link = root / state.link
            is_current = link.is_symlink() and (link.parent / link.readlink()).resolve() == (file.parent / _INDEX)
            yield file.parent, state, is_current


def _recover(root: Path) -> None:
    """Remove what a killed run left behind, and what no reader asks for any more."""
    hidden = root / HIDDEN
    shutil.rmtree(hidden / "new", ignore_errors=True)
    (hidden / "new").mkdir()
    found = list(_generations(root))
    numbers = {state.link: state.number for _, state, is_current in found if is_current}
    needed: set[str] = set()
    doomed: set[str] = set()
    for folder, state, _ in found:
        if state.number not in (numbers.get(state.link), numbers.get(state.link, 0) - 1):
            shutil.rmtree(folder)
        elif state.number == numbers[state.link]:
            needed |= {*state.files, *state.retired}
            doomed |= set(state.doomed)
    doomed |= _pending(hidden / _PENDING)
    for path in sorted(doomed - needed):
        _remove(root, path)
    (hidden / _PENDING).unlink(missing_ok=True)


def _pending(file: Path) -> set[str]:
    """Return the files that a run was about to put in place when it was killed."""
    if not file.exists():
        return set()
    try:
        return {StoredFile(path=path, size=0, sha256="").path for path in json.loads(file.read_text(encoding="utf-8"))}
    except (ValueError, TypeError) as error:
        raise InputError(f"{file} is damaged", details=str(error), hint="remove it") from None


def _remove(root: Path, path: str) -> None:
    """Remove a file of ours, and the folders that are empty then."""
    (root / path).unlink(missing_ok=True)
    with suppress(OSError):
        for parent in PurePosixPath(path).parents[:-1]:
            (root / parent).rmdir()


def _finish(root: Path, style: Style, change: Change) -> tuple[Path, Path, str]:
    """Make the next generation of a series aside; return its folder, where that belongs, and its link."""
    link = style.link(change.series)
    old = current(root, link)
    previous = (root / link).resolve() if old else None
    number = old.number + 1 if old else 1
    folder = root / HIDDEN / "new" / f"generation-{hashlib.sha256(link.encode()).hexdigest()[:16]}"
    index = folder / _INDEX
    index.mkdir(parents=True)
    own = style.write(Draft(root, change.series, change.entries, index, previous))
    earlier = old.lasting[:_KEPT_INDEXES] if old else ()
    for name in {name for names in earlier for name in names} - set(own):
        assert previous
        (index / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(previous / name, index / name)
    files = {file.path for entry in change.entries for file in entry.files}
    state = State(
        link=link,
        number=number,
        settings=digest(style.settings()),
        entries=change.entries,
        retired=tuple(sorted(set(old.files) - files)) if old else (),
        doomed=tuple(sorted(set(old.retired) - files)) if old else (),
        lasting=(own, *earlier),
    )
    (folder / _STATE).write_text(state.model_dump_json(), encoding="utf-8")
    _to_disk(folder)
    return folder, root / HIDDEN / "generations" / f"{link}.{number}", link


def _to_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _switch(root: Path, folder: Path, place: Path, link: str) -> None:
    """Make a finished generation the current one: the rename of the link is the moment."""
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    folder.rename(place)
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    new = root / HIDDEN / "new" / "link"
    new.symlink_to(os.path.relpath(place / _INDEX, (root / link).parent))
    new.rename(root / link)


# --- packages --------------------------------------------------------------------------------------


def _place(root: Path, incoming: Iterable[Incoming], staying: set[str]) -> None:
    """Copy packages to their places. Which ones is written down first, so that a killed run can be undone."""
    files = [(file, place) for one in incoming for file, place in zip(one.entry.files, one.places, strict=True)]
    copies = {file.path: (file, place) for file, place in files if file.path in staying}
    missing = {path: copy for path, copy in copies.items() if not os.path.lexists(root / path)}
    write_atomically(root / HIDDEN / _PENDING, json.dumps(sorted(missing)))
    for path, (file, place) in copies.items():
        if path not in missing:
            _check_same(root / path, file)
            continue
        new = root / HIDDEN / "new" / "file"
        if copy(place, new) != file.sha256:
            raise InputError(f"{place} was changed while it was published", hint="publish it again")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        new.rename(root / path)


def _check_same(path: Path, file: StoredFile) -> None:
    if path.is_symlink() or not path.is_file() or sha256_of(path) != file.sha256:
        raise InputError(
            f"{path} is there already, and is not what is to be published",
            hint="pkgkmod never writes over a file; publish into another folder, or remove it if nobody needs it",
        )


def copy(source: Path, target: Path) -> str:
    """Copy a file, onto the disk, and return its SHA-256."""
    hashed = hashlib.sha256()
    with source.open("rb") as file, target.open("wb") as output:
        while data := file.read(1 << 20):
            hashed.update(data)
            output.write(data)
        output.flush()
        os.fsync(output.fileno())
    target.chmod(0o644)
    return hashed.hexdigest()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_SERIES = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~_-]*")


def checked_series(name: str) -> str:
    """Return the name of a suite or release; raise InputError if it cannot be a folder's."""
    if not _SERIES.fullmatch(name) or name in ("pool", "dists"):
        raise InputError(
            f"{name!r} cannot be the name of a suite", hint="it becomes a folder: letters, digits and . + ~ _ -"
        )
    return name


def _make_root(root: Path) -> None:
    try:
        (root / HIDDEN).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {root} cannot be made: {error.strerror}", hint="name another one") from None


@contextmanager
def _readable_by_all() -> Iterator[None]:
    """Let a web server read what is made, whoever calls."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def _locked(root: Path, progress: Progress) -> Iterator[None]:
    """Hold the repository: a second publisher waits for its turn."""
    with (root / HIDDEN / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.info(f"waiting for another run that publishes into {root}")
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Explicitly: a forked child that still has the file open must not keep the lock.
            fcntl.flock(file, fcntl.LOCK_UN)

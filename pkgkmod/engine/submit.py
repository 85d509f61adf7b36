"""Giving source packages to a build farm, waiting for them, and fetching what was made.

What was sent stands in a journal, written before and after each sending: a run that was killed is gone on with by the
same command, and nothing is sent twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pkgkmod.command import is_stopping
from pkgkmod.errors import CompileError, FarmError, PackageError, PartialError, PkgkmodError, TimeLimitError
from pkgkmod.farms import Farm, FarmSession, Item, SourcePackage
from pkgkmod.model.submission import FarmBuild, Submission
from pkgkmod.modules.compile import first_error
from pkgkmod.progress import Progress
from pkgkmod.workspace import Workspace, digest, write_atomically

_LONGEST_PAUSE = 60.0
"""Seconds between two questions, where nothing changes."""
_LONGEST_OUTAGE = 300.0
"""Seconds between two tries, where the farm does not answer."""
_GROWTH = 1.4


class Journal:
    """What was given to one farm, by job."""

    def __init__(self, workspace: Workspace, farm: str) -> None:
        self.folder = workspace.results / ".farms" / farm
        self._file = self.folder / "submissions.json"

    def all(self) -> list[Submission]:
        """Return the submissions, by target and kernel."""
        try:
            saved = json.loads(self._file.read_text(encoding="utf-8"))
            return [Submission.model_validate(one) for one in saved]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, ValidationError) as error:
            raise FarmError(
                f"{self._file} cannot be read",
                details=str(error).splitlines()[0],
                hint="it says what was sent; if you remove it, look at the farm before you send anything again",
            ) from None

    def get(self, target: str, kernel: str) -> Submission | None:
        """Return the last submission of a job."""
        return next((one for one in self.all() if (one.target, one.kernel) == (target, kernel)), None)

    def put(self, submission: Submission) -> None:
        """Save a submission in place of the job's last one."""
        key = (submission.target, submission.kernel)
        kept = [one for one in self.all() if (one.target, one.kernel) != key]
        found = sorted([*kept, submission], key=lambda one: (one.target, one.kernel))
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps([one.model_dump(mode="json") for one in found], indent=1)
        write_atomically(self._file, text + "\n")

    def log_place(self, submission: Submission, build: FarmBuild) -> Path:
        """Return where the log of a build is kept."""
        name = hashlib.sha256(f"{submission.id}\n{build.id}".encode()).hexdigest()[:12]
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"log-{submission.target}-{name}.txt"

    @contextmanager
    def alone(self, progress: Progress) -> Iterator[None]:
        """Hold the journal: of two runs, one sends and the other sees that it was sent."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.info("waiting for another run that sends packages to end")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


@dataclass(frozen=True)
class Wanted:
    """A source package with what is asked for."""

    package: SourcePackage
    request: str
    """Digest over what is asked for and the files."""
    words: str
    group: str = ""
    """What it becomes a part of, with all that have the same; alone if empty."""

    @property
    def key(self) -> tuple[str, str]:
        """Target and label of the job."""
        return self.package.job.target.id, self.package.job.kernel_label

    @property
    def item(self) -> Item:
        """What the farm is given."""
        return self.request, self.package


def wanted(farm: Farm, packages: Sequence[SourcePackage], settings: Mapping[str, Any]) -> tuple[Wanted, ...]:
    """Return what would be asked of a farm, without asking it."""
    found = []
    for package in packages:
        asked = dict(farm.describe(package, settings))
        files = [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in package.files]
        request = digest({"farm": farm.name, "asked": asked, "files": files})
        found.append(Wanted(package, request, str(asked.get("words", "")), farm.group(package, settings)))
    return tuple(found)


def is_sent(one: Wanted, journal: Journal) -> bool:
    """Tell whether the same was sent before, and arrived."""
    last = journal.get(*one.key)
    return last is not None and last.request == one.request and last.state == "sent"


def send(items: Sequence[Wanted], session: FarmSession, journal: Journal, progress: Progress, *, again: bool) -> int:
    """Send what was not sent yet; return how many were sent. Raise FarmError, with what was sent in the journal.

    With `again`, what failed, and does not go on, is sent once more.
    """
    count = 0
    with journal.alone(progress):
        for group in _groups(items):
            last = [found for one in group if (found := _last(one, journal)) is not None]
            if len(last) == len(group):
                if all(one.state == "sent" and not (again and one.failed and one.has_ended) for one in last):
                    for one in last:
                        progress.info(f"{one.id}: {one.package} was sent before")
                    continue
                sending = any(one.state == "sending" for one in last)
                if sending and _has_arrived(group, last, session, journal, progress):
                    continue
            _send(group, session, journal, progress)
            count += len(group)
    return count


def _groups(items: Sequence[Wanted]) -> Iterator[tuple[Wanted, ...]]:
    """Give what is sent together."""
    groups: dict[object, list[Wanted]] = {}
    for one in items:
        groups.setdefault(one.group or one.key, []).append(one)
    yield from (tuple(group) for group in groups.values())


def _last(one: Wanted, journal: Journal) -> Submission | None:
    """Return the job's last submission, if it asked for the same."""
    last = journal.get(*one.key)
    return last if last is not None and last.request == one.request else None


def _has_arrived(
    group: Sequence[Wanted], last: Sequence[Submission], session: FarmSession, journal: Journal, progress: Progress
) -> bool:
    """Tell whether what a killed run was about to send is at the farm, and note it."""
    tickets = session.find([one.item for one in group])
    if tickets is None:
        return False
    for one, ticket in zip(last, tickets, strict=True):
        journal.put(one.model_copy(update={"state": "sent", "ticket": dict(ticket)}))
        progress.info(f"{one.id}: {one.package} had arrived")
    return True


def _send(group: Sequence[Wanted], session: FarmSession, journal: Journal, progress: Progress) -> None:
    submissions = [_about(one) for one in group]
    for about in submissions:
        journal.put(about)
    with progress.step(f"Sending {group[0].group if len(group) > 1 else submissions[0].package}"):
        tickets = session.send([one.item for one in group])
    for about, ticket in zip(submissions, tickets, strict=True):
        journal.put(about.model_copy(update={"state": "sent", "ticket": dict(ticket)}))


def _about(one: Wanted) -> Submission:
    target, kernel = one.key
    return Submission(
        target=target,
        kernel=kernel,
        package=one.package.files[0].name,
        format=one.package.recipe.format,
        kernels=one.package.recipe.kernels,
        source_date_epoch=one.package.recipe.source_date_epoch,
        request=one.request,
        words=one.words,
        state="sending",
        sent=time.time(),
    )


def ask(session: FarmSession, journal: Journal) -> list[Submission]:
    """Ask the farm how all submissions that have not ended stand; return all."""
    for one in journal.all():
        if one.state == "sent" and not one.has_ended:
            builds = session.builds(one.ticket)
            if builds != one.builds:
                journal.put(one.model_copy(update={"builds": builds}))
    return journal.all()


def wait(
    session: FarmSession,
    journal: Journal,
    progress: Progress,
    *,
    keys: Sequence[tuple[str, str]],
    time_limit: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Ask the farm, less and less often, until nothing is left to do; an outage is waited for.

    Raise TimeLimitError after `time_limit` seconds; the farm goes on all the same.
    """
    begun = time.monotonic()
    pause = session.interval
    shown: dict[str, tuple[FarmBuild, ...]] = {}
    while True:
        try:
            submissions = [one for one in ask(session, journal) if (one.target, one.kernel) in keys]
            states = {one.id: one.builds for one in submissions}
            pause = session.interval if states != shown else min(pause * _GROWTH, _LONGEST_PAUSE)
            _show(submissions, shown, progress)
            shown = states
            if all(one.has_ended for one in submissions):
                return
        except FarmError as error:
            if not error.passing:
                raise
            pause = min(max(pause, session.interval) * 2, _LONGEST_OUTAGE)
            progress.warning(f"{error.brief}; asked again in {pause:.0f} s")
        if is_stopping():
            raise KeyboardInterrupt
        if time_limit is not None and time.monotonic() - begun + pause > time_limit:
            raise TimeLimitError(
                f"the farm was not done within {time_limit:.0f} s",
                hint="it goes on; `pkgkmod submit --wait` waits again, `pkgkmod submit status` looks",
            )
        # Many packagers' runs that began together do not ask together.
        sleep(pause * random.uniform(0.9, 1.1))


def _show(submissions: Sequence[Submission], before: Mapping[str, tuple[FarmBuild, ...]], progress: Progress) -> None:
    """Say which builds changed."""
    for one in submissions:
        known = {build.id: build.state for build in before.get(one.id, ())}
        for build in one.builds:
            if known.get(build.id) != build.state:
                progress.event("farm-build", target=one.target, kernel=one.kernel, build=build.title, state=build.state)
                progress.info(f"{one.id}: {build.title} {build.state}" + (f": {build.reason}" if build.reason else ""))


def failure(submissions: Sequence[Submission], session: FarmSession, journal: Journal) -> PkgkmodError | None:
    """Return the error that stands for the builds that failed, with the first compiler error of each."""
    errors: list[PkgkmodError] = []
    for one in submissions:
        errors += [_explained(one, build, session, journal) for build in one.failed]
    if not errors:
        return None
    if len(errors) == 1:
        return errors[0]
    lines = []
    for error in errors:
        lines += [error.brief, *(f"    {line}" for line in error.details.splitlines()[:6])]
        lines += [f"    log: {error.log}"] if error.log else []
    return PartialError(
        f"{len(errors)} of {sum(len(one.builds) for one in submissions)} builds failed",
        details="\n".join(lines),
        hint="correct what is named above and submit again; `--again` sends the same once more",
    )


def _explained(one: Submission, build: FarmBuild, session: FarmSession, journal: Journal) -> PkgkmodError:
    place = journal.log_place(one, build)
    try:
        log = place if session.log(one.ticket, build, place) else None
    except FarmError:
        log = None
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log else []
    if error := first_error(lines):
        return CompileError(f"{one.id} does not compile for {build.title}", details=error, log=log)
    details = build.reason or "\n".join(lines[-6:])
    return PackageError(
        f"{one.id} was {_WORDS.get(build.state, 'not built')} for {build.title}", details=details, log=log
    )


_WORDS = {"failed": "not built", "cancelled": "cancelled"}

"""Giving source packages to a build farm, waiting for them, and fetching what was made.

What is sent is noted in the journal before and after each sending: a run that was killed is gone on with by the same
command, and nothing is sent twice.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pkgkmod.command import is_stopping
from pkgkmod.engine.journal import Journal
from pkgkmod.errors import CompileError, FarmError, PackageError, PartialError, PkgkmodError, TimeLimitError
from pkgkmod.farms import Farm, FarmSession, Item, SourcePackage
from pkgkmod.model.submission import FarmBuild, Submission
from pkgkmod.modules.compile import first_error
from pkgkmod.progress import Progress
from pkgkmod.workspace import digest

_LONGEST_PAUSE = 60.0
"""Seconds between two questions, where nothing changes."""
_LONGEST_OUTAGE = 300.0
"""Seconds between two tries, where the farm does not answer."""
_GROWTH = 1.4
_QUESTIONS_A_SECOND = 5.0
"""Submissions that are asked about in a second, on the average: a farm has others to answer, too."""
_ASKED_TOGETHER = 500
"""Submissions that are asked about at once; what was answered is noted before the next are."""
_MOST_NEWS = 30
"""Source packages that are sent, and builds that changed since the last question, that are told of one by one."""
_MOST_TOLD = 20
"""Failures, each unlike the others, that are told in full."""


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
    with journal.alone(progress):
        by_one = progress if len(items) <= _MOST_NEWS else Progress()
        groups = [one for one in _groups(items) if not _is_there(one, session, journal, by_one, again=again)]
        count = sum(len(group) for group in groups)
        if by_one is not progress and count < len(items):
            progress.info(f"{len(items) - count} of {len(items)} source packages were sent before")
        if groups:
            session.check([one.item for group in groups for one in group])
            _send_all(groups, session, journal, progress)
    return count


def _send_all(groups: Sequence[Sequence[Wanted]], session: FarmSession, journal: Journal, progress: Progress) -> None:
    """Send, one group after another; of many it is said how many were, and at which one it failed."""
    if len(groups) <= _MOST_NEWS:
        for group in groups:
            with progress.step(f"Sending {_name(group)}"):
                _send(group, session, journal)
        return
    with progress.step(f"Sending {len(groups)} source packages"):
        for number, group in enumerate(groups):
            try:
                _send(group, session, journal)
            except FarmError:
                progress.warning(f"{_name(group)} could not be sent; {number} were sent before it")
                raise
            progress.amount(number + 1, len(groups))


def _name(group: Sequence[Wanted]) -> str:
    return group[0].group if len(group) > 1 else group[0].package.files[0].name


def _is_there(
    group: Sequence[Wanted], session: FarmSession, journal: Journal, progress: Progress, *, again: bool
) -> bool:
    """Tell whether the farm has what is sent together, and need not be given it once more."""
    last = [found for one in group if (found := _last(one, journal)) is not None]
    if len(last) < len(group):
        return False
    if all(one.state == "sent" and not (again and one.failed and one.has_ended) for one in last):
        for one in last:
            progress.info(f"{one.id}: {one.package} was sent before")
        return True
    sending = any(one.state == "sending" for one in last)
    return sending and _has_arrived(group, last, session, journal, progress)


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


def _send(group: Sequence[Wanted], session: FarmSession, journal: Journal) -> None:
    submissions = [_about(one) for one in group]
    for about in submissions:
        journal.put(about)
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


def ask(session: FarmSession, journal: Journal, keys: Collection[tuple[str, str]] | None = None) -> list[Submission]:
    """Ask the farm how the submissions that have not ended stand, those of `keys` or all; return these.

    One that the farm knows nothing of any more counts as cancelled there. Raise FarmError if none can be told.
    """
    found = {one.key: one for one in journal.all() if keys is None or one.key in keys}
    pending = [one for one in found.values() if one.state == "sent" and not one.has_ended]
    later: list[FarmError] = []
    for start in range(0, len(pending), _ASKED_TOGETHER):
        part = pending[start : start + _ASKED_TOGETHER]
        for one, answer in zip(part, session.builds([one.ticket for one in part]), strict=True):
            if isinstance(answer, FarmError):
                if answer.passing:
                    later.append(answer)
                    continue
                answer = (FarmBuild(id="none", title=one.package, state="cancelled", reason=answer.brief),)
            if answer != one.builds:
                found[one.key] = journal.update(one, builds=answer)
    if later and len(later) == len(pending):
        raise later[0]
    return list(found.values())


def wait(
    session: FarmSession,
    journal: Journal,
    progress: Progress,
    *,
    keys: Collection[tuple[str, str]],
    time_limit: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Ask the farm, less and less often, until nothing is left to do; an outage is waited for.

    Raise TimeLimitError after `time_limit` seconds; the farm goes on all the same.
    """
    begun = time.monotonic()
    keys = frozenset(keys)
    pause = shortest = max(session.interval, len(keys) / _QUESTIONS_A_SECOND)
    shown: dict[str, tuple[FarmBuild, ...]] = {}
    is_last = False
    while True:
        try:
            submissions = ask(session, journal, keys)
            states = {one.id: one.builds for one in submissions}
            left = sum(not one.has_ended for one in submissions)
            shortest = max(session.interval, left / _QUESTIONS_A_SECOND)
            pause = shortest if states != shown else max(shortest, min(pause * _GROWTH, _LONGEST_PAUSE))
            _show(submissions, shown, progress)
            shown = states
            if not left:
                return
        except FarmError as error:
            if not error.passing:
                raise
            pause = min(max(pause, shortest) * 2, _LONGEST_OUTAGE)
            progress.warning(f"{error.brief}; asked again in {pause:.0f} s")
        if is_stopping():
            raise KeyboardInterrupt
        if is_last and time_limit is not None:
            raise TimeLimitError(
                f"the farm was not done within {time_limit:.0f} s",
                hint="it goes on; `pkgkmod submit --wait` waits again, `pkgkmod submit status` looks",
            )
        # Many packagers' runs that began together do not ask together.
        seconds = pause * random.uniform(0.9, 1.1)
        if time_limit is not None and (rest := time_limit - (time.monotonic() - begun)) < seconds:
            seconds, is_last = max(rest, 0.0), True
        sleep(seconds)


def _show(submissions: Sequence[Submission], before: Mapping[str, tuple[FarmBuild, ...]], progress: Progress) -> None:
    """Say which builds changed; of many, how many source packages are done."""
    changed = []
    for one in submissions:
        known = {build.id: build.state for build in before.get(one.id, ())}
        changed += [(one, build) for build in one.builds if known.get(build.id) != build.state]
    for one, build in changed:
        progress.event("farm-build", target=one.target, kernel=one.kernel, build=build.title, state=build.state)
        if len(changed) <= _MOST_NEWS:
            progress.info(f"{one.id}: {build.title} {build.state}" + (f": {build.reason}" if build.reason else ""))
    if len(changed) > _MOST_NEWS:
        ended = [one for one in submissions if one.has_ended]
        bad = sum(bool(one.failed) for one in ended)
        progress.info(f"{len(ended)} of {len(submissions)} done" + (f", {bad} of them failed" if bad else ""))


def failure(submissions: Sequence[Submission], session: FarmSession, journal: Journal) -> PkgkmodError | None:
    """Return the error that stands for the builds that failed, with the first compiler error of each."""
    errors = [
        (f"{one.id} ({build.title})", _explained(one, build, session, journal))
        for one in submissions
        for build in one.failed
    ]
    if not errors:
        return None
    if len(errors) == 1:
        return errors[0][1]
    return PartialError(
        f"{len(errors)} of {sum(len(one.builds) for one in submissions)} builds failed",
        details="\n".join(_told(errors)),
        hint="correct what is named above and submit again; `--again` sends the same once more",
    )


def _told(errors: Sequence[tuple[str, PkgkmodError]]) -> Iterator[str]:
    """Say what went wrong: what is the same for several kernels once, and not all that hundreds of logs say."""
    alike: dict[str, list[tuple[str, PkgkmodError]]] = {}
    for name, error in errors:
        alike.setdefault(error.details or name, []).append((name, error))
    for (_, first), *more in list(alike.values())[:_MOST_TOLD]:
        yield first.brief
        yield from (f"    {line}" for line in first.details.splitlines()[:6])
        if first.log:
            yield f"    log: {first.log}"
        if more:
            names = ", ".join(name for name, _ in more[:3])
            yield f"    the same for {names}" + (f" and {len(more) - 3} more" if len(more) > 3 else "")
    if rest := sum(len(same) for same in list(alike.values())[_MOST_TOLD:]):
        yield f"and {rest} more; `pkgkmod submit status -v` lists all"


def _explained(one: Submission, build: FarmBuild, session: FarmSession, journal: Journal) -> PkgkmodError:
    try:
        log = _log(one, build, session, journal)
    except FarmError:
        log = None
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log else []
    if error := first_error(lines):
        return CompileError(f"{one.id} does not compile for {build.title}", details=error, log=log)
    details = build.reason or "\n".join(lines[-6:])
    return PackageError(
        f"{one.id} was {_WORDS.get(build.state, 'not built')} for {build.title}", details=details, log=log
    )


def _log(one: Submission, build: FarmBuild, session: FarmSession, journal: Journal) -> Path | None:
    """Return the log of a build that has ended, which is asked for once."""
    place = journal.log_place(one, build)
    if not place.exists():
        partial = place.with_suffix(".part")
        if not session.log(one.ticket, build, partial):
            partial.unlink(missing_ok=True)
            return None
        partial.replace(place)
    return place


_WORDS = {"failed": "not built", "cancelled": "cancelled"}

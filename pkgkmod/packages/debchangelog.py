"""The changelog of a Debian source package: the packager's own, with an entry for this version on top."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.data.distros import find_distro, known_distros
from pkgkmod.errors import InputError
from pkgkmod.formats.deb import Change, changelog_text, read_changelog
from pkgkmod.model.job import Job
from pkgkmod.packages.debnames import package_version, source_name
from pkgkmod.packages.facts import PackageFacts

MOST_COMMITS = 30
"""Commits that an entry names; it counts the others."""
_UPDATING = threading.Lock()
_HEADING = re.compile(r"^\S+ \((?P<version>[^()\s]+)\) [^;\n]*(?P<rest>;[^\n]*)$", re.MULTILINE)
_IMPORTED = re.compile(r"\bat commit\s+(?P<commit>[0-9a-f]{64}|[0-9a-f]{40})\b")
# dpkg-genchanges reads these, and archives close bugs by them; a driver's commits mean other bugs.
_CLOSES = re.compile(r"\b(closes|LP):", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One version of the packager's changelog: as it was written, and what is known of it."""

    version: str
    """Without the suffix of a release: one changelog serves all targets."""
    rest: str
    """The heading from the semicolon on, and all that follows it."""
    time: int
    """Seconds since 1970."""

    @property
    def commit(self) -> str:
        """The commit that was imported; empty if it does not say."""
        found = _IMPORTED.search(self.rest)
        return found["commit"] if found else ""

    def spelled(self, job: Job) -> str:
        """Return the entry for a target."""
        heading = f"{source_name(job)} ({self.version}{job.distro.version_suffix}) {job.distro.codename}"
        return f"{heading}{self.rest}"


@dataclass(frozen=True)
class DebianChangelog:
    """A whole debian/changelog, and the time of its newest entry: SOURCE_DATE_EPOCH of all who build by it."""

    text: str
    time: int


def read_entries(path: Path, job: Job) -> tuple[Entry, ...]:
    """Return the versions of the packager's changelog, newest first; none if the file is absent or empty.

    Raise InputError if it is no changelog, or that of another package.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"{path} cannot be read as a changelog", details=str(fault)) from None
    if not text.strip():
        return ()
    changes = read_changelog(path)
    if changes[0].package != source_name(job):
        raise InputError(
            f"{path} is the changelog of '{changes[0].package}', not of '{source_name(job)}'",
            hint="name another file, which need not be there, with `changelog` in [deb]",
        )
    headings = list(_HEADING.finditer(text))
    if [heading["version"] for heading in headings] != [change.version for change in changes]:
        raise InputError(f"{path} is not a Debian changelog", details="its headings and entries do not go together")
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    return tuple(
        Entry(_plain(change.version), text[heading.start("rest") : end].rstrip() + "\n", change.time)
        for heading, change, end in zip(headings, changes, ends, strict=True)
    )


def earlier_entries(job: Job, entries: Sequence[Entry]) -> tuple[tuple[Entry, ...], bool]:
    """Return the entries up to this version, and whether it is among them; later ones are left out."""
    ours = _plain(package_version(job))
    for number, entry in enumerate(entries):
        if entry.version == ours:
            return tuple(entries[number:]), True
    return tuple(entries), False


def debian_changelog(
    facts: PackageFacts, entries: Sequence[Entry] = (), commits: Sequence[str] = ()
) -> DebianChangelog:
    """Return the changelog of a package.

    `entries` are those of the packager's changelog; `commits` the subjects of the commits since its newest one.
    """
    entries, present = earlier_entries(facts.job, entries)
    whole = entries if present else (new_entry(facts, entries, commits), *entries)
    return DebianChangelog("\n".join(entry.spelled(facts.job) for entry in whole), whole[0].time)


def new_entry(facts: PackageFacts, earlier: Sequence[Entry], commits: Sequence[str]) -> Entry:
    """Return the entry for this version: what was imported, and the newest of the commits since the one before."""
    job = facts.job
    (ours,) = facts.changelog(package_version(job))
    lines = [*ours.lines, *(_subject(commit) for commit in commits[:MOST_COMMITS])]
    if more := len(commits) - MOST_COMMITS:
        lines += [f"And {more} more since {earlier[0].commit[:12]}."] if more > 0 else []
    # Times go up, also where the same commit is packaged again, or an older one.
    when = max(ours.time, earlier[0].time + 1) if earlier else ours.time
    change = Change(source_name(job), ours.version, "UNRELEASED", ours.author, when, tuple(lines))
    text = changelog_text([change])
    return Entry(_plain(ours.version), text[text.index(";") :].rstrip() + "\n", when)


def update_changelog(path: Path, facts: PackageFacts, commits: Sequence[str]) -> None:
    """Put the entry for this version on top of the packager's changelog, if it is not there; no release is named.

    Raise InputError if the file is no changelog, or cannot be written.
    """
    with _UPDATING:  # the targets share it
        entries = read_entries(path, facts.job)
        if earlier_entries(facts.job, entries)[1]:
            return
        entry = new_entry(facts, entries, commits)
        before = path.read_text(encoding="utf-8").lstrip() if entries else ""
        aside = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            heading = f"{source_name(facts.job)} ({entry.version}) UNRELEASED{entry.rest}"
            aside.write_text("\n".join(filter(None, (heading, before))), encoding="utf-8")
            aside.replace(path)
        except OSError as fault:
            raise InputError(f"the changelog {path} cannot be written", details=fault.strerror or "") from None


def _plain(version: str) -> str:
    """Return a version without the suffix that a release's packages get."""
    suffixes = (find_distro(name).version_suffix for name in known_distros() if find_distro(name).format == "deb")
    ends = [suffix for suffix in suffixes if suffix and version.endswith(suffix)]
    return version.removesuffix(max(ends, key=len, default=""))


def _subject(commit: str) -> str:
    """Return a commit's subject as it can stand in a changelog: a line, and no order to close a bug."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in commit).split())[:200]
    return _CLOSES.sub(r"\1", shown) or "(no subject)"

"""Debian's control files, changelogs and packages. The only import of `debian`."""

from __future__ import annotations

import email.utils
import tarfile
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from debian.arfile import ArError
from debian.changelog import Changelog, ChangelogParseError
from debian.deb822 import Deb822
from debian.debfile import DebError, DebFile

from pkgkmod.errors import InputError
from pkgkmod.templates import deb_text


@dataclass(frozen=True)
class Change:
    """One version in a Debian changelog."""

    package: str
    version: str
    distribution: str
    author: str
    """`Name <mail address>`."""
    time: int
    """Seconds since 1970."""
    lines: tuple[str, ...]


@dataclass(frozen=True)
class DebFacts:
    """What a .deb says about itself."""

    control: Mapping[str, str]
    files: tuple[str, ...]
    """Absolute paths, folders left out."""
    scripts: tuple[str, ...]
    """Names of its maintainer scripts."""


def multiline(first: str, text: str) -> str:
    """Return the value of a field such as Description: a first line, then a text of several lines."""
    return f"{first}\n{deb_text(text)}"


def changelog_text(changes: Sequence[Change]) -> str:
    """Return the text of a debian/changelog; `changes` has the newest version first."""
    changelog = Changelog()
    for change in reversed(changes):
        changelog.new_block(
            package=change.package,
            version=change.version,
            distributions=change.distribution,
            urgency="medium",
            author=change.author,
            date=email.utils.formatdate(change.time),
        )
        changelog.add_change("")
        for line in change.lines:
            # Neither a commit's id nor a path is broken.
            for part in textwrap.wrap(
                line,
                78,
                initial_indent="  * ",
                subsequent_indent="    ",
                break_long_words=False,
                break_on_hyphens=False,
            ):
                changelog.add_change(part)
        changelog.add_change("")
    return str(changelog)


def write_changelog(changes: Sequence[Change], path: Path) -> None:
    """Write a debian/changelog, newest version first."""
    path.write_text(changelog_text(changes), encoding="utf-8")


def read_changelog(path: Path) -> tuple[Change, ...]:
    """Return the versions of a debian/changelog, newest first; raise InputError if it is malformed."""
    try:
        changelog = Changelog(path.read_text(encoding="utf-8"), strict=True)
    except ChangelogParseError as error:
        raise InputError(f"{path} is not a Debian changelog", details=str(error)) from None
    return tuple(
        Change(
            package=block.package or "",
            version=str(block.version),
            distribution=block.distributions or "",
            author=block.author or "",
            time=int(email.utils.parsedate_to_datetime(block.date or "").timestamp()),
            lines=_joined(block.changes()),
        )
        for block in changelog
    )


def _joined(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the items of a changelog entry, each on one line again."""
    items: list[str] = []
    for line in lines:
        if line.startswith("  * "):
            items.append(line.removeprefix("  * ").strip())
        elif line.strip() and items:
            items[-1] += f" {line.strip()}"
    return tuple(items)


def write_control(paragraphs: Sequence[Mapping[str, str]], path: Path) -> None:
    """Write a control file: paragraphs of fields, an empty line between; empty fields are left out."""
    texts = [Deb822({name: value for name, value in fields.items() if value}).dump() for fields in paragraphs]
    path.write_text("\n".join(texts), encoding="utf-8")


def read_control(path: Path) -> tuple[dict[str, str], ...]:
    """Return the paragraphs of a control file."""
    with path.open(encoding="utf-8") as file:
        return tuple(dict(paragraph) for paragraph in Deb822.iter_paragraphs(file, use_apt_pkg=False))


def read_deb(path: Path) -> DebFacts:
    """Return what a package says and holds; raise InputError if the file is not a .deb."""
    try:
        with DebFile(str(path)) as package:
            members = package.data.tgz().getmembers()
            return DebFacts(
                control=dict(package.debcontrol()),
                files=tuple(member.name.removeprefix(".") for member in members if not member.isdir()),
                scripts=tuple(sorted(package.control.scripts())),
            )
    except (DebError, ArError, OSError, tarfile.TarError) as error:
        raise InputError(f"{path} cannot be read as a Debian package", details=str(error)) from None

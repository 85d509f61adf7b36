"""What a build farm is: a plugin of the group of builders that is given source packages, and makes the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pkgkmod.errors import FarmError
from pkgkmod.model.artifacts import PackageFormat, Recipe
from pkgkmod.model.job import Job
from pkgkmod.model.submission import FarmBuild, FarmFile
from pkgkmod.progress import Progress


@dataclass(frozen=True)
class SourcePackage:
    """A source package that is given to a farm."""

    job: Job
    recipe: Recipe
    recipe_folder: Path
    """Where the recipe's files lie."""
    files: tuple[Path, ...]
    """The SRPM; or the .dsc, and behind it the files that it names."""


Item = tuple[str, SourcePackage]
"""A source package, and the request that it is sent with: a digest over what is asked for and its files."""
Ticket = Mapping[str, Any]
"""What a farm is asked with about a source package later; JSON-able."""


class FarmSession(Protocol):
    """A farm that is spoken to. Every method raises FarmError, with `passing` set where trying again may help.

    It is given one source package at a time, or all of a group.
    """

    interval: float
    """Seconds after which it is asked again at the soonest."""

    def find(self, items: Sequence[Item]) -> Sequence[Ticket] | None:
        """Return the tickets of what was sent with these requests before; None if not all of it arrived."""

    def check(self, items: Sequence[Item]) -> None:
        """Raise FarmError if the farm would not take these; called once, with all, before the first of them is sent."""

    def send(self, items: Sequence[Item]) -> Sequence[Ticket]:
        """Give the farm source packages; return a ticket for each."""

    def builds(self, tickets: Sequence[Ticket]) -> Sequence[tuple[FarmBuild, ...] | FarmError]:
        """Return how the builds of each stand now, in the tickets' order; in place of one that cannot be told, why.

        Raised is an error only if nothing can be told of any.
        """

    def log(self, ticket: Ticket, build: FarmBuild, destination: Path) -> bool:
        """Write the end of a build's log, at most 8 MB; return False if there is none."""

    def files(self, ticket: Ticket) -> tuple[FarmFile, ...]:
        """Return the packages that were made."""

    def fetch(self, file: FarmFile, destination: Path) -> None:
        """Write a package."""


@runtime_checkable
class Farm(Protocol):
    """A build farm: it is given source packages, and makes the others. Registered in the same group as Builder."""

    name: str

    @property
    def format(self) -> PackageFormat | None:
        """What packages it makes; None if it makes all."""

    def describe(self, package: SourcePackage, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what would be asked for, as JSON-able values, without asking anybody.

        What asks for the same, with the same files, is not sent twice. `words` says it to people.
        """

    def group(self, package: SourcePackage, settings: Mapping[str, Any]) -> str:
        """Return what a source package is a part of at the farm: all that have the same are sent together.

        Empty for one that is sent alone.
        """

    def connect(self, settings: Mapping[str, Any], base: Path, progress: Progress) -> FarmSession:
        """Log in; raise FarmError, ToolError for a library that is missing, PluginError for wrong settings."""

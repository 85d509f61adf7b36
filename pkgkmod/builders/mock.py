"""The builder `mock`: RPMs made in a clean root of the distribution."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from pkgkmod.builders.local import LocalBuilder
from pkgkmod.command import Command
from pkgkmod.errors import UsageError
from pkgkmod.model.artifacts import PackageFormat, Recipe
from pkgkmod.model.places import Places
from pkgkmod.model.project import Project


class MockBuilder:
    """An SRPM rebuilt by mock, which installs the build dependencies into a root of its own."""

    name = "mock"
    prebuilt = False
    from_srpm = True

    def tools(self, format: PackageFormat) -> tuple[str, ...]:
        """Return the programs it needs."""
        return ("rpmbuild", "xz", "mock")

    def lay_out(self, recipe: Recipe, recipe_folder: Path, places: Places) -> None:
        """Copy a recipe's files to where the commands look for them."""
        LocalBuilder().lay_out(recipe, recipe_folder, places)

    def rpm_command(self, recipe: Recipe, project: Project, places: Places) -> Command:
        """Return the mock that rebuilds the SRPM in SRPMS/; packages come to be in RPMS/."""
        settings = project.mock
        argv = (
            "mock",
            *(("-r", settings.config) if settings.config else ()),
            *(("--offline",) if settings.offline else ()),
            *("--resultdir", str(places.folder / "RPMS")),
            *_words((*settings.options, *settings.more_options)),
            *("--rebuild", f"SRPMS/{recipe.name}-{recipe.version}.src.rpm"),
        )
        return Command(argv, cwd=places.folder)

    def unpack_command(self, recipe: Recipe, places: Places) -> Command:
        """Mock makes no DEBs."""
        raise _not_for_deb()

    def deb_command(self, recipe: Recipe, project: Project, places: Places) -> Command:
        """Mock makes no DEBs."""
        raise _not_for_deb()


def _words(options: Iterable[str]) -> list[str]:
    """Return the words of options, each of which may hold several (`-O '--isolation=simple -v'`)."""
    try:
        return [word for option in options for word in shlex.split(option)]
    except ValueError as error:
        raise UsageError("the options for mock have an open quotation mark", details=str(error)) from None


def _not_for_deb() -> UsageError:
    return UsageError("mock makes RPMs only", hint='set builder = "local" in the table [deb]')

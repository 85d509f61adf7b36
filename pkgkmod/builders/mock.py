"""The builder `mock`: RPMs made in a clean root of the distribution."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from pkgkmod.builders.local import LocalBuilder, srpm_command
from pkgkmod.command import Command
from pkgkmod.errors import UsageError
from pkgkmod.model.artifacts import PackageFormat, Recipe
from pkgkmod.model.places import Places
from pkgkmod.model.project import Project


class MockBuilder:
    """An SRPM rebuilt by mock, which installs the build dependencies into a root of its own."""

    name = "mock"
    prebuilt = False

    def tools(self, format: PackageFormat) -> tuple[str, ...]:
        """Return the programs it needs."""
        return ("rpmbuild", "xz", "mock")

    def lay_out(self, recipe: Recipe, recipe_folder: Path, places: Places) -> None:
        """Copy a recipe's files to where the commands look for them."""
        LocalBuilder().lay_out(recipe, recipe_folder, places)

    def rpm_commands(self, recipe: Recipe, project: Project, places: Places) -> tuple[Command, ...]:
        """Return the rpmbuild that makes the SRPM, in SRPMS/, and the mock that rebuilds it into RPMS/."""
        source = srpm_command(recipe, places)
        if places.source_only:
            return (source,)
        settings = project.mock
        argv = (
            "mock",
            *(("-r", settings.config) if settings.config else ()),
            *(("--offline",) if settings.offline else ()),
            *("--resultdir", str(places.folder / "RPMS")),
            *_words((*settings.options, *settings.more_options)),
            *("--rebuild", f"SRPMS/{recipe.name}-{recipe.version}.src.rpm"),
        )
        return source, Command(argv, cwd=places.folder)

    def deb_commands(self, recipe: Recipe, project: Project, places: Places) -> tuple[Command, ...]:
        """Mock makes no DEBs."""
        raise UsageError("mock makes RPMs only", hint='set builder = "local" in the table [deb]')


def _words(options: Iterable[str]) -> list[str]:
    """Return the words of options, each of which may hold several (`-O '--isolation=simple -v'`)."""
    try:
        return [word for option in options for word in shlex.split(option)]
    except ValueError as error:
        raise UsageError("the options for mock have an open quotation mark", details=str(error)) from None

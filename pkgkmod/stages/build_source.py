"""build_source: the source package of one job, for farms and for whoever builds it elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pkgkmod.builders.local import LocalBuilder
from pkgkmod.model.artifacts import Package, PackageSet, Recipe
from pkgkmod.model.project import Project
from pkgkmod.packages.finished import describe_deb, describe_rpm
from pkgkmod.plugins import JobUnit, Work
from pkgkmod.programs import tool_stamp
from pkgkmod.stages.packaging import make_places, run_build

_TOOLS = {"rpm": ("rpmbuild",), "deb": ("dpkg-buildpackage", "dpkg-source")}


class BuildSource:
    """Make an SRPM, or a .dsc with its archives, of a recipe; nothing is compiled."""

    name = "build_source"
    version = 1
    summary = "Build source packages only."
    scope: Literal["job"] = "job"
    produces = "source_package"
    in_build = False
    options = ()

    def consumes(self, project: Project) -> tuple[str, ...]:
        """Return the recipes."""
        return ("recipe.rpm", "recipe.deb")

    def applies(self, unit: JobUnit) -> bool:
        """For all distributions."""
        return True

    def on_edit(self, project: Project) -> None:
        """What was built is not edited by hand."""

    def ingredients(self, unit: JobUnit) -> Mapping[str, object]:
        """Return the programs."""
        format = unit.job.distro.format
        return {name: tool_stamp(name, needed_for=f"source packages ({format})") for name in _TOOLS[format]}

    def run(self, work: Work[Any]) -> PackageSet:
        """Build in a scratch folder, then keep the source package."""
        format = work.unit.job.distro.format
        made, builder = work.one(f"recipe.{format}"), LocalBuilder()
        recipe = made.load(Recipe)
        with work.workspace.scratch() as scratch:
            places = make_places(work, scratch, source_only=True, jobs=1)
            builder.lay_out(recipe, made.folder, places)
            commands = builder.rpm_commands if format == "rpm" else builder.deb_commands
            for command in commands(recipe, work.unit.project, places):
                run_build(work, command, scratch, source_only=True)
            packages = tuple(_kept(recipe, scratch, work.folder))
        return PackageSet(
            format=format, packages=packages, kernels=recipe.kernels, source_date_epoch=recipe.source_date_epoch
        )


def _kept(recipe: Recipe, scratch: Path, folder: Path) -> Iterator[Package]:
    files = sorted(scratch.glob("SRPMS/*.src.rpm")) if recipe.format == "rpm" else sorted(scratch.iterdir())
    for file in files:
        if not file.is_file():
            continue
        found = describe_rpm(file) if recipe.format == "rpm" else describe_deb(file, recipe.name, recipe.version)
        if found and found.kind == "source":
            shutil.copyfile(file, folder / file.name)
            yield found

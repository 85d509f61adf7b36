"""build_deb: source package and DEBs of one job."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pkgkmod.model.artifacts import Package, PackageSet, Recipe
from pkgkmod.model.project import Project
from pkgkmod.packages.finished import describe_deb
from pkgkmod.plugins import JobUnit, Option, Work
from pkgkmod.programs import tool_stamp
from pkgkmod.stages.packaging import builder_of, folder_for, jobs_for, make_places, packaging_ingredients, run_build


class BuildDeb:
    """Make DEBs of a debian folder and finished modules, or let the builder compile them."""

    name = "build_deb"
    version = 2
    summary = "Build source and binary DEBs."
    scope: Literal["job"] = "job"
    produces = "package_set.deb"
    in_build = True
    options = (
        Option(
            ("--from-source",),
            "build.from_source",
            "Compile inside dpkg-buildpackage, as a farm does.",
            value=True,
        ),
        Option(("--sbuild",), "deb.builder", "Build with sbuild, in a clean root of the release.", value="sbuild"),
    )

    def consumes(self, project: Project) -> tuple[str, ...]:
        """Return the recipe, and finished modules unless the build compiles."""
        compiles = project.build.from_source or project.deb.builder != "local"
        return ("recipe.deb",) if compiles else ("module_set", "recipe.deb")

    def applies(self, unit: JobUnit) -> bool:
        """Only for distributions that use DEB."""
        return unit.job.distro.format == "deb"

    def on_edit(self, project: Project) -> None:
        """What was built is not edited by hand."""

    def ingredients(self, unit: JobUnit) -> Mapping[str, object]:
        """Return the builder and its tools."""
        found = dict(packaging_ingredients(unit, "deb"))
        if builder_of(unit).prebuilt:  # it builds with this machine's programs
            more = ("python3", "dh_dkms") if unit.project.deb.dkms else ("python3",)
            found["more tools"] = [tool_stamp(tool, needed_for="building DEB packages") for tool in more]
        return found

    def run(self, work: Work[Any]) -> PackageSet:
        """Build in a scratch folder, then keep the packages."""
        made = work.one("recipe.deb")
        recipe, builder = made.load(Recipe), builder_of(work.unit)
        with folder_for(work) as scratch, jobs_for(work) as jobs:
            places = make_places(work, scratch, jobs=jobs)
            builder.lay_out(recipe, made.folder, places)
            for command in builder.deb_commands(recipe, work.unit.project, places):
                run_build(work, command, scratch)
            packages = tuple(_kept(recipe, sorted(scratch.iterdir()), work.folder))
        return PackageSet(
            format="deb", packages=packages, kernels=recipe.kernels, source_date_epoch=recipe.source_date_epoch
        )


def _kept(recipe: Recipe, files: Iterable[Path], folder: Path) -> Iterable[Package]:
    for file in files:
        if package := describe_deb(file, recipe.name, recipe.version) if file.is_file() else None:
            shutil.copyfile(file, folder / file.name)
            yield package

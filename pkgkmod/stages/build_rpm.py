"""build_rpm: SRPM and RPMs of one job."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pkgkmod.model.artifacts import Package, PackageSet, Recipe
from pkgkmod.model.project import Project
from pkgkmod.packages.finished import describe_rpm
from pkgkmod.plugins import JobUnit, Option, Work
from pkgkmod.programs import tool_stamp
from pkgkmod.stages.packaging import builder_of, folder_for, jobs_for, make_places, packaging_ingredients, run_build


class BuildRpm:
    """Make RPMs of a spec and finished modules, or let the builder compile them."""

    name = "build_rpm"
    version = 1
    summary = "Build source and binary RPMs."
    scope: Literal["job"] = "job"
    produces = "package_set.rpm"
    in_build = True
    options = (
        Option(("-s", "--srpm"), "rpm.srpm_only", "Make the source RPM only.", value=True),
        Option(
            ("-a", "--tar-all"),
            "source.archive",
            "Put files whose names start with a dot into the archive, too.",
            value="all",
        ),
        Option(
            ("-e", "--tar-strict"),
            "source.archive",
            "Put only Kbuild, Kconfig, Makefile, *.c and *.h into the archive.",
            value="kbuild",
        ),
        Option(
            ("-g", "--check-git"),
            "source.check",
            "Edited sources: 0 do not look, 1 warn, 2 fail.",
            choices={"0": "off", "1": "warn", "2": "fail"},
        ),
        Option(("--from-source",), "build.from_source", "Compile inside rpmbuild, as a farm does.", value=True),
        Option(("-m", "--mock"), "rpm.builder", "Build with mock.", value="mock"),
        Option(("-r", "--mock-config"), "mock.config", "Mock's configuration, as for its -r.", metavar="CONFIG"),
        Option(("-l", "--mock-offline"), "mock.offline", "No network for mock.", value=True),
        Option(("-O", "--mock-options"), "mock.options", "Options for mock.", metavar="OPTIONS", multiple=True),
        Option(
            ("-A", "--mock-append"),
            "mock.more_options",
            "Further options for mock.",
            metavar="OPTIONS",
            multiple=True,
        ),
    )

    def consumes(self, project: Project) -> tuple[str, ...]:
        """Return the recipe, and finished modules unless the build compiles."""
        compiles = project.build.from_source or project.rpm.srpm_only or project.rpm.builder != "local"
        return ("recipe.rpm",) if compiles else ("module_set", "recipe.rpm")

    def applies(self, unit: JobUnit) -> bool:
        """Only for distributions that use RPM."""
        return unit.job.distro.format == "rpm"

    def on_edit(self, project: Project) -> None:
        """What was built is not edited by hand."""

    def ingredients(self, unit: JobUnit) -> Mapping[str, object]:
        """Return the builder, its tools, and what is asked of it."""
        return {
            **packaging_ingredients(unit, "rpm"),
            "srpm only": unit.project.rpm.srpm_only,
            **_finishing(unit),
        }

    def run(self, work: Work[Any]) -> PackageSet:
        """Build in a scratch folder, then keep the packages."""
        project, made = work.unit.project, work.one("recipe.rpm")
        recipe, builder = made.load(Recipe), builder_of(work.unit)
        with folder_for(work) as scratch, jobs_for(work) as jobs:
            places = make_places(work, scratch, source_only=project.rpm.srpm_only, jobs=jobs)
            builder.lay_out(recipe, made.folder, places)
            for command in builder.rpm_commands(recipe, project, places):
                run_build(work, command, scratch, source_only=places.source_only)
            packages = tuple(_kept(_made(scratch), work.folder))
        return PackageSet(
            format="rpm", packages=packages, kernels=recipe.kernels, source_date_epoch=recipe.source_date_epoch
        )


def _finishing(unit: JobUnit) -> Mapping[str, object]:
    """Return the programs that finish the modules; ToolError if one is missing."""
    settings = unit.project.rpm
    if settings.srpm_only or settings.builder != "local":
        return {}
    compression = settings.module_compression or unit.job.distro.module_compression
    tools = [name for name, of in (("gzip", "gz"), ("zstd", "zst")) if compression == of]
    tools += ["debugedit", "eu-strip"] if settings.debuginfo else []
    return {name: tool_stamp(name, needed_for="finishing the modules") for name in tools}


def _made(folder: Path) -> list[Path]:
    """Return the packages, with one source package: a root makes it anew, with its own rpm."""
    anew = {file.name for file in folder.glob("RPMS/**/*.rpm")}
    found = sorted(folder.glob("*RPMS/**/*.rpm"))
    return [file for file in found if file.name not in anew or not file.is_relative_to(folder / "SRPMS")]


def _kept(files: Iterable[Path], folder: Path) -> Iterable[Package]:
    for file in files:
        shutil.copyfile(file, folder / file.name)
        yield describe_rpm(file)

"""generate_debian: the debian folder and the source archive of one DEB job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pkgkmod.model.artifacts import Recipe
from pkgkmod.model.project import Project
from pkgkmod.packages import deb
from pkgkmod.plugins import JobUnit, Work
from pkgkmod.stages.packaging import recipe_ingredients, write_sources


def template_folder(unit: JobUnit) -> Path | None:
    """Return the packager's own folder of Debian templates."""
    return unit.base / unit.project.deb.templates if unit.project.deb.templates else None


class GenerateDebian:
    """Write what dpkg-buildpackage and sbuild need, and a person can read."""

    name = "generate_debian"
    version = 3
    summary = "Write the debian folder and source archive of each DEB target."
    scope: Literal["job"] = "job"
    produces = "recipe.deb"
    in_build = False
    options = ()

    def consumes(self, project: Project) -> tuple[str, ...]:
        """Return what goes into the archive."""
        return ("source_tree",)

    def applies(self, unit: JobUnit) -> bool:
        """Only for distributions that use DEB."""
        return unit.job.distro.format == "deb"

    def on_edit(self, project: Project) -> Literal["warn"]:
        """A debian folder that was edited by hand is used, and that is said."""
        return "warn"

    def ingredients(self, unit: JobUnit) -> Mapping[str, object]:
        """Return what the folder and the archive are made of, besides the sources."""
        return recipe_ingredients(unit, deb.template_digest(template_folder(unit)))

    def run(self, work: Work[Any]) -> Recipe:
        """Pack the sources and write debian/."""
        job = work.unit.job
        archive = deb.archive_name(job)
        facts = write_sources(work, archive)
        deb.write_debian(facts, work.folder / "debian", template_folder(work.unit))
        return Recipe(
            format="deb",
            name=deb.source_name(job),
            version=deb.package_version(job),
            debian="debian",
            archive=archive,
            kernels=tuple(kernel.uname_r for kernel in job.kernels),
            source_date_epoch=facts.provenance.commit_epoch,
        )

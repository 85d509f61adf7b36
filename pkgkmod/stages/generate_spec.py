"""generate_spec: the spec and the source archive of one RPM job."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pkgkmod.errors import ConfigError
from pkgkmod.model.artifacts import Recipe
from pkgkmod.model.project import Project
from pkgkmod.packages import rpm
from pkgkmod.plugins import JobUnit, Work
from pkgkmod.stages.packaging import recipe_ingredients, write_sources


def template_folder(unit: JobUnit) -> Path | None:
    """Return the packager's own folder of spec templates."""
    return unit.base / unit.project.rpm.templates if unit.project.rpm.templates else None


def _stable_list(unit: JobUnit) -> bytes | None:
    """Return the project's kABI stable list; raise ConfigError if it is not there."""
    if not unit.project.rpm.stable_list:
        return None
    path = unit.base / unit.project.rpm.stable_list
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the kABI stable list {path} cannot be read",
            details=error.strerror or "",
            hint="rpm.stable_list names a file beside the project file, such as kabi_stablelist_x86_64",
        ) from None


class GenerateSpec:
    """Write what rpmbuild, mock and Koji need, and a person can read."""

    name = "generate_spec"
    version = 4
    summary = "Write the spec file and source archive of each RPM target."
    scope: Literal["job"] = "job"
    produces = "recipe.rpm"
    in_build = False
    options = ()

    def consumes(self, project: Project) -> tuple[str, ...]:
        """Return what goes into the archive."""
        return ("source_tree",)

    def applies(self, unit: JobUnit) -> bool:
        """Only for distributions that use RPM."""
        return unit.job.distro.format == "rpm"

    def on_edit(self, project: Project) -> Literal["warn"]:
        """A spec that was edited by hand is used, and that is said."""
        return "warn"

    def ingredients(self, unit: JobUnit) -> Mapping[str, object]:
        """Return what the spec and the archive are made of, besides the sources."""
        settings = unit.project.rpm.model_dump(exclude={"builder", "srpm_only", "templates"})
        stable_list = _stable_list(unit)
        return {
            **recipe_ingredients(unit, rpm.template_digest(unit.job, template_folder(unit))),
            "rpm": settings,
            "stable list": stable_list and hashlib.sha256(stable_list).hexdigest(),
        }

    def run(self, work: Work[Any]) -> Recipe:
        """Pack the sources and render the spec."""
        job = work.unit.job
        archive = rpm.archive_name(job)
        facts = write_sources(work, archive)
        spec = rpm.spec_name(job)
        (work.folder / spec).write_text(rpm.render_spec(facts, template_folder(work.unit)), encoding="utf-8")
        if stable_list := _stable_list(work.unit):
            (work.folder / rpm.STABLE_LIST).write_bytes(stable_list)
        return Recipe(
            format="rpm",
            name=rpm.source_name(job),
            version=rpm.package_version(job),
            spec=spec,
            archive=archive,
            more_sources=(rpm.STABLE_LIST,) if stable_list else (),
            kernels=tuple(kernel.uname_r for kernel in job.kernels),
            source_date_epoch=facts.provenance.commit_epoch,
        )

"""generate_debian: the debian folder and the source archive of one DEB job."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pkgkmod.model.artifacts import Recipe, SourceTree
from pkgkmod.model.project import Project
from pkgkmod.packages import deb
from pkgkmod.packages.copyright import Claims, missing_texts, read_claims
from pkgkmod.packages.debchangelog import Entry, debian_changelog, earlier_entries, read_entries, update_changelog
from pkgkmod.packages.debnames import packaged_version
from pkgkmod.packages.debsource import DebianSources, debian_sources
from pkgkmod.plugins import JobUnit, Option, Work
from pkgkmod.sources.history import commits_between, license_texts
from pkgkmod.stages.packaging import recipe_ingredients, write_sources


def template_folder(unit: JobUnit) -> Path | None:
    """Return the packager's own folder of Debian templates."""
    return unit.base / unit.project.deb.templates if unit.project.deb.templates else None


def _changelog(unit: JobUnit) -> Path:
    return unit.base / unit.project.deb.changelog


def _changelog_digest(unit: JobUnit) -> str:
    try:
        return hashlib.sha256(_changelog(unit).read_bytes()).hexdigest()
    except OSError:  # it need not be there; what else may be wrong is said when it is read
        return ""


class GenerateDebian:
    """Write what dpkg-buildpackage and sbuild need, and a person can read."""

    name = "generate_debian"
    version = 4
    summary = "Write the debian folder and source archive of each DEB target."
    scope: Literal["job"] = "job"
    produces = "recipe.deb"
    in_build = False
    options = (
        Option(
            ("--update-changelog",),
            "deb.update_changelog",
            "Write this version's entry into the changelog beside the project file, too.",
            value=True,
        ),
    )

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
        return {
            **recipe_ingredients(unit, deb.template_digest(template_folder(unit))),
            "deb": unit.project.deb.model_dump(exclude={"builder", "templates"}),
            "held": [packaged_version(kernel) for kernel in unit.job.kernels if unit.project.deb.hold_kernel],
            "changelog": _changelog_digest(unit),
        }

    def run(self, work: Work[Any]) -> Recipe:
        """Pack the sources and write debian/."""
        job, imported = work.unit.job, work.one("source_tree")
        archive = deb.archive_name(job)
        entries = read_entries(_changelog(work.unit), job)
        sources = debian_sources(imported.folder, imported.load(SourceTree).provenance, work.progress)
        facts = write_sources(work, archive, sources)
        claims = _claims(work, imported.folder / "tree", sources, facts.provenance.commit)
        commits = _commits(work, entries, facts.provenance.commit)
        changelog = debian_changelog(facts, entries, commits)
        deb.write_debian(
            facts,
            work.folder / "debian",
            template_folder(work.unit),
            sources=sources,
            claims=claims,
            changelog=changelog,
        )
        if job.project.deb.update_changelog and not job.target.has_own_sources:
            update_changelog(_changelog(work.unit), facts, commits)
        return Recipe(
            format="deb",
            name=deb.source_name(job),
            version=deb.package_version(job),
            debian="debian",
            archive=archive,
            kernels=tuple(kernel.uname_r for kernel in job.kernels),
            source_date_epoch=changelog.time,
        )


def _commits(work: Work[Any], entries: Sequence[Entry], commit: str) -> tuple[str, ...]:
    """Return the subjects of the commits since the version before, unless the changelog has this one already."""
    earlier, present = earlier_entries(work.unit.job, entries)
    before = earlier[0].commit if earlier else ""
    if present or not before or before == commit:
        return ()
    return commits_between(work.unit.project.source, before, commit, base=work.unit.base, progress=work.progress)


def _claims(work: Work[Any], tree: Path, sources: DebianSources, commit: str) -> Claims:
    """Return licences and holders of the sources, with the texts of licences that Debian's systems do not have."""
    settings = work.unit.project.source
    claims = read_claims(tree, settings.archive, sources.originals)
    found = license_texts(settings, commit, missing_texts(claims), base=work.unit.base, progress=work.progress)
    claims = claims.with_texts(found)
    for license in missing_texts(claims):
        work.progress.info(f"debian/copyright has not the text of {license}: import LICENSES/*/{license}, too")
    return claims

"""prepare_sources: the driver's sources, imported from git at a commit and patched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pkgkmod.cachefolder import cache_folder
from pkgkmod.model.artifacts import SourceTree
from pkgkmod.model.fields import CheckLevel
from pkgkmod.model.project import Project
from pkgkmod.plugins import Option, SourceUnit, Work
from pkgkmod.sources.importer import import_sources, selection_key
from pkgkmod.sources.repository import resolve_source


class PrepareSources:
    """Import the project's directories at its revision, with patches and provenance."""

    name = "prepare_sources"
    version = 1
    summary = "Import the driver's sources from a git repository at a revision."
    scope = "source"
    produces = "source_tree"
    in_build = False
    options = (
        Option(
            ("-g", "--git-dir", "--repository"),
            "source.repository",
            "Git repository: a folder or a URL.",
            metavar="REPO",
        ),
        Option(("-r", "--revision"), "source.revision", "Commit, tag or branch.", metavar="REV"),
        Option(
            ("-d", "--directories"),
            "source.directories",
            "Folder or file to import, by its path in the kernel tree; may be given several times.",
            metavar="DIR",
            multiple=True,
        ),
        Option(
            ("--follow-includes",),
            "source.follow_includes",
            "Import what the sources use elsewhere, too.",
            value=True,
        ),
        Option(("--low-bandwidth",), "source.low_bandwidth", "Fetch fewer bytes, in more requests.", value=True),
    )

    def consumes(self, project: Project) -> tuple[str, ...]:
        """Nothing comes before it."""
        return ()

    def applies(self, unit: SourceUnit) -> bool:
        """Every project has sources."""
        return True

    def on_edit(self, project: Project) -> CheckLevel:
        """Edited sources are built, or refused, as the project says."""
        return project.source.check

    def ingredients(self, unit: SourceUnit) -> Mapping[str, object]:
        """Return the commit, the directories and the patches."""
        source = unit.project.source
        commit = resolve_source(source, base=unit.base, cache=cache_folder())
        return selection_key(source, commit=commit, base=unit.base)

    def run(self, work: Work[Any]) -> SourceTree:
        """Import and patch."""
        return import_sources(
            work.unit.project.source,
            base=work.unit.base,
            cache=cache_folder(),
            destination=work.folder,
            progress=work.progress,
        )

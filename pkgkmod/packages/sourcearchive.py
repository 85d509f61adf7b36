"""The source archive: the same for RPM and DEB, and all that is needed to build the modules anywhere."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pkgkmod.model.artifacts import Provenance
from pkgkmod.model.project import Project
from pkgkmod.modules.buildfolder import write_build_folder
from pkgkmod.modules.survey import Survey, survey
from pkgkmod.sources.archive import write_archive
from pkgkmod.sources.reach import include_folders


def write_source_archive(
    project: Project, imported: Path, provenance: Provenance, destination: Path, *, top_folder: str, shelf: Path
) -> Survey:
    """Write the archive `destination` of the sources imported in `imported`; return what it builds.

    `shelf` keeps it for other recipes that hold the same one.
    """
    found = survey(project, imported / "tree")
    with tempfile.TemporaryDirectory(prefix="pkgkmod-") as scratch:
        folder = Path(scratch, "build")
        write_build_folder(project, found, imported, include_folders(imported / "tree"), folder)
        write_archive(
            folder,
            destination,
            prefix=top_folder,
            epoch=provenance.commit_epoch,
            content=project.source.archive,
            shelf=shelf,
        )
    return found

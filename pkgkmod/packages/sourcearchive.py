"""The source archive: all that is needed to build the modules anywhere."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pkgkmod.errors import ConfigError
from pkgkmod.model.artifacts import Provenance
from pkgkmod.model.project import Project
from pkgkmod.modules.buildfolder import PATCHES_FOLDER, write_build_folder
from pkgkmod.modules.probefiles import PROBES_FOLDER
from pkgkmod.modules.survey import Survey, survey
from pkgkmod.packages.debsource import AS_IMPORTED, DebianSources
from pkgkmod.packages.firmware import find_firmware, write_firmware
from pkgkmod.packages.headers import LIST, find_headers, header_list
from pkgkmod.sources.archive import write_archive
from pkgkmod.sources.reach import include_folders

FIRMWARE_FOLDER = "firmware"


def write_source_archive(
    project: Project,
    imported: Path,
    provenance: Provenance,
    destination: Path,
    *,
    base: Path,
    top_folder: str,
    shelf: Path,
    debian: DebianSources = AS_IMPORTED,
) -> Survey:
    """Write the archive `destination` of the sources imported in `imported`; return what it builds.

    `base` is the folder of the project file, `shelf` keeps the archive for other recipes that hold the same one. The
    archive of a Debian source package (`debian`) has the sources without the patches that are in debian/patches. Raise
    ConfigError if the project's firmware or headers cannot be packaged.
    """
    found = survey(project, imported / "tree")
    with tempfile.TemporaryDirectory(prefix="pkgkmod-") as scratch:
        folder = Path(scratch, "build")
        write_build_folder(project, found, imported, include_folders(imported / "tree"), folder)
        _add_firmware(project, base, folder)
        headers = find_headers(imported / "tree", found.directories, project.devel)
        if headers:
            (folder / LIST).write_text(header_list(headers), encoding="utf-8")
        debian.take_back(folder, provenance)
        write_archive(
            folder,
            destination,
            prefix=top_folder,
            epoch=provenance.commit_epoch,
            content=project.source.archive,
            whole=(FIRMWARE_FOLDER, PATCHES_FOLDER, PROBES_FOLDER, *debian.originals),
            shelf=shelf,
        )
    return found


def _add_firmware(project: Project, base: Path, folder: Path) -> None:
    """Copy the project's firmware into the build folder; raise ConfigError if its place is taken."""
    files = find_firmware(base, project.firmware)
    if files and (folder / FIRMWARE_FOLDER).exists():
        raise ConfigError(
            f"the imported sources have a folder called {FIRMWARE_FOLDER}, and the project has firmware to package",
            hint="import the folders below it one by one, or package the firmware in a project of its own",
        )
    write_firmware(files, folder / FIRMWARE_FOLDER)

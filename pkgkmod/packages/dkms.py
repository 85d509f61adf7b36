"""The folder that dkms builds from: the sources, and dkms.conf, as the packages called -dkms install them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pkgkmod.formats.tarball import unpack_tarball
from pkgkmod.model.artifacts import Provenance
from pkgkmod.model.distro import Distro
from pkgkmod.model.project import Project
from pkgkmod.packages.sourcearchive import write_source_archive
from pkgkmod.templates import Room, Templates

CONF = "dkms.conf"
_ROOMS: Mapping[str, Room] = {"rpm": "spec-templates", "deb": "debian-templates"}


def dkms_folder_name(project: Project) -> str:
    """Return the name of the folder, as dkms wants it below /usr/src: NAME-VERSION."""
    return f"{project.project.name}-{project.project.version}"


def dkms_conf(project: Project, modules: Sequence[str], distro: Distro, *, base: Path) -> str:
    """Return the dkms.conf for a distribution: the text that its -dkms packages have.

    `base` is the folder of the project file. Raise ConfigError if a template of the packager's own is wrong.
    """
    own = project.rpm.templates if distro.format == "rpm" else project.deb.templates
    values: dict[str, Any] = {
        "project": project.project.name,
        "version": project.project.version,
        "modules": tuple(modules),
        "module_folder": distro.module_folder.format(name=project.project.name),
        "weak_modules": distro.override_folder.startswith("weak-updates/"),
    }
    return Templates(_ROOMS[distro.format], base / own if own else None).render(f"{CONF}.j2", values)


def write_dkms_folder(
    project: Project, imported: Path, provenance: Provenance, destination: Path, *, base: Path, distro: Distro
) -> tuple[str, ...]:
    """Make the folder `destination` of the sources imported in `imported`; return the names of its modules.

    Modes and times depend on the sources only. Raise ConfigError as for a source archive.
    """
    with tempfile.TemporaryDirectory(prefix="pkgkmod-") as scratch:
        archive = Path(scratch, "sources.tar.xz")
        # Through the archive, so that the same files are in the folder as in the packages.
        found = write_source_archive(
            project,
            imported,
            provenance,
            archive,
            base=base,
            top_folder=destination.name,
            shelf=Path(scratch),
        )
        unpack_tarball(archive, destination.parent)
    text = dkms_conf(project, found.names, distro, base=base)
    (destination / CONF).write_text(text, encoding="utf-8")
    (destination / CONF).chmod(0o644)
    _settle(destination, provenance.commit_epoch)
    return found.names


def _settle(folder: Path, epoch: int) -> None:
    """Give folders the mode that they have in packages, and everything the time `epoch` (seconds)."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            os.utime(Path(parent, name), (epoch, epoch), follow_symlinks=False)
        Path(parent).chmod(0o755)
        os.utime(parent, (epoch, epoch))

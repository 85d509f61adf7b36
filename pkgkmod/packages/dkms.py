"""The folder that dkms builds from: the sources, and dkms.conf, as the packages called -dkms install them."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pkgkmod.config.importers.dkmsconf import ONLY_KERNELS, ONLY_NEWEST
from pkgkmod.errors import ConfigError
from pkgkmod.formats.tarball import unpack_tarball
from pkgkmod.model.artifacts import Provenance
from pkgkmod.model.distro import Distro
from pkgkmod.model.only import Only, version_order
from pkgkmod.model.project import Project
from pkgkmod.packages.sourcearchive import write_source_archive
from pkgkmod.templates import Room, Templates

CONF = "dkms.conf"
_NOT_IN_BASH = re.compile(r"\(\?|[*+?][?+]|\[[^\]]*\\|\\(?![dwWsSbB])[A-Za-z0-9]")
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
        "limits": dkms_limits(project.only),
    }
    return Templates(_ROOMS[distro.format], base / own if own else None).render(f"{CONF}.j2", values)


def dkms_limits(only: Only) -> dict[str, Any]:
    """Return what the templates of a dkms.conf say of the kernels that the driver is for.

    Patterns for `case` are in `takes` and `refuses`, versions in `bounds`; dkms 3.0 knows neither of them. Raise
    ConfigError for a regular expression that bash does not have.
    """
    wanted = [_for_case(pattern) for pattern in only.kernels if not pattern.startswith("!")]
    unwanted = [_for_case(pattern[1:]) for pattern in only.kernels if pattern.startswith("!")]
    options = [f"!CONFIG_{name[1:]}" if name.startswith("!") else f"CONFIG_{name}" for name in only.config]
    directives = {
        "BUILD_EXCLUSIVE_KERNEL": _for_bash("release", only.release),
        "BUILD_EXCLUSIVE_KERNEL_MIN": only.oldest,
        "BUILD_EXCLUSIVE_ARCH": _for_bash("machine", only.machine),
        "BUILD_EXCLUSIVE_CONFIG": " ".join(options),
        "OBSOLETE_BY": only.before,
        ONLY_KERNELS: " ".join(only.kernels),
        ONLY_NEWEST: only.newest,
    }
    bounds = ((">=", only.oldest), ("<=", only.newest), ("<", only.before))
    return {
        "directives": [(name, value) for name, value in directives.items() if value],
        "takes": "|".join(wanted),
        "refuses": "|".join(unwanted),
        "bounds": [(relation, version_order(version)) for relation, version in bounds if version],
    }


def _for_case(pattern: str) -> str:
    """Return a pattern of releases for `case`, which takes a tilde for somebody's folder."""
    return pattern.replace("~", "\\~")


def _for_bash(key: str, expression: str) -> str:
    """Return a regular expression as bash has them (regex(7), extended); raise ConfigError if it has not."""
    if _NOT_IN_BASH.search(expression):
        raise ConfigError(
            f"only.{key} cannot be said in a dkms.conf: {expression}",
            hint="bash knows no groups that begin with (?, no *? and +?, no backslash in [], and of letters behind a "
            "backslash d, w, s and b",
        )
    return re.sub(r"\\(.)", lambda escaped: "[0-9]" if escaped[1] == "d" else escaped[0], expression)


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

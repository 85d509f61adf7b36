"""Which packages are published, and into which suite or release: those of a project, or files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pkgkmod.data.distros import distro_of_version, find_distro
from pkgkmod.errors import InputError, SigningError, UsageError
from pkgkmod.formats.debindex import read_deb_control, read_source_control
from pkgkmod.formats.rpm import read_header
from pkgkmod.model.artifacts import PackageFormat
from pkgkmod.model.distro import Distro
from pkgkmod.model.project import Project
from pkgkmod.progress import Progress
from pkgkmod.workspace import Result, Workspace

ENDINGS: Mapping[PackageFormat, tuple[str, ...]] = {"deb": (".deb", ".dsc"), "rpm": (".rpm",)}
"""How the files end that are given to a repository; a .dsc brings its archives."""


def find_files(paths: Sequence[Path], formats: Iterable[PackageFormat]) -> dict[PackageFormat, list[Path]]:
    """Return the packages among files, and in folders among them; raise InputError for what is none."""
    found: dict[PackageFormat, list[Path]] = {format: [] for format in formats}
    for path in paths:
        inside = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        wanted = {format: [one for one in inside if one.suffix in ENDINGS[format]] for format in found}
        if not path.exists():
            raise InputError(f"{path} is not there", hint="give packages, or folders that hold some")
        if not any(wanted.values()):
            endings = ", ".join(f"*{ending}" for format in found for ending in ENDINGS[format])
            raise InputError(f"there is no package to publish in {path}", hint=f"wanted are {endings}")
        for format, files in wanted.items():
            found[format] += files
    return found


def by_suite(paths: Iterable[Path], format: PackageFormat, suite: str | None) -> dict[str, list[Path]]:
    """Return files by the suite or release that they are for: the named one, or what their versions say.

    Raise UsageError if they do not say it.
    """
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(suite or _guessed(path, format), []).append(path)
    return found


def _guessed(path: Path, format: PackageFormat) -> str:
    version = _VERSION_OF[path.suffix](path)
    if distro := distro_of_version(version, format):
        return _suite_of(distro, distro.id)
    raise UsageError(
        f"for which distribution is {path.name}? Its version, {version!r}, does not say it",
        hint="name the suite or release: --suite NAME",
    )


_VERSION_OF: Mapping[str, Callable[[Path], str]] = {
    ".deb": lambda path: read_deb_control(path).version,
    ".dsc": lambda path: read_source_control(path).version,
    ".rpm": lambda path: read_header(path).release,
}


def _suite_of(distro: Distro, target: str) -> str:
    return distro.codename if distro.format == "deb" else target


def of_project(
    workspace: Workspace, project: Project, format: PackageFormat, targets: Sequence[str], progress: Progress
) -> dict[str, list[Path]]:
    """Return the newest finished packages of a project's targets, by suite or release; of all targets if none is named.

    Raise SigningError if they are to be signed and were not; UsageError if there are none.
    """
    distros = {target.id: find_distro(target.distro) for target in project.target}
    made = [result for result in workspace.all() if result.stage in (f"build_{format}", "sign")]
    places = dict.fromkeys((result.target, result.kernel) for result in made)
    found: dict[str, list[Path]] = {}
    for target, kernel in places:
        distro = distros.get(target)
        if distro is None or distro.format != format or (targets and target not in targets):
            continue
        result = _finished(workspace, project, format, target, kernel, progress)
        files = [package["file"] for package in result.artifact["packages"]] if result and result.state == "ok" else []
        wanted = [result.folder / file for file in files if file.endswith(ENDINGS[format])] if result else []
        if wanted:
            found.setdefault(_suite_of(distro, target), []).extend(wanted)
    if not found:
        raise UsageError(
            f"the project has no finished {format.upper()} packages here", hint=f"run `pkgkmod build_{format}`"
        )
    return found


def _finished(
    workspace: Workspace, project: Project, format: PackageFormat, target: str, kernel: str, progress: Progress
) -> Result | None:
    built, signed = (workspace.newest(stage, target, kernel) for stage in (f"build_{format}", "sign"))
    if format == "deb" and signed is None:
        return built  # its modules are looked at later
    if not project.signing.is_on:
        return built
    if signed is None:
        raise SigningError(
            f"the packages of {target} are to be signed, and are not yet", hint="run `pkgkmod sign`, then publish them"
        )
    if built and built.finished > signed.finished:
        progress.warning(f"the packages of {target} were built anew after they were signed: `pkgkmod sign` signs those")
    return signed

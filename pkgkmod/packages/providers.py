"""The drivers that a project builds on, as they are on this machine: exported symbols and headers for a kernel."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import ValidationError

from pkgkmod.config.load import load
from pkgkmod.config.required import project_file
from pkgkmod.errors import ConfigError, RequirementError
from pkgkmod.model.artifacts import ModuleSet, PackageSet
from pkgkmod.model.project import Project
from pkgkmod.model.requires import UNAME_R, Requirement
from pkgkmod.modules.survey import survey
from pkgkmod.packages.debnames import debian_name
from pkgkmod.packages.headers import find_headers
from pkgkmod.sources.unpack import walk_files
from pkgkmod.workspace import Result, Workspace, digest

_STAGE, _SOURCES = "build_modules", "prepare_sources"


@dataclass(frozen=True)
class Provider:
    """What a driver offers those that build on it, for one kernel."""

    name: str
    files: Mapping[str, Path]
    """Its Module.symvers and headers, by the absolute path at which its devel package has them."""

    @property
    def stamp(self) -> str:
        """Digest that changes when something may have to be built anew: an export, or a header."""
        return digest({path: _checksum(file) for path, file in sorted(self.files.items())})


def provider_stamps(project: Project, base: Path, uname_r: str, label: str) -> dict[str, str]:
    """Return, for fingerprints, what stands for each required driver.

    `base` is the folder of the project file, `label` that of the sources. Raise RequirementError for one that is not
    there.
    """
    return {f"requires {one.name}": one.stamp for one in find_providers(project, base, uname_r, label)}


def write_providers(project: Project, base: Path, uname_r: str, label: str, destination: Path) -> None:
    """Lay out what the devel packages of all required drivers would install, below `destination`."""
    for provider in find_providers(project, base, uname_r, label):
        for path, file in provider.files.items():
            place = destination / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)


def put_devel_debs(project: Project, distro: str, base: Path, destination: Path) -> None:
    """Copy the development packages that required projects have made for a distribution into a folder.

    One that has made none is passed over: an archive may have it.
    """
    for requirement in project.requires:
        ours = _finished(requirement, "build_deb", distro, base)
        if not ours:
            continue
        newest = max(ours, key=lambda result: result.finished)
        name = debian_name(f"{requirement.label}-modules-dev")
        for path in _binaries(newest, name):
            shutil.copyfile(path, destination / path.name)
            (destination / path.name).chmod(0o644)  # somebody else reads it


def devel_rpms(project: Project, distro: str, base: Path) -> tuple[Path, ...]:
    """Return the development packages that required projects have made for a distribution: the newest for each job.

    One that has made none is passed over: a repository may have it.
    """
    found: dict[tuple[Path, str, str], Result] = {}
    for requirement in project.requires:
        for result in sorted(_finished(requirement, "build_rpm", distro, base), key=lambda result: result.finished):
            found[project_file(requirement, base), result.target, result.kernel] = result
    return tuple(path for result in found.values() for path in _binaries(result, "*-devel"))


def _finished(requirement: Requirement, stage: str, distro: str, base: Path) -> list[Result]:
    """Return what a stage has made for a distribution in the project that a requirement names, if it names one."""
    if not requirement.project:
        return []
    file = project_file(requirement, base)
    targets = [target.id for target in load(file).project.target if target.distro == distro]
    made = [found for found in Workspace(file.parent).all() if (found.stage, found.state) == (stage, "ok")]
    return [found for found in made if found.target in targets]


def _binaries(result: Result, names: str) -> list[Path]:
    """Return the files of a result's binary packages whose names are as a pattern says."""
    try:
        packages = result.load(PackageSet).packages
    except ValidationError:  # of another version of pkgkmod
        return []
    return [result.folder / one.file for one in packages if one.kind == "binary" and fnmatchcase(one.name, names)]


def find_providers(project: Project, base: Path, uname_r: str, label: str) -> tuple[Provider, ...]:
    """Return the required drivers; raise RequirementError for one that is not there, or not for this kernel."""
    return tuple(
        _of_project(one, project_file(one, base), uname_r, label) if one.project else _installed(one, uname_r)
        for one in project.requires
    )


def _paths(requirement: Requirement, uname_r: str) -> tuple[str, str]:
    """Return the absolute paths of Module.symvers and of the folder of headers."""
    symvers, headers = (f"{requirement.devel_folder}/{path}" for path in (requirement.symvers, requirement.headers))
    return symvers.replace(UNAME_R, uname_r), headers.replace(UNAME_R, uname_r)


def _installed(requirement: Requirement, uname_r: str) -> Provider:
    symvers, headers = _paths(requirement, uname_r)
    if not Path(symvers).is_file():
        raise RequirementError(
            f"'{requirement.label}', which this project requires, is not here for {uname_r}: there is no {symvers}",
            hint="install its devel package for this kernel, or say with `folder` and `symvers` in [[requires]] where "
            "that puts it",
        )
    folder = Path(headers)
    found = walk_files(folder) if folder.is_dir() else ()
    files = {f"{headers}/{path}": folder / path for path in found if (folder / path).is_file()}
    return Provider(requirement.label, {symvers: Path(symvers), **files})


def _of_project(requirement: Requirement, file: Path, uname_r: str, label: str) -> Provider:
    modules = _modules_of(requirement, file, uname_r, label)
    sources = _sources_of(modules, Workspace(file.parent))
    symvers, headers = _paths(requirement, uname_r)
    files = {symvers: modules.folder / modules.load(ModuleSet).symvers}
    other = load(file).project
    tree = sources.folder / "tree"
    try:
        found = find_headers(tree, survey(other, tree).directories, other.devel)
    except ConfigError as error:
        error.brief = f"{file}: {error.brief}"
        raise
    return Provider(
        requirement.label, {**files, **{f"{headers}/{place}": tree / path for path, place in found.items()}}
    )


def _modules_of(requirement: Requirement, file: Path, uname_r: str, label: str) -> Result:
    """Return the newest modules of another project for a kernel: of the same sources' label, or of its own sources."""
    workspace = Workspace(file.parent)
    made = [found for name in dict.fromkeys((label, "_")) if (found := workspace.newest(_STAGE, name, uname_r))]
    reason = "has not been built" if not made else made[0].reason if made[0].state != "ok" else ""
    if made and not reason:
        reason = _damage(made[0])
    if reason:
        raise RequirementError(
            f"'{requirement.label}', which this project requires, is not there for {uname_r}",
            details=f"{file.parent}: {reason}",
            hint=f"build it first, for the same kernel: `pkgkmod -c {file} build_modules`",
        )
    return made[0]


def _damage(modules: Result) -> str:
    """Return what is wrong with a finished result; empty if nothing is."""
    try:
        modules.load(ModuleSet)
    except ValidationError:
        return "was built by another version of pkgkmod"
    changed = modules.changed_files()
    return f"was changed after it was built: {', '.join(changed[:3])}" if changed else ""


def _sources_of(modules: Result, workspace: Workspace) -> Result:
    """Return the sources that modules were made of, or the same ones with edits."""
    token = next((token for title, token in modules.inputs.items() if title.startswith(_SOURCES)), "")
    found = workspace.find(_SOURCES, modules.target, "_", token) or workspace.newest(_SOURCES, modules.target, "_")
    if not found or found.state != "ok":
        raise RequirementError(
            f"the sources of the modules in {modules.folder} are gone",
            hint=f"`pkgkmod -c {workspace.project_folder / 'pkgkmod.toml'} prepare_sources` imports them again",
        )
    return found


def _checksum(file: Path) -> str:
    """Return a digest of a file; the order of lines in a Module.symvers says nothing."""
    lines = file.read_bytes().splitlines()
    content = b"\n".join(sorted(lines) if file.name == "Module.symvers" else lines)
    return hashlib.sha256(content).hexdigest()

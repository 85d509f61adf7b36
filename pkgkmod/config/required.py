"""The other projects that a project builds on: their names, which those of their packages are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from pkgkmod.config.layers import short
from pkgkmod.config.mistakes import Mistake, PlaceOf, dotted, printable, raise_all
from pkgkmod.config.positions import KeyPath
from pkgkmod.errors import ConfigError, did_you_mean
from pkgkmod.model.project import Project, kernel_name
from pkgkmod.model.requires import Requirement

PROJECT_FILE = "pkgkmod.toml"

Read = Callable[[Path], Project]
"""Reads the project file at a path."""


def with_names(project: Project, path: Path, above: tuple[Path, ...], place: PlaceOf, read: Read) -> Project:
    """Return the project with the name and vendor of each project that it requires.

    `above` are the files of projects that require this one, whose file is `path`. Raise ConfigError for a project that
    is not there, makes no devel package or requires itself by way of others, and for an unknown name in
    module.requires.
    """
    found: list[Requirement] = []
    for number, requirement in enumerate(project.requires):
        where = place(("requires", number, "project"), False)
        found.append(_named(requirement, path, above, where, read) if requirement.project else requirement)
    project = project.model_copy(update={"requires": tuple(found)})
    raise_all(list(_mistakes(project, place)), printable(short(path)))
    return project


def _named(requirement: Requirement, path: Path, above: tuple[Path, ...], where: str, read: Read) -> Requirement:
    file = project_file(requirement, path.parent)
    shown = printable(short(file))
    way = [one.resolve() for one in (*above, path)]
    if file in way:
        raise ConfigError(
            f"{where}: projects cannot require each other in a circle",
            details="\nrequires ".join(printable(short(one)) for one in [*way[way.index(file) :], file]),
            hint="put their modules into one project: [[module]] requires = [...]",
        )
    if not file.is_file():
        raise ConfigError(
            f"{where}: requires.project: there is no {shown}",
            hint="it is the folder of another project, beside this one's file",
        )
    other = read(file)
    if not other.devel.enabled:
        raise ConfigError(
            f"{where}: {shown} makes no devel package, and source packages of this project need it",
            hint="put `enabled = true` into its table [devel]",
        )
    name = other.project.name
    if requirement.name not in (None, name):
        raise ConfigError(f"{where}: {shown} is the project '{name}', not '{requirement.name}'")
    return requirement.model_copy(update={"name": name, "vendor": requirement.vendor or other.project.vendor})


def project_file(requirement: Requirement, base: Path) -> Path:
    """Return the file of the project that is required by the one in the folder `base`."""
    return (base / str(requirement.project)).expanduser().resolve() / PROJECT_FILE


def _mistakes(project: Project, place: PlaceOf) -> Iterator[Mistake]:
    names = [module.name for module in project.module]
    seen: set[str] = set()
    for number, requirement in enumerate(project.requires):
        key: KeyPath = ("requires", number, "project" if requirement.project else "name")
        if requirement.label in seen:
            yield Mistake(place(key, False), f"{dotted(key)}: '{requirement.label}' is required twice")
        elif requirement.label in names:
            yield Mistake(place(key, False), f"{dotted(key)}: '{requirement.label}' is a module of this project, too")
        seen.add(requirement.label)
    known = {kernel_name(name) for name in (*names, *seen)}
    for number, module in enumerate(project.module):
        for entry, name in enumerate(module.requires):
            if kernel_name(name) in known:
                continue
            key = ("module", number, "requires", entry)
            meant = did_you_mean(name, [*names, *seen]) or f"there are: {', '.join([*names, *sorted(seen)])}"
            text = f"{dotted(key)}: no module and no driver in [[requires]] is called '{printable(name)}'; {meant}"
            yield Mistake(place(key, False), text)

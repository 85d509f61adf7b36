"""The farm `obs`: an Open Build Service, openSUSE's or another.

Spoken to with osc's own library: who one is, and with which password or key, stands in osc's configuration and nowhere
else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from pkgkmod.data.distros import find_distro
from pkgkmod.errors import ConfigError, FarmError
from pkgkmod.farms import SourcePackage
from pkgkmod.plugins import check_settings
from pkgkmod.progress import Progress

if TYPE_CHECKING:
    from pkgkmod.builders.obs.session import ObsSession


def _name(pattern: str, most: int, words: str) -> AfterValidator:
    """Let a text be what a pattern says, which `words` say to people."""
    form = re.compile(pattern)

    def check(value: str) -> str:
        if len(value) > most or not form.fullmatch(value):
            raise ValueError(f"'{value[:60]}' is not {words}")
        return value

    return AfterValidator(check)


# As the service itself checks them (BSVerify.pm, and its web API, which is stricter): nothing that leads elsewhere in a
# path or a query.
_PROJECT = "[A-Za-z0-9][0-9A-Za-z_+.-]*(:[A-Za-z0-9][0-9A-Za-z_+.-]*)*"
_REPOSITORY = "[A-Za-z0-9][0-9A-Za-z_+.~-]*"
ProjectName = Annotated[str, _name(_PROJECT, 200, "the name of a project, as in home:jane:drivers")]
RepositoryName = Annotated[str, _name(_REPOSITORY, 200, "the name of a repository, as in openSUSE_Tumbleweed")]
Machine = Annotated[str, _name("[a-z0-9_]+", 40, "a machine, as in x86_64")]
RepositoryPath = Annotated[
    str, _name(f"{_PROJECT}/{_REPOSITORY}", 400, "PROJECT/REPOSITORY, as in openSUSE:Factory/standard")
]
_UNSAFE = re.compile(r"[^A-Za-z0-9+._-]")
_FORM = 1
"""Raised when something else is sent of the same source package."""
_FIELDS = ("name", "target", "kernel")


class Repository(BaseModel):
    """`[[plugin.obs.repositories]]`: what is built for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: RepositoryName
    path: tuple[RepositoryPath, ...] = ()
    """Repositories that it builds on, `PROJECT/REPOSITORY`; left as they are if empty."""
    arches: tuple[Machine, ...] = ("x86_64",)
    targets: tuple[str, ...] = ()
    """Targets of the project that are built in it; all if empty."""


class ObsSettings(BaseModel):
    """`[plugin.obs]` of the project file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    apiurl: Annotated[str, _name("[A-Za-z0-9][0-9A-Za-z_.:/~+-]*", 1000, "a server's address or alias")] | None = None
    """Server, or its alias in osc's configuration; osc's own if it is not set."""
    project: ProjectName
    package: str = "{name}-{target}"
    """Name of the package; `{name}` is the recipe's, `{target}` the target's, `{kernel}` that of the job.

    The target is always in it: if it were only there where two targets need it, a further target would rename packages.
    """
    multibuild: bool = False
    """Whether the jobs for one kernel each are one package, or one each: a further kernel builds only its own then."""
    repositories: tuple[Repository, ...] = ()
    """What is built for; the repositories that the project has if empty."""
    create: bool | None = None
    """Whether the project may be created. None: a home project may."""
    publish: bool | None = None
    """Whether the package is published; the project's own setting if it is not set."""
    debuginfo: bool | None = None
    """Whether OBS makes packages of debug information; the project's own setting if it is not set."""
    config: str | None = None
    """The project's configuration, or the file that has it; left as it is if it is not set."""
    needssslcert: bool = False
    """Whether the recipe asks for the project's certificate, which then lies beside the sources."""
    interval: float = Field(10.0, gt=0)
    """Seconds between two questions at the least."""

    @field_validator("package")
    @classmethod
    def _known_fields(cls, value: str) -> str:
        rest = value
        for name in _FIELDS:
            rest = rest.replace(f"{{{name}}}", "")
        if _UNSAFE.search(rest) or not re.match(r"[A-Za-z0-9{]", value):
            raise ValueError("is a name of letters, digits and +._-, with {name}, {target} and {kernel} in it")
        return value

    @field_validator("repositories")
    @classmethod
    def _each_once(cls, value: tuple[Repository, ...]) -> tuple[Repository, ...]:
        names = [one.name for one in value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"'{twice[0]}' is there twice")
        return value

    @property
    def may_create(self) -> bool:
        """Whether the project may be created."""
        return self.project.startswith("home:") if self.create is None else self.create

    def repositories_of(self, target: str) -> tuple[Repository, ...]:
        """Return those in which a target is built."""
        return tuple(one for one in self.repositories if not one.targets or target in one.targets)


class ObsFarm:
    """RPMs and DEBs built by an Open Build Service."""

    name = "obs"
    format = None

    def describe(self, package: SourcePackage, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return project, package and settings of the build."""
        wanted = checked(settings)
        where, name = wanted.project, package_name(wanted, package)
        repositories = wanted.repositories_of(package.job.target.id)
        if wanted.repositories and not repositories:
            raise FarmError(
                f"no repository is for {package.job.target.id}",
                hint="targets of [[plugin.obs.repositories]] name what is built there; all, if there is no such key",
            )
        if other := _clashing(wanted, package):
            raise FarmError(
                f"the packages of {package.job.target.id} and {other} would both be {where}/{name}",
                hint="{target} in plugin.obs.package keeps them apart, as it does where that is not set",
            )
        machines = [f"{one.name} ({', '.join(one.arches)})" for one in repositories]
        return {
            "words": f"{where}/{name}" + (f" for {', '.join(machines)}" if machines else ""),
            "package": name,
            "form": _FORM,
            "settings": wanted.model_dump(mode="json", exclude={"interval", "create"}),
        }

    def group(self, package: SourcePackage, settings: Mapping[str, Any]) -> str:
        """Return the package that the jobs for one kernel each are sent as; nothing if each has its own."""
        wanted = checked(settings)
        return package_name(wanted, package) if _is_shared(wanted, package) else ""

    def connect(self, settings: Mapping[str, Any], base: Path, progress: Progress) -> ObsSession:
        """Read osc's configuration, and ask the server who we are."""
        from pkgkmod.builders.obs.api import connect
        from pkgkmod.builders.obs.session import ObsSession

        wanted = checked(settings)
        return ObsSession(connect(wanted.apiurl), wanted, _configuration(wanted, base), progress)


def checked(settings: Mapping[str, Any]) -> ObsSettings:
    """Return the settings; raise PluginError for one that is wrong."""
    hint = f"its keys: {', '.join(ObsSettings.model_fields)}"
    return check_settings(ObsSettings, settings, ObsFarm.name, hint=hint)


def package_name(wanted: ObsSettings, package: SourcePackage) -> str:
    """Return what the package of a job is called in OBS."""
    pattern = wanted.package
    if package.job.kernel_label != "_" and "{kernel}" not in pattern and not wanted.multibuild:
        pattern += "-{kernel}"
    fields = (package.recipe.name, package.job.target.id, package.job.kernel_label)
    for name, value in zip(_FIELDS, fields, strict=True):
        pattern = pattern.replace(f"{{{name}}}", _UNSAFE.sub("_", value))
    return pattern


def _is_shared(wanted: ObsSettings, package: SourcePackage) -> bool:
    """Tell whether a job for one kernel shares its package with those for others."""
    return wanted.multibuild and package.job.kernel_label != "_" and "{kernel}" not in wanted.package


def _clashing(wanted: ObsSettings, package: SourcePackage) -> str:
    """Return another target whose package would have the same name; nothing if there is none."""
    if "{target}" in wanted.package:
        return ""
    own = package.job.distro
    for target in package.job.project.target:
        is_sent = not wanted.repositories or wanted.repositories_of(target.id)
        if target.id != package.job.target.id and is_sent:
            other = find_distro(target.distro)
            if (other.format, other.source_package) == (own.format, own.source_package):
                return target.id
    return ""


def flavor_name(package: SourcePackage) -> str:
    """Return what a job is called among those of its package; the name of its spec."""
    return _UNSAFE.sub("_", f"{package.recipe.name}-{package.job.kernel_label}")


def _configuration(wanted: ObsSettings, base: Path) -> str | None:
    """Return the text of the project's configuration that is asked for."""
    if wanted.config is None or "\n" in wanted.config:
        return wanted.config
    try:
        return (base / wanted.config).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"plugin.obs.config: {wanted.config} cannot be read",
            details=str(error),
            hint="it is a file's name, or several lines of text",
        ) from None

"""The farm `copr`: Fedora's build service for everybody, and others that run the same frontend.

Spoken to with copr's own client library: the server, who one is and the token stand in ~/.config/copr and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pkgkmod.errors import FarmError
from pkgkmod.farms import SourcePackage
from pkgkmod.model.artifacts import PackageFormat
from pkgkmod.plugins import check_settings
from pkgkmod.progress import Progress

if TYPE_CHECKING:
    from pkgkmod.builders.copr.session import CoprSession

Chroot = Annotated[str, Field(pattern=r"^[a-z0-9][A-Za-z0-9.+_]*(-[A-Za-z0-9.+_]+)+$", max_length=100)]
"""A root of mock that Copr builds in: NAME-VERSION-MACHINE."""
_MACHINES = {"i386": "i686", "armhfp": "armv7hl"}
"""What the kernel calls the machines of chroots, where that is something else."""


class CoprSettings(BaseModel):
    """`[plugin.copr]` of the project file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    project: str = Field(pattern=r"^@?[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$", max_length=200)
    """Project of Copr, `OWNER/NAME` or `@GROUP/NAME`; it has to be there."""
    chroots: tuple[Chroot, ...] | Mapping[str, tuple[Chroot, ...]] = ()
    """What is built in; by target of the project, or for all. A kernel's machine is chosen of them by itself."""
    background: bool = False
    """Whether the builds wait until nothing else is to be built."""
    timeout: int | None = Field(None, gt=0)
    """Seconds after which Copr stops a build; Copr's own limit if it is not set."""
    bootstrap: Literal["default", "on", "off", "image"] | None = None
    """Of what mock makes the root; as the project says if it is not set."""
    interval: float = Field(30.0, gt=0)
    """Seconds between two questions at the least; copr's own client asks as often."""

    @property
    def owner(self) -> str:
        """Who has the project."""
        return self.project.partition("/")[0]

    @property
    def name(self) -> str:
        """Its name, without the owner's."""
        return self.project.partition("/")[2]


class CoprFarm:
    """SRPMs built by Copr."""

    name = "copr"
    format: PackageFormat = "rpm"

    def describe(self, package: SourcePackage, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return project, chroots and options of the build."""
        wanted = checked(settings)
        chroots = chroots_of(wanted, package)
        return {
            "words": f"build in {wanted.project} for {', '.join(chroots)}",
            "project": wanted.project,
            "options": build_options(wanted, package),
        }

    def group(self, package: SourcePackage, settings: Mapping[str, Any]) -> str:
        """Each is a build of its own."""
        return ""

    def connect(self, settings: Mapping[str, Any], base: Path, progress: Progress) -> CoprSession:
        """Read copr's configuration, and ask the frontend who we are."""
        from pkgkmod.builders.copr.api import connect
        from pkgkmod.builders.copr.session import CoprSession

        wanted = checked(settings)
        return CoprSession(connect(), wanted)


def checked(settings: Mapping[str, Any]) -> CoprSettings:
    """Return the settings; raise PluginError for one that is wrong."""
    hint = f"its keys: {', '.join(CoprSettings.model_fields)}"
    return check_settings(CoprSettings, settings, CoprFarm.name, hint=hint)


def chroots_of(wanted: CoprSettings, package: SourcePackage) -> tuple[str, ...]:
    """Return where a source package is built; raise FarmError if the settings name nothing for its machine."""
    target = package.job.target.id
    named = wanted.chroots.get(target, ()) if isinstance(wanted.chroots, Mapping) else wanted.chroots
    if not named:
        raise FarmError(
            f"Copr's chroots for {target} are not known",
            hint=f'plugin.copr.chroots = ["NAME"] for all, or a table: {target} = ["NAME"]; `copr-cli list-chroots` '
            "has the names",
        )
    machines = {kernel.arch for kernel in package.job.kernels}
    found = tuple(one for one in named if _machine(one) in machines)
    if not found:
        raise FarmError(
            f"none of Copr's chroots for {target} is for the machine of its kernels ({', '.join(sorted(machines))})",
            details=f"plugin.copr.chroots: {', '.join(named)}",
        )
    return found


def _machine(chroot: str) -> str:
    name = chroot.rpartition("-")[2]
    return _MACHINES.get(name, name)


def build_options(wanted: CoprSettings, package: SourcePackage) -> dict[str, Any]:
    """Return the options of a build, as the frontend calls them."""
    options: dict[str, Any] = {"chroots": list(chroots_of(wanted, package)), "background": wanted.background}
    options |= {"timeout": wanted.timeout} if wanted.timeout else {}
    options |= {"bootstrap": wanted.bootstrap} if wanted.bootstrap else {}
    return options

"""The farm `koji`: Fedora's, CentOS', Red Hat's, and others that run the same hub.

Spoken to with koji's own client library, which reads the profiles in /etc/koji.conf.d and ~/.koji: servers, ways to log
in and certificates stand there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from pkgkmod.errors import FarmError
from pkgkmod.farms import SourcePackage
from pkgkmod.model.artifacts import PackageFormat
from pkgkmod.plugins import check_settings
from pkgkmod.progress import Progress

if TYPE_CHECKING:
    from pkgkmod.builders.koji.session import KojiSession

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=200)]
"""Of profiles, targets and machines."""


class KojiSettings(BaseModel):
    """`[plugin.koji]` of the project file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: Name = "koji"
    """Profile of koji's own configuration: koji, cbs, brew."""
    target: Name | Mapping[str, Name] | None = None
    """Build target or side tag; by target of the project, or one for all."""
    scratch: bool = True
    """Whether the builds are tries, which are removed after a while, and may be repeated."""
    arches: tuple[Name, ...] = ()
    """Machines to build for; those of the target if empty. Scratch builds only."""
    priority: int | None = None
    """Koji's priority; a higher number is later. None: the usual one, which is lower for scratch builds."""
    interval: float = Field(10.0, gt=0)
    """Seconds between two questions at the least."""


class KojiFarm:
    """SRPMs built by a Koji hub's builders."""

    name = "koji"
    format: PackageFormat = "rpm"

    def describe(self, package: SourcePackage, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the profile, the target and the options of the build."""
        wanted = checked(settings)
        target = build_target(wanted, package)
        what = f"build --scratch for {target}" if wanted.scratch else f"build for {target}"
        return {
            "words": f"{what} at {wanted.profile}",
            "profile": wanted.profile,
            "target": target,
            "options": build_options(wanted),
        }

    def group(self, package: SourcePackage, settings: Mapping[str, Any]) -> str:
        """Each is a build of its own."""
        return ""

    def connect(self, settings: Mapping[str, Any], base: Path, progress: Progress) -> KojiSession:
        """Log in as the profile says."""
        from pkgkmod.builders.koji.api import connect
        from pkgkmod.builders.koji.session import KojiSession

        wanted = checked(settings)
        return KojiSession(connect(wanted.profile), wanted)


def checked(settings: Mapping[str, Any]) -> KojiSettings:
    """Return the settings; raise PluginError for one that is wrong."""
    hint = f"its keys: {', '.join(KojiSettings.model_fields)}"
    return check_settings(KojiSettings, settings, KojiFarm.name, hint=hint)


def build_target(wanted: KojiSettings, package: SourcePackage) -> str:
    """Return the build target of a source package; raise FarmError if the settings name none."""
    name = package.job.target.id
    found = wanted.target.get(name) if isinstance(wanted.target, Mapping) else wanted.target
    if not found:
        raise FarmError(
            f"Koji's build target for {name} is not known",
            hint=f'plugin.koji.target = "NAME" for all, or a table: {name} = "NAME"; `koji list-targets` lists them',
        )
    return found


def build_options(wanted: KojiSettings) -> dict[str, Any]:
    """Return the options of a build, as the hub calls them; raise FarmError for those that it would refuse."""
    options: dict[str, Any] = {"scratch": True} if wanted.scratch else {}
    if wanted.arches:
        if not wanted.scratch:
            raise FarmError(
                "Koji builds for some machines only where the build is a scratch build",
                hint="leave plugin.koji.arches out; ExclusiveArch in the spec limits real builds",
            )
        options["arch_override"] = " ".join(wanted.arches)
    return options

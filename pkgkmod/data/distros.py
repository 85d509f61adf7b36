"""The distributions that pkgkmod knows, one data file each."""

from __future__ import annotations

import functools
import re

from pydantic import ValidationError

from pkgkmod import data
from pkgkmod.errors import ConfigError, did_you_mean
from pkgkmod.model.artifacts import PackageFormat
from pkgkmod.model.distro import Distro


def known_distros() -> tuple[str, ...]:
    """Return the names of all distributions that `target.distro` may say."""
    return data.names("distros")


def distro_of_version(version: str, format: PackageFormat) -> Distro | None:
    """Return the distribution whose suffix (`.el9`, `~deb12`) is in a package's version; None if there is none."""
    for name in known_distros():
        distro = find_distro(name)
        if distro.format == format and distro.version_suffix and _has(version, distro.version_suffix):
            return distro
    return None


def distros_of_kernel(uname_r: str, format: PackageFormat) -> tuple[str, ...]:
    """Return the names of the distributions one of whose own kernels has this release; the likeliest is first."""
    if format == "rpm" and (said := distro_of_version(uname_r, format)):
        return (said.id,)
    # Of releases with kernels of the same names, the newer one comes first, and SLES before Leap.
    found = (find_distro(name) for name in reversed(known_distros()))
    return tuple(
        distro.id
        for distro in found
        if distro.format == format and distro.kernel_names and re.search(distro.kernel_names, uname_r)
    )


def _has(version: str, suffix: str) -> bool:
    return re.search(re.escape(suffix) + r"(?![0-9])", version) is not None


@functools.cache
def find_distro(name: str) -> Distro:
    """Return the facts about a distribution; raise ConfigError if there is none of that name."""
    known = known_distros()
    if name not in known:
        raise ConfigError(
            f"the distribution '{name}' is not known",
            hint=did_you_mean(name, known) or f"known: {', '.join(known)}",
        )
    try:
        return Distro.model_validate({"id": name, **data.load(f"distros/{name}.toml")})
    except ValidationError as error:
        raise ConfigError(f"the data file of '{name}' is wrong", details=str(error)) from None

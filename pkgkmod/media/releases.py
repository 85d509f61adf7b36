"""For which distribution release a package is, where nothing but the package is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pkgkmod.data.distros import distro_of_version, distros_of_kernel, find_distro, known_distros
from pkgkmod.errors import UsageError, did_you_mean
from pkgkmod.model.artifacts import PackageFormat
from pkgkmod.model.disk import DiskPackage, DiskRelease

_SHOWN = 10
"""Packages that a message lists."""


def by_release(packages: Sequence[DiskPackage], distro: str | None = None) -> tuple[DiskRelease, ...]:
    """Return packages by the release that they are for: what they say, or the named one.

    A package whose kernels are those of several releases goes to the named one, if it is among them. One for all
    machines that says nothing goes to the release of the others, if there is one only. Raise UsageError for those
    that do not say it.
    """
    named = _named(distro, packages) if distro else ""
    found: dict[int, str] = {}
    for place, package in enumerate(packages):
        names = _candidates(package)
        if names or (named and find_distro(named).format == package.facts.format):
            found[place] = named if named in names or not names else names[0]
    said = dict(found)
    silent = {place: package for place, package in enumerate(packages) if place not in found}
    for place, package in silent.items():
        others = {name for other, name in said.items() if packages[other].facts.format == package.facts.format}
        if release := _common(package, others):
            found[place] = release
    _refuse([package for place, package in silent.items() if place not in found])
    releases: dict[str, list[DiskPackage]] = {}
    for place, package in enumerate(packages):
        releases.setdefault(found[place], []).append(package)
    return tuple(DiskRelease(find_distro(name), tuple(ones)) for name, ones in releases.items())


def release_of(package: DiskPackage) -> str | None:
    """Return the name of the distribution (`data/distros`) that a package is for; None if it does not say it."""
    return next(iter(_candidates(package)), None)


def _candidates(package: DiskPackage) -> tuple[str, ...]:
    """Return the releases that a package may be for, the likeliest first: all of them have its kernels."""
    facts = package.facts
    if said := distro_of_version(facts.version, facts.format):
        return (said.id,)
    provided = [one.version for one in facts.provides if one.name == "kernel-modules" and one.version]
    return _of_kernels(provided, facts.format) or _of_kernels(package.kernels, facts.format)


def _of_kernels(kernels: Iterable[str], format: PackageFormat) -> tuple[str, ...]:
    said = [distros_of_kernel(kernel, format) for kernel in kernels]
    return tuple(name for name in said[0] if all(name in names for names in said)) if said else ()


def _named(distro: str, packages: Sequence[DiskPackage]) -> str:
    """Return the named distribution's name; UsageError if there is none, or no package of its format."""
    known = known_distros()
    if distro not in known:
        raise UsageError(
            f"the distribution '{distro}' is not known",
            hint=did_you_mean(distro, known) or f"known: {', '.join(known)}",
        )
    format = find_distro(distro).format
    if not any(package.facts.format == format for package in packages):
        raise UsageError(
            f"{distro} takes {format.upper()} packages, and there are none",
            hint=f"give its packages (.{format}), or another --distro",
        )
    return distro


def _common(package: DiskPackage, releases: set[str]) -> str:
    """Return the release of a package that says nothing, by those of the others of its format."""
    if package.facts.kind != "binary":
        return min(releases, default="")  # no installer reads it, wherever it is
    return next(iter(releases)) if len(releases) == 1 and not package.facts.machine else ""


def _refuse(packages: Sequence[DiskPackage]) -> None:
    if not packages:
        return
    lines = [f"{package.shown}: version {package.facts.version}" for package in packages[:_SHOWN]]
    lines += [f"and {len(packages) - _SHOWN} more"] if len(packages) > _SHOWN else []
    raise UsageError(
        f"for which distribution is {packages[0].shown}?"
        if len(packages) == 1
        else f"for which distributions are {len(packages)} of the packages?",
        details="Neither its version nor its kernels say it." if len(packages) == 1 else "\n".join(lines),
        hint="name it: --distro NAME",
    )

"""What anaconda would skip, not load, or take wrongly of a driver disk.

The rules are those of anaconda's dracut/driver_updates.py, utils/dd/dd_list.c and utils/dd/dd_extract.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pkgkmod.data.distros import find_distro, known_distros
from pkgkmod.media.findings import finding
from pkgkmod.media.matching import matches
from pkgkmod.model.disk import DiskPackage, DiskRelease
from pkgkmod.model.distro import Distro
from pkgkmod.model.finding import Finding
from pkgkmod.model.packaging import Disk

NAME = "rhdd3"
_PLAIN = 'rpm.module_compression = "none" makes modules that all installers read'
_FIRMWARE = "/lib/firmware/"


class Installer(NamedTuple):
    """An installer that was released: its release (9.4), and its kernel without the machine."""

    release: str
    kernel: str

    @property
    def shown(self) -> str:
        """What messages call it."""
        return f"{self.release} ({self.kernel})"


def kernels_of(package: DiskPackage) -> tuple[str, ...]:
    """Return the kernels for which anaconda takes a package: `RELATION RELEASE`."""
    # One without a version is never compared, and `installer-enhancement` brings no modules.
    return tuple(
        f"{one.relation} {one.version}"
        for one in package.facts.provides
        if one.name == "kernel-modules" and one.relation and one.version
    )


def check_release(release: DiskRelease, disk: Disk) -> Iterator[Finding]:
    """Yield what is wrong with the packages of a release, whatever else is on the disk."""
    for package in release.packages:
        if package.facts.modules and not kernels_of(package):
            yield finding(
                "DISK020",
                package.shown,
                "anaconda skips it: it provides no kernel-modules with a version",
                "build it with `Provides: kernel-modules = KERNEL`, as pkgkmod does",
            )
        yield from _modules(package, release.distro)
        yield from _kernels_of_modules(package)
        yield from _payload(package, release.distro)
        yield from _firmware(package)
    yield from _installers(release, disk)
    yield from _versions(release)
    if release.packages and not release.machines:
        yield finding(
            "DISK034",
            release.distro.id,
            "all its packages are for all machines, and anaconda reads the folder of its machine only",
            "put the packages with the modules on the disk, too",
        )


def check_together(releases: Sequence[DiskRelease], disk: Disk) -> Iterator[Finding]:
    """Yield which packages installers take that are not meant: all folders of a disk are searched."""
    for release in releases:
        yield from _other_releases(release)
    yield from _same_modules(releases, disk)


def _modules(package: DiskPackage, distro: Distro) -> Iterator[Finding]:
    modules = package.facts.modules
    outside = [module.path for module in modules if not module.path.startswith("/lib/modules/")]
    if outside:
        yield finding(
            "DISK024",
            package.shown,
            f"anaconda lists it, and does not load {_some(outside)}: not below /lib/modules",
            "package modules below /lib/modules, even where /lib is a link to /usr/lib",
        )
    readable = distro.installer_modules
    for compression in sorted({module.compression for module in modules}) if readable else ():
        since = readable.get(compression)
        if since is None:
            text = f"no installer of {distro.title} reads modules that are compressed with {compression}"
            yield finding("DISK025", package.shown, text, _PLAIN)
        elif since != readable["none"]:
            text = f"installers before {since} do not read modules that are compressed with {compression}"
            yield finding("DISK026", package.shown, text, _PLAIN)


def _kernels_of_modules(package: DiskPackage) -> Iterator[Finding]:
    wanted = kernels_of(package)
    kernels: dict[str, set[str]] = {}
    for module in package.facts.modules:
        kernels.setdefault(module.name, set()).add(module.kernel)
    strays = sorted({one for ones in kernels.values() for one in ones if one and not _any_matches(wanted, one)})
    if wanted and strays:
        yield finding(
            "DISK031",
            package.shown,
            f"it has modules for {_some(strays)}, and provides kernel-modules {' and '.join(wanted)}",
            "name the kernels of its modules in Provides: kernel-modules, the machine included",
        )
    several = {name: ones for name, ones in kernels.items() if len(ones) > 1}
    if several:
        name = min(several)
        yield finding(
            "DISK033",
            package.shown,
            f"it has {name} for {len(several[name])} kernels, and anaconda puts all into one folder",
            "make a package for each kernel",
        )


def _payload(package: DiskPackage, distro: Distro) -> Iterator[Finding]:
    readable = distro.installer_payloads
    # What is not taken is not unpacked, either: it is installed later, by rpm.
    if kernels_of(package) and readable and package.facts.payload not in readable:
        yield finding(
            "DISK027",
            package.shown,
            f"no installer of {distro.title} is known to unpack {package.facts.payload}",
            'build it with another compression: rpm.payload = "w2.xzdio"',
        )


def _firmware(package: DiskPackage) -> Iterator[Finding]:
    firmware = package.facts.firmware
    if firmware and not kernels_of(package):
        yield finding(
            "DISK029",
            package.shown,
            f"anaconda does not unpack it, and drivers do not find {_some(firmware)} during the installation",
            "if a driver needs that so early: put it into the package with the modules",
        )
        return
    lost = [path for path in firmware if not path.startswith(_FIRMWARE) or path.startswith("/lib/firmware/updates/")]
    if lost:
        yield finding(
            "DISK028",
            package.shown,
            f"drivers do not find {_some(lost)} when anaconda loads them",
            "if a driver needs that so early: put it into /lib/firmware itself, not into updates/ or below /usr",
        )


def _installers(release: DiskRelease, disk: Disk) -> Iterator[Finding]:
    distro, packages = release.distro, _taken(release)
    known = _known(distro)
    missed = [
        package
        for package in packages
        if not _takers(package, known) and not any(_any_matches(kernels_of(package), one) for one in disk.installers)
    ]
    if missed and (known or disk.installers):
        nearest = _nearest(known, kernels_of(missed[0])[0])
        yield finding(
            "DISK021",
            distro.id,
            f"no installer that is known takes {_some([package.shown for package in missed])}",
            "build for an installer's kernel, or name the one that is meant: --installer UNAME_R"
            + (f"; the nearest is that of {nearest.shown}" if nearest else ""),
        )
    exact = [package for package in packages if _is_exact(package)]
    if exact:
        yield finding(
            "DISK023",
            distro.id,
            f"only installers with exactly their kernel take {_some([package.shown for package in exact])}",
            'rpm.installer_kernels = "later" serves later ones, too',
        )


def _versions(release: DiskRelease) -> Iterator[Finding]:
    found: dict[tuple[str, str, tuple[str, ...]], list[DiskPackage]] = {}
    for package in _taken(release):
        key = package.facts.name, package.facts.arch, tuple(sorted(kernels_of(package)))
        found.setdefault(key, []).append(package)
    for ones in found.values():
        if len({package.facts.version for package in ones}) > 1:
            yield finding(
                "DISK030",
                ones[0].shown,
                f"for the same kernel there is another version of it: {_some([one.shown for one in ones[1:]])}",
                "leave all of them but one out",
            )


def _other_releases(release: DiskRelease) -> Iterator[Finding]:
    others: list[str] = []
    taken: dict[str, None] = {}
    for name in known_distros():
        distro = find_distro(name)
        if distro == release.distro or NAME not in distro.installers:
            continue
        packages = [one for one in _taken(release) if not _is_exact(one) and _takers(one, _known(distro))]
        if packages:
            others.append(distro.title)
            taken |= dict.fromkeys(package.shown for package in packages)
    if others:
        yield finding(
            "DISK022",
            release.distro.id,
            f"the installers of {', and of '.join(others)} take {_some(list(taken))}, too",
            'rpm.installer_kernels = "same" keeps them apart; a folder of its own does not',
        )


def _same_modules(releases: Sequence[DiskRelease], disk: Disk) -> Iterator[Finding]:
    packages = [package for release in releases for package in _taken(release)]
    machines = sorted({_machine(package) for package in packages})
    installers = {
        f"{one.kernel}.{machine}": one.shown
        for release in releases
        for one in _known(release.distro)
        for machine in machines
    } | {kernel: kernel for kernel in disk.installers}
    said: set[tuple[str, ...]] = set()
    for kernel, shown in installers.items():
        found: dict[str, dict[tuple[str, str, str], str]] = {}
        for package in packages:
            facts = package.facts
            if facts.machine in ("", kernel.rpartition(".")[2]) and _any_matches(kernels_of(package), kernel):
                for module in facts.modules:
                    found.setdefault(module.name, {})[facts.name, facts.version, facts.arch] = package.shown
        for name, ones in found.items():
            names = tuple(sorted(ones.values()))
            if len(names) > 1 and names not in said:
                said.add(names)
                yield finding(
                    "DISK032",
                    names[0],
                    f"the installer of {shown} takes {_some(names[1:])}, too, with the same module {name}",
                    'rpm.installer_kernels = "same" leaves one of them; or leave the others out',
                )


def _taken(release: DiskRelease) -> list[DiskPackage]:
    """Return the packages with modules that anaconda takes with some kernel."""
    return [package for package in release.packages if package.facts.modules and kernels_of(package)]


def _known(distro: Distro) -> list[Installer]:
    return [Installer(*one) for one in distro.installer_kernels.items()]


def _takers(package: DiskPackage, installers: Iterable[Installer]) -> list[Installer]:
    wanted, machine = kernels_of(package), _machine(package)
    return [one for one in installers if _any_matches(wanted, f"{one.kernel}.{machine}")]


def _machine(package: DiskPackage) -> str:
    named = (module.machine for module in package.facts.modules)
    return package.facts.machine or next(filter(None, named), "x86_64")


def _is_exact(package: DiskPackage) -> bool:
    return all(wanted.startswith("= ") for wanted in kernels_of(package))


def _any_matches(wanted: Iterable[str], kernel: str) -> bool:
    return any(matches(one, kernel) for one in wanted)


def _nearest(installers: Sequence[Installer], wanted: str) -> Installer | None:
    """Return the newest installer whose kernel is no newer than what is wanted, or else the oldest."""
    version = wanted.partition(" ")[2]
    older = [one for one in installers if matches(f"<= {version}", one.kernel)]
    return next(iter([*reversed(older), *installers]), None)


def _some(names: Sequence[str]) -> str:
    """Return the first three of some names, and how many more there are."""
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")

"""What SUSE's installers would not load, or not install, of driver updates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from pkgkmod.errors import InputError
from pkgkmod.formats.rpmpackage import read_headers
from pkgkmod.media.findings import finding
from pkgkmod.media.layouts.dudtrees import FLAVOUR, Tree, chosen, kernel_name, kernels_of, plan, stem_of
from pkgkmod.model.disk import DiskPackage, DiskRelease
from pkgkmod.model.finding import Finding
from pkgkmod.model.packaging import Disk

_FIRMWARE = ("/lib/firmware/", "/usr/lib/firmware/")


def check_updates(releases: Sequence[DiskRelease]) -> Iterator[Finding]:
    """Yield what holds for both installers."""
    for release in releases:
        for machine in release.machines:
            packages = release.of_machine(machine)
            if any(package.facts.modules for package in packages) and not kernels_of(packages):
                yield finding(
                    "DISK040",
                    f"{release.distro.id} {machine}",
                    f"there is no module for a kernel of the flavour {FLAVOUR}, which is the one that installers run",
                    f'build for the kernel of the installer: kernels = ["...-{FLAVOUR}"]',
                )
            for package in packages:
                if package.kernels and not kernels_of([package]):
                    yield finding(
                        "DISK041",
                        package.shown,
                        f"it is for {', '.join(package.kernels)}, and the installers run {FLAVOUR}: it is left out",
                        "install it later from a repository (`pkgkmod publish`)",
                    )
    for tree in plan(releases):
        yield from _check_names(tree)
        for package in tree.packages:
            if firmware := _firmware_of(package):
                yield finding(
                    "DISK050",
                    package.shown,
                    f"drivers do not find {firmware[0]} in the installer"
                    + (f", and {len(firmware) - 1} more" if firmware[1:] else ""),
                    "if a driver needs it so early: add the package to the .dud file with `mkdud --install instsys`",
                )


def _check_names(tree: Tree) -> Iterator[Finding]:
    """Yield the modules that cannot be in the same folder as the others."""
    first = {kernel_name(stem): f"{package.shown}: {module.path}" for stem, (package, module) in tree.modules.items()}
    for package, module in tree.candidates():
        subject = f"{package.shown}: {module.path}"
        stem = stem_of(module.path)
        if not stem:
            yield finding(
                "DISK043",
                subject,
                "the module cannot be loaded by its file name",
                "give it a name of letters, digits, - and _",
            )
        elif first[kernel_name(stem)] != subject:
            yield finding(
                "DISK042",
                subject,
                f"another module has the same name, and is the one that is loaded: {first[kernel_name(stem)]}",
                "put one of them on a disk of its own",
            )


def check_kernels(release: DiskRelease, machine: str, disk: Disk) -> Iterator[Finding]:
    """Yield the kernels of which no module is loaded, since there is room for one."""
    kernels = kernels_of(release.of_machine(machine))
    if len(kernels) < 2:
        return
    taken = chosen(release.distro, kernels)
    for kernel in kernels:
        if kernel != taken:
            wanted = kernel in disk.installers
            yield finding(
                "DISK047" if wanted else "DISK046",
                f"{release.distro.id} {machine}",
                f"Agama takes modules for one kernel, which is {taken} here, and not {kernel}",
                "make a disk for each kernel of an installer",
            )


def check_installed(package: DiskPackage) -> Iterator[Finding]:
    """Yield why Agama would not install a package, or not without a question.

    Packages of an update are offered, and chosen by what they supplement; their signatures are checked as those of any
    repository (agama-project/agama, pull request 2543).
    """
    if package.facts.modules and not any(":" in alias for module in package.facts.modules for alias in module.aliases):
        yield finding(
            "DISK048",
            package.shown,
            "its modules name no hardware, for which Agama would choose it: they are loaded, and it is not installed",
            "name it in the profile (software.packages), or choose it in the installer",
        )
    if not package.facts.signed:
        yield finding(
            "DISK049",
            package.shown,
            "the package is not signed: Agama asks before it installs it, and waits for the answer",
            "sign it: `pkgkmod sign`",
        )


def _firmware_of(package: DiskPackage) -> list[str]:
    try:
        paths = read_headers(package.path).paths
    except InputError:
        return []  # who writes the disk has the word on packages that cannot be read
    folders = {str(PurePosixPath(path).parent) for path in paths}
    return sorted(path for path in paths if path.startswith(_FIRMWARE) and path not in folders)

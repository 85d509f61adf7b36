"""What is wrong with a driver disk, found before it is written: whatever holds for all installers, and what the
layouts know of theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pkgkmod.errors import DiskError
from pkgkmod.media.findings import finding
from pkgkmod.media.matching import matches
from pkgkmod.model.disk import DiskPackage, DiskRelease, ModuleFacts
from pkgkmod.model.finding import Finding, Severity
from pkgkmod.model.packaging import Disk, Signing
from pkgkmod.modules.kabifiles import MACHINES
from pkgkmod.plugins import LAYOUTS, Layout, load

UNATTENDED = ("ks.cfg", "autoinst.xml", "autoinst.json", "preseed.cfg")
"""Files that installers take for the answers of an unattended installation, if they lie at a disk's root."""

_ORDER: Mapping[Severity, int] = {"error": 0, "warning": 1, "note": 2}


def layouts_of(releases: Iterable[DiskRelease]) -> dict[Layout, tuple[DiskRelease, ...]]:
    """Return the layouts that the releases' installers read, with their releases."""
    found: dict[str, list[DiskRelease]] = {}
    for release in releases:
        for name in release.distro.installers:
            found.setdefault(name, []).append(release)
    return {load(LAYOUTS, name): tuple(ones) for name, ones in found.items()}


def check_disk(releases: Sequence[DiskRelease], disk: Disk, signing: Signing) -> tuple[Finding, ...]:
    """Return all findings but those that are to be ignored, the worst first."""
    found: list[Finding] = []
    for release in releases:
        found += _check_release(release, signing)
    for layout, ones in layouts_of(releases).items():
        found += layout.check(ones, disk)
    found += _missed_installers(releases, disk)
    return in_order(found, disk)


def in_order(findings: Iterable[Finding], disk: Disk) -> tuple[Finding, ...]:
    """Return findings without repetitions and without those that are to be ignored, the worst first."""
    kept = (one for one in dict.fromkeys(findings) if one.code not in disk.ignore)
    return tuple(sorted(kept, key=lambda one: (_ORDER[one.severity], one.code, one.subject)))


def refuse_errors(findings: Sequence[Finding], disk: Disk) -> None:
    """Raise DiskError if there are errors among the findings, and the project wants to fail for them."""
    errors = [one for one in findings if one.severity == "error"]
    if not errors or disk.check != "fail":
        return
    codes = list(dict.fromkeys(one.code for one in errors))
    raise DiskError(
        "the driver disk would not work: " + ("1 error" if len(errors) == 1 else f"{len(errors)} errors"),
        details="\n".join(f"{one.code} {one.subject}: {one.text}\n  {one.cure}".rstrip() for one in errors),
        hint=f'mend these, or make the disk all the same: --ignore {codes[0]}, or disk.check = "warn"',
    )


def check_root(names: Iterable[str]) -> Iterator[Finding]:
    """Yield what must not lie at the root of a disk; `names` are those of the files there."""
    for name in sorted(names):
        if name.lower() in UNATTENDED:
            yield finding(
                "DISK007",
                name,
                "an installer that finds this file on the disk installs unattended with it",
                "leave it out, or put it on a disk, or a partition, with another label",
            )


def _check_release(release: DiskRelease, signing: Signing) -> Iterator[Finding]:
    yield from _same_names(release)
    if not release.distro.installers:
        yield finding(
            "DISK012",
            release.distro.id,
            f"the installer of {release.distro.title} reads no driver disk",
            "leave its packages out; they are installed from a repository (`pkgkmod publish`)",
        )
    for machine in release.machines:
        if not any(package.facts.modules for package in release.of_machine(machine)):
            yield finding(
                "DISK002",
                f"{release.distro.id} {machine}",
                f"there are packages for {machine}, and no module in them",
                "put the packages with the modules on the disk, or leave these out",
            )
    for package in release.packages:
        for module in package.facts.modules:
            yield from _check_module(package, module, signing)
        # A .deb has no signature of its own: its archive is signed.
        if signing.package_key and package.facts.format == "rpm" and not package.facts.signed:
            yield finding("DISK004", package.shown, "the package is not signed", "sign it: `pkgkmod sign`")


def _check_module(package: DiskPackage, module: ModuleFacts, signing: Signing) -> Iterator[Finding]:
    subject = f"{package.shown}: {module.path}"
    machine = package.facts.machine
    if module.fault:
        yield finding("DISK001", subject, f"the module cannot be read: {module.fault}", "build the package again")
        return
    if machine in MACHINES and module.machine and module.machine != machine:
        yield finding(
            "DISK009",
            subject,
            f"the module is for {module.machine}, its package for {machine}",
            "build it with the compiler and kernel tree of that machine",
        )
    if module.uname_r and module.vermagic and module.uname_r != module.vermagic:
        yield finding(
            "DISK010",
            subject,
            f"it was built for {module.vermagic}, and lies in the folder of {module.uname_r}",
            "build it for the kernel in whose folder it is to lie",
        )
    if signing.modules and not module.signed:
        yield finding("DISK003", subject, "the module is not signed", "sign it: `pkgkmod sign`")


def _same_names(release: DiskRelease) -> Iterator[Finding]:
    known: dict[str, Path] = {}
    for package in release.packages:
        other = known.setdefault(package.path.name, package.path)
        if other != package.path and _digest(other) != _digest(package.path):
            yield finding(
                "DISK008",
                package.shown,
                f"another package for {release.distro.id} has the same file name: {other} and {package.path}",
                "give one of them, or raise the version or release of one",
            )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _missed_installers(releases: Sequence[DiskRelease], disk: Disk) -> Iterator[Finding]:
    """Yield the installers that were named, and take nothing."""
    if not disk.installers:
        return
    taken = {
        kernel: [layout.title for layout, ones in layouts_of(releases).items() if takes(layout, ones, kernel)]
        for kernel in disk.installers
    }
    for kernel, by in taken.items():
        if not by:
            yield finding(
                "DISK011",
                kernel,
                "no package is for the installer that has this kernel",
                'build for this kernel; for Red Hat\'s family, rpm.installer_kernels = "later" serves later ones',
            )


def takes(layout: Layout, releases: Sequence[DiskRelease], kernel: str) -> bool:
    """Tell whether the installer of a kernel takes a package with modules."""
    return any(
        matches(wanted, kernel)
        for release in releases
        for package in release.packages
        if package.facts.modules
        for wanted in layout.kernels(package)
    )

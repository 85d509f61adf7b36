"""The driver disk that Red Hat's installer reads (anaconda, Driver Update Disk version 3).

anaconda takes every folder, at any depth, that holds a file `rhdd3` and `rpms/MACHINE/` with packages, and of these
packages those whose `Provides: kernel-modules` matches its kernel. It unpacks them, loads their modules, and copies the
folder; when the system is installed, dnf installs the packages from there, by their names (anaconda,
dracut/driver_updates.py). dnf takes the newest of a name: so packages of one name that are for several kernels need a
folder for each kernel.
"""

from __future__ import annotations

import os
import posixpath
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.command import Command
from pkgkmod.data.distros import find_distro, known_distros
from pkgkmod.errors import PackageError
from pkgkmod.media.folder import copy_file, set_times
from pkgkmod.media.layouts.rhdd3checks import NAME, check_release, check_together, kernels_of
from pkgkmod.media.matching import matches
from pkgkmod.model.artifacts import PackageFormat
from pkgkmod.model.disk import DiskListing, DiskPackage, DiskRelease, FoundTree
from pkgkmod.model.finding import Finding
from pkgkmod.model.packaging import Disk
from pkgkmod.plugins import DiskDraft

MARK = "rhdd3"
MARK_TEXT = "Driver Update Disk version 3\n"
_MOST_LINKS = 40  # as the kernel follows
_LONGEST = 64  # of a folder's name; Joliet's paths are short
_MOST_SHOWN = 12  # of kernels, in the instructions


class AnacondaLayout:
    """Folders `rhdd3` and `rpms/MACHINE`: at the root, or for each release and kernel."""

    name = NAME
    title = "anaconda"
    format: PackageFormat = "rpm"
    carriers = ("iso", "usb", "initrd")

    def write(self, releases: Sequence[DiskRelease], draft: DiskDraft) -> None:
        """Copy the packages to where the installer looks for them, with repodata for each folder."""
        folders = dict.fromkeys(folder for tree in trees(releases) for folder in _copy(tree, draft.folder))
        for folder in folders:
            set_times(folder, draft.epoch)  # createrepo_c writes down the packages' times
        # With many kernels, folders are many and small, and each call keeps one processor busy.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done in pool.map(lambda folder: draft.run(repodata_command(folder, draft.epoch)), folders):
                if not done.ok:
                    raise PackageError(
                        f"createrepo_c failed ({done.returncode})", details="\n".join(done.tail[-10:]), log=done.log
                    )

    def check(self, releases: Sequence[DiskRelease], disk: Disk) -> Iterable[Finding]:
        """Yield what anaconda would skip, not load, or take wrongly."""
        for release in releases:
            yield from check_release(release, disk)
        yield from check_together(releases, disk)

    def kernels(self, package: DiskPackage) -> tuple[str, ...]:
        """Return what its `Provides: kernel-modules` say: `RELATION RELEASE`."""
        return kernels_of(package)

    def recognize(self, listing: DiskListing) -> Iterator[FoundTree]:
        """Yield each folder with packages for a machine that a mark belongs to."""
        files: dict[str, list[str]] = {}
        for path in sorted({*listing.files, *(one for one in listing.links if _real(listing, one) in listing.files)}):
            files.setdefault(posixpath.dirname(path), []).append(path)
        folders: dict[str, list[str]] = {}
        for path in sorted({*listing.folders, *listing.links, *files} - {""}):
            folders.setdefault(posixpath.dirname(path), []).append(path)
        releases = _release_names()
        for place, ones in sorted(files.items()):
            if posixpath.join(place, MARK) not in ones:
                continue
            known = [releases[part] for part in place.split("/") if part in releases]
            for folder in folders.get(_real(listing, posixpath.join(place, "rpms")), ()):
                yield FoundTree(
                    layout=self.name,
                    place=posixpath.join(place, "rpms", posixpath.basename(folder)),
                    release=known[0] if known else "",
                    machine=posixpath.basename(folder),
                    # As a shell's *.rpm: no hidden files.
                    packages=tuple(
                        path
                        for path in files.get(_real(listing, folder), ())
                        if path.endswith(".rpm") and not posixpath.basename(path).startswith(".")
                    ),
                )

    def instructions(self, releases: Sequence[DiskRelease], files: Mapping[str, Sequence[str]]) -> str:
        """Return how the installer finds each of the images, what it takes, and what it does not do."""
        return "\n\n".join(_paragraphs(releases, files))


@dataclass(frozen=True)
class Tree:
    """A folder of the disk with a mark; `place` is empty for the root."""

    place: str
    packages: tuple[DiskPackage, ...]
    machines: tuple[str, ...]


def trees(releases: Sequence[DiskRelease]) -> list[Tree]:
    """Return the folders of a disk: its root, or one for each release, or for each release and kernel."""
    found = []
    for release in releases:
        name = release.distro.installers.get(NAME, (release.distro.id,))[0]
        groups = _by_kernel(release.packages)
        for kernel, packages in groups.items():
            place = posixpath.join(name, kernel) if kernel else name if len(releases) > 1 else ""
            own = sorted({package.facts.machine for package in packages} - {""})
            found.append(Tree(place, packages, tuple(own) or release.machines))
    return found


def repodata_command(folder: Path, epoch: int) -> Command:
    """Describe the createrepo_c call for a folder of packages."""
    return Command(
        (
            # gzip: newer versions would choose zstd, which EL 8 and 9 cannot read.
            *("createrepo_c", "--quiet", "--no-database", "--simple-md-filenames", "--general-compress-type=gz"),
            *("--set-timestamp-to-revision", "--revision", str(epoch), str(folder)),
        ),
        cwd=folder,
        env={"SOURCE_DATE_EPOCH": str(epoch)},
    )


def _copy(tree: Tree, root: Path) -> Iterator[Path]:
    """Copy a tree's packages, those for all machines to each machine's folder; yield these folders."""
    place = root / tree.place
    for machine in tree.machines:
        folder = place / "rpms" / _safe(machine)
        for package in tree.packages:
            if package.facts.machine in ("", machine):
                copy_file(package.path, folder / package.path.name)
        yield folder
    if tree.machines:
        (place / MARK).write_text(MARK_TEXT, encoding="ascii")


def _by_kernel(packages: Sequence[DiskPackage]) -> dict[str, tuple[DiskPackage, ...]]:
    """Return packages by kernel, if a name has several versions; otherwise all of them under an empty name.

    What belongs to no kernel goes to all of them; but if it has several versions, too, each goes to the kernel whose
    packages have the same one, as those of one source package do.
    """
    versions: dict[tuple[str, str], set[str]] = {}
    for package in packages:
        versions.setdefault((package.facts.name, package.facts.arch), set()).add(package.facts.version)
    own = {package: _own_kernels(package) for package in packages}
    groups: dict[tuple[str, ...], list[DiskPackage]] = {kernels: [] for kernels in sorted({*own.values()} - {()})}
    several = any(len(versions[one.facts.name, one.facts.arch]) > 1 for one, kernels in own.items() if kernels)
    if len(groups) < 2 or not several:
        return {"": tuple(packages)}
    by_version: dict[str, set[tuple[str, ...]]] = {}
    for package, kernels in own.items():
        if kernels:
            by_version.setdefault(package.facts.version, set()).add(kernels)
    for package, kernels in own.items():
        alone = len(versions[package.facts.name, package.facts.arch]) == 1
        shared = groups if alone else by_version.get(package.facts.version, groups)
        for group in (kernels,) if kernels else shared:
            groups[group].append(package)
    return _named(groups)


def _own_kernels(package: DiskPackage) -> tuple[str, ...]:
    """Return the kernels that a package names, without relations; otherwise those of its modules."""
    named = sorted({_spelled(package, wanted)[1] for wanted in kernels_of(package)})
    return tuple(named) or tuple(sorted(package.kernels))


def _spelled(package: DiskPackage, wanted: str) -> tuple[str, str]:
    """Return relation and kernel, as the package's modules spell it: rpm's versions have no second dash."""
    relation, _, version = wanted.partition(" ")
    return relation, next((kernel for kernel in package.kernels if matches(f"= {version}", kernel)), version)


def _named(groups: Mapping[tuple[str, ...], Sequence[DiskPackage]]) -> dict[str, tuple[DiskPackage, ...]]:
    """Give each group the name of its first kernel; a number tells apart what would be the same, on FAT, too."""
    found: dict[str, tuple[DiskPackage, ...]] = {}
    taken: set[str] = set()
    for kernels, packages in groups.items():
        first = name = _safe(kernels[0])
        number = 1
        while name.lower() in taken:
            number += 1
            name = f"{first}-{number}"
        taken.add(name.lower())
        found[name] = tuple(packages)
    return found


def _safe(text: str) -> str:
    """Return a text as a name that is one folder on every file system."""
    return re.sub(r"[^A-Za-z0-9._+~-]", "_", text)[:_LONGEST].strip(".-") or "_"


def _release_names() -> dict[str, str]:
    """Return the distributions by the names of their folders."""
    distros = [find_distro(name) for name in known_distros()]
    return {distro.installers[NAME][0]: distro.id for distro in distros if NAME in distro.installers}


def _real(listing: DiskListing, path: str) -> str:
    """Return a path of the disk with all links followed; a path that is nowhere if they lead out, or in circles."""
    done, rest, followed = "", path, 0
    while rest:
        part, _, rest = rest.partition("/")
        done = posixpath.normpath(posixpath.join(done, part))
        if done == ".":
            done = ""
        target = listing.links.get(done)
        if target is not None:
            followed += 1
            if followed > _MOST_LINKS or target.startswith("/"):
                return ".."
            rest = posixpath.join(target, rest)
            done = posixpath.dirname(done)
        if done.startswith(".."):
            return ".."
    return done


def _paragraphs(releases: Sequence[DiskRelease], files: Mapping[str, Sequence[str]]) -> Iterator[str]:
    iso, usb, initrd = (next(iter(files.get(carrier, ())), "") for carrier in ("iso", "usb", "initrd"))
    media = [f"{iso} on a CD, or written to a whole USB stick"] if iso else []
    media += [f"{usb} written to a whole USB stick"] if usb else []
    if media:
        yield _filled(
            f"With the label OEMDRV, the disk is found without being asked for: {', or '.join(media)}. Plug it in "
            "before the installer is started. If it shows up too late, or has another label, add one of these to the "
            "kernel's command line:"
        )
        yield _code("inst.dd=hd:LABEL=OEMDRV", "inst.dd=cdrom:/dev/sr0")
    if iso:
        yield _filled(
            "From a server (http, https, ftp or nfs; the network is needed so early: ip=dhcp), or in a kickstart file:"
        )
        yield _code(f"inst.dd=http://SERVER/{iso}", f"driverdisk --source=http://SERVER/{iso}")
    if initrd:
        yield _filled(
            f"With PXE, load {initrd} as a further initrd, behind the installer's own, and name the disk that is in it:"
        )
        yield _code("inst.dd=/dd.img")
    yield from _what_happens(releases)


def _what_happens(releases: Sequence[DiskRelease]) -> Iterator[str]:
    yield _filled(
        "inst.dd alone asks which disk and which drivers to take; then a disk with the label OEMDRV is not taken by "
        "itself. The installer says `DD: Extracting: NAME` for each package that it takes: those whose `Provides: "
        "kernel-modules` matches its own kernel (uname -r). On this disk they are for:"
    )
    yield "\n".join(_kernel_lines(releases))
    yield _filled(
        "An installer with another kernel says nothing, and goes on without the driver. The modules are put into "
        "/lib/modules/UNAME_R/updates and loaded in place of the kernel's own; the packages are installed with the "
        "system."
    )
    yield _filled(
        "What does not work: a new driver for the drive or the network card that the disk itself is read through. With "
        "Secure Boot, only modules are loaded that are signed with a key that the machine knows: enrol it before, with "
        "`mokutil --import CERTIFICATE` on an installed system, or in the firmware's setup."
    )


def _kernel_lines(releases: Sequence[DiskRelease]) -> Iterator[str]:
    for release in releases:
        wanted = [_spelled(one, text) for one in release.packages if one.facts.modules for text in kernels_of(one)]
        shown = list(dict.fromkeys(" ".join(each).removeprefix("= ") for each in wanted)) or ["none"]
        yield f"    {release.distro.title}:"
        yield from (f"        {one}" for one in shown[:_MOST_SHOWN])
        if len(shown) > _MOST_SHOWN:
            yield f"        and {len(shown) - _MOST_SHOWN} more"


def _filled(text: str) -> str:
    return textwrap.fill(text, 78, break_long_words=False, break_on_hyphens=False)


def _code(*lines: str) -> str:
    return "\n".join(f"    {line}" for line in lines)

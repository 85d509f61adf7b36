"""What Debian's installer takes from a driver disk, and where that of older Ubuntus looked for packages.

Debian's driver-injection-disk-detect (1.171) unpacks every package in /debian-drivers into the running installer, be it
for its kernel or not; hw-detect's hooks hand the same packages to dpkg in the new system.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from pkgkmod.data.distros import find_distro, known_distros
from pkgkmod.errors import InputError
from pkgkmod.formats.debpackage import convert, open_package
from pkgkmod.media.findings import finding
from pkgkmod.media.layouts.debianchecks import DATA_ENDINGS, FOLDER, LABEL, check_debian, file_name
from pkgkmod.model.artifacts import PackageFormat
from pkgkmod.model.disk import DiskListing, DiskPackage, DiskRelease, FoundTree
from pkgkmod.model.finding import Finding
from pkgkmod.model.packaging import Disk
from pkgkmod.plugins import DiskDraft

UBUNTU_FOLDER = "ubuntu-drivers"
_PACKAGE = re.compile(r"(?P<folder>debian-drivers|ubuntu-drivers)(?:/(?P<codename>[a-z0-9.-]+))?/[^/]+\.u?deb")


class DebianLayout:
    """A folder with the packages of all releases, which Debian's installer does not tell apart."""

    name = "debian"
    title = "Debian installer"
    format: PackageFormat = "deb"
    carriers: tuple[str, ...] = ("iso", "usb")

    def write(self, releases: Sequence[DiskRelease], draft: DiskDraft) -> None:
        """Put the packages into the folder, packed so that the installer can read them."""
        folder = draft.folder / FOLDER
        folder.mkdir(exist_ok=True)
        for package in _packages(releases):
            destination = folder / file_name(package)
            # The same package for two releases; check() tells if it is not the same.
            if destination.exists():
                continue
            with open_package(package.path, draft.run, draft.scratch, packed=DATA_ENDINGS) as opened:
                convert(opened, destination, ".gz", DATA_ENDINGS, draft.run)

    def check(self, releases: Sequence[DiskRelease], disk: Disk) -> Iterable[Finding]:
        """Return what the installer would not read or not load, and what dpkg would not install."""
        return check_debian(releases, disk)

    def kernels(self, package: DiskPackage) -> tuple[str, ...]:
        """Return the kernels that the modules are for: the installer unpacks all, and its kernel loads its own."""
        return package.kernels

    def recognize(self, listing: DiskListing) -> Iterable[FoundTree]:
        """Return the folder, and those below it that are named after a release."""
        return _trees(self.name, FOLDER, listing)

    def instructions(self, releases: Sequence[DiskRelease], files: Mapping[str, Sequence[str]]) -> str:
        """Return how the installer is told, and where it looks in vain."""
        return _DEBIAN.format(image=image) if (image := _image(files)) else _NO_IMAGE


class UbuntuLayout:
    """The place where Ubuntu's installer looked for packages while it was Debian's; its present one looks nowhere."""

    name = "ubuntu"
    title = "Ubuntu (autoinstall)"
    format: PackageFormat = "deb"
    carriers: tuple[str, ...] = ("iso", "usb")

    def write(self, releases: Sequence[DiskRelease], draft: DiskDraft) -> None:
        """Put the packages of each release into a folder of its own, as they are."""
        for release in releases:
            folder = draft.folder / UBUNTU_FOLDER / _codename(release)
            folder.mkdir(parents=True, exist_ok=True)
            for package in release.packages:
                destination = folder / file_name(package)
                if not destination.exists():
                    shutil.copyfile(package.path, destination)

    def check(self, releases: Sequence[DiskRelease], disk: Disk) -> Iterator[Finding]:
        """Say that the installer has to be told."""
        for release in releases:
            yield finding(
                "DISK074",
                release.distro.id,
                f"the installer of {release.distro.title} reads no driver disk by itself",
                "give it the answers that README.txt has: they load the modules, and install the packages",
            )
        if disk.label != LABEL:
            yield finding(
                "DISK075",
                disk.label,
                f"the answers for Ubuntu's installer that README.txt has look for a disk with the label {LABEL}",
                f"leave disk.label as it is, {LABEL}, or change these answers",
            )

    def kernels(self, package: DiskPackage) -> tuple[str, ...]:
        """Return the kernels that the modules are for."""
        return package.kernels

    def recognize(self, listing: DiskListing) -> Iterable[FoundTree]:
        """Return the folders of the releases."""
        return _trees(self.name, UBUNTU_FOLDER, listing)

    def instructions(self, releases: Sequence[DiskRelease], files: Mapping[str, Sequence[str]]) -> str:
        """Return the answers for an unattended installation that takes packages from the disk."""
        return f"{_UBUNTU.format(image=image)}\n{autoinstall()}" if (image := _image(files)) else _NO_IMAGE


def autoinstall() -> str:
    """Return answers for Ubuntu's installer: load what is for its kernel, and install what is for the new system's."""
    return _AUTOINSTALL


def _packages(releases: Sequence[DiskRelease]) -> Iterator[DiskPackage]:
    return (package for release in releases for package in release.packages)


def _codename(release: DiskRelease) -> str:
    """Return the folder's name; it is in the distribution's data."""
    name = next(iter(release.distro.installers.get(UbuntuLayout.name, ())), release.distro.codename)
    if not name:
        raise InputError(f"{release.distro.title} has no codename", hint="set it in the distribution's data file")
    return name


def _image(files: Mapping[str, Sequence[str]]) -> str:
    """Return the image that is written to a stick: the one without partitions, where there is one; empty: none."""
    return next((names[0] for kind in ("iso", "usb") if (names := files.get(kind))), "")


def _trees(layout: str, folder: str, listing: DiskListing) -> Iterator[FoundTree]:
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(listing.files):
        match = _PACKAGE.fullmatch(path)
        if match and match["folder"] == folder:
            place = str(PurePosixPath(path).parent)
            found.setdefault((place, match["codename"] or ""), []).append(path)
    for (place, codename), packages in found.items():
        yield FoundTree(layout, place, _release(codename), "", tuple(packages))


def _release(codename: str) -> str:
    """Return the distribution with a codename, or the codename itself."""
    names = (name for name in known_distros() if codename and find_distro(name).codename == codename)
    return next(names, codename)


_NO_IMAGE = """\
This installer takes packages from a disk, and none was made: it needs an ISO
image or that of a USB stick (--carrier iso).
"""

# A component that comes with the others has a number below that of the step which loads it, and main-menu runs no step
# with a lower number than the last one (main-menu.c, get_default_menu_item).
_DEBIAN = """\
Write the image to a whole USB stick, which is then labelled OEMDRV (this
erases the stick), or attach it to a virtual machine as a disk. The installer
searches disks and USB sticks; it does not search CD drives.

  dd if={image} of=/dev/sdX bs=4M conv=fsync

Have it attached before the installer starts. The step that looks for it is a
component that is not loaded by itself, and not run by itself. Start with

  priority=medium modules=driver-injection-disk-detect

on the kernel's command line. When the installer's components are loaded,
choose "Detect virtual driver disks from hardware manufacturer" in the menu,
answer "Load drivers from internal virtual driver disk?" with yes, and go on
with the next step. A preseed file can run it before disks are partitioned:

  d-i anna/choose_modules string driver-injection-disk-detect
  d-i driver-injection-disk/load boolean true
  d-i partman/early_command string driver-injection-disk; \\
    depmod -a; update-dev

All packages for the machine are unpacked into the running installer. Modules
for its own kernel (uname -r) are loaded when it looks for hardware again:
network cards, then disks. A driver that the kernel has loaded by then is not
replaced. Once the new system has its kernel, each package is given to dpkg
there. One whose dependencies are not met, such as that on another kernel, is
taken away again; only /var/log/syslog says so.

Having found a disk labelled OEMDRV, the installer mounts the first disk or
stick that it can mount, whatever its label: whole disks first, by their
names, then partitions (the USB image is one). If that is another one, such as
the stick with the installer, nothing happens. Mount the right one before that
step, on the second console (Alt+F2), and leave it mounted:

  mount /dev/sdX /media

Through the network (PXE) there is no driver disk, and a module that is needed
to reach the network or the disks cannot come that way. Others can be
installed at the end, by a preseed file:

  d-i preseed/late_command string wget -P /target/tmp URL/PACKAGE.deb; \\
    in-target apt-get install --yes /tmp/PACKAGE.deb
"""

_UBUNTU = """\
The installer (Subiquity) reads no driver disk. Answers for an unattended
installation, on a medium labelled CIDATA or at an address on the kernel's
command line, make it take the packages from this disk, which can be a USB
stick or a CD, labelled OEMDRV ({image}). Add these lines to the answers
(user-data); what the disk has for the installer's own kernel is loaded, and
what it has for the new system's kernels is installed:
"""

# Commands run as root in the installer's own system; the new one is at /target (Ubuntu's autoinstall reference).
_AUTOINSTALL = """\
#cloud-config
autoinstall:
  version: 1
  early-commands:
    - mkdir -p /run/drivers
    - mount -o ro LABEL=OEMDRV /run/drivers
    - |
      . /etc/os-release
      for deb in /run/drivers/ubuntu-drivers/$VERSION_CODENAME/*.deb; do
        files="lib/modules/$(uname -r)/|lib/firmware/"
        if dpkg-deb -c "$deb" | grep -qE "/($files)"; then
          dpkg --unpack "$deb"
        fi
      done
    - depmod -a
    - udevadm trigger --action=add
    - udevadm settle
  late-commands:
    - |
      . /etc/os-release
      cp -r /run/drivers/ubuntu-drivers/$VERSION_CODENAME /target/drivers
      kernels=$(ls /target/lib/modules | paste -s -d '|')
      set --
      for deb in /target/drivers/*.deb; do
        files="lib/modules/($kernels)/|lib/firmware/"
        if dpkg-deb -c "$deb" | grep -qE "/($files)"; then
          set -- "$@" "${deb#/target}"
        fi
      done
      curtin in-target -- apt-get install --yes "$@"
      rm -r /target/drivers
"""

"""A driver disk, from finished packages to images: checked, laid out for every installer, and put on its carriers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pkgkmod.errors import InputError
from pkgkmod.media.carriers.archive import write_dud, write_initrd
from pkgkmod.media.carriers.iso import write_iso
from pkgkmod.media.carriers.usb import LONGEST_LABEL, Partition, write_usb
from pkgkmod.media.findings import finding
from pkgkmod.media.folder import copy_file, set_times
from pkgkmod.media.lint import check_disk, check_root, in_order, layouts_of
from pkgkmod.media.readme import README, readme
from pkgkmod.model.artifacts import DiskImage
from pkgkmod.model.disk import DiskPackage, DiskRelease
from pkgkmod.model.distro import Distro
from pkgkmod.model.finding import Finding
from pkgkmod.model.packaging import Carrier, Disk, Signing
from pkgkmod.plugins import LAYOUTS, DiskDraft, load

ENDINGS: Mapping[Carrier, str] = {"iso": ".iso", "usb": ".img", "initrd": "-initrd.img", "dud": ".dud"}
"""How the images end, behind NAME-VERSION; those for a release have -RELEASE in front."""
SOURCES = "SRPMS"
"""Folder of the source packages, where they are wanted."""


@dataclass(frozen=True)
class DiskOrder:
    """What is wanted: the packages by release, already sorted out, and what becomes of them."""

    name: str
    """What the images are called: NAME-VERSION."""
    releases: tuple[DiskRelease, ...]
    sources: tuple[DiskPackage, ...]
    """Source packages that are put on the disk."""
    disk: Disk
    base: Path
    """Where the paths in the settings begin."""

    @property
    def epoch(self) -> int:
        """The time of all files: that of the newest package, in seconds since 1970."""
        return max((p.facts.build_time for release in self.releases for p in release.packages), default=0)


def sort_out(
    name: str,
    releases: Sequence[DiskRelease],
    disk: Disk,
    signing: Signing,
    base: Path,
    *,
    also: Callable[[Sequence[DiskRelease]], Iterable[Finding]] = lambda _: (),
) -> tuple[DiskOrder, tuple[Finding, ...]]:
    """Return what is put on the disk, and all that is to be said of it before it is written.

    `also` is a further check of the packages, such as `media.loading` makes.
    Raise InputError if there is no binary package at all, or if a carrier cannot have the label.
    """
    if "usb" in disk.carriers and len(disk.label) > LONGEST_LABEL:
        raise InputError(
            f"the label {disk.label} is too long for a USB image",
            hint=f"disk.label may have {LONGEST_LABEL} characters there; installers look for OEMDRV",
        )
    notes: list[Finding] = []
    sources: list[DiskPackage] = []
    kept: list[DiskRelease] = []
    for release in releases:
        binaries = []
        for package in release.packages:
            if package.facts.kind == "binary":
                binaries.append(package)
            elif package.facts.kind == "debuginfo":
                notes.append(finding("DISK005", package.shown, "it has debug information, and is left out"))
            else:
                sources.append(package)
                fate = "put on the disk" if disk.include_srpm else "left out"
                notes.append(finding("DISK006", package.shown, f"the source package is {fate}"))
        if binaries:
            kept.append(DiskRelease(_with_layouts(release.distro, disk), tuple(binaries)))
    if not kept:
        raise InputError("there is no binary package for the driver disk", hint="build_rpm without --srpm makes some")
    order = DiskOrder(name, tuple(kept), tuple(sources) if disk.include_srpm else (), disk, base)
    findings = [*notes, *check_disk(order.releases, disk, signing), *check_root(_extra_names(order))]
    findings += also(order.releases)
    return order, in_order(findings, disk)


def _with_layouts(distro: Distro, disk: Disk) -> Distro:
    """Return a distribution whose packages are also laid out as plugins do it that the project names."""
    more = {name: () for name in disk.layouts if load(LAYOUTS, name).format == distro.format}
    return distro.model_copy(update={"installers": {**more, **distro.installers}}) if more else distro


def make_images(order: DiskOrder, destination: Path, draft: DiskDraft) -> tuple[DiskImage, ...]:
    """Write the images of a disk to the folder `destination`, and README.txt beside them.

    `draft.folder` is an empty folder that is filled. Raise PackageError if a program fails.
    """
    layouts = layouts_of(release for release in order.releases if release.distro.installers)
    for layout, releases in layouts.items():
        layout.write(releases, draft)
    duds = _write_duds(order, draft)
    for release in _takes_dud(order, nothing_else=True):
        if file := duds.get(name := _dud_name(order, release)):
            copy_file(file, draft.folder / name)
    for package in order.sources:
        copy_file(package.path, draft.folder / SOURCES / package.path.name)
    names = _image_names(order, tuple(duds))
    files: dict[str, tuple[str, ...]] = {"dud": tuple(duds), **{str(carrier): ones for carrier, ones in names.items()}}
    text = readme(order.name, layouts, files)
    for folder in (draft.folder, destination):
        (folder / README).write_text(text, encoding="utf-8")
    if order.disk.extra:  # last: nothing of the disk is written over
        _copy_extra(order.base / Path(order.disk.extra).expanduser(), draft.folder)
    set_times(draft.folder, draft.epoch)
    made = {image.file: image for image in _carried(order, names, duds, destination, draft)}
    return tuple(made[file] for files in names.values() for file in files)


def _image_names(order: DiskOrder, duds: tuple[str, ...]) -> dict[Carrier, tuple[str, ...]]:
    """Return the names of the images by carrier."""
    carriers = dict.fromkeys(order.disk.carriers)
    return {carrier: duds if carrier == "dud" else (f"{order.name}{ENDINGS[carrier]}",) for carrier in carriers}


def _dud_name(order: DiskOrder, release: DiskRelease) -> str:
    return f"{order.name}-{release.distro.id}{ENDINGS['dud']}"


def _takes_dud(order: DiskOrder, *, nothing_else: bool = False) -> list[DiskRelease]:
    """Return the releases whose installers read .dud files; or only those with one that reads nothing else."""
    releases = {
        release.distro.id: release
        for layout, ones in layouts_of(order.releases).items()
        if "dud" in layout.carriers and not (nothing_else and len(layout.carriers) > 1)
        for release in ones
    }
    return list(releases.values())


def _write_duds(order: DiskOrder, draft: DiskDraft) -> dict[str, Path]:
    """Write the .dud files, one for each release, since Agama does not tell releases apart; return them by name.

    They are a carrier of their own, and lie on the disk for installers that read nothing else of it.
    """
    is_carrier = "dud" in order.disk.carriers
    made: dict[str, Path] = {}
    for release in _takes_dud(order, nothing_else=not is_carrier):
        name = _dud_name(order, release)
        folder = draft.scratch / f"dud-{release.distro.id}"
        folder.mkdir()
        for layout, ones in layouts_of([release]).items():
            if "dud" in layout.carriers:
                layout.write(ones, replace(draft, folder=folder))
        if any(folder.iterdir()):
            set_times(folder, draft.epoch)
            made[name] = draft.scratch / name
            write_dud(folder, made[name], epoch=draft.epoch, scratch=draft.scratch, run=draft.run)
    if is_carrier and not made:
        raise InputError("there is nothing for a .dud file", hint="only SUSE's installers read it: leave dud out")
    return made


def _carried(
    order: DiskOrder,
    names: Mapping[Carrier, tuple[str, ...]],
    duds: Mapping[str, Path],
    destination: Path,
    draft: DiskDraft,
) -> Iterator[DiskImage]:
    iso = draft.scratch / "disk.iso"
    if {"iso", "initrd"} & set(names):
        write_iso(draft.folder, iso, label=order.disk.label, epoch=draft.epoch, scratch=draft.scratch, run=draft.run)
    # The ISO image is a part of the archive: it is moved away last.
    for carrier, files in sorted(names.items(), key=lambda item: item[0] == "iso"):
        for file in files:
            image = {"iso": iso, "dud": duds.get(file)}.get(carrier) or draft.scratch / "image"
            if carrier == "initrd":
                write_initrd(iso, image, epoch=draft.epoch, scratch=draft.scratch, run=draft.run)
            elif carrier == "usb":
                write_usb(_partitions(order, draft), image, epoch=draft.epoch, scratch=draft.scratch, run=draft.run)
            shutil.move(image, destination / file)
            yield DiskImage(file=file, carrier=carrier, size=(destination / file).stat().st_size)


def _partitions(order: DiskOrder, draft: DiskDraft) -> tuple[Partition, ...]:
    disk = order.disk
    first = Partition(disk.label, draft.folder)
    if not disk.second_partition:
        return (first,)
    folder = draft.scratch / "second"
    folder.mkdir()
    _copy_extra(order.base / Path(disk.second_partition).expanduser(), folder)
    set_times(folder, draft.epoch)
    return first, Partition(disk.second_label, folder)


def _extra_names(order: DiskOrder) -> list[str]:
    """Return the names of the files that the project puts at the disk's root."""
    if not order.disk.extra:
        return []
    folder = order.base / Path(order.disk.extra).expanduser()
    _check_folder(folder)
    return [path.name for path in folder.iterdir()]


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}", hint="disk.extra and disk.second_partition name folders")


def _copy_extra(folder: Path, destination: Path) -> None:
    """Copy the files of a folder; raise InputError for what would be written over, and for links that lead out."""
    _check_folder(folder)
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            target = destination / path.relative_to(folder)
            if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
                raise InputError(f"{path} is no file in this folder", hint="put files there, not links or devices")
            if target.exists():
                raise InputError(f"{path} would be written over a file of the disk", hint="give it another name")
            copy_file(path, target)

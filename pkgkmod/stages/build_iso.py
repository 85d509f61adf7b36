"""build_iso: one driver disk with the packages of all targets whose installers read one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pkgkmod.data.distros import find_distro
from pkgkmod.kernels.here import kernels_here
from pkgkmod.model.artifacts import DriverDisk, PackageFormat, PackageSet, SignedSet
from pkgkmod.model.disk import DiskRelease
from pkgkmod.model.distro import Distro
from pkgkmod.model.project import Project
from pkgkmod.plugins import DiskDraft, Option, ProjectUnit, Work
from pkgkmod.programs import tool_stamp

_TOOLS: Mapping[str, tuple[str, ...]] = {
    "iso": ("xorriso",),
    "usb": ("mkfs.vfat", "mcopy", "mmd"),
    "initrd": ("xorriso", "gzip"),
    "dud": ("gzip",),
}

_FORMAT_TOOLS: Mapping[PackageFormat, tuple[str, ...]] = {"rpm": ("createrepo_c",), "deb": ("gzip", "xz")}


class BuildIso:
    """Put the packages on a disk that installers take as a driver disk."""

    name = "build_iso"
    version = 3
    summary = "Make a driver disk of the packages."
    scope = "project"
    produces = "driver_disk"
    in_build = True
    options = (
        Option(("-i", "--isofile"), "disk.file", "Where to put the image, too.", metavar="FILE"),
        Option(("--label",), "disk.label", "Volume label (OEMDRV).", metavar="LABEL"),
        Option(
            ("--carrier",),
            "disk.carriers",
            "What to make: iso (default), usb, initrd, dud; may be given several times.",
            metavar="KIND",
            multiple=True,
        ),
        Option(("--include-srpm",), "disk.include_srpm", "Put the source packages on the disk, too.", value=True),
        Option(("--extra",), "disk.extra", "Folder whose files are put on the disk, too.", metavar="DIR"),
        Option(("--second-partition",), "disk.second_partition", "Folder for a second partition (usb).", metavar="DIR"),
        Option(("--second-label",), "disk.second_label", "Label of the second partition (CIDATA).", metavar="LABEL"),
        Option(
            ("--installer",),
            "disk.installers",
            "Kernel of an installer that must take the packages; may be given several times.",
            metavar="RELEASE",
            multiple=True,
        ),
        Option(
            ("--check",),
            "disk.check",
            "What to do if an installer would not take the disk.",
            choices={"off": "off", "warn": "warn", "fail": "fail"},
        ),
        Option(("--ignore",), "disk.ignore", "Findings not to report, such as DISK023.", metavar="CODE", multiple=True),
    )

    def consumes(self, project: Project) -> tuple[str, ...]:
        """Return what goes on the disk: the signed packages, where there are such."""
        if project.signing.is_on:
            return ("signed_set",)
        distros = [find_distro(target.distro) for target in project.target]
        formats = {distro.format for distro in distros if _has_disk(distro, project)} or {"rpm"}
        return tuple(f"package_set.{format}" for format in sorted(formats))

    def applies(self, unit: ProjectUnit) -> bool:
        """Only where an installer reads such a disk, and where there will be binary packages."""
        formats = {job.distro.format for job in unit.jobs if _has_disk(job.distro, unit.project)}
        return bool(formats - ({"rpm"} if unit.project.rpm.srpm_only else set()))

    def on_edit(self, project: Project) -> None:
        """What was built is not edited by hand."""

    def ingredients(self, unit: ProjectUnit) -> Mapping[str, object]:
        """Return what shapes the disk besides the packages."""
        disk = unit.project.disk
        tools = dict.fromkeys(tool for carrier in disk.carriers for tool in _TOOLS[carrier])
        for job in unit.jobs:
            tools |= dict.fromkeys(_FORMAT_TOOLS[job.distro.format])
        return {
            "disk": disk.model_dump(exclude={"file"}),
            "extra": _digests(disk.extra, unit.base),
            "second partition": _digests(disk.second_partition, unit.base),
            **{tool: tool_stamp(tool, needed_for="driver disks") for tool in tools},
        }

    def run(self, work: Work[Any]) -> DriverDisk:
        """Read the packages, check them, lay them out, and make the images."""
        # All stages are loaded whatever is run, and these take as long as all the rest of this one.
        from pkgkmod.media.disk import make_images, sort_out
        from pkgkmod.media.lint import refuse_errors
        from pkgkmod.media.loading import loading_check
        from pkgkmod.media.packages import FORMATS, read_packages
        from pkgkmod.media.readme import README
        from pkgkmod.media.report import report_findings

        project = work.unit.project
        distros = {job.target.id: job.distro for job in work.unit.jobs}
        paths: dict[str, list[Path]] = {}
        for kind in self.consumes(project):
            for result in work.inputs.get(kind, ()):  # none, if all that makes some was left out
                made = result.load(SignedSet if project.signing.is_on else PackageSet)
                distro = distros[result.target]
                if _has_disk(distro, project):
                    files = [result.folder / one.file for one in made.packages if Path(one.file).suffix in FORMATS]
                    paths.setdefault(distro.id, []).extend(files)
        packages = iter(read_packages([path for ones in paths.values() for path in ones], work.run, work.progress))
        releases = [DiskRelease(find_distro(name), tuple(next(packages) for _ in ones)) for name, ones in paths.items()]
        name = f"{project.project.name}-{project.project.version}"
        also = loading_check(project.disk, lambda: kernels_here(project, work.unit.base), work.run)
        order, findings = sort_out(name, releases, project.disk, project.signing, work.unit.base, also=also)
        report_findings(findings, project.disk, work.progress)
        refuse_errors(findings, project.disk)
        with work.workspace.scratch() as scratch:
            folder = scratch / "disk"
            folder.mkdir()
            draft = DiskDraft(folder, scratch, name, order.epoch, work.run)
            images = make_images(order, work.folder, draft)
        binaries = [package for release in order.releases for package in release.packages]
        return DriverDisk(
            name=name,
            images=images,
            label=project.disk.label,
            packages=tuple(package.path.name for package in (*binaries, *order.sources)),
            kernels=tuple(dict.fromkeys(kernel for package in binaries for kernel in package.kernels)),
            readme=README,
        )


def _has_disk(distro: Distro, project: Project) -> bool:
    """Tell whether an installer of the distribution reads driver disks, or a layout of a plugin may."""
    return bool(distro.installers or project.disk.layouts)


def _digests(folder: str | None, base: Path) -> dict[str, str]:
    """Return digests of all files of a folder, by path; nothing if there is no folder."""
    root = base / Path(folder).expanduser() if folder else None
    if root is None or not root.is_dir():
        return {}
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

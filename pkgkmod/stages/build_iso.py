"""build_iso: one driver disk with the packages of all targets whose installer reads one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pkgkmod.media.rhdd3 import build_disk
from pkgkmod.model.artifacts import DriverDisk, PackageSet, SignedSet
from pkgkmod.model.project import Project
from pkgkmod.plugins import Option, ProjectUnit, Work
from pkgkmod.programs import tool_stamp


class BuildIso:
    """Put the packages on an ISO image that installers take as a driver disk."""

    name = "build_iso"
    version = 2
    summary = "Make a driver disk (ISO image) of the packages."
    scope = "project"
    produces = "driver_disk"
    in_build = True
    options = (
        Option(("-i", "--isofile"), "disk.file", "Where to put the image, too.", metavar="FILE"),
        Option(("--label",), "disk.label", "Volume label.", metavar="LABEL"),
    )

    def consumes(self, project: Project) -> tuple[str, ...]:
        """Return what goes on the disk: the signed packages, where there are such."""
        return ("signed_set" if project.signing.is_on else "package_set.rpm",)

    def applies(self, unit: ProjectUnit) -> bool:
        """Only where an installer reads such a disk, and where there will be binary packages."""
        return not unit.project.rpm.srpm_only and any(job.distro.installer_disk == "rhdd3" for job in unit.jobs)

    def on_edit(self, project: Project) -> None:
        """What was built is not edited by hand."""

    def ingredients(self, unit: ProjectUnit) -> Mapping[str, object]:
        """Return what shapes the image besides the packages."""
        return {
            "disk": unit.project.disk.model_dump(exclude={"file"}),
            "xorriso": tool_stamp("xorriso", needed_for="driver disks"),
            "createrepo_c": tool_stamp("createrepo_c", needed_for="driver disks"),
        }

    def run(self, work: Work[Any]) -> DriverDisk:
        """Lay the packages out, index them, and make the image."""
        project = work.unit.project
        releases = {job.target.id: job.distro for job in work.unit.jobs}
        packages: dict[str, list[Path]] = {}
        epochs: list[int] = []
        kernels: dict[str, None] = {}
        for result in work.inputs[self.consumes(project)[0]]:
            made = result.load(SignedSet if project.signing.is_on else PackageSet)
            epochs.append(made.source_date_epoch)
            if releases[result.target].installer_disk == "rhdd3":
                files = [result.folder / package.file for package in made.packages if package.kind != "debuginfo"]
                packages.setdefault(result.target, []).extend(files)
                kernels |= dict.fromkeys(made.kernels)
        image = work.folder / f"{project.project.name}-{project.project.version}.iso"
        with work.workspace.scratch() as scratch:
            names = build_disk(
                packages,
                image,
                label=project.disk.label,
                epoch=max(epochs),
                scratch=scratch,
                run=work.run,
                include_srpm=project.disk.include_srpm,
            )
        return DriverDisk(
            file=image.name,
            label=project.disk.label,
            size=image.stat().st_size,
            packages=tuple(names),
            kernels=tuple(kernels),
        )

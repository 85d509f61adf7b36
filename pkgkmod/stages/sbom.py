"""sbom: what the packages of one job are made of, as a document for programs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pkgkmod.config.load import load
from pkgkmod.config.required import project_file
from pkgkmod.data.distros import find_distro
from pkgkmod.kernels.compiler import compiler_stamps, find_compiler
from pkgkmod.model.artifacts import BillOfMaterials, PackageSet, SignedSet, SourceTree
from pkgkmod.model.job import Job
from pkgkmod.model.kernel import Kernel
from pkgkmod.model.project import Project
from pkgkmod.packages.firmware import find_firmware
from pkgkmod.plugins import JobUnit, Option, Work
from pkgkmod.programs import capture, tool_stamp
from pkgkmod.stages.packaging import builder_of

_VERSION = re.compile(r"\d+(?:\.\d+)+")
_IDENTIFIER = re.compile(r"SPDX-License-Identifier:[ \t]*([^\r\n]{1,200})")
_SIDECAR = ".license"
"""Ending of the file beside another that says its licence (REUSE specification)."""
_LONGEST_SIDECAR = 64 * 1024
_BUILT_BY = {"rpm": "rpmbuild", "deb": "dpkg-deb"}


class Sbom:
    """Write a bill of materials for the packages of a job."""

    name = "sbom"
    version = 1
    summary = "Write a bill of materials (SBOM) of the packages."
    scope: Literal["job"] = "job"
    produces = "sbom"
    in_build = True
    options = (
        Option(
            ("--format",),
            "sbom.format",
            "Format of the document (cyclonedx), where the project wants none.",
            choices={"cyclonedx": "cyclonedx"},
        ),
        Option(
            ("--packages",),
            "sbom.packages",
            "Folder with packages that a farm built of these sources, in place of those built here.",
            metavar="DIR",
        ),
    )

    def consumes(self, project: Project) -> tuple[str, ...]:
        """Return the packages as they are handed out, the sources, and the modules where they were compiled here."""
        if project.sbom.packages:
            return ("source_tree",)
        formats = {find_distro(target.distro).format for target in project.target} or {"deb", "rpm"}
        packages = tuple(f"package_set.{format}" for format in sorted(formats))
        return ("source_tree", *(("signed_set",) if project.signing.is_on else packages))

    def applies(self, unit: JobUnit) -> bool:
        """Wherever packages are made, unless the project wants no such document."""
        return unit.project.sbom.format != "none"

    def on_edit(self, project: Project) -> None:
        """What was found out is not edited by hand."""

    def ingredients(self, unit: JobUnit) -> Mapping[str, object]:
        """Return what the document says besides what the packages and sources are made of."""
        project = unit.project
        return {
            "format": project.sbom.format,
            **({"packages": _brought(unit)} if project.sbom.packages else {}),
            "project": project.project.model_dump(),
            "distribution": [unit.job.distro.purl_vendor, unit.job.distro.purl_distro, unit.job.target.minor],
            "kernels": [kernel.identity for kernel in unit.job.kernels],
            "programs": _program_stamps(unit),
            "drivers": _drivers(unit),
            "firmware licences": _firmware_licenses(unit),
        }

    def run(self, work: Work[Any]) -> BillOfMaterials:
        """Read the packages, and write what is known of them."""
        # The libraries behind these are loaded where such a document is written.
        from pkgkmod.reports.brought import describe, of_kernels, package_files
        from pkgkmod.reports.sbom import Materials, write_bom
        from pkgkmod.reports.shipped import read_shipped

        unit: JobUnit = work.unit
        signed, elsewhere = unit.project.signing.is_on, unit.project.sbom.packages
        if elsewhere:
            folder, format = unit.base / Path(elsewhere).expanduser(), unit.job.distro.format
            packages = describe(package_files(folder, format), folder)
        else:
            made = work.one("signed_set" if signed else f"package_set.{unit.job.distro.format}")
            folder, found = made.folder, made.load(SignedSet if signed else PackageSet)
            packages, format = found.packages, found.format
        shipped = read_shipped(folder, packages, format, work.run)
        materials = Materials(
            unit.job,
            work.one("source_tree").load(SourceTree).provenance,
            of_kernels(shipped, [kernel.uname_r for kernel in unit.job.kernels]) if elsewhere else shipped,
            _compilers(unit.job),
            _tools(unit),
            dict(_drivers(unit)),
            _firmware_licenses(unit),
        )
        document = write_bom(materials)
        label = unit.job.kernel_label
        name = f"{unit.project.project.name}-{unit.project.project.version}-{unit.job.target.id}"
        file = f"{name}{'' if label == '_' else f'-{label}'}.cdx.json"
        (work.folder / file).write_text(document.text, encoding="utf-8")
        return BillOfMaterials(format="cyclonedx", file=file, serial=document.serial, components=document.components)


def _brought(unit: JobUnit) -> dict[str, str]:
    """Return the digests of packages that were built elsewhere, by their path."""
    from pkgkmod.reports.brought import package_files

    folder = unit.base / Path(unit.project.sbom.packages or "").expanduser()
    files = package_files(folder, unit.job.distro.format)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _program_stamps(unit: JobUnit) -> list[object]:
    """Return what stands for the programs whose versions the document has; none of them is started."""
    if unit.project.sbom.packages:
        return []
    builder = builder_of(unit)
    names = _packagers(unit) if builder.prebuilt else (builder.name,)
    found: list[object] = [tool_stamp(name, needed_for="what is told of it") for name in names]
    if builder.prebuilt:
        any_compiler = unit.project.build.any_compiler
        found += [compiler_stamps(kernel, any_compiler=any_compiler) for kernel in unit.job.kernels]
    return found


def _packagers(unit: JobUnit) -> tuple[str, ...]:
    return "make", "ld", _BUILT_BY[unit.job.distro.format]


def _compilers(job: Job) -> dict[str, str]:
    """Return what compiled the modules, by release of the kernel; nothing where a clean root or a farm has its own."""
    if job.project.sbom.packages or not builder_of(JobUnit(job.project, Path(), job)).prebuilt:
        return {}
    return {kernel.uname_r: _compiler(kernel, job.project) for kernel in job.kernels}


def _compiler(kernel: Kernel, project: Project) -> str:
    """Return name and version of a compiler; of one in a build root, the name has the version that is known."""
    compiler = find_compiler(kernel, any_compiler=project.build.any_compiler)
    version = "" if kernel.root else _version_of(str(compiler))
    return f"{compiler.name} {version}".rstrip()


def _tools(unit: JobUnit) -> dict[str, str]:
    """Return the versions of the programs that made modules and packages, by name."""
    if unit.project.sbom.packages:
        return {}
    builder = builder_of(unit)
    if not builder.prebuilt:  # of what is in its root, it knows more than this machine
        return {builder.name: _version_of(builder.name)}
    found = {name: _version_of(name) for name in _packagers(unit)}
    return found | dict(text.partition(" ")[::2] for text in _compilers(unit.job).values())


def _version_of(tool: str) -> str:
    """Return the first number with a dot in what a program says to --version."""
    number = _VERSION.search(capture(tool, "--version"))
    return number[0] if number else ""


def _drivers(unit: JobUnit) -> list[tuple[str, str]]:
    """Return names and versions of the drivers in other packages that modules build on."""
    found = []
    for one in unit.project.requires:
        version = load(project_file(one, unit.base)).project.project.version if one.project else ""
        found.append((one.driver, version))
    return found


def _firmware_licenses(unit: JobUnit) -> dict[str, str]:
    """Return the licences of firmware files whose neighbour FILE.license names one, by their installed path."""
    settings = unit.project.firmware
    folder = (unit.base / settings.directory).resolve()
    found = {}
    for file in find_firmware(unit.base, settings):
        beside = (folder / f"{file.path}{_SIDECAR}").resolve()
        if not beside.is_relative_to(folder) or not beside.is_file():
            continue
        with beside.open(encoding="utf-8", errors="replace") as opened:
            said = _IDENTIFIER.search(opened.read(_LONGEST_SIDECAR))
        if said:
            found[f"{unit.job.distro.firmware_folder}/{file.path}"] = said[1].strip()
    return found

"""What the stages for RPM and DEB share: the makings of a recipe, places for a builder, and its failures."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pkgkmod.command import Command, is_stopping
from pkgkmod.errors import CompileError, PackageError, UsageError
from pkgkmod.farms import Farm
from pkgkmod.kernels.compiler import compiler_stamps
from pkgkmod.kernels.inplace import in_place
from pkgkmod.kernels.provide import repair_kernel
from pkgkmod.model.artifacts import ModuleSet, PackageFormat, SourceTree
from pkgkmod.model.job import Job
from pkgkmod.model.kernel import Kernel
from pkgkmod.model.places import Places
from pkgkmod.model.project import Project
from pkgkmod.modules.buildfolder import packaging_texts, static_texts
from pkgkmod.modules.compile import first_error, kernel_sandbox
from pkgkmod.modules.probefiles import probe_ingredients
from pkgkmod.modules.providers import PROVIDERS_FOLDER
from pkgkmod.modules.survey import survey
from pkgkmod.packages.debsource import AS_IMPORTED, DebianSources
from pkgkmod.packages.facts import PackageFacts
from pkgkmod.packages.firmware import find_firmware
from pkgkmod.packages.providers import provider_stamps, write_providers
from pkgkmod.packages.sourcearchive import write_source_archive
from pkgkmod.plugins import BUILDERS, Builder, JobUnit, RootBuilder, Work, load
from pkgkmod.programs import tool_stamp
from pkgkmod.workspace import digest


def recipe_ingredients(unit: JobUnit, templates: str) -> Mapping[str, object]:
    """Return what a recipe is made of, besides the sources; `templates` is a digest of its templates."""
    project = unit.project
    return {
        "distribution": unit.job.distro.model_dump(),
        "kernels": [kernel.uname_r for kernel in unit.job.kernels],
        "target": unit.job.target.model_dump(exclude={"kernels"}),
        "project": project.project.model_dump(),
        "repository": project.source.repository,
        "modules": [module.model_dump() for module in project.module],
        "requires": [one.model_dump(exclude={"project"}) for one in project.requires],
        "kconfig": project.kconfig,
        "extra_cflags": project.build.extra_cflags,
        **({"make": project.build.make} if project.build.make else {}),
        **({"only": project.only.model_dump()} if project.deb.dkms or project.rpm.dkms else {}),
        "archive": project.source.archive,
        "makefile": digest({**static_texts(), **packaging_texts()}),
        **probe_ingredients(project.probe),
        "firmware": project.firmware.model_dump(),
        "firmware files": [(file.path, file.sha256) for file in find_firmware(unit.base, project.firmware)],
        "devel": project.devel.model_dump(),
        "templates": templates,
    }


def write_sources(work: Work[Any], archive: str, debian: DebianSources = AS_IMPORTED) -> PackageFacts:
    """Pack the imported sources into `archive` in the work's folder; return the facts for the recipe.

    In that of a Debian source package (`debian`) they are as they were before its patches.
    """
    job, imported = work.unit.job, work.one("source_tree")
    provenance = imported.load(SourceTree).provenance
    modules = survey(job.project, imported.folder / "tree").names
    firmware = tuple(file.path for file in find_firmware(work.unit.base, job.project.firmware))
    facts = PackageFacts(job, modules, provenance, firmware)
    destination = work.folder / archive
    shelf = work.workspace.for_this_run("archives")
    write_source_archive(
        job.project,
        imported.folder,
        provenance,
        destination,
        base=work.unit.base,
        top_folder=facts.top_folder,
        shelf=shelf,
        debian=debian,
    )
    return facts


def builder_of(unit: JobUnit) -> Builder:
    """Return the builder that the project chose for the job's format."""
    project = unit.project
    name = project.rpm.builder if unit.job.distro.format == "rpm" else project.deb.builder
    builder: Builder | Farm = load(BUILDERS, name)
    if isinstance(builder, Farm):
        raise UsageError(
            f"'{name}' is a build farm, and takes source packages only",
            hint=f"`pkgkmod submit --builder {name} --fetch` has it build them",
        )
    return builder


def compiles(unit: JobUnit) -> bool:
    """Tell whether the package build compiles itself, instead of taking finished modules."""
    return unit.project.build.from_source or not builder_of(unit).prebuilt


def packaging_ingredients(unit: JobUnit, format: PackageFormat) -> Mapping[str, object]:
    """Return what shapes packages besides their recipe and modules."""
    builder = builder_of(unit)
    found: dict[str, object] = {
        "builder": builder.name,
        "from source": compiles(unit),
        "tools": [tool_stamp(tool, needed_for=f"building {format.upper()} packages") for tool in builder.tools(format)],
    }
    if settings := unit.project.plugin.get(builder.name):
        found["settings"] = settings
    if isinstance(builder, RootBuilder):
        found["root"] = builder.ingredients(unit)
    if compiles(unit):
        found["kernel trees"] = [kernel.identity for kernel in unit.job.kernels]
    if compiles(unit) and unit.project.requires:
        # Of what a root installs, only other projects are known here.
        known = unit.project if builder.prebuilt else _with_projects_only(unit.project)
        label = unit.job.source_label
        found["required"] = [provider_stamps(known, unit.base, k.uname_r, label) for k in unit.job.kernels]
    if compiles(unit) and builder.prebuilt:  # it compiles with this machine's compilers, not with those of a root
        any_compiler = unit.project.build.any_compiler
        found["compilers"] = [compiler_stamps(kernel, any_compiler=any_compiler) for kernel in unit.job.kernels]
    return found


def _with_projects_only(project: Project) -> Project:
    return project.model_copy(update={"requires": tuple(one for one in project.requires if one.project)})


def folder_for(work: Work[Any]) -> AbstractContextManager[Path]:
    """Give a folder to build in: one of the builder's own, where it has more to prepare."""
    builder = builder_of(work.unit)
    if isinstance(builder, RootBuilder):
        return builder.at_work(work.unit, work.progress)
    return work.workspace.scratch()


@contextmanager
def jobs_for(work: Work[Any]) -> Iterator[int]:
    """Return how many jobs a package build may run: more than its own only if it compiles.

    Package builders set make's -j themselves, so they cannot share the common budget as a bare make does.
    """
    if not work.budget or not compiles(work.unit):
        yield work.budget.jobs if work.budget else 1
        return
    with work.budget.with_spare(is_stopping) as jobs:
        yield jobs


def make_places(work: Work[Any], folder: Path, *, source_only: bool = False, jobs: int) -> Places:
    """Return the folders for a build, with finished modules where the build takes them.

    A source package needs no kernels: they may be known by their names only.
    """
    job: Job = work.unit.job
    prebuilt = None
    if work.inputs.get("module_set"):
        prebuilt = folder / "prebuilt"
        for result in work.inputs["module_set"]:
            modules = result.load(ModuleSet)
            place = prebuilt / modules.uname_r
            place.mkdir(parents=True)
            for name in (*(module.file for module in modules.modules), modules.symvers):
                shutil.copyfile(result.folder / name, place / name)
    kernels = () if source_only else _kernels_for(work, folder)
    if kernels and compiles(work.unit):
        for kernel in kernels:
            write_providers(job.project, work.unit.base, kernel.uname_r, job.source_label, folder / PROVIDERS_FOLDER)
    return Places(
        folder=folder,
        arch=job.kernels[0].arch,
        kernel_trees={kernel.uname_r: kernel.tree for kernel in kernels},
        prebuilt=prebuilt,
        source_only=source_only,
        jobs=jobs,
        suite=job.distro.codename,
    )


def _kernels_for(work: Work[Any], folder: Path) -> tuple[Kernel, ...]:
    """Return the kernels that a package build sees; where it compiles, they are whole, and here.

    Where it does not, their symbols are read all the same.
    """
    job: Job = work.unit.job
    if isinstance(builder_of(work.unit), RootBuilder):
        return ()  # its root has kernels of its own
    if not compiles(work.unit):
        return job.kernels if work.isolated else tuple(replace(k, tree=k.place) for k in job.kernels)
    if elsewhere := [kernel.uname_r for kernel in job.kernels if kernel.root]:
        raise PackageError(
            f"{job.id}: {', '.join(elsewhere)} needs a build root, and packages are built in this machine's",
            hint="without --from-source its modules are compiled in the root, and then packaged here",
        )
    for kernel in job.kernels:
        repair_kernel(kernel, work.progress)
    if work.isolated:
        return job.kernels
    return tuple(in_place(kernel, folder / "kernels" / kernel.uname_r) for kernel in job.kernels)


def run_build(work: Work[Any], command: Command, folder: Path, *, source_only: bool = False) -> None:
    """Run a command of a package build in the sandbox, with `folder` writable, unless it isolates itself.

    One that makes a source package only sees no kernels. Raise CompileError or PackageError, the first error on top.
    """
    job: Job = work.unit.job
    build = job.project.build
    builder = None if source_only else builder_of(work.unit)
    if not command.isolates and work.isolated:
        # Packages are made with this machine's programs, whatever the modules were compiled with.
        kernels = () if source_only else tuple(replace(kernel, root=None) for kernel in job.kernels)
        command = replace(command, sandbox=kernel_sandbox(folder, kernels))
    if (folder / PROVIDERS_FOLDER).is_dir():
        command = replace(command, env={**command.env, "PROVIDER_ROOT": str(folder / PROVIDERS_FOLDER)})
    done = work.run(replace(command, time_limit=command.time_limit or build.time_limit))
    if isinstance(builder, RootBuilder):
        _take_logs(builder.logs(folder), done.log)
    if done.ok:
        return
    lines = done.log.read_text(encoding="utf-8", errors="replace").splitlines()
    if isinstance(builder, RootBuilder) and (known := builder.complaint(lines, done.returncode)):
        known.log = done.log
        raise known
    error = first_error(lines)
    if error and builder and compiles(work.unit):
        raise CompileError(f"the modules of {job.id} do not compile", details=error, log=done.log)
    raise PackageError(f"{command.argv[0]} failed for {job.id}", details="\n".join(done.tail[-12:]), log=done.log)


def _take_logs(files: Iterable[Path], log: Path) -> None:
    """Move what a command wrote into files to the end of the result's log."""
    for file in files:
        if file.is_file() and not file.is_symlink():
            with log.open("ab") as sink, file.open("rb") as source:
                sink.write(f"\n--- {file.name}\n".encode())
                shutil.copyfileobj(source, sink)
            file.unlink()

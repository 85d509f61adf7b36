"""build_modules: the modules of one kernel, compiled once for every package format."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pkgkmod.kernels.compiler import compiler_stamps, find_compiler, is_another
from pkgkmod.kernels.inplace import in_place
from pkgkmod.kernels.provide import repair_kernel
from pkgkmod.model.artifacts import ModuleSet
from pkgkmod.model.project import Project
from pkgkmod.modules.askedonce import keep_option_answers
from pkgkmod.modules.buildfolder import static_texts, write_build_folder
from pkgkmod.modules.compile import collect_modules, compile_command, raise_compile_error
from pkgkmod.modules.ownmake import names_for
from pkgkmod.modules.probefiles import ANSWERS, probe_ingredients
from pkgkmod.modules.probes import ask_kernel, give_answers
from pkgkmod.modules.providers import PROVIDERS_FOLDER
from pkgkmod.modules.survey import survey
from pkgkmod.packages.providers import provider_stamps, write_providers
from pkgkmod.plugins import KernelUnit, Option, Work
from pkgkmod.sources.reach import include_folders
from pkgkmod.workspace import digest


class BuildModules:
    """Compile all modules of the project for a kernel, in one kbuild call."""

    name = "build_modules"
    version = 1
    summary = "Compile the modules, once for each kernel."
    scope = "kernel"
    produces = "module_set"
    in_build = False
    options = (
        Option(("-j", "--jobs"), "build.jobs", "Parallel jobs of all programs together.", metavar="N", number=True),
        Option(
            ("--any-compiler",),
            "build.any_compiler",
            "Accept another compiler than the kernel's.",
            value=True,
        ),
    )

    def consumes(self, project: Project) -> tuple[str, ...]:
        """Return what is compiled."""
        return ("source_tree",)

    def applies(self, unit: KernelUnit) -> bool:
        """Every kernel gets its modules."""
        return True

    def on_edit(self, project: Project) -> None:
        """What was built is not edited by hand."""

    def ingredients(self, unit: KernelUnit) -> Mapping[str, object]:
        """Return what shapes the compiled bytes: the kernel tree, the compiler, the options, the makefile."""
        project = unit.project
        return {
            "kernel tree": unit.kernel.identity,
            **compiler_stamps(unit.kernel, any_compiler=project.build.any_compiler),
            "makefile": digest(static_texts()),
            "kconfig": project.kconfig,
            "modules": [module.model_dump() for module in project.module],
            "extra_cflags": project.build.extra_cflags,
            **probe_ingredients(project.probe),
            **({"make": project.build.make} if project.build.make else {}),
            "name": [project.project.name, project.project.version],
            **provider_stamps(project, unit.base, unit.kernel.uname_r, unit.label),
        }

    def run(self, work: Work[Any]) -> ModuleSet:
        """Compile in a scratch folder, then keep the modules."""
        project, kernel = work.unit.project, work.unit.kernel
        imported = work.one("source_tree").folder
        compiler = find_compiler(kernel, any_compiler=project.build.any_compiler)
        if other := is_another(compiler, kernel):
            work.progress.warning(f"{kernel.uname_r} was built with {kernel.compiler}, its modules are with {other}")
        plan = survey(project, imported / "tree")
        stamps = compiler_stamps(kernel, any_compiler=project.build.any_compiler)
        repair_kernel(kernel, work.progress)
        with work.workspace.scratch() as scratch:
            folder = scratch / "build"
            write_build_folder(project, plan, imported, include_folders(imported / "tree"), folder)
            write_providers(project, work.unit.base, kernel.uname_r, work.unit.label, folder / PROVIDERS_FOLDER)
            isolated = work.isolated
            if not isolated:
                kernel = in_place(kernel, scratch / "kernel")
            answers = work.workspace.for_this_run(f"answers-{digest(stamps)[:12]}")
            if project.probe:
                found = ask_kernel(
                    project.probe, kernel, project.build, scratch / "probes", work.run, options_asked=answers
                )
                shutil.copyfile(give_answers(found, kernel.uname_r, folder), work.folder / ANSWERS)
            command = compile_command(folder, kernel, project.build, answers=answers)
            if not isolated:
                command = replace(command, argv=(*command.argv, f"KERNEL_ROOT={scratch / 'kernel'}"))
            done = work.run(command)
            if not done.ok:
                raise_compile_error(done, kernel, folder)
            keep_option_answers(folder, answers)
            finished = folder / "modules" / kernel.uname_r
            for path in finished.iterdir():
                if not path.name.startswith("."):
                    shutil.copyfile(path, work.folder / path.name)
        return collect_modules(work.folder, names_for(project, kernel.uname_r, plan.names), kernel, compiler.name)

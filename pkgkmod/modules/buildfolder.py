"""The folder that is compiled and shipped: the sources, and the makefile that builds them anywhere."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from pkgkmod import data, modules
from pkgkmod.model.project import Project
from pkgkmod.modules.kconfig import header_lines, make_words
from pkgkmod.modules.makefiles import usable_directory
from pkgkmod.modules.ownmake import MAKE_FILE, make_text, modules_variables, own_make_variables
from pkgkmod.modules.probefiles import write_probes
from pkgkmod.modules.providers import provider_variables
from pkgkmod.modules.survey import Survey

STATIC_FILES = ("pkgkmod.mk", "Kbuild", "pkgkmod-pahole")
FINISH_FILE = "pkgkmod-finish"
DEPENDENCIES_FILE = "pkgkmod-deps"
OPTIONS_FILE = "pkgkmod-options.mk"
KCONFIG_FILE = "pkgkmod-kconfig.h"
PATCHES_FOLDER = "pkgkmod-patches"


def static_texts() -> dict[str, str]:
    """Return the makefiles that are the same for every project, and shape its modules."""
    folder = files(data).joinpath("build")
    return {name: folder.joinpath(name).read_text(encoding="utf-8") for name in STATIC_FILES}


def packaging_texts() -> dict[str, str]:
    """Return the programs that are the same for every project, and are run when finished modules are packaged."""
    return {
        FINISH_FILE: files(data).joinpath("build", FINISH_FILE).read_text(encoding="utf-8"),
        DEPENDENCIES_FILE: files(modules).joinpath("kmod_deps.py").read_text(encoding="utf-8"),
    }


def write_build_folder(
    project: Project, survey: Survey, imported: Path, include_folders: tuple[str, ...], destination: Path
) -> None:
    """Fill `destination` with the imported sources, their provenance and the makefile.

    `imported` is the folder of a source tree's result; `include_folders` are folders of the tree that
    the sources' Makefiles name by $(srctree), which is the kernel's tree when modules are built.
    """
    shutil.copytree(imported / "tree", destination, symlinks=True)
    shutil.copy2(imported / "provenance.json", destination)
    if (imported / "kernel-patches").is_dir():
        shutil.copytree(imported / "kernel-patches", destination / PATCHES_FOLDER)
    for name, text in static_texts().items():
        (destination / name).write_text(text, encoding="utf-8")
    for name, text in packaging_texts().items():
        (destination / name).write_text(text, encoding="utf-8")
        (destination / name).chmod(0o755)
    named = modules_variables(project, survey.rules)
    trees = sorted(path.name for path in (imported / "tree").iterdir() if usable_directory(path.name))
    variables = {
        "NAME": project.project.name,
        "VERSION": project.project.version,
        "MODULES": named.pop("MODULES"),
        "DIRECTORIES": " ".join(survey.directories),
        "TREES": " ".join(trees),
        "INCLUDE_FOLDERS": " ".join(include_folders),
        "HEADER_FOLDERS": " ".join(f for f in ("include", "include/uapi") if (destination / f).is_dir()),
        "EXTRA_CFLAGS": project.build.extra_cflags,
        "OPTIONS": " ".join(make_words(survey.overridden)),
        **own_make_variables(project, destination),
    }
    if project.build.make:
        (destination / MAKE_FILE).write_text(make_text(project, destination), encoding="utf-8")
    providers = {**named, **provider_variables(project, survey.rules, destination)}
    (destination / OPTIONS_FILE).write_text(_options_text(variables, providers), encoding="utf-8")
    (destination / KCONFIG_FILE).write_text(_header_text(survey), encoding="utf-8")
    write_probes(project.probe, destination)


def _options_text(variables: Mapping[str, str], providers: Mapping[str, str]) -> str:
    lines = ["# What pkgkmod.mk builds, and with which kernel options."]
    lines += [f"{name} := {value}".rstrip() for name, value in variables.items()]
    # The kernel's release may be in these, which is known later.
    lines += [f"{name} = {value}" for name, value in providers.items()]
    return "\n".join(lines) + "\n"


def _header_text(survey: Survey) -> str:
    lines = ["/* Kernel options of these sources; everything else is as the kernel's autoconf.h says. */"]
    return "\n".join([*lines, *header_lines(survey.overridden)]) + "\n"

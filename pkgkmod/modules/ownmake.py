"""Drivers with a make of their own: what it makes, where it runs, and the commands that go into the build folder.

The commands of `build.make` are the packager's, or somebody else's whose project was imported: they are a program, as
makefiles are, and run where those do, in the sandbox. No other text of the project gets into them.
"""

from __future__ import annotations

import shlex
from pathlib import Path, PurePosixPath

from pkgkmod.errors import ConfigError
from pkgkmod.model.only import fits
from pkgkmod.model.project import ModuleEntry, Project
from pkgkmod.modules.makefiles import ModuleRule, usable_directory
from pkgkmod.modules.providers import in_order

MAKE_FILE = "pkgkmod-make"


def make_folder(project: Project, tree: Path) -> str:
    """Return the folder of `tree` in which the commands run: the first that is imported; its top, `.`, if none is."""
    return next((folder for folder in project.source.directories if (tree / folder).is_dir()), ".")


def own_rules(project: Project, tree: Path) -> tuple[ModuleRule, ...]:
    """Return the modules that the project's own make is to build; raise ConfigError if it does not name them."""
    if not project.module:
        raise ConfigError(
            "build.make: the project does not say which modules it makes",
            hint='add a [[module]] table for each, with its name, and built = "FOLDER/FILE.ko" if it is not NAME.ko',
        )
    folder = make_folder(project, tree)
    return tuple(_rule(entry, folder) for entry in in_order(project.module))


def _rule(entry: ModuleEntry, folder: str) -> ModuleRule:
    built = _built(entry)
    if built.suffix != ".ko":
        raise ConfigError(f"module '{entry.name}': built = '{built}' is no .ko file")
    directory = entry.directory or str(PurePosixPath(folder, built).parent)
    return ModuleRule(entry.name, directory, None)


def _built(entry: ModuleEntry) -> PurePosixPath:
    return PurePosixPath(entry.built or f"{entry.name}.ko")


def make_text(project: Project, tree: Path) -> str:
    """Return the shell script that builds the modules and leaves each where the makefile looks for it."""
    folder = make_folder(project, tree)
    lines = [f"# What build.make says: it makes the modules of {project.project.name}.", project.build.make]
    for entry, rule in zip(in_order(project.module), own_rules(project, tree), strict=True):
        made, wanted = PurePosixPath(folder, _built(entry)), PurePosixPath(rule.directory, f"{rule.name}.ko")
        if made != wanted and (entry.directory is None or entry.built):
            place = 'if test -e "$SOURCES"/{0}; then cp "$SOURCES"/{0} "$SOURCES"/{1}; fi'
            up = "../" * len(PurePosixPath(folder).parts)
            lines.append(place.format(shlex.quote(str(_built(entry))), shlex.quote(f"{up}{wanted}")))
    return "\n".join(lines) + "\n"


def own_make_variables(project: Project, tree: Path) -> dict[str, str]:
    """Return the makefile's variables about the driver's own make; none if kbuild builds it."""
    if not project.build.make:
        return {}
    folder = make_folder(project, tree)
    if not usable_directory(folder):
        raise ConfigError(f"the folder name {folder!r} cannot stand in a makefile")
    return {"OWN_MAKE": folder}


def modules_variables(project: Project, rules: tuple[ModuleRule, ...]) -> dict[str, str]:
    """Return the makefile's variables that name the modules for all kernels, and those for some."""
    some = {entry.name: entry.kernels for entry in project.module if entry.kernels}
    paths = {rule: f"{rule.directory}/{rule.name}" for rule in rules}
    found = {"MODULES": " ".join(path for rule, path in paths.items() if rule.name not in some)}
    chosen = [_only_for(some[rule.name], path) for rule, path in paths.items() if rule.name in some]
    return found | ({"KERNEL_MODULES": " ".join(chosen)} if chosen else {})


def _only_for(patterns: tuple[str, ...], path: str) -> str:
    """Return what is `path` for the kernels of the patterns; these hold no character that means more to a shell."""
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    cases = [f"({'|'.join(unwanted)});;"] if unwanted else []
    cases.append(f"({'|'.join(wanted)}) echo {path};;")
    return f"$(shell case '$(KERNEL)' in {' '.join(cases)} esac)"


def names_for(project: Project, uname_r: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the modules that are for a kernel."""
    some = {entry.name: entry.kernels for entry in project.module if entry.kernels}
    return tuple(name for name in names if name not in some or fits(uname_r, some[name]))

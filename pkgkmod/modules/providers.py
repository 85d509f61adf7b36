"""What modules build on, in the words of the makefile: the order of modules, folders of headers, exported symbols.

Headers of what a module requires are found before the kernel's own of the same name, by the sources in the module's
folder only: kbuild knows include paths of folders, not of modules. Inside of such a folder of headers, `uapi/` and
`asm/` are found as in the kernel's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pkgkmod.errors import ConfigError
from pkgkmod.model.project import ModuleEntry, Project, kernel_name
from pkgkmod.model.requires import HEADERS, UNAME_R, Requirement, derived_order
from pkgkmod.modules.makefiles import ModuleRule, usable_directory

PROVIDERS_FOLDER = "pkgkmod-providers"
"""Folder in the build folder below which the files of devel packages lie at their paths."""


def in_order(modules: tuple[ModuleEntry, ...]) -> tuple[ModuleEntry, ...]:
    """Return the modules, each behind those that it requires."""
    by_name = {kernel_name(module.name): module for module in modules}
    order = derived_order({name: [kernel_name(other) for other in one.requires] for name, one in by_name.items()})
    return tuple(by_name[name] for name in order if name in by_name)


def provider_variables(project: Project, rules: tuple[ModuleRule, ...], tree: Path) -> dict[str, str]:
    """Return the makefile's variables that say what the modules in `tree` build on; none if they build on nothing.

    Raise ConfigError for a folder of headers that is not there, or whose name cannot stand in a makefile.
    """
    symbols = [f"{one.devel_folder}/{one.symvers}" for one in project.requires]
    includes = dict.fromkeys(f"{folder}:{path}" for folder, path in _includes(project, rules, tree))
    texts = {"PROVIDER_SYMBOLS": symbols, "PROVIDER_INCLUDES": list(includes)}
    return {name: " ".join(words).replace(UNAME_R, "$(KERNEL)") for name, words in texts.items() if words}


def _includes(project: Project, rules: tuple[ModuleRule, ...], tree: Path) -> Iterator[tuple[str, str]]:
    """Yield folders of modules with folders of headers: absolute ones are those of devel packages."""
    by_name = {kernel_name(rule.name): rule for rule in rules}
    entries = {kernel_name(entry.name): entry for entry in project.module}
    named = {kernel_name(name) for entry in project.module for name in entry.requires}
    for name, rule in by_name.items():
        wanted = _all_required(name, entries)
        # What a module offers others it sees itself: otherwise the two might go by different declarations.
        offers = name in entries and (name in named or entries[name].headers)
        for other in [*([name] if offers else []), *wanted]:
            if other in by_name:
                yield from ((rule.directory, path) for path in _own_headers(by_name[other], entries[other], tree))
        for requirement in project.requires:
            if (label := kernel_name(requirement.label)) in wanted or label not in named:
                yield from ((rule.directory, path) for path in _installed_headers(requirement))


def _all_required(name: str, entries: Mapping[str, ModuleEntry]) -> list[str]:
    """Return what a module requires and what that requires, the nearest first: headers include those of others."""
    found: list[str] = []
    wanted = [name]
    while wanted:
        entry = entries.get(wanted.pop(0))
        new = [kernel_name(other) for other in (entry.requires if entry else ())]
        found += (fresh := [other for other in new if other not in found])
        wanted += fresh
    return found


def _own_headers(rule: ModuleRule, entry: ModuleEntry, tree: Path) -> list[str]:
    folder = f"{rule.directory}/{entry.headers or HEADERS}"
    if entry.headers and not (tree / folder).is_dir():
        raise ConfigError(
            f"module '{entry.name}': its folder of headers, {folder}, is not among the imported sources",
            hint="`headers` is a folder in the module's own; without it, `include` is taken if it is there",
        )
    if not usable_directory(folder):
        raise ConfigError(f"the folder name {folder!r} cannot stand in a makefile")
    return [path for path in (folder, f"{folder}/uapi") if (tree / path).is_dir()]


def _installed_headers(requirement: Requirement) -> list[str]:
    folder = f"{requirement.devel_folder}/{requirement.headers}"
    return [folder, f"{folder}/uapi"]

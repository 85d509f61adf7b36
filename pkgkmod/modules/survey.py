"""What of a source tree is built: the modules, the folders, the options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.errors import ConfigError, SourceError, did_you_mean
from pkgkmod.model.project import ModuleEntry, Project
from pkgkmod.modules.kconfig import overrides
from pkgkmod.modules.makefiles import ModuleRule, module_rules, usable_directory
from pkgkmod.modules.ownmake import own_rules
from pkgkmod.modules.providers import in_order


@dataclass(frozen=True)
class Survey:
    """The modules to build of a source tree, and the options they are built with."""

    rules: tuple[ModuleRule, ...]
    overridden: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modules, without .ko."""
        return tuple(rule.name for rule in self.rules)

    @property
    def directories(self) -> tuple[str, ...]:
        """Folders whose Makefiles build the modules."""
        return tuple(sorted({rule.directory for rule in self.rules}))


def survey(project: Project, tree: Path) -> Survey:
    """Find out what to build of the sources in `tree`.

    Raise SourceError if the Makefiles define no module, ConfigError if they define none of the name
    that the project gives.
    """
    named = [entry.directory for entry in project.module if entry.directory]
    folders = tuple(d for d in dict.fromkeys((*project.source.directories, *named)) if (tree / d).is_dir())
    own = bool(project.build.make)
    rules = own_rules(project, tree) if own else module_rules(tree, folders)
    if project.module and not own:
        rules = tuple(_rule_of(entry, rules) for entry in in_order(project.module))
    if not rules:
        raise SourceError(
            "the imported Makefiles define no module",
            details=f"looked for obj-m and obj-$(CONFIG_...) lines in: {', '.join(folders) or 'no folder'}",
            hint="import the folder that holds the driver's Makefile: prepare_sources -d FOLDER",
        )
    _refuse_twins(rules)
    for directory in {rule.directory for rule in rules}:
        if not usable_directory(directory):
            raise SourceError(f"the folder name {directory!r} cannot stand in a makefile")
    return Survey(rules, overrides(project, rules, tree))


def _rule_of(entry: ModuleEntry, rules: tuple[ModuleRule, ...]) -> ModuleRule:
    wanted = entry.name.replace("-", "_")
    found = [
        rule for rule in rules if rule.name.replace("-", "_") == wanted and entry.directory in (None, rule.directory)
    ]
    if not found:
        raise ConfigError(
            f"module '{entry.name}': no imported Makefile builds it",
            hint=did_you_mean(entry.name, [rule.name for rule in rules])
            or f"they build: {', '.join(rule.name for rule in rules) or 'nothing'}",
        )
    if len(found) > 1:
        raise ConfigError(
            f"module '{entry.name}': more than one Makefile builds it: {', '.join(r.directory for r in found)}",
            hint="say which with `directory = ...` in its [[module]] table",
        )
    return found[0]


def _refuse_twins(rules: tuple[ModuleRule, ...]) -> None:
    """Two modules of one name cannot be loaded, nor lie in one folder ('-' and '_' are the same)."""
    seen: dict[str, ModuleRule] = {}
    for rule in rules:
        twin = seen.setdefault(rule.name.replace("-", "_"), rule)
        if twin is not rule:
            raise ConfigError(
                f"two Makefiles build a module '{rule.name}': in {twin.directory} and in {rule.directory}",
                hint="name the one you want in a [[module]] table, with its directory",
            )

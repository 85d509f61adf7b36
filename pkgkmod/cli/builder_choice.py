"""--builder: who makes the packages in this run, in place of those that the project file names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from pkgkmod.cli.invocation import Invocation
    from pkgkmod.farms import Farm
    from pkgkmod.model.artifacts import PackageFormat
    from pkgkmod.model.project import Project
    from pkgkmod.plugins import Builder

_FORMATS: tuple[PackageFormat, ...] = ("rpm", "deb")
_MADE_BY: Mapping[str, PackageFormat] = {"build_rpm": "rpm", "build_deb": "deb"}
"""Stages that make one format only."""


def _complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the builders, and no farms, for the shell."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in _known() if name.startswith(incomplete)]


def complete_farms(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the farms for the shell."""
    from click.shell_completion import CompletionItem

    from pkgkmod.plugins import BUILDERS, registered

    farms = registered(BUILDERS).keys() - _known().keys()
    return [CompletionItem(name) for name in sorted(farms) if name.startswith(incomplete)]


_FACTS: Mapping[str, Any] = {
    "metavar": "NAME",
    "help": "Who makes the packages: local, mock (RPMs), sbuild (DEBs), or a plugin's builder.",
    "shell_complete": _complete,
}
BUILDER = click.option("--builder", **_FACTS)
"""The option of commands that make packages, as a decorator."""


def builder_parameter() -> click.Option:
    """Return the option for a command that is put together."""
    return click.Option(["--builder"], **_FACTS)


def with_builder(invocation: Invocation, stages: Sequence[str], given: Mapping[str, Any]) -> tuple[Invocation, str]:
    """Return the invocation with the builder that was asked for, and what is to be said of it; nothing if it fits all.

    Raise UsageError for a name that no builder has, a farm, and one that makes nothing that is meant.
    """
    from dataclasses import replace

    name: str | None = given.get("builder")
    if not name:
        return invocation, ""
    builder = _find(name)
    project = replace(invocation, dump_to=None).load().project
    wanted = _wanted(project, given.get("target", ()), stages)
    made = [format for format in _FORMATS if builder.format in (None, format)]
    if not any(format in made for format in wanted):
        raise _nothing_for(name, made[0], wanted)
    settings = {f"{format}.builder": name for format in made}
    return invocation.with_settings(settings), _others(name, made, wanted, project)


def _known() -> dict[str, Builder]:
    from pkgkmod.farms import Farm
    from pkgkmod.plugins import BUILDERS, load, registered

    return {name: found for name in registered(BUILDERS) if not isinstance(found := load(BUILDERS, name), Farm)}


def _find(name: str) -> Builder:
    """Load a builder; raise UsageError for a farm, and where there is none of that name."""
    from pkgkmod.farms import Farm
    from pkgkmod.plugins import BUILDERS, load, registered

    if name not in registered(BUILDERS):
        known = _known()
        hint = did_you_mean(name, registered(BUILDERS)) or f"known: {', '.join(known)}"
        raise UsageError(f"no builder is called '{name}'", hint=hint)
    builder: Builder | Farm = load(BUILDERS, name)
    if isinstance(builder, Farm):
        raise UsageError(
            f"'{name}' is a build farm, and takes source packages only",
            hint=f"`pkgkmod submit --builder {name} --fetch` has it build them",
        )
    return builder


def _wanted(project: Project, names: Sequence[str], stages: Sequence[str]) -> dict[PackageFormat, list[str]]:
    """Return the targets that are meant, by the format of the packages that the stages make of them."""
    from pkgkmod.data.distros import find_distro
    from pkgkmod.engine.resolve import chosen_targets

    only = _MADE_BY.get(stages[0]) if len(stages) == 1 else None
    found: dict[PackageFormat, list[str]] = {}
    for target in chosen_targets(project.target, names):
        format = find_distro(target.distro).format
        if only in (None, format):
            found.setdefault(format, []).append(target.id)
    return found


def _nothing_for(name: str, makes: PackageFormat, wanted: Mapping[PackageFormat, Sequence[str]]) -> UsageError:
    lacking = {format: [one for one, found in _known().items() if found.format in (None, format)] for format in wanted}
    hints = [
        f"the {format.upper()}s of {', '.join(wanted[format])}: --builder {' or '.join(names)}"
        for format, names in lacking.items()
    ]
    return UsageError(
        f"{name} makes {makes.upper()}s, and no target that is meant has these",
        hint="; ".join(hints) or "`pkgkmod distros` shows which distribution has which",
    )


def _others(
    name: str, made: Sequence[PackageFormat], wanted: Mapping[PackageFormat, Sequence[str]], project: Project
) -> str:
    """Say who makes the packages that the builder does not make."""
    chosen: Mapping[PackageFormat, str] = {"rpm": project.rpm.builder, "deb": project.deb.builder}
    rest = [
        f"the {format.upper()}s of {', '.join(targets)} are made by {chosen[format]}"
        for format, targets in wanted.items()
        if format not in made
    ]
    return f"{name} makes {made[0].upper()}s only; {' and '.join(rest)}, as the project says" if rest else ""

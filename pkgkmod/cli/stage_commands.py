"""A command for each stage, made of what the stage says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from pkgkmod.cli import ddiskit
from pkgkmod.cli.builder_choice import builder_parameter
from pkgkmod.cli.disk_command import build_iso, build_iso_parameters
from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options
from pkgkmod.plugins import STAGES, Option, Stage, load

RUN_OPTIONS = [
    click.Option(["--target"], multiple=True, metavar="NAME", help="Only this target; may be given several times."),
    click.Option(["--kernel"], multiple=True, metavar="RELEASE", help="Only this kernel or pattern."),
    click.Option(["-f", "--force"], is_flag=True, help="Run although nothing changed."),
    click.Option(["-n", "--dry-run"], is_flag=True, help="Show the plan only."),
]
_OF_PACKAGES = ("build_rpm", "build_deb", "sbom", "build_iso")
"""Stages that make packages, or have them made."""


def stage_command(name: str) -> click.Command:
    """Return the command of a stage; raise PluginError if the stage cannot be loaded."""
    stage: Stage[Any] = load(STAGES, name)
    if name == "prepare_sources":
        return _finished(stage, ddiskit.prepare_sources_options(), _prepare_sources)
    if name == "build_iso":
        return _finished(stage, build_iso_parameters(), build_iso)
    if name == "build_rpm":
        return _finished(stage, ddiskit.build_rpm_options(), _build_rpm)
    if name in ("generate_spec", "generate_debian"):
        return _finished(stage, ddiskit.generate_options(), _generate)
    return _finished(stage, [], _plain)


def _finished(stage: Stage[Any], extra: list[click.Parameter], run: Any) -> click.Command:
    @click.pass_context
    def callback(ctx: click.Context, /, **given: Any) -> None:
        invocation: Invocation = ctx.obj.with_options(given).with_settings(settings_of(stage, given))
        ctx.find_root().obj = ctx.obj = invocation
        run(stage, invocation, given)

    builder = [builder_parameter()] if stage.name in _OF_PACKAGES else []
    command = click.Command(
        stage.name,
        callback=command_options(callback),
        params=[*(_click_option(stage, option) for option in stage.options), *extra, *builder, *RUN_OPTIONS],
        help=stage.summary,
    )
    command.params += reversed(getattr(command.callback, "__click_params__", []))
    return command


def parameter_name(stage: Stage[Any], option: Option) -> str:
    """Return the name under which click hands an option's value over."""
    longest = max(option.flags, key=len).lstrip("-").replace("-", "_")
    return f"{stage.name}__{longest}"


def _click_option(stage: Stage[Any], option: Option) -> click.Option:
    words = [parameter_name(stage, option), *option.flags]
    if option.value is not None:
        return click.Option(words, is_flag=True, help=option.help)
    kind: Any = click.INT if option.number else click.Choice(list(option.choices)) if option.choices else click.STRING
    metavar = None if option.choices else option.metavar
    return click.Option(words, type=kind, multiple=option.multiple, metavar=metavar, help=option.help)


def settings_of(stage: Stage[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of the configuration that the options given set."""
    settings: dict[str, Any] = {}
    for option in stage.options:
        value = given.get(parameter_name(stage, option))
        if value in (None, False, ()):
            continue
        if option.value is not None:
            settings[option.sets] = option.value
        elif option.choices:
            settings[option.sets] = option.choices[value]
        elif option.multiple:
            words = [word for text in value for word in text.split()]
            settings[option.sets] = [*settings.get(option.sets, ()), *words]
        else:
            settings[option.sets] = value
    return settings


def _plain(stage: Stage[Any], invocation: Invocation, given: Mapping[str, Any]) -> None:
    from pkgkmod.cli.run_commands import run_stages

    run_stages(invocation, (stage.name,), given, force=(stage.name,) if given["force"] else ())


def _prepare_sources(stage: Stage[Any], invocation: Invocation, given: Mapping[str, Any]) -> None:
    if given["check"]:
        ddiskit.check_sources(invocation)
        return
    is_new = not invocation.config.exists()
    try:
        invocation, record = ddiskit.with_sources(invocation, given)
        _plain(stage, invocation, given)
    except BaseException:
        if is_new:
            invocation.config.unlink(missing_ok=True)
        raise
    if not given["dry_run"]:
        record()


def _generate(stage: Stage[Any], invocation: Invocation, given: Mapping[str, Any]) -> None:
    _plain(stage, invocation.with_settings(ddiskit.template_settings(given)), given)


def _build_rpm(stage: Stage[Any], invocation: Invocation, given: Mapping[str, Any]) -> None:
    from pkgkmod.cli.run_commands import run_stages

    force = (*((stage.name,) if given["force"] else ()), *(("generate_spec",) if given["generate"] else ()))
    run_stages(invocation, (stage.name,), given, force=force)

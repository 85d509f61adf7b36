"""The command line: the only place that prints results and exits.

Commands are loaded when they are used, so that `--help`, `--version` and completion stay quick.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from importlib import import_module
from typing import Any

import click

from pkgkmod import __version__
from pkgkmod.cli.options import common_options
from pkgkmod.errors import ExitCode, did_you_mean

# Name: where the command is, and what --help says of it without loading it.
COMMANDS = {
    "init": ("project_commands:init", "Write a commented project file."),
    "plan": ("run_commands:plan", "Show what would run, and why; touches nothing."),
    "build": ("run_commands:build", "Run every stage that is needed."),
    "status": ("info_commands:status", "Show what there is: results, their state and place."),
    "report": ("report_command:report", "Write a page about the finished work."),
    "config": ("project_commands:config", "Show the configuration, or its JSON Schema."),
    "dump_config": ("project_commands:dump_config", "Write the merged configuration as a project file."),
    "kconfig": (
        "info_commands:kconfig",
        "List the kernel options of the sources, and where each value is from.",
    ),
    "probe": ("probe_command:probe", "Show what each kernel answers to the project's questions."),
    "kernels": ("kernel_commands:kernels", "List, fetch and remove the kernels that can be built for."),
    "lock": ("kernel_commands:lock", "Pin commit, patches and kernels in pkgkmod.lock."),
    "rebuild": ("rebuild_command:rebuild", "Build again elsewhere, and compare every byte."),
    "predict": ("predict_command:predict", "Say which kernels will load modules, and why others refuse them."),
    "boot": ("boot_command:boot", "Load packaged modules in a real boot of each kernel, in QEMU."),
    "explain": ("explain_command:explain", "Say what a package needs and why, and whether a kernel has it."),
    "apidiff": ("apidiff_command:apidiff", "Show what a newer kernel changes for a driver, before building."),
    "update_kabi": ("kabi_command:update_kabi", "Put the symbols that modules use on a kernel tree's kABI list."),
    "submit": ("submit_command:submit", "Give source packages to a build farm, and fetch what it makes."),
    "publish": ("publish_command:publish", "Put finished packages into a repository for apt, dnf or zypper."),
    "iso": ("iso_command:iso", "Show and check driver disks, whoever made them."),
    "import": ("import_command:import_group", "Make a project file of another tool's project."),
    "export": ("export_command:export", "Write the project in the form of another tool: dkms."),
    "distros": ("info_commands:distros", "List the distributions that can be targets."),
    "completion": ("info_commands:completion", "Print the completion script for a shell."),
}
STAGE_SUMMARIES = {
    "prepare_sources": "Import the driver's sources from a git repository at a revision.",
    "build_modules": "Compile the modules, once for each kernel.",
    "generate_spec": "Write the spec file and source archive of each RPM target.",
    "generate_debian": "Write the debian folder and source archive of each DEB target.",
    "build_rpm": "Build source and binary RPMs.",
    "build_deb": "Build source and binary DEBs.",
    "build_source": "Build source packages only.",
    "sign": "Sign the modules in finished packages, and the packages.",
    "check": "Look into the modules of finished packages for what kernels would refuse.",
    "sbom": "Write a bill of materials (SBOM) of the packages.",
    "build_iso": "Make a driver disk of the packages.",
}
# Stages whose commands do more than run them.
_STAGE_COMMANDS = {"check": "check_command:check", "sign": "sign_command:sign"}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called; `-` and `_` are the same in names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, stages of third parties included."""
        from pkgkmod.cli.entrypoints import stage_names

        return [*COMMANDS, *STAGE_SUMMARIES, *(n for n in stage_names() if n not in STAGE_SUMMARIES)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command, or make one of a stage."""
        name = cmd_name.replace("-", "_")
        if place := COMMANDS[name][0] if name in COMMANDS else _STAGE_COMMANDS.get(name):
            module, _, attribute = place.partition(":")
            found: click.Command = getattr(import_module(f"pkgkmod.cli.{module}"), attribute)
            return found
        if name in STAGE_SUMMARIES or name in self.list_commands(ctx):
            from pkgkmod.cli.stage_commands import stage_command

            return stage_command(name)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; name the nearest one where there is none."""
        if args and self.get_command(ctx, args[0]) is None:
            hint = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"no command is called '{args[0]}'{'; ' + hint if hint else ''}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands and stages without loading them."""
        others = [name for name in self.list_commands(ctx) if name not in COMMANDS and name not in STAGE_SUMMARIES]
        stages = [*STAGE_SUMMARIES.items(), *((name, "A stage of a plugin.") for name in others)]
        with formatter.section("Stages, in order"):
            formatter.write_dl(stages)
        with formatter.section("Commands"):
            formatter.write_dl([(name, facts[1]) for name, facts in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `pkgkmod init`. Every command explains itself with --help.",
)
@click.version_option(__version__, "-V", "--version", prog_name="pkgkmod", message="%(prog)s %(version)s")
@common_options
@click.pass_context
def cli(ctx: click.Context, /, **given: Any) -> None:
    """Package Linux kernel modules: RPMs, DEBs and driver disks from one git hash."""
    from pkgkmod.cli.invocation import Invocation

    ctx.obj = Invocation().with_options(given)


_COLLECTED_AFTER = 50_000
"""Objects. After 700, as is Python's own choice, a tenth of the time of a start goes into looking for garbage."""


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit; every fault becomes a message and an exit code, never a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    gc.set_threshold(_COLLECTED_AFTER)
    sys.exit(_run(sys.argv[1:] if args is None else args))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _run(args: list[str]) -> int:
    try:
        cli.main(args=args, prog_name="pkgkmod", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("\ninterrupted; what was finished is kept, and the same command goes on from there", err=True)
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        from pkgkmod.cli.report import report_failure

        return report_failure(error, json_lines="--json" in args)
    return ExitCode.OK

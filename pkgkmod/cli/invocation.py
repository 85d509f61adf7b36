"""What the command line says before any stage is known: files, layers, and how to speak."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pkgkmod.config.load import Loaded
    from pkgkmod.progress import Progress

PROJECT_FILE = "pkgkmod.toml"


@dataclass(frozen=True)
class Invocation:
    """The common options, given before or behind the command."""

    config: Path = Path(PROJECT_FILE)
    overrides: tuple[str, ...] = ()
    profile: str | None = None
    profile_dir: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keys that options set: `build.sandbox` and the like."""
    verbosity: int = 0
    json_lines: bool = False
    quiet: bool = False
    dump_to: Path | None = None

    def with_options(self, given: Mapping[str, Any]) -> Invocation:
        """Return this invocation with the options of one command line level on top."""
        settings: dict[str, Any] = dict(self.settings)
        if (resources := given.get("resource_dir")) and not given.get("template_dir"):
            settings |= {"rpm.templates": f"{resources}/templates", "deb.templates": f"{resources}/templates"}
        if templates := given.get("template_dir"):
            settings |= {"rpm.templates": str(templates), "deb.templates": str(templates)}
        if given.get("quilt") is not None:
            settings["source.quilt"] = given["quilt"]
        if given.get("no_sandbox"):
            settings["build.sandbox"] = False
        profile_dir = given.get("profile_dir") or (resources / "profiles" if resources else None)
        dump_to = given.get("output") or (Path("-") if given.get("dump_config") else None)
        return replace(
            self,
            config=given.get("config") or self.config,
            overrides=(*self.overrides, *given.get("set_key", ())),
            profile=given.get("profile") or self.profile,
            profile_dir=profile_dir or self.profile_dir,
            settings=settings,
            verbosity=self.verbosity + given.get("verbose", 0),
            json_lines=self.json_lines or given.get("json_lines", False),
            quiet=self.quiet or given.get("quiet", False),
            dump_to=dump_to or self.dump_to,
        )

    def with_settings(self, settings: Mapping[str, Any]) -> Invocation:
        """Return this invocation with further keys set."""
        return replace(self, settings={**self.settings, **settings})

    def load(self) -> Loaded:
        """Load the project with all its layers; write it out where -d or -o ask for that."""
        from pkgkmod.config.load import load
        from pkgkmod.config.show import as_toml

        loaded = load(
            self.config,
            overrides=self.overrides,
            profile=self.profile,
            profile_dir=self.profile_dir,
            settings=self.settings,
        )
        if self.dump_to == Path("-"):
            click.echo(as_toml(loaded), err=True)
        elif self.dump_to:
            self.dump_to.write_text(as_toml(loaded), encoding="utf-8")
        return loaded

    def progress(self) -> Progress:
        """Return the speaker that was asked for."""
        from pkgkmod.progress import open_progress

        return open_progress(json_lines=self.json_lines, verbosity=self.verbosity, quiet=self.quiet)


_PATH = click.Path(path_type=Path)

# Given before the command, as ddiskit's global options.
_GLOBAL = [
    click.option(
        "-p", "--profile", metavar="NAME", help="Layer of settings between the user's and the project's."
    ),
    click.option("-P", "--profile-dir", type=_PATH, metavar="DIR", help="Folder of profiles (NAME.toml)."),
    click.option(
        "-T", "--template-dir", type=_PATH, metavar="DIR", help="Folder with templates of your own."
    ),
    click.option(
        "-R", "--resource-dir", type=_PATH, metavar="DIR", help="Folder with profiles/ and templates/."
    ),
    click.option(
        "-q/-Q", "--quilt/--no-quilt", default=None, help="Take patches by the series file (default), or all."
    ),
    click.option(
        "-d", "--dump-config", is_flag=True, help="Write the merged configuration to standard error."
    ),
    click.option(
        "-o", "--output", type=_PATH, metavar="FILE", help="Write the merged configuration to FILE."
    ),
]
# Given before or behind the command.
_COMMON = [
    click.option(
        "-c", "--config", type=_PATH, metavar="FILE", help=f"Project file (default: {PROJECT_FILE})."
    ),
    click.option(
        "-C", "--set", "set_key", multiple=True, metavar="KEY=VALUE", help="Set a key of the configuration."
    ),
    click.option("-v", "--verbose", count=True, help="Show every program that is run; -vv what it prints."),
    click.option("--quiet", is_flag=True, help="Show warnings, errors and results only."),
    click.option("--json", "json_lines", is_flag=True, help="Speak in JSON lines, for programs."),
    click.option(
        "--no-sandbox", is_flag=True, help="Compile without isolation: makefiles run with your rights."
    ),
]


def _decorate(options: list[Callable[[Any], Any]], function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        function = option(function)
    return function


def common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `pkgkmod` itself."""
    return _decorate([*_COMMON, *_GLOBAL], function)


def command_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every command that reads the project takes."""
    return _decorate(_COMMON, function)

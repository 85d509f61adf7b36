"""The options that every command takes; light, because --help needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

PROJECT_FILE = "pkgkmod.toml"

# Texts here; Invocation makes paths of them: pathlib takes 3 ms, and --help does without.
_PATH = click.Path()

# Given before the command, as ddiskit's global options.
_GLOBAL = [
    click.option("-p", "--profile", metavar="NAME", help="Layer of settings between the user's and the project's."),
    click.option("-P", "--profile-dir", type=_PATH, metavar="DIR", help="Folder of profiles (NAME.toml)."),
    click.option("-T", "--template-dir", type=_PATH, metavar="DIR", help="Folder with templates of your own."),
    click.option("-R", "--resource-dir", type=_PATH, metavar="DIR", help="Folder with profiles/ and templates/."),
    click.option(
        "-q/-Q", "--quilt/--no-quilt", default=None, help="Take patches by the series file (default), or all."
    ),
    click.option("-d", "--dump-config", is_flag=True, help="Write the merged configuration to standard error."),
    click.option("-o", "--output", type=_PATH, metavar="FILE", help="Write the merged configuration to FILE."),
]
# Given before or behind the command.
_COMMON = [
    click.option("-c", "--config", type=_PATH, metavar="FILE", help=f"Project file (default: {PROJECT_FILE})."),
    click.option("-C", "--set", "set_key", multiple=True, metavar="KEY=VALUE", help="Set a key of the configuration."),
    click.option("-v", "--verbose", count=True, help="Show every program that is run; -vv what it prints."),
    click.option("--quiet", is_flag=True, help="Show warnings, errors and results only."),
    click.option("--json", "json_lines", is_flag=True, help="Speak in JSON lines, for programs."),
    click.option("--offline", is_flag=True, help="Use no network: take what is here, or refuse."),
    click.option("--no-sandbox", is_flag=True, help="Compile without isolation: makefiles run with your rights."),
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


def with_options(options: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Return a decorator that adds options to a command, in the order in which --help shows them."""

    def add(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return add

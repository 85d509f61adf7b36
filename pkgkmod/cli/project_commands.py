"""init, config and dump_config: the project file."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import PROJECT_FILE, command_options
from pkgkmod.cli.report import print_table
from pkgkmod.errors import UsageError

Target = tuple[str, int | None]


def default_targets() -> list[Target]:
    """Return targets that make sense on this machine: its own release, and one of the other package format."""
    from pkgkmod.data import host_release, names
    from pkgkmod.data.distros import find_distro

    host = host_release()
    known = names("distros")
    chosen = [host] if host in known else ["el9"]
    other = "debian12" if find_distro(chosen[0]).format == "rpm" else "el9"
    return [(name, None) for name in sorted({*chosen, other}, reverse=True)]


def write_project_file(
    path: Path,
    *,
    name: str,
    targets: Sequence[Target],
    vendor: str | None = None,
    version: str = "1.0",
    **more: Any,
) -> None:
    """Write a new, commented project file; never over an existing one."""
    from pkgkmod.config.write import new_project_text

    text = new_project_text(name=name, vendor=vendor, version=version, targets=targets, **more)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} is there already", hint="edit it, or give another file with -c") from None


@click.command()
@click.option("--name", metavar="NAME", help="Name of the driver package.")
@click.option("--vendor", metavar="VENDOR", help="Vendor, as in kmod-VENDOR-NAME.")
@click.option("--version", metavar="VERSION", help="Version of the packages (default: 1.0).")
@click.option("--summary", metavar="TEXT", help="One line that says what the driver is.")
@click.option("--distro", multiple=True, metavar="NAME", help="Distribution to build for; may be given several times.")
@click.option("--kernel", multiple=True, metavar="RELEASE", help="Kernel to build for (default: the newest).")
@click.option(
    "-c", "--config", type=click.Path(path_type=Path), metavar="FILE", help=f"File to write ({PROJECT_FILE})."
)
@click.pass_context
def init(ctx: click.Context, /, config: Path | None, **given: Any) -> None:
    """Write a commented project file; asks for what is missing when on a terminal."""
    from pkgkmod.config.load import load
    from pkgkmod.data.distros import find_distro

    path = config or ctx.obj.config
    if path.exists():
        raise UsageError(f"{path} is there already", hint="edit it, or give another file with -c")
    targets = [(find_distro(name).id, None) for name in given["distro"]] or default_targets()
    if not given["name"]:
        if not sys.stdin.isatty():
            raise UsageError("a project needs a name", hint="pkgkmod init --name NAME [--vendor VENDOR]")
        given = _asked(given)
    write_project_file(
        path,
        name=given["name"],
        vendor=given["vendor"],
        version=given["version"] or "1.0",
        targets=targets,
        summary=given["summary"] or "",
        kernels=given["kernel"] or ("newest",),
        maintainer=_git_identity(),
    )
    try:
        load(path)
    except Exception:
        path.unlink()
        raise
    click.echo(f"wrote {path}: targets {', '.join(name for name, _ in targets)}")
    click.echo(f"next: pkgkmod prepare_sources -g REPOSITORY -r REVISION -d drivers/.../{given['name']}")


def _git_identity() -> str | None:
    """Return the user's name and mail address as git knows them, if it does."""
    from pkgkmod.programs import capture

    name, mail = (capture("git", "config", "--global", f"user.{key}", home=Path.home()) for key in ("name", "email"))
    return f"{name} <{mail}>" if name and mail else None


def _asked(given: dict[str, Any]) -> dict[str, Any]:
    name = click.prompt("Name of the driver package", default=Path.cwd().name.lower())
    vendor = given["vendor"] or click.prompt("Vendor (empty for none)", default="", show_default=False) or None
    version = given["version"] or click.prompt("Version", default="1.0")
    summary = given["summary"] or click.prompt("Summary", default="", show_default=False)
    return {**given, "name": name, "vendor": vendor, "version": version, "summary": summary}


@click.group()
def config() -> None:
    """Show the configuration, or its JSON Schema."""


@config.command()
@command_options
@click.pass_context
def show(ctx: click.Context, /, **given: Any) -> None:
    """Show every key with its value, and the layer, file and line that it is from."""
    from pkgkmod.config.show import show as rows_of
    from pkgkmod.progress import JsonLines

    invocation: Invocation = ctx.obj.with_options(given)
    rows = rows_of(invocation.load())
    if invocation.json_lines:
        for key, value, origin in rows:
            JsonLines().event("key", key=key, value=value, origin=origin)
    else:
        print_table(["KEY", "VALUE", "FROM"], rows)


@config.command()
def schema() -> None:
    """Print the JSON Schema of the project file, for editors."""
    from pkgkmod.config.show import schema as schema_of

    click.echo(json.dumps(schema_of(), indent=2))


@click.command("dump_config")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="File to write.")
@command_options
@click.pass_context
def dump_config(ctx: click.Context, /, output: Path | None, **given: Any) -> None:
    """Write the merged configuration as a project file."""
    from pkgkmod.config.show import as_toml

    text = as_toml(ctx.obj.with_options(given).load())
    if output:
        output.write_text(text, encoding="utf-8")
    else:
        click.echo(text, nl=False)

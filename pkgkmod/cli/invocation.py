"""What the command line says before any stage is known: files, layers, and how to speak."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.options import PROJECT_FILE
from pkgkmod.network import stay_offline

if TYPE_CHECKING:
    from pkgkmod.config.load import Loaded
    from pkgkmod.progress import Progress


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
        resources = given.get("resource_dir")
        if templates := given.get("template_dir") or (f"{resources}/templates" if resources else None):
            settings |= {"rpm.templates": os.path.abspath(templates), "deb.templates": os.path.abspath(templates)}
        if given.get("quilt") is not None:
            settings["source.quilt"] = given["quilt"]
        if given.get("no_sandbox"):
            settings["build.sandbox"] = False
        if given.get("offline"):
            stay_offline()
            settings["mock.offline"] = True
        profile_dir = given.get("profile_dir") or (f"{resources}/profiles" if resources else None)
        dump_to = given.get("output") or ("-" if given.get("dump_config") else None)
        return replace(
            self,
            config=Path(given.get("config") or self.config),
            overrides=(*self.overrides, *given.get("set_key", ())),
            profile=given.get("profile") or self.profile,
            profile_dir=Path(profile_dir) if profile_dir else self.profile_dir,
            settings=settings,
            verbosity=self.verbosity + given.get("verbose", 0),
            json_lines=self.json_lines or given.get("json_lines", False),
            quiet=self.quiet or given.get("quiet", False),
            dump_to=Path(dump_to) if dump_to else self.dump_to,
        )

    def with_settings(self, settings: Mapping[str, Any]) -> Invocation:
        """Return this invocation with further keys set."""
        return replace(self, settings={**self.settings, **settings})

    def load(self) -> Loaded:
        """Load the project with all its layers; write it out where -d or -o ask for that."""
        from pkgkmod.config.importers.ddiskitini import is_module_config
        from pkgkmod.config.load import load
        from pkgkmod.config.show import as_toml

        if is_module_config(self.config):
            from pkgkmod.cli.moduleconfig import load_module_config

            loaded = load_module_config(self)
        else:
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

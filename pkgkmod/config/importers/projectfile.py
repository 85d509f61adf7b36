"""Project files made of another tool's project: commented as those that `pkgkmod init` writes, and checked."""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import BaseModel, ValidationError

from pkgkmod.config.importers.report import Entry, comments
from pkgkmod.config.load import frozen, validate
from pkgkmod.config.mistakes import printable
from pkgkmod.config.write import new_project_text
from pkgkmod.errors import ConfigError, UsageError
from pkgkmod.model.project import Project, ProjectInfo, Target

_NEEDED: Mapping[str, Mapping[str, Any]] = {"project": {"name": "x"}, "target": {"distro": "el9"}}
"""What tables must have beside the key that is tried."""
# What `new_project_text` writes itself, and lines of it that others go in the place of.
_WRITTEN = ("name", "vendor", "version", "summary", "maintainer")
_RELEASE = 'release = "1"\n'
_DESCRIPTION = re.compile(r"^# description = .*\n", re.MULTILINE)


def refusal(table: str, key: str, value: object) -> str:
    """Return why the models do not take a value; empty if they do."""
    try:
        _model(table).model_validate({**_NEEDED.get(table, {}), key: frozen(value)}, strict=True)
    except ValidationError as error:
        why = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        # The report names the value already.
        return printable(re.sub(r" \(given: .*\)$", "", why, flags=re.DOTALL))
    return ""


def _model(table: str) -> type[BaseModel]:
    if table == "project":
        return ProjectInfo
    return Target if table == "target" else type(getattr(Project(project=ProjectInfo(name="x")), table))


def project_text(values: Mapping[str, Any], entries: Sequence[Entry], source: str) -> str:
    """Return a commented project file with `values`, and what was not carried over as comments at its end.

    `source` is the name of what was imported. Raise ConfigError, with all mistakes, if the values do not go together.
    """
    info = values["project"]
    targets = values.get("target", ())
    text = new_project_text(
        name=info["name"],
        targets=[(target["distro"], target.get("minor")) for target in targets],
        vendor=info.get("vendor"),
        version=info.get("version", "1.0"),
        summary=info.get("summary", ""),
        maintainer=info.get("maintainer"),
        kernels=targets[0]["kernels"] if targets else (),
    )
    info = {key: value for key, value in info.items() if key not in _WRITTEN}
    about = "".join(_line(key, info.pop(key)) for key in ("release", "epoch") if key in info)
    text = text.replace(_RELEASE, about or _RELEASE, 1)
    if "description" in info:
        described = _line("description", info.pop("description"))
        text = _DESCRIPTION.sub(lambda _: described, text, count=1)
    document = tomlkit.parse(text)
    for table, keys in {**values, "project": info}.items():
        if table != "target":
            section: Any = document.setdefault(table, tomlkit.table())
            for key, value in keys.items():
                section[key] = _item(value)
    made = tomlkit.dumps(document).rstrip("\n") + "\n" + comments(entries, source)
    validate(tomllib.loads(made), lambda key, missing: source, source)
    return made


def _line(key: str, value: Any) -> str:
    return f"{key} = {_item(value).as_string()}\n"


def _item(value: Any) -> Any:
    if isinstance(value, str) and "\n" in value:
        return tomlkit.string(value, multiline=True)
    return tomlkit.item(list(value) if isinstance(value, tuple) else value)


def check_absent(path: Path, *, force: bool) -> None:
    """Raise UsageError if there is a project file that must not be written over."""
    if path.exists() and not force:
        raise UsageError(f"{path} is there already", hint="--force writes over it; -n only shows what would be written")


def write_project(path: Path, text: str, *, force: bool) -> None:
    """Write a project file in one step; raise UsageError if there is one and `force` is not given."""
    check_absent(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    aside = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        aside.chmod(0o644)
        if force:
            aside.replace(path)
        else:
            # Unlike a rename, a link does not take the place of what somebody wrote in the meantime.
            os.link(aside, path)
    except FileExistsError:
        check_absent(path, force=force)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        aside.unlink(missing_ok=True)

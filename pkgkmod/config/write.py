"""Writing project files: a new, commented one, and the sources recorded in an existing one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.items import Table

from pkgkmod.config.layers import read_text
from pkgkmod.errors import ConfigError

_NEW = """\
# A driver's packages: see `pkgkmod config show` for every key and its value.

[project]
name = {name}
{vendor}
version = {version}
release = "1"
summary = {summary}
# description = "A paragraph or two about the driver."
license = "GPL-2.0-only"
# For changelogs.
{maintainer}

# Modules to build; without any such table, all that the Makefiles define.
# [[module]]
# name = "e1000e"

# Kernel options of these sources, without CONFIG_; `pkgkmod kconfig` lists what they ask about.
[kconfig]
# E1000E_HWTS = "y"
"""

# Last, so that what `record_source` appends stands below these comments.
_SOURCE = """
# Where the driver's sources are from; `pkgkmod prepare_sources -g REPO -r REV -d DIR` fills this in.
[source]
# repository = "../linux"               # a folder, or a URL
# revision = "v6.1"                     # a commit, tag or branch
# directories = ["drivers/net/..."]     # folders and files of the kernel tree
# patches = "patches"                   # applied in the order of patches/series, or by name
"""

_TARGET = """
[[target]]
distro = {distro}
{minor}# Releases as `uname -r` prints them, patterns with *, or "newest"; `pkgkmod kernels list` shows what there is.
kernels = {kernels}
"""


def new_project_text(
    *,
    name: str,
    targets: Sequence[tuple[str, int | None]],
    vendor: str | None = None,
    version: str = "1.0",
    summary: str = "",
    maintainer: str | None = None,
    kernels: Sequence[str] = ("newest",),
) -> str:
    """Return a commented project file; `targets` are distributions, each with a minor release or None."""
    text = _NEW.format(
        name=_toml(name),
        vendor=f"vendor = {_toml(vendor)}" if vendor else '# vendor = "acme"',
        version=_toml(version),
        summary=_toml(summary),
        maintainer=f"maintainer = {_toml(maintainer)}"
        if maintainer
        else '# maintainer = "Jane Doe <jane@example.org>"',
    )
    for distro, minor in targets:
        text += _TARGET.format(
            distro=_toml(distro),
            minor=f"minor = {minor}\n" if minor is not None else "",
            kernels=_toml(list(kernels)),
        )
    return text + _SOURCE


def _toml(value: Any) -> str:
    return tomlkit.item(value).as_string()


def record_source(
    path: Path,
    *,
    repository: str | None,
    revision: str,
    directories: Sequence[str],
    comment: str | None = None,
) -> list[str]:
    """Write the sources' place into the project file, keeping all else; return what was changed, in words.

    `comment` is the name by which the revision was given. The file is replaced in one step.
    """
    path = path.resolve()
    document = tomlkit.parse(read_text(path))
    table = document.setdefault("source", tomlkit.table())
    if not hasattr(table, "setdefault"):
        raise ConfigError(f"{path.name}: source: expected a table")
    said = []
    wanted: dict[str, Any] = {
        "repository": repository,
        "revision": revision,
        "directories": list(directories),
    }
    for key, value in wanted.items():
        if value in (None, []) or table.get(key) == value:
            continue
        before = table.get(key)
        table[key] = tomlkit.item(value)
        if key == "revision" and comment and isinstance(table, Table) and comment.isprintable():
            table[key].comment(comment)
        said.append(
            f"{path.name}: source.{key} = {_toml(value)}" + (f" (was {_toml(before)})" if before else "")
        )
    if said:
        _replace(path, tomlkit.dumps(document))
    return said


def _replace(path: Path, text: str) -> None:
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(aside).chmod(path.stat().st_mode)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise

"""Writing project files: a new, commented one, and the sources recorded in an existing one."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import tomllib
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable, Item

from pkgkmod.config.layers import read_text
from pkgkmod.config.mistakes import printable
from pkgkmod.errors import ConfigError, DiskFullError

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

_ARCHIVES = """
# Kernels besides those that are installed here; they are fetched when a target names them.
# [plugin.apt]
# archives = ["machine"]                # this machine's own; or lines as in sources.list
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
{minor}# Releases as `uname -r` prints them, patterns with *, "newest", "newest 3 per flavour", or "all";
# `pkgkmod kernels list` shows what there is.
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
    return text + _ARCHIVES + _SOURCE


def _toml(value: Any) -> str:
    return str(tomlkit.item(value).as_string())


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
    text = read_text(path)
    try:
        document = tomlkit.parse(text)
    except TOMLKitError as error:
        raise ConfigError(f"{path.name}: not TOML: {printable(str(error))}") from None
    table = document.setdefault("source", tomlkit.table())
    if not isinstance(table, MutableMapping):
        raise ConfigError(f"{path.name}: source: expected a table")
    found: dict[str, Any] = {"repository": repository, "revision": revision, "directories": list(directories)}
    wanted = {key: value for key, value in found.items() if value not in (None, [])}
    before = {key: tomlkit.item(table[key]).unwrap() for key in wanted if key in table}
    changed = {key: value for key, value in wanted.items() if before.get(key) != value}
    for key, value in changed.items():
        table[key] = tomlkit.item(value)
    if "revision" in changed and not isinstance(table, InlineTable):  # where there is no room for comments
        _comment(table["revision"], comment)
    if changed:
        made = tomlkit.dumps(document)
        if "\r\n" in text:
            made = made.replace("\r\n", "\n").replace("\n", "\r\n")
        _replace(path, _checked(made, tomllib.loads(text), changed, path))
    return [
        f"{path.name}: source.{key} = {_toml(value)}" + (f" (was {_toml(before[key])})" if before.get(key) else "")
        for key, value in changed.items()
    ]


def _comment(item: Item, comment: str | None) -> None:
    """Put a comment behind a value, in the place of the one that may be there."""
    item.trivia.comment_ws = " " if comment else ""
    item.trivia.comment = f"# {printable(comment)}" if comment else ""


def _checked(text: str, before: dict[str, Any], changed: Mapping[str, Any], path: Path) -> str:
    """Return the new text if it says what it should: a file may be laid out in a way that cannot be edited."""
    wanted = {**before, "source": {**before.get("source", {}), **changed}}
    try:
        if tomllib.loads(text) == wanted:
            return text
    except tomllib.TOMLDecodeError:
        pass
    raise ConfigError(
        f"{printable(path.name)}: its table [source] cannot be edited",
        details="\n".join(f"{key} = {_toml(value)}" for key, value in changed.items()),
        hint="write these lines into its table [source] by hand",
    )


def _replace(path: Path, text: str) -> None:
    """Put `text` in the place of the file in one step, keeping mode and owner; raise DiskFullError, ConfigError."""
    facts = path.stat()
    aside = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        aside = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        aside.chmod(stat.S_IMODE(facts.st_mode))
        if os.geteuid() == 0:
            os.chown(aside, facts.st_uid, facts.st_gid)
        aside.replace(path)
    except OSError as error:
        if aside:
            aside.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise DiskFullError(
                f"no space left to write {path}", hint="free some space, then run the same again"
            ) from None
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    except BaseException:
        if aside:
            aside.unlink(missing_ok=True)
        raise

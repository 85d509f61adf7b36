"""Facts as data: distributions, compilers, and which package brings which program."""

from __future__ import annotations

import functools
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any


def load(name: str) -> dict[str, Any]:
    """Return the content of a data file, such as `tools.toml`."""
    return tomllib.loads(files(__name__).joinpath(name).read_text(encoding="utf-8"))


def names(folder: str) -> tuple[str, ...]:
    """Return the names, without `.toml`, of the data files in `folder`."""
    found = files(__name__).joinpath(folder).iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in found if f.name.endswith(".toml")))


@functools.cache
def _os_release() -> dict[str, str]:
    """Return what this machine says about its distribution (os-release(5))."""
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {key: value.strip("\"'") for key, _, value in (line.partition("=") for line in lines)}


def host_release() -> str:
    """Return this machine's release as data files are called: `debian12`, `el9`, `fedora42`."""
    facts = _os_release()
    family = "el" if "rhel" in f"{facts.get('ID')} {facts.get('ID_LIKE')}".split() else facts.get("ID", "")
    return f"{family}{facts.get('VERSION_ID', '').partition('.')[0]}"


def _families() -> tuple[str, ...]:
    """Return the ids of this machine's distribution, the nearest first."""
    return tuple(f"{_os_release().get('ID', '')} {_os_release().get('ID_LIKE', '')}".split())


def package_of_tool(name: str) -> str:
    """Return how to install program `name` on this machine, as a sentence; empty if that is not known."""
    facts = load("tools.toml")
    packages = facts["packages"].get(Path(name).name, {})
    for family in _families():
        if (installer := facts["install"].get(family)) and family in packages:
            return f"{installer} {packages[family]}"
    return "; ".join(f"{family}: package {package}" for family, package in packages.items())

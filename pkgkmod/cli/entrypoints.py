"""Names of the stages that are installed, for --help and completion."""

from __future__ import annotations

import os
import sys


def stage_names() -> tuple[str, ...]:
    """Return the names of all stages that installed packages bring, without loading any.

    importlib.metadata would need 15 ms for this, a third of the time that --help takes. It is asked when
    a stage is loaded (plugins.py); here the files that it reads are looked at.
    """
    names: set[str] = set()
    for folder in sys.path:
        try:
            with os.scandir(folder or ".") as entries:
                packages = [entry.path for entry in entries if entry.name.endswith((".dist-info", ".egg-info"))]
        except OSError:
            continue
        for package in packages:
            names.update(_stages_of(f"{package}/entry_points.txt"))
    return tuple(sorted(names))


def _stages_of(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 (a hundred files: half the time of Path.open)
            _, found, rest = file.read().partition("[pkgkmod.stages]\n")
    except (OSError, UnicodeDecodeError):
        return []
    lines = rest.partition("\n[")[0].splitlines() if found else []
    return [line.partition("=")[0].strip() for line in lines if "=" in line]

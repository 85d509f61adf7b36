"""Names of the stages that are installed, for --help and completion."""

from __future__ import annotations

from importlib.metadata import entry_points


def stage_names() -> tuple[str, ...]:
    """Return the names of all stages, without loading any."""
    return tuple(sorted({point.name for point in entry_points(group="pkgkmod.stages")}))

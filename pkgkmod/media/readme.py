"""What to tell the installers: the text that is printed, and that lies on the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pkgkmod.model.disk import DiskRelease
from pkgkmod.plugins import Layout

README = "README.txt"


def readme(name: str, layouts: Mapping[Layout, Sequence[DiskRelease]], files: Mapping[str, Sequence[str]]) -> str:
    """Return the text: what the disk is, then a part for each installer; `files` are the images by carrier."""
    parts = [f"Driver disk {name}\n{'=' * (12 + len(name))}"]
    for layout, releases in sorted(layouts.items(), key=lambda item: item[0].name):
        heading = f"{layout.title}: {', '.join(release.distro.title for release in releases)}"
        parts.append(f"{heading}\n{'-' * min(len(heading), 78)}\n\n{layout.instructions(releases, files).strip()}")
    return "\n\n".join(parts) + "\n"

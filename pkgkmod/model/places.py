"""Where a builder finds what it builds, and where it puts packages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """The folders of one package build, made ready by the builder's `lay_out`."""

    folder: Path
    """Folder to build in: rpmbuild's `_topdir`, or the one that holds the unpacked Debian source."""
    arch: str
    """Machine to build for, as `uname -m` prints it."""
    kernel_trees: Mapping[str, Path] = field(default_factory=dict)
    """Build trees by kernel release; those that the distribution installs where one is absent."""
    prebuilt: Path | None = None
    """Folder with finished modules in UNAME_R/; None compiles them in the package build."""
    source_only: bool = False
    jobs: int = 1
    suite: str = ""
    """Codename of the distribution's release (DEB)."""

"""The headers that other drivers need to build on this one: which, and their places in the devel package."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pkgkmod.errors import ConfigError
from pkgkmod.model.packaging import Devel
from pkgkmod.packages.firmware import chosen, unused_pattern
from pkgkmod.sources.unpack import walk_files

LIST = "pkgkmod-headers"
"""File of the source archive: a line for each header, with its path, a tab, and its place."""


def find_headers(tree: Path, directories: Iterable[str], settings: Devel) -> dict[str, str]:
    """Return the headers of the imported `tree` for the devel package, and the place of each below include/.

    Without patterns these are the headers in folders called include, or else those in the modules' `directories`.
    A header in an include folder keeps its path below it, as `#include <...>` names it; others their whole path. Raise
    ConfigError if two would get the same place, or if a pattern matches none.
    """
    if not settings.enabled:
        return {}
    found = list(walk_files(tree))
    if settings.headers:
        unused_pattern("devel", settings.headers, found)
        headers = [path for path in found if chosen(path, settings.headers)]
    else:
        headers = [path for path in found if path.endswith(".h")]
        public = [path for path in headers if "include" in path.split("/")[:-1]]
        headers = public or [path for path in headers if chosen(path, directories)]
    places: dict[str, str] = {}
    for path in headers:
        if (other := places.setdefault(_place(path), path)) != path:
            raise ConfigError(
                f"two headers would have the place include/{_place(path)} in the devel package",
                details=f"{other}\n{path}",
                hint="say which with `headers = [...]` in [devel]",
            )
    return {path: place for place, path in places.items()}


def header_list(headers: dict[str, str]) -> str:
    """Return the text of the list that the makefile reads."""
    return "".join(f"{path}\t{place}\n" for path, place in headers.items())


def _place(path: str) -> str:
    folders = path.split("/")[:-1]
    return path.split("/", folders.index("include") + 1)[-1] if "include" in folders else path

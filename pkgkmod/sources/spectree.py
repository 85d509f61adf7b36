"""The sources of a spec: its archive as a tree, and its patches for that tree."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pkgkmod.config.importers.spec import SpecProject
from pkgkmod.config.importers.specpatches import move_patch
from pkgkmod.config.importers.specscripts import Applied
from pkgkmod.config.importers.spectext import Line
from pkgkmod.errors import InputError, PatchError
from pkgkmod.formats.tarball import unpack_tarball
from pkgkmod.progress import Progress
from pkgkmod.sources.foldertree import FolderTree, read_folders
from pkgkmod.sources.patches import Patch, apply_patches
from pkgkmod.sources.specfile import SpecFiles

_ARCHIVE = re.compile(r"\.(?:tar(?:\.(?:gz|bz2|xz|lzma))?|tgz|tbz2?|txz)$", re.IGNORECASE)
_LARGEST_PATCH = 1 << 25
_PACKERS: Mapping[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# What packages have or make themselves.
_NEEDLESS = re.compile(r"(?:GPL|COPYING|LICEN[CS]E)|kmodtool|preamble$|\.(?:txt|md|list|conf)$", re.IGNORECASE)


@dataclass
class SpecTree:
    """The sources of a spec."""

    folder: Path
    """Where they lie, below a folder of the project's name, patched as far as the patches apply."""
    tree: FolderTree
    """The same before the patches."""
    patches: dict[str, bytes] = field(default_factory=dict)
    """Patches by name, in order, with paths that begin above the folder."""


def read_sources(files: SpecFiles, project: SpecProject, scratch: Path, progress: Progress) -> SpecTree:
    """Unpack a spec's archive below `scratch`, and read its patches; raise InputError if there is no archive.

    What cannot be had goes into the project's report.
    """
    name = project.values["project"]["name"]
    archive = _archive(files, project)
    unpacked = scratch / "unpacked"
    unpacked.mkdir()
    with progress.step(f"Unpacking {archive.name}"):
        done = unpack_tarball(archive, unpacked)
    for what in done.left_out:
        project.note(archive.name, what.partition(":")[0], "left out", what.partition(":")[2].strip())
    top = _top(unpacked, project)
    place = scratch / "tree"
    place.mkdir()
    top.rename(place / name)
    made = SpecTree(place, read_folders({name: place / name}))
    for path, why in made.tree.left_out.items():
        project.note(path, "", "left out", why)
    _read_patches(files, project, made)
    _try_patches(project, made, progress)
    return made


def _archive(files: SpecFiles, project: SpecProject) -> Path:
    """Return the archive with the sources, and say what becomes of the other sources."""
    chosen: Path | None = None
    missing = ""
    for number, (value, line) in sorted(project.sources.items()):
        path = files.find(value)
        name = value.rpartition("/")[2]
        if chosen is None and _ARCHIVE.search(name):
            if path is None:
                missing = missing or name
                continue
            chosen = path
            project.note(f"Source{number}", value, "carried", "the repository sources/", line.number)
        elif _NEEDLESS.search(name):
            project.note(f"Source{number}", value, "left out", "packages have their own", line.number)
        else:
            project.note(f"Source{number}", value, "decide", "left out: one archive becomes the sources", line.number)
    if chosen is None:
        raise InputError(
            f"the sources of the spec are not here: {missing}" if missing else "the spec names no archive of sources",
            details=f"looked in {', '.join(str(folder) for folder in files.folders)}" if missing else "",
            hint="put the archive beside the spec, as `spectool -g` does, or give the source RPM"
            if missing
            else "Source0 must be a tar archive: .tar.gz, .tar.bz2 or .tar.xz",
        )
    for more in project.prepared.more_archives:
        project.note("%setup", more.text, "decide", "only the first archive is imported", more.number)
    return chosen


def _top(unpacked: Path, project: SpecProject) -> Path:
    """Return the folder that the scripts begin in."""
    info = project.values["project"]
    wanted = project.prepared.name or f"{info['name']}-{info.get('version', '')}"
    inside = sorted(unpacked.iterdir())
    found = unpacked / wanted
    if not project.prepared.created and inside and found in inside and found.is_dir() and not found.is_symlink():
        return found
    if len(inside) == 1 and inside[0].is_dir() and not inside[0].is_symlink():
        if not project.prepared.created and project.prepared.name:
            project.note("%setup", wanted, "changed", f"the archive has one folder, which is called {inside[0].name}")
        return inside[0]
    return unpacked


def _read_patches(files: SpecFiles, project: SpecProject, made: SpecTree) -> None:
    known = set(made.tree.files)
    used: set[int] = set()
    for applied in _in_order(project):
        number = applied.number if applied.number is not None else _number_of(applied.file, project)
        value, line = project.patches.get(number if number is not None else -1, (applied.file, applied.line))
        used.add(number if number is not None else -1)
        key = "Patch" if number is None else f"Patch{number}"
        path = files.find(value)
        if path is None or applied.reverse:
            why = "it is applied in reverse" if applied.reverse else "the file is not here"
            project.note(key, value, "decide", f"left out: {why}", line.number)
            continue
        content = _content(path)
        name = re.sub(r"[^A-Za-z0-9._+-]", "_", re.sub(r"\.(?:gz|bz2|xz)$", "", path.name)).lstrip("-.")
        top = project.values["project"]["name"]
        moved = move_patch(content, known, strip=applied.strip, folder=applied.folder, top=top)
        made.patches[name] = moved.content if moved else content
        if moved:
            known = (known | moved.created) - moved.removed
            project.note(key, value, "carried", f"patches/{name}", line.number)
        else:
            text = f"patches/{name}: what it changes is not among the sources"
            project.note(key, value, "decide", text, line.number)
    for number, (value, line) in sorted(project.patches.items()):
        if number not in used:
            project.note(f"Patch{number}", value, "left out", "%prep does not apply it", line.number)


def _in_order(project: SpecProject) -> list[Applied]:
    every = project.prepared.every_patch
    numbers = sorted(project.patches) if every else []
    strip, folder, line = (every.strip, every.folder, every.line) if every else (None, "", Line(0, ""))
    return [*(Applied(n, "", strip, folder, False, line) for n in numbers), *project.prepared.patches]


def _number_of(file: str, project: SpecProject) -> int | None:
    return next((n for n, (value, _) in project.patches.items() if value.rpartition("/")[2] == file), None)


def _content(path: Path) -> bytes:
    """Return a patch's content; raise InputError if it is too large, or cannot be unpacked."""
    try:
        with _PACKERS.get(path.suffix, open)(path, "rb") as file:
            content: bytes = file.read(_LARGEST_PATCH + 1)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise InputError(f"the patch {path.name} cannot be read", details=str(error)) from None
    if len(content) > _LARGEST_PATCH:
        raise InputError(f"the patch {path.name} is larger than a patch is")
    return content


def _try_patches(project: SpecProject, made: SpecTree, progress: Progress) -> None:
    """Apply the patches one by one; the report says which do not."""
    for name, content in made.patches.items():
        try:
            apply_patches(made.folder, [Patch(name, content)], progress)
        except PatchError as error:
            text = "it is among the patches, and must be made anew before anything is built"
            project.note(f"patches/{name}", "", "decide", f"{error.brief}; {text}")


def series_of(patches: Mapping[str, bytes]) -> bytes:
    """Return the file that says in which order patches are applied."""
    return "".join(f"{name}\n" for name in patches).encode()

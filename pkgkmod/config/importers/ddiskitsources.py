"""The sources of a ddiskit project: `src/`, a piece of a kernel tree that people edit, with patches and firmware."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pkgkmod.config.importers.report import Entry
from pkgkmod.errors import SourceError

SOURCES = "src"
PATCHES = "patches"
FIRMWARE = "firmware"
_QUILT = ".pc"
_MOST = 50_000  # files; drivers have some hundred
_LARGEST = 256 * 1024 * 1024  # bytes of all files; drivers have some million
_MAKEFILES = ("Kbuild", "Makefile")


@dataclass(frozen=True)
class SourceFile:
    """A file as git would keep it."""

    mode: str
    """100644, 100755, or 120000 for a symbolic link, whose content is its target."""
    content: bytes


@dataclass(frozen=True)
class SourceFolder:
    """What `src/` holds, with patches that quilt had applied taken back."""

    files: Mapping[str, SourceFile]
    """By path in the kernel tree."""
    directories: tuple[str, ...] = ()
    """Folders and single files that hold all of them, the one that is built first."""
    newest: int = 0
    """When a file was changed last, in seconds since 1970."""
    entries: tuple[Entry, ...] = ()
    """What of the folder is not taken over as it is."""


def read_sources(folder: Path, build_dir: str) -> SourceFolder:
    """Read `src/` of the project in `folder`; nothing is followed that leads out of it.

    `build_dir` is the folder whose makefile ddiskit calls. Raise SourceError if there is too much of it, or its folders
    are links to others.
    """
    top = folder / SOURCES
    for place in (top, *(top / name for name in (PATCHES, FIRMWARE, _QUILT))):
        if place.is_symlink():
            # Of a project from anywhere, what lies elsewhere on this machine must not get into packages.
            raise SourceError(f"{place} is a symbolic link", hint="put the files themselves there")
    if not top.is_dir():
        missing = Entry(f"{SOURCES}/", "", "decide", "there is none: name a repository in [source]")
        return SourceFolder({}, entries=(missing,))
    entries: list[Entry] = []
    files: dict[str, SourceFile] = {}
    newest = size = 0
    for path, facts in _walk(top, entries):
        if path in _above(build_dir):
            what = f"ddiskit does not read it either: it builds in {build_dir}"
            entries.append(Entry(f"{SOURCES}/{path}", "", "left out", what))
            continue
        size += facts.st_size
        if len(files) >= _MOST or size > _LARGEST:
            raise SourceError(
                f"{top} is too large for the sources of a driver",
                hint=f"name the kernel repository with -g, or leave in {SOURCES}/ what the driver needs",
            )
        files[path] = _read(top / path, facts)
        newest = max(newest, int(facts.st_mtime))
    for path, original in _before_quilt(top, entries):
        if original is None:
            files.pop(path, None)
        else:
            files[path] = original
    entries += _unused_patches(top / PATCHES)
    entries += _other_makefiles(files, build_dir)
    return SourceFolder(files, _directories(files, build_dir), newest, tuple(entries))


def firmware_files(folder: Path) -> list[str]:
    """Return the firmware of the project in `folder`, by path."""
    top = folder / SOURCES / FIRMWARE
    return sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()) if top.is_dir() else []


def _walk(top: Path, entries: list[Entry]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files that ddiskit would pack, by name; say what is none."""
    for place, folders, names in os.walk(top):
        prefix = os.path.relpath(place, top)
        inside = "" if prefix == "." else f"{prefix}/"
        links = [name for name in folders if Path(place, name).is_symlink()]
        apart = {PATCHES, FIRMWARE, _QUILT} if not inside else {_QUILT}
        if ".git" in [*folders, *names]:
            entries.append(Entry(f"{SOURCES}/{inside}.git", "", "left out", "a repository cannot hold another one"))
        folders[:] = sorted(name for name in folders if name not in apart | {".git", *links})
        for name in sorted([*names, *links]):
            path = f"{inside}{name}"
            facts = Path(place, name).lstat()
            if name == ".git" or (not inside and name in apart):
                continue
            if not inside and name.endswith(".rpm"):
                entries.append(Entry(f"{SOURCES}/{path}", "", "left out", "a package is no source; ddiskit skips it"))
            elif stat.S_ISREG(facts.st_mode) or stat.S_ISLNK(facts.st_mode):
                yield path, facts
            else:
                entries.append(Entry(f"{SOURCES}/{path}", "", "left out", "it is no file"))


def _read(path: Path, facts: os.stat_result) -> SourceFile:
    if stat.S_ISLNK(facts.st_mode):
        return SourceFile("120000", os.fsencode(path.readlink()))
    return SourceFile("100755" if facts.st_mode & 0o100 else "100644", path.read_bytes())


def _above(build_dir: str) -> set[str]:
    """Return the makefiles in the folders above the one that is built."""
    return {str(parent / name) for parent in PurePosixPath(build_dir).parents for name in _MAKEFILES}


def _before_quilt(top: Path, entries: list[Entry]) -> Iterator[tuple[str, SourceFile | None]]:
    """Yield the files as they were before quilt applied patches; None for one that a patch made.

    quilt keeps, for each patch that is applied, the files as they were before it (quilt(1), .pc); an empty one stands
    for a file that was not there. ddiskit takes the patches back in the same way.
    """
    listed = top / _QUILT / "applied-patches"
    names = listed.read_text("utf-8", "replace").splitlines() if listed.is_file() else []
    for name in reversed(names):
        kept = top / _QUILT / name
        if not name.isprintable() or not kept.is_dir() or not kept.resolve().is_relative_to((top / _QUILT).resolve()):
            raise SourceError(f"{SOURCES}/{_QUILT} is damaged: no patch '{name[:100]!r}'", hint="run `quilt pop -af`")
        for file in sorted(kept.rglob("*")):
            facts = file.lstat()
            if stat.S_ISREG(facts.st_mode) and file.name != ".timestamp":
                yield str(file.relative_to(kept)), _read(file, facts) if facts.st_size else None
    if names:
        what = "quilt has applied patches: the sources are taken as they were before, and patched again"
        entries.append(Entry(f"{SOURCES}/{_QUILT}", ", ".join(names), "carried", what))


def _unused_patches(folder: Path) -> Iterator[Entry]:
    """Yield the patches that ddiskit applied and pkgkmod does not: ddiskit took every file of the folder, by name."""
    if not folder.is_dir():
        return
    names = sorted(path.name for path in folder.iterdir() if path.name != "series" and not path.name.startswith("."))
    series = folder / "series"
    if series.is_file():
        listed = [line.split()[0] for line in series.read_text("utf-8", "replace").splitlines() if line.split()]
        used, why = set(listed), "the series file does not list it"
        in_order = [name for name in listed if name in names]
        if in_order != sorted(in_order):
            what = "patches are applied in the order of the series file; ddiskit went by their names"
            yield Entry(f"{SOURCES}/{PATCHES}/series", "", "changed", what)
    else:
        used, why = {name for name in names if name.endswith(".patch")}, "its name does not end in .patch"
    for name in names:
        if name not in used:
            yield Entry(f"{SOURCES}/{PATCHES}/{name}", "", "decide", f"not applied, since {why}; ddiskit applied it")


def _other_makefiles(files: Mapping[str, SourceFile], build_dir: str) -> Iterator[Entry]:
    folders = sorted({str(PurePosixPath(path).parent) for path in files if PurePosixPath(path).name in _MAKEFILES})
    for folder in folders:
        if folder != build_dir and not folder.startswith(f"{build_dir}/") and build_dir not in ("", "."):
            what = f"ddiskit builds {build_dir} only; modules of this folder are built, too: name those you want in "
            yield Entry(f"{SOURCES}/{folder}", "", "decide", f"{what}[[module]]")


def _directories(files: Mapping[str, SourceFile], build_dir: str) -> tuple[str, ...]:
    """Return the fewest paths that hold all files, of which none lies around the folder that is built."""
    around = {str(parent) for parent in PurePosixPath(build_dir).parents} if build_dir else {"."}
    found: dict[str, None] = {}
    if any(path.startswith(f"{build_dir}/") for path in files) or (build_dir == "." and files):
        found[build_dir] = None
    for path in sorted(files):
        if build_dir != "." and not path.startswith(f"{build_dir}/"):
            parents = [path, *(str(parent) for parent in PurePosixPath(path).parents)]
            found[next(one for one in reversed(parents) if one not in around)] = None
    return tuple(found)

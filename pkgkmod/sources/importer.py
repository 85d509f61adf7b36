"""Importing: chosen folders of one commit become a source tree, patched and with its provenance."""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pkgkmod.errors import DiskFullError, PatchError, SourceError, near
from pkgkmod.model.artifacts import AppliedPatch, ImportedPath, Provenance, SourceTree
from pkgkmod.model.project import Source
from pkgkmod.progress import Progress
from pkgkmod.sources.manifest import FileState, Manifest, state_on_disk, states
from pkgkmod.sources.objects import Entry
from pkgkmod.sources.patches import (
    KERNEL_PATCHES,
    PATCHES,
    Patch,
    apply_patches,
    read_all_patches,
    unlisted_patches,
    write_kernel_patches,
    write_patches,
)
from pkgkmod.sources.reach import Include, Reach, is_source, outside_reaches, read_includes
from pkgkmod.sources.repository import Repository, open_repository, origin_of
from pkgkmod.sources.unpack import LINK, escaping_links, refuse_unsafe, write_files

_SHOWN = 10  # lines of a list in a message
_ROUNDS = 50  # of following includes: each imports at least one file


def selection_key(source: Source, *, commit: str, base: Path) -> dict[str, object]:
    """Return, as JSON-able content, all that decides what an import of `commit` gives; no repository is
    read."""
    patches = read_all_patches([base / folder for folder in source.patch_folders], quilt=source.quilt)
    return {
        "commit": commit,
        "directories": list(_outermost(source.directories)),
        "follow_includes": source.follow_includes,
        "patches": [[patch.name, patch.strip, patch.sha256] for patch in patches],
    }


def import_sources(source: Source, *, base: Path, cache: Path, destination: Path, progress: Progress) -> SourceTree:
    """Import and patch what `source` names into the folder `destination`, and return what it is.

    Files lie in `tree/` with their paths of the kernel tree, the applied patches in `patches/`, and
    `provenance.json` and `manifest.json` tell where everything is from. `base` is the project's folder,
    `cache` keeps what was fetched. Raise SourceError or PatchError; then `destination` is not to be used.
    """
    origin = origin_of(source, base)
    if not source.directories:
        raise SourceError(
            "the project does not say which folders of the kernel to import",
            hint="`pkgkmod prepare_sources -d drivers/...` writes it down",
        )
    listed = read_all_patches([base / folder for folder in source.patch_folders], quilt=source.quilt)
    patches = [patch for patch in listed if not patch.kernels]
    for folder in source.patch_folders:
        for name in unlisted_patches(base / folder, quilt=source.quilt):
            progress.warning(f"patch {name} is in {folder}/ but not in its series file: it is not applied")
    try:
        with (
            open_repository(origin, cache=cache, progress=progress, low_bandwidth=source.low_bandwidth) as repository,
            ThreadPoolExecutor(1) as beside,
        ):
            commit = repository.resolve(source.revision or "HEAD")
            described = beside.submit(repository.describe, commit)
            selection = _Selection(repository, commit, destination / "tree", shown=origin.shown)
            with progress.step(f"Importing {', '.join(source.directories)} at {commit[:12]}"):
                selection.add_chosen(source.directories)
                _look_outside(selection, progress, follow=source.follow_includes, announce=not patches)
            if patches:
                with progress.step(f"Applying {len(patches)} {'patch' if len(patches) == 1 else 'patches'}"):
                    selection.patch(patches, progress)
                _look_outside(selection, progress, follow=source.follow_includes, announce=True)
            facts = selection.facts
            provenance = Provenance(
                repository=origin.shown,
                commit=commit,
                author_date=facts.author_date,
                commit_epoch=facts.epoch,
                describe=described.result(),
                subject=facts.subject,
                directories=tuple(selection.imported),
                patches=tuple(AppliedPatch(name=p.name, sha256=p.sha256, kernels=p.kernels) for p in listed),
            )
        _save(selection, listed, provenance, destination)
    except OSError as fault:
        if fault.errno == errno.ENOSPC:
            raise DiskFullError(f"no space left on the disk for the sources in {destination}") from None
        raise
    return SourceTree(provenance=provenance)


def _save(selection: _Selection, patches: Sequence[Patch], provenance: Provenance, destination: Path) -> None:
    write_patches(destination / PATCHES, [patch for patch in patches if not patch.kernels])
    write_kernel_patches(destination / KERNEL_PATCHES, [patch for patch in patches if patch.kernels])
    Manifest(states(selection.files.values()), selection.patched).save(destination)
    text = provenance.model_dump_json(indent=1) + "\n"
    (destination / "provenance.json").write_text(text, encoding="utf-8")


def _outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """Return `paths` sorted, without those that lie in another one of them."""
    chosen: list[str] = []
    for path in sorted(dict.fromkeys(paths), key=lambda p: (p != ".", p.split("/"))):
        if not chosen or not (chosen[-1] == "." or path.startswith(chosen[-1] + "/")):
            chosen.append(path)
    return tuple(chosen)


class _Selection:
    """What has been imported so far, of one commit, into the folder `tree`."""

    def __init__(self, repository: Repository, commit: str, tree: Path, *, shown: str) -> None:
        self.repository = repository
        self.commit = commit
        self.tree = tree
        self.shown = shown
        self.imported: list[ImportedPath] = []
        self.files: dict[str, Entry] = {}
        self.includes: dict[str, tuple[Include, ...]] = {}
        self.patched: dict[str, FileState | None] = {}
        tree.mkdir(parents=True)

    def add_chosen(self, paths: Sequence[str]) -> None:
        """Import what the project names; raise SourceError if a path is not in the commit."""
        found = self.repository.select(self.commit, paths)
        self.facts = self.repository.objects.commit(self.commit)
        self._epoch = self.facts.epoch
        for path in paths:
            if path not in found:
                raise self._no_such_path(path)
        self._add([found[path] for path in _outermost(paths)], followed=False)

    def add_followed(self, paths: Sequence[str]) -> None:
        """Import files that others reach for."""
        found = self.repository.select(self.commit, paths)
        self._add([entry for path, entry in found.items() if entry.kind == "blob"], followed=True)

    def existing(self, paths: Sequence[str]) -> set[str]:
        """Return those of `paths` that are files in the commit."""
        return {path for path, entry in self.repository.select(self.commit, paths).items() if entry.kind == "blob"}

    def _add(self, entries: Sequence[Entry], *, followed: bool) -> None:
        files = [file for file in self.repository.files(entries) if file.path not in self.files]
        refuse_unsafe([*self.files.values(), *files])
        self.repository.provide(files)
        write_files(self.tree, files, self._read(files), epoch=self._epoch)
        has_links = any(file.mode == LINK for file in files)
        if has_links and (links := escaping_links(self.tree)):
            raise SourceError(
                "the commit holds a symbolic link that leads outside the imported sources",
                details="\n".join(links),
                hint="name the folders that are needed one by one, without that link",
            )
        self.files |= {file.path: file for file in files}
        self.imported += [
            ImportedPath(
                path=entry.path,
                object_id=entry.object_id,
                kind="tree" if entry.kind == "tree" else "blob",
                followed=followed,
            )
            for entry in entries
        ]

    def _read(self, files: Sequence[Entry]) -> Iterator[bytes]:
        """Give the files' contents, and note their includes on the way, while git is busy with the next ones."""
        contents = self.repository.objects.contents([file.object_id for file in files])
        for file, content in zip(files, contents, strict=True):
            if is_source(file.path):
                self.includes[file.path] = () if file.mode == LINK else read_includes(content)
            yield content

    def patch(self, patches: Sequence[Patch], progress: Progress) -> None:
        """Apply all patches, and remember what they changed."""
        try:
            changed = apply_patches(self.tree, patches, progress)
        except PatchError as refused:
            refused.details = f"{refused.details}\nthe sources are those of commit {self.commit}".lstrip()
            raise
        for path in changed:
            file = self.tree / path
            self.includes.pop(path, None)
            self.patched[path] = state_on_disk(file, like=self.commit)
            if self.patched[path]:
                os.utime(file, (self._epoch, self._epoch), follow_symlinks=False)

    def _no_such_path(self, path: str) -> SourceError:
        """Say which part of the path is not there, and what is."""
        parents = ["/".join(path.split("/")[:end]) for end in range(path.count("/") + 1)]
        found = self.repository.select(self.commit, [parent or "." for parent in parents])
        parent = max((p for p in found if found[p].kind == "tree"), key=len, default=".")
        name = path.removeprefix("" if parent == "." else parent + "/").partition("/")[0]
        known = [child.path for child in self.repository.objects.children(found[parent].object_id)]
        prefix = "" if parent == "." else parent + "/"
        alike = [prefix + other for other in near(name, known)]
        listed = ", ".join(known[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
        return SourceError(
            f"no folder or file '{path}' at {self.commit[:12]} in {self.shown}",
            details=f"'{prefix}{name}' does not exist; in '{parent}' there are: {listed}",
            hint=f"did you mean {' or '.join(alike)}?" if alike else "paths start at the top of the kernel tree",
        )


# --- what lies outside ---------------------------------------------------------------------------


def _look_outside(selection: _Selection, progress: Progress, *, follow: bool, announce: bool) -> None:
    """Import what the files use outside the imported folders (`follow`), or warn of it (`announce`)."""
    asked: dict[str, bool] = {}
    for _ in range(_ROUNDS):
        needed = _needed(selection, outside_reaches(selection.tree, selection.includes), asked)
        if not needed:
            return
        if not follow:
            if announce:
                _warn(needed, progress)
            return
        progress.info(f"following includes: {', '.join(sorted(needed))}")
        selection.add_followed(sorted(needed))


def _needed(selection: _Selection, reaches: Sequence[Reach], asked: dict[str, bool]) -> Mapping[str, Reach]:
    """Return what of the reaches exists in the commit, with the first line that uses it."""
    unknown = {path for reach in reaches for path in reach.needs} - set(asked)
    if unknown:
        existing = selection.existing(sorted(unknown))
        asked.update({path: path in existing for path in unknown})
    needed: dict[str, Reach] = {}
    for reach in reaches:
        first = next((path for path in reach.needs if asked[path]), None)
        if first and first not in selection.files:
            needed.setdefault(first, reach)
    return needed


def _warn(needed: Mapping[str, Reach], progress: Progress) -> None:
    lines = [f"{path} ({reach.file}:{reach.line})" for path, reach in sorted(needed.items())]
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    folders = sorted({posixpath.dirname(path) for path in needed})
    progress.warning(
        f"the sources use files outside the imported folders: {', '.join(lines[:_SHOWN])}{more}; "
        f"--follow-includes imports them, or name their folders ({', '.join(folders[:_SHOWN])})"
    )

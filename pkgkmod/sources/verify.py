"""Whether imported files are still what git and the patches say."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pkgkmod.errors import PatchError
from pkgkmod.model.artifacts import AppliedPatch, ImportedPath, SourceTree
from pkgkmod.progress import Progress
from pkgkmod.sources.manifest import MANIFEST, FileState, Manifest, state_on_disk, tree_id
from pkgkmod.sources.patches import PATCHES, apply_patches, read_patches
from pkgkmod.sources.unpack import walk_files


def tree_differences(folder: Path, tree: SourceTree) -> tuple[str, ...]:
    """Return how the files in `folder`, made by `import_sources`, differ from what was recorded; () if they
    do not.

    A line is `changed: PATH`, `missing: PATH` or `added: PATH`. Nothing is taken on trust: the list of
    imported files must add up to the recorded ids of the git trees, and with the patches taken back, the
    files to that list.
    """
    provenance = tree.provenance
    try:
        manifest = Manifest.load(folder)
    except (OSError, ValueError):
        return (f"missing: {MANIFEST}",)
    found = [
        *_wrong_patches(folder, provenance.patches),
        *_wrong_files(folder / tree.tree, manifest, provenance.commit),
    ]
    if not found:
        found = [f"changed: {MANIFEST} ({p.path})" for p in provenance.directories if not _adds_up(manifest, p)]
    if not found and manifest.patched:
        found = list(_wrong_without_patches(folder, tree, manifest))
    return tuple(found)


def _wrong_patches(folder: Path, patches: tuple[AppliedPatch, ...]) -> Iterator[str]:
    for patch in patches:
        if patch.kernels:  # under another name, and not part of the tree
            continue
        file = folder / PATCHES / patch.name
        if not file.is_file():
            yield f"missing: patches/{patch.name}"
        elif hashlib.sha256(file.read_bytes()).hexdigest() != patch.sha256:
            yield f"changed: patches/{patch.name}"


def _wrong_files(tree: Path, manifest: Manifest, like: str) -> list[str]:
    expected = manifest.expected()
    present = set(walk_files(tree))
    lines = dict.fromkeys(present - set(expected), "added")
    for path, state in expected.items():
        if path not in present:
            lines[path] = "missing"
        elif not _equal(state, state_on_disk(tree / path, like=like)):
            lines[path] = "changed"
    return [f"{what}: {path}" for path, what in sorted(lines.items())]


def _equal(recorded: FileState, present: FileState | None) -> bool:
    """Compare; old commits hold modes, such as 100664, that git no longer makes."""
    if present is None:
        return False
    executable = [int(state.mode, 8) & 0o170100 for state in (recorded, present)]
    return recorded.object_id == present.object_id and executable[0] == executable[1]


def _adds_up(manifest: Manifest, imported: ImportedPath) -> bool:
    if imported.kind == "blob":
        state = manifest.imported.get(imported.path)
        return state is not None and state.object_id == imported.object_id
    prefix = "" if imported.path == "." else imported.path + "/"
    inside = {p.removeprefix(prefix): state for p, state in manifest.imported.items() if p.startswith(prefix)}
    return tree_id(inside, imported.object_id) == imported.object_id


def _wrong_without_patches(folder: Path, tree: SourceTree, manifest: Manifest) -> Iterator[str]:
    """Take the patches back on a copy of the files they changed, and compare those with what was imported."""
    patches = read_patches(folder / "patches", quilt=True)
    with tempfile.TemporaryDirectory(prefix="pkgkmod-verify-") as scratch:
        copy = Path(scratch, "tree")
        copy.mkdir()
        for path, state in manifest.patched.items():
            if state is not None:
                (copy / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(folder / tree.tree / path, copy / path, follow_symlinks=False)
        try:
            apply_patches(copy, patches[::-1], Progress(), reverse=True)
        except PatchError as refused:
            yield f"changed: {refused.brief}"
            return
        for path in manifest.patched:
            before = manifest.imported.get(path)
            present = state_on_disk(copy / path, like=tree.provenance.commit)
            if (present is not None) if before is None else not _equal(before, present):
                yield f"changed: {path}"

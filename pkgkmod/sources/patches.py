"""Patches on top of the imported files: all of them, or none.

`git apply` and not GNU patch: it knows renames, modes and binary files, refuses paths that lead outside or
through links, and has no fuzz, so a hunk never lands silently in a place that merely looks alike.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pkgkmod.command import Command, run
from pkgkmod.errors import DiskFullError, PatchError, did_you_mean
from pkgkmod.programs import find_tool
from pkgkmod.progress import Progress
from pkgkmod.sources.unpack import escaping_links, walk_files

SERIES = "series"
PATCHES = "patches"
KERNEL_PATCHES = "kernel-patches"
_SERIES_LINE = re.compile(r"(?P<name>\S+)(?:\s+-p\s?(?P<strip>[0-9]+))?(?:\s+-R(?P<reverse>))?")
_ONLY_KERNELS = re.compile(r"^Only-Kernels:(.*)$", re.MULTILINE | re.IGNORECASE)
_KERNEL_PATTERN = re.compile(r"[A-Za-z0-9._+~*?-]+")
_FAILED = re.compile(r"error: patch failed: (?P<file>.*):(?P<line>\d+)")
_MISSING = re.compile(r"error: (?P<file>.*): No such file or directory")
_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@.*")
_HUNK_LINES = 40


@dataclass(frozen=True)
class Patch:
    """A patch: its name in the patches' folder, its content, and how many leading folders its paths have too
    many."""

    name: str
    content: bytes
    strip: int = 1

    @property
    def kernels(self) -> tuple[str, ...]:
        """Patterns of the kernels that it is for, from its header `Only-Kernels:`; none means all.

        Such a patch is applied when modules are built for one of these kernels. Raise PatchError for a pattern
        that could mean something else to a shell or make.
        """
        head = re.split(rb"^(?:diff --git |--- |Index: )", self.content, maxsplit=1, flags=re.MULTILINE)[0]
        found = _ONLY_KERNELS.findall(head.decode("utf-8", "replace"))
        patterns = tuple(word for line in found for word in re.split(r"[,\s]+", line) if word)
        for pattern in patterns:
            if not _KERNEL_PATTERN.fullmatch(pattern):
                raise PatchError(
                    f"patch '{self.name}': Only-Kernels: not a pattern of kernel releases: {pattern!r}",
                    hint="such as `Only-Kernels: 6.12.*, 6.1.0-56-amd64`",
                )
        if found and not patterns:
            raise PatchError(f"patch '{self.name}': Only-Kernels: names no kernel")
        return patterns

    @property
    def sha256(self) -> str:
        """Digest of the content."""
        return hashlib.sha256(self.content).hexdigest()


def read_all_patches(folders: Sequence[Path], *, quilt: bool) -> tuple[Patch, ...]:
    """Return the patches of several folders, in order; raise PatchError if two have the same name."""
    found: dict[str, Patch] = {}
    for folder in folders:
        for patch in read_patches(folder, quilt=quilt):
            if patch.name in found:
                raise PatchError(f"patch '{patch.name}' is in two folders of patches", hint="rename one of them")
            found[patch.name] = patch
    return tuple(found.values())


def read_patches(folder: Path, *, quilt: bool) -> tuple[Patch, ...]:
    """Return the patches in `folder`, in order: as its `series` says (`quilt`), otherwise all *.patch by
    name.

    A folder that is absent holds none. Raise PatchError if the series is wrong.
    """
    if not folder.is_dir():
        return ()
    series = folder / SERIES
    in_order = quilt and series.is_file()
    listed = _read_series(series) if in_order else [(name, 1) for name in _patch_files(folder)]
    return tuple(Patch(name, _read(folder, name), strip) for name, strip in listed)


def unlisted_patches(folder: Path, *, quilt: bool) -> tuple[str, ...]:
    """Return the *.patch files in `folder` that its `series` does not name."""
    series = folder / SERIES
    if not quilt or not series.is_file():
        return ()
    text = series.read_text(encoding="utf-8", errors="replace")
    # One that is commented out was left out on purpose.
    named = {word for line in text.splitlines() for word in line.replace("#", " ").split()}
    return tuple(name for name in _patch_files(folder) if name not in named)


def _patch_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".patch" and path.is_file())


def _read_series(series: Path) -> list[tuple[str, int]]:
    listed: list[tuple[str, int]] = []
    for number, line in enumerate(series.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        words = re.sub(r"(^|\s)#.*", "", line).strip()
        if not words:
            continue
        place = f"{series}:{number}"
        match = _SERIES_LINE.fullmatch(words)
        if not match or match["reverse"] is not None:
            raise PatchError(
                f"{place}: not understood: {words!r}",
                hint="a line is the name of a patch, and -p0 or -p1 behind it",
            )
        name = match["name"]
        if name.startswith(("/", "-")) or ".." in PurePosixPath(name).parts or not name.isprintable():
            raise PatchError(f"{place}: not a name inside the patches' folder: {name!r}")
        if name in dict(listed):
            raise PatchError(f"{place}: patch '{name}' is there twice")
        listed.append((name, int(match["strip"] or 1)))
    return listed


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        hint = did_you_mean(name, (path.name for path in folder.iterdir()))
        raise PatchError(
            f"patch '{name}' is not in {folder}", details=f"{folder / SERIES} names it", hint=hint
        ) from None


def write_patches(folder: Path, patches: Sequence[Patch]) -> None:
    """Write `patches` into `folder`, with the `series` file that says their order."""
    folder.mkdir(parents=True, exist_ok=True)
    for patch in patches:
        file = folder / patch.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(patch.content)
    lines = [patch.name if patch.strip == 1 else f"{patch.name} -p{patch.strip}" for patch in patches]
    if patches:
        (folder / SERIES).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_kernel_patches(folder: Path, patches: Sequence[Patch]) -> None:
    """Write patches that are for some kernels only, with a `series` that a makefile's shell can read.

    A line is STRIP FILE PATTERN...; files are numbered, since names may hold anything.
    """
    if not patches:
        return
    folder.mkdir(parents=True)
    lines = []
    for number, patch in enumerate(patches, start=1):
        plain = re.sub(r"[^A-Za-z0-9._+-]", "_", PurePosixPath(patch.name).name)
        name = f"{number:04}-{plain}"
        (folder / name).write_bytes(patch.content)
        lines.append(f"{patch.strip} {name} {' '.join(patch.kernels)}\n")
    (folder / SERIES).write_text("".join(lines), encoding="utf-8")


def apply_patches(
    tree: Path, patches: Sequence[Patch], progress: Progress, *, reverse: bool = False
) -> tuple[str, ...]:
    """Apply `patches` to `tree` in order, and return the paths that are not what they were before.

    Raise PatchError, with nothing changed, if one does not apply. `reverse` takes them back, in the order
    given.
    """
    if not patches:
        return ()
    with tempfile.TemporaryDirectory(prefix=f".{tree.name}-", dir=tree.parent) as aside:
        patched = Path(aside, "patched")
        # Links to the same files: git writes a new file in place of one it changes.
        shutil.copytree(tree, patched, symlinks=True, copy_function=os.link)
        for patch in patches:
            _apply(patch, patched, Path(aside), progress, reverse=reverse)
        changed = _changed(tree, patched)
        for path in changed:
            file = patched / path
            if file.is_file() and not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
        tree.rename(Path(aside, "before"))
        patched.rename(tree)
    return changed


def _changed(before: Path, after: Path) -> tuple[str, ...]:
    paths = {*walk_files(before), *walk_files(after)}
    return tuple(sorted(path for path in paths if not _same(before / path, after / path)))


def _same(one: Path, other: Path) -> bool:
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    if not (one.exists() and other.exists()):
        return False
    return one.samefile(other) or (
        one.stat().st_mode == other.stat().st_mode and filecmp.cmp(one, other, shallow=False)
    )


def _apply(patch: Patch, tree: Path, aside: Path, progress: Progress, *, reverse: bool) -> None:
    file = aside / "patch"
    file.write_bytes(patch.content)
    log = aside / "log"
    log.write_bytes(b"")
    options = ["--reverse"] if reverse else []
    argv = (str(find_tool("git")), "apply", "--whitespace=nowarn", f"-p{patch.strip}", *options, str(file))
    # The tree may lie inside somebody's repository, and hold files that git would take for settings.
    alone = {
        "GIT_CEILING_DIRECTORIES": str(tree.parent.resolve()),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "HOME": "/nonexistent",
    }
    done = run(Command(argv, cwd=tree.resolve(), env=alone), log=log, progress=progress)
    if not done.ok:
        raise _failure(patch, log.read_text(encoding="utf-8", errors="replace"))
    if links := escaping_links(tree):
        raise PatchError(f"patch '{patch.name}' makes a link that leads outside the sources", details="\n".join(links))


def _failure(patch: Patch, said: str) -> PatchError | DiskFullError:
    """Say which hunk of which file, and why, from what `git apply` said."""
    if "No space left on device" in said:
        return DiskFullError(f"no space left on the disk while applying patch '{patch.name}'")
    reasons = "\n".join(line.removeprefix("error: ") for line in said.splitlines() if line.startswith("error: "))
    if failed := _FAILED.search(said):
        number, total, place, hunk = _find_hunk(patch, failed["file"], int(failed["line"]))
        header = hunk.partition("\n")[0]
        return PatchError(
            f"patch '{patch.name}' does not apply: {failed['file']}, hunk {number} of {total} ({header})",
            details=f"the lines that it changes or expects around them are not there\n{hunk}",
            hint=f"compare line {place} of the patch with line {failed['line']} of the file at this "
            "revision, and make the patch anew for it",
        )
    if missing := _MISSING.search(said):
        return PatchError(
            f"patch '{patch.name}' does not apply: {missing['file']} is not among the imported files",
            details=reasons,
            hint="import the file, too (-d FOLDER or -d FILE); if the name has a folder too many or too few, "
            f"-p0 or -p2 behind the patch's name in {SERIES} says so",
        )
    if "No valid patches" in said:
        return PatchError(f"patch '{patch.name}' holds no changes", hint=f"remove it, or its line in {SERIES}")
    brief = reasons.partition("\n")[0] or "git apply failed"
    return PatchError(f"patch '{patch.name}' does not apply: {brief}", details=reasons or said)


def _find_hunk(patch: Patch, file: str, line: int) -> tuple[int, int, int, str]:
    """Return number, count in the file, line in the patch, and text of the hunk of `file` that starts at
    `line`."""
    lines = patch.content.decode("utf-8", "replace").splitlines()
    current, hunks = "", []
    for index, text in enumerate(lines):
        if text.startswith(("--- ", "+++ ")) and not text.endswith("/dev/null"):
            current = text[4:].split("\t")[0]
        elif (match := _HUNK.match(text)) and current.endswith(file):
            hunks.append((int(match[1]), index))
    for number, (start, index) in enumerate(hunks, start=1):
        if start == line:
            end = next(
                (i for i in range(index + 1, len(lines)) if lines[i][:1] not in (" ", "+", "-", "\\", "")),
                None,
            )
            shown = lines[index : min(end or len(lines), index + _HUNK_LINES)]
            return number, len(hunks), index + 1, "\n".join(shown)
    return 1, max(len(hunks), 1), 1, f"@@ -{line} @@"

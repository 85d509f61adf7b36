"""Files as a commit: a repository of one commit, the same for the same files, and comparing them with another one.

The objects are written as git(1) describes them (gitformat: objects, loose), without git: so the commit's id is known
before anything is written.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.errors import SourceError
from pkgkmod.model.project import Source
from pkgkmod.progress import Progress
from pkgkmod.sources.gitcommand import GitFolder
from pkgkmod.sources.repository import FULL_HASH, open_repository, origin_of, parse_origin
from pkgkmod.sources.unpack import refuse_unsafe, write_files

_AUTHOR = "pkgkmod import <nobody@localhost>"
_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = {bare}\n"
_BRANCH = "refs/heads/main"
_SHOWN = 5  # files in a sentence

Files = Mapping[str, tuple[str, bytes]]
"""Mode and content of each file, by path."""


@dataclass(frozen=True)
class TreeCommit:
    """A commit that has no parents, and its objects."""

    label: str
    """The same for the same files and message, whatever the date."""
    commit: str
    objects: Mapping[str, bytes]
    """By id, with the heads that git puts before the content."""


def make_commit(files: Files, *, epoch: int, message: str) -> TreeCommit:
    """Return the commit of `files` at `epoch` (seconds since 1970); author and time zone are always the same."""
    objects: dict[str, bytes] = {}
    tree = _add_tree(objects, files)
    who = f"{_AUTHOR} {epoch} +0000"
    text = f"tree {tree}\nauthor {who}\ncommitter {who}\n\n{message.rstrip()}\n"
    label = hashlib.sha256(f"{tree}\n{message}".encode("utf-8", "replace")).hexdigest()[:40]
    return TreeCommit(label, _add(objects, "commit", text.encode("utf-8", "replace")), objects)


def _add(objects: dict[str, bytes], kind: str, content: bytes) -> str:
    whole = f"{kind} {len(content)}\0".encode() + content
    name = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
    objects[name] = whole
    return name


def _add_tree(objects: dict[str, bytes], files: Files) -> str:
    entries: dict[str, tuple[str, str]] = {}
    below: dict[str, dict[str, tuple[str, bytes]]] = {}
    for path, (mode, content) in files.items():
        name, slash, rest = path.partition("/")
        if slash:
            below.setdefault(name, {})[rest] = (mode, content)
        else:
            entries[name] = (mode, _add(objects, "blob", content))
    entries |= {name: ("40000", _add_tree(objects, inside)) for name, inside in below.items()}
    # Git sorts folders as if their names ended in a slash.
    ordered = sorted(entries.items(), key=lambda e: os.fsencode(e[0]) + (b"/" if e[1][0] == "40000" else b""))
    content = b"".join(
        mode.encode() + b" " + os.fsencode(name) + b"\0" + bytes.fromhex(object_id)
        for name, (mode, object_id) in ordered
    )
    return _add(objects, "tree", content)


def recorded_commit(repository: Path, label: str) -> str:
    """Return the commit that `write_commit` has kept with a label in a bare repository; empty if there is none."""
    try:
        found = (repository / "refs/heads" / label).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
    return found if FULL_HASH.fullmatch(found) and _object_file(repository, found).exists() else ""


def write_commit(repository: Path, made: TreeCommit) -> None:
    """Keep a commit in a bare repository, as a branch with its label; others that it has stay."""
    _write_objects(repository, made)
    _write(repository / "refs/heads" / made.label, f"{made.commit}\n".encode())
    _write(repository / "config", _CONFIG.format(bare="true").encode())
    # Last: what has no HEAD is no repository.
    _write(repository / "HEAD", f"ref: refs/heads/{made.label}\n".encode())


def write_worktree(folder: Path, made: TreeCommit, progress: Progress) -> None:
    """Make a repository with one commit and its files in `folder`, for people to go on with.

    It may be there already, with this commit as its branch `main`; anything else there is a SourceError.
    """
    branch = folder / ".git" / _BRANCH
    if branch.is_file() and branch.read_text("ascii", "replace").strip() == made.commit:
        return
    if folder.exists():
        raise SourceError(
            f"{folder} is there already, and holds other sources", hint="move it away, or import to another folder (-o)"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        git = aside / ".git"
        _write_objects(git, made)
        _write(git / _BRANCH, f"{made.commit}\n".encode())
        _write(git / "config", _CONFIG.format(bare="false").encode())
        _write(git / "HEAD", f"ref: {_BRANCH}\n".encode())
        # Nothing of the user's settings, nor of the files, changes what is written.
        settings = {"core.autocrlf": "false", "core.attributesFile": os.devnull}
        GitFolder(git, progress, settings).text(f"--work-tree={aside}", "reset", "--hard", "--quiet")
        aside.chmod(0o755)
        aside.replace(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _object_file(git: Path, name: str) -> Path:
    return git / "objects" / name[:2] / name[2:]


def _write_objects(git: Path, made: TreeCommit) -> None:
    for name, content in made.objects.items():
        file = _object_file(git, name)
        if not file.exists():
            _write(file, zlib.compress(content), mode=0o444)


def _write(file: Path, content: bytes, *, mode: int = 0o644) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
    Path(name).chmod(mode)
    Path(name).replace(file)


def write_tree(source: Source, commit: str, folder: Path, *, base: Path, cache: Path, progress: Progress) -> None:
    """Write the files that a project's source names, as they are in a commit, into a folder that may have others.

    Raise SourceError for names that are not in the commit, and files that cannot be written there.
    """
    with open_repository(origin_of(source, base), cache=cache, progress=progress) as repository:
        found = repository.select(commit, source.directories)
        if missing := [path for path in source.directories if path not in found]:
            raise SourceError(f"no folder or file '{missing[0]}' at {commit[:12]}", hint="-d names what to import")
        files = repository.files(list(found.values()))
        refuse_unsafe(files)
        repository.provide(files)
        folder.mkdir(parents=True, exist_ok=True)
        contents = repository.objects.contents([file.object_id for file in files])
        write_files(folder, files, contents, epoch=repository.objects.commit(commit).epoch)


def difference(
    location: str, revision: str, files: Files, directory: str, *, base: Path, cache: Path, progress: Progress
) -> tuple[str, str]:
    """Compare files with a repository's commit; return its full id, and how they differ: empty if they do not.

    All of `directory` must be the same on both sides; of what lies outside, the files that are here. Raise SourceError
    if there is no such repository or revision.
    """
    with open_repository(parse_origin(location, base), cache=cache, progress=progress) as repository:
        commit = repository.resolve(revision)
        top = repository.select(commit, [directory])
        there = {entry.path: entry for entry in repository.files(list(top.values()))}
        outside = [path for path in files if not _inside(path, directory)]
        there |= {path: entry for path, entry in repository.select(commit, outside).items() if entry.kind == "blob"}
    if len(commit) != 40:
        return commit, "its objects have ids of another kind (SHA-256)"
    here = {path: _add({}, "blob", content) for path, (_, content) in files.items()}
    lines = [f"{path} is not there" for path in sorted(set(here) - set(there))]
    lines += [f"{path} is missing here" for path in sorted(set(there) - set(here))]
    lines += [f"{path} differs" for path in sorted(set(here) & set(there)) if here[path] != there[path].object_id]
    more = f", and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return commit, ", ".join(lines[:_SHOWN]) + more


def _inside(path: str, directory: str) -> bool:
    return directory == "." or path.startswith(f"{directory}/")

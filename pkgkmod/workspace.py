"""Where results lie: found by fingerprint, saved whole or not at all, one run at a time.

A result is a folder `results/STAGE/TARGET/KERNEL/FINGERPRINT/` with the files that a stage made and a
`result.json` that describes them. It is written aside and renamed, so a killed run leaves nothing
that looks like a result.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pkgkmod.errors import PackageError
from pkgkmod.model.artifacts import Artifact
from pkgkmod.progress import Progress

RESULT_FILE = "result.json"
LOG_FILE = "log.txt"
_KEPT_ASIDE = ".edited"

A = TypeVar("A", bound=Artifact)
State = Literal["ok", "failed", "excluded"]


def digest(content: object) -> str:
    """Return the hexadecimal SHA-256 of JSON-able content."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(file: Path, text: str) -> None:
    """Write a text file in one step: a reader sees the old one or the new one."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    Path(name).chmod(0o644)
    Path(name).replace(file)


class OutputFile(BaseModel):
    """A file of a result: enough to tell later whether it is still as it was saved."""

    model_config = ConfigDict(frozen=True)

    path: str
    size: int
    mtime_ns: int
    executable: bool
    sha256: str

    @classmethod
    def of(cls, folder: Path, path: Path) -> Self:
        """Describe file `path` below `folder`; a symbolic link counts with its target's name."""
        facts = path.lstat()
        if path.is_symlink():
            checksum = hashlib.sha256(b"link " + os.fsencode(path.readlink())).hexdigest()
        else:
            with path.open("rb") as file:
                checksum = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(
            path=_name(folder, path),
            size=facts.st_size,
            mtime_ns=facts.st_mtime_ns,
            executable=bool(facts.st_mode & 0o100),
            sha256=checksum,
        )


class Result(BaseModel):
    """What a stage made, or how it failed."""

    model_config = ConfigDict(frozen=True)

    stage: str
    target: str
    kernel: str
    fingerprint: str
    ingredients: dict[str, Any]
    inputs: dict[str, str]
    state: State
    reason: str = ""
    finished: float
    seconds: float
    outputs: tuple[OutputFile, ...] = ()
    artifact: dict[str, Any] = {}
    folder: Path = Path()

    def load(self, kind: type[A]) -> A:
        """Return the artifact that the stage saved."""
        return kind.model_validate(self.artifact)

    def changed_files(self) -> tuple[str, ...]:
        """Return the names of files that were changed, removed or added since the result was saved."""
        present = {_name(self.folder, path): path for path in _files(self.folder)}
        known = {output.path: output for output in self.outputs}
        changed = set(present) ^ set(known)
        for name in set(present) & set(known):
            facts, output = present[name].lstat(), known[name]
            same_stat = (facts.st_size, facts.st_mtime_ns) == (output.size, output.mtime_ns)
            if not same_stat and OutputFile.of(self.folder, present[name]).sha256 != output.sha256:
                changed.add(name)
        return tuple(sorted(changed))

    def content_digest(self) -> str:
        """Return a digest over the files as they are now."""
        return digest([(o.path, o.executable, o.sha256) for o in _describe(self.folder)])


def _name(folder: Path, path: Path) -> str:
    """Return the name of a file below a result's folder, in a form that JSON can hold."""
    return os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        here = Path(parent)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in sorted([*names, *links]):
            if here != folder or name not in (RESULT_FILE, LOG_FILE):
                yield here / name


def _describe(folder: Path) -> tuple[OutputFile, ...]:
    return tuple(OutputFile.of(folder, path) for path in _files(folder))


class Draft:
    """A result in the making: files go into `folder`, programs' output into `log`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / LOG_FILE
        self.started = time.monotonic()


class Workspace:
    """The results of one project, beside its project file."""

    def __init__(self, project_folder: Path) -> None:
        self.project_folder = project_folder
        self.results = project_folder / "results"
        self._partial = self.results / ".partial"

    def place(self, stage: str, target: str, kernel: str, fingerprint: str = "") -> Path:
        """Return the folder of a result, or of all results of a stage, target and kernel."""
        return self.results / stage / target / kernel / fingerprint[:16]

    def find(self, stage: str, target: str, kernel: str, fingerprint: str) -> Result | None:
        """Return the result with this fingerprint, if there is one."""
        found = self.read(self.place(stage, target, kernel, fingerprint))
        return found if found and found.fingerprint == fingerprint else None

    def newest(self, stage: str, target: str, kernel: str) -> Result | None:
        """Return the result of this stage, target and kernel that was finished last."""
        place = self.place(stage, target, kernel)
        found = (
            [r for f in place.glob("*") if _KEPT_ASIDE not in f.name and (r := self.read(f))] if place.is_dir() else []
        )
        return max(found, key=lambda result: result.finished, default=None)

    def all(self) -> list[Result]:
        """Return every result, ordered by stage, target and kernel."""
        folders = sorted(path.parent for path in self.results.glob(f"*/*/*/*/{RESULT_FILE}"))
        return [r for folder in folders if _KEPT_ASIDE not in folder.name and (r := self.read(folder))]

    @staticmethod
    def read(folder: Path) -> Result | None:
        """Return the result in a folder, if it is one."""
        try:
            text = (folder / RESULT_FILE).read_text(encoding="utf-8")
            return Result.model_validate_json(text).model_copy(update={"folder": folder})
        except (OSError, ValidationError):
            return None  # not a result (yet), or one of another version: the stage runs again

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        """Give a fresh folder to make a result in; what was not saved is removed at the end."""
        self._partial.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self._partial))
        folder.chmod(0o755)
        try:
            yield Draft(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def save(
        self,
        draft: Draft,
        *,
        key: tuple[str, str, str],
        fingerprint: str,
        ingredients: Mapping[str, Any],
        inputs: Mapping[str, str],
        state: State,
        reason: str = "",
        artifact: Mapping[str, Any] | None = None,
    ) -> Result:
        """Make the draft a result, in one step; an older one with edits by hand is kept aside."""
        stage, target, kernel = key
        result = Result(
            stage=stage,
            target=target,
            kernel=kernel,
            fingerprint=fingerprint,
            ingredients=dict(ingredients),
            inputs=dict(inputs),
            state=state,
            reason=reason,
            finished=time.time(),
            seconds=round(time.monotonic() - draft.started, 3),
            outputs=_describe(draft.folder),
            artifact=dict(artifact or {}),
        )
        return self._place(draft, result)

    def adopt(self, draft: Draft, made: Result, key: tuple[str, str, str]) -> Result:
        """Make a copy of a result that was made elsewhere, and lies in the draft, a result of this workspace."""
        stage, target, kernel = key
        facts = {"stage": stage, "target": target, "kernel": kernel, "finished": time.time()}
        return self._place(draft, made.model_copy(update={**facts, "outputs": _describe(draft.folder)}))

    def _place(self, draft: Draft, result: Result) -> Result:
        place = self.place(result.stage, result.target, result.kernel, result.fingerprint)
        text = result.model_dump_json(indent=1, exclude={"folder"})
        with (draft.folder / RESULT_FILE).open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        place.parent.mkdir(parents=True, exist_ok=True)
        self._clear(place)
        draft.folder.rename(place)
        return result.model_copy(update={"folder": place})

    def _clear(self, place: Path) -> None:
        """Take an older result out of the way; one that somebody edited is kept beside, not lost."""
        if not place.exists():
            return
        older = self.read(place)
        if older and older.state == "ok" and older.changed_files():
            place.rename(place.with_name(f"{place.name}{_KEPT_ASIDE}-{time.time_ns()}"))
            return
        doomed = Path(tempfile.mkdtemp(dir=self._partial)) / "old"
        place.rename(doomed)
        shutil.rmtree(doomed.parent, ignore_errors=True)

    @contextmanager
    def locked(self, progress: Progress) -> Iterator[None]:
        """Hold the project: a second run waits for its turn. Leftovers of killed runs are removed."""
        self.results.mkdir(parents=True, exist_ok=True)
        with (self.results / ".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.info("waiting for another run in this project to end")
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                shutil.rmtree(self._partial, ignore_errors=True)
                shutil.rmtree(self._scratch_root(), ignore_errors=True)
                yield
            finally:
                shutil.rmtree(self._scratch_root(), ignore_errors=True)
                # Explicitly: a forked child that still has the file open must not keep the lock.
                fcntl.flock(file, fcntl.LOCK_UN)

    def _scratch_root(self) -> Path:
        name = hashlib.sha256(os.fsencode(self.project_folder.resolve())).hexdigest()[:12]
        return Path(os.environ.get("TMPDIR") or "/var/tmp") / f"pkgkmod-{os.getuid()}-{name}"

    def for_this_run(self, name: str) -> Path:
        """Return a folder for what several steps of one run share; it is removed at the end."""
        folder = self._made_scratch_root() / name
        folder.mkdir(exist_ok=True)
        return folder

    def _made_scratch_root(self) -> Path:
        root = self._scratch_root()
        root.mkdir(mode=0o700, exist_ok=True)
        if root.is_symlink() or root.stat().st_uid != os.getuid():
            raise PackageError(
                f"{root} belongs to somebody else", hint="remove it, or set TMPDIR to a folder of your own"
            )
        return root

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a folder to build in, away from the project: make and rpm cannot bear spaces in paths."""
        folder = Path(tempfile.mkdtemp(dir=self._made_scratch_root()))
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

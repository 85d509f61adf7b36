"""What was given to a build farm, noted before and after each sending.

Each job has a file of its own, so that noting one costs the same whether there are two or twenty thousand, and two runs
do not write over each other's.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pkgkmod.errors import FarmError
from pkgkmod.model.submission import FarmBuild, Submission
from pkgkmod.progress import Progress
from pkgkmod.workspace import Workspace, write_atomically


class Journal:
    """What was given to one farm, by job."""

    def __init__(self, workspace: Workspace, farm: str) -> None:
        self.folder = workspace.results / ".farms" / farm
        self._submissions = self.folder / "submissions"

    def all(self) -> list[Submission]:
        """Return the submissions, by target and kernel: 5.14.0-9 is before 5.14.0-10."""
        found = (self._read(file) for file in self._submissions.glob("*/*.json"))
        return sorted((one for one in found if one is not None), key=lambda one: (one.target, _in_order(one.kernel)))

    def get(self, target: str, kernel: str) -> Submission | None:
        """Return the last submission of a job."""
        return self._read(self._place(target, kernel))

    def put(self, submission: Submission) -> None:
        """Save a submission in place of the job's last one."""
        with self._lock(".writing"):
            self._write(submission)

    def update(self, submission: Submission, **changes: Any) -> Submission:
        """Save what has come of a submission, and return it; if another run has sent the job anew meanwhile, that."""
        with self._lock(".writing"):
            now = self.get(*submission.key)
            if now is None or (now.request, now.sent) != (submission.request, submission.sent):
                return now or submission
            changed = now.model_copy(update=changes)
            if changed != now:
                self._write(changed)
            return changed

    def log_place(self, submission: Submission, build: FarmBuild) -> Path:
        """Return where the log of a build is kept."""
        name = hashlib.sha256(f"{submission.id}\n{build.id}".encode()).hexdigest()[:12]
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"log-{submission.target}-{name}.txt"

    @contextmanager
    def alone(self, progress: Progress) -> Iterator[None]:
        """Hold the journal: of two runs, one sends and the other sees that it was sent."""
        with self._lock(".lock", lambda: progress.info("waiting for another run that sends packages to end")):
            yield

    @contextmanager
    def _lock(self, name: str, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / name).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _place(self, target: str, kernel: str) -> Path:
        return self._submissions / target / f"{kernel}.json"

    @staticmethod
    def _read(file: Path) -> Submission | None:
        try:
            return Submission.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise FarmError(
                f"{file} cannot be read",
                details=str(error).splitlines()[0],
                hint="it says what was sent; if you remove it, look at the farm before you send anything again",
            ) from None

    def _write(self, submission: Submission) -> None:
        place = self._place(*submission.key)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, submission.model_dump_json(indent=1) + "\n")


def _in_order(kernel: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", kernel)]

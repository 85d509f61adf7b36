"""What it costs here to give a farm hundreds of source packages, to ask how they stand, and to tell what failed.

The farm is a stand-in in the same process that answers at once, so what is measured is pkgkmod's own part: describing,
the journal, and what is made of the answers. Beside it, as the floor, the same bytes in as many files, written as the
journal must be written to outlive a kill: aside and renamed, before and after each sending. With --koji, koji's real
client library speaks to the tests' stand-in for a hub, over TLS, and requests are counted.

Run: .venv/bin/python -m bench.submit [--sizes 1 100 400 2000 20000] [--koji 100 400]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkgkmod.engine.journal import Journal
from pkgkmod.engine.submit import Wanted, ask, failure, send, wanted
from pkgkmod.farms import Farm, FarmSession, Item, SourcePackage, Ticket
from pkgkmod.model.artifacts import Recipe
from pkgkmod.model.submission import FarmBuild, FarmFile
from pkgkmod.progress import Progress
from pkgkmod.workspace import Workspace
from tests.fixtures.packaging import make_job

if TYPE_CHECKING:
    from pkgkmod.errors import FarmError

SRPM = 150_000
"""Bytes of a source package: e1000e's."""
LOG = 200_000
"""Bytes of the log of a build that failed."""
_QUIET = Progress()


class AtOnce:
    """A farm that takes everything, and answers at once; it counts the questions."""

    name, format, interval = "at-once", None, 1.0

    def __init__(self) -> None:
        self.requests = 0
        self.state = "building"
        """How all builds stand."""

    def describe(self, package: SourcePackage, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask for nothing in particular."""
        return {"words": "build"}

    def group(self, package: SourcePackage, settings: Mapping[str, Any]) -> str:
        """Send each alone."""
        return ""

    def connect(self, settings: Mapping[str, Any], base: Path, progress: Progress) -> FarmSession:
        """Be there."""
        return self

    def find(self, items: Sequence[Item]) -> None:
        """Know nothing."""

    def check(self, items: Sequence[Item]) -> None:
        """Take all."""

    def send(self, items: Sequence[Item]) -> Sequence[Ticket]:
        """Take one."""
        self.requests += 1
        return [{"task": self.requests}]

    def builds(self, tickets: Sequence[Ticket]) -> Sequence[tuple[FarmBuild, ...] | FarmError]:
        """Say how all stand."""
        self.requests += 1
        states = [{"id": str(ticket["task"]), "title": "x86_64", "state": self.state} for ticket in tickets]
        return [(FarmBuild.model_validate(one),) for one in states]

    def log(self, ticket: Ticket, build: FarmBuild, destination: Path) -> bool:
        """Write a log with the same error for all."""
        self.requests += 1
        destination.write_text("gcc -c a.c\n" * (LOG // 11) + "a.c:1:2: error: no such thing\n")
        return True

    def files(self, ticket: Ticket) -> tuple[FarmFile, ...]:
        """Have made nothing."""
        return ()

    def fetch(self, file: FarmFile, destination: Path) -> None:
        """Have nothing."""


def packages(folder: Path, count: int) -> list[SourcePackage]:
    """Return source packages for as many kernels; the file is the same one."""
    file = folder / "driver.src.rpm"
    file.write_bytes(os.urandom(SRPM))
    found = []
    for number in range(count):
        job = make_job("el9", (f"5.14.0-{number}.el9.x86_64",))
        kernels = tuple(kernel.uname_r for kernel in job.kernels)
        recipe = Recipe(format="rpm", name="kmod-x", version="1-1", archive="x", kernels=kernels, source_date_epoch=1)
        found.append(SourcePackage(job, recipe, folder, (file,)))
    return found


def processor_seconds() -> float:
    """Return the processor time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Figures:
    """What each step took: seconds by the clock and of the processor, and the farm's requests."""

    def __init__(self, requests: Callable[[], int]) -> None:
        self._requests = requests
        self.found: dict[str, tuple[float, float, int]] = {}

    def of(self, name: str, call: Callable[[], Any]) -> Any:
        """Call, and note what it took."""
        before = (time.perf_counter(), processor_seconds(), self._requests())
        result = call()
        after = (time.perf_counter(), processor_seconds(), self._requests())
        self.found[name] = (after[0] - before[0], after[1] - before[1], after[2] - before[2])
        return result


def own_part(folder: Path, count: int) -> dict[str, Any]:
    """Measure with the farm that answers at once."""
    farm = AtOnce()
    journal = Journal(Workspace(folder), farm.name)
    given = packages(folder, count)
    figures = Figures(lambda: farm.requests)
    as_farm: Farm = farm
    items: tuple[Wanted, ...] = figures.of("describe", lambda: wanted(as_farm, given, {}))
    figures.of("send", lambda: send(items, farm, journal, _QUIET, again=False))
    figures.of("send, nothing new", lambda: send(items, farm, journal, _QUIET, again=False))
    figures.of("ask, all is news", lambda: ask(farm, journal))
    figures.of("ask, no news", lambda: ask(farm, journal))
    farm.state = "failed"
    ended = ask(farm, journal)
    if count <= 2000:
        figures.of("tell what failed", lambda: failure(ended, farm, journal))
    files = [path for path in journal.folder.rglob("*.json") if path.is_file()]
    figures.of("floor", lambda: _floor(folder / "floor", [path.read_bytes() for path in files]))
    size = sum(path.stat().st_size for path in files)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"figures": figures.found, "bytes": size, "files": len(files), "peak": peak}


def _floor(folder: Path, contents: Sequence[bytes]) -> None:
    folder.mkdir()
    for number, content in enumerate(contents):
        for _ in range(2):
            with (folder / "aside").open("wb") as file:
                file.write(content)
            (folder / "aside").replace(folder / str(number))


def at_koji(folder: Path, count: int) -> dict[str, Any]:
    """Measure koji's client library against a hub that runs in another process; HOME has its profile."""
    import requests

    from pkgkmod.builders.koji import KojiFarm

    done = [0]
    original = requests.Session.send

    def counted(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        done[0] += 1
        return original(session, request, **options)

    requests.Session.send = counted  # type: ignore[method-assign, assignment]
    settings = {"profile": "stub", "target": "f43"}
    farm: Farm = KojiFarm()
    journal = Journal(Workspace(folder), farm.name)
    given = packages(folder, count)
    figures = Figures(lambda: done[0])
    items = wanted(farm, given, settings)
    session: FarmSession = figures.of("log in", lambda: farm.connect(settings, folder, _QUIET))
    figures.of("send", lambda: send(items, session, journal, _QUIET, again=False))
    figures.of("ask, all is news", lambda: ask(session, journal))
    figures.of("ask, all has ended", lambda: ask(session, journal))
    return {"figures": figures.found}


def measured(kind: str, count: int, **more: str) -> dict[str, Any]:
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "bench.submit", f"--one-{kind}", str(count), folder]
        done = subprocess.run(argv, env={**os.environ, **more}, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def table(found: Mapping[int, Mapping[str, Any]], *, floor: bool) -> None:
    """Print one row for each step: milliseconds of the processor for each submission, and requests in all."""
    sizes = list(found)
    print("| processor ms for each submission |" + "".join(f" {size} |" for size in sizes) + " requests for the most |")
    print("|---|" + "---|" * (len(sizes) + 1))
    names = list(dict.fromkeys(name for one in found.values() for name in one["figures"]))
    for name in names:
        cells = [one["figures"].get(name) for one in found.values()]
        words = [f"{cell[1] / size * 1000:.2f}" if cell else "" for cell, size in zip(cells, sizes, strict=True)]
        print(f"| {name} | {' | '.join(words)} | {cells[-1][2] if cells[-1] else ''} |")
    print()
    if floor:
        for size, one in found.items():
            ratio = one["figures"]["send"][1] / max(one["figures"]["floor"][1], 1e-3)
            seconds = sum(cell[0] for name, cell in one["figures"].items() if name != "floor")
            print(
                f"{size}: sending is {ratio:.1f} x the floor; all steps {seconds:.2f} s by the clock; the journal has"
            )
            print(f"    {one['bytes']} bytes in {one['files']} files; {one['peak']:.0f} MB of memory")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 100, 400, 2000, 20000])
    parser.add_argument("--koji", type=int, nargs="*", default=[])
    parser.add_argument("--one-own", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--one-koji", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    for measure, one in ((own_part, given.one_own), (at_koji, given.one_koji)):
        if one:
            print(json.dumps(measure(Path(one[1]), int(one[0]))))
            return
    if given.sizes:
        table({size: measured("own", size) for size in given.sizes}, floor=True)
    if given.koji:
        from tests.fixtures.kojihub import profile, running_hub

        found = {}
        for size in given.koji:
            with tempfile.TemporaryDirectory() as folder, running_hub(Path(folder)) as hub:
                hub.outputs = {"x86_64": []}
                profile(Path(folder) / "home", hub, Path(folder))
                found[size] = measured("koji", size, HOME=f"{folder}/home")
        table(found, floor=False)


if __name__ == "__main__":
    main()

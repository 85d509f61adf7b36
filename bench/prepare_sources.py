"""Importing a driver's sources: pkgkmod beside what a person would type, on a kernel-size repository.

    .venv/bin/python bench/prepare_sources.py [--quick] [--repeat N]

Prints tables in Markdown; bench/README.md says what they mean.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.kernel_repository import DRIVER, MissingTarball, kernel_repository  # noqa: E402

SIZES = {"s": DRIVER, "m": "drivers/net/ethernet"}
_IMPORT = """
import sys, time
from pathlib import Path
import git.cmd
from pkgkmod.model.project import Source
from pkgkmod.progress import Progress
from pkgkmod.sources.importer import import_sources
url, commit, folder, low, cache, place = sys.argv[1:]
source = Source(repository=url, revision=commit, directories=(folder,), low_bandwidth=low == "low")
started = time.perf_counter()
import_sources(source, base=Path("/"), cache=Path(cache), destination=Path(place), progress=Progress())
print(time.perf_counter() - started)
"""


@dataclass
class Runs:
    """What a method took: seconds of wall and CPU time of each run, and what a server counted in the last one."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    """Seconds of the call alone, without starting Python and importing modules (ours only)."""
    requests: int = 0
    sent: int = 0

    @property
    def seconds(self) -> float:
        """Median wall time."""
        return statistics.median(self.wall)

    @property
    def call(self) -> float:
        """Median wall time of the call alone, or of all where there is no difference."""
        return statistics.median(self.inside or self.wall)


class Server:
    """The counting HTTP server, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin and process.stdout
        self._input: IO[str] = process.stdin
        self._output: IO[str] = process.stdout
        self.url = self._output.readline().strip()

    def counts(self) -> tuple[int, int]:
        """Return requests and bytes sent since the last call."""
        self._input.write("counts\n")
        self._input.flush()
        requests, sent = self._output.readline().split()
        return int(requests), int(sent)


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Serve the repositories in `folder`."""
    argv = [sys.executable, str(ROOT / "tests/fixtures/http_git.py"), str(folder)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Server(process)
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait()


Method = Callable[[Path], list[list[str]]]
"""Gives the commands to run in an empty folder."""


def measure(runs: Runs, method: Method, place: Path) -> None:
    """Run a method once in the empty folder `place`."""
    commands = method(place)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    outputs = [subprocess.run(argv, cwd=place, check=True, capture_output=True, text=True).stdout for argv in commands]
    runs.wall.append(time.perf_counter() - started)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    runs.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    if outputs[-1].strip():
        runs.inside.append(float(outputs[-1]))


def compare(methods: dict[str, Method], repeat: int, scratch: Path, counted: Server | None = None) -> dict[str, Runs]:
    """Run all methods `repeat` times, one after the other in turns, each in a fresh folder."""
    results = {name: Runs() for name in methods}
    for number in range(repeat):
        for name, method in methods.items():
            # Kept to the end: some file systems are slow to create files just after others were removed.
            place = Path(tempfile.mkdtemp(dir=scratch))
            os.sync()  # what the last one wrote is not this one's burden
            if counted:
                counted.counts()
            measure(results[name], method, place)
            if counted:
                results[name].requests, results[name].sent = counted.counts()
            print(f"  {number + 1}/{repeat} {name}: {results[name].wall[-1]:.2f} s", file=sys.stderr)
    return results


# --- the methods ---------------------------------------------------------------------------------


def ours(url: str, commit: str, folder: str, *, low: bool = False) -> Method:
    """Our import, in a fresh process with an empty cache."""

    def commands(place: Path) -> list[list[str]]:
        (place / "made").mkdir()
        kind = "low" if low else "usual"
        argv = [sys.executable, "-c", _IMPORT, url, commit, folder, kind, str(place / "cache"), str(place / "made")]
        return [["env", f"PYTHONPATH={ROOT}", *argv]]

    return commands


def sparse_clone(url: str, commit: str, folder: str, *, checkout: bool) -> Method:
    """What a careful person types; the most careful one leaves the first checkout out, which nobody needs."""
    first = [] if checkout else ["--no-checkout"]
    return lambda place: [
        ["git", "clone", "--quiet", "--filter=blob:none", "--sparse", *first, url, "clone"],
        ["git", "-C", "clone", "sparse-checkout", "set", "--cone", folder],
        ["git", "-C", "clone", "checkout", "--quiet", commit],
    ]


def shallow_clone(url: str) -> Method:
    """What a hurried person types: everything of the newest commit."""
    return lambda place: [["git", "clone", "--quiet", "--depth=1", "--branch=main", url, "clone"]]


def archive(repository: Path, commit: str, folder: str) -> Method:
    """The floor: git and tar alone."""
    script = 'git --git-dir="$1" archive "$2:$3" | tar -x'
    return lambda place: [["sh", "-c", script, "sh", str(repository), commit, folder]]


def checkout(repository: Path, commit: str, folder: str) -> Method:
    """What ddiskit did: a checkout of the folder, here in a work tree of its own (which takes no time to make)."""

    def commands(place: Path) -> list[list[str]]:
        argv = ["git", "clone", "--quiet", "--shared", "--no-checkout", str(repository), str(place / "tree")]
        subprocess.run(argv, check=True)
        return [["git", "-C", "tree", "checkout", commit, "--", folder]]

    return commands


# --- the tables ----------------------------------------------------------------------------------


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print("| " + " | ".join(headings) + " |")
    print("|" + "---|" * len(headings))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def packed_size(repository: Path, *revisions: str) -> int:
    """Return the bytes of a pack with the objects that `git rev-list --objects` lists."""
    git = ["git", f"--git-dir={repository}"]
    listed = subprocess.run([*git, "rev-list", "--objects", *revisions], check=True, capture_output=True)
    packed = subprocess.run(
        [*git, "pack-objects", "--stdout", "--quiet"], check=True, capture_output=True, input=listed.stdout
    )
    return len(packed.stdout)


def remote_table(repository: Path, commit: str, repeat: int, scratch: Path, *, quick: bool) -> None:
    """Compare imports over HTTP."""
    trees = packed_size(repository, "--no-walk", "--filter=blob:none", commit)
    rows = []
    with server(repository.parent) as running:
        url = f"{running.url}/{repository.name}"
        for size, folder in SIZES.items():
            subtree = packed_size(repository, f"{commit}:{folder}")
            methods = {
                "pkgkmod": ours(url, commit, folder),
                "pkgkmod --low-bandwidth": ours(url, commit, folder, low=True),
                "blobless sparse clone": sparse_clone(url, commit, folder, checkout=True),
                "the same, --no-checkout first": sparse_clone(url, commit, folder, checkout=False),
            }
            results = compare(methods, repeat, scratch, running)
            if not quick:
                results |= compare({"clone --depth 1, checkout": shallow_clone(url)}, 1, scratch, running)
            peer = results["blobless sparse clone"]
            for name, runs in results.items():
                floor = subtree if "low" in name else subtree + trees
                rows.append(
                    [
                        size,
                        name,
                        str(runs.requests),
                        f"{runs.sent / 1e6:.2f}",
                        f"{runs.sent / floor:.2f}",
                        f"{peer.seconds / runs.seconds:.2f}",
                        f"{peer.seconds / runs.call:.2f}",
                        f"{statistics.median(runs.cpu):.2f}",
                    ]
                )
    headings = ["", "method", "requests", "MB", "bytes / floor", "x sparse clone's speed", "the call alone", "CPU s"]
    print_table(headings, rows)


def local_table(repository: Path, commit: str, repeat: int, scratch: Path) -> None:
    """Compare imports from a repository on this machine."""
    rows = []
    for size, folder in SIZES.items():
        methods = {
            "git archive, tar": archive(repository, commit, folder),
            "pkgkmod": ours(str(repository), commit, folder),
            "git checkout REV -- DIR": checkout(repository, commit, folder),
        }
        results = compare(methods, repeat, scratch)
        floor = results["git archive, tar"].seconds
        for name, runs in results.items():
            rows.append(
                [
                    size,
                    name,
                    f"{runs.call / floor:.2f}",
                    f"{runs.call - floor:+.2f}",
                    f"{runs.seconds - floor:+.2f}",
                    f"{statistics.median(runs.cpu):.2f}",
                ]
            )
    print_table(["", "method", "x floor (call)", "s over floor (call)", "s over floor (process)", "CPU s"], rows)
    parallel_table(repository, commit, scratch)


def parallel_table(repository: Path, commit: str, scratch: Path) -> None:
    """Start four imports at once, and say how many of them came through and what became of the repository."""
    folder = SIZES["m"]
    before = state(repository)
    [argv] = checkout(repository, commit, folder)(scratch)
    argv[2] = str(scratch / argv[2])
    places = [scratch / f"at-once-{number}" for number in range(4)]
    for place in places:
        place.mkdir()
    imports = [ours(str(repository), commit, folder)(place)[0] for place in places]
    rows = [
        ["pkgkmod", f"{at_once(imports)} of 4", "no" if state(repository) == before else "yes"],
        ["git checkout REV -- DIR", f"{at_once([argv] * 4)} of 4", "yes (its index)"],
    ]
    print_table(["four at once", "came through", "repository changed"], rows)


def at_once(commands: Sequence[list[str]]) -> int:
    """Run commands side by side, and return how many succeeded."""
    silent = subprocess.DEVNULL
    running = [subprocess.Popen(argv, stdout=silent, stderr=silent) for argv in commands]
    return sum(process.wait() == 0 for process in running)


def state(repository: Path) -> str:
    """Return a digest of the names, sizes, modes and times of all files of a repository."""
    facts = [(str(p), p.lstat().st_size, p.lstat().st_mode, p.lstat().st_mtime_ns) for p in repository.rglob("*")]
    return hashlib.sha256(json.dumps(sorted(facts)).encode()).hexdigest()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Importing sources, side by side with git's own ways.")
    parser.add_argument("--quick", action="store_true", help="one run of each, and no clone of everything")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each method (median)")
    given = parser.parse_args()
    try:
        repository = kernel_repository()
    except MissingTarball as missing:
        sys.exit(str(missing))
    command = ["git", f"--git-dir={repository}", "rev-parse", "main"]
    commit = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    repeat = 1 if given.quick else given.repeat
    with tempfile.TemporaryDirectory(prefix="pkgkmod-bench-") as scratch:
        remote_table(repository, commit, repeat, Path(scratch), quick=given.quick)
        local_table(repository, commit, repeat, Path(scratch))


if __name__ == "__main__":
    main()

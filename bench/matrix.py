"""Ten kernels to ten RPMs, ten DEBs and a driver disk: pkgkmod beside a floor, the naive way and dkms.

    .venv/bin/python -m bench.matrix --prepare        # once, as root: what it needs, with apt-get
    .venv/bin/python -m bench.matrix [--driver e1000e|hello|both] [--kernels 10] [--repeat 3]

Prints tables in Markdown; bench/README.md says what they mean.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.kernel_repository import DRIVER, cache_folder
from bench.matrix_peers import COMPILER, CONTENDERS, Driver, Matrix, Phase, Step

ROOT = Path(__file__).resolve().parent.parent
HELLO = "drivers/misc/hello"
TOOLS = (
    *(COMPILER, "make", "git", "rpm", "createrepo-c", "dpkg-dev", "debhelper", "xorriso", "dkms", "strace"),
    "bubblewrap",
)
# The headers of each series, as Debian 12 names them; the groups are the ABI and the flavour.
SERIES = {
    "6.1": re.compile(r"linux-headers-(?P<release>6\.1\.0-(?P<abi>\d+)-(?P<flavour>amd64|cloud-amd64|rt-amd64))"),
    "6.12": re.compile(
        r"linux-headers-(?P<release>6\.12\.(?P<abi>\d+)\+deb12-(?P<flavour>amd64|cloud-amd64|rt-amd64))"
    ),
}
FLAVOURS = ("amd64", "cloud-amd64", "rt-amd64")
# How many times the floor at most, and how many times faster than naive at least.
GOALS = {"e1000e": (1.1, 2.2), "hello": (1.5, 4.0)}
NO_CHANGE_GOAL = 0.8
"""CPU seconds of a run in which nothing has changed, ten kernels."""
_COMPILING = re.compile(r"g?make|cc1?|as|ld(\.\w+)?|(.*-)?(gcc|clang)(-\d+)?")


class Failed(Exception):
    """A contender came to no good end."""


@dataclass
class Runs:
    """What the runs of a phase took: seconds of wall and CPU time, and the peak of the tool's own memory in MB."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


# --- kernels and sources --------------------------------------------------------------------------


def newest_kernels(number: int) -> dict[str, tuple[str, ...]]:
    """Return `number` kernels of the apt index, half of each series: the newest ABIs, flavour by flavour."""
    listed = subprocess.run(
        ["apt-cache", "search", "--names-only", "^linux-headers-6[.]"], check=True, capture_output=True, text=True
    ).stdout
    names = [line.split()[0] for line in listed.splitlines()]
    chosen = {}
    for (series, pattern), share in zip(SERIES.items(), (number - number // 2, number // 2), strict=True):
        found = [match for name in names if (match := pattern.fullmatch(name))]
        found.sort(key=lambda match: (-int(match["abi"]), FLAVOURS.index(match["flavour"])))
        if len(found) < share:
            sys.exit(f"the apt index has {len(found)} kernels of series {series}, not {share}")
        chosen[series] = tuple(match["release"] for match in found[:share])
    return chosen


def check_kernels(kernels: Sequence[str]) -> None:
    """Leave if the headers of a kernel are missing, or another compiler built it."""
    for kernel in kernels:
        config = Path(f"/lib/modules/{kernel}/build/.config")
        if not config.is_file():
            sys.exit(f"the headers of {kernel} are not installed; run this with --prepare first")
        if not re.search(rf'^CONFIG_CC_VERSION_TEXT="(\S+-)?{COMPILER} ', config.read_text("utf-8"), re.MULTILINE):
            sys.exit(f"{kernel} was not built by {COMPILER}")


def prepare(kernels: Sequence[str]) -> None:
    """Install the tools and the kernels' headers, and make the repository of e1000e."""
    packages = [*TOOLS, *(f"linux-headers-{kernel}" for kernel in kernels)]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    subprocess.run(install, check=True, env=environment)
    e1000e_repository(make=True)


def e1000e_repository(*, make: bool = False) -> Path:
    """Return the repository that has e1000e as of both series, tagged v6.1 and v6.12; `make` it if it is missing."""
    place = cache_folder() / "matrix-e1000e"
    if not place.is_dir():
        if not make:
            sys.exit(f"{place} is missing; run this with --prepare first")
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            repository = Path(scratch, "repository")
            for series in SERIES:
                shutil.rmtree(repository / "drivers", ignore_errors=True)
                _extract(series, Path(scratch), repository)
                commit(repository, f"v{series}")
            repository.rename(place)
    return place


def _extract(series: str, scratch: Path, repository: Path) -> None:
    """Put e1000e of a series' linux-source package into the repository's folder."""
    package = f"linux-source-{series}"
    subprocess.run(["apt-get", "download", package], cwd=scratch, check=True)
    [file] = scratch.glob(f"{package}_*.deb")
    subprocess.run(["dpkg-deb", "-x", str(file), str(scratch / series)], check=True)
    repository.mkdir(exist_ok=True)
    tar = ["tar", "-xJf", str(scratch / series / f"usr/src/{package}.tar.xz"), "--strip-components=1"]
    subprocess.run([*tar, f"{package}/{DRIVER}"], cwd=repository, check=True)


def commit(folder: Path, tag: str) -> None:
    """Commit all files of a folder, and tag the commit."""
    who = ["-c", "user.name=Kernel Importer", "-c", "user.email=importer@example.org"]
    first = [] if (folder / ".git").is_dir() else [["init", "-q", "-b", "main"]]
    for args in (*first, ["add", "-A"], ["commit", "-q", "-m", tag], ["tag", tag]):
        subprocess.run(["git", *who, *args], cwd=folder, check=True)


def driver(name: str, scratch: Path) -> Driver:
    """Return a driver by its name; hello has one revision for both series."""
    if name == "e1000e":
        return Driver(name, DRIVER, "CONFIG_E1000E", e1000e_repository(), {series: f"v{series}" for series in SERIES})
    repository = scratch / "hello-repository"
    shutil.copytree(ROOT / "examples/hello", repository)
    commit(repository, "v1.0")
    return Driver(name, HELLO, "CONFIG_HELLO", repository, dict.fromkeys(SERIES, "v1.0"))


# --- measuring ------------------------------------------------------------------------------------


def environment(place: Path) -> dict[str, str]:
    """Return the variables that every contender gets; nothing of an outer make, ccache or git comes through.

    What they put into temporary files is on the same disk as all else.
    """
    (place / "tmp").mkdir(exist_ok=True)
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": str(place), "TMPDIR": str(place / "tmp"), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def run(step: Step, place: Path, *, watch: bool) -> float:
    """Run a step; return the peak memory of its own process in MB if it is watched, or 0. Raise Failed."""
    log = place / "log"
    peak = [0.0]
    with log.open("ab") as sink:
        process = subprocess.Popen(
            step.argv,
            cwd=step.cwd,
            env={**environment(place), **step.env},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
        if watch:
            threading.Thread(target=_watch_memory, args=(process.pid, peak), daemon=True).start()
        code = process.wait()
    if code:
        tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-15:])
        raise Failed(f"{' '.join(step.argv)}: exit {code}\n{tail}")
    return peak[0]


def _watch_memory(pid: int, peak: list[float]) -> None:
    """Note the high-water mark of a process until it ends: of it alone, as getrusage cannot say."""
    try:
        while match := re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("ascii", "replace")):
            peak[0] = int(match[1]) / 1024
            time.sleep(0.02)
    except OSError:
        pass


def measure(phase: Phase, runs: Runs, place: Path) -> None:
    """Run a phase once."""
    os.sync()  # what the last one wrote is not this one's burden
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    peaks = [run(step, place, watch=phase.is_tool) for step in phase.steps]
    runs.wall.append(time.perf_counter() - started)
    reap()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    runs.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    runs.memory.append(max(peaks))


def adopt_orphans() -> None:
    """Become the parent of processes that lose theirs: bubblewrap leaves its own unwaited for, with their CPU time."""
    pr_set_child_subreaper = 36  # prctl(2)
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def reap() -> None:
    """Wait for all processes that were adopted, so that getrusage counts them."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def check_results(name: str, matrix: Matrix, place: Path) -> None:
    """Raise Failed unless a contender made all it was to make."""
    number = len(matrix.releases)
    wanted = {".rpm": number, ".deb": number, ".iso": 1}
    # By their names: what is both a result and on the disk, or in a cache, counts once.
    names = {path.name for path in place.rglob("*.*") if path.is_file() and not path.name.endswith(".src.rpm")}
    found = Counter(Path(name).suffix for name in names)
    if name == "dkms":
        wanted = {".ko": number}
        # Compressed, where the kernel's own modules are.
        found = Counter(".ko" for _ in place.glob(f"dkms/{matrix.driver.name}/*/*/*/module/*.ko*"))
    if any(found[suffix] < least for suffix, least in wanted.items()):
        made = {suffix: found[suffix] for suffix in wanted}
        raise Failed(f"{name} made {made}, where {wanted} were to be made")


def compare(matrix: Matrix, contenders: Sequence[str], repeat: int, scratch: Path) -> dict[str, Runs]:
    """Run all contenders `repeat` times in turns, each in a fresh folder; leave those out that fail.

    Nothing is removed in between: ext4 makes files slower for a while after others were removed, and what one
    contender leaves must not be the next one's burden. Each round begins with another contender.
    """
    results: dict[str, Runs] = {}
    left = list(contenders)
    for number in range(repeat):
        start = number % len(left)
        for name in (*left[start:], *left[:start]):
            place = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=scratch))
            place.chmod(0o755)  # a sandbox's user must get in
            try:
                phases = CONTENDERS[name](matrix, place)
                for phase in phases:
                    runs = results.setdefault(phase.name, Runs())
                    measure(phase, runs, place)
                    note = f"{runs.wall[-1]:.2f} s, CPU {runs.cpu[-1]:.2f} s, load {os.getloadavg()[0]:.1f}"
                    print(f"  {number + 1}/{repeat} {matrix.driver.name} {phase.name}: {note}", file=sys.stderr)
                check_results(name, matrix, place)
                if name == "pkgkmod" and number == repeat - 1:
                    print_started(phases[-1].steps[-1], place)
            except Failed as failure:
                print(f"{name} is left out: {failure}", file=sys.stderr)
                left.remove(name)
                results = {key: runs for key, runs in results.items() if key.partition(",")[0] != name}
    return results


def print_started(step: Step, place: Path) -> None:
    """Run a step once more under strace, and print which programs it started, and whether any compiles."""
    traces = place / "traces"
    traces.mkdir()
    # A file for each process: lines of two never mix.
    trace = ("strace", "-ff", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o", str(traces / "of"))
    run(Step((*trace, *step.argv), step.cwd, step.env), place, watch=False)
    lines = [line for file in traces.iterdir() for line in file.read_text("utf-8", "replace").splitlines()]
    started = Counter(Path(match[1]).name for line in lines if (match := re.match(r'execve\("([^"]+)".* = 0$', line)))
    started[Path(step.argv[0]).name] -= 1
    names = ", ".join(f"{number} x {name}" for name, number in sorted((+started).items())) or "none"
    compiling = sorted(name for name in +started if _COMPILING.fullmatch(name))
    print(f"No change, programs started (strace): {names}. Make or compiler: {', '.join(compiling) or 'none'}.\n")


# --- the tables -----------------------------------------------------------------------------------


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print("| " + " | ".join(headings) + " |")
    print("|" + "---|" * len(headings))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def print_results(name: str, results: dict[str, Runs]) -> None:
    """Print what the contenders took, and each as a ratio of wall and of CPU time to the floor and to pkgkmod."""
    rows = []
    for phase, runs in results.items():
        memory = statistics.median(runs.memory)
        rows.append(
            [
                *(phase, f"{statistics.median(runs.wall):.2f}", f"{statistics.median(runs.cpu):.2f}"),
                *ratios(runs, results.get("floor")),
                *ratios(runs, results.get("pkgkmod")),
                f"{memory:.0f}" if memory else "",
            ]
        )
    to_floor, to_pkgkmod = ("wall / floor", "CPU / floor"), ("wall / pkgkmod", "CPU / pkgkmod")
    print_table([name, "wall s", "CPU s", *to_floor, *to_pkgkmod, "MB of the tool"], rows)


def ratios(runs: Runs, peer: Runs | None) -> tuple[str, str]:
    """Return the ratios of the median wall and CPU times; empty without a peer."""
    if peer is None:
        return "", ""
    wall = statistics.median(runs.wall) / statistics.median(peer.wall)
    return f"{wall:.2f}", f"{statistics.median(runs.cpu) / statistics.median(peer.cpu):.2f}"


def print_goals(name: str, results: dict[str, Runs]) -> None:
    """Print the goals beside what was measured, as far as their contenders ran."""
    most, least = GOALS[name]
    rows = []
    if "pkgkmod" in results and "floor" in results:
        wall, cpu = ratios(results["pkgkmod"], results["floor"])
        rows.append([f"at most {most} x the floor", f"{wall} (wall), {cpu} (CPU)"])
    if "pkgkmod" in results and "naive" in results:
        wall, cpu = ratios(results["naive"], results["pkgkmod"])
        rows.append([f"at least {least} x faster than naive", f"{wall} (wall), {cpu} (CPU)"])
    if again := results.get("pkgkmod, no change"):
        rows.append([f"no change: at most {NO_CHANGE_GOAL} s CPU", f"{statistics.median(again.cpu):.2f} s"])
    if rows:
        print_table([f"{name}: goal", "measured"], rows)


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.matrix", description="Ten kernels to packages and a disk.")
    parser.add_argument("--prepare", action="store_true", help="install what it needs (apt-get, as root), and end")
    parser.add_argument("--driver", choices=[*GOALS, "both"], default="both")
    parser.add_argument("--kernels", type=int, default=10, help="how many, half of 6.1 and half of 6.12")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="of %(default)s")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each contender (median)")
    given = parser.parse_args()
    given.contenders = given.contenders.split(",")
    if unknown := set(given.contenders) - set(CONTENDERS):
        parser.error(f"no such contender: {', '.join(sorted(unknown))}")
    if given.kernels < 2 or given.repeat < 1:
        parser.error("at least two kernels, and one run")
    return given


def main() -> None:
    """Run the benchmark."""
    given = arguments()
    adopt_orphans()
    if given.prepare:
        subprocess.run(["apt-get", "update"], check=True)
        kernels = newest_kernels(given.kernels)
        prepare([kernel for series in kernels.values() for kernel in series])
        return
    kernels = newest_kernels(given.kernels)
    check_kernels([kernel for series in kernels.values() for kernel in series])
    print("Kernels:", ", ".join(kernel for series in kernels.values() for kernel in series), end="\n\n", flush=True)
    os.umask(0o022)
    base = os.environ.get("TMPDIR") or "/var/tmp"
    for name in GOALS if given.driver == "both" else (given.driver,):
        with tempfile.TemporaryDirectory(prefix="pkgkmod-bench-", dir=base) as scratch:
            Path(scratch).chmod(0o755)
            matrix = Matrix(driver(name, Path(scratch)), kernels)
            results = compare(matrix, given.contenders, given.repeat, Path(scratch))
            print_results(name, results)
            print_goals(name, results)


if __name__ == "__main__":
    main()

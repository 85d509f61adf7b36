"""How long the prediction for 100 modules and all installed kernels takes, beside depmod, as weak-modules runs it.

The modules are those of the archive's -dkms packages, built by the real dkms (and some of the kernel's own, if these
are fewer than 100). `pkgkmod predict` is timed as a whole process. depmod is timed in two ways: with the 100 modules
alone, once for each kernel; and as weak-modules runs it, `depmod -naeE Module.symvers` of a kernel's whole tree with
one package's modules in it, for some of the packages (--packages) and each kernel that is installed with its own
modules. Each time is given twice: by the clock, and of the processors alone, which other work on the machine changes
less.

Run: .venv/bin/python -m bench.predict [--rounds N] [--packages N]
"""

from __future__ import annotations

import argparse
import functools
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.fixtures.archive_modules import archive_driver, driver_packages, image_modules
from tests.fixtures.machine import series_and_kernel

MODULES = 100
KERNELS = 10


class Seconds(NamedTuple):
    """How long something took."""

    clock: float
    processors: float


def seconds(call: Callable[[], object], rounds: int) -> Seconds:
    """Return the median times of a call that starts a program."""
    clock, processors = [], []
    for _ in range(rounds):
        started, used = time.perf_counter(), _used()
        call()
        clock.append(time.perf_counter() - started)
        processors.append(_used() - used)
    return Seconds(statistics.median(clock), statistics.median(processors))


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def module_sets(kernel: str) -> dict[str, list[Path]]:
    """Return the modules of each package, 100 in all."""
    found = {name: list(archive_driver(name, kernel).modules) for name in driver_packages()}
    found = {name: files for name, files in found.items() if files}
    missing = MODULES - sum(map(len, found.values()))
    if missing > 0:
        found["the kernel's own"] = sorted(image_modules(kernel).rglob("*.ko*"))[:missing]
    return found


def root(folder: Path, kernel: str, modules: Sequence[Path], *, own: bool) -> Path:
    """Lay out a tree of modules for depmod: those that are given, and the kernel's own behind a link."""
    place = folder / "lib/modules" / kernel
    shutil.rmtree(folder, ignore_errors=True)
    (place / "extra").mkdir(parents=True)
    for number, module in enumerate(modules):
        (place / "extra" / str(number)).mkdir()
        shutil.copy2(module, place / "extra" / str(number))
    if own:
        shutil.copytree(f"/lib/modules/{kernel}/kernel", place / "kernel", copy_function=shutil.copy2)
        for name in ("modules.order", "modules.builtin"):
            shutil.copy2(f"/lib/modules/{kernel}/{name}", place)
    return folder


def depmod(folder: Path, kernel: str) -> None:
    """Run depmod as weak-modules does."""
    symvers = f"/lib/modules/{kernel}/build/Module.symvers"
    command = ["depmod", "-b", str(folder), "-naeE", symvers, kernel]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--packages", type=int, default=3, help="of how many the modules are given to depmod one by one"
    )
    options = parser.parse_args()
    kernels = sorted(place.parent.name for place in Path("/lib/modules").glob("*/build"))[:KERNELS]
    if len(kernels) < KERNELS:
        print(f"only {len(kernels)} kernels are installed here: install headers of {KERNELS}", file=sys.stderr)
    whole = [kernel for kernel in kernels if Path(f"/lib/modules/{kernel}/kernel").is_dir()]
    sets = module_sets(series_and_kernel()[1])
    modules = [file for files in sets.values() for file in files]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        scratch = Path(name)
        words = [word for kernel in kernels for word in ("--kernel", kernel)]
        argv = [sys.executable, "-m", "pkgkmod", "predict", "--quiet", "--json", *map(str, modules), *words]

        def ours() -> None:
            done = subprocess.run(argv, cwd=scratch, capture_output=True, text=True, check=False)
            assert done.stdout.count('"event": "prediction"') == len(modules) * len(kernels), done.stderr

        predicted = seconds(ours, options.rounds)
        alone = []
        for kernel in kernels:
            place = root(scratch / "root", kernel, modules, own=False)
            alone.append(seconds(functools.partial(depmod, place, kernel), options.rounds))
        runs = []
        for files in list(sets.values())[: options.packages]:
            for kernel in whole:
                place = root(scratch / "root", kernel, files, own=True)
                runs.append(seconds(functools.partial(depmod, place, kernel), 1))
    print(f"{len(modules)} modules of {len(sets)} packages, {len(kernels)} kernels: {', '.join(kernels)}\n")
    print("| what | seconds | of the processors |\n|---|---|---|")
    row("`pkgkmod predict` of all, the whole process", predicted)
    row(
        f"depmod with these modules alone, which finds no symbol of the kernels' modules: {len(kernels)} runs",
        total(alone),
    )
    if runs:
        one = Seconds(*(statistics.median(column) for column in zip(*runs, strict=True)))
        row(f"depmod of a kernel's whole tree with a package's modules: a run, median of {len(runs)}", one)
        share = Seconds(*(value / len(sets) / len(kernels) for value in predicted))
        row("`pkgkmod predict`: what a package and a kernel have of it", share)
        print(f"\nFor a package and a kernel, {one.processors / share.processors:.0f} times less than depmod.")


def total(parts: Sequence[Seconds]) -> Seconds:
    """Return the sum."""
    return Seconds(sum(one.clock for one in parts), sum(one.processors for one in parts))


def row(what: str, took: Seconds) -> None:
    """Print a row of the table."""
    print(f"| {what} | {took.clock:.3f} | {took.processors:.3f} |")


if __name__ == "__main__":
    main()

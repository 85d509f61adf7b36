"""How long two kernels take to compare, cold and warm; the floor is reading all of their headers and finding each word.

Run: .venv/bin/python bench/apidiff.py OLD NEW [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pkgkmod.kernels.tree import read_kernel
from pkgkmod.modules.api.headerindex import header_folders, headers_below

_WORD = re.compile(rb"[A-Za-z_]\w*")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernels", nargs=2, metavar="RELEASE")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    times: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as cache:
            times.setdefault("floor: read, find words", []).append(seconds(lambda: floor(options.kernels)))
            for name in ("cold", "warm"):
                times.setdefault(name, []).append(seconds(lambda cache=cache: compare(options.kernels, cache)))  # type: ignore[misc]
            size = sum(file.stat().st_size for file in Path(cache).rglob("*.sqlite"))
    medians = {name: statistics.median(some) for name, some in times.items()}
    print(f"{'':28}{'seconds':>8}{'x floor':>9}")
    for name, median in medians.items():
        print(f"{name:28}{median:8.1f}{median / medians['floor: read, find words']:9.2f}")
    print(
        f"kept in the cache: {size / 1e6:.0f} MB; {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}"
    )


def seconds(action: Callable[[], None]) -> float:
    """Return how long something takes."""
    started = time.monotonic()
    action()
    return time.monotonic() - started


def compare(kernels: Sequence[str], cache: str) -> None:
    """Compare the kernels as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "pkgkmod", "apidiff", *kernels],
        env={**os.environ, "XDG_CACHE_HOME": cache},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 19):
        sys.exit(done.stderr)


def floor(kernels: Sequence[str]) -> None:
    """Read all headers, one after the other."""
    for release in kernels:
        kernel = read_kernel(Path("/lib/modules", release, "build"), "installed", identify=False)
        for folder, called in header_folders(kernel):
            for path, _ in headers_below(folder, called):
                set(_WORD.findall(path.read_bytes()))


if __name__ == "__main__":
    main()

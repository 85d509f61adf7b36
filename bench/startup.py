"""How long pkgkmod takes to say what it can do, against a bare interpreter of the same environment.

Run: .venv/bin/python bench/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 30


def seconds(*argv: str) -> float:
    """Return the median time of a command, in seconds."""
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        subprocess.run(argv, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    """Print the ratios."""
    command = str(Path(sys.executable).with_name("pkgkmod"))
    floor = seconds(sys.executable, "-c", "pass")
    print("| command | x bare interpreter | goal |\n|---|---|---|")
    for words, goal in ((["--help"], "5"), (["--version"], ""), (["build_rpm", "--help"], "")):
        print(f"| `pkgkmod {' '.join(words)}` | {seconds(command, *words) / floor:.1f} | {goal} |")


if __name__ == "__main__":
    main()

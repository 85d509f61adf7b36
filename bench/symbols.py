"""How long it takes to read what modules need and export, against one `modprobe --dump-modversions` for each.

Run: .venv/bin/python -m bench.symbols [FOLDER]     (modules of the running kernel, if no folder is named)
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pkgkmod.modules import kmod_deps

RUNS = 5
MODULES = 100
KERNELS = 10
PROGRAM = str(Path(kmod_deps.__file__))
# Ten modules against each of ten kernels: all are read, and each symbol looked up. A process of its own.
RESOLVE = """
import sys
from pkgkmod.modules.kmod_deps import read_module, read_symvers
symvers, *files = sys.argv[1:]
troubles = 0
for first in range(0, len(files), 10):
    exports = read_symvers(symvers)
    for module in map(read_module, files[first : first + 10]):
        for name, crc in (module.versions or {}).items():
            troubles += name not in exports or exports[name].crc != crc
print(troubles)
"""


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Return the median wall and CPU seconds of some work, processes that it starts included."""
    times = []
    for _ in range(RUNS):
        began, before = time.perf_counter(), _cpu()
        work()
        times.append((time.perf_counter() - began, _cpu() - before))
    return statistics.median(wall for wall, _ in times), statistics.median(cpu for _, cpu in times)


def _cpu() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def started(*argv: str, names: str = "") -> str:
    """Return what a program prints."""
    return subprocess.run(argv, input=names, capture_output=True, text=True, check=True).stdout


def with_pyelftools(file: str) -> int:
    """Read the symbols of a module that is not compressed with the library; return how many are undefined."""
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    with Path(file).open("rb") as opened:
        table = ELFFile(opened).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        return sum(symbol["st_shndx"] == "SHN_UNDEF" for symbol in table.iter_symbols())


def main() -> None:
    """Print the table."""
    release = Path("/proc/sys/kernel/osrelease").read_text("ascii").strip()
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("/lib/modules") / release / "kernel"
    found = sorted(map(str, folder.rglob("*.ko*")))
    files = found[:: max(1, len(found) // MODULES)][:MODULES]
    release = kmod_deps.read_module(files[0]).release
    symvers = f"/lib/modules/{release}/build/Module.symvers"
    ways: dict[str, Callable[[], object]] = {
        "`modprobe --dump-modversions`, a process each": lambda: [
            subprocess.run(["modprobe", "--dump-modversions", file], capture_output=True, check=False) for file in files
        ],
        "`pkgkmod-deps symbols`, a process for all": lambda: started(
            sys.executable, PROGRAM, "symbols", names="\n".join(files)
        ),
        f"{len(files)} modules and {KERNELS} Module.symvers, a process for all": lambda: started(
            sys.executable, "-c", RESOLVE, symvers, *files
        ),
        "a bare interpreter": lambda: started(sys.executable, "-c", "pass"),
        "the reader itself (call)": lambda: [kmod_deps.read_module(file) for file in files],
        "a Module.symvers (call)": lambda: kmod_deps.read_symvers(symvers),
    }
    if all(file.endswith(".ko") for file in files):
        ways["symbols alone with pyelftools (call)"] = lambda: [with_pyelftools(file) for file in files]
    results = {name: measured(work) for name, work in ways.items()}
    floor = next(iter(results.values()))
    print(f"{len(files)} modules of {release}, {sum(Path(file).stat().st_size for file in files) / 1e6:.1f} MB")
    print("| way | s | CPU s | x modprobe's speed |\n|---|---|---|---|")
    for name, (wall, cpu) in results.items():
        print(f"| {name} | {wall:.3f} | {cpu:.3f} | {floor[1] / cpu:.1f} |")


if __name__ == "__main__":
    main()

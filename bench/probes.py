"""How long a kernel takes to answer 250 questions, against a make for each, and against ZFS's way: one make of modules.

Run: .venv/bin/python bench/probes.py [--rounds N] [KERNEL]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pkgkmod.model.probes import Probe
from pkgkmod.modules.probefiles import c_texts

COMPILER = "gcc-12"
SAMPLE = 12
"""Questions that are asked with a make for each; the time of all is taken from theirs."""
# As config/kernel.m4 of OpenZFS asks for objects; what compiled is linked in a second make, which is left out here.
_UNLINKED = ("KBUILD_MODPOST_NOFINAL=yes", "KBUILD_MODPOST_WARN=yes")
JOBS = len(os.sched_getaffinity(0))

# Of each header: something that is there, and its like that is not.
HEADERS = {
    "linux/netdevice.h": "struct net_device",
    "linux/pci.h": "struct pci_dev",
    "linux/fs.h": "struct inode",
    "linux/blkdev.h": "struct request_queue",
    "linux/mm.h": "struct vm_area_struct",
    "linux/skbuff.h": "struct sk_buff",
    "linux/device/class.h": "struct class",
    "linux/timer.h": "struct timer_list",
    "linux/workqueue.h": "struct work_struct",
    "linux/interrupt.h": "struct irqaction",
    "linux/usb.h": "struct usb_device",
    "linux/ethtool.h": "struct ethtool_ops",
    "linux/cdev.h": "struct cdev",
    "linux/proc_fs.h": "struct proc_ops",
    "linux/seq_file.h": "struct seq_file",
    "linux/sched.h": "struct task_struct",
    "linux/hrtimer.h": "struct hrtimer",
    "linux/dma-mapping.h": "struct dma_map_ops",
    "linux/kthread.h": "struct kthread_work",
    "linux/debugfs.h": "struct dentry",
    "linux/crypto.h": "struct crypto_tfm",
    "linux/module.h": "struct module",
    "linux/i2c.h": "struct i2c_client",
    "linux/platform_device.h": "struct platform_device",
    "linux/kobject.h": "struct kobject",
}


def questions() -> dict[str, Probe]:
    """Return 250 questions, ten for each header; half of the answers are no."""
    found = {}
    for number, (header, kind) in enumerate(HEADERS.items()):
        for more in range(5):
            present = f"sizeof({kind}) + {more}"
            found[f"HAVE_{number}_{more}"] = Probe(includes=(header,), call=present)
            found[f"HAVE_NO_{number}_{more}"] = Probe(includes=(header,), call=f"no_such_function_{more}(1)")
    return found


def project(folder: Path, kernel: str) -> None:
    """Write the project that asks them."""
    lines = ["[project]", 'name = "bench"', "[[target]]", 'distro = "debian12"', f'kernels = ["{kernel}"]']
    for name, probe in questions().items():
        lines += [f"[probe.{name}]", f'includes = ["{probe.includes[0]}"]', f"call = '{probe.call}'"]
    (folder / "pkgkmod.toml").write_text("\n".join(lines) + "\n")


def seconds(argv: list[str], folder: Path, *, fails: bool = False, **variables: str) -> float:
    """Return the seconds that a command took, which must end as foreseen."""
    started = time.perf_counter()
    done = subprocess.run(argv, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True)
    taken = time.perf_counter() - started
    if (done.returncode != 0) != fails:
        raise SystemExit(f"{argv}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return taken


def asked(folder: Path, cache: Path) -> float:
    """Return what it takes to run `pkgkmod probe`."""
    return seconds([sys.executable, "-m", "pkgkmod", "probe", "--json"], folder, XDG_CACHE_HOME=str(cache))


def make(folder: Path, kernel: str, *more: str) -> list[str]:
    """Return the words that make modules of all that is in a folder."""
    tree = f"/lib/modules/{kernel}/build"
    return ["make", "-k", f"-j{JOBS}", "-C", tree, f"M={folder}", f"CC={COMPILER}", *more, "modules"]


def modules(folder: Path, texts: list[str]) -> None:
    """Write a module for each question."""
    folder.mkdir()
    for number, text in enumerate(texts):
        more = '#include <linux/module.h>\nMODULE_LICENSE("GPL");\n'
        (folder / f"p{number}.c").write_text(text + more)
    (folder / "Makefile").write_text("obj-m := " + " ".join(f"p{n}.o" for n in range(len(texts))) + "\n")


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernel", nargs="?", default=max(p.parent.name for p in Path("/lib/modules").glob("*/build")))
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed (default: 3)")
    given = parser.parse_args()
    kernel = given.kernel
    texts = [text for probe in questions().values() for text in c_texts(probe)]
    times: dict[str, list[float]] = {"pkgkmod": [], "modules": [], "again": []}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        scratch = Path(name)
        project(scratch, kernel)
        for turn in range(given.rounds):  # in turns, so that what else this machine does meets all of them
            times["pkgkmod"].append(asked(scratch, scratch / f"cache-{turn}"))
            times["again"].append(asked(scratch, scratch / f"cache-{turn}"))
            modules(scratch / f"all-{turn}", texts)
            times["modules"].append(seconds(make(scratch / f"all-{turn}", kernel, *_UNLINKED), scratch, fails=True))
        single = []
        step = len(texts) // SAMPLE | 1  # odd: every other question is answered with yes
        for number, text in enumerate(texts[::step][:SAMPLE]):
            modules(scratch / f"one-{number}", [text])
            single.append(seconds(make(scratch / f"one-{number}", kernel), scratch, fails="no_such" in text))
    report = {
        "`pkgkmod probe`": (statistics.median(times["pkgkmod"]), ""),
        f"one make of {len(texts)} modules": (statistics.median(times["modules"]), "at least 0.83"),
        f"a make for each (from {SAMPLE} of them)": (statistics.mean(single) * len(texts), "at least 20"),
        "`pkgkmod probe` again": (statistics.median(times["again"]), "nothing compiled"),
    }
    ours = report["`pkgkmod probe`"][0]
    print(f"{kernel}, {len(texts)} questions, {JOBS} jobs, {given.rounds} rounds, load {os.getloadavg()[0]:.1f}")
    print("| method | x pkgkmod's time | goal |\n|---|---|---|")
    for name, (took, goal) in report.items():
        print(f"| {name} | {took / ours:.2f} | {goal} |")


if __name__ == "__main__":
    main()

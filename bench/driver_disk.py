"""A driver disk of 200 packages: pkgkmod beside the programs that it starts, alone.

    .venv/bin/python -m bench.matrix --prepare        # once, as root: headers, compiler, the sources of e1000e
    .venv/bin/python -m bench.driver_disk [--packages 200] [--repeat 5] [--format rpm|deb|both] [--firmware MIB]

Prints tables in Markdown; bench/README.md says what they mean.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.kernel_repository import DRIVER, cache_folder
from bench.matrix import Failed, Runs, check_kernels, e1000e_repository, measure, newest_kernels, print_table, ratios
from bench.matrix_peers import COMPILER, Phase, Step

GOAL = 1.3
"""How many times the floor at most: that which reads all modules if pkgkmod does, or else the plain one."""
RPM_KERNEL = "5.14.0-427.13.1.el9_4.x86_64"
"""The kernel of EL 9.4's installer."""
FORMATS = ("rpm", "deb")
_EPOCH = "1709294400"
_MOMENT = "2024030112000000"
# The flags of pkgkmod's own calls, so that nobody wins by doing less.
_INDEX = ("createrepo_c", "--quiet", "--no-database", "--simple-md-filenames", "--general-compress-type=gz")
_IMAGE = (
    *("xorriso", "-no_rc", "-as", "mkisofs", "-quiet", "-V", "OEMDRV", "-r", "-J", "-joliet-long"),
    *("-uid", "0", "-gid", "0", "-dir-mode", "0555", "-file-mode", "0444"),
    *(f"--modification-date={_MOMENT}", "--set_all_file_dates", "set_to_mtime"),
)
# What udpkg needs is a control member in gzip; the data stays as it is.
_REPACK = """
set -e
mkdir -p disk/debian-drivers work
for file in "$1"/*.deb; do
    (cd work && ar x "$file" && xz -dc control.tar.xz | gzip -9n > control.tar.gz)
    (cd work && ar rcD "../disk/debian-drivers/${file##*/}" debian-binary control.tar.gz data.tar.xz)
done
"""
_REBUILD = """
set -e
mkdir -p disk/debian-drivers
for file in "$1"/*.deb; do
    rm -rf work
    dpkg-deb -R "$file" work
    dpkg-deb --root-owner-group -Zgzip -b work "disk/debian-drivers/${file##*/}"
done
"""
# What somebody would do who looks at each module before it goes on a disk.
_LOOK = """
set -e
for file in "$1"/*; do
    rm -rf look && mkdir look
    case $file in
        *.rpm) rpm2cpio "$file" | (cd look && cpio --quiet -idm) ;;
        *.deb) dpkg-deb -x "$file" look ;;
    esac
    find look -name '*.ko*' -exec modinfo {} + > facts
done
"""


# --- packages, made once --------------------------------------------------------------------------


def packages(form: str, number: int, firmware: int) -> Path:
    """Return a folder of real packages, each with a module of its own name: e1000e, 620 KB.

    RPMs also get `firmware` MiB that cannot be packed any smaller.
    """
    place = cache_folder() / f"driver-disk-{form}-{number}{f'-{firmware}' if firmware else ''}"
    if not place.is_dir():
        kernel = newest_kernels(2)["6.1"][0]
        check_kernels([kernel])
        print(f"making {number} packages, once", file=sys.stderr)
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as name:
            scratch = Path(name)
            (scratch / "made").mkdir()
            module = _compile(kernel, scratch)
            names = [f"adapter{one:03}" for one in range(number)]
            if form == "rpm":
                _make_rpms(names, kernel, module, scratch, firmware)
            else:
                _make_debs(names, kernel, module, scratch)
            (scratch / "made").rename(place)
    return place


def _compile(kernel: str, scratch: Path) -> Path:
    """Compile e1000e for a kernel, as its packages have it."""
    source = scratch / "source"
    repository = e1000e_repository()
    archive = subprocess.run(
        ["git", f"--git-dir={repository}/.git", "archive", f"v6.1:{DRIVER}"], check=True, stdout=subprocess.PIPE
    )
    source.mkdir()
    subprocess.run(["tar", "-x", "-C", source], check=True, input=archive.stdout)
    make = ["make", "-s", "-j2", "-C", f"/lib/modules/{kernel}/build", f"M={source}", f"CC={COMPILER}"]
    subprocess.run([*make, "CONFIG_E1000E=m", "modules"], check=True)
    subprocess.run(["strip", "--strip-debug", source / "e1000e.ko"], check=True)
    return source / "e1000e.ko"


def _renamed(module: Path, name: str, kernels: tuple[str, str], copy: Path) -> None:
    """Copy a module, as one of another name, and for the second of the kernels."""
    section = copy.parent / "modinfo"
    dump = ["objcopy", "-O", "binary", "--only-section=.modinfo", "--set-section-flags", ".modinfo=alloc"]
    subprocess.run([*dump, module, section], check=True)
    old, new = (f"\0vermagic={kernel} ".encode() for kernel in kernels)
    content = section.read_bytes().replace(old, new).replace(b"\0name=e1000e\0", f"\0name={name}\0".encode())
    section.write_bytes(content)
    subprocess.run(["objcopy", "--update-section", f".modinfo={section}", module, copy], check=True)
    section.unlink()


def _make_rpms(names: Sequence[str], kernel: str, module: Path, scratch: Path, firmware: int) -> None:
    modules = scratch / "modules"
    modules.mkdir()
    installs, parts = "", ""
    noise = random.Random(0)
    for name in names:
        _renamed(module, name, (kernel, RPM_KERNEL), modules / f"{name}.ko")
        folder = f"/lib/modules/{RPM_KERNEL}/extra/{name}"
        installs += f"install -D -m 0644 {modules}/{name}.ko %{{buildroot}}{folder}/{name}.ko\n"
        (modules / f"{name}.fw").write_bytes(noise.randbytes(firmware << 20))
        installs += f"install -D -m 0644 {modules}/{name}.fw %{{buildroot}}/lib/firmware/{name}.fw\n"
        parts += f"""%package -n kmod-{name}
Summary: Kernel module {name}
Provides: kernel-modules = {RPM_KERNEL}
AutoReqProv: no
%description -n kmod-{name}
Kernel module {name}.
%files -n kmod-{name}
{folder}
/lib/firmware/{name}.fw
"""
    head = """%global debug_package %{nil}
%global _build_id_links none
%global __os_install_post %{nil}
%global _binary_payload w2.xzdio
Name: adapters
Version: 1.0
Release: 1.el9
Summary: Kernel modules
License: GPL-2.0-only
%description
Kernel modules.
%install
"""
    (scratch / "adapters.spec").write_text(head + installs + parts, encoding="utf-8")
    folders = {"_topdir": scratch / "top", "_rpmdir": scratch / "rpms", "_dbpath": scratch / "db"}
    words = [word for key, path in folders.items() for word in ("--define", f"{key} {path}")]
    subprocess.run(["rpmbuild", "-bb", "--quiet", *words, scratch / "adapters.spec"], check=True)
    for file in scratch.glob("rpms/x86_64/*.rpm"):
        file.rename(scratch / "made" / file.name)


def _make_debs(names: Sequence[str], kernel: str, module: Path, scratch: Path) -> None:
    for name in names:
        package = f"{name}-modules-{kernel}"
        root = scratch / package
        folder = root / f"lib/modules/{kernel}/updates/{name}"
        folder.mkdir(parents=True)
        (root / "DEBIAN").mkdir()
        _renamed(module, name, (kernel, kernel), folder / f"{name}.ko")
        text = (
            f"Package: {package}\nVersion: 1.0-1~deb12\nArchitecture: amd64\nSection: kernel\nPriority: optional\n"
            f"Maintainer: Nobody <nobody@localhost>\nDescription: kernel module {name} for Linux {kernel}\n"
        )
        (root / "DEBIAN/control").write_text(text, encoding="utf-8")
        made = scratch / "made" / f"{package}_1.0-1~deb12_amd64.deb"
        build = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(root), str(made)]
        subprocess.run(build, check=True, capture_output=True)


# --- contenders -----------------------------------------------------------------------------------

Contender = Callable[[Path, Path], list[Phase]]
"""Takes the folder of packages and an empty one to work in, and says what is to be timed there."""


def _image(place: Path) -> Step:
    return Step((*_IMAGE, "-o", "driver.iso", "disk"), place, {"SOURCE_DATE_EPOCH": _EPOCH})


def rpm_floor(source: Path, place: Path) -> list[Phase]:
    """Copy, index and write the image."""
    folder = "disk/rpms/x86_64"
    script = f'mkdir -p {folder} && echo "Driver Update Disk version 3" > disk/rhdd3 && cp "$1"/*.rpm {folder}/'
    copy = Step(("sh", "-c", script, "sh", str(source)), place)
    return [Phase("floor", (copy, Step((*_INDEX, folder), place), _image(place)))]


def deb_floor(source: Path, place: Path) -> list[Phase]:
    """Give each package a control member in gzip by ar and xz, and write the image."""
    return [Phase("floor", (Step(("sh", "-c", _REPACK, "sh", str(source)), place), _image(place)))]


def looking(floor: Contender) -> Contender:
    """Return a floor that also unpacks each package, and calls modinfo for its modules."""

    def contender(source: Path, place: Path) -> list[Phase]:
        look = Step(("sh", "-c", _LOOK, "sh", str(source)), place)
        return [Phase("floor, modules read", (look, *phase.steps)) for phase in floor(source, place)]

    return contender


def deb_dpkg(source: Path, place: Path) -> list[Phase]:
    """Unpack and pack each package anew, as its tools allow, and write the image."""
    return [Phase("dpkg-deb", (Step(("sh", "-c", _REBUILD, "sh", str(source)), place), _image(place)))]


def pkgkmod(source: Path, place: Path) -> list[Phase]:
    """Make the disk with pkgkmod, which reads all packages; then again, when it knows them."""
    command = (str(Path(sys.executable).with_name("pkgkmod")), "build_iso", str(source), "--isofile")
    for folder in ("cache", "again"):
        (place / folder).mkdir()
    variables = {"XDG_CACHE_HOME": str(place / "cache"), "TMPDIR": str(place)}
    return [
        Phase(name, (Step((*command, file), place, variables),), is_tool=True)
        for name, file in (("pkgkmod, cold", "driver.iso"), ("pkgkmod, warm", "again/driver.iso"))
    ]


ONCE = ("dpkg-deb",)
"""Contenders that take so long that they run in the first round only."""
CONTENDERS: dict[str, dict[str, Contender]] = {
    "rpm": {"floor": rpm_floor, "floor, modules read": looking(rpm_floor), "pkgkmod": pkgkmod},
    "deb": {
        "floor": deb_floor,
        "floor, modules read": looking(deb_floor),
        "dpkg-deb": deb_dpkg,
        "pkgkmod": pkgkmod,
    },
}


def check_image(place: Path, form: str, number: int) -> None:
    """Raise Failed unless all packages are on the image, and the warm run's is that of the cold one."""
    listing = ("xorriso", "-indev", str(place / "driver.iso"), "-find", "/", "-type", "f", "-name", f"*.{form}")
    done = subprocess.run(listing, check=True, capture_output=True, text=True)
    found = len(done.stdout.splitlines())
    if found != number:
        raise Failed(f"{found} packages are on the disk, not {number}")
    again = place / "again/driver.iso"
    if again.exists() and again.read_bytes() != (place / "driver.iso").read_bytes():
        raise Failed("two runs made two images")


def compare(form: str, number: int, repeat: int, firmware: int, scratch: Path) -> dict[str, Runs]:
    """Run all contenders `repeat` times in turns, each in a fresh folder; nothing is removed in between."""
    source = packages(form, number, firmware)
    for file in source.iterdir():
        file.read_bytes()  # so that no contender reads them from the disk
    results: dict[str, Runs] = {}
    order = list(CONTENDERS[form].items())
    for turn in range(repeat):
        start = turn % len(order)
        for name, contender in (*order[start:], *order[:start]):
            if turn and name in ONCE:
                continue
            place = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=scratch))
            for phase in contender(source, place):
                runs = results.setdefault(phase.name, Runs())
                measure(phase, runs, place)
                note = f"{runs.wall[-1]:.2f} s, CPU {runs.cpu[-1]:.2f} s, load {os.getloadavg()[0]:.1f}"
                print(f"  {turn + 1}/{repeat} {form} {phase.name}: {note}", file=sys.stderr)
            check_image(place, form, number)
    return dict(sorted(results.items(), key=lambda one: (not one[0].startswith("floor"), one[0])))


def print_results(form: str, number: int, results: dict[str, Runs]) -> None:
    """Print what the contenders took, and each as a ratio to the floor."""
    rows = []
    for phase, runs in results.items():
        memory = statistics.median(runs.memory)
        times = [f"{statistics.median(values):.2f}" for values in (runs.wall, runs.cpu)]
        rows.append([phase, *times, *ratios(runs, results["floor"]), f"{memory:.0f}" if memory else ""])
    headings = [f"{number} {form.upper()}s", "wall s", "CPU s", "wall / floor", "CPU / floor", "MB of the tool"]
    print_table(headings, rows)
    measured = []
    for phase, floor in (("pkgkmod, cold", "floor, modules read"), ("pkgkmod, warm", "floor")):
        wall, cpu = ratios(results[phase], results[floor])
        more = statistics.median(results[phase].wall) - statistics.median(results[floor].wall)
        measured.append([f"{phase}: at most {GOAL} x {floor}", f"{wall} (wall), {cpu} (CPU); {more:+.2f} s"])
    print_table([f"{form}: goal", "measured"], measured)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench.driver_disk", description="A driver disk of many packages.")
    parser.add_argument("--packages", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=5, help="runs of each contender (median)")
    parser.add_argument("--firmware", type=int, default=0, metavar="MIB", help="of each RPM, besides the module")
    parser.add_argument("--format", choices=[*FORMATS, "both"], default="both")
    given = parser.parse_args()
    if given.packages < 1 or given.repeat < 1:
        parser.error("at least one package, and one run")
    if missing := [
        tool
        for tool in ("ar", "cpio", "createrepo_c", "objcopy", "rpm2cpio", "xorriso", "xz")
        if not shutil.which(tool)
    ]:
        sys.exit(f"not installed: {', '.join(missing)}")
    os.umask(0o022)
    base = os.environ.get("TMPDIR") or "/var/tmp"
    for form in FORMATS if given.format == "both" else (given.format,):
        with tempfile.TemporaryDirectory(prefix="pkgkmod-bench-", dir=base) as scratch:
            print_results(
                form, given.packages, compare(form, given.packages, given.repeat, given.firmware, Path(scratch))
            )


if __name__ == "__main__":
    main()

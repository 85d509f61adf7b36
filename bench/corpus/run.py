"""Every *-dkms package of the archive, built by the real dkms and by pkgkmod: what each makes, and how long it takes.

Both start from the .deb. dkms adds the driver and builds it for each kernel; pkgkmod imports it and compiles it,
with an empty cache. The modules of both are compared: their names, and the symbols that they import.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pkgkmod.data.kernelchanges import known_change
from pkgkmod.modules.compile import first_error
from pkgkmod.modules.kmod_deps import read_module

HERE = Path(__file__).parent
NO_DRIVER = ("dh-dkms",)
APART = ("openafs-modules-dkms",)
"""Its configure alone takes twelve minutes: built with --apart only."""
NEEDS = {"west-chamber-dkms": ("xtables-addons-dkms",)}
# Some makefiles name /usr/src and /var/lib/dkms whatever dkms is told: for the build, these are a scratch folder's.
_DKMS = """
set -e
mount -t overlay -o "lowerdir=/usr/src,upperdir=$1/root/usr/src,workdir=$1/overlay" overlay /usr/src
mount --bind "$1/tree" /var/lib/dkms
shift
for conf; do dkms add "$conf"; done
"""


@dataclass
class Outcome:
    """What came of a package for a kernel."""

    dkms: dict[str, list[str]] = field(default_factory=dict)
    """Modules that dkms made, with the symbols that they import."""
    pkgkmod: dict[str, list[str]] = field(default_factory=dict)
    dkms_state: str = "failed"
    state: str = "failed"
    """built, failed, or skipped."""
    reason: str = ""


@dataclass
class Package:
    """A package with its outcomes by kernel, and the seconds that each took."""

    name: str
    mode: str = ""
    """kbuild, or own make."""
    seconds: dict[str, float] = field(default_factory=lambda: {"dkms": 0.0, "pkgkmod": 0.0})
    kernels: dict[str, Outcome] = field(default_factory=dict)


def main() -> None:
    """Build what is asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="*", help="names of packages; all of the archive's if absent")
    parser.add_argument("--kernel", action="append", help="kernel to build for; by default the newest 6.1 and 6.12")
    parser.add_argument("--apart", action="store_true", help=f"with {', '.join(APART)}, too")
    parser.add_argument("--debs", type=Path, help="folder that keeps the packages")
    parser.add_argument("--results", type=Path, help="file that keeps what was found, and is added to")
    parser.add_argument("--table", type=Path, help="file to write the table to; standard output if absent")
    given = parser.parse_args()
    kernels = given.kernel or [newest("6.1.0-"), newest("6.12.")]
    found = load(given.results)
    with tempfile.TemporaryDirectory(prefix="corpus-", dir="/var/tmp") as name:
        work = Path(name)
        work.chmod(0o755)
        debs = given.debs or work / "debs"
        for package in given.packages or names(apart=given.apart):
            found[package] = measure(package, kernels, debs, work / package)
            print(row_of(found[package]), file=sys.stderr, flush=True)
            shutil.rmtree(work / package)
            save(found, given.results)
    text = table(list(found.values()), kernels)
    given.table.write_text(text) if given.table else print(text)


def names(*, apart: bool) -> list[str]:
    """Return the archive's packages."""
    done = subprocess.run(["apt-cache", "pkgnames"], capture_output=True, text=True, check=True)
    left_out = NO_DRIVER if apart else (*NO_DRIVER, *APART)
    return sorted(n for n in done.stdout.split() if n.endswith("-dkms") and n not in left_out)


def newest(series: str) -> str:
    """Return the newest plain kernel of a series whose build tree is here."""
    here = [path.parent.name for path in Path("/lib/modules").glob(f"{series}*/build")]
    plain = [release for release in here if not re.search("rt|cloud", release)]
    return max(plain, key=lambda release: [int(number) for number in re.findall(r"\d+", release)])


def measure(name: str, kernels: Sequence[str], debs: Path, work: Path) -> Package:
    """Build a package with both."""
    package = Package(name, kernels={kernel: Outcome() for kernel in kernels})
    work.mkdir(parents=True)
    files = [fetched(each, debs) for each in (name, *NEEDS.get(name, ()))]
    with_dkms(package, files, work / "dkms")
    with_pkgkmod(package, files, work / "pkgkmod")
    return package


def fetched(name: str, debs: Path) -> Path:
    """Return the .deb of a package."""
    debs.mkdir(parents=True, exist_ok=True)
    if not list(debs.glob(f"{name}_*.deb")):
        subprocess.run(["apt-get", "download", "-q", name], cwd=debs, check=True, capture_output=True)
    (file,) = debs.glob(f"{name}_*.deb")
    return file


def with_dkms(package: Package, files: Sequence[Path], work: Path) -> None:
    """Add the driver and build it for each kernel, as its package's postinst does."""
    for folder in ("root", "tree", "overlay"):
        (work / folder).mkdir(parents=True)
    confs: list[str] = []
    for file in files:
        subprocess.run(["dpkg-deb", "-x", file, work / "root"], check=True)
        new = sorted(f"/{conf.parent.relative_to(work / 'root')}" for conf in work.glob("root/usr/src/*/dkms.conf"))
        confs += [conf for conf in new if conf not in confs]
    script = _DKMS + "".join(f"dkms build {facts(work, confs[0])} -k {kernel} || :\n" for kernel in package.kernels)
    # Debian's dkms signs what it builds with a key of the machine, which it would make: not asked for here.
    env = {**os.environ, "sign_file": "/nonexistent"}
    begun = time.monotonic()
    words = ["unshare", "--mount", "sh", "-c", script, "-", str(work), *confs[::-1]]
    done = subprocess.run(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    package.seconds["dkms"] = time.monotonic() - begun
    for kernel, outcome in package.kernels.items():
        outcome.dkms = imports(work.glob(f"tree/*/*/{kernel}/*/module/*.ko*"))
        outcome.dkms_state = "built" if outcome.dkms else "failed"
    if "BUILD_EXCLUSIVE" in done.stdout:
        for outcome in package.kernels.values():
            outcome.dkms_state = outcome.dkms_state if outcome.dkms else "excluded"


def facts(work: Path, folder: str) -> str:
    """Return the words that name a driver to dkms; its file is a shell script."""
    script = 'cd "$1"; . ./dkms.conf >/dev/null 2>&1; printf "%s %s" "$PACKAGE_NAME" "$PACKAGE_VERSION"'
    done = subprocess.run(["bash", "-c", script, "-", work / "root" / folder[1:]], capture_output=True, text=True)
    name, version = done.stdout.split()
    assert re.fullmatch(r"[\w.+~-]+", name + version)
    return f"-m {name} -v {version}"


def with_pkgkmod(package: Package, files: Sequence[Path], work: Path) -> None:
    """Import the package and build it for all kernels."""
    work.mkdir()
    command = [str(Path(sys.executable).with_name("pkgkmod"))]
    more = [word for file in files[1:] for word in ("--with", str(file))]
    more += [word for kernel in package.kernels for word in ("--kernel", kernel)]
    env = {**os.environ, "XDG_CACHE_HOME": str(work / "cache")}
    begun = time.monotonic()
    imported = [*command, "import", "dkms", str(files[0]), "-o", str(work), "--distro", "debian12", *more]
    subprocess.run(imported, env=env, check=True, capture_output=True)
    done = subprocess.run([*command, "--json", "build_modules"], cwd=work, env=env, capture_output=True, text=True)
    package.seconds["pkgkmod"] = time.monotonic() - begun
    project = (work / "pkgkmod.toml").read_text()
    package.mode = "own make" if re.search(r"^make = ", project, re.M) else "kbuild"
    events = [json.loads(line) for line in done.stdout.splitlines()]
    for kernel, outcome in package.kernels.items():
        outcome.pkgkmod = imports(work.glob(f"results/build_modules/_/{kernel}/*/*.ko"))
        outcome.state = "built" if outcome.pkgkmod else "failed"
        for event in events:
            if event["event"] == "excluded" and event.get("kernel") == kernel:
                outcome.state, outcome.reason = "skipped", event["reason"]
        for log in work.glob(f"results/build_modules/_/{kernel}/*/log.txt"):
            if outcome.state == "failed":
                error = first_error(log.read_text(errors="replace").splitlines())
                short = re.sub(r"^\S*/build/[^/]+/", "", error)
                outcome.reason = "; ".join(filter(None, (short, known_change(error))))


def imports(modules: Iterator[Path]) -> dict[str, list[str]]:
    """Return the modules by name, with the symbols that they import."""
    return {module.name.partition(".ko")[0]: sorted(read_module(str(module)).imports) for module in modules}


def load(file: Path | None) -> dict[str, Package]:
    """Return what was found before."""
    if file is None or not file.exists():
        return {}
    found = json.loads(file.read_text())
    for facts_ in found.values():
        facts_["kernels"] = {kernel: Outcome(**outcome) for kernel, outcome in facts_["kernels"].items()}
    return {name: Package(**facts_) for name, facts_ in found.items()}


def save(found: dict[str, Package], file: Path | None) -> None:
    """Keep what was found."""
    if file:
        file.write_text(json.dumps(found, default=vars))


def row_of(package: Package) -> str:
    """Return a package's result on a line, for who watches."""
    states = ", ".join(f"{kernel} {one.dkms_state}/{one.state}" for kernel, one in package.kernels.items())
    times = " / ".join(f"{seconds:.1f} s" for seconds in package.seconds.values())
    return f"{package.name}: {states}; {times}"


def table(found: Sequence[Package], kernels: Sequence[str]) -> str:
    """Return the table, and the sum above it."""
    lines = [(HERE / "intro.md").read_text().rstrip(), "", f"Kernels: {', '.join(kernels)}.", "", *sums(found), ""]
    lines += ["| package | kernel | dkms | pkgkmod | how | modules | same names | same symbols | seconds | reason |"]
    lines += ["|---|---|---|---|---|---|---|---|---|---|"]
    for package in sorted(found, key=lambda one: one.name):
        times = " / ".join(f"{seconds:.0f}" for seconds in package.seconds.values())
        for number, (kernel, one) in enumerate(package.kernels.items()):
            both = bool(one.dkms and one.pkgkmod)
            same = [set(one.dkms) == set(one.pkgkmod), one.dkms == one.pkgkmod] if both else []
            words = ["yes" if yes else "**no**" for yes in same] or ["", ""]
            cells = [package.name if not number else "", short_name(kernel), one.dkms_state, one.state, package.mode]
            cells += [str(len(one.pkgkmod) or ""), *words, times if not number else "", escaped(one.reason)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def sums(found: Sequence[Package]) -> list[str]:
    """Return what is to be said of all packages together."""
    outcomes = [one for package in found for one in package.kernels.values()]
    built = [one for one in outcomes if one.dkms]
    same = [one for one in built if one.dkms == one.pkgkmod]
    more = [one for one in outcomes if one.pkgkmod and not one.dkms]
    times = {who: sum(p.seconds[who] for p in found if p.name not in APART) for who in ("dkms", "pkgkmod")}
    return [
        f"- {len(found)} packages, {len(outcomes)} builds. dkms makes {len(built)} of them, with "
        f"{sum(len(one.dkms) for one in built)} modules. Of these, pkgkmod makes {len(same)} with the same modules, "
        f"which import the same symbols; it makes {len(more)} that dkms does not make.",
        f"- All of them took dkms {times['dkms']:.0f} s and pkgkmod {times['pkgkmod']:.0f} s: "
        f"{times['pkgkmod'] / (times['dkms'] or 1):.2f} of the time ({', '.join(APART)} apart).",
    ]


def short_name(kernel: str) -> str:
    """Return a kernel's release without its flavour."""
    return kernel.removesuffix("-amd64")


def escaped(text: str) -> str:
    """Return a text for a cell of a table."""
    cut = text if len(text) <= 240 else text[:239] + "…"
    return cut.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_").replace("<", "&lt;")


if __name__ == "__main__":
    main()

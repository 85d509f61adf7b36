"""Build roots: the programs of another Debian or Ubuntu release, to compile for its kernels.

    roots/NAME/root/...     what mmdebstrap made; seen as / when a kernel of that release is compiled for
    roots/NAME/entry.json   what it was made of, and which packages are in it

A header package holds programs of kbuild (fixdep, modpost, objtool) that are linked with the libraries of its own
release, and its kernel wants the compiler of that release. The packages of a root are unpacked, not installed: none
of their scripts runs, so no rights are needed to make one. A root is only read: its files belong to the user who made
it, everybody may read them, and none of them gives anybody rights.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import re
import shutil
import stat
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pkgkmod.command import Command, Completed, run
from pkgkmod.data import package_of_tool
from pkgkmod.data.arches import package_arch
from pkgkmod.errors import KernelError, ToolError
from pkgkmod.kernels.aptsources import AptEntry, parse_line
from pkgkmod.kernels.tree import read_options
from pkgkmod.model.kernel import Compiler, Kernel, Mount, seen_at
from pkgkmod.network import HINT, is_offline
from pkgkmod.programs import find_tool
from pkgkmod.progress import Progress
from pkgkmod.sandbox import Sandbox
from pkgkmod.workspace import digest, write_atomically

_ENTRY = "entry.json"
_TIME_LIMIT = 3600  # seconds, for a slow mirror

# What kbuild runs for an external module, and what kbuild's own programs are linked with. The -dev packages are
# called the same in every release; the libraries they bring are not (libelf1, libelf1t64).
_ALWAYS = ("gcc", "libc6-dev", "libelf-dev", "libssl-dev", "make", "mawk", "patch")
# Packages that shape compiled code; a new version of another one is no reason to compile again.
_SHAPING = re.compile(r"(?:binutils|clang|cpp|gcc|libclang|libgcc|libllvm|lld|llvm|pahole)\b.*|make")
_PART = re.compile(
    r"(?P<base>.+?)(?:-(?:security|updates|proposed|proposed-updates|backports|backports-sloppy)|/updates)"
)
# Programs of a build tree that may run while a module is compiled; no tree has all.
_HOST_TOOLS = (
    "scripts/basic/fixdep",
    "scripts/genksyms/genksyms",
    "scripts/gendwarfksyms/gendwarfksyms",
    "scripts/mod/modpost",
    "tools/objtool/objtool",
    "tools/bpf/resolve_btfids/resolve_btfids",
)
# What the loader (glibc's, musl's) says of a program that cannot run, and the sandbox of one without a loader.
_UNLOADABLE = re.compile(
    r".*(?:error while loading|Error loading|not found \(required by|Error relocating).*"
    r"|bwrap: execvp .*|setpriv: failed to execute .*"
)
# All of a release's programs are below /usr, and these are links: so it is since Debian 12 at the latest.
_MERGED = ("bin", "lib", "lib64", "sbin")
# Links that scripts of packages would make.
_ALTERNATIVES = {"usr/bin/awk": "mawk", "usr/bin/sh": "dash"}
_NOT_NEEDED = (
    *("dev", "usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man", "var/cache/apt", "var/lib/apt"),
    *("etc/hostname", "etc/resolv.conf"),  # copied from this machine
)


@dataclass(frozen=True)
class RootRecipe:
    """What a build root is made of."""

    suite: str
    """Codename or class of the release, such as `trixie` or `sid`."""
    archives: tuple[str, ...]
    """Lines of sources.list(5)."""
    packages: tuple[str, ...]
    """Names of packages; what these depend on comes along."""

    @property
    def name(self) -> str:
        """Name of its folder: for people first, and unique."""
        compiler = next((name for name in self.packages if name not in (*_ALWAYS, "pahole")), "gcc")
        return f"{self.suite}-{compiler}-{digest([self.archives, self.packages])[:16]}"

    def place(self, cache: Path) -> Path:
        """Return the folder that is seen as /, whether it is there or not."""
        return cache / "roots" / self.name / "root"


def recipe_for(kernel: Kernel) -> RootRecipe | None:
    """Return how to make the build root of a kernel; None if it is not of an archive that has whole releases."""
    if kernel.offer is None or kernel.offer.source != "apt":
        return None
    try:
        entry = parse_line(kernel.offer.archive)
    except ValueError:
        return None
    if entry.is_flat:
        return None
    base = _base(entry)
    # What experimental has alone may need its compiler; apt prefers sid's packages otherwise.
    entries = (base, replace(base, suite=entry.suite)) if base.suite == "sid" != entry.suite else (base,)
    lines = tuple(one.line for one in entries)
    packages = {*_ALWAYS, *_compiler_packages(kernel.compiler), *(("pahole",) if needs_pahole(kernel) else ())}
    return RootRecipe(base.suite, lines, tuple(sorted(packages)))


def needs_pahole(kernel: Kernel) -> bool:
    """Tell whether modules get type information (BTF) that pahole makes.

    kbuild makes it where the build tree holds the kernel's own, in vmlinux (scripts/Makefile.modfinal), as Debian's
    header packages do from 6.12 on.
    """
    return (kernel.place / "vmlinux").is_file() and read_options(kernel.place).get("DEBUG_INFO_BTF_MODULES") == "y"


def _base(entry: AptEntry) -> AptEntry:
    """Return the whole release that a part of it (its security updates, its backports) is laid over.

    All parts share one root: kernels are compiled with the release's own compilers. Security archives lie beside
    the main one and have the same keys: .../debian-security beside .../debian, on mirrors, on snapshot.debian.org
    and on archive.debian.org. Ubuntu's hold the whole release.
    """
    part = _PART.fullmatch(entry.suite)
    suite = part["base"] if part else {"experimental": "sid", "rc-buggy": "sid"}.get(entry.suite, entry.suite)
    uri = re.sub(r"/debian-security(?=/|$)", "/debian", entry.uri)
    # security.debian.org has nothing else
    uri = re.sub(r"^(https?)://security\.debian\.org(?:/.*)?$", r"\1://deb.debian.org/debian", uri)
    components = entry.components
    if part or "main" in components:
        # Ubuntu keeps compilers other than the release's own in `universe`.
        components = ("main", "universe") if "ubuntu" in uri else ("main",)
    arches = (package_arch(os.uname().machine, "deb"),)
    # That an archive's word has expired was told when its index was read; it is no reason to stop here.
    return replace(entry, uri=uri, suite=suite, components=components, arches=arches, check_valid_until=False)


def _compiler_packages(compiler: Compiler | None) -> tuple[str, ...]:
    if compiler is None or not compiler.major:
        return ()
    names = ("clang", "lld", "llvm") if compiler.family == "clang" else (compiler.family,)
    return tuple(f"{name}-{compiler.major}" for name in names)


def root_folder(recipe: RootRecipe, *, progress: Progress, cache: Path) -> Path:
    """Return the folder of a build root, making it if it is not there, and mark it as used.

    Raise ToolError if mmdebstrap is not installed, KernelError if it does not succeed.
    """
    place = recipe.place(cache)
    home = place.parent
    if not (home / _ENTRY).exists():
        with _locked(home):
            if not (home / _ENTRY).exists():  # another process may have made it meanwhile
                _make(recipe, home, progress)
    with contextlib.suppress(OSError):
        os.utime(home / _ENTRY)
    return place


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Let one process at a time make a root; the others wait for it."""
    locks = home.parent / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / home.name).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(recipe: RootRecipe, home: Path, progress: Progress) -> None:
    """Make a root aside and rename it; the lock of the root is held."""
    if is_offline():
        raise KernelError(f"there is no build root of {recipe.suite} here yet, and none is made", hint=HINT)
    _check_mmdebstrap(recipe)
    aside = home.with_name(f".new-{home.name}")
    shutil.rmtree(aside, ignore_errors=True)  # of a killed run
    log = home.with_name(f"{home.name}.log")
    log.unlink(missing_ok=True)
    root = aside / "root"
    try:
        with progress.step(f"Making a build root of {recipe.suite}"):
            for name in _MERGED:
                (root / "usr" / name).mkdir(parents=True)
                (root / name).symlink_to(f"usr/{name}")
            done = run(_bootstrap_command(recipe, root), log=log, progress=progress)
            if not done.ok:
                raise _failed(recipe, done)
            installed = _versions(root / "var/cache/apt/archives")
            _trim(root)
            facts = {
                "suite": recipe.suite,
                "archives": recipe.archives,
                "packages": recipe.packages,
                "installed": installed,
                "bytes": _open_to_all(root),
            }
            write_atomically(aside / _ENTRY, json.dumps(facts, indent=1))
            shutil.rmtree(home, ignore_errors=True)  # of a `prune` that was killed
            aside.rename(home)
            log.unlink(missing_ok=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check_mmdebstrap(recipe: RootRecipe) -> None:
    try:
        find_tool("mmdebstrap", needed_for=f"making a build root of {recipe.suite}")
    except ToolError as error:
        others = [name for name in recipe.packages if name not in _ALWAYS]
        instead = f"; or install {', '.join(others)} here, and set build.roots = false" if others else ""
        error.hint = f"{package_of_tool('mmdebstrap') or 'install the package mmdebstrap'}{instead}"
        raise


def _bootstrap_command(recipe: RootRecipe, root: Path) -> Command:
    """Describe the call of mmdebstrap that unpacks a root's packages, with all that they depend on."""
    # The programs' environment is clean of the user's; these say how archives are reached (see apt.conf(5)).
    env = {name: os.environ[name] for name in ("http_proxy", "https_proxy", "no_proxy") if os.environ.get(name)}
    return Command(
        (
            "mmdebstrap",
            f"--mode={'root' if os.geteuid() == 0 else 'chrootless'}",
            "--variant=extract",
            "--format=directory",
            # Links are there already; the packages' names are read from the cache afterwards.
            "--skip=check/empty,cleanup/apt,output/dev",
            "--include=?essential",  # what every program may take for granted
            f"--include={','.join(recipe.packages)}",
            recipe.suite,
            str(root),
            # mmdebstrap takes no file: addresses, whose packages apt does not put into its cache.
            *(re.sub(r" file:(?=/)", " copy:", line) for line in recipe.archives),
        ),
        root.parent,
        env=env,
        time_limit=_TIME_LIMIT,
    )


def _failed(recipe: RootRecipe, done: Completed) -> KernelError:
    complaints = [line for line in done.tail if line.startswith("E: ")] or list(done.tail)
    instead = ", ".join(name for name in recipe.packages if name not in _ALWAYS)
    return KernelError(
        f"a build root of {recipe.suite} could not be made",
        details="\n".join((*recipe.archives, *(line[:300] for line in complaints[:4]))),
        hint="the archive must hold the whole release"
        + (f"; or install {instead} here, and set build.roots = false" if instead else ""),
        log=done.log,
    )


def _versions(folder: Path) -> dict[str, str]:
    """Return the versions of the packages that apt keeps in a folder, by name."""
    # NAME_VERSION_ARCH.deb, in which the colon of an epoch is %3a
    words = (urllib.parse.unquote(path.name).split("_") for path in sorted(folder.glob("*.deb")))
    return {name: version for name, version, _ in words}


def _trim(root: Path) -> None:
    """Make the links that are missing in a root, and remove what nobody reads."""
    for name, target in _ALTERNATIVES.items():
        if not os.path.lexists(root / name):
            (root / name).symlink_to(target)
    for path in (root / name for name in _NOT_NEEDED):
        if not path.parent.resolve().is_relative_to(root.resolve()):
            continue  # a package made it a link to elsewhere
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (root / "dev").mkdir()


def _open_to_all(root: Path) -> int:
    """Let everybody read a root, and take away all that gives rights; return the size of its files in bytes."""
    size = 0
    root.chmod(0o755)
    for parent, folders, files in os.walk(root):
        for path in (Path(parent, name) for name in (*folders, *files)):
            facts = path.lstat()
            if stat.S_ISREG(facts.st_mode):
                size += facts.st_size
                path.chmod(0o755 if facts.st_mode & 0o100 else 0o644)
            elif stat.S_ISDIR(facts.st_mode):
                path.chmod(0o755)
    return size


def stamp(root: Path) -> str:
    """Return what stands for the compiler and the linker of a build root in fingerprints."""
    try:
        installed = json.loads((root.parent / _ENTRY).read_text(encoding="utf-8"))["installed"]
    except (OSError, ValueError, KeyError):
        return "a root that is not made yet"
    return digest({name: version for name, version in installed.items() if _SHAPING.fullmatch(name)})


def prune(cache: Path, older_than_days: float | None, dry_run: bool) -> list[tuple[Path, int]]:
    """Remove the roots that no build used for so many days (None: all); return them with their sizes in bytes.

    Waits until no run uses the store of kernels.
    """
    folder, store = cache / "roots", cache / "kernels"
    if not folder.is_dir():
        return []
    store.mkdir(parents=True, exist_ok=True)
    before = time.time() - (older_than_days or 0) * 24 * 60 * 60
    found = []
    with (store / ".in-use").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as Store.prune
        for entry in sorted(folder.glob(f"*/{_ENTRY}")):
            if entry.stat().st_mtime > before:
                continue
            found.append((entry.parent, _size(entry)))
            if not dry_run:
                entry.unlink()  # first: what is left when this is killed is not taken for a root
                shutil.rmtree(entry.parent, ignore_errors=True)
        for leftover in () if dry_run else folder.glob(".new-*"):  # of killed runs
            shutil.rmtree(leftover, ignore_errors=True)
    return found


def _size(entry: Path) -> int:
    try:
        return int(json.loads(entry.read_text(encoding="utf-8"))["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def host_tools_complaint(kernel: Kernel, cache: Path) -> str:
    """Return why this machine cannot run the programs of kbuild in a kernel's build tree; empty if it can.

    They are tried in the sandbox, once for all kernels that share them: the answer is kept for as long as this
    machine has this libc. Raise SandboxError if this machine allows no sandbox.
    """
    programs = [pair for name in _HOST_TOOLS for pair in _programs(kernel.tree / name, kernel.mounts)]
    facts = [(str(place), place.stat().st_size, place.stat().st_mtime_ns) for _, place in programs]
    known = cache / "kernels" / "known"
    record = known / f"programs-{digest(facts)}.json"
    libc = f"{os.confstr('CS_GNU_LIBC_VERSION')} {os.uname().machine}"
    try:
        before = json.loads(record.read_text(encoding="utf-8"))
        if before["libc"] == libc:
            return str(before["complaint"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    complaint = next(filter(None, (_try(tool, kernel.mounts) for tool, _ in programs)), "")
    known.mkdir(parents=True, exist_ok=True)
    write_atomically(record, json.dumps({"libc": libc, "complaint": complaint}))
    return complaint


def _try(tool: Path, mounts: tuple[Mount, ...]) -> str:
    """Run a program without arguments, for which it says how it is used; return what the loader complains of."""
    with tempfile.TemporaryDirectory(prefix="pkgkmod-") as name:
        folder = Path(name, "work")
        folder.mkdir()
        command = Command((str(tool),), folder, sandbox=Sandbox(folder, mounts=mounts), time_limit=60)
        done = run(command, log=Path(name, "log"), progress=Progress())
    return next((line for line in done.tail if _UNLOADABLE.fullmatch(line)), "")


def _programs(tool: Path, mounts: tuple[Mount, ...]) -> list[tuple[Path, Path]]:
    """Return a program of kbuild, if there is one, and those that it starts: as the sandbox sees them, and here.

    Debian's modpost and objtool only start the one for the kernel's architecture: modpost.real-lsb-64.
    """
    place = _place(tool, mounts)
    if place is None:
        return []
    others = sorted(place.parent.glob(f"{glob.escape(place.name)}.real*"))
    return [(tool, place), *((tool.with_name(path.name), path) for path in others)]


def _place(path: Path, mounts: tuple[Mount, ...]) -> Path | None:
    """Return where on this machine the file lies that a program in a sandbox finds, by symbolic links, too."""
    found, ahead = Path("/"), list(path.parts[1:])
    for _ in range(100):  # links may go round in circles
        if not ahead:
            place = seen_at(found, mounts)
            return place if place.is_file() else None
        step = ahead.pop(0)
        here = seen_at(found / step, mounts)
        if step == "..":
            found = found.parent
        elif here.is_symlink():
            target = here.readlink()
            found = Path("/") if target.is_absolute() else found
            ahead[:0] = [part for part in target.parts if part != "/"]
        else:
            found /= step
    return None

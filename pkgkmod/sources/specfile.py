"""Somebody's spec or source RPM: its files, and what rpm makes of its macros, run in the sandbox since they can run
programs.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.command import Command, run
from pkgkmod.errors import InputError, TimeLimitError
from pkgkmod.formats.rpmpackage import read_headers
from pkgkmod.formats.tarball import unpack_tarball
from pkgkmod.model.kernel import Mount
from pkgkmod.programs import find_tool
from pkgkmod.progress import Progress
from pkgkmod.sandbox import Sandbox, isolation

_LARGEST_SPEC = 1 << 20
_LARGEST_NAMED = 1 << 20
"""Bytes of a file that the spec may read while it is parsed: preambles, scripts."""
_LARGEST_OUTPUT = 1 << 22
# Of one program; rpm itself expands the largest specs in a fraction of a second.
_MEMORY = 1 << 28
_CPU = 3
_SECONDS = 30
_UNKNOWN = re.compile(r"line (?P<line>[0-9]+): Unknown tag: %\{?[?!]*(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
_MOST_UNKNOWN = 20
# What the macros print can have no end, and their programs see a folder that they can fill.
_SCRIPT = f'{{ "$@" 2>errors; echo $? >status; }} | head -c {_LARGEST_OUTPUT} >expanded'


@dataclass(frozen=True)
class SpecFiles:
    """A spec, and the folders with its sources and patches."""

    spec: Path
    folders: tuple[Path, ...]

    @property
    def text(self) -> str:
        """The spec's text; raise InputError if it cannot be read."""
        try:
            if self.spec.stat().st_size > _LARGEST_SPEC:
                raise InputError(f"{self.spec} is larger than a spec is")
            return self.spec.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise InputError(f"{self.spec} cannot be read", details=error.strerror or "") from None

    def find(self, name: str) -> Path | None:
        """Return the file of a source or patch, which the spec names by address or path; None if it is not there."""
        base = name.rpartition("/")[2]
        if not base or base in (".", "..") or not base.isprintable():
            return None
        return next((folder / base for folder in self.folders if (folder / base).is_file()), None)


def open_spec(path: Path, scratch: Path, progress: Progress) -> SpecFiles:
    """Return the files of a spec, or those of a source RPM, unpacked into `scratch`; raise InputError."""
    if not path.is_file():
        raise InputError(f"there is no file {path}", hint="give a spec, or a source RPM (.src.rpm)")
    if path.suffix != ".rpm":
        beside = path.absolute().parent
        return SpecFiles(path, (beside, beside.parent / "SOURCES"))
    package = read_headers(path)
    if not package.is_source:
        raise InputError(f"{path} is no source package", hint="its source package ends in .src.rpm")
    folder = scratch / "sources"
    folder.mkdir()
    find_tool("rpm2archive", needed_for="unpacking source packages")
    link = scratch / "package.rpm"  # rpm2archive writes beside it
    link.symlink_to(path.absolute())
    done = run(Command(("rpm2archive", "-n", str(link)), scratch), log=scratch / "log", progress=progress)
    if not done.ok:
        raise InputError(f"{path} cannot be unpacked", details="\n".join(done.tail))
    unpack_tarball(scratch / "package.rpm.tar", folder)
    specs = sorted(folder.glob("*.spec"))
    if len(specs) != 1:
        raise InputError(f"{path} holds {len(specs)} specs, and not one")
    return SpecFiles(specs[0], (folder,))


def expand_spec(
    files: SpecFiles, text: str, macros: Mapping[str, str], *, isolated: bool, progress: Progress
) -> tuple[str, tuple[str, ...]]:
    """Return what rpm makes of the spec `text`, and the names of macros that it does not know among the tags.

    Such macros are taken for empty. Raise InputError, with rpm's words, if it does not understand the spec.
    """
    unknown: list[str] = []
    while True:
        with tempfile.TemporaryDirectory(prefix="pkgkmod-spec-") as name:
            place = Path(name)
            _provide(files, text, place)
            more = dict.fromkeys(unknown, "%{nil}")
            expanded, said = _run(place, {**more, **macros}, isolated=isolated, progress=progress)
        if expanded is not None:
            # What is said about it must not depend on where it was.
            shown = re.sub(rf"{re.escape(name)}/BUILDROOT/[^/\s\"']+", "%{buildroot}", expanded)
            return shown.replace(name, "%{_topdir}"), tuple(unknown)
        found = _UNKNOWN.search(said)
        if not found or found["name"] in unknown or len(unknown) >= _MOST_UNKNOWN:
            errors = "\n".join(line for line in said.splitlines() if not line.startswith("warning: "))
            raise InputError(
                f"rpm does not understand {files.spec.name}",
                details=errors[-2000:].strip() or "its macros need more time or memory than a spec's do",
            )
        unknown.append(found["name"])


def _provide(files: SpecFiles, text: str, place: Path) -> None:
    """Give the spec the small files that it names: it may include them."""
    (place / "marked.spec").write_text(text, encoding="utf-8")
    for folder in files.folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            usable = path.is_file() and not path.is_symlink() and path.stat().st_size <= _LARGEST_NAMED
            if usable and path.suffix != ".spec" and path.name in text and not (place / path.name).exists():
                shutil.copyfile(path, place / path.name)


def _run(place: Path, macros: Mapping[str, str], *, isolated: bool, progress: Progress) -> tuple[str | None, str]:
    """Return what rpmspec printed, None if it failed, and what it complained of."""
    folders = {name: str(place) for name in ("_topdir", "_sourcedir", "_specdir", "_builddir", "_tmppath")}
    defines = {**folders, "_dbpath": str(place / "database"), **macros}
    argv = (
        str(find_tool("prlimit", needed_for="reading specs")),
        *(f"--fsize={2 * _LARGEST_OUTPUT}", f"--as={_MEMORY}", f"--cpu={_CPU}"),
        *("sh", "-c", _SCRIPT, "sh"),
        *(str(find_tool("rpmspec", needed_for="reading specs")), "--parse"),
        *(word for name, body in defines.items() for word in ("--define", f"{name} {body}")),
        "marked.spec",
    )
    log = place.with_name(f"{place.name}.log")
    sandbox = Sandbox(place, mounts=_bash_as_sh()) if isolation(isolated)[0] else None
    try:
        run(Command(argv, place, sandbox=sandbox, time_limit=_SECONDS), log=log, progress=progress)
    except TimeLimitError:
        raise InputError(f"the macros of a spec run longer than {_SECONDS} s, and were stopped") from None
    finally:
        log.unlink(missing_ok=True)
    said = _read(place / "errors")
    return (_read(place / "expanded") if _read(place / "status").strip() == "0" else None), said


def _bash_as_sh() -> tuple[Mount, ...]:
    """Return what makes bash the shell of macros, as on the distributions of RPM: some need that (${x:0:7})."""
    shell, bash = Path("/bin/sh").resolve(), Path("/bin/bash").resolve()
    return (Mount(source=bash, target=shell),) if bash.is_file() and shell != bash else ()


def _read(path: Path) -> str:
    """Return what a program in the sandbox wrote; it may have put something else in the file's place."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return ""
        return file.read(2 * _LARGEST_OUTPUT).decode("utf-8", "replace")

"""The sources of a dkms package, and what its dkms.conf says for a kernel: it is run for that, in the sandbox."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

from pkgkmod import data
from pkgkmod.command import Command, Completed, run
from pkgkmod.config.importers.dkmsconf import DKMS_TREE, SOURCE_TREE, VARIABLES, DkmsConf
from pkgkmod.errors import InputError, UsageError
from pkgkmod.formats import debpackage
from pkgkmod.kernels.inplace import in_place
from pkgkmod.kernels.tree import read_options
from pkgkmod.model.kernel import Kernel, Mount
from pkgkmod.programs import capture
from pkgkmod.progress import Progress
from pkgkmod.sandbox import Sandbox
from pkgkmod.sources.foldertree import MOST_BYTES, MOST_FILES

CONF = "dkms.conf"
_READER = "pkgkmod-read-dkms"
_ANSWER = "answer"
_ALSO_SAID = ("pkgkmod_make", "pkgkmod_patch", "pkgkmod_excluded")
_TAKEN = ("build", "modules", "firmware", "debian")
"""Folders that the makefile has for other things."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")
_TIME_LIMIT = 30.0  # seconds for one kernel; a real one takes less than one
_UNPACK_LIMIT = 300.0
_LONGEST_ANSWER = 4 * 1024 * 1024
_LONGEST_SAID = 16 * 1024
_CONTROL_FIELDS = ("Package", "Version", "Maintainer", "Homepage", "Description")


@dataclass(frozen=True)
class DkmsSources:
    """The folder with the sources and the dkms.conf, and what the package says of itself, if it was one."""

    folder: Path
    control: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the folder as dkms would have it below /usr/src."""
        return self.folder.name if _PLAIN_NAME.fullmatch(self.folder.name) else "sources"

    @property
    def plain_name(self) -> str:
        """Name of the folder in a repository; versions are none of it."""
        name = re.sub(r"-[0-9].*$", "", self.name)
        return f"{name}-driver" if name in _TAKEN else name

    @property
    def script(self) -> str:
        """Text of the dkms.conf."""
        return (self.folder / CONF).read_text(encoding="utf-8", errors="replace")


def open_sources(path: Path, scratch: Path, *, isolated: bool, progress: Progress) -> DkmsSources:
    """Return the sources in a folder, beside a dkms.conf, or in a .deb, which is unpacked below `scratch`.

    Raise UsageError if there are none, InputError for a package that cannot be read.
    """
    if path.suffix == ".deb" and path.is_file():
        return _unpacked(path.absolute(), scratch, isolated=isolated, progress=progress)
    folder = path.parent if path.name == CONF else path
    if not (folder / CONF).is_file():
        raise UsageError(
            f"there is no dkms.conf in {folder}",
            hint="name the folder that has one, such as /usr/src/NAME-VERSION, or the -dkms package (.deb)",
        )
    return DkmsSources(folder.resolve())


def _unpacked(package: Path, scratch: Path, *, isolated: bool, progress: Progress) -> DkmsSources:
    root = scratch / "package"
    root.mkdir()
    _refuse_large(package, scratch, progress)
    # In the sandbox, no name or link in it leads out of the folder.
    copy = shutil.copyfile(package, scratch / "package.deb")
    command = Command(
        ("dpkg-deb", "-x", str(copy), str(root)),
        cwd=scratch,
        sandbox=Sandbox(scratch) if isolated else None,
        time_limit=_UNPACK_LIMIT,
    )
    done = run(command, log=scratch / "log", progress=progress)
    if not done.ok:
        raise InputError(f"{package.name} cannot be unpacked", details="\n".join(done.tail[-5:]))
    confs = [conf for conf in (root / "usr/src").glob(f"*/{CONF}") if conf.is_file()]
    # Of links that lead out of the package nothing is read.
    found = sorted(conf.parent for conf in confs if conf.resolve().is_relative_to(root.resolve()))
    if len(found) != 1:
        names = ", ".join(folder.name for folder in found) or "none"
        raise UsageError(f"{package.name} is no package of one driver for dkms", details=f"its folders: {names}")
    control = {name: capture("dpkg-deb", "-f", str(package), name) for name in _CONTROL_FIELDS}
    return DkmsSources(found[0], control)


def _refuse_large(package: Path, scratch: Path, progress: Progress) -> None:
    """Raise InputError for a package that holds more than sources of a driver do: what unpacks it has no limits."""

    def unpack(command: Command) -> Completed:
        return run(replace(command, time_limit=_UNPACK_LIMIT), log=scratch / "log", progress=progress)

    hint = "give the folder with the sources alone"
    try:
        # A header goes before each file, and what fills up its last block behind it.
        with debpackage.open_package(package, unpack, scratch, most=MOST_BYTES + 1024 * MOST_FILES) as opened:
            entries = opened.files.entries
            if len(entries) > MOST_FILES or sum(entry.size for entry in entries) > MOST_BYTES:
                raise InputError(f"{package.name} is too large for a driver", hint=hint)
    except InputError as error:
        raise InputError(
            f"{package.name} cannot be unpacked", details=error.details or error.brief, hint=hint
        ) from None


class Reader:
    """Evaluates a dkms.conf, with its folder and others of its kind where dkms has them, in a folder of its own."""

    def __init__(
        self, sources: DkmsSources, more: tuple[DkmsSources, ...], scratch: Path, *, isolated: bool, progress: Progress
    ) -> None:
        self._sources = sources
        self._more = more
        self._scratch = scratch
        self._isolated = isolated
        self._progress = progress

    def read(self, kernel: Kernel) -> DkmsConf:
        """Return what the file says for a kernel; raise InputError if it does not come to its end."""
        with self._fresh_folder(kernel.uname_r) as folder:
            tree = kernel.tree if self._isolated else in_place(kernel, folder / "kernel").tree
            place = Path(SOURCE_TREE, self._sources.name) if self._isolated else self._sources.folder
            reader = folder / _READER
            reader.write_text(files(data).joinpath("build", _READER).read_text(encoding="utf-8"), encoding="utf-8")
            words = (kernel.uname_r, kernel.arch, str(tree), DKMS_TREE, SOURCE_TREE, str(folder / _ANSWER))
            command = Command(
                ("bash", "--noprofile", "--norc", str(reader), str(place / CONF), *words, *VARIABLES),
                cwd=folder,
                sandbox=self._sandbox(folder, kernel) if self._isolated else None,
                time_limit=_TIME_LIMIT,
            )
            done = run(command, log=folder / "log", progress=self._progress)
            values = _answer(folder / _ANSWER)
            with (folder / "log").open(encoding="utf-8", errors="replace") as log:
                said = log.read(_LONGEST_SAID)
        if not values:
            raise InputError(f"dkms.conf says nothing for {kernel.uname_r}", details="\n".join(done.tail[-5:]))
        make = values.pop("pkgkmod_make", {}).get(0, "")
        chosen = {
            "make_number": int(make) if re.fullmatch(r"[0-9]{1,6}", make) else None,
            "patch_numbers": tuple(sorted(values.pop("pkgkmod_patch", {}))),
            "excluded": values.pop("pkgkmod_excluded", {}).get(0, ""),
        }
        options = frozenset(name for name, value in read_options(kernel.place).items() if value in ("y", "m"))
        beside = {str(Path(SOURCE_TREE, one.name)): one.plain_name for one in self._more}
        facts = {**chosen, "options": options, "beside": beside, "said": said}
        return DkmsConf(kernel.uname_r, kernel.arch, str(tree), str(place), values, **facts)  # type: ignore[arg-type]

    @contextmanager
    def _fresh_folder(self, uname_r: str) -> Iterator[Path]:
        folder = self._scratch / f"reading-{uname_r}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def _sandbox(self, folder: Path, kernel: Kernel) -> Sandbox:
        trees = () if kernel.mounts else (kernel.tree, *kernel.also_needs)
        mounts = tuple(Mount(one.folder, Path(SOURCE_TREE, one.name)) for one in (self._sources, *self._more))
        return Sandbox(folder, tuple(dict.fromkeys(trees)), (*kernel.mounts, *mounts))


def _answer(file: Path) -> dict[str, dict[int, str]]:
    """Read what the reader wrote; whatever a script may have put there, only texts come out of it."""
    if file.is_symlink() or not file.is_file() or file.stat().st_size > _LONGEST_ANSWER:
        return {}
    words = os.fsdecode(file.read_bytes()).encode("utf-8", "replace").decode().split("\0")[:-1]
    found: dict[str, dict[int, str]] = {}
    for name, number, value in zip(words[::3], words[1::3], words[2::3], strict=False):
        if (name in VARIABLES or name in _ALSO_SAID) and re.fullmatch(r"[0-9]{1,6}", number):
            found.setdefault(name, {})[int(number)] = value
    return found

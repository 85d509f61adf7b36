"""Reading kernel modules from files, folders and RPMs: which symbols they import, for which machine."""

from __future__ import annotations

import gzip
import lzma
import re
import struct
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pkgkmod.command import Command, run
from pkgkmod.errors import InputError
from pkgkmod.formats.rpm import read_header
from pkgkmod.modules.kmod_deps import Module, ModuleError, read_module
from pkgkmod.programs import find_tool
from pkgkmod.progress import Progress, escape_controls

MODULE_FILE = re.compile(r"\.ko(\.gz|\.xz|\.zst)?")

# e_machine, and whether numbers have the low byte first (elf.h); names as `uname -m` prints them.
_MACHINES = {
    (3, True): "i686",
    (21, False): "ppc64",
    (21, True): "ppc64le",
    (22, False): "s390x",
    (62, True): "x86_64",
    (183, True): "aarch64",
    (243, True): "riscv64",
}
MACHINES = frozenset(_MACHINES.values())
_ZSTD = b"\x28\xb5\x2f\xfd"
_MEMBERS = 100_000  # files of a package
_MEMBER_SIZE = 2 << 30  # bytes: a module with its debug information


@dataclass(frozen=True)
class Importer:
    """A module whose symbols are looked at."""

    label: str
    """How messages call it: its file name, behind the package's and a colon if it is in one."""
    arch: str
    module: Module

    @property
    def name(self) -> str:
        """The module's name, as the kernel knows it; the file that was unpacked has another one."""
        return re.sub(MODULE_FILE.pattern + "$", "", self.label.rpartition(":")[2].rpartition("/")[2]).replace("-", "_")


def read_importers(files: Sequence[Path], scratch: Path, progress: Progress) -> tuple[Importer, ...]:
    """Read modules, the modules in RPMs, and all of those in folders; raise InputError if one cannot be read.

    `scratch` is a folder for what is unpacked.
    """
    found: dict[str, Importer] = {}
    for number, (label, path) in enumerate(_modules(files, scratch, progress)):
        importer = _read(label, path, scratch / f"{number}.ko", progress)
        label = str(path) if label in found and path.parent != scratch else label
        found[label] = Importer(label, importer.arch, importer.module)
    return tuple(found.values())


def _modules(files: Sequence[Path], scratch: Path, progress: Progress) -> Iterator[tuple[str, Path]]:
    """Yield label and file of each module."""
    for file in files:
        if file.is_dir():
            inside = [path for path in sorted(file.rglob("*")) if _is_wanted(path)]
            if not inside:
                raise InputError(f"there is no kernel module and no RPM in {file}")
            for path in inside:
                yield from (
                    _unpacked(path, scratch, progress)
                    if path.suffix == ".rpm"
                    else [(escape_controls(path.name, keep=""), path)]
                )
        elif file.suffix == ".rpm" and file.exists():
            modules = list(_unpacked(file, scratch, progress))
            if not modules:
                raise InputError(f"there is no kernel module in {file}", hint=_no_modules(file))
            yield from modules
        else:
            yield escape_controls(file.name, keep=""), file


def _is_wanted(path: Path) -> bool:
    wanted = path.suffix == ".rpm" or MODULE_FILE.fullmatch("".join(path.suffixes[-2:])) or path.suffix == ".ko"
    return bool(wanted) and path.is_file() and not path.is_symlink()


def _no_modules(rpm: Path) -> str:
    header = read_header(rpm)
    if header.arch == "src":
        return "this is a source package; the modules are in the binary ones"
    return "the modules are in the packages whose names begin with kmod-, or have -kmp-"


def _unpacked(rpm: Path, scratch: Path, progress: Progress) -> Iterator[tuple[str, Path]]:
    """Yield label and file of the modules in an RPM; names in the package decide no path."""
    read_header(rpm)  # or say that it is no RPM
    find_tool("rpm2archive", needed_for="reading modules in RPMs")
    place = scratch / f"rpm-{len(list(scratch.iterdir()))}"
    place.mkdir()
    link = place / "package.rpm"  # rpm2archive writes beside it
    link.symlink_to(rpm.absolute())
    done = run(Command(("rpm2archive", "-n", str(link)), place), log=place / "log", progress=progress)
    if not done.ok:
        raise InputError(f"{rpm} cannot be unpacked", details="\n".join(done.tail))
    try:
        with tarfile.open(place / "package.rpm.tar", mode="r:") as archive:
            for number, member in enumerate(_members(archive, rpm)):
                name = member.name.rpartition("/")[2]
                suffix = MODULE_FILE.search(name)
                assert suffix
                file = place / f"{number}{suffix[0]}"
                content = archive.extractfile(member)
                assert content
                with file.open("wb") as sink:
                    while block := content.read(1 << 20):
                        sink.write(block)
                yield f"{rpm.name}:{escape_controls(name, keep='')}", file
    except tarfile.TarError as error:
        raise InputError(f"{rpm} cannot be unpacked", details=str(error)) from None


def _members(archive: tarfile.TarFile, rpm: Path) -> Iterator[tarfile.TarInfo]:
    for number, member in enumerate(archive):
        if number >= _MEMBERS or member.size > _MEMBER_SIZE:
            raise InputError(f"{rpm} holds more than a package of modules has")
        if member.isreg() and re.search(MODULE_FILE.pattern + "$", member.name):
            yield member


def _read(label: str, path: Path, plain: Path, progress: Progress) -> Importer:
    try:
        module = read_module(str(path))
    except ModuleError as error:
        raise InputError(
            f"{label}: {error.reason}", hint="give kernel modules (.ko), RPMs, or folders of them"
        ) from None
    return Importer(label, _machine(label, path, plain, progress), module)


def _machine(label: str, path: Path, plain: Path, progress: Progress) -> str:
    """Return the machine that a module is for, as `uname -m` prints it."""
    head = _head(path, plain, progress)
    if len(head) < 20:
        raise InputError(f"{label}: it ends too early")
    little = head[5] == 1
    (number,) = struct.unpack_from("<H" if little else ">H", head, 18)
    if (number, little) not in _MACHINES or (number == 22 and head[4] != 2):
        raise InputError(f"{label}: a module for an unknown machine ({number} in its ELF header)")
    return _MACHINES[(number, little)]


def machine_name(number: int, *, little_endian: bool) -> str:
    """Return the machine of an e_machine, as `uname -m` prints it; `elf-NUMBER` for others than `MACHINES`."""
    return _MACHINES.get((number, little_endian), f"elf-{number}")


def _head(path: Path, plain: Path, progress: Progress) -> bytes:
    """Return the beginning of a module's ELF header; the module was read before, and is not too large unpacked."""
    with path.open("rb") as file:
        head = file.read(20)
    openers: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"\xfd7": lzma.open}
    if head.startswith(_ZSTD):  # Python before 3.14 cannot read it
        argv = ("zstd", "-dqf", "--memory=256MB", "-o", str(plain), str(path.absolute()))
        run(Command(argv, plain.parent), log=plain.with_suffix(".log"), progress=progress)
        path = plain
    elif head[:2] not in openers:
        return head
    try:
        with openers.get(head[:2], open)(path, "rb") as file:
            begin: bytes = file.read(20)
            return begin
    except (OSError, EOFError, lzma.LZMAError):
        return b""


def releases_of(importers: Iterable[Importer], arch: str) -> tuple[str, ...]:
    """Return the releases of the kernels that an architecture's modules were built for, each once."""
    found = dict.fromkeys(one.module.release for one in importers if one.arch == arch)
    return tuple(escape_controls(release, keep="") for release in found if release)

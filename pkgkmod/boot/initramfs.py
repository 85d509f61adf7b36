"""The first file system of a booted kernel: busybox, kmod, the packages' files, the kernel's modules, and what to do.

Kernels unpack it themselves (Documentation/driver-api/early-userspace/buffer-format.rst). The same contents make the
same bytes.
"""

from __future__ import annotations

import gzip
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from pkgkmod.boot.enforcing import VARIABLE
from pkgkmod.boot.installed import Cargo, InstalledFile, merged
from pkgkmod.boot.kernelmodules import KernelModules
from pkgkmod.command import Command, run
from pkgkmod.errors import InputError, ToolError
from pkgkmod.formats.cpio import Member, write_archive
from pkgkmod.kernels.images import KernelImage
from pkgkmod.modules.kmod_deps import Export, Module, ModuleError
from pkgkmod.programs import find_tool
from pkgkmod.progress import Progress

_APPLETS = ("cat", "dd", "dmesg", "mkfifo", "mount", "poweroff", "sh", "tail", "uname")
_KMOD = ("depmod", "modprobe")
_FOLDERS = ("boot", "dev", "etc", "proc", "run", "sys", "tmp", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin")
_LINKS = ("bin", "lib", "lib64", "sbin")
"""Those that lead into /usr."""
# What depmod wants to know of a kernel besides its modules.
_LISTS = ("modules.builtin", "modules.builtin.modinfo", "modules.order")
_LIBRARY = re.compile(r"\s*(?:\S+ => )?(?P<path>/\S+) \(0x[0-9a-f]+\)")
_LEVEL = 1
"""Of compression: an emulated machine unpacks all of it at the same pace, and packing counts, too."""


@dataclass(frozen=True)
class Orders:
    """What the booted system is told."""

    token: str
    """With which it begins each line that counts."""
    port: str
    """Where it says them: a device below /dev."""
    limit: int
    """Seconds that a module may take."""
    modules: tuple[str, ...]
    """Names, in the order in which they are tried."""
    enrols: bytes = b""
    """What is to be written to the firmware's list of trusted keys; no module is tried then."""


class Files:
    """The files of a system in the making."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        for name in _FOLDERS:
            self.folder(name)
        for name in _LINKS:
            self.put(name, stat.S_IFLNK | 0o777, f"usr/{name}".encode())
        self._members["dev/console"] = Member("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))

    def folder(self, name: str) -> None:
        """Put a folder, and those it lies in."""
        for part in (*reversed(PurePosixPath(name).parents), PurePosixPath(name)):
            if str(part) != ".":
                self._members.setdefault(str(part), Member(str(part), stat.S_IFDIR | 0o755))

    def put(self, path: str, mode: int, content: bytes) -> None:
        """Put a file or a link; the first one that is put at a place stays."""
        name = merged(f"/{path.lstrip('/')}").lstrip("/") if path not in _LINKS else path
        parent = str(PurePosixPath(name).parent)
        if parent != ".":
            self.folder(parent)
        self._members.setdefault(name, Member(name, stat.S_IFMT(mode) | mode & 0o777, content))

    def members(self) -> list[Member]:
        """Return all of them, folders first; raise InputError where a file would lie in what is no folder."""
        for name in self._members:
            for parent in map(str, PurePosixPath(name).parents):
                if parent != "." and not stat.S_ISDIR(self._members[parent].mode):
                    raise InputError(f"the packages have both a file {parent} and a file {name}")
        return [self._members[name] for name in sorted(self._members)]


def base_files() -> Files:
    """Return what every booted system has; raise ToolError for a program that is missing here."""
    made = Files()
    for name, content in _program("busybox"):
        made.put(name, stat.S_IFREG | 0o755, content)
    for name in _APPLETS:
        made.put(f"usr/bin/{name}", stat.S_IFLNK | 0o777, b"/usr/bin/busybox")
    for tool in _KMOD:
        for name, content in _program(tool):
            made.put(name, stat.S_IFREG | 0o755, content)
    made.put("init", stat.S_IFREG | 0o755, files("pkgkmod.data").joinpath("boot/init").read_bytes())
    return made


@cache
def _program(tool: str) -> tuple[tuple[str, bytes], ...]:
    """Return the files of a program of this machine, by their paths: itself, and the libraries that it needs."""
    path = find_tool(tool, needed_for="a kernel that is booted")
    content = path.read_bytes()
    place = f"usr/sbin/{tool}" if tool in _KMOD else f"usr/bin/{tool}"
    if interpreter := _interpreter(path):
        libraries = {interpreter, *_libraries(interpreter, path)}
        return ((place, content), *((one, Path(one).read_bytes()) for one in sorted(libraries)))
    return ((place, content),)


def _interpreter(path: Path) -> str:
    """Return the loader that a program asks for; empty for one that needs none."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as file:
            segments: Any = ELFFile(file).iter_segments("PT_INTERP")
            found = [part.get_interp_name() for part in segments]
    except ELFError as error:
        raise ToolError(f"{path} is not a program for a kernel that is booted", details=str(error)) from None
    return str(found[0]) if found else ""


def _libraries(interpreter: str, path: Path) -> Iterator[str]:
    """Yield the libraries of a program, as its loader finds them (ld.so(8), --list)."""
    with tempfile.TemporaryDirectory(prefix="pkgkmod-boot-") as work:
        log = Path(work, "log")
        done = run(Command((interpreter, "--list", str(path)), Path(work)), log=log, progress=Progress())
    if not done.ok:
        raise ToolError(f"the libraries of {path} cannot be found", details="\n".join(done.tail))
    for line in done.tail:
        if found := _LIBRARY.fullmatch(line):
            yield found["path"]


def kernel_files(
    image: KernelImage, cargo: Cargo, exports: Mapping[str, Export] | None, also: Sequence[str] = ()
) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of the kernel's own modules that ours need, `also` some, and of its lists of modules."""
    top = f"usr/lib/modules/{image.uname_r}"
    for folder in image.modules:
        for name in _LISTS:
            if (folder / name).is_file():
                yield f"{top}/{name}", (folder / name).read_bytes()
    ours = [module for file in _tried(cargo) if (module := _readable(file))]
    for name, path in KernelModules(image.modules).chosen(ours, exports, also):
        yield f"{top}/{name}", path.read_bytes()


def _tried(cargo: Cargo) -> Iterator[InstalledFile]:
    """Yield the files of the modules that are tried, links followed."""
    by_path = cargo.by_path
    for module in cargo.modules:
        file = by_path[module.path]
        target = by_path.get(file.content.decode("utf-8", "replace")) if stat.S_ISLNK(file.mode) else file
        if target:
            yield target


def _readable(file: InstalledFile) -> Module | None:
    try:
        return file.module
    except (ModuleError, InputError):
        return None  # what the kernel says of it is what is wanted


def write_initramfs(
    destination: Path,
    image: KernelImage,
    cargo: Cargo,
    exports: Mapping[str, Export] | None,
    orders: Orders,
) -> int:
    """Write the file system of a boot, packed with gzip, which every kernel reads; return its bytes, unpacked."""
    made = base_files()
    also: tuple[str, ...] = ()
    made.put("boot/settings", stat.S_IFREG | 0o600, f"{orders.token}\n{orders.port}\n{orders.limit}\n".encode())
    made.put("boot/modules", stat.S_IFREG | 0o644, "".join(f"{name}\n" for name in orders.modules).encode())
    if orders.enrols:
        cargo, also = Cargo((), ()), ("efivarfs",)
        made.put("boot/db", stat.S_IFREG | 0o644, orders.enrols)
        made.put("boot/name", stat.S_IFREG | 0o644, f"{VARIABLE}\n".encode())
    for file in cargo.files:
        made.put(file.path, file.mode, file.content)
    for name, content in kernel_files(image, cargo, exports, also):
        made.put(name, stat.S_IFREG | 0o644, content)
    members = made.members()
    with destination.open("wb") as sink, gzip.GzipFile("", "wb", _LEVEL, sink, mtime=0) as packed:
        write_archive(packed, members)
    return sum(len(member.content) for member in members)

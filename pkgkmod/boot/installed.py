"""What packages put on a system, as far as it matters to the kernel's modules; bare modules, as if they were installed.

Nothing of a package is run, and of its files only those are taken that depmod, modprobe and the kernel read. What
scriptlets would make, such as the links of weak-modules, is not there.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from pkgkmod.errors import InputError
from pkgkmod.formats import debpackage, rpmpackage
from pkgkmod.formats.rpmarchive import is_module_path
from pkgkmod.model.kernel import KernelRelease
from pkgkmod.modules.kmod_deps import Module, ModuleError, module_name, parse_module
from pkgkmod.packages.modulefiles import ModuleFile, Run, module_files, plain_bytes

_WANTED = re.compile(
    r"(?:/usr)?/lib/(?:modules|firmware|modprobe\.d|depmod\.d|modules-load\.d)/.+|/etc/(?:modprobe|depmod)\.d/.+",
    re.DOTALL,
)
_RELEASE = re.compile(r"/usr/lib/modules/(?P<release>[^/]+)/")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+,-]*\.ko(?:\.gz|\.xz|\.zst)?")
_OLDEST = KernelRelease("0.0")
_MOST = 1024 * 1024 * 1024
"""Bytes of all files together, which are held in memory."""


@dataclass(frozen=True)
class InstalledFile:
    """A file, or a symbolic link, whose content is what it names."""

    path: str
    """In the booted system, where /lib is /usr/lib."""
    mode: int
    content: bytes = field(repr=False)

    @cached_property
    def module(self) -> Module:
        """What it says of itself, if it is a module; raise ModuleError if it cannot be read."""
        return parse_module(plain_bytes(self.content, self.path), self.path)


@dataclass(frozen=True)
class TriedModule:
    """A module that is to be loaded."""

    name: str
    """As the kernel knows it."""
    path: str
    """In the booted system."""
    package: str
    """File name of its package, or of itself."""
    fault: str = ""
    """Why it cannot be tried."""


@dataclass(frozen=True)
class Contents:
    """What one file that was given brings."""

    file: Path
    files: tuple[InstalledFile, ...]
    """Of a bare module, that module, below no folder."""
    is_bare: bool = False

    @property
    def has_modules(self) -> bool:
        """Tell whether there is a module for any kernel."""
        return self.is_bare or any(is_module_path(file.path) for file in self.files)

    @property
    def releases(self) -> frozenset[str]:
        """The kernels that its modules are for."""
        if self.is_bare:
            return frozenset(filter(None, (_built_for(file) for file in self.files)))
        return frozenset(found["release"] for file in self.files if (found := _RELEASE.match(file.path)))


@dataclass(frozen=True)
class Cargo:
    """What is put on the system for one kernel."""

    files: tuple[InstalledFile, ...]
    modules: tuple[TriedModule, ...]

    @cached_property
    def digest(self) -> str:
        """Stands for all of it."""
        total = hashlib.sha256()
        for file in self.files:
            total.update(f"{file.path}\0{file.mode:o}\0{len(file.content)}\0".encode("utf-8", "surrogateescape"))
            total.update(file.content)
        return total.hexdigest()

    @property
    def by_path(self) -> Mapping[str, InstalledFile]:
        """The files by their paths."""
        return {file.path: file for file in self.files}


def merged(path: str) -> str:
    """Return a path on a system where /lib, /bin and /sbin are links into /usr, as all of today have them."""
    first = path.split("/", 2)[1] if path.startswith("/") else ""
    return f"/usr{path}" if first in ("lib", "lib64", "bin", "sbin") else path


def read_contents(files: Sequence[Path], run: Run) -> tuple[Contents, ...]:
    """Return what packages and bare modules bring; raise InputError for one that is damaged, and for too much."""
    found: list[Contents] = []
    total = 0
    for file in files:
        contents = _contents(file, run)
        total += sum(len(one.content) for one in contents.files)
        if total > _MOST:
            raise InputError(f"the files are of more than {_MOST >> 20} MiB", hint="boot with fewer packages at a time")
        found.append(contents)
    return tuple(found)


def cargo_for(contents: Sequence[Contents], uname_r: str, *, links: bool = False) -> Cargo:
    """Return what is there for a kernel.

    With `links`, a module that is there for other kernels only is linked into weak-updates/, as weak-modules does it on
    Red Hat's systems, and a bare one lies in updates/; of several, the one for the kernel that is most like it.
    """
    top = f"/usr/lib/modules/{uname_r}"
    files: dict[str, InstalledFile] = {}
    modules: dict[str, TriedModule] = {}
    for one in contents:
        for file in () if one.is_bare else one.files:
            if (found := _RELEASE.match(file.path)) and found["release"] != uname_r:
                continue
            if files.setdefault(file.path, file).content != file.content:
                raise InputError(f"{one.file} has another {file.path} than a package before it")
            if file.path.startswith(f"{top}/") and is_module_path(file.path):
                modules.setdefault(file.path, _tried(file.path, one.file.name))
    there = {module.name for module in modules.values()}
    for one, file, linked in _by_likeness(contents, uname_r) if links else ():
        if module_name(file.path) not in there:
            there.add(module_name(file.path))
            path = f"{top}/{'weak-updates' if linked else 'updates'}/{PurePosixPath(file.path).name}"
            mode, content = (stat.S_IFLNK | 0o777, file.path.encode()) if linked else (file.mode, file.content)
            files |= {path: InstalledFile(path, mode, content)} | ({file.path: file} if linked else {})
            modules[path] = _tried(path, one.file.name)
    return Cargo(tuple(files.values()), tuple(sorted(modules.values(), key=lambda one: (one.name, one.path))))


def _by_likeness(contents: Sequence[Contents], uname_r: str) -> list[tuple[Contents, InstalledFile, bool]]:
    """Return the modules, whatever kernel they are for, and whether they would be linked: the likeliest one first."""
    found: list[tuple[tuple[object, ...], Contents, InstalledFile, bool]] = []
    for one in contents:
        for file in one.files:
            release = _RELEASE.match(file.path)
            built_for = _built_for(file) if one.is_bare else release["release"] if release else ""
            if one.is_bare or is_module_path(file.path):
                found.append((_likeness(built_for, uname_r), one, file, not one.is_bare))
    found.sort(key=lambda each: each[0], reverse=True)
    return [each[1:] for each in found]


def _likeness(built_for: str, uname_r: str) -> tuple[object, ...]:
    """Return what orders kernels by how likely their modules load into another: series, flavour, age."""
    try:
        ours, theirs = KernelRelease(built_for), KernelRelease(uname_r)
    except ValueError:
        return False, False, False, _OLDEST
    return ours == theirs, ours.series == theirs.series, ours.flavour == theirs.flavour, ours


def _tried(path: str, package: str) -> TriedModule:
    name = PurePosixPath(path).name
    fault = "" if _NAME.fullmatch(name) else "its file has a name that modprobe cannot be given"
    return TriedModule(module_name(path), path, package, fault)


def _built_for(file: InstalledFile) -> str:
    try:
        return file.module.release
    except ModuleError:
        return ""


def _contents(file: Path, run: Run) -> Contents:
    if file.suffix == ".rpm":
        package = rpmpackage.read_headers(file)
        rpmpackage.check_digests(package)
        found = [] if package.is_source else list(rpmpackage.file_contents(package, _is_wanted))
        return Contents(file, tuple(checked(file, found)))
    if file.suffix in debpackage.ENDINGS:
        with debpackage.open_package(file, run) as opened:
            return Contents(file, tuple(checked(file, debpackage.file_contents(opened, _is_wanted))))
    (module,) = module_files([file], run)
    return Contents(file, (_of_bare(module),), is_bare=True)


def _of_bare(module: ModuleFile) -> InstalledFile:
    return InstalledFile(f"/{PurePosixPath(module.path).name}", stat.S_IFREG | 0o644, module.content)


def _is_wanted(path: str) -> bool:
    return bool(_WANTED.fullmatch(path))


def checked(
    package: Path, found: Iterator[tuple[tuple[str, ...], int, bytes]] | list[tuple[tuple[str, ...], int, bytes]]
) -> Iterator[InstalledFile]:
    """Yield the files; raise InputError where a path leads out, or through a link of the package's own."""
    links: set[str] = set()
    for names, mode, content in found:
        for name in names:
            path = merged(name)
            if ".." in path.split("/") or "\0" in path or links.intersection(map(str, PurePosixPath(path).parents)):
                raise InputError(f"{package}: {name} leads out of its folder")
            if stat.S_ISLNK(mode):
                links.add(path)
            yield InstalledFile(path, mode, content)

"""What package files say about themselves, and which modules they have; remembered by their content.

Modules are what lies below a kernel's folder in /lib/modules or /usr/lib/modules, where depmod looks for them. anaconda
unpacks `.ko` files from anywhere, but loads those of /lib/modules only (anaconda, dracut/driver_updates.py).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from pkgkmod.command import Command, Completed
from pkgkmod.data.arches import machine_of_arch
from pkgkmod.errors import InputError
from pkgkmod.formats import debpackage, rpmpackage
from pkgkmod.formats.debindex import DebControl
from pkgkmod.formats.rpmheader import Header, Tag
from pkgkmod.formats.rpmpackage import RpmPackage
from pkgkmod.media.factscache import recall, remember
from pkgkmod.model.artifacts import PackageFormat
from pkgkmod.model.disk import DiskPackage, ModuleFacts, PackageFacts, Provide
from pkgkmod.modules.kabifiles import machine_name
from pkgkmod.modules.kmod_deps import Module, ModuleError, module_name, parse_module
from pkgkmod.packages.modulefiles import plain_bytes
from pkgkmod.progress import Progress, escape_controls

Run = Callable[[Command], Completed]
Kind = Literal["binary", "source", "debuginfo"]

FORMATS: dict[str, PackageFormat] = {".rpm": "rpm", **dict.fromkeys(debpackage.ENDINGS, "deb")}
"""Formats of package files, by how their names end."""

_CAPABILITIES = ("kernel-modules", "installer-enhancement")
"""What anaconda looks for among the Provides (anaconda, utils/dd/rpmutils.c)."""
_LESS, _GREATER, _EQUAL = 2, 4, 8  # RPMSENSE_* (rpm, include/rpm/rpmds.h)
# 32-bit x86 has a name for each generation of processors, which the others of these do not have.
_I686 = ("i386", "i486", "i586", "i686", "athlon")
_DEBUG = "/usr/lib/debug/"
_FIRMWARE = ("/lib/firmware/", "/usr/lib/firmware/")
_SIGNED = b"~Module signature appended~\n"  # MODULE_SIG_STRING (include/linux/module_signature.h)
_LATEST = 0xFFFFFFFF
"""Seconds since 1970, in 2106: the last that RPM's and ISO images' fields hold."""
_LONGEST_TEXT = 1000  # of a summary

# The first bytes of compressed files, as kmod tells them (kmod, libkmod/libkmod-file.c).
_MAGIC = {b"\x1f\x8b": "gz", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zst"}
_MODULE = re.compile(r"(?:/usr)?/lib/modules/(?P<uname_r>[^/]+)/.+\.ko(?:\.(?P<compression>gz|xz|zst))?")
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")
# What becomes a part of a path, or of another program's input.
_NAME = re.compile(r"[^\s/\x00-\x1f\x7f]{1,255}")
_ARCH = re.compile(r"[A-Za-z0-9_]{1,32}")


def find_packages(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the package files (.rpm, .deb) among `paths`, and in folders among them, in their order.

    Raise InputError for what is none, and if there are none.
    """
    hint = "give packages (.rpm, .deb), or folders that hold some"
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.suffix in FORMATS and one.is_file())
            if not inside:
                raise InputError(f"there is no package in {path}", hint=hint)
        elif not path.exists():
            raise InputError(f"{path} is not there", hint=hint)
        elif path.suffix not in FORMATS or not path.is_file():
            raise InputError(f"{path} is not a package", hint=hint)
        else:
            inside = [path]
        for one in inside:
            found.setdefault(one.resolve(), one)
    if not found:
        raise InputError("there is no package", hint=hint)
    return tuple(found.values())


def read_packages(paths: Sequence[Path], run: Run, progress: Progress) -> tuple[DiskPackage, ...]:
    """Read package files, in their order. Raise InputError for one that is damaged."""
    if not paths:
        return ()
    packages: list[DiskPackage] = []
    # Hashing, decompressing and other programs do not keep the other threads from running.
    with progress.step(f"reading {len(paths)} packages" if len(paths) != 1 else f"reading {paths[0].name}"):
        pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        try:
            for number, facts in enumerate(pool.map(lambda path: _facts(path, run), paths), 1):
                packages.append(DiskPackage(paths[number - 1], facts))
                progress.amount(number, len(paths))
        finally:
            pool.shutdown(cancel_futures=True)
    return tuple(packages)


def _facts(path: Path, run: Run) -> PackageFacts:
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read", details=error.strerror or str(error)) from None
    format = FORMATS.get(path.suffix)
    if format is None:
        raise InputError(f"{path} is not a package", hint="give packages (.rpm, .deb)")
    facts = recall(sha256)
    if facts is None or facts.format != format:
        facts = _read_rpm(path) if format == "rpm" else _read_deb(path, run)
        remember(sha256, facts)
    return facts


def _read_rpm(path: Path) -> PackageFacts:
    package = rpmpackage.read_headers(path)
    rpmpackage.check_digests(package)
    with rpmpackage.explained(path):
        header = package.header
        name, arch, kind = header.text(Tag.NAME), header.text(Tag.ARCH), _rpm_kind(package)
        version = f"{header.text(Tag.VERSION)}-{header.text(Tag.RELEASE)}"
        version = f"{header.number(Tag.EPOCH)}:{version}" if Tag.EPOCH in header else version
        _check_words(path, arch, name, version)
        modules = rpmpackage.module_contents(package) if kind == "binary" else ()
        return PackageFacts(
            format="rpm",
            kind=kind,
            name=name,
            version=version,
            arch="src" if kind == "source" else arch,
            machine="" if kind == "source" else _machine(arch, "rpm"),
            size=path.stat().st_size,
            build_time=package.build_time,
            summary=_one_line(header.text(Tag.SUMMARY) if Tag.SUMMARY in header else ""),
            payload=_one_line(package.compressor) or "none",
            provides=tuple(_provides(header)),
            signed=package.is_signed,
            modules=_module_facts(path, modules),
            firmware=tuple(_firmware(package)) if kind == "binary" else (),
        )


def _firmware(package: RpmPackage) -> Iterator[str]:
    """Yield the paths of firmware files and links, not of folders."""
    modes = package.header.numbers(Tag.FILEMODES) if Tag.FILEMODES in package.header else []
    for path, mode in sorted(zip(package.paths, modes, strict=False)):
        if path.startswith(_FIRMWARE) and not stat.S_ISDIR(mode) and path.isprintable():
            yield path


def _rpm_kind(package: RpmPackage) -> Kind:
    if package.is_source:
        return "source"
    if package.header.text(Tag.NAME).endswith(("-debuginfo", "-debugsource")):
        return "debuginfo"
    paths = package.paths
    return "debuginfo" if paths and all(f"{path}/".startswith(_DEBUG) for path in paths) else "binary"


def _provides(header: Header) -> Iterator[Provide]:
    if Tag.PROVIDENAME not in header:
        return
    names = header.texts(Tag.PROVIDENAME)
    # Packages of rpm before 4.0 have names only.
    versions = header.texts(Tag.PROVIDEVERSION) if Tag.PROVIDEVERSION in header else [""] * len(names)
    flags = header.numbers(Tag.PROVIDEFLAGS) if Tag.PROVIDEFLAGS in header else [0] * len(names)
    for name, version, flag in zip(names, versions, flags, strict=False):
        if name in _CAPABILITIES:
            relation = "".join(sign for bit, sign in ((_LESS, "<"), (_GREATER, ">"), (_EQUAL, "=")) if flag & bit)
            yield Provide(name=name, relation=relation if version else "", version=_one_line(version))


def _read_deb(path: Path, run: Run) -> PackageFacts:
    with debpackage.open_package(path, run) as package:
        control, member, place = debpackage.read_control(package)
        kind = _deb_kind(control)
        modules = debpackage.module_contents(package) if kind == "binary" else ()
        return PackageFacts(
            format="deb",
            kind=kind,
            name=control.name,
            version=control.version,
            arch=control.arch,
            machine=_machine(control.arch, "deb"),
            size=path.stat().st_size,
            build_time=package.time if package.time <= _LATEST else 0,
            summary=_one_line(control.fields.get("Description", "").partition("\n")[0]),
            payload=debpackage.compressor(package),
            control=member,
            control_path=_one_line(place),
            signed=package.is_signed,
            modules=_module_facts(path, modules),
        )


def _deb_kind(control: DebControl) -> Kind:
    is_debug = control.fields.get("Section", "").rpartition("/")[2] == "debug"
    return "debuginfo" if is_debug or control.name.endswith("-dbgsym") else "binary"


def _machine(arch: str, format: PackageFormat) -> str:
    if arch in ("noarch", "all"):
        return ""
    return "i686" if arch in _I686 else machine_of_arch(arch, format) or arch


def _check_words(path: Path, arch: str, *names: str) -> None:
    """Raise InputError for names that a package could have, and that no package has."""
    odd = [name for name in names if not _NAME.fullmatch(name)] or ([] if _ARCH.fullmatch(arch) else [arch])
    if odd:
        raise InputError(f"{path} is called {_one_line(odd[0])!r} inside, which is no name", hint="build it again")


def _module_facts(path: Path, modules: Iterable[tuple[tuple[str, ...], bytes]]) -> tuple[ModuleFacts, ...]:
    """Return what is to be said of the modules; all names of hard links count."""
    facts = [_module(path, name, content) for names, content in modules for name in names]
    return tuple(sorted(facts, key=lambda module: module.path))


def _module(package: Path, path: str, content: bytes) -> ModuleFacts:
    found = _MODULE.fullmatch(path)
    if not found or not _RELEASE.fullmatch(found["uname_r"]) or not _is_plain(path):
        raise InputError(f"{package} holds a module called {path!r}, which is no name", hint="build it again")
    facts = ModuleFacts(
        path=path,
        name=module_name(path),
        uname_r=found["uname_r"],
        compression=found["compression"] or "none",
    )
    return _read(facts, content)


def read_module(place: str, content: bytes) -> ModuleFacts:
    """Return what is to be said of a bare module that lies at `place` on a disk."""
    ending = place.rpartition(".ko.")[2]
    compression = ending if ending in _MAGIC.values() else "none"
    return _read(ModuleFacts(path=place, name=module_name(place), compression=compression), content)


def _read(facts: ModuleFacts, content: bytes) -> ModuleFacts:
    path, named = facts.path, facts.compression
    try:
        if not content:
            raise ModuleError(path, "it is empty")
        plain = plain_bytes(content, path)
        module = parse_module(plain, path)
        real = next((kind for magic, kind in _MAGIC.items() if content.startswith(magic)), "none")
        if real != named:
            raise ModuleError(path, f"its name says that it is compressed as {named}, and it is as {real}")
        return facts.model_copy(update=_said(module, plain))
    except ModuleError as error:
        return facts.model_copy(update={"fault": _one_line(error.reason)})


def _said(module: Module, plain: bytes) -> dict[str, object]:
    """Return what a module says itself; raise ModuleError if no kernel would load it."""
    if not _RELEASE.fullmatch(module.release):
        raise ModuleError(module.path, "it does not say for which kernel it is (vermagic)")
    depends = ",".join(module.info("depends")).split(",")
    return {
        "vermagic": module.release,
        "machine": machine_name(module.machine, little_endian=module.little_endian),
        "aliases": tuple(_one_line(alias) for alias in module.info("alias")),
        "depends": tuple(_one_line(name) for name in depends if name),
        "signed": plain.endswith(_SIGNED),
    }


def _is_plain(path: str) -> bool:
    """Tell whether a path is one that can be printed, and leads nowhere else."""
    return path.isprintable() and not {".", "..", ""} & set(path.split("/")[1:])


def _one_line(text: str) -> str:
    """Return a text for messages: valid, without control characters, and not endless."""
    if text.isascii() and text.isprintable() and len(text) <= _LONGEST_TEXT:
        return text
    valid = text.encode("utf-8", "replace").decode("utf-8")
    return escape_controls(valid, keep="")[:_LONGEST_TEXT]

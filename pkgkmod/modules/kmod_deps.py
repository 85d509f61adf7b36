#!/usr/bin/python3
"""What kernel modules need and provide, in the words of each family of RPM distributions.

This one file is two things. pkgkmod imports it to read modules; and it lies in every source archive as
`pkgkmod-deps`, which says what packages depend on where the distribution has no generators of its own for that. There
it is alone: no pkgkmod, no library but Python's own, down to Python 3.6 (EL 8, SLE 15). That is why it reads ELF
itself, starts zstd itself, and keeps to old spellings.
"""

# Python 3.6 knows no other spelling.
# ruff: noqa: UP006, UP035, UP045, B905

import argparse
import hashlib
import io
import os
import re
import stat
import struct
import sys
import zlib
from typing import Any, BinaryIO, Dict, FrozenSet, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple


class Style(NamedTuple):
    """How a family spells dependencies; an empty text is one that it does not have."""

    kernel_symbol: str = ""
    """Requires: a symbol that the kernel exports with this CRC."""
    other_symbol: str = ""
    """Requires: a symbol of another module, or of another kernel."""
    uname_r: str = ""
    """Requires: the kernel release."""
    exported_symbol: str = ""
    """Provides."""
    module: str = ""
    """Provides, by the name of the file."""
    folds_dashes: bool = False
    """Module names have underscores for dashes, as the kernel sees them."""
    alias: str = ""
    """Provides, with the module's version if it has one."""
    hardware: str = ""
    """Supplements, for an alias."""
    firmware: str = ""
    """Provides, for a file below /lib/firmware."""


_MODULE = "kmod({file})"
_HARDWARE = "modalias(kernel-{flavour}:{alias})"
_SUSE_SYMBOL = "ksym({flavour}:{symbol}) = {crc:x}"

# Sources: kernel-srpm-macros of Fedora and EL 9 (find-requires.ksyms, find-provides.ksyms, modalias.prov, kmod.attr),
# rpm-config-SUSE (find-requires.ksyms, find-provides.ksyms, find-supplements.ksyms, firmware.prov, kmp.attr).
STYLES = {
    "redhat": Style(
        kernel_symbol="kernel({symbol}) = 0x{crc:08x}",
        other_symbol="ksym({symbol}) = 0x{crc:08x}",
        exported_symbol="ksym({symbol}) = 0x{crc:08x}",
        module=_MODULE,
        alias="modalias({alias})",
    ),
    # Fedora's packages are for one kernel, which they require by its release.
    "fedora": Style(module=_MODULE, alias="modalias({alias})"),
    "suse": Style(
        kernel_symbol=_SUSE_SYMBOL,
        other_symbol=_SUSE_SYMBOL,
        exported_symbol=_SUSE_SYMBOL,
        module=_MODULE,
        folds_dashes=True,
        hardware=_HARDWARE,
        firmware="firmware({file})",
    ),
    "tumbleweed": Style(
        uname_r="kernel-uname-r = {release}",
        module=_MODULE,
        folds_dashes=True,
        hardware=_HARDWARE,
        firmware="firmware({file})",
    ),
}

_OF_RPM = ("requires", "provides", "supplements")
_NEED_STYLE = (*_OF_RPM, "rpm")

_MIB = 1024 * 1024
_FILE_LIMIT = 2048 * _MIB  # a module with its debug information, of which little is read
# Limits of what takes memory and time: some times what the largest modules and kernels have.
_UNPACKED_LIMIT = 128 * _MIB  # compressed modules are stripped
_UNPACKED_AT_ONCE = 4 * _MIB
_UNPACKER_MEMORY = 128 * _MIB
_TABLE_LIMIT = 16 * _MIB  # symbols, their names; a Module.symvers, which has 2 MiB
_VERSIONS_LIMIT = 4 * _MIB
_MODINFO_LIMIT = 1 * _MIB
_SECTIONS_LIMIT = 200_000
_EXPORTS_LIMIT = 300_000
_NAME_LIMIT = 512  # KSYM_NAME_LEN (include/linux/kallsyms.h)

_MODULE_FILE = re.compile(r"\.ko(\.gz|\.xz|\.zst)?$")
_IN_DEB = re.compile(r"debian/(?P<package>[a-z0-9][a-z0-9.+-]*)/")
_INSTALLED_MODULE = re.compile(r"/lib/modules/(?P<release>[^/]+)/.+\.ko(\.gz|\.xz|\.zst)?$")
_FIRMWARE = re.compile(r"/lib/firmware/(?P<name>.+?)(\.xz|\.zst)?$")
_SYMBOL = re.compile(r"[A-Za-z_.$][A-Za-z0-9_.$]*")  # with those of Rust and of clang's link-time optimization
_WORD = re.compile(r"[A-Za-z0-9._+~:/@=-]+")
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")
_ALIAS_OTHER = re.compile(r"[^][0-9a-zA-Z._:*?/-]")
_LIST_OTHER = re.compile(r"[^!-~]|[(),$]")
_VERSION_OTHER = re.compile(r"[^0-9a-zA-Z._]")
_LINKERS = ("_GLOBAL_OFFSET_TABLE_", ".TOC.")  # names that no kernel exports: linkers and loaders know them
_PPC64 = 21  # EM_PPC64
_STABLE_LINE = re.compile(r"\s+(\S+)\s*")


class ModuleError(Exception):
    """A file that is not what it should be; the text names it and says why, in one line."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{shown(path)}: {reason}")
        self.reason = reason


class Module(NamedTuple):
    """What a kernel module says about itself."""

    path: str
    modinfo: Tuple[Tuple[str, str], ...]
    versions: Optional[Dict[str, int]]
    """CRC of each symbol that it imports; None for a kernel without CONFIG_MODVERSIONS."""
    undefined: FrozenSet[str]
    """Symbols that must be there when it is loaded."""
    weak: FrozenSet[str]
    """Symbols that it can do without."""
    exports: Dict[str, Optional[int]]
    """Symbols that it offers, with their CRC if they have one."""
    machine: int = 0
    """e_machine (elf.h)."""
    little_endian: bool = True

    @property
    def name(self) -> str:
        """The module's name as the kernel knows it."""
        return module_name(self.path)

    @property
    def release(self) -> str:
        """Release of the kernel it was built for, as `uname -r` says it."""
        return (self.info("vermagic") or [""])[0].split(" ")[0]

    @property
    def flavour(self) -> str:
        """SUSE's kernel flavour: what follows the last dash of the release."""
        return self.release.rpartition("-")[2]

    @property
    def imports(self) -> FrozenSet[str]:
        """Names of all symbols that it takes from elsewhere."""
        return self.undefined | frozenset(self.versions or ())

    def info(self, key: str) -> List[str]:
        """Return the values of a modinfo key, in the file's order."""
        return [value for name, value in self.modinfo if name == key]


class Export(NamedTuple):
    """A line of Module.symvers."""

    crc: int
    module: str
    """`vmlinux`, or the module's path in the build tree without .ko."""
    kind: str
    """EXPORT_SYMBOL or EXPORT_SYMBOL_GPL."""
    namespace: str


def read_module(path: str) -> Module:
    """Read a module: .ko, .ko.gz, .ko.xz or .ko.zst; raise ModuleError if it is none, or damaged."""
    plain = path.endswith(".ko")
    with _opened(path, _FILE_LIMIT if plain else _UNPACKED_LIMIT) as file:
        try:
            return _parse(file, path) if plain else parse_module(unpacked(file.read(), path), path)
        except OSError as error:
            raise ModuleError(path, error.strerror or str(error)) from None


def _opened(path: str, limit: int) -> BinaryIO:
    """Open a regular file that is not larger than `limit` bytes; raise ModuleError."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ModuleError(path, "not a regular file")
        if status.st_size > limit:
            raise ModuleError(path, "the file is too large")
        return open(path, "rb")
    except OSError as error:
        raise ModuleError(path, error.strerror or str(error)) from None
    except ValueError:  # a NUL byte
        raise ModuleError(path, "not a file name") from None


def parse_module(content: bytes, path: str) -> Module:
    """Read a module out of its bytes, which are not compressed; `path` is its name."""
    return _parse(io.BytesIO(content), path)


def _parse(file: BinaryIO, path: str) -> Module:
    elf = _Elf(file, path)
    undefined, weak, exports = elf.symbols()
    little_endian = elf.order == "<"
    return Module(path, _modinfo(elf), _versions(elf), undefined, weak, exports, elf.machine, little_endian)


def read_symvers(path: str) -> Dict[str, Export]:
    """Read a Module.symvers, also compressed, as a table by symbol; raise ModuleError."""
    return {words[1].decode("utf-8", "replace"): _export(words, path, line) for line, words in _symvers_lines(path)}


def read_exports(path: str, names: Iterable[str]) -> Tuple[Dict[str, Export], FrozenSet[str]]:
    """Return some symbols of a Module.symvers, and all modules that export any; raise ModuleError.

    It takes a third of the time that reading all symbols takes, and next to no memory.
    """
    wanted = {name.encode("utf-8", "surrogateescape") for name in names}
    found = {}
    modules = set()
    for line, words in _symvers_lines(path):
        modules.add(words[2])
        if words[1] in wanted:
            found[words[1].decode("utf-8", "replace")] = _export(words, path, line)
    return found, frozenset(module.decode("utf-8", "replace") for module in modules)


def _symvers_lines(path: str) -> Iterator[Tuple[int, List[bytes]]]:
    """Yield the numbers of lines with their columns: CRC, symbol, module, and the rest in one."""
    with _opened(path, _TABLE_LIMIT) as file:
        content = file.read()
    lines = unpacked(content, path, _TABLE_LIMIT).rstrip(b"\n").split(b"\n", _EXPORTS_LIMIT)
    if len(lines) > _EXPORTS_LIMIT:
        raise ModuleError(path, f"more than {_EXPORTS_LIMIT} lines")
    for number, line in enumerate(lines if lines != [b""] else (), 1):
        words = line.split(b"\t", 3)
        if len(words) < 4:
            raise _no_export(path, number)
        yield number, words


def _export(words: Sequence[bytes], path: str, line: int) -> Export:
    try:
        kind, _, namespace = words[3].decode("utf-8", "replace").partition("\t")
        return Export(int(words[0], 16), words[2].decode("utf-8", "replace"), kind, namespace.partition("\t")[0])
    except ValueError:
        raise _no_export(path, line) from None


def _no_export(path: str, line: int) -> ModuleError:
    return ModuleError(path, f"line {line} is not one of a Module.symvers")


def read_stable_list(path: str) -> Set[str]:
    """Read the symbols of a kABI stable list of Red Hat's: one in each indented line; raise ModuleError."""
    with _opened(path, _TABLE_LIMIT) as file:
        lines = file.read().decode("utf-8", "replace").splitlines()
    return {match.group(1) for match in map(_STABLE_LINE.fullmatch, lines) if match}


def module_name(path: str) -> str:
    """Return the name that the kernel has for the module in a file."""
    return _MODULE_FILE.sub("", path.rpartition("/")[2]).replace("-", "_")


def shown(text: str) -> str:
    """Return a name fit for a terminal: control characters and what is not text are spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def requires(
    modules: Sequence[Module],
    style: Style,
    symvers: Sequence[str] = (),
    flavour: Optional[str] = None,
    tables: Optional[Dict[str, Dict[str, Export]]] = None,
) -> List[str]:
    """Return what the modules need; `symvers` are files that say what kernels export.

    Of several such files, those of a module's own kernel count, if they have its release in their path. Without any,
    every symbol counts as the kernel's. `tables` are what was read of the files before, with all symbols that matter.
    """
    own = {item for module in modules for item in module.exports.items()}
    wanted = _versioned(modules)
    tables = {} if tables is None else tables
    found = set()
    for module in modules:
        place = _INSTALLED_MODULE.search(module.path)
        if place and re.search(r"/lib/modules/[^/]+/kernel/", module.path):
            continue  # the kernel's own
        release = place.group("release") if place else module.release
        if style.uname_r and _RELEASE.fullmatch(release):
            found.add(style.uname_r.format(release=release))
        if not style.kernel_symbol:
            continue
        paths = [path for path in symvers if re.search(f"[/-]{re.escape(release)}/", path)] or symvers
        for path in paths:
            if path not in tables:
                tables[path] = read_exports(path, wanted)[0]
        for symbol, crc in (module.versions or {}).items():
            if (symbol, crc) in own:
                continue
            exports = [tables[path][symbol] for path in paths if symbol in tables[path]]
            kernels = not symvers or any(export.crc == crc for export in exports)
            words = style.kernel_symbol if kernels else style.other_symbol
            found.add(words.format(symbol=_symbol(symbol, module), crc=crc, flavour=_flavour(module, flavour)))
    return sorted(found)


def _versioned(modules: Iterable[Module]) -> Set[str]:
    return {symbol for module in modules for symbol in module.versions or ()}


def provides(
    modules: Sequence[Module], style: Style, firmware: Sequence[str] = (), flavour: Optional[str] = None
) -> List[str]:
    """Return what the modules, and firmware files given by their path, offer."""
    found = set()
    aliases = set()
    for module in modules:
        name = _MODULE_FILE.sub(".ko", module.path.rpartition("/")[2])
        name = name.replace("-", "_") if style.folds_dashes else name
        if style.module and _WORD.fullmatch(name):
            found.add(style.module.format(file=name))
        for symbol, crc in module.exports.items() if style.exported_symbol else ():
            if crc is not None:
                words = style.exported_symbol
                found.add(words.format(symbol=_symbol(symbol, module), crc=crc, flavour=_flavour(module, flavour)))
        version = _VERSION_OTHER.sub("_", (module.info("version") or [""])[0])
        for alias in module.info("alias") if style.alias else ():
            words = style.alias.format(alias=_ALIAS_OTHER.sub("_", alias))
            aliases.add(f"{words} = {version}" if version else words)
    for path in firmware if style.firmware else ():
        match = _FIRMWARE.search(path)
        if match and _WORD.fullmatch(match.group("name")):  # others cannot be said in RPM
            found.add(style.firmware.format(file=match.group("name")))
    return sorted(found | set(combined(aliases)))


def supplements(modules: Sequence[Module], style: Style, flavour: Optional[str] = None) -> List[str]:
    """Return for which hardware the modules are of use."""
    aliases = set()
    for module in modules:
        for alias in module.info("alias") if style.hardware else ():
            encoded = _percent(alias)
            if re.fullmatch(".+:.+", encoded):
                aliases.add(style.hardware.format(alias=encoded, flavour=_flavour(module, flavour)))
    return sorted(combined(aliases))


def greylist(modules: Sequence[Module], stable: Set[str], symvers: Sequence[str] = ()) -> List[str]:
    """Return the symbols taken from the kernel that are not stable; `symvers` says which ones are the kernel's."""
    own = {name for module in modules for name in module.exports}
    kernels = {name for path in symvers for name in read_symvers(path)}
    wanted = {name for module in modules for name in module.imports if _symbol(name, module)}
    return sorted(name for name in wanted - own - stable if not symvers or name in kernels)


def symbols(modules: Sequence[Module]) -> List[str]:
    """Return the symbols taken from elsewhere, with their CRC, in the words of `modprobe --dump-modversions`.

    The CRC is 0 where the kernel has none (no CONFIG_MODVERSIONS). What one of the modules offers another is left out.
    """
    own = {name for module in modules for name in module.exports}
    found: Dict[str, int] = {}
    for module in modules:
        for name in module.imports - own:
            found[_symbol(name, module)] = (module.versions or {}).get(name) or found.get(name, 0)
    return [f"0x{found[name]:08x}\t{name}" for name in sorted(found)]


def modaliases(modules: Sequence[Module]) -> str:
    """Return for which hardware the modules are, as ubuntu-drivers reads it: `NAME(ALIAS, ALIAS), NAME(ALIAS)`.

    Such a list knows no quoting: commas (as in `of:...`), parentheses and spaces within an alias become `?`, which
    matches them.
    """
    parts = []
    for module in sorted(modules, key=lambda module: module.name):
        aliases = sorted({_LIST_OTHER.sub("?", alias) for alias in module.info("alias") if ":" in alias})
        if aliases:
            parts.append(f"{_ALIAS_OTHER.sub('_', module.name)}({', '.join(aliases)})")
    return ", ".join(parts)


def combined(aliases: Iterable[str]) -> List[str]:
    """Merge aliases that follow each other and differ in one character only, and always there, as `[ab]`."""
    merged = []
    first, variants, place = "", "", -1
    for alias in sorted(aliases):
        at = _only_difference(first, alias)
        if at >= 0 and first[at] != "*" and place in (-1, at):
            variants, place = (variants or first[at]) + alias[at], at
            continue
        merged.append(_bracketed(first, variants, place))
        first, variants, place = alias, "", -1
    merged.append(_bracketed(first, variants, place))
    return [alias for alias in merged if alias]


def _only_difference(one: str, other: str) -> int:
    """Return the place of the only character that differs, or -1."""
    if len(one) != len(other):
        return -1
    at = next((place for place, pair in enumerate(zip(one, other)) if pair[0] != pair[1]), -1)
    return at if one[at + 1 :] == other[at + 1 :] else -1


def _bracketed(alias: str, variants: str, place: int) -> str:
    return f"{alias[:place]}[{variants}]{alias[place + 1 :]}" if variants else alias


def _percent(text: str) -> str:
    plain = b"*:0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    return "".join(chr(byte) if byte in plain else f"%{byte:02X}" for byte in text.encode("utf-8", "replace"))


def _flavour(module: Module, flavour: Optional[str]) -> str:
    name = flavour or module.flavour
    if not _RELEASE.fullmatch(name):
        raise ModuleError(module.path, "its kernel release has no flavour; give one with --flavour")
    return name


def _symbol(name: str, module: Module) -> str:
    """Return a symbol's name if RPM can say it: a module that has others is no compiler's work."""
    if not _SYMBOL.fullmatch(name):
        raise ModuleError(module.path, f"it has a symbol '{shown(name)}', which is no C name")
    return name


class _Section(NamedTuple):
    name: bytes
    kind: int
    offset: int
    size: int
    link: int


class _Elf:
    """A relocatable ELF file, read with suspicion."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self.file = file
        self.path = path
        self.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        ident = file.read(16)
        if ident[:4] != b"\x7fELF" or len(ident) < 16:
            raise ModuleError(path, "not an ELF file")
        if ident[4] not in (1, 2) or ident[5] not in (1, 2):
            raise ModuleError(path, "an ELF file of no known class or byte order")
        self.wide = ident[4] == 2
        self.order = "<" if ident[5] == 1 else ">"
        self.machine = self.unpack("H", 18)[0]
        self.sections = self._read_sections()

    def read(self, offset: int, size: int) -> bytes:
        if offset + size <= self.size:
            self.file.seek(offset)
            content = self.file.read(size)
            if len(content) == size:
                return content
        raise self.damaged("it ends too early")

    def unpack(self, layout: str, offset: int) -> Tuple[int, ...]:
        """Read numbers at a place of the file."""
        layout = self.order + layout
        return struct.unpack(layout, self.read(offset, struct.calcsize(layout)))

    def damaged(self, why: str) -> ModuleError:
        return ModuleError(self.path, "damaged or truncated: " + why)

    def section(self, name: bytes, limit: int = _TABLE_LIMIT) -> bytes:
        """Return the content of a section; empty if there is none of the name."""
        for section in self.sections:
            if section.name == name:
                return self.content(section, limit)
        return b""

    def content(self, section: _Section, limit: int = _TABLE_LIMIT) -> bytes:
        if section.kind == 8:  # SHT_NOBITS
            return b""
        if section.size > limit:
            raise self.damaged(f"a table of {section.size // _MIB} MiB")
        return self.read(section.offset, section.size)

    def _read_sections(self) -> List[_Section]:
        header = self.unpack("HHIQQQIHHHHHH" if self.wide else "HHIIIIIHHHHHH", 16)
        kind, start, entry, count, names = header[0], header[5], header[10], header[11], header[12]
        if kind != 1:
            raise ModuleError(self.path, "an ELF file, but no relocatable one: not a module")
        layout = "IIQQQQIIQQ" if self.wide else "IIIIIIIIII"
        if not start or entry < struct.calcsize("=" + layout):
            raise self.damaged("no section table")
        first = self.unpack(layout, start)
        count = count or first[5]  # more than 65,279 sections are counted in the first (ELF specification)
        names = first[6] if names == 0xFFFF else names
        if not names < count <= _SECTIONS_LIMIT:
            raise self.damaged(f"{count} sections")
        row = struct.Struct(self.order + layout)
        if count * entry > _SECTIONS_LIMIT * row.size:
            raise self.damaged(f"{count} sections of {entry} bytes")
        table = self.read(start, count * entry)
        raw = [row.unpack_from(table, entry * number) for number in range(count)]
        sections = [_Section(b"", row[1], row[4], row[5], row[6]) for row in raw]
        texts = self.content(sections[names])
        return [section._replace(name=self.text(texts, row[0])) for section, row in zip(sections, raw)]

    def text(self, table: bytes, offset: int) -> bytes:
        end = table.find(b"\0", offset, offset + _NAME_LIMIT)
        if end < 0:
            raise self.damaged("a name without an end")
        return table[offset:end]

    def symbols(self) -> Tuple[FrozenSet[str], FrozenSet[str], Dict[str, Optional[int]]]:
        """Return the names of undefined symbols, of weak undefined ones, and the exports."""
        found: Tuple[Set[str], Set[str]] = (set(), set())
        exports: Dict[str, Optional[int]] = {}
        for name, binding, place, value in self._symbols():
            if name.startswith("__crc_"):
                if place:  # an undefined one says that there is no CRC
                    exports[name[6:]] = self._crc(place, value)
            elif name.startswith("__ksymtab_") and place:
                exports.setdefault(name[10:], None)
            elif not place and name not in _LINKERS:
                found[binding == 2].add(self._plain(name))
        return frozenset(found[0]), frozenset(found[1]), exports

    def _plain(self, name: str) -> str:
        # 64-bit PowerPC's functions begin with a dot, exports do not (arch/powerpc/kernel/module_64.c: dedotify).
        return name[1:] if self.machine == _PPC64 and name.startswith(".") else name

    def _symbols(self) -> Iterator[Tuple[str, int, int, int]]:
        """Yield name, binding, section and value of the symbols."""
        layout = struct.Struct(self.order + ("IBBHQQ" if self.wide else "IIIBBH"))
        table = next((section for section in self.sections if section.kind == 2), None)  # SHT_SYMTAB: there is one
        if table is None:
            return
        if table.link >= len(self.sections) or table.size % layout.size:
            raise self.damaged("its symbol table")
        names = self.content(self.sections[table.link])
        more = next((section for section in self.sections if section.kind == 18), None)  # SHT_SYMTAB_SHNDX
        places = self.content(more) if more else b""
        for index, row in enumerate(layout.iter_unpack(self.content(table))):
            name, info, place, value = (row[0], row[1], row[3], row[4]) if self.wide else _narrow(row)
            if place == 0xFFFF and len(places) >= 4 * index + 4:
                (place,) = struct.unpack_from(self.order + "I", places, 4 * index)
            if name:
                yield self.text(names, name).decode("utf-8", "replace"), info >> 4, place, value

    def _crc(self, place: int, value: int) -> int:
        """Return an export's CRC: the symbol's value itself, or what it points at (Linux 5.19 on, some before)."""
        if place == 0xFFF1:  # SHN_ABS
            return value & 0xFFFFFFFF
        if place >= len(self.sections) or value + 4 > self.sections[place].size or self.sections[place].kind == 8:
            raise self.damaged("a CRC lies outside of its section")
        return self.unpack("I", self.sections[place].offset + value)[0]


def _narrow(row: Tuple[int, ...]) -> Tuple[int, int, int, int]:
    return row[0], row[3], row[5], row[1]


def _modinfo(elf: _Elf) -> Tuple[Tuple[str, str], ...]:
    entries = (entry.partition(b"=") for entry in elf.section(b".modinfo", _MODINFO_LIMIT).split(b"\0"))
    return tuple((k.decode("utf-8", "replace"), v.decode("utf-8", "replace")) for k, equals, v in entries if equals)


def _versions(elf: _Elf) -> Optional[Dict[str, int]]:
    """Read the CRCs of imported symbols; the newer tables win, as in the kernel (kernel/module/version.c)."""
    names = {section.name for section in elf.sections}
    if b"__version_ext_crcs" in names and b"__version_ext_names" in names:
        crcs, texts = (elf.section(b"__version_ext_" + part, _VERSIONS_LIMIT) for part in (b"crcs", b"names"))
        # Behind the last name stands one more NUL: the names are one text of C (scripts/mod/modpost.c).
        words = texts.split(b"\0")[:-1]
        if len(crcs) % 4 or len(crcs) > 4 * len(words):
            raise elf.damaged("its version tables do not go together")
        numbers = struct.unpack(f"{elf.order}{len(crcs) // 4}I", crcs)
        return {_version_name(word): number for word, number in zip(words, numbers)}
    if b"__versions" not in names:
        return None
    table = elf.section(b"__versions", _VERSIONS_LIMIT)
    if len(table) % 64:
        raise elf.damaged("its table of versions")
    found = {}
    for crc, name in struct.iter_unpack(elf.order + ("Q56s" if elf.wide else "I60s"), table):
        found[_version_name(name.partition(b"\0")[0])] = crc & 0xFFFFFFFF
    return found


def _version_name(name: bytes) -> str:
    # 64-bit PowerPC's functions begin with a dot, exports do not (arch/powerpc/kernel/module_64.c).
    text = name.decode("utf-8", "replace")
    return text[1:] if text.startswith(".") else text


def unpacked(content: bytes, path: str, limit: Optional[int] = None) -> bytes:
    """Decompress what has the first bytes of gzip, xz or zstd; return other content as it is; raise ModuleError.

    What zstd made is read again from the file `path`. More than `limit` bytes are an error; or than modules have.
    """
    limit = _UNPACKED_LIMIT if limit is None else limit
    if content[:4] == b"\x28\xb5\x2f\xfd":
        return _unzstd(path, limit)
    if content[:2] == b"\x1f\x8b":
        reader: Any = zlib.decompressobj(wbits=31)
    elif content[:6] == b"\xfd7zXZ\0":
        reader = _xz_reader(path)
    else:
        return content
    data = io.BytesIO()  # it grows in place: all at once, a library would need it twice
    try:
        for piece in _pieces(reader, content):
            data.write(piece)
            if data.tell() > limit:
                raise ModuleError(path, "too large when decompressed")
    except ModuleError:
        raise
    except Exception:  # zlib.error or LZMAError
        raise ModuleError(path, "damaged: cannot be decompressed") from None
    if not reader.eof:
        raise ModuleError(path, "damaged or truncated: it ends too early")
    return data.getvalue()


def _pieces(reader: Any, content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), _MIB):
        rest = content[start : start + _MIB]
        while True:
            piece = reader.decompress(rest, _UNPACKED_AT_ONCE)
            yield piece
            if reader.eof:
                return
            if len(piece) < _UNPACKED_AT_ONCE:
                break
            rest = getattr(reader, "unconsumed_tail", b"")  # LZMADecompressor keeps what is left itself


def _xz_reader(path: str) -> Any:
    try:
        import lzma  # Debian's python3-minimal has none
    except ImportError:
        raise ModuleError(path, "Python's module 'lzma' is needed to read it") from None
    return lzma.LZMADecompressor(memlimit=_UNPACKER_MEMORY)


def _unzstd(path: str, limit: int) -> bytes:
    import subprocess  # most modules need none, and each start counts: rpmbuild starts this for each package

    command = ["zstd", "-dcq", f"--memory={_UNPACKER_MEMORY}"]
    try:
        with open(path, "rb") as file:
            process = subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        raise ModuleError(path, "the program 'zstd' is needed to read it") from None
    with process:
        assert process.stdout
        data = process.stdout.read(limit + 1)
        if len(data) > limit:
            process.kill()
            raise ModuleError(path, "too large when decompressed")
    if process.returncode:
        raise ModuleError(path, "damaged: cannot be decompressed")
    return data


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Be the program; return its exit status: 0, or 1 if a file cannot be read."""
    options = _options(arguments)
    names = [os.fsdecode(line).rstrip("\n") for line in sys.stdin.buffer]
    try:
        sys.stdout.write("".join(line + "\n" for line in _answer(options, names)))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ModuleError, OSError) as error:
        sys.stderr.write(f"pkgkmod-deps: {error}\n")
        return 1
    return 0


def _answer(options: argparse.Namespace, names: Sequence[str]) -> List[str]:
    if options.what == "greylist":
        modules = [read_module(name) for name in names if _MODULE_FILE.search(name)]
        stable = {symbol for path in options.stable for symbol in read_stable_list(path)}
        return greylist(modules, stable, options.symvers)
    if options.what == "debian":
        _describe_debs([name for name in names if _MODULE_FILE.search(name)])
        return []
    if options.what == "rpm":
        _answer_rpm(options, names)
        return []
    modules = [read_module(name) for name in names if _INSTALLED_MODULE.search(name)]
    return _dependencies(options.what, modules, names, options)


def _dependencies(
    what: str,
    modules: Sequence[Module],
    names: Sequence[str],
    options: argparse.Namespace,
    tables: Optional[Dict[str, Dict[str, Export]]] = None,
) -> List[str]:
    style = STYLES[options.style]
    if what == "requires":
        return requires(modules, style, options.symvers, options.flavour, tables)
    if what == "provides":
        return provides(modules, style, names, options.flavour)
    return supplements(modules, style, options.flavour)


def _answer_rpm(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Write what rpm will ask of each file: to FOLDER/requires, FOLDER/provides and FOLDER/supplements, by its path.

    rpm asks for each file alone, and a start of Python takes longer than reading modules does.
    """
    modules = {name: read_module(name) for name in names if _INSTALLED_MODULE.search(name)}
    wanted = _versioned(modules.values())
    by_symbol = STYLES[options.style].kernel_symbol
    tables = {path: read_exports(path, wanted)[0] for path in options.symvers if by_symbol and wanted}
    for name in names:
        one = [modules[name]] if name in modules else []
        if not one and not _FIRMWARE.search(name):
            continue
        for question in _OF_RPM:
            lines = _dependencies(question, one, [name], options, tables)
            path = os.path.join(options.folder, question, name.lstrip("/"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.writelines(line + "\n" for line in lines)


def _describe_debs(names: Sequence[str]) -> None:
    """Write what the control fields of Debian packages need, of modules in debian/PACKAGE/...: symbols and hardware.

    The symbols go to debian/PACKAGE/usr/share/doc/PACKAGE/kernel-symbols, and their digest, as the hardware does, to
    debian/PACKAGE.substvars. All packages at once: a start of Python takes longer than reading modules does.
    """
    packages: Dict[str, List[Module]] = {}
    for name in names:
        place = _IN_DEB.match(name)
        if not place:
            raise ModuleError(name, "not in debian/PACKAGE/")
        packages.setdefault(place.group("package"), []).append(read_module(name))
    for package, modules in sorted(packages.items()):
        listed = "".join(line + "\n" for line in symbols(modules)).encode("utf-8", "surrogateescape")
        with open(f"debian/{package}/usr/share/doc/{package}/kernel-symbols", "wb") as file:
            file.write(listed)
        digest = hashlib.sha256(listed).hexdigest()
        with open(f"debian/{package}.substvars", "w", encoding="utf-8", errors="surrogateescape") as substvars:
            substvars.write(f"pkgkmod:Modaliases={modaliases(modules)}\npkgkmod:Symbols-Hash={digest}\n")


def _options(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pkgkmod-deps",
        description="Prints what kernel modules need or provide. Reads their file names, one a line.",
    )
    parser.add_argument("what", choices=(*_NEED_STYLE, "greylist", "debian"))
    parser.add_argument("--folder", help="where the answers for rpm go")
    parser.add_argument("--style", choices=sorted(STYLES), help="spelling of the dependencies")
    parser.add_argument("--flavour", help="SUSE's kernel flavour, where the module does not say it")
    parser.add_argument(
        "--symvers", action="append", default=[], metavar="FILE", help="Module.symvers of a kernel; may be repeated"
    )
    parser.add_argument(
        "--stable", action="append", default=[], metavar="LIST", help="kABI stable list; may be repeated (greylist)"
    )
    options = parser.parse_args(arguments)
    if options.what in _NEED_STYLE and not options.style:
        parser.error("--style is needed")
    if options.what == "rpm" and not options.folder:
        parser.error("--folder is needed")
    if options.what == "greylist" and not options.stable:
        parser.error("--stable is needed")
    return options


if __name__ == "__main__":
    sys.exit(main())

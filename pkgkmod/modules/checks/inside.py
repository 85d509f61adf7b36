"""What is inside of a module besides symbols and modinfo: sections, entry points, mitigations, what the build left.

`kmod_deps` reads what a build root has to read without libraries, and judges the file's tables first. pyelftools reads
the rest here. It is made for files that compilers write: whatever it stumbles over in others is a ModuleError.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pkgkmod.modules.checks.btf import TypeInformation, read_types
from pkgkmod.modules.checks.buildpaths import BuildPath, find_paths
from pkgkmod.modules.kmod_deps import Module, ModuleError, shown

THIS_MODULE = ".gnu.linkonce.this_module"
"""Section with the struct module that the kernel fills in (scripts/mod/modpost.c)."""
_INIT, _EXIT = "init_module", "cleanup_module"

_MOST_SECTIONS = 65_536
_MOST_SYMBOLS = 400_000  # the largest real ones have some 60,000 (amdgpu)
_MOST_RELOCATIONS = 64  # in struct module: two functions, with CFI or in old kernels a few more
_TEXT_LIMIT = 32 * 1024 * 1024  # bytes that are searched for texts, in all sections together
_COMMENT_LIMIT = 1024 * 1024  # many small texts take more memory than a large one
_SYMBOL_BYTES = 16  # of the shorter form, in 32-bit files

_X86_64 = 62  # EM_X86_64
_ENDBR64 = b"\xf3\x0f\x1e\xfa"
_RET = 0xC3
_SHORT_JUMPS = frozenset({0xEB, 0xE3, *range(0x70, 0x80)})  # the next byte is how far, and may be 0xC3, too
_INT3 = 0xCC

_TEXTS = (".rodata", ".debug_str", ".debug_line_str")
_DEBUG = (".debug_", ".zdebug_", ".gnu.debuglto_")


@dataclass(frozen=True)
class Section:
    """A section's place in the file."""

    name: str
    kind: str
    """As readelf calls it: SHT_PROGBITS."""
    offset: int
    size: int
    """Bytes in memory; those of SHT_NOBITS have none in the file."""


@dataclass(frozen=True)
class Inside:
    """Facts about a module, as it lies in the file."""

    sections: Mapping[str, Section]
    """By name; of several of one name, the first."""
    has_init: bool
    """It does something when it is loaded."""
    has_exit: bool
    """It can be unloaded; needed only if it has a function for loading."""
    endbr: bool | None
    """Whether the function for loading begins with ENDBR64 (x86-64); None where that cannot be told."""
    calls_by_thunk: bool
    """It calls through pointers by retpolines (x86)."""
    returns_by_thunk: bool
    """Its functions return by the return thunk (x86)."""
    naked_returns: tuple[str, ...]
    """Functions that end with a plain RET (x86-64); not complete, since code is not disassembled."""
    has_cfi: bool
    """Its functions have types for clang's control-flow integrity (x86: symbols `__cfi_NAME`)."""
    compilers: tuple[str, ...]
    """What compiled it, as they say it themselves (.comment)."""
    paths: tuple[BuildPath, ...]
    """Absolute paths that the build left in it."""
    types: TypeInformation | None
    """Its type information (BTF), if it has some."""

    def size_of(self, *beginnings: str) -> int:
        """Return the bytes of all sections whose names begin so."""
        return sum(one.size for one in self.sections.values() if one.name.startswith(beginnings))

    @property
    def debug_size(self) -> int:
        """Bytes of debug information."""
        return self.size_of(*_DEBUG)


def look_inside(content: bytes, module: Module) -> Inside:
    """Return what is in a module that is not compressed; raise ModuleError if it is damaged.

    `module` is what parse_module made of the same content: it judged the table of sections and the symbols.
    """
    from elftools.elf.elffile import ELFFile  # 40 ms, where modules are checked only

    try:
        return _look(ELFFile(io.BytesIO(content)), content, module)
    except ModuleError:
        raise
    # pyelftools raises its own errors, and those of construct, struct, zlib and Python for what it did not foresee.
    except Exception as error:
        raise ModuleError(module.path, "damaged: its tables contradict each other") from error


def _look(elf: Any, content: bytes, module: Module) -> Inside:
    if elf.num_sections() > _MOST_SECTIONS:
        raise ModuleError(module.path, f"it has {elf.num_sections()} sections")
    headers = tuple(elf.iter_sections())  # once: pyelftools reads each of them anew whenever it is asked
    ordered = tuple(_section(header, content, module.path) for header in headers)
    sections: dict[str, Section] = {}
    for one in ordered:
        sections.setdefault(one.name, one)
    symbols = _Symbols(headers, ordered, content, module)
    init, end = symbols.entry_points()
    return Inside(
        sections=sections,
        has_init=init is not None,
        has_exit=end is not None,
        endbr=symbols.begins_with(init, _ENDBR64) if init and module.machine == _X86_64 else None,
        calls_by_thunk=any(name.startswith("__x86_indirect_") for name in module.undefined),
        returns_by_thunk="__x86_return_thunk" in module.undefined,
        naked_returns=tuple(symbols.naked_returns()) if module.machine == _X86_64 else (),
        has_cfi=symbols.has_cfi,
        compilers=_compilers(content, sections.get(".comment")),
        paths=_paths(ordered, content, module),
        types=_types(content, sections.get(".BTF"), module),
    )


def _section(header: Any, content: bytes, path: str) -> Section:
    one = Section(header.name, str(header["sh_type"]), header["sh_offset"], header["sh_size"])
    if one.kind not in ("SHT_NOBITS", "SHT_NULL") and one.offset + one.size > len(content):
        raise ModuleError(path, f"damaged or truncated: its section '{shown(one.name)}' lies outside of the file")
    return one


@dataclass(frozen=True)
class _Place:
    """A function's place in a section."""

    section: int
    offset: int


class _Symbols:
    """The symbol table, read once."""

    def __init__(self, headers: tuple[Any, ...], sections: tuple[Section, ...], content: bytes, module: Module) -> None:
        self.sections = sections
        self.content = content
        self.module = module
        self.names: list[str] = []
        self.places: list[_Place | None] = []
        self.functions: list[tuple[str, _Place, int]] = []
        self.has_cfi = False
        named = {header.name: header for header in headers}
        self._this_module = named.get(f".rela{THIS_MODULE}") or named.get(f".rel{THIS_MODULE}")
        if (table := named.get(".symtab")) is not None:
            self._read(table)

    def _read(self, table: Any) -> None:
        if table["sh_entsize"] < _SYMBOL_BYTES or table.num_symbols() > _MOST_SYMBOLS:
            raise ModuleError(self.module.path, "damaged: its symbol table")
        for symbol in table.iter_symbols():
            where = symbol["st_shndx"]
            place = None
            if isinstance(where, int) and where < len(self.sections):
                place = _Place(where, symbol["st_value"])
            self.names.append(symbol.name)
            self.places.append(place)
            self.has_cfi = self.has_cfi or symbol.name.startswith(("__cfi_", "__kcfi_typeid_"))
            if place and symbol["st_info"]["type"] == "STT_FUNC":
                self.functions.append((symbol.name, place, symbol["st_size"]))

    def entry_points(self) -> tuple[_Place | None, _Place | None]:
        """Return the functions for loading and unloading, by the relocations of struct module."""
        if self._this_module is None:
            return None, None
        if self._this_module["sh_entsize"] < 8 or self._this_module.num_relocations() > _MOST_RELOCATIONS:
            raise ModuleError(self.module.path, f"damaged: the relocations of {THIS_MODULE}")
        found: dict[str, _Place] = {}
        for relocation in self._this_module.iter_relocations():
            number = relocation["r_info_sym"]
            place = self.places[number] if number < len(self.places) else None
            if place:
                added = relocation["r_addend"] if relocation.is_RELA() else 0
                name = self.names[number].partition(".")[0]  # init_module.cfi_jt
                found[name] = _Place(place.section, place.offset + added)
        return found.get(_INIT), found.get(_EXIT)

    def begins_with(self, place: _Place, code: bytes) -> bool:
        """Tell whether a function begins with this code."""
        return self._code(place, len(code)) == code

    def naked_returns(self) -> Iterator[str]:
        """Yield the functions whose last instruction is a RET that is no thunk's."""
        for name, place, size in self.functions:
            last = self._code(_Place(place.section, place.offset + max(0, size - 3)), min(size, 3)).rstrip(
                bytes([_INT3])  # against straight-line speculation
            )
            if last[-1:] == bytes([_RET]) and (len(last) < 2 or last[-2] not in _SHORT_JUMPS):
                yield name

    def _code(self, place: _Place, size: int) -> bytes:
        section = self.sections[place.section]
        if section.kind == "SHT_NOBITS" or not 0 <= place.offset <= section.size - size:
            return b""
        return self.content[section.offset + place.offset : section.offset + place.offset + size]


def _compilers(content: bytes, section: Section | None) -> tuple[str, ...]:
    if section is None or section.kind == "SHT_NOBITS":
        return ()
    texts = content[section.offset : section.offset + min(section.size, _COMMENT_LIMIT)].split(b"\0")
    return tuple(dict.fromkeys(text.decode("utf-8", "replace") for text in texts if text))


def _paths(sections: tuple[Section, ...], content: bytes, module: Module) -> tuple[BuildPath, ...]:
    found: dict[str, BuildPath] = {}
    left = _TEXT_LIMIT
    for one in sections:
        if one.name.startswith(_TEXTS) and one.kind != "SHT_NOBITS":
            text = content[one.offset : one.offset + min(one.size, left)]
            left -= len(text)
            for path in find_paths(text, debug=one.name.startswith(".debug")):
                found.setdefault(path.path, path)
    for key, value in module.modinfo:
        if key not in ("vermagic", "alias", "firmware"):
            for path in find_paths(value.encode("utf-8", "replace"), debug=False):
                found.setdefault(path.path, path)
    return tuple(found[path] for path in sorted(found))


def _types(content: bytes, section: Section | None, module: Module) -> TypeInformation | None:
    if section is None or section.kind == "SHT_NOBITS":
        return None
    data = content[section.offset : section.offset + section.size]
    return read_types(data, little_endian=module.little_endian)

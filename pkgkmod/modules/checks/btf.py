"""Type information (BTF) of modules: whether it is whole, and which build of the kernel it was made against.

A module's has only what the kernel's own has not, and counts on from there: types by number, texts by offset. So it
means something with that one vmlinux alone, unless it brings a base of its own (.BTF.base).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# include/uapi/linux/btf.h: struct btf_header, struct btf_type.
_HEADER = "HBBIIIII"
_MAGIC = 0xEB9F
# By kind, what follows a type: bytes, bytes for each of its members, and whether members begin with a text's offset.
_KINDS: dict[int, tuple[int, int, bool]] = {
    1: (4, 0, False),  # int
    2: (0, 0, False),  # pointer
    3: (12, 0, False),  # array
    4: (0, 12, True),  # struct
    5: (0, 12, True),  # union
    6: (0, 8, True),  # enum
    7: (0, 0, False),  # forward declaration
    8: (0, 0, False),  # typedef
    9: (0, 0, False),  # volatile
    10: (0, 0, False),  # const
    11: (0, 0, False),  # restrict
    12: (0, 0, False),  # function
    13: (0, 8, True),  # its type
    14: (4, 0, False),  # variable
    15: (0, 12, False),  # section of variables
    16: (0, 0, False),  # float
    17: (4, 0, False),  # tag of a declaration
    18: (0, 0, False),  # tag of a type
    19: (0, 12, True),  # enum of 64 bits
}


@dataclass(frozen=True)
class TypeInformation:
    """What is known of a section .BTF."""

    fault: str = ""
    """What is wrong with it; empty if nothing is (kernel/bpf/btf.c: btf_parse_hdr)."""
    base: int | None = None
    """Bytes of texts of the kernel's own that it was made against; None where that cannot be told."""


def read_types(data: bytes, *, little_endian: bool) -> TypeInformation:
    """Judge a section .BTF of a module."""
    order = "<" if little_endian else ">"
    layout = struct.Struct(order + _HEADER)
    if len(data) < layout.size:
        return TypeInformation("it is too short")
    magic, version, _, header, types_at, types, texts_at, texts = layout.unpack_from(data)
    if magic != _MAGIC:
        return TypeInformation("it is no type information")
    if version != 1 or header < layout.size:
        return TypeInformation(f"it has version {version}, which no kernel knows")
    if header + max(types_at + types, texts_at + texts) > len(data) or types_at % 4 or types_at + types > texts_at:
        return TypeInformation("its parts lie outside of it")
    words = data[header + texts_at : header + texts_at + texts]
    if texts and not words.endswith(b"\0"):
        return TypeInformation("its texts have no end")
    try:
        names = set(_names(data[header + types_at : header + types_at + types], order))
    except (struct.error, KeyError):
        return TypeInformation("its types are of no kind that is known, or cut off")
    return TypeInformation(base=_base(names, words))


def _names(types: bytes, order: str) -> Iterator[int]:
    """Yield the offsets of all texts that types name; raise KeyError or struct.error for what is no list of types."""
    head, number = struct.Struct(order + "III"), struct.Struct(order + "I")
    at = 0
    while at < len(types):
        name, info, _ = head.unpack_from(types, at)
        yield name
        more, each, named = _KINDS[info >> 24 & 0x1F]
        at += head.size + more
        count = info & 0xFFFF if each else 0
        if at + each * count > len(types):
            raise struct.error
        if named:
            yield from (number.unpack_from(types, at + each * member)[0] for member in range(count))
        at += each * count


def _base(names: set[int], words: bytes) -> int | None:
    """Return where the module's own texts begin: the last one of them is named, as the others are."""
    if len(words) < 2 or not names:
        return None
    last = words.rfind(b"\0", 0, len(words) - 1) + 1
    base = max(names) - last
    own = [name - base for name in names if name >= base]
    fits = base >= 0 and all(place == 0 or words[place - 1] == 0 for place in own)
    return base if fits else None


def kernel_texts(tree: Path) -> int | None:
    """Return the bytes of texts in the type information of a build tree's vmlinux; None if it has none.

    Debian's headers have such a vmlinux from Linux 6.11 on, and nothing else in it.
    """
    from elftools.elf.elffile import ELFFile  # where there is one to read

    try:
        with (tree / "vmlinux").open("rb") as file:
            elf = ELFFile(file)
            section = elf.get_section_by_name(".BTF")
            if section is None:
                return None
            file.seek(section["sh_offset"])
            layout = struct.Struct(("<" if elf.little_endian else ">") + _HEADER)
            fields = layout.unpack(file.read(layout.size))
    except OSError:
        return None
    except Exception:  # whatever pyelftools stumbles over: it is no vmlinux
        return None
    return int(fields[7]) if fields[0] == _MAGIC else None

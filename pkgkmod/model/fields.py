"""What the values of the project file may be: texts that are safe in the languages they are put into, and the base
of its tables.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

CheckLevel = Literal["off", "warn", "fail"]
ArchiveContent = Literal["default", "all", "kbuild"]
HashName = Literal["", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512"]
Compression = Literal["none", "gz", "xz", "zst"]

# Names become file names, package names, make variables and macros, so they are kept to what all of
# these accept (Debian policy 5.6.1 is the narrowest).
_NAME = re.compile(r"[a-z0-9][a-z0-9+._-]*")
_MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+~_]*")
_RELEASE = re.compile(r"[0-9][A-Za-z0-9.+~_]*")
_PATTERN = re.compile(r"!?\s*[A-Za-z0-9._+~*?\[\]-]+")
# `all`, a release, a pattern, `newest`, `newest 2`, `newest 2 per flavour`, `newest per series of 6.*-amd64`
KERNEL_CHOICE = re.compile(
    r"newest(?: (?P<number>[1-9][0-9]*))?(?: per (?P<group>flavour|series))?(?: of (?P<pattern>\S+))?"
)
PAYLOAD = re.compile(r"w[0-9]{1,2}(T[0-9]*)?\.(gz|bz|xz|lz|zst|u)f?dio")
_OPTION = re.compile(r"(?!CONFIG_)[A-Za-z0-9_]+")


def matching(pattern: re.Pattern[str], rule: str) -> AfterValidator:
    """Return what refuses a text that is not as `pattern` says; `rule` says it in words."""

    def check(value: str) -> str:
        if not pattern.fullmatch(value) or ".." in value:
            raise ValueError(f"{rule} (given: {value!r})")
        return value

    return AfterValidator(check)


def relative_path(value: str) -> str:
    """Return a source path in its shortest form; refuse one that is absolute or leads upwards."""
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts or not value.isprintable():
        raise ValueError(f"must be a path inside the kernel tree, without '..' (given: {value!r})")
    return str(path)


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise ValueError(f"must be one line of printable text (given: {value!r})")
    return value


def _text(value: str) -> str:
    if any(not (c.isprintable() or c == "\n") for c in value):
        raise ValueError("must be printable text")
    return value


Name = Annotated[
    str,
    matching(
        _NAME,
        "must start with a lower-case letter or digit and hold only lower-case letters, digits and +._-",
    ),
]
ModuleName = Annotated[str, matching(_MODULE, "must hold only letters, digits, '_' and '-'")]
VersionText = Annotated[
    str, matching(_VERSION, "must start with a digit and hold only letters, digits and .+~_ (no '-')")
]
ReleaseText = Annotated[str, matching(_RELEASE, "must start with a digit and hold only letters, digits and .+~_")]
RelativePath = Annotated[str, AfterValidator(relative_path)]
Line = Annotated[str, AfterValidator(_one_line)]
Text = Annotated[str, AfterValidator(_text)]


def _kernel_choice(value: str) -> str:
    if not KERNEL_CHOICE.fullmatch(value) and not _PATTERN.fullmatch(value):
        raise ValueError(
            "must be a kernel release, a pattern with * and ?, 'all', or 'newest [N] [per flavour|per series] "
            f"[of PATTERN]'; !PATTERN leaves kernels out (given: {value!r})"
        )
    return value


KernelChoice = Annotated[str, AfterValidator(_kernel_choice)]
OptionName = Annotated[str, matching(_OPTION, "must be the name of a kernel configuration option, without CONFIG_")]


class Section(BaseModel):
    """A table of the project file: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

"""Questions to a kernel, `[probe.NAME]`: what it has, whatever version it calls itself."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pkgkmod.model.fields import OptionName, Section, matching

ProbeKind = Literal["call", "args", "type", "member", "header", "code", "symbol", "config"]

_NAME = re.compile(r"HAVE_[A-Z0-9_]{1,59}")
_HEADER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+./-]*\.h")
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# `struct foo`, `gfp_t`, `unsigned long long`: a star would make a pointer, which may point to what is not known.
_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?: +[A-Za-z_][A-Za-z0-9_]*)*")
_MEMBER = re.compile(r"(?:(?:struct|union) +)?[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)+")


def _code(value: str) -> str:
    if not value or any(not (c.isprintable() or c in "\n\t") for c in value):
        raise ValueError("must be C code: printable text, on one line or on several")
    return value


ProbeName = Annotated[
    str, matching(_NAME, "must be HAVE_ and at most 59 capital letters, digits and underscores behind it")
]
Header = Annotated[str, matching(_HEADER, "must be the name of a header as in #include, such as linux/fs.h")]
SymbolName = Annotated[str, matching(_SYMBOL, "must be the name of a function or variable")]
TypeText = Annotated[str, matching(_TYPE, "must be the name of a type, such as 'struct timer_list', without stars")]
MemberText = Annotated[
    str, matching(_MEMBER, "must be a type and the name of its member, such as 'struct net_device.ml_priv'")
]
Code = Annotated[str, AfterValidator(_code)]

_KINDS: tuple[ProbeKind, ...] = ("call", "args", "type", "member", "header", "code", "symbol", "config")
_WITHOUT_COMPILER = ("symbol", "config")


class Probe(Section):
    """One question: exactly one of `call`, `args`, `type`, `member`, `header`, `code`, `symbol` and `config`."""

    includes: tuple[Header, ...] = Field(
        (), description="Headers of the kernel that come first, in this order; not with `symbol` and `config`."
    )
    call: Code | None = Field(
        None,
        description="An expression that must compile, such as a call. It says that the headers declare it so, and "
        "not that modules can link to it.",
        examples=['class_create("x")'],
    )
    args: tuple[Code, ...] = Field(
        (),
        description="Several expressions: the macro becomes the number, counted from 1, of the first that compiles.",
    )
    type: TypeText | None = Field(None, description="A type that must be known, with its size.")
    member: MemberText | None = Field(
        None, description="A member that a structure, union or type must have.", examples=["struct net_device.ml_priv"]
    )
    header: Header | None = Field(None, description="A header that must be there, and compile behind `includes`.")
    code: Code | None = Field(None, description="C code, as it stands in a file behind the headers, that must compile.")
    symbol: SymbolName | None = Field(
        None,
        description="A function or variable that must be exported to modules. It says nothing of a declaration, and "
        "is read from Module.symvers.",
    )
    gpl: bool = Field(True, description="With `symbol`: whether one that is exported to GPL modules only will do.")
    config: OptionName | None = Field(
        None, description="An option, without CONFIG_, that the kernel's .config must set, to y, m or a value."
    )

    @property
    def kind(self) -> ProbeKind:
        """What asks the question."""
        return _asked(self)[0]

    @property
    def compiles(self) -> bool:
        """True if the answer is the compiler's."""
        return self.kind not in _WITHOUT_COMPILER

    @model_validator(mode="after")
    def _one_question(self) -> Probe:
        asked = _asked(self)
        if len(asked) != 1:
            given = f"it has {' and '.join(asked)}" if asked else "it has none"
            raise ValueError(f"must have exactly one of {', '.join(_KINDS[:-1])} and {_KINDS[-1]}; {given}")
        if self.includes and not self.compiles:
            raise ValueError(f"'includes' means nothing beside '{asked[0]}': nothing is compiled for that")
        if "gpl" in self.model_fields_set and asked[0] != "symbol":
            raise ValueError("'gpl' means something beside 'symbol' only")
        return self


def _asked(probe: Probe) -> list[ProbeKind]:
    return [kind for kind in _KINDS if getattr(probe, kind) not in (None, ())]

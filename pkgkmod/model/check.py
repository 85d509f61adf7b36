"""The table [check] of the project file."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from pkgkmod.model.fields import CheckLevel, Line, Section, matching

_CODE = re.compile(r"[A-Z]+[0-9]+")


class Check(Section):
    """What is looked at in finished modules before they are shipped. Paths begin at the project file."""

    level: CheckLevel = Field(
        "fail",
        description="What to do about errors in finished modules: fail, warn and go on, or do not look at all (off).",
    )
    ignore: tuple[Annotated[str, matching(_CODE, "must be like KMOD052")], ...] = Field(
        (), description="Findings that are not reported, by their code.", examples=[["KMOD052"]]
    )
    certificate: Line | None = Field(
        None,
        description="Certificate that all modules must be signed with, X.509 in PEM or DER; "
        "`signing.module_certificate` if absent.",
    )

"""What is wrong with something that is made, with its cure."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

Severity = Literal["error", "warning", "note"]


class Meaning(NamedTuple):
    """What a code stands for, for the reference."""

    severity: Severity
    title: str
    why: str


class Finding(BaseModel):
    """Something about a package, a module or a disk that a packager should know, with its cure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    """DISK or KMOD, and three digits; a plugin's own begin with another word."""
    severity: Severity
    """error: it would not be taken, or loaded; warning: under some circumstances; note: as it should be."""
    subject: str
    """What it is about: a file, a package, a module in it (`PACKAGE: PATH`), or a folder."""
    text: str
    """What is wrong, in one sentence without a full stop."""
    cure: str
    """What to do about it; may be empty for a note."""

    @property
    def line(self) -> str:
        """All of it but the severity."""
        return f"{self.code} {self.subject}: {self.text}" + (f"; {self.cure}" if self.cure else "")

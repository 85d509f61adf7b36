"""Whether a module will load into a kernel: predicted by reading, and seen when that kernel was booted."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

TroubleKind = Literal["missing", "other crc", "no crc", "gpl only", "namespace", "reserved"]
"""Of a symbol: nobody has it; it has another CRC; the kernel wants a CRC and the module has none; it is for modules
under the GPL; it is in a namespace that the module does not import; it is for certain other modules alone."""

Verdict = Literal["loads", "refused", "unknown"]
Ending = Literal["loaded", "no device", "refused", "oops", "timeout", "not tried"]


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SymbolTrouble(_Facts):
    """A symbol because of which a kernel refuses a module."""

    symbol: str
    kind: TroubleKind
    needed: int | None = None
    """CRC that the module was built with."""
    there: int | None = None
    """CRC that the kernel, or the other module, has."""
    text: str
    """What is wrong, in words, without the symbol's name."""


class Prediction(_Facts):
    """What a kernel will do with a module."""

    module: str
    """Name as the kernel knows it."""
    path: str
    """Where the module lies: in its package, or as a file."""
    package: str = ""
    """File name of its package; empty for a bare module."""
    built_for: str
    """Kernel that the module was built for."""
    kernel: str
    """Kernel that it is to be loaded into, as `uname -r` prints it."""
    verdict: Verdict
    needs: tuple[str, ...] = ()
    """Modules that have to be loaded first, in that order: the kernel's own, siblings, and those of other packages."""
    troubles: tuple[SymbolTrouble, ...] = ()
    reasons: tuple[str, ...] = ()
    """Why it is refused, or nothing is known, in whole: other words than those of single symbols (vermagic, signature,
    a module it needs that is refused itself)."""


class LoadResult(_Facts):
    """What came of a module in a kernel that was booted."""

    module: str
    path: str
    """Where it lies in the booted system."""
    kernel: str
    ending: Ending
    """`no device` is a load that worked: the driver found no hardware."""
    reason: str = ""
    """What modprobe or the kernel said, in one line; for an oops, the first line of the trace."""
    started: bool = False
    """Whether the kernel took it and called its init; what it ended with after that is its own doing."""
    unloaded: bool = False
    """Whether it could be taken out again."""
    needs: tuple[str, ...] = ()
    """Modules that were loaded with it."""
    log: tuple[str, ...] = ()
    """What the kernel said while it was loaded."""


class BootReport(_Facts):
    """One boot of one kernel."""

    kernel: str
    image: str
    """What was booted: the package with its version, or the file."""
    seconds: float
    accelerator: Literal["kvm", "tcg"]
    enforced: bool = False
    """Whether the kernel was told to take signed modules only."""
    trusts_key: bool = False
    """Whether it was given the key that signed them as one to trust."""
    results: tuple[LoadResult, ...] = ()
    failure: str = ""
    """Why nothing is known: the kernel did not come up, or not in time."""

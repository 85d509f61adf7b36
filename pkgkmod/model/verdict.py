"""What was found when finished modules were looked at: the facts of each, and what is wrong."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from pkgkmod.model.artifacts import Artifact
from pkgkmod.model.finding import Finding

VERDICT_FILE = "verdict.json"
"""Where the stage keeps a verdict with errors: a result that failed has no artifact."""


class CheckedModule(BaseModel):
    """A module as it was found in a package or a file; what a module does not say is empty."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Name as the kernel knows it."""
    path: str
    """Where it is installed, from the root on; of a bare module, its file."""
    package: str = ""
    """File name of its package; empty for a bare module."""
    kernel: str = ""
    """Kernel that it was built for, as vermagic says it."""
    size: int = 0
    """Bytes, as it lies there: possibly compressed."""
    license: str = ""
    version: str = ""
    srcversion: str = ""
    signer: str = ""
    """Who signed it: the issuer's name and the serial number. That it verifies is told by findings."""
    compression: str = ""
    """gzip, xz or zstd; empty if it is not compressed."""
    firmware: tuple[str, ...] = ()
    """Files that it may load, below /lib/firmware."""
    aliases: int = 0
    """Number of patterns of devices, and other names, that it is loaded for."""
    parameters: tuple[str, ...] = ()
    depends: tuple[str, ...] = ()
    """Modules that are loaded first."""
    imports: int = 0
    """Number of symbols taken from the kernel and from other modules."""
    exports: int = 0
    """Number of symbols offered to other modules."""


class Verdict(Artifact):
    """The modules of one job, or those named on the command line, and what is to be said of them."""

    target: str = ""
    """Job that they were made in, TARGET or TARGET/KERNEL; empty for files from anywhere."""
    modules: tuple[CheckedModule, ...] = ()
    findings: tuple[Finding, ...] = ()
    """Those that are not ignored, errors first."""
    unchecked: tuple[str, ...] = ()
    """Kernels that are not here: what they export and how they are configured is not known."""

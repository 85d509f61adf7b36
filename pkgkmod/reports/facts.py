"""What a report says: plain facts, gathered from results, with nothing left to look up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pkgkmod.model.artifacts import Provenance
from pkgkmod.model.finding import Finding
from pkgkmod.model.kernel import PackageFile
from pkgkmod.model.prediction import BootReport, LoadResult, Prediction

RowState = Literal["ok", "failed", "excluded", "foreign", "farm"]


@dataclass(frozen=True)
class BuiltFile:
    """A compiled module of one kernel."""

    file: str
    """Below the project's folder."""
    size: int
    sha256: str


@dataclass(frozen=True)
class KernelRow:
    """A kernel, and what came of the modules there: built for it from the sources of one label, or only predicted."""

    release: str
    label: str
    """Of the sources; `_` for the project's own."""
    state: RowState
    """foreign: no modules were built for it; farm: they were fetched from a build farm."""
    reason: str = ""
    """Why nothing was built."""
    outdated: bool = False
    """The modules are of other sources than those that were imported last."""
    arch: str = ""
    compiler: str = ""
    seconds: float = 0.0
    identity: str = ""
    """Digest of the build tree, or of the packages that it is of."""
    modules: Mapping[str, BuiltFile] = field(default_factory=dict)
    packages: tuple[PackageFile, ...] = ()
    """The header packages, where the kernel is from an archive."""
    boot: BootReport | None = None
    boot_outdated: bool = False
    """Modules were built after it was booted."""
    fetched: frozenset[str] | None = None
    """Of a farm's packages: the modules in them; None if nobody looked."""
    awaited: bool = False
    """A target asks for it, and no build was tried."""

    @property
    def key(self) -> tuple[str, str]:
        """What tells rows apart."""
        return self.label, self.release


@dataclass(frozen=True)
class Cell:
    """What is known of one module in one kernel."""

    built: BuiltFile | None = None
    checked: bool = False
    findings: tuple[Finding, ...] = ()
    prediction: Prediction | None = None
    boot: LoadResult | None = None


@dataclass(frozen=True)
class Found:
    """A finding, and what it is about as far as that can be told."""

    finding: Finding
    target: str
    module: str = ""
    kernel: str = ""


@dataclass(frozen=True)
class Failure:
    """A stage that failed."""

    stage: str
    target: str
    kernel: str
    reason: str
    error: str = ""
    """The first error in its log."""
    change: str = ""
    """What of the kernel is behind that error, where it is known."""
    excerpt: tuple[str, ...] = ()
    """Lines of the log around it."""
    log: str = ""
    """Below the project's folder."""


@dataclass(frozen=True)
class MadeFile:
    """A package or an image, as it is handed on."""

    file: str
    """Below the project's folder."""
    target: str
    kind: str
    size: int
    sha256: str
    version: str = ""
    signed: bool = False


@dataclass(frozen=True)
class Timing:
    """How long a stage took when it ran last."""

    stage: str
    target: str
    kernel: str
    seconds: float


@dataclass(frozen=True)
class Tool:
    """A program that results were made with, as it was then."""

    path: str
    size: int
    changed: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class Node:
    """A module in the graph of dependencies."""

    name: str
    kind: Literal["own", "provider", "kernel"]
    origin: str = ""
    """Of a provider's module: the driver's name."""


@dataclass(frozen=True)
class Dependencies:
    """Which module needs which, as the modules of one kernel say."""

    kernel: str
    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]
    """A module, and one that is loaded before it."""


@dataclass(frozen=True)
class RiskySymbol:
    """A symbol that the modules use, and that changed between kernels before."""

    symbol: str
    changes: int
    between: tuple[tuple[str, str], ...]
    modules: tuple[str, ...]
    """Those that use it."""


@dataclass(frozen=True)
class Facts:
    """Everything on the page."""

    name: str
    version: str
    summary: str
    vendor: str
    pkgkmod: str
    """Version of pkgkmod that writes the report."""
    finished: float
    """When the newest result was finished, in seconds since 1970."""
    targets: tuple[tuple[str, str], ...]
    """Names, and titles of their distributions."""
    sources: Mapping[str, Provenance]
    """By label."""
    modules: tuple[str, ...]
    rows: tuple[KernelRow, ...]
    """Newest kernel first."""
    cells: Mapping[tuple[tuple[str, str], str], Cell]
    """By row and module."""
    findings: tuple[Found, ...]
    checked: bool
    """Whether there is a verdict on any packages."""
    unchecked: tuple[str, ...]
    """Kernels that were not here when the packages were checked."""
    failures: tuple[Failure, ...]
    files: tuple[MadeFile, ...]
    timings: tuple[Timing, ...]
    tools: tuple[Tool, ...]
    dependencies: Dependencies | None = None
    risks: tuple[RiskySymbol, ...] | None = None
    """None: nobody looked."""
    predicted: bool = False
    """Whether anybody asked what the kernels would do."""
    unpredicted: Mapping[str, str] = field(default_factory=dict)
    """Kernels of which nothing is known, and why."""

"""The errors that pkgkmod reports, and the exit code of each kind."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class ExitCode(IntEnum):
    """What the process's exit status says; one code, one meaning (docs/reference/exit-codes.md)."""

    OK = 0
    BUG = 1
    USAGE = 2
    CONFIG = 3
    SOURCE = 4
    PATCH = 5
    KERNEL = 6
    COMPILER = 7
    COMPILE = 8
    TOOL = 9
    DISK_FULL = 10
    SANDBOX = 11
    PACKAGE = 12
    PARTIAL = 13
    SOURCES_CHANGED = 14
    LOCK = 15
    PLUGIN = 16
    INPUT = 17
    TIMEOUT = 18
    DIFFERENT = 19
    SIGNING = 20
    DISK = 21
    REQUIREMENT = 22
    CHECK = 23
    BOOT = 24
    FARM = 25
    INTERRUPTED = 130


class PkgkmodError(Exception):
    """A fault that a user can act on.

    `brief` says what is wrong in one line, `details` why (several lines, may be empty),
    `hint` what to do next, and `log` is the file that holds the whole story.
    """

    exit_code = ExitCode.BUG

    def __init__(self, brief: str, *, details: str = "", hint: str = "", log: Path | None = None) -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.hint = hint
        self.log = log


class UsageError(PkgkmodError):
    """The command line asks for something that does not go together."""

    exit_code = ExitCode.USAGE


class ConfigError(PkgkmodError):
    """A project file or another layer of the configuration is wrong."""

    exit_code = ExitCode.CONFIG


class SourceError(PkgkmodError):
    """The driver's sources cannot be had as asked: repository, revision, directory or file."""

    exit_code = ExitCode.SOURCE


class PatchError(PkgkmodError):
    """A patch does not apply, or the series is wrong."""

    exit_code = ExitCode.PATCH


class KernelError(PkgkmodError):
    """No usable build tree for a kernel."""

    exit_code = ExitCode.KERNEL


class CompilerError(PkgkmodError):
    """The compiler that built the kernel is not at hand."""

    exit_code = ExitCode.COMPILER


class CompileError(PkgkmodError):
    """A module does not compile or link."""

    exit_code = ExitCode.COMPILE


class ToolError(PkgkmodError):
    """A program that is needed is not installed, or cannot be used."""

    exit_code = ExitCode.TOOL


class DiskFullError(PkgkmodError):
    """There is no space left where something had to be written."""

    exit_code = ExitCode.DISK_FULL


class SandboxError(PkgkmodError):
    """The machine does not allow the isolation that was asked for."""

    exit_code = ExitCode.SANDBOX


class PackageError(PkgkmodError):
    """A package or a disk could not be made."""

    exit_code = ExitCode.PACKAGE


class PartialError(PkgkmodError):
    """Some kernels failed; what was made of the others stands."""

    exit_code = ExitCode.PARTIAL


class SourcesChangedError(PkgkmodError):
    """The imported files are not what git and the patches say."""

    exit_code = ExitCode.SOURCES_CHANGED


class LockError(PkgkmodError):
    """The inputs are not those that `pkgkmod.lock` pins."""

    exit_code = ExitCode.LOCK


class PluginError(PkgkmodError):
    """A plugin is missing, broken, or its settings are refused."""

    exit_code = ExitCode.PLUGIN


class InputError(PkgkmodError):
    """A file given on the command line is missing or not what it should be."""

    exit_code = ExitCode.INPUT


class DifferentError(PkgkmodError):
    """Two things that should agree do not: two builds of the same inputs, a package and a kernel, or two kernels."""

    exit_code = ExitCode.DIFFERENT


class SigningError(PkgkmodError):
    """A module or package could not be signed, or its signature is missing or wrong."""

    exit_code = ExitCode.SIGNING


class DiskError(PkgkmodError):
    """An installer would not take a driver disk, or would not load what is on it; nothing was written."""

    exit_code = ExitCode.DISK


class RequirementError(PkgkmodError):
    """A driver that this one builds on is not there, or not for this kernel."""

    exit_code = ExitCode.REQUIREMENT


class CheckError(PkgkmodError):
    """A finished module would not be loaded, or not as it should be: `check` found errors in it."""

    exit_code = ExitCode.CHECK


class BootError(PkgkmodError):
    """A kernel that was booted refused a module, or broke, or did not come up."""

    exit_code = ExitCode.BOOT


class FarmError(PkgkmodError):
    """A build farm cannot be reached, or does not take what it is given."""

    exit_code = ExitCode.FARM

    def __init__(
        self, brief: str, *, details: str = "", hint: str = "", log: Path | None = None, passing: bool = False
    ) -> None:
        super().__init__(brief, details=details, hint=hint, log=log)
        self.passing = passing
        """Whether trying again later may help."""


class TimeLimitError(PkgkmodError):
    """A program ran longer than it may."""

    exit_code = ExitCode.TIMEOUT


def near(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the names of `known` that are spelled most like `name`, best first."""
    import difflib  # only when something went wrong: start-up stays quick

    return difflib.get_close_matches(name, list(known), n=most, cutoff=0.6)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the nearest of `known`, or an empty string."""
    found = near(name, known, most=1)
    return f"did you mean '{found[0]}'?" if found else ""

"""What a plugin is, and how plugins are found.

Stages, builders and kernel sources are entry points; the built-in ones are registered like any other.
A plugin describes, the engine executes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ValidationError

from pkgkmod.command import Command, Completed, is_stopping, run
from pkgkmod.errors import PkgkmodError, PluginError, did_you_mean
from pkgkmod.jobserver import JobServer
from pkgkmod.model.artifacts import Artifact, PackageFormat, Recipe
from pkgkmod.model.disk import DiskListing, DiskPackage, DiskRelease, FoundTree
from pkgkmod.model.fields import CheckLevel
from pkgkmod.model.finding import Finding
from pkgkmod.model.job import Job
from pkgkmod.model.kernel import Kernel, KernelOffer, PackageFile
from pkgkmod.model.packaging import Disk
from pkgkmod.model.places import Places
from pkgkmod.model.project import Project
from pkgkmod.progress import Progress
from pkgkmod.sandbox import isolation
from pkgkmod.workspace import Draft, Result, Workspace

STAGES = "pkgkmod.stages"
BUILDERS = "pkgkmod.builders"
KERNEL_SOURCES = "pkgkmod.kernel_sources"
LAYOUTS = "pkgkmod.layouts"

Scope = Literal["source", "kernel", "job", "project"]


@dataclass(frozen=True)
class Option:
    """A command-line option of a stage; it sets a key of the configuration for this run."""

    flags: tuple[str, ...]
    sets: str
    """Dotted key, such as `source.archive` or `plugin.NAME.KEY`."""
    help: str
    value: Any = None
    """What the bare flag sets; None if the option takes an argument."""
    metavar: str = "TEXT"
    multiple: bool = False
    """May be given several times, and each argument may hold several words."""
    number: bool = False
    choices: Mapping[str, Any] | None = None
    """Arguments that are allowed, with the values they set."""


@dataclass(frozen=True)
class Unit:
    """What one run of a stage is about: the project as it is configured, and its folder."""

    project: Project
    base: Path

    @property
    def key(self) -> tuple[str, str]:
        """Target and kernel under which results are filed; `_` where there is none."""
        return "_", "_"


@dataclass(frozen=True)
class SourceUnit(Unit):
    """The sources of the project, or those that some targets have of their own."""

    label: str = "_"

    @property
    def key(self) -> tuple[str, str]:
        """Sources are filed by their label."""
        return self.label, "_"


@dataclass(frozen=True)
class KernelUnit(Unit):
    """One kernel, and the sources that are built for it."""

    kernel: Kernel
    label: str = "_"

    @property
    def key(self) -> tuple[str, str]:
        """Results for a kernel serve all targets that share the sources."""
        return self.label, self.kernel.uname_r


@dataclass(frozen=True)
class JobUnit(Unit):
    """One source package."""

    job: Job

    @property
    def key(self) -> tuple[str, str]:
        """Results are filed by target, and by kernel where the job is for one."""
        return self.job.target.id, self.job.kernel_label


@dataclass(frozen=True)
class ProjectUnit(Unit):
    """Everything together."""

    jobs: tuple[Job, ...]


M = TypeVar("M", bound=BaseModel)
U = TypeVar("U", bound=Unit)
U_contra = TypeVar("U_contra", bound=Unit, contravariant=True)
U_co = TypeVar("U_co", bound=Unit, covariant=True)


@dataclass(frozen=True)
class Work(Generic[U_co]):
    """What a stage is given to run: what it is about, the inputs, and where to put the result."""

    unit: U_co
    inputs: Mapping[str, tuple[Result, ...]]
    draft: Draft
    workspace: Workspace
    progress: Progress
    budget: JobServer | None = None
    """The parallel jobs that all programs share."""

    @property
    def folder(self) -> Path:
        """Folder to fill; it becomes the result."""
        return self.draft.folder

    def one(self, kind: str) -> Result:
        """Return the only input of a kind."""
        (found,) = self.inputs[kind]
        return found

    @property
    def isolated(self) -> bool:
        """True if programs run in the sandbox; said once where they should, and cannot."""
        isolated, why_not = isolation(self.unit.project.build.sandbox)
        if why_not:
            self.progress.warn_once(why_not)
        return isolated

    def run(self, command: Command) -> Completed:
        """Run a program, as soon as there is a job for it; what it writes goes to the result's log."""
        with self.budget.job(is_stopping) if self.budget else nullcontext():
            return run(command, log=self.draft.log, progress=self.progress, jobs=self.budget)


class Stage(Protocol[U_contra]):
    """A stage of the pipeline.

    `consumes` and `produces` name kinds of artifacts; the chain of stages is derived from them.
    """

    name: str
    version: int
    """Raised when the stage makes something else of the same inputs."""
    summary: str
    scope: Scope
    produces: str
    in_build: bool
    """True if `build` runs it although no other stage needs what it makes."""
    options: tuple[Option, ...]

    def consumes(self, project: Project) -> tuple[str, ...]:
        """Return the kinds of artifacts that are needed first."""

    def applies(self, unit: U_contra) -> bool:
        """Tell whether there is anything to do for this unit."""

    def on_edit(self, project: Project) -> CheckLevel | None:
        """Return what to do when somebody edited the result: use it (off), use it and say so (warn), or fail.

        None: the result is not for editing, and is made anew.
        """

    def ingredients(self, unit: U_contra) -> Mapping[str, object]:
        """Return everything besides the inputs that shapes the result, as JSON-able values."""

    def run(self, work: Work[Any]) -> Artifact:
        """Fill `work.folder` and return its description."""


class Builder(Protocol):
    """A way to make packages of a recipe: it describes the commands, a stage runs them."""

    name: str
    format: PackageFormat | None
    """What packages it makes; None if it makes all."""
    prebuilt: bool
    """True if it can take modules that were compiled before; false if it always compiles itself."""

    def tools(self, format: PackageFormat) -> tuple[str, ...]:
        """Return the programs it needs."""

    def lay_out(self, recipe: Recipe, recipe_folder: Path, places: Places) -> None:
        """Copy a recipe's files to where its commands look for them."""

    def rpm_commands(self, recipe: Recipe, project: Project, places: Places) -> tuple[Command, ...]:
        """Return the commands that make SRPM and RPMs, below SRPMS/ and RPMS/ of places.folder."""

    def deb_commands(self, recipe: Recipe, project: Project, places: Places) -> tuple[Command, ...]:
        """Return the commands that make source package and DEBs in places.folder."""


@runtime_checkable
class RootBuilder(Builder, Protocol):
    """A builder that needs more than its commands: a root of the distribution, and a folder that others may enter."""

    def ingredients(self, unit: JobUnit) -> Mapping[str, object]:
        """Return what shapes packages besides recipe, programs and `[plugin.NAME]`, as JSON-able values."""

    def at_work(self, unit: JobUnit, progress: Progress) -> AbstractContextManager[Path]:
        """Fetch and make what the commands need; give the folder to build in, and remove it afterwards."""

    def logs(self, folder: Path) -> Sequence[Path]:
        """Return where in the folder its commands leave logs: these become part of the result's log."""

    def complaint(self, lines: Sequence[str], returncode: int = 1) -> PkgkmodError | None:
        """Return the error that stands for what a failed command wrote, if it is known what that means."""


class KernelSource(Protocol):
    """A place on this machine where kernel build trees lie."""

    name: str

    def kernels(self, settings: Mapping[str, Any], base: Path) -> Iterable[Kernel]:
        """Return the kernels it has; `settings` is the project's `[plugin.NAME]`."""


@runtime_checkable
class KernelArchive(Protocol):
    """A place that serves kernels as packages; registered in the same group as KernelSource.

    The store fetches the packages, checks their digests, and keeps what `unpack` makes of them.
    """

    name: str

    def offers(
        self, settings: Mapping[str, Any], base: Path, *, ask: bool, progress: Progress
    ) -> Iterable[KernelOffer]:
        """Return the kernels it serves, by what its index said last; `ask` asks it for a newer one.

        An index that never was fetched is fetched. Raise KernelError if it cannot be had or its signature
        is wrong.
        """

    def unpack(self, package: Path, file: PackageFile, offer: KernelOffer, destination: Path) -> None:
        """Unpack a package, whose digest is right, so that DESTINATION/usr/... has its files; run nothing of it."""


@runtime_checkable
class ImageArchive(KernelArchive, Protocol):
    """An archive that has the kernels themselves, too, to boot them."""

    def image(
        self, kernel: Kernel | KernelOffer, settings: Mapping[str, Any], base: Path, progress: Progress
    ) -> KernelOffer:
        """Return the packages with a kernel and its modules, in the version of its headers; see `offers`.

        Raise KernelError if it has them not.
        """


@dataclass(frozen=True)
class DiskDraft:
    """What a layout is given to write: the folder that becomes the disk, and what it needs for that."""

    folder: Path
    """Root of the disk."""
    scratch: Path
    """A folder for whatever is needed on the way; others use it, too."""
    title: str
    """What the disk is: NAME VERSION."""
    epoch: int
    """The time of all that is on it, in seconds since 1970."""
    run: Callable[[Command], Completed]


class Layout(Protocol):
    """What an installer reads on a driver disk; of one kind for all the releases that have it in `installers`.

    No method is given source packages or debug information. A package may be damaged: its modules say so.
    """

    name: str
    title: str
    """The installer, as messages and tables call it: anaconda, linuxrc."""
    format: PackageFormat
    carriers: tuple[str, ...]
    """Carriers that its installer takes: iso, usb, initrd, dud."""

    def write(self, releases: Sequence[DiskRelease], draft: DiskDraft) -> None:
        """Put the packages of all its releases below the root; times and modes are set later.

        The same packages make the same bytes. Raise PackageError if a program fails.
        """

    def check(self, releases: Sequence[DiskRelease], disk: Disk) -> Iterable[Finding]:
        """Return what its installers would refuse, skip or not load, and what they would take wrongly."""

    def kernels(self, package: DiskPackage) -> tuple[str, ...]:
        """Return the kernels for which the installer takes a package: RELEASE, or `>= RELEASE`; none if it skips it."""

    def recognize(self, listing: DiskListing) -> Iterable[FoundTree]:
        """Return the folders of any disk from which its installers would take drivers."""

    def instructions(self, releases: Sequence[DiskRelease], files: Mapping[str, Sequence[str]]) -> str:
        """Return what to tell the installer, and what does not work: paragraphs of at most 78 columns.

        `files` are the names of the images by carrier. Each release is called by its title.
        """


def check_settings(model: type[M], settings: Mapping[str, Any], plugin: str, *, hint: str) -> M:
    """Return a plugin's settings as its model; raise PluginError that names the first wrong key, and `hint`."""
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in (f"plugin.{plugin}", *first["loc"]))
        raise PluginError(f"{key}: {first['msg'].removeprefix('Value error, ')}", hint=hint) from None


@functools.cache
def registered(group: str) -> dict[str, EntryPoint]:
    """Return the plugins of a group by name, without loading them."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda p: p.name)}


def load(group: str, name: str) -> Any:
    """Return a new plugin object; raise PluginError if there is none of that name, or if it is broken."""
    found = registered(group)
    kind = group.rpartition(".")[2].rstrip("s").replace("_", " ")
    if name not in found:
        raise PluginError(
            f"no {kind} is called '{name}'",
            hint=did_you_mean(name, found) or f"known: {', '.join(found)}",
        )
    try:
        return found[name].load()()
    except PkgkmodError:
        raise
    except Exception as error:
        raise PluginError(
            f"the {kind} '{name}' cannot be loaded: {type(error).__name__}: {error}",
            hint=f"it is {found[name].value}; update or remove the package that brings it",
        ) from error

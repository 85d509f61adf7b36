"""Which kernels are booted, and with what: files that were given, or the newest packages of a project."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkgkmod.errors import InputError, KernelError, UsageError, did_you_mean

if TYPE_CHECKING:
    from pkgkmod.boot.installed import Cargo, Contents
    from pkgkmod.cli.invocation import Invocation
    from pkgkmod.kernels.select import Found
    from pkgkmod.model.project import Project
    from pkgkmod.progress import Progress


@dataclass(frozen=True)
class Session:
    """What the boots of one call have in common."""

    invocation: Invocation
    project: Project
    base: Path
    progress: Progress
    modules: tuple[str, ...]
    limit: int
    memory: int
    enforce: bool
    keep: bool
    again: bool
    is_project: bool
    is_only: bool = False
    """True if there is one kernel only."""

    @property
    def is_saved(self) -> bool:
        """Tell whether results are filed with the project: all of its modules were tried, as they are shipped."""
        return self.is_project and not self.modules


@dataclass(frozen=True)
class Wanted:
    """A kernel that is to be booted, and what is installed there."""

    uname_r: str
    kernel: Found | None
    """None if only the kernel's file is known."""
    contents: tuple[Contents, ...]
    file: Path | None = None
    """The kernel's file, if it was named."""


def of_files(session: Session, files: Sequence[Path], given: Mapping[str, Any]) -> list[Wanted]:
    """Return the kernels that were named, or those that the files' modules are for."""
    from pkgkmod.kernels.images import image_of_file
    from pkgkmod.kernels.select import available_kernels, select_kernels
    from pkgkmod.packages.modulefiles import find_files

    contents = _read(session, find_files(files))
    if not any(one.has_modules for one in contents):
        raise InputError("the packages hold no module", hint="source packages have none, nor have those of others")
    releases = sorted({release for one in contents for release in one.releases})
    named = given["kernel"] or releases
    if not named and not given["image"]:
        raise InputError("no kernel is known for these modules", hint="name one with --kernel")
    if image := given["image"]:
        if len(named) > 1 and given["kernel"]:
            raise UsageError("--image goes with one --kernel", hint="give one kernel, or no image")
        (release,) = given["kernel"] or ("",)
        return [Wanted(image_of_file(image, release, os.uname().machine).uname_r, None, contents, image)]
    available = available_kernels(session.project, session.base, progress=session.progress)
    if given["kernel"]:
        found = select_kernels(named, available)
    else:
        found = tuple(kernel for kernel in available if kernel.uname_r in releases)
        for release in releases:
            if release not in {kernel.uname_r for kernel in found}:
                session.progress.warning(f"{release} is left out: neither its headers nor an archive with it is known")
        if not found:
            raise KernelError(
                f"the kernels that the modules are for are not to be had: {', '.join(releases)}",
                hint="install their headers, name an archive in plugin.apt.archives, or a kernel with --image",
            )
    return [Wanted(kernel.uname_r, kernel, contents) for kernel in found]


def of_project(session: Session, given: Mapping[str, Any]) -> list[Wanted]:
    """Return the project's kernels with the packages that were made for them; each kernel once."""
    from pkgkmod.engine.lock import read_lock
    from pkgkmod.engine.resolve import resolve_jobs
    from pkgkmod.workspace import Workspace

    if given["image"]:
        raise UsageError("--image goes with FILES", hint="the project's kernels come from where their headers are from")
    resolved = resolve_jobs(
        session.project,
        session.base,
        targets=given["target"],
        kernels=given["kernel"],
        lock=read_lock(session.base),
        fetch=not given["dry_run"],
        progress=session.progress,
    )
    for error in resolved.absent.values():
        session.progress.warning(error.brief)
    workspace = Workspace(session.base)
    wanted: dict[str, Wanted] = {}
    left_out: dict[str, None] = {}
    for job in resolved.jobs:
        files = _packages(workspace, job.target.id, job.kernel_label)
        kernels = [kernel for kernel in job.kernels if kernel.uname_r not in wanted]
        left_out |= {job.target.id: None} if files and len(kernels) < len(job.kernels) else {}
        contents = _read(session, files) if files and kernels else ()
        if contents:
            wanted |= {kernel.uname_r: Wanted(kernel.uname_r, kernel, contents) for kernel in kernels}
    for target in left_out:
        session.progress.info(f"of {target}, kernels of other targets are left out; --target {target} takes them")
    if not wanted:
        raise UsageError("nothing has been packaged yet", hint="run `pkgkmod build` first, or give packages")
    return list(wanted.values())


def _packages(workspace: Any, target: str, kernel: str) -> list[Path]:
    """Return the newest packages of a job: signed ones, if they are not older than what they were made of."""
    from pkgkmod.model.artifacts import PackageSet, SignedSet

    found = []
    for stage, kind in (("build_rpm", PackageSet), ("build_deb", PackageSet), ("sign", SignedSet)):
        result = workspace.newest(stage, target, kernel)
        if result and result.state == "ok":
            made = result.load(kind)
            found.append((result.finished, [result.folder / p.file for p in made.packages if p.kind == "binary"]))
    return max(found, default=(0, []))[1]


def _read(session: Session, files: Sequence[Path]) -> tuple[Contents, ...]:
    from pkgkmod.boot.installed import read_contents
    from pkgkmod.command import run

    with tempfile.TemporaryDirectory(prefix="pkgkmod-") as place:
        log = Path(place, "log")
        return read_contents(files, lambda command: run(command, log=log, progress=session.progress))


def _all_of(session: Session, one: Wanted) -> Cargo:
    """Return what is installed for a kernel: a project has packages for each, files may be for another one."""
    from pkgkmod.boot.installed import cargo_for

    return cargo_for(one.contents, one.uname_r, links=not session.is_project)


def chosen_cargo(session: Session, one: Wanted) -> Cargo:
    """Return what is installed for a kernel, and of its modules those that were asked for."""
    cargo = _all_of(session, one)
    kept = tuple(module for module in cargo.modules if not session.modules or module.name in session.modules)
    return replace(cargo, modules=kept)


def check_modules(session: Session, wanted: Sequence[Wanted]) -> None:
    """Raise UsageError for a module that is nowhere, and InputError if there are none at all."""
    known = {module.name for one in wanted for module in _all_of(session, one).modules}
    if not known:
        raise InputError("the packages hold no module", hint="source packages, and those of others, have none")
    for name in session.modules:
        if name not in known:
            hint = did_you_mean(name, known) or f"there are: {', '.join(sorted(known)[:8])}"
            raise UsageError(f"no package has the module '{name}'", hint=hint)

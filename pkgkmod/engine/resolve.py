"""From a project to its jobs: every target's kernels found, fetched, and grouped as the distribution says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pkgkmod.data.distros import find_distro
from pkgkmod.engine.lock import Lock
from pkgkmod.errors import ConfigError, KernelError, PkgkmodError, UsageError, did_you_mean
from pkgkmod.kernels.provide import is_here, provide_kernels
from pkgkmod.kernels.select import Found, available_kernels, in_order, select_kernels, with_named
from pkgkmod.kernels.store import Store
from pkgkmod.kernels.tree import read_options
from pkgkmod.model.distro import Distro
from pkgkmod.model.job import Job
from pkgkmod.model.kernel import Kernel
from pkgkmod.model.project import Build, Project, Target
from pkgkmod.progress import Progress


@dataclass(frozen=True)
class Resolved:
    """The jobs of a project, and the kernels that could not be had, by release."""

    jobs: tuple[Job, ...]
    absent: Mapping[str, PkgkmodError] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    """Why the driver is not for some of the kernels that are asked for, by release."""


def resolve_jobs(
    project: Project,
    base: Path,
    *,
    targets: Sequence[str] = (),
    kernels: Sequence[str] = (),
    lock: Lock | None = None,
    fetch: bool = True,
    by_name: bool = False,
    progress: Progress | None = None,
) -> Resolved:
    """Return the jobs of a project, or of the named targets; `kernels` narrows each target to some.

    With `lock`, the kernels are those that it pins. With `fetch`, kernels of archives are fetched. With `by_name`, one
    that is named by its release, and that nobody here has, is taken at its word.
    Raise ConfigError for an unknown distribution, KernelError for a kernel that nobody has,
    UsageError for a target or kernel that the project does not have.
    """
    progress = progress or Progress()
    wanted = wanted_kernels(project, base, targets=targets, lock=lock, by_name=by_name, progress=progress)
    chosen = {target: _narrowed(found, kernels) for target, found in wanted.items()}
    if kernels and not any(chosen.values()):
        raise UsageError(
            f"no target builds for {', '.join(kernels)}",
            hint="the kernels of a target stand in its [[target]] table; see `pkgkmod plan`",
        )
    distinct = in_order({kernel.uname_r: kernel for found in chosen.values() for kernel in found}.values())
    excluded = {k.uname_r: why for k in distinct if (why := project.only.complaint(k.uname_r, k.arch))}
    distinct = tuple(kernel for kernel in distinct if kernel.uname_r not in excluded)
    ready, absent = provide_kernels(distinct, _build(project, chosen), fetch=fetch, progress=progress)
    if absent and not ready:
        raise next(iter(absent.values()))
    excluded |= _wrongly_configured(project, ready)
    ready = {release: kernel for release, kernel in ready.items() if release not in excluded}
    if excluded and not ready:
        raise _for_none(excluded)
    jobs: list[Job] = []
    for target, found in chosen.items():
        present = tuple(ready[kernel.uname_r] for kernel in found if kernel.uname_r in ready)
        if present:
            jobs += _group(project.for_target(target), target, find_distro(target.distro), present)
    _warn_of_namesakes(jobs, progress)
    return Resolved(tuple(jobs), absent, excluded)


def _build(project: Project, targets: Iterable[Target]) -> Build:
    """Return the settings that say what this machine must have for the kernels.

    Where a root of RPM's has all of it, as mock's, it does not matter that kbuild's programs do not run here.
    """
    if all(find_distro(target.distro).format == "rpm" for target in targets) and project.rpm.builder == "mock":
        return project.build.model_copy(update={"roots": False})
    return project.build


def left_out(project: Project, wanted: Mapping[Target, tuple[Found, ...]]) -> dict[str, str]:
    """Return why the driver is not for some kernels, by release; of options, only those of kernels here are asked.

    Raise KernelError if it is for none of them.
    """
    store = Store()
    found = {kernel.uname_r: kernel for kernels in wanted.values() for kernel in kernels}
    excluded = {k.uname_r: why for k in found.values() if (why := project.only.complaint(k.uname_r, k.arch))}
    here: dict[str, Kernel] = {}
    for release, kernel in found.items():
        if isinstance(kernel, Kernel):
            here[release] = kernel
        elif project.only.config and store.has(kernel):
            here[release] = store.kernel(kernel)
    excluded = {**_wrongly_configured(project, here), **excluded}
    if found and len(excluded) == len(found):
        raise _for_none(excluded)
    return excluded


def _for_none(excluded: Mapping[str, str]) -> KernelError:
    return KernelError(
        "the driver is for none of these kernels",
        details="\n".join(f"{release}: {why}" for release, why in excluded.items()),
        hint="the table [only] of the project file says which kernels it is for",
    )


def _wrongly_configured(project: Project, ready: Mapping[str, Kernel]) -> dict[str, str]:
    """Return why the driver is not for some kernels, by their options; those not fetched yet are not asked."""
    if not project.only.config:
        return {}
    asked = {release: read_options(kernel.place) for release, kernel in ready.items() if is_here(kernel)}
    return {release: why for release, options in asked.items() if (why := project.only.option_complaint(options))}


def _warn_of_namesakes(jobs: Sequence[Job], progress: Progress) -> None:
    """Say which targets make packages of the same name and version of different sources."""
    seen: dict[tuple[str, str, tuple[str, ...]], Job] = {}
    for job in jobs:
        one_each = () if job.distro.grouping == "all" else tuple(kernel.uname_r for kernel in job.kernels)
        other = seen.setdefault((job.target.distro, job.project.project.version, one_each), job)
        if other.source_label != job.source_label:
            progress.warn_once(
                f"{other.target.id} and {job.target.id} make packages of the same name and version of different "
                "sources: give one of these targets a `version` of its own"
            )


def wanted_kernels(
    project: Project,
    base: Path,
    *,
    targets: Sequence[str] = (),
    lock: Lock | None = None,
    ask: bool = False,
    prefer_archives: bool = False,
    by_name: bool = False,
    progress: Progress | None = None,
) -> dict[Target, tuple[Found, ...]]:
    """Return the kernels that each target means, wherever they are."""
    if not project.target:
        raise ConfigError(
            "the project has no target",
            hint='add one to pkgkmod.toml: [[target]] with distro = "el9" and kernels = ["newest"]',
        )
    chosen = chosen_targets(project.target, targets)
    if lock:
        return lock.kernels(chosen, project, base)
    available = available_kernels(project, base, ask=ask, prefer_archives=prefer_archives, progress=progress)
    if by_name and not project.only.config:  # options stand in build trees
        available = with_named([name for target in chosen for name in target.kernels], available, progress)
    return {target: select_kernels(target.kernels, available) for target in chosen}


def chosen_targets(targets: tuple[Target, ...], names: Sequence[str]) -> tuple[Target, ...]:
    """Return the targets of these names, or all; raise UsageError for a name that no target has."""
    known = [target.id for target in targets]
    for name in names:
        if name not in known:
            raise UsageError(
                f"the project has no target '{name}'",
                hint=did_you_mean(name, known) or f"it has: {', '.join(known)}",
            )
    return tuple(target for target in targets if not names or target.id in names)


def _narrowed(found: tuple[Found, ...], patterns: Sequence[str]) -> tuple[Found, ...]:
    if not patterns:
        return found
    names = [kernel.uname_r for kernel in found]
    chosen = {
        kernel.uname_r for pattern in patterns for kernel in _select_or_none(pattern, found) if kernel.uname_r in names
    }
    return tuple(kernel for kernel in found if kernel.uname_r in chosen)


def _select_or_none(pattern: str, found: tuple[Found, ...]) -> tuple[Found, ...]:
    try:
        return select_kernels((pattern,), found)
    except PkgkmodError:
        return ()


def _group(project: Project, target: Target, distro: Distro, kernels: tuple[Kernel, ...]) -> list[Job]:
    groups: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        label = Job(project, target, distro, (kernel,)).kernel_label
        groups.setdefault(label, []).append(kernel)
    for group in groups.values():
        machines = sorted({kernel.arch for kernel in group})
        if len(machines) > 1 and distro.format == "rpm":
            raise ConfigError(
                f"the kernels of {target.id} are for several machines ({', '.join(machines)}), and a spec is for one",
                hint="make a target for each machine, with a name of its own",
            )
    return [Job(project, target, distro, tuple(group)) for group in groups.values()]

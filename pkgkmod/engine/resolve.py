"""From a project to its jobs: every target's kernels found, grouped as the distribution says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pkgkmod.data.distros import find_distro
from pkgkmod.errors import ConfigError, UsageError, did_you_mean
from pkgkmod.kernels.select import available_kernels, select_kernels
from pkgkmod.model.distro import Distro
from pkgkmod.model.job import Job
from pkgkmod.model.kernel import Kernel
from pkgkmod.model.project import Project, Target


def resolve_jobs(
    project: Project, base: Path, *, targets: Sequence[str] = (), kernels: Sequence[str] = ()
) -> tuple[Job, ...]:
    """Return the jobs of a project, or of the named targets; `kernels` narrows each target to some.

    Raise ConfigError for an unknown distribution, KernelError for a kernel that is not there,
    UsageError for a target or kernel that the project does not have.
    """
    if not project.target:
        raise ConfigError(
            "the project has no target",
            hint='add one to pkgkmod.toml: [[target]] with distro = "el9" and kernels = ["newest"]',
        )
    available = available_kernels(project, base)
    jobs: list[Job] = []
    for target in _chosen(project.target, targets):
        distro = find_distro(target.distro)
        selected = select_kernels(target.kernels, available)
        if kernels:
            selected = tuple(k for k in selected if k in select_kernels(kernels, available))
        if selected:
            jobs += _group(project, target, distro, selected)
    if not jobs:
        raise UsageError(
            f"no target builds for {', '.join(kernels)}",
            hint="the kernels of a target stand in its [[target]] table; see `pkgkmod plan`",
        )
    return tuple(jobs)


def _chosen(targets: tuple[Target, ...], names: Sequence[str]) -> tuple[Target, ...]:
    known = [target.id for target in targets]
    for name in names:
        if name not in known:
            raise UsageError(
                f"the project has no target '{name}'",
                hint=did_you_mean(name, known) or f"it has: {', '.join(known)}",
            )
    return tuple(target for target in targets if not names or target.id in names)


def _group(project: Project, target: Target, distro: Distro, kernels: tuple[Kernel, ...]) -> list[Job]:
    if distro.grouping == "all":
        return [Job(project, target, distro, kernels)]
    return [Job(project, target, distro, (kernel,)) for kernel in kernels]

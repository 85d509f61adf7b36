"""A job: one source package to make. Nothing in it is optional any more."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pkgkmod.model.distro import Distro
from pkgkmod.model.kernel import Kernel
from pkgkmod.model.project import Project, Target


@dataclass(frozen=True)
class Job:
    """One source package of one target: the project, the distribution, and the kernels it serves."""

    project: Project
    target: Target
    distro: Distro
    kernels: tuple[Kernel, ...]

    @property
    def kernel_label(self) -> str:
        """What its distribution's grouping makes a job for: a kernel, all flavours of one (`base`), or `_` for all."""
        if self.distro.grouping == "per-flavour":
            return self.kernels[0].release.base
        return "_" if self.distro.grouping == "all" else self.kernels[0].uname_r

    @property
    def source_label(self) -> str:
        """Name of the sources that it is built from; `_` for the project's own."""
        return self.target.source_label

    @property
    def id(self) -> str:
        """Name of the job in plans and messages: TARGET or TARGET/KERNEL."""
        label = self.kernel_label
        return self.target.id if label == "_" else f"{self.target.id}/{label}"

    def with_kernels(self, kernels: tuple[Kernel, ...]) -> Job:
        """Return the job for fewer kernels."""
        return replace(self, kernels=kernels)

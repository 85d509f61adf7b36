"""Names and versions of Debian packages: what the policy allows, and what each kind of package is called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pkgkmod.data.arches import package_arch
from pkgkmod.errors import PackageError
from pkgkmod.model.job import Job
from pkgkmod.model.kernel import Kernel
from pkgkmod.model.requires import UNAME_R, Requirement
from pkgkmod.packages.facts import Dependency


def debian_name(text: str) -> str:
    """Return `text` as a part of a package name: lower case, and only what the policy (5.6.1) allows."""
    return re.sub(r"[^a-z0-9+.-]", "-", text.lower())


def source_name(job: Job) -> str:
    """Return the name of the source package: NAME-modules."""
    return debian_name(f"{job.project.project.name}-modules")


def package_names(job: Job) -> dict[str, str]:
    """Return the binary package of each kernel, by its release; PackageError if two were called alike.

    apt knows such names: it keeps NAME-modules-UNAME_R as long as it keeps that kernel (01autoremove).
    """
    names = {kernel.uname_r: f"{source_name(job)}-{debian_name(kernel.uname_r)}" for kernel in job.kernels}
    for name in names.values():
        same = [other for other in names if names[other] == name]
        if len(same) > 1:
            raise PackageError(
                f"the packages for the kernels {' and '.join(same)} would both be called {name}",
                details="package names are in lower case and have no '_', so these cannot be told apart",
                hint="put these kernels into two targets, and build one of them elsewhere",
            )
    return names


def dkms_name(job: Job) -> str:
    """Return the name of the package with which dkms builds the modules: NAME-dkms."""
    return debian_name(f"{job.project.project.name}-dkms")


def firmware_name(job: Job) -> str:
    """Return the name of the package with firmware; Debian's own ones are called firmware-NAME."""
    return debian_name(f"{job.project.project.name}-firmware")


def required_modules(requirement: Requirement, uname_r: str) -> str:
    """Return the dependency on the modules of a driver that this one builds on, for a kernel."""
    if not requirement.deb_package:
        return debian_name(f"{requirement.label}-modules-{uname_r}")
    return _required(requirement.deb_package, uname_r)


def required_devel(requirement: Requirement, uname_r: str) -> str:
    """Return the build dependency on what such a driver's development package has for a kernel."""
    return _required(requirement.deb_devel or debian_name(f"{requirement.label}-modules-dev"), uname_r)


def _required(text: str, uname_r: str) -> str:
    return spelled(Dependency.parse(text.replace(UNAME_R, debian_name(uname_r))))


def devel_name(job: Job) -> str:
    """Return the name of the package that other drivers build on."""
    return f"{source_name(job)}-dev"


def upstream_version(job: Job) -> str:
    """Return the version of the sources; Debian has no `_` in versions."""
    return job.project.project.version.replace("_", ".")


def package_version(job: Job) -> str:
    """Return [EPOCH:]VERSION-RELEASE, with the distribution's suffix."""
    return _whole_version(job, upstream_version(job))


def _whole_version(job: Job, upstream: str) -> str:
    info = job.project.project
    epoch = f"{info.epoch}:" if info.epoch else ""
    return f"{epoch}{upstream}-{info.release.replace('_', '.')}{job.distro.version_suffix}"


def firmware_version(job: Job) -> str:
    """Return the version of the firmware package."""
    own = job.project.firmware.version
    return _whole_version(job, own.replace("_", ".")) if own else package_version(job)


def archive_name(job: Job) -> str:
    """Return the file name of the source archive, which dpkg-source looks for."""
    return f"{source_name(job)}_{upstream_version(job)}.orig.tar.xz"


def spelled(dependency: Dependency) -> str:
    """Return a dependency as a control file says it."""
    if not dependency.relation:
        return dependency.name
    relation = {"<": "<<", ">": ">>"}.get(dependency.relation, dependency.relation)
    return f"{dependency.name} ({relation} {dependency.version})"


def packaged_version(kernel: Kernel) -> str:
    """Return the version of a kernel's packages, which its meta package has, too; empty if it is not known."""
    return kernel.offer.packages[0].version if kernel.offer else ""


@dataclass(frozen=True)
class MetaPackage:
    """A package that depends on the modules of the newest kernel of a flavour."""

    name: str
    kernel_meta: str
    """The distribution's package that brings this kernel."""
    newest: Mapping[str, Kernel]
    """The newest kernel, by Debian's name of the machine: flavours of other distributions have no machine in them."""


def meta_packages(job: Job) -> tuple[MetaPackage, ...]:
    """Return the meta packages of a job: one for each flavour, for kernels of other series a further one."""
    distro = job.distro
    found: dict[tuple[str, str], dict[str, Kernel]] = {}
    for kernel in sorted(job.kernels, key=lambda kernel: kernel.release) if job.project.deb.meta else ():
        series = "" if kernel.release.series == distro.kernel_series else kernel.release.series
        kernel_meta = distro.other_kernel_meta if series else distro.kernel_meta
        if kernel.release.flavour and kernel_meta:
            by_arch = found.setdefault((series, kernel.release.flavour), {})
            by_arch[package_arch(kernel.arch, "deb")] = kernel
    metas = []
    for (series, flavour), newest in found.items():
        followed = distro.other_kernel_meta if series else distro.kernel_meta
        words = [source_name(job), series, flavour]
        name = debian_name("-".join(word for word in words if word))
        metas.append(MetaPackage(name, debian_name(followed.format(series=series, flavour=flavour)), newest))
    return tuple(metas)

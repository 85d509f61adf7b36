"""A kmod package in RPM's words: names, versions, dependencies, and the spec."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pkgkmod.data.arches import package_arch
from pkgkmod.errors import PackageError
from pkgkmod.model.job import Job
from pkgkmod.model.kernel import Kernel
from pkgkmod.packages.facts import ChangelogEntry, Dependency, PackageFacts
from pkgkmod.templates import Templates


def package_name(job: Job) -> str:
    """Return the name of source and binary package: kmod-NAME or kmod-VENDOR-NAME."""
    info = job.project.project
    return f"kmod-{info.vendor}-{info.name}" if info.vendor else f"kmod-{info.name}"


def package_release(job: Job) -> str:
    """Return the release: that of the project, the kernel, and the distribution.

    The kernel is in it because a build farm takes each name-version-release only once.
    """
    # Red Hat's own releases name the distribution already: 5.14.0-427.el9.x86_64.
    suffix = the_kernel(job).release.rpm_suffix.removesuffix(job.distro.version_suffix)
    return f"{job.project.project.release}.k{suffix}{job.distro.version_suffix}"


def package_version(job: Job) -> str:
    """Return VERSION-RELEASE, without the epoch."""
    return f"{job.project.project.version}-{package_release(job)}"


def spec_name(job: Job) -> str:
    """Return the file name of the spec."""
    return f"{package_name(job)}.spec"


def archive_name(job: Job) -> str:
    """Return the file name of the source archive."""
    return f"{job.project.project.name}-{job.project.project.version}.tar.xz"


def the_kernel(job: Job) -> Kernel:
    """Return the only kernel of a job; raise PackageError if there are several."""
    if len(job.kernels) != 1:
        raise PackageError(f"{job.id}: a kmod RPM is for one kernel, not for {len(job.kernels)}")
    return job.kernels[0]


def spelled(dependency: Dependency) -> str:
    """Return a dependency as a spec says it.

    rpm splits a version at its dash and refuses a second one, so `kernel-uname-r = 6.1.0-56-amd64`
    becomes `kernel-uname-r(6.1.0-56-amd64)`.
    """
    if dependency.relation == "=" and dependency.version.count("-") > 1:
        return f"{dependency.name}({dependency.version})"
    return " ".join(part for part in (dependency.name, dependency.relation, dependency.version) if part)


def spec_values(facts: PackageFacts) -> dict[str, Any]:
    """Return what the template of the spec is given; texts are as the packager wrote them."""
    job, info, distro = facts.job, facts.job.project.project, facts.job.distro
    kernel = the_kernel(job)
    evr = f"{info.epoch}:{package_version(job)}" if info.epoch else package_version(job)
    requirements = [*distro.build_requires, distro.kernel_build_requires.format(uname_r=kernel.uname_r)]
    return {
        "name": package_name(job),
        "project": facts.name,
        "version": info.version,
        "release": package_release(job),
        "epoch": info.epoch,
        "summary": facts.summary,
        "description": facts.description,
        "license": info.license,
        # rpm takes one word only.
        "url": info.url.replace(" ", "%20"),
        "vendor": info.vendor or "",
        "arch": package_arch(kernel.arch, "rpm"),
        "kernel": kernel.uname_r,
        "kernel_as_version": kernel.release.rpm_version,
        "kernel_tree": facts.kernel_tree("%{kernel}"),
        "module_dir": facts.module_folder("%{kernel}"),
        "module_root": distro.module_root,
        "modules": facts.modules,
        "override_folder": facts.override_folder,
        "archive": archive_name(job),
        "top_folder": facts.top_folder,
        "payload": distro.payload,
        "build_requires": [spelled(Dependency.parse(text)) for text in requirements],
        "kernel_requires": spelled(Dependency.parse(distro.kernel_requires.format(uname_r=kernel.uname_r))),
        "changelog": [_changelog_entry(entry) for entry in facts.changelog(evr)],
    }


def _changelog_entry(entry: ChangelogEntry) -> dict[str, Any]:
    # rpm reads English names only; strftime's would be the locale's.
    when = time.gmtime(entry.time)
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[when.tm_wday]
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    date = f"{day} {months[when.tm_mon - 1]} {when.tm_mday:02} {when.tm_year}"
    return {"date": date, "author": entry.author, "version": entry.version, "lines": entry.lines}


def render_spec(facts: PackageFacts, template_folder: Path | None) -> str:
    """Return the spec; raise ConfigError if a template of the packager's own is wrong."""
    templates = Templates("spec-templates", template_folder)
    return templates.render(facts.job.distro.spec_template, spec_values(facts))


def template_digest(job: Job, template_folder: Path | None) -> str:
    """Return a digest of the templates that the job's spec is made from."""
    return Templates("spec-templates", template_folder).digest(job.distro.spec_template)

"""A kmod package in RPM's words: names, versions, dependencies, and the spec."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pkgkmod.data.arches import package_arch
from pkgkmod.model.job import Job
from pkgkmod.model.kernel import Kernel, rpm_suffix
from pkgkmod.model.requires import UNAME_R, Requirement
from pkgkmod.modules.kmod_deps import STYLES
from pkgkmod.packages.dkms import dkms_limits
from pkgkmod.packages.facts import ChangelogEntry, Dependency, PackageFacts
from pkgkmod.packages.firmware import rpm_files_entries
from pkgkmod.templates import Templates

STABLE_LIST = "kabi_stablelist"
"""File name of the project's kABI stable list in the source package."""

# A spec serves other kernels than those it was written for, too: it computes what hangs on the release, its first
# argument, with macros of its own.
_MACROS = {
    "uname_r": "%{1}",
    "base": "%{kernel_base %{1}}",
    "flavour": "%{kernel_flavour %{1}}",
    "arch": "%{_target_cpu}",
}


def source_name(job: Job) -> str:
    """Return the name of the source package, as the distribution's packagers spell it."""
    info = job.project.project
    return job.distro.source_package.format(driver=f"{info.vendor}-{info.name}" if info.vendor else info.name)


def package_release(job: Job) -> str:
    """Return the release: that of the project, the kernel where the job is for one, and the distribution.

    The kernel is in it because a build farm takes each name-version-release only once.
    """
    release, suffix = job.project.project.release, job.distro.version_suffix
    if job.kernel_label == "_":
        return f"{release}{suffix}"
    # Red Hat's own releases name the distribution already: 5.14.0-427.el9.x86_64.
    return f"{release}.k{rpm_suffix(job.kernel_label).removesuffix(suffix)}{suffix}"


def package_version(job: Job) -> str:
    """Return VERSION-RELEASE of the source package, without the epoch."""
    return f"{job.project.project.version}-{package_release(job)}"


def spec_name(job: Job) -> str:
    """Return the file name of the spec."""
    return f"{source_name(job)}.spec"


def archive_name(job: Job) -> str:
    """Return the file name of the source archive."""
    return f"{job.project.project.name}-{job.project.project.version}.tar.xz"


def spelled(dependency: Dependency) -> str:
    """Return a dependency as a spec says it."""
    return " ".join(part for part in (dependency.name, dependency.relation, dependency.version) if part)


def spec_values(facts: PackageFacts) -> dict[str, Any]:
    """Return what the template of the spec is given; texts are as the packager wrote them."""
    job, info, distro, settings = facts.job, facts.job.project.project, facts.job.distro, facts.job.project.rpm
    evr = f"{info.epoch}:{package_version(job)}" if info.epoch else package_version(job)
    return {
        "name": source_name(job),
        "project": facts.name,
        "driver": f"{info.vendor}-{info.name}" if info.vendor else info.name,
        "version": info.version,
        "release": info.release,
        "suffix": distro.version_suffix,
        "epoch": info.epoch,
        "evr": "%{?epoch:%{epoch}:}%{version}-%{release}",
        "summary": facts.summary,
        "description": facts.description,
        "license": info.license,
        # rpm takes one word only.
        "url": info.url.replace(" ", "%20"),
        "vendor": info.vendor or "",
        "arch": package_arch(job.kernels[0].arch, "rpm"),
        "kernels": [kernel.uname_r for kernel in job.kernels],
        "kernel_tree": distro.kernel_tree.format(**_MACROS),
        "kernel_build_requires": _of_any_kernel(Dependency.parse(distro.kernel_build_requires)),
        "kernel_requires": settings.kernel_requires,
        "installer_relation": "=" if settings.installer_kernels == "same" else ">=",
        "module_root": distro.module_root,
        "module_folder": distro.module_folder.format(name=facts.name),
        "modules": facts.modules,
        "override_folder": facts.override_folder,
        "archive": archive_name(job),
        "top_folder": facts.top_folder,
        "payload": settings.payload or distro.payload,
        "compression": settings.module_compression or distro.module_compression,
        "dependency_style": distro.dependency_style,
        "supplements": distro.dependency_style and bool(STYLES[distro.dependency_style].hardware),
        "requires": settings.requires,
        "build_requires": [
            *(spelled(Dependency.parse(text)) for text in distro.build_requires),
            *settings.build_requires,
        ],
        "stable_list": settings.stable_list and STABLE_LIST,
        "debuginfo": settings.debuginfo,
        "source_folder": f"/usr/src/kmods/{facts.top_folder}",
        "firmware_folder": distro.firmware_folder,
        "firmware_entries": rpm_files_entries(facts.firmware),
        "firmware_folders": rpm_files_entries(facts.firmware_folders),
        "firmware_version": job.project.firmware.version or info.version,
        "devel": job.project.devel.enabled,
        "devel_folder": f"/usr/src/kmods/{facts.name}",
        "newest": _newest(job),
        "one_kernel": job.kernel_label != "_",
        "weak_modules": distro.override_folder.startswith("weak-updates/"),
        "akmod": settings.akmod and distro.akmods,
        "dkms": settings.dkms,
        "limits": dkms_limits(job.project.only) if settings.dkms else {},
        "required": [_required(one) for one in job.project.requires],
        "changelog": [_changelog_entry(entry) for entry in facts.changelog(evr)],
    }


def _of_any_kernel(dependency: Dependency) -> Dependency:
    return replace(dependency, name=dependency.name.format(**_MACROS), version=dependency.version.format(**_MACROS))


def _required(requirement: Requirement) -> dict[str, str]:
    """Return what the templates say of a driver that this one builds on; %{1} is the kernel."""
    devel = requirement.rpm_devel or f"%{{of_kernel {requirement.label}-kmod-devel-uname-r {UNAME_R}}}"
    return {
        "name": requirement.label,
        "driver": requirement.driver,
        "devel": devel.replace(UNAME_R, _MACROS["uname_r"]),
        "package": (requirement.rpm_package or "").replace(UNAME_R, _MACROS["uname_r"]),
    }


def _newest(job: Job) -> list[tuple[str, str]]:
    """Return the newest kernel of each flavour: what the flavour adds to a name, and the release."""
    newest: dict[str, Kernel] = {}
    for kernel in job.kernels:
        flavour = kernel.release.flavour
        newest[flavour] = max(kernel, newest.get(flavour, kernel), key=lambda one: one.release)
    return [(flavour if len(newest) > 1 else "", kernel.uname_r) for flavour, kernel in sorted(newest.items())]


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

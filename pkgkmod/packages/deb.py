"""A kmod package in Debian's words: the debian/ folder. Its names are in `debnames`, its control file in
`debcontrol`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pkgkmod.data.arches import package_arch
from pkgkmod.formats.deb import write_control
from pkgkmod.packages.copyright import NO_CLAIMS, Claims, copyright_values
from pkgkmod.packages.debchangelog import DebianChangelog, debian_changelog
from pkgkmod.packages.debcontrol import control_paragraphs
from pkgkmod.packages.debnames import (
    archive_name,
    devel_name,
    dkms_name,
    firmware_name,
    firmware_version,
    package_names,
    package_version,
    source_name,
    spelled,
)
from pkgkmod.packages.debsource import AS_IMPORTED, DebianSources, provenance_text
from pkgkmod.packages.dkms import dkms_limits
from pkgkmod.packages.facts import PackageFacts
from pkgkmod.templates import Templates

__all__ = [
    "archive_name",
    "debian_values",
    "package_names",
    "package_version",
    "source_name",
    "spelled",
    "template_digest",
    "write_debian",
]

_OVERRIDES = """\
# Kmod-Symbols-Hash is a digest over the kernel's symbols that the modules need, with their CRCs:
# packages with the same one load on the same kernels. Modaliases is read by ubuntu-drivers.
unknown-field *
"""
_TEMPLATES = ("rules.j2", "copyright.j2", "depmod.conf.j2", "postinst.j2", "postrm.j2", "dkms.conf.j2")


def write_debian(
    facts: PackageFacts,
    destination: Path,
    template_folder: Path | None,
    *,
    sources: DebianSources = AS_IMPORTED,
    claims: Claims = NO_CLAIMS,
    changelog: DebianChangelog | None = None,
) -> None:
    """Write the folder debian/ as `destination`; raise ConfigError if a template is wrong.

    `sources` brings the patches, `claims` the licences and holders of the sources.
    """
    job = facts.job
    templates = Templates("debian-templates", template_folder)
    (destination / "source").mkdir(parents=True)
    write_control(control_paragraphs(facts), destination / "control")
    (destination / "changelog").write_text((changelog or debian_changelog(facts)).text, encoding="utf-8")
    sources.write_patches(destination)
    (destination / "provenance.json").write_text(provenance_text(facts.provenance), encoding="utf-8")
    (destination / "source" / "format").write_text("3.0 (quilt)\n", encoding="utf-8")
    values = {**debian_values(facts), "copyright": copyright_values(facts, claims)}
    for name in ("rules", "copyright", "depmod.conf"):
        (destination / name).write_text(templates.render(f"{name}.j2", values), encoding="utf-8")
    (destination / "rules").chmod(0o755)
    for kernel in job.kernels:
        package = package_names(job)[kernel.uname_r]
        for script in ("postinst", "postrm"):
            text = templates.render(f"{script}.j2", {**values, "package": package, "kernel": kernel.uname_r})
            (destination / f"{package}.{script}").write_text(text, encoding="utf-8")
        (destination / f"{package}.lintian-overrides").write_text(_OVERRIDES, encoding="utf-8")
    if job.project.deb.dkms:
        text = templates.render("dkms.conf.j2", {**values, "limits": dkms_limits(job.project.only)})
        (destination / f"{dkms_name(job)}.dkms").write_text(text, encoding="utf-8")
    if facts.firmware:
        # initramfs-tools makes the image of the newest kernel then, once for all packages.
        trigger = "activate-noawait update-initramfs\n"
        (destination / f"{firmware_name(job)}.triggers").write_text(trigger, encoding="utf-8")


def template_digest(template_folder: Path | None) -> str:
    """Return a digest of the templates that a debian/ folder is made from."""
    return Templates("debian-templates", template_folder).digest(*_TEMPLATES)


def debian_values(facts: PackageFacts) -> dict[str, Any]:
    """Return what the templates are given; texts are as the packager wrote them."""
    job, info = facts.job, facts.job.project.project
    by_arch: dict[str, list[str]] = {}
    for kernel in job.kernels:
        by_arch.setdefault(package_arch(kernel.arch, "deb"), []).append(kernel.uname_r)
    return {
        "project": facts.name,
        "source": source_name(job),
        "maintainer": info.maintainer,
        "url": info.url,
        "repository": facts.provenance.repository,
        "commit": facts.provenance.commit,
        "year": time.gmtime(facts.provenance.commit_epoch).tm_year,
        "kernels": by_arch,
        "packages": package_names(job),
        "kernel_tree": facts.kernel_tree("$*"),
        "module_root": job.distro.module_root,
        "module_dir": facts.module_folder("$*"),
        "modules": facts.modules,
        "module_folder": facts.job.distro.module_folder.format(name=facts.name),
        "override_folder": facts.override_folder,
        "dbgsym": job.project.deb.dbgsym,
        "module_compression": job.distro.module_compression,
        "deb_compression": job.distro.deb_compression,
        **_further_packages(facts),
    }


def _further_packages(facts: PackageFacts) -> dict[str, Any]:
    """Return what the templates say of the packages beside the modules; empty names for those that are not made."""
    job = facts.job
    return {
        "version": job.project.project.version,
        "top_folder": facts.top_folder,
        "dkms": dkms_name(job) if job.project.deb.dkms else "",
        "devel": devel_name(job) if job.project.devel.enabled else "",
        "devel_folder": f"/usr/src/kmods/{facts.name}",
        "firmware": firmware_name(job) if facts.firmware else "",
        "firmware_folder": job.distro.firmware_folder,
        "firmware_version": firmware_version(job) if job.project.firmware.version else "",
    }

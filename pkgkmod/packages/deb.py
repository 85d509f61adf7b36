"""A kmod package in Debian's words: names, versions, dependencies, and the debian/ folder."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pkgkmod.data.arches import package_arch
from pkgkmod.errors import PackageError
from pkgkmod.formats.deb import Change, multiline, write_changelog, write_control
from pkgkmod.model.job import Job
from pkgkmod.model.kernel import Kernel
from pkgkmod.packages.facts import Dependency, PackageFacts
from pkgkmod.templates import Templates

_TEMPLATES = ("rules.j2", "copyright.j2", "depmod.conf.j2", "postinst.j2", "postrm.j2")


def debian_name(text: str) -> str:
    """Return `text` as a part of a package name: lower case, and only what the policy (5.6.1) allows."""
    return re.sub(r"[^a-z0-9+.-]", "-", text.lower())


def source_name(job: Job) -> str:
    """Return the name of the source package: NAME-modules."""
    return debian_name(f"{job.project.project.name}-modules")


def package_names(job: Job) -> dict[str, str]:
    """Return the binary package of each kernel, by its release; PackageError if two were called alike."""
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


def upstream_version(job: Job) -> str:
    """Return the version of the sources; Debian has no `_` in versions."""
    return job.project.project.version.replace("_", ".")


def package_version(job: Job) -> str:
    """Return [EPOCH:]VERSION-RELEASE, with the distribution's suffix."""
    info = job.project.project
    epoch = f"{info.epoch}:" if info.epoch else ""
    return f"{epoch}{upstream_version(job)}-{info.release.replace('_', '.')}{job.distro.version_suffix}"


def archive_name(job: Job) -> str:
    """Return the file name of the source archive, which dpkg-source looks for."""
    return f"{source_name(job)}_{upstream_version(job)}.orig.tar.xz"


def spelled(dependency: Dependency) -> str:
    """Return a dependency as a control file says it."""
    if not dependency.relation:
        return dependency.name
    relation = {"<": "<<", ">": ">>"}.get(dependency.relation, dependency.relation)
    return f"{dependency.name} ({relation} {dependency.version})"


def write_debian(facts: PackageFacts, destination: Path, template_folder: Path | None) -> None:
    """Write the folder debian/ as `destination`; raise ConfigError if a template is wrong."""
    job = facts.job
    templates = Templates("debian-templates", template_folder)
    (destination / "source").mkdir(parents=True)
    write_control(control_paragraphs(facts), destination / "control")
    write_changelog(_changes(facts), destination / "changelog")
    (destination / "source" / "format").write_text("3.0 (quilt)\n", encoding="utf-8")
    values = debian_values(facts)
    for name in ("rules", "copyright", "depmod.conf"):
        (destination / name).write_text(templates.render(f"{name}.j2", values), encoding="utf-8")
    (destination / "rules").chmod(0o755)
    for kernel in job.kernels:
        package = package_names(job)[kernel.uname_r]
        for script in ("postinst", "postrm"):
            text = templates.render(f"{script}.j2", {**values, "package": package, "kernel": kernel.uname_r})
            (destination / f"{package}.{script}").write_text(text, encoding="utf-8")


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
        "license": info.license,
        "gpl2": info.license.startswith("GPL-2.0"),
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
        "override_folder": facts.override_folder,
    }


def control_paragraphs(facts: PackageFacts) -> list[dict[str, str]]:
    """Return the fields of debian/control: the source package, then one package for each kernel."""
    job, info, distro = facts.job, facts.job.project.project, facts.job.distro
    source = {
        "Source": source_name(job),
        "Section": "kernel",
        "Priority": "optional",
        "Maintainer": _literal(info.maintainer),
        "Build-Depends": _listed([*map(_spelled_text, distro.build_requires), *_kernel_trees(job)]),
        "Standards-Version": distro.standards_version,
        "Rules-Requires-Root": "no",
        "Homepage": _literal(info.url.replace(" ", "%20")),
    }
    return [source, *(_package_fields(facts, kernel) for kernel in job.kernels)]


def _package_fields(facts: PackageFacts, kernel: Kernel) -> dict[str, str]:
    needed = facts.job.distro.kernel_requires.format(uname_r=kernel.uname_r)
    about = f"{facts.description}\n\nThe modules in this package are for Linux {kernel.uname_r}."
    return {
        "Package": package_names(facts.job)[kernel.uname_r],
        "Architecture": package_arch(kernel.arch, "deb"),
        "Depends": _listed([needed, "kmod", "${misc:Depends}"]),
        "Provides": f"{source_name(facts.job)} (= ${{binary:Version}})",
        "Description": _literal(multiline(_synopsis(facts, kernel), about)),
    }


def _synopsis(facts: PackageFacts, kernel: Kernel) -> str:
    """Return the first line of a description, with the kernel where that fits (policy 3.4.1: 80 characters)."""
    whole = f"{facts.summary} ({kernel.uname_r})"
    return whole if len(whole) < 80 else facts.summary


def _kernel_trees(job: Job) -> Iterable[str]:
    for kernel in job.kernels:
        needed = job.distro.kernel_build_requires.format(uname_r=kernel.uname_r)
        yield f"{_spelled_text(needed)} [{package_arch(kernel.arch, 'deb')}]"


def _literal(text: str) -> str:
    """Return `text` so that dpkg-gencontrol puts no variables into it (deb-substvars(5))."""
    return text.replace("${", "${}{")


def _spelled_text(text: str) -> str:
    return spelled(Dependency.parse(text))


def _listed(items: Iterable[str]) -> str:
    """Return a list of packages, one a line."""
    return ",\n ".join(items)


def _changes(facts: PackageFacts) -> list[Change]:
    job = facts.job
    return [
        Change(source_name(job), entry.version, job.distro.codename, entry.author, entry.time, entry.lines)
        for entry in facts.changelog(package_version(job))
    ]

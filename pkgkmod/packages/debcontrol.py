"""debian/control of a kmod package: the source package, and one paragraph for each binary package."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable

from pkgkmod.data.arches import package_arch
from pkgkmod.errors import PackageError
from pkgkmod.formats.deb import multiline
from pkgkmod.model.job import Job
from pkgkmod.model.kernel import Kernel
from pkgkmod.packages.debnames import (
    MetaPackage,
    devel_name,
    dkms_name,
    firmware_name,
    firmware_version,
    meta_packages,
    package_names,
    packaged_version,
    required_devel,
    required_modules,
    source_name,
    spelled,
)
from pkgkmod.packages.facts import Dependency, PackageFacts

Fields = dict[str, str]

_MISC = "${misc:Depends}"
_VERSION = "(= ${binary:Version})"


def control_paragraphs(facts: PackageFacts) -> list[Fields]:
    """Return the fields of debian/control; raise PackageError if two packages were called alike."""
    job = facts.job
    packages = [_modules(facts, kernel) for kernel in job.kernels]
    packages += [_meta(facts, meta) for meta in meta_packages(job)]
    if job.project.deb.dkms:
        packages.append(_dkms(facts))
    if job.project.devel.enabled:
        packages.append(_devel(facts))
    if facts.firmware:
        packages.append(_firmware(facts))
    twice = [name for name, count in Counter(fields["Package"] for fields in packages).items() if count > 1]
    if twice:
        raise PackageError(
            f"two packages would be called {twice[0]}",
            details="a meta package has the kernel's flavour in its name, in place of its release",
            hint="leave the meta packages out with `meta = false` in [deb]",
        )
    return [_source(facts), *packages]


def _source(facts: PackageFacts) -> Fields:
    job, info, distro = facts.job, facts.job.project.project, facts.job.distro
    needed = [*map(_spelled_text, distro.build_requires), *(["dh-sequence-dkms"] if job.project.deb.dkms else [])]
    # What depends on the machine is needed for these packages only: `dpkg-buildpackage -A` does without.
    for_modules = [*_kernel_trees(job), *_required_to_build(job), "python3:any"]
    return {
        "Source": source_name(job),
        "Section": "kernel",
        "Priority": "optional",
        "Maintainer": _literal(info.maintainer),
        "Build-Depends": _listed(needed),
        "Build-Depends-Arch": _listed(for_modules),
        "Standards-Version": distro.standards_version,
        "Rules-Requires-Root": "no",
        "Homepage": _literal(info.url.replace(" ", "%20")),
    }


def _modules(facts: PackageFacts, kernel: Kernel) -> Fields:
    job = facts.job
    needed = [job.distro.kernel_requires.format(uname_r=kernel.uname_r), "kmod"]
    if facts.firmware:
        needed.append(f"{firmware_name(job)} (>= {firmware_version(job)})")
    needed += [required_modules(one, kernel.uname_r) for one in job.project.requires]
    about = f"The modules in this package are for Linux {kernel.uname_r}."
    return {
        "Package": package_names(job)[kernel.uname_r],
        "Architecture": package_arch(kernel.arch, "deb"),
        "Depends": _listed([*needed, _MISC]),
        "Provides": _provided(facts),
        # dpkg-deb keeps fields of our own only where they are asked for by X and B (deb-src-control(5)).
        "XB-Modaliases": "${pkgkmod:Modaliases}",
        "XB-Kmod-Symbols-Hash": "${pkgkmod:Symbols-Hash}",
        "Description": _description(facts, f" ({kernel.uname_r})", about),
    }


def _meta(facts: PackageFacts, meta: MetaPackage) -> Fields:
    job = facts.job
    several = len(meta.newest) > 1
    needed = [
        f"{package_names(job)[kernel.uname_r]} {_VERSION}{f' [{arch}]' if several else ''}"
        for arch, kernel in meta.newest.items()
    ]
    about = (
        f"This meta package depends on the modules for the newest kernel that there are modules for, as "
        f"{meta.kernel_meta} does on the kernel, so that an upgrade brings both."
    )
    fields = {
        "Package": meta.name,
        "Architecture": " ".join(meta.newest),
        "Depends": _listed([*needed, _MISC]),
        "Recommends": meta.kernel_meta,
    }
    held = _held(meta) if job.project.deb.hold_kernel else ""
    if held:
        fields["Breaks"] = held
    more = f" (meta package for {meta.name.removeprefix(source_name(job) + '-')})"
    return {**fields, "Description": _description(facts, more, about)}


def _held(meta: MetaPackage) -> str:
    """Return what keeps a newer kernel back; empty if the version of the kernel's packages is not known."""
    versions = {arch: version for arch, kernel in meta.newest.items() if (version := packaged_version(kernel))}
    several = len(meta.newest) > 1
    return _listed(
        f"{meta.kernel_meta} (>> {version}){f' [{arch}]' if several else ''}" for arch, version in versions.items()
    )


def _dkms(facts: PackageFacts) -> Fields:
    about = (
        "This package has the sources: dkms builds modules of them on the machine itself, for kernels that no "
        f"package {source_name(facts.job)}-* has modules for."
    )
    return {
        "Package": dkms_name(facts.job),
        "Architecture": "all",
        # Patches for some kernels only are applied when the modules are built.
        "Depends": _listed(["kmod", "make", "patch", _MISC]),
        "Provides": _provided(facts),
        "Description": _description(facts, " (dkms)", about),
    }


def _devel(facts: PackageFacts) -> Fields:
    about = (
        "This package has what other drivers need to build on this one: its headers, and Module.symvers for each "
        "kernel."
    )
    return {
        "Package": devel_name(facts.job),
        "Architecture": _arches(facts.job),
        "Depends": _MISC,
        "Description": _description(facts, " (development)", about),
    }


def _firmware(facts: PackageFacts) -> Fields:
    about = "This package has the firmware that the driver loads into its devices."
    return {
        "Package": firmware_name(facts.job),
        "Architecture": "all",
        "Depends": _MISC,
        "Description": _description(facts, " (firmware)", about),
    }


def _provided(facts: PackageFacts) -> str:
    """Return what prebuilt modules and dkms' have in common: programs may depend on it."""
    modules = source_name(facts.job)
    return _listed([f"{modules} {_VERSION}", f"{modules.removesuffix('-modules')}-kmod {_VERSION}"])


def _arches(job: Job) -> str:
    return " ".join(dict.fromkeys(package_arch(kernel.arch, "deb") for kernel in job.kernels))


def _description(facts: PackageFacts, more: str, about: str) -> str:
    text = textwrap.fill(about, 78, break_long_words=False, break_on_hyphens=False)
    return _literal(multiline(_synopsis(facts, more), f"{facts.description}\n\n{text}"))


def _synopsis(facts: PackageFacts, more: str) -> str:
    """Return the first line of a description, with `more` where that fits (policy 3.4.1: 80 characters)."""
    whole = f"{facts.summary}{more}"
    return whole if len(whole) < 80 else facts.summary


def _kernel_trees(job: Job) -> Iterable[str]:
    for kernel in job.kernels:
        needed = job.distro.kernel_build_requires.format(uname_r=kernel.uname_r)
        yield f"{_spelled_text(needed)} [{package_arch(kernel.arch, 'deb')}]"


def _required_to_build(job: Job) -> Iterable[str]:
    """Return the development packages of the drivers that this one builds on; most have all kernels in one."""
    found = [required_devel(one, kernel.uname_r) for one in job.project.requires for kernel in job.kernels]
    return dict.fromkeys(found)


def _literal(text: str) -> str:
    """Return `text` so that dpkg-gencontrol puts no variables into it (deb-substvars(5))."""
    return text.replace("${", "${}{")


def _spelled_text(text: str) -> str:
    return spelled(Dependency.parse(text))


def _listed(items: Iterable[str]) -> str:
    """Return a list of packages, one a line."""
    return ",\n ".join(items)

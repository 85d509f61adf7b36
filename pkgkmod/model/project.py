"""The project: what the packager wrote, validated and frozen.

These models are the reference of the project file: the JSON Schema, the documentation's table of keys
and the messages about mistakes are all made from them.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from pkgkmod.model.check import Check
from pkgkmod.model.fields import (
    ArchiveContent,
    CheckLevel,
    KernelChoice,
    Line,
    ModuleName,
    Name,
    OptionName,
    RelativePath,
    ReleaseText,
    Section,
    Text,
    VersionText,
)
from pkgkmod.model.only import KernelPattern, Only
from pkgkmod.model.packaging import Deb, Devel, Disk, Firmware, Mock, Rpm, Sbom, Signing
from pkgkmod.model.probes import Probe, ProbeName
from pkgkmod.model.requires import Requirement, derived_order


class ProjectInfo(Section):
    """Who and what: the texts that every package carries."""

    name: Name = Field(description="Name of the driver package, as in kmod-NAME.", examples=["e1000e"])
    version: VersionText = Field("1.0", description="Version of the packages.")
    release: ReleaseText = Field("1", description="Release of the packages; raise it when only the packaging changes.")
    epoch: int = Field(0, ge=0, description="Epoch of the packages; 0 is none.")
    vendor: Name | None = Field(None, description="Vendor, as in kmod-VENDOR-NAME; none leaves it out.")
    summary: Line = Field("", description="One line that says what the driver is; made from the name if empty.")
    description: Text = Field("", description="A paragraph that says more; the summary if empty.")
    license: Line = Field("GPL-2.0-only", description="Licence of the sources, as an SPDX expression.")
    maintainer: Line = Field(
        "Nobody <nobody@localhost>", description="Who packages it: `Name <mail address>`, for changelogs."
    )
    url: Line = Field("", description="Home page of the driver.")

    @field_validator("maintainer")
    @classmethod
    def _maintainer(cls, value: str) -> str:
        if not re.fullmatch(r"[^<>]+ <[^<>@\s]+@[^<>\s]+>", value):
            raise ValueError(f"must be of the form 'Name <name@example.org>' (given: {value!r})")
        return value


class Source(Section):
    """Where the sources come from."""

    repository: Line | None = Field(
        None,
        description="Git repository of the kernel: a folder, or a file://, https://, ssh:// or git:// URL.",
    )
    revision: Line | None = Field(
        None, description="Commit, tag or branch; `prepare_sources` writes the full commit id."
    )
    directories: tuple[RelativePath, ...] = Field(
        (), description="Folders and single files to import, by their path in the kernel tree."
    )
    follow_includes: bool = Field(
        False, description="Import also what sources and Makefiles use outside the directories."
    )
    low_bandwidth: bool = Field(False, description="Fetch fewer bytes in more requests (remote repositories).")
    patches: Line | tuple[Line, ...] = Field(
        "patches", description="Folder of patches, or a list of folders, beside the project file; it may be absent."
    )
    quilt: bool = Field(
        True, description="Take patches in the order of the `series` file; otherwise all *.patch, by name."
    )

    @property
    def patch_folders(self) -> tuple[str, ...]:
        """Folders of patches, in order."""
        return (self.patches,) if isinstance(self.patches, str) else self.patches

    check: CheckLevel = Field(
        "warn", description="What to do when the imported files were edited: nothing (off), warn, or fail."
    )
    archive: ArchiveContent = Field(
        "default",
        description="What of the tree goes into the source archive: default (no dot files), all, or kbuild "
        "(only Kbuild, Kconfig, Makefile, *.c and *.h).",
    )


class ModuleEntry(Section):
    """A module to build; without any, all that the imported Makefiles define."""

    name: ModuleName = Field(description="Name of the module, without .ko.", examples=["e1000e"])
    directory: RelativePath | None = Field(
        None, description="Folder whose Makefile builds it; found by itself when only one does."
    )
    requires: tuple[Line, ...] = Field(
        (),
        description="What it builds on: names of other modules of the project, and of drivers in [[requires]]. Their "
        "headers are found before the kernel's own by the modules in this one's folder.",
        examples=[["foo"]],
    )
    headers: RelativePath | None = Field(
        None,
        description="Folder, in the module's own, with headers for itself and the modules that require it; `include` "
        "if absent.",
    )
    built: RelativePath | None = Field(
        None,
        description="File that `build.make` makes it as, by its path below the folder where that runs; NAME.ko if "
        "absent.",
        examples=["src/e1000e.ko"],
    )
    kernels: tuple[KernelPattern, ...] = Field(
        (), description="Kernels that it is for, if not all: releases or patterns with * and ?; `!PATTERN` leaves out."
    )


class Build(Section):
    """How the modules are compiled."""

    make: Text = Field(
        "",
        description="Commands for a shell that compile the modules, for drivers with a make of their own; kbuild is "
        "called by itself if empty. They run in the sandbox, in the first of `source.directories`, with $KERNEL, "
        "$KERNEL_TREE (its build tree) and $SOURCES (the folder). Makes that they start get the compiler and its flags "
        "from pkgkmod. Each module needs a [[module]] table.",
        examples=["make -C src KVER=$KERNEL KDIR=$KERNEL_TREE"],
    )
    from_source: bool = Field(
        False,
        description="Compile inside rpmbuild and dpkg-buildpackage, as a build farm does, instead of once.",
    )
    sandbox: bool = Field(True, description="Compile without network, in a read-only root, as an unprivileged user.")
    jobs: int = Field(
        0, ge=0, description="Parallel jobs of all programs together; 0: one a processor, as memory allows."
    )
    extra_cflags: Line = Field("", description="Further flags for the C compiler.")
    any_compiler: bool = Field(
        False, description="Accept a compiler of another major version than the kernel's, with a warning."
    )
    roots: bool = Field(
        True,
        description="Make a build root of a kernel's suite (mmdebstrap) where this machine has not its compiler, or "
        "cannot run the programs in its header packages.",
    )
    reuse: bool = Field(
        True, description="Take results that any project made of the same inputs before, from the user's cache."
    )
    ccache: bool = Field(False, description="Compile through ccache, where it is installed.")
    time_limit: int = Field(3600, gt=0, description="Seconds that one program may run.")


class Target(Section):
    """A distribution release and the kernels to build for."""

    distro: Name = Field(description="Distribution release; `pkgkmod distros` lists them.", examples=["debian12"])
    kernels: tuple[KernelChoice, ...] = Field(
        ("newest",),
        min_length=1,
        description="Kernel releases (`uname -r`), patterns with * and ?, `all`, `newest`, or `newest N per flavour` "
        "(also `per series`, and `of PATTERN` behind it); `!PATTERN` leaves kernels out.",
    )
    revision: Line | None = Field(
        None, description="Commit, tag or branch for this target, in place of `source.revision`."
    )
    patches: Line | None = Field(
        None, description="Folder of further patches for this target, applied after those of `source.patches`."
    )
    version: VersionText | None = Field(None, description="Version of this target's packages, for sources of its own.")
    minor: int | None = Field(None, ge=0, description="Minor release, as in .el9_4; none leaves it out.")
    name: Name | None = Field(
        None, description="Name of the target in plans and results; the distribution's if absent."
    )

    @property
    def id(self) -> str:
        """Name of the target in plans, results and messages."""
        return self.name or self.distro

    @property
    def has_own_sources(self) -> bool:
        """Tell whether other sources than the project's are built for it."""
        return any(own is not None for own in (self.revision, self.patches, self.version))

    @property
    def source_label(self) -> str:
        """Name of its sources in plans and results, the same for all targets that share them; `_`: the project's."""
        text = "+".join(part for part in (self.revision, self.patches, self.version) if part)
        plain = re.sub(r"[^A-Za-z0-9._+-]", "-", re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28}\b", r"\1", text))[:40]
        if plain.strip(".") == text or not text:
            return text or "_"
        return f"{plain.strip('.')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


class Publish(Section):
    """Repositories of finished packages, as `pkgkmod publish` makes them; [signing] names the key."""

    origin: Line = Field(
        "", description="Who publishes, for pinning in apt; the vendor, or the project's name, if empty."
    )
    label: Line = Field("", description="What is published; the project's name if empty.")
    component: Name = Field("main", description="Component of the apt repository.")
    url: Line = Field(
        "", description="Address at which users reach the folder; otherwise the folder itself is named as file://."
    )
    keep: int = Field(0, ge=0, description="Newest versions of each package that stay; 0 keeps all.")


class Project(Section):
    """The whole project file."""

    project: ProjectInfo
    source: Source = Source()
    module: tuple[ModuleEntry, ...] = Field((), description="Modules to build, one table each.")
    requires: tuple[Requirement, ...] = Field(
        (),
        description="Drivers in other packages that modules build on, one table each. All modules find their headers, "
        "unless some `[[module]]` names the driver in `requires`: then only those do.",
    )
    kconfig: dict[OptionName, bool | int | Line] = Field(
        default_factory=dict,
        description="Kernel options of the sources, without CONFIG_: true or 'y', 'm', false or 'n', a number, text.",
    )
    probe: dict[ProbeName, Probe] = Field(
        default_factory=dict,
        description="Questions to each kernel, one table `[probe.NAME]` each: the macro NAME is defined in "
        "`<compat/config.h>` where the answer is yes.",
    )
    build: Build = Build()
    only: Only = Only()
    target: tuple[Target, ...] = Field((), description="What to build for, one table each.")
    rpm: Rpm = Rpm()
    mock: Mock = Mock()
    deb: Deb = Deb()
    firmware: Firmware = Firmware()
    devel: Devel = Devel()
    disk: Disk = Disk()
    plugin: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Settings of plugins, one table each; the plugin validates its own."
    )
    signing: Signing = Signing()
    publish: Publish = Publish()
    check: Check = Check()
    sbom: Sbom = Sbom()

    def for_target(self, target: Target) -> Project:
        """Return the project with the sources that are built for a target."""
        if not target.has_own_sources:
            return self
        more = (target.patches,) if target.patches else ()
        changes = {
            "revision": target.revision or self.source.revision,
            "patches": (*self.source.patch_folders, *more),
        }
        version = {"version": target.version or self.project.version}
        return self.model_copy(
            update={
                "source": self.source.model_copy(update=changes),
                "project": self.project.model_copy(update=version),
            }
        )

    @field_validator("target")
    @classmethod
    def _targets(cls, value: tuple[Target, ...]) -> tuple[Target, ...]:
        if twice := _twice(target.id for target in value):
            raise ValueError(f"two targets are called '{twice}'; give one a name of its own")
        return value

    @field_validator("module")
    @classmethod
    def _modules(cls, value: tuple[ModuleEntry, ...]) -> tuple[ModuleEntry, ...]:
        if twice := _twice(kernel_name(module.name) for module in value):
            raise ValueError(f"'{twice}' is there twice ('-' and '_' are the same to the kernel)")
        try:
            derived_order({kernel_name(one.name): [kernel_name(name) for name in one.requires] for one in value})
        except ValueError as circle:
            raise ValueError(f"modules cannot require each other in a circle: {circle}") from None
        return value

    @field_validator("rpm", "deb")
    @classmethod
    def _built_elsewhere(cls, value: Rpm | Deb, info: ValidationInfo) -> Rpm | Deb:
        on = [key for key in ("akmod", "dkms") if getattr(value, key, False)]
        if on and info.data.get("requires"):
            raise ValueError(
                f"{' and '.join(on)} cannot be made of a project with [[requires]]: for kernels that were not foreseen "
                "there are no symbols of the other driver to build on"
            )
        return value


def kernel_name(module: str) -> str:
    """Return a module's name as the kernel knows it."""
    return module.replace("-", "_")


def _twice(names: Iterable[str]) -> str:
    """Return the first name that is there more than once; empty if there is none."""
    counts = Counter(names)
    return next((name for name, count in counts.items() if count > 1), "")

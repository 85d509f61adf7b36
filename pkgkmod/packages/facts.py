"""What a kmod package says, in neutral terms; rpm.py and deb.py spell it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, cast

from pkgkmod.model.artifacts import Provenance
from pkgkmod.model.job import Job

Relation = Literal["", "<", "<=", "=", ">=", ">"]

_DEPENDENCY = re.compile(r"(?P<name>\S+)(?: (?P<relation><|<=|=|>=|>) (?P<version>\S+))?")


@dataclass(frozen=True)
class Dependency:
    """A package or capability, in any version or in some."""

    name: str
    relation: Relation = ""
    version: str = ""

    @classmethod
    def parse(cls, text: str) -> Dependency:
        """Read `NAME` or `NAME RELATION VERSION`; raise ValueError if it is neither."""
        found = _DEPENDENCY.fullmatch(text.strip())
        if not found:
            raise ValueError(f"not a dependency: {text!r}")
        return cls(found["name"], cast(Relation, found["relation"] or ""), found["version"] or "")


@dataclass(frozen=True)
class ChangelogEntry:
    """One version in a package's changelog."""

    author: str
    """`Name <mail address>`."""
    time: int
    """Seconds since 1970."""
    version: str
    """The package's version as its format spells it."""
    lines: tuple[str, ...]


@dataclass(frozen=True)
class PackageFacts:
    """Everything that goes into a recipe: the job, its modules, and where the sources are from."""

    job: Job
    modules: tuple[str, ...]
    """Names of the modules as their files are spelled, without `.ko`."""
    provenance: Provenance
    firmware: tuple[str, ...] = ()
    """Paths of the firmware files below the distribution's folder of firmware."""

    @property
    def name(self) -> str:
        """Name of the project."""
        return self.job.project.project.name

    @property
    def summary(self) -> str:
        """One line that says what the driver is."""
        return self.job.project.project.summary or f"Kernel modules of the {self.name} driver"

    @property
    def description(self) -> str:
        """What the driver is, in a paragraph or several."""
        return self.job.project.project.description or f"{self.summary}."

    @property
    def firmware_folders(self) -> tuple[str, ...]:
        """Folders of the firmware files, in the same form."""
        above = {str(parent) for path in self.firmware for parent in PurePosixPath(path).parents}
        return tuple(sorted(above - {"."}))

    @property
    def top_folder(self) -> str:
        """The only folder at the top of the source archive."""
        return f"{self.name}-{self.job.project.project.version}"

    @property
    def override_folder(self) -> str:
        """Folder below the kernel's modules that depmod is told to prefer."""
        return self.job.distro.override_folder.format(name=self.name)

    def module_folder(self, uname_r: str) -> str:
        """Return the folder where the modules for a kernel are installed."""
        distro = self.job.distro
        return f"{distro.module_root}/{uname_r}/{distro.module_folder.format(name=self.name)}"

    def kernel_tree(self, uname_r: str) -> str:
        """Return where the distribution installs the build tree of a kernel."""
        return self.job.distro.kernel_tree.format(uname_r=uname_r)

    def changelog(self, version: str) -> tuple[ChangelogEntry, ...]:
        """Return the changelog of a package: what was imported, and what was changed in it."""
        origin = self.provenance
        known_as = f" ({origin.describe})" if origin.describe and origin.describe != origin.commit else ""
        paths = ", ".join(imported.path for imported in origin.directories)
        lines = [f"Import {paths} at commit {origin.commit}{known_as}."]
        lines += [f"Apply {patch.name}." for patch in origin.patches]
        author = self.job.project.project.maintainer
        return (ChangelogEntry(author, origin.commit_epoch, version, tuple(lines)),)

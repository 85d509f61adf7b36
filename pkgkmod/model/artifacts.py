"""What the stages make and hand on: frozen, saved as JSON beside the files they describe.

Paths are relative to the result's folder, so that a workspace can be moved.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

PackageFormat = Literal["rpm", "deb"]


class Artifact(BaseModel):
    """Base of all that a stage can make."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ImportedPath(Artifact):
    """A folder or file that was imported, with the git object id it had."""

    path: str
    object_id: str
    kind: Literal["tree", "blob"]
    followed: bool = False
    """Imported because another file reaches for it, not because the project names it."""


class AppliedPatch(Artifact):
    """A patch, by file name and digest of its content."""

    name: str
    sha256: str
    kernels: tuple[str, ...] = ()
    """Patterns of the kernels that it is applied for, when their modules are built; none means all."""


class Provenance(Artifact):
    """Where the sources are from; saved in the source tree as `provenance.json`, and so in every source package."""

    repository: str
    commit: str
    author_date: str
    """ISO 8601, with zone."""
    commit_epoch: int
    """Seconds since 1970 of the committer's date: SOURCE_DATE_EPOCH of all that is built."""
    describe: str
    subject: str
    directories: tuple[ImportedPath, ...]
    patches: tuple[AppliedPatch, ...] = ()


class SourceTree(Artifact):
    """Imported and patched sources. Files lie under `tree/`, with their paths of the kernel tree."""

    provenance: Provenance
    tree: str = "tree"


class BuiltModule(Artifact):
    """A compiled module: its name and file."""

    name: str
    file: str
    size: int


class ModuleSet(Artifact):
    """The modules of one kernel, with symbols exported (`symvers`) and build log."""

    uname_r: str
    arch: str
    compiler: str
    modules: tuple[BuiltModule, ...]
    symvers: str


class Recipe(Artifact):
    """A source package's makings: a spec or a debian/ folder, and the source archive."""

    format: PackageFormat
    name: str
    """Source package name."""
    version: str
    """Full version in the format's spelling: V-R for RPM, [E:]V-R for DEB."""
    spec: str | None = None
    """Spec file (RPM)."""
    debian: str | None = None
    """Folder debian/ (DEB)."""
    archive: str
    more_sources: tuple[str, ...] = ()
    """Further source files of the spec (RPM)."""
    kernels: tuple[str, ...]
    source_date_epoch: int


class Package(Artifact):
    """One finished package file."""

    file: str
    name: str
    version: str
    arch: str
    kind: Literal["source", "binary", "debuginfo", "metadata"]
    size: int


class PackageSet(Artifact):
    """The packages of one job."""

    format: PackageFormat
    packages: tuple[Package, ...]
    kernels: tuple[str, ...]
    source_date_epoch: int


class SignedSet(PackageSet):
    """The packages of one job, signed: what was asked for was verified in these very files."""

    modules: int
    """Number of modules that are signed; 0 if only the packages are."""
    certificate: str = ""
    """SHA-256 of the file of the certificate that the modules were verified with."""
    package_key: str = ""
    """Fingerprint of the GPG key that signed the packages."""


class DiskImage(Artifact):
    """One file that carries a driver disk."""

    file: str
    carrier: str
    """iso, usb, initrd or dud."""
    size: int


class DriverDisk(Artifact):
    """A driver disk, as one image or several."""

    name: str
    """What the images are called; their endings follow."""
    images: tuple[DiskImage, ...]
    label: str
    packages: tuple[str, ...]
    kernels: tuple[str, ...]
    readme: str
    """File that says what to tell the installers; it is on the disk, too."""


class BillOfMaterials(Artifact):
    """What the packages of one job are made of, as a document for programs."""

    format: Literal["cyclonedx"]
    file: str
    serial: str
    """Serial number, made of the content."""
    components: int
    """Number of packages, modules, firmware files, kernels and drivers in it."""

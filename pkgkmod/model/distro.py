"""Distributions: what their packages and installers expect, read from `data/distros/*.toml`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from pkgkmod.model.fields import Compression

Grouping = Literal["base", "per-flavour", "all"]


class Distro(BaseModel):
    """A distribution release."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    """Name of the data file, used in `target.distro`."""
    title: str
    family: Literal["redhat", "fedora", "suse", "debian", "ubuntu"]
    format: Literal["rpm", "deb"]
    purl_vendor: str
    """Namespace of the distribution's own packages in package URLs (purl-spec, types rpm and deb)."""
    purl_distro: str
    """The release in package URLs, as syft and trivy spell it: ID-VERSION_ID of os-release(5)."""
    grouping: Grouping
    """How kernels are put into jobs: a job each (`base`), one for all flavours of a version (`per-flavour`), or one for
    `all`."""
    module_root: str
    """Folder of the kernels' modules: /lib/modules or /usr/lib/modules."""
    module_folder: str
    """Folder below MODULE_ROOT/UNAME_R; `{name}` is the project's name."""
    override_folder: str
    """Folder, in the same form, that depmod is told to prefer (depmod.d(5), `override`)."""
    kernel_tree: str
    """Where the distribution installs a kernel's build tree; `{uname_r}` is the release, `{base}` that without the
    flavour, `{flavour}` the flavour, and `{arch}` the machine."""
    version_suffix: str = ""
    """Put behind the release (RPM: `.el9`) or the revision (DEB: `~deb12`)."""
    codename: str = ""
    """Name that changelogs and archives use for the release (DEB)."""
    archives: tuple[str, ...] = ()
    """The release with its updates, in lines of sources.list(5), for clean roots (DEB)."""
    standards_version: str = ""
    """Version of the Debian policy that the release's packages follow (DEB)."""
    spec_template: str = ""
    """Template of the spec (RPM)."""
    source_package: str = ""
    """Name of the source package (RPM); `{driver}` is NAME, or VENDOR-NAME."""
    payload: str = ""
    """Compression of RPM payloads, as rpm's `%_binary_payload` spells it."""
    module_compression: Compression = "none"
    """Compression of the modules: what the distribution's depmod, installer and weak-modules all read."""
    deb_compression: Literal["xz", "zstd", "gzip"] = "xz"
    """Compression of the packages, as dpkg-deb's -Z spells it, whichever machine they are made on (DEB)."""
    firmware_folder: str = "/lib/firmware/updates"
    """Where firmware is installed, so that it is found first and is in nobody's way."""
    dependency_style: str = ""
    """Spelling of the generated dependencies, as pkgkmod-deps knows it, where rpm has no generator for them (RPM)."""
    akmods: bool = False
    """Whether akmods is packaged for the distribution (RPM)."""
    installers: dict[str, tuple[str, ...]] = {}
    """Layouts of driver disks that the distribution's installers read, with their names for this release: a folder's
    name (rhdd3), tags (dud, agama: the first is a folder, the others links to it), a codename (ubuntu)."""
    installer_kernels: dict[str, str] = {}
    """Kernels of the installers as they were released: `uname -r` without the machine, by release (9.4)."""
    installer_modules: dict[str, str] = {}
    """Compressions of modules that the installers read on a driver disk, with the first release whose installer does;
    `none` is read by all. Nothing is said of them if it is empty."""
    installer_payloads: tuple[str, ...] = ()
    """Compressions of RPM payloads that the installers read on a driver disk; all if it is empty."""
    kernel_names: str = ""
    """Regular expression that finds what is only in the names (uname -r) of the release's kernels, where these do not
    hold its `version_suffix`; other releases may have kernels of such names, too."""
    build_requires: tuple[str, ...] = ()
    """Build dependencies besides the kernel's build tree: `NAME` or `NAME RELATION VERSION`."""
    kernel_build_requires: str
    """Build dependency on a kernel's build tree, in the same form; `{uname_r}` is the release."""
    kernel_series: str = ""
    """First two numbers of the version of the release's own kernels (DEB): `6.1`."""
    kernel_meta: str = ""
    """The distribution's package that brings the newest of its own kernels of a flavour (DEB), with `{flavour}`."""
    other_kernel_meta: str = ""
    """The same for kernels of another series, with `{series}`; empty: there is none."""
    kernel_requires: str = ""
    """Run-time dependency on a kernel, in the same form; alternatives with ` | ` (DEB: RPM's are in the template)."""

    def __hash__(self) -> int:
        """There is one of each name."""
        return hash(self.id)

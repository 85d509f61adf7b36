"""The parts of the project file that say how packages and disks are made, and how they are signed."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pkgkmod.model.fields import (
    PAYLOAD,
    CheckLevel,
    Compression,
    HashName,
    Line,
    Name,
    Section,
    VersionText,
    matching,
)

# In neither of these a macro, nor a line of its own, can begin.
_DEPENDENCY = matching(
    re.compile(r"[A-Za-z0-9(/_][A-Za-z0-9 ._+:~^/()<>=,-]*"),
    "must be a dependency as rpm writes them: a name, NAME >= VERSION, or (A if B)",
)


class Rpm(Section):
    """How RPMs are made."""

    builder: Name = Field("local", description="Builder that makes them: local or mock, or a plugin's.")
    srpm_only: bool = Field(False, description="Make the source RPM only.")
    kernel_requires: Literal["release", "exact", "symbols"] = Field(
        "release",
        description="Kernels that a package for Red Hat's family asks for: those of the same release (a release serves "
        "its updates, an update itself), exactly the one it was built for, or any with the same symbols. On SUSE, "
        "release and symbols are the same.",
    )
    installer_kernels: Literal["same", "later"] = Field(
        "same",
        description="Installers that take the package from a driver disk: those with the same kernel, or with a later "
        "one, too (of the next major release, too, whose installation then fails: give each a disk of its own).",
    )
    requires: tuple[Annotated[str, _DEPENDENCY], ...] = Field(
        (),
        description="What the packages of modules need besides what is found out: names, `NAME >= VERSION`, or rpm's "
        "conditions in brackets.",
        examples=[["linux-firmware", "(dracut >= 049 if kernel)"]],
    )
    build_requires: tuple[Annotated[str, _DEPENDENCY], ...] = Field(
        (), description="What is needed to build them, besides the distribution's own list, in the same form."
    )
    stable_list: Line | None = Field(
        None,
        description="kABI stable list beside the project file; otherwise that of the build machine, if it has one. "
        "Symbols outside of it go into the package's greylist.txt.",
    )
    module_compression: Compression | None = Field(
        None, description="Compression of the modules: none, gz, xz or zst; the distribution's if absent."
    )
    payload: Annotated[str, matching(PAYLOAD, "must be like w2.xzdio, w9.gzdio or w19.zstdio")] | None = Field(
        None, description="Compression of the packages, as rpm's %_binary_payload; the distribution's if absent."
    )
    debuginfo: bool = Field(False, description="Make a package with the modules' debug information.")
    akmod: bool = Field(
        False, description="Make akmod-NAME, too: the source package, for akmods to build on the machine itself."
    )
    dkms: bool = Field(False, description="Make NAME-dkms, too: the sources, for dkms to build on the machine itself.")
    templates: Line | None = Field(
        None, description="Folder with spec templates that take the place of the built-in ones."
    )


_ADDRESS = matching(
    re.compile(r"(?:https?|ftp)://[!-z|~]+|file:///[!-z|~]+"),
    "must be an address that starts with https://, http://, ftp:// or file:///, without spaces and braces",
)
_REPOSITORY = matching(re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"), "must hold only letters, digits and ._-")
_MACRO = matching(re.compile(r"%?[A-Za-z_][A-Za-z0-9_]*"), "must be the name of a macro")
_USER = matching(re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*"), "must be the name of a user")


class MockRepository(Section):
    """An entry of `mock.repositories`: further packages for the root."""

    baseurl: Annotated[str, _ADDRESS] = Field(
        description="The folder that holds repodata/; $basearch and $releasever are mock's."
    )
    name: Annotated[str, _REPOSITORY] | None = Field(None, description="Name in mock's logs.")
    gpgkey: Line | None = Field(
        None, description="Key that its packages are signed with: a file, or an address; without, they are not checked."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_address(cls, value: object) -> object:
        return {"baseurl": value} if isinstance(value, str) else value


class Mock(Section):
    """Settings of the builder `mock`."""

    config: Line | dict[Name, Line] | None = Field(
        None,
        description="Mock's configuration, as for its -r: the name of one in ~/.config/mock or /etc/mock, or a file "
        "whose name ends with .cfg, beside the project file; or a table of these, by target. `default` if absent.",
        examples=["rocky-9-x86_64"],
    )
    offline: bool = Field(False, description="Do not let mock use the network.")
    bootstrap: bool | None = Field(
        None,
        description="Whether mock makes the root with a package manager of the distribution, in a root of its own; as "
        "mock's configuration says if absent.",
    )
    repositories: tuple[MockRepository, ...] = Field(
        (),
        description="Further repositories of packages for the root: addresses, or tables with `baseurl`, `name` and "
        "`gpgkey` (a file beside the project file, or an address; without one, packages are not checked).",
        examples=[["https://repo.example.org/el9/x86_64/"]],
    )
    macros: dict[Annotated[str, _MACRO], Line] | None = Field(
        None,
        description="Macros of rpm in the root, by their names.",
        examples=[{"dist": ".el9_4"}],
    )
    user: Annotated[str, _USER] | None = Field(
        None, description="Who runs mock where pkgkmod runs as root; mock itself refuses to."
    )
    options: tuple[Line, ...] = Field((), description="Further options for mock.")
    more_options: tuple[Line, ...] = Field((), description="Options on top of these, for a single run.")


class Deb(Section):
    """How DEBs are made."""

    builder: Name = Field("local", description="Builder that makes them: local or sbuild, or a plugin's.")
    meta: bool = Field(
        True,
        description="Make a package for each flavour of kernel that depends on the modules of its newest kernel, so "
        "that an upgrade brings kernel and modules together.",
    )
    hold_kernel: bool = Field(
        False,
        description="Let these packages keep back a newer kernel until there are modules for it, though it may mend "
        "security holes. Known of kernels that come from an archive.",
    )
    dkms: bool = Field(
        False,
        description="Make NAME-dkms, too: the sources, for dkms to build on the machine itself for kernels that no "
        "package has modules for.",
    )
    dbgsym: bool = Field(False, description="Make packages with the modules' debug information (-dbgsym).")
    changelog: Line = Field(
        "debian/changelog",
        description="Changelog beside the project file, with the versions of the package until now; it may be absent. "
        "A version that it does not have gets an entry: what was imported, and the commits since the version before.",
    )
    update_changelog: bool = Field(False, description="Write that entry into the changelog, too.")
    templates: Line | None = Field(
        None, description="Folder with Debian templates that take the place of the built-in ones."
    )


class Firmware(Section):
    """Firmware files that are packaged beside the modules."""

    directory: Line = Field(
        "firmware", description="Folder beside the project file, laid out as /lib/firmware is; it may be absent."
    )
    include: tuple[Line, ...] = Field(
        ("*",), description="What of it is packaged: patterns for paths in the folder, or names of folders in it."
    )
    exclude: tuple[Line, ...] = Field((), description="What of it is left out, in the same form.")
    version: VersionText | None = Field(None, description="Version of the firmware; the project's if absent.")


class Devel(Section):
    """The package with which other drivers build on this one: Module.symvers, and headers."""

    enabled: bool = Field(False, description="Make it.")
    headers: tuple[Line, ...] = Field(
        (),
        description="Headers for it: patterns for paths in the imported tree, or names of folders in it. If empty: "
        "those in folders called include, or else all beside the modules.",
    )


Carrier = Literal["iso", "usb", "initrd", "dud"]

_LABEL = matching(re.compile(r"[A-Z0-9_]{1,32}"), "must hold 1 to 32 of A-Z, 0-9 and _")
_PARTITION_LABEL = matching(re.compile(r"[A-Z0-9_]{1,11}"), "must hold 1 to 11 of A-Z, 0-9 and _")
_UNAME_R = matching(re.compile(r"[0-9][A-Za-z0-9._+~-]*"), "must be a kernel release, as uname -r says it")


class Disk(Section):
    """The driver disk: one for the installers of all targets. Paths begin at the project file."""

    label: Annotated[str, _LABEL] = Field("OEMDRV", description="Volume label; installers look for OEMDRV.")
    file: Line | None = Field(
        None,
        description="Where to put a copy of the image; those of further carriers get its name with another ending. "
        "Otherwise they stay in the results.",
    )
    carriers: tuple[Carrier, ...] = Field(
        ("iso",),
        min_length=1,
        description="What to make: an ISO image (iso), an image of a USB stick (usb), an archive for the kernel's "
        "initrd, for PXE (initrd), an archive for each release of SUSE (dud).",
    )
    layouts: tuple[Name, ...] = Field(
        (), description="Further layouts, of plugins, that are given all packages of their format."
    )
    extra: Line | None = Field(None, description="Folder whose files are put on the disk, too, at its root.")
    second_partition: Line | None = Field(
        None,
        description="Folder whose files make a second partition of the USB image, as for cloud-init and Ubuntu's "
        "installer (user-data, meta-data).",
    )
    second_label: Annotated[str, _PARTITION_LABEL] = Field("CIDATA", description="Label of the second partition.")
    include_srpm: bool = Field(False, description="Put the source packages on the disk, too.")
    check: CheckLevel = Field(
        "fail",
        description="What to do if an installer would not take the disk, or load a module: off, warn or fail.",
    )
    ignore: tuple[Annotated[str, matching(re.compile(r"[A-Z]+[0-9]+"), "must be like DISK021")], ...] = Field(
        (), description="Findings that are not reported, by their code.", examples=[["DISK023"]]
    )
    installers: tuple[Annotated[str, _UNAME_R], ...] = Field(
        (),
        description="Kernels of installers (uname -r) that must take the packages; it is an error if one does not.",
        examples=[["5.14.0-427.13.1.el9_4.x86_64"]],
    )


class Sbom(Section):
    """Bills of materials: what the packages are made of, one document beside those of each source package."""

    format: Literal["cyclonedx", "none"] = Field(
        "cyclonedx", description="Format of the documents: cyclonedx (CycloneDX 1.6, as JSON), or none of them."
    )
    packages: Line | None = Field(
        None,
        description="Folder with packages that were built elsewhere, as by a farm, of the same sources: the documents "
        "are about these, then. It begins at the project file.",
    )


class Signing(Section):
    """Signatures of modules, for Secure Boot, and of packages. Paths begin at the project file.

    Modules are signed when their packages are finished: the packages are made anew with the signed modules, and with
    everything else as it was. A module that is not signed afterwards is an error.
    """

    module_key: Line | None = Field(
        None,
        description="Private key that signs the modules: a PEM file, or a `pkcs11:` URI. A passphrase or PIN is taken "
        "from the variable KBUILD_SIGN_PIN.",
        examples=["keys/mok.key", "pkcs11:token=signing;object=mok"],
    )
    module_certificate: Line | None = Field(
        None, description="Certificate of that key, X.509 in PEM or DER; it must be enrolled where modules are loaded."
    )
    module_signatures: Line | None = Field(
        None,
        description="Folder of signatures that were made elsewhere, in place of module_key: what `pkgkmod sign "
        "--export-hashes DIR` handed out, with the signatures that came back.",
    )
    module_hash: HashName = Field(
        "",
        description="Digest that is signed; if empty, the kernel's own (CONFIG_MODULE_SIG_HASH), or else sha256.",
    )
    package_key: Line | None = Field(
        None,
        description="GPG key that signs the packages (RPMs; of DEBs, .dsc, .buildinfo and .changes): fingerprint, key "
        "id, or a part of the user id.",
    )
    gpg_home: Line | None = Field(
        None, description="Folder of the GPG keyring that has this key; the user's own, ~/.gnupg, if not set."
    )

    @property
    def modules(self) -> bool:
        """Tell whether modules are signed."""
        return self.module_key is not None or self.module_signatures is not None

    @property
    def is_on(self) -> bool:
        """Tell whether anything is signed."""
        return self.modules or self.package_key is not None

    @field_validator("module_key")
    @classmethod
    def _no_pin(cls, value: str | None) -> str | None:
        if value and value.lower().startswith("pkcs11:") and "pin-value" in value.lower():
            raise ValueError(
                "must have no PIN in it; put that into the variable KBUILD_SIGN_PIN, or a file: pin-source=file:/PATH"
            )
        return value

    @model_validator(mode="after")
    def _whole(self) -> Signing:
        if self.module_key and self.module_signatures:
            raise ValueError("module_key and module_signatures do not go together: who signs?")
        if self.modules and not self.module_certificate:
            name = "module_key" if self.module_key else "module_signatures"
            raise ValueError(f"{name} needs module_certificate, the certificate of the key that signs")
        if self.module_certificate and not self.modules:
            raise ValueError("module_certificate needs module_key, or module_signatures where the key is out of reach")
        if self.module_hash and not self.module_key:
            raise ValueError("module_hash needs module_key; signatures made elsewhere have the hash of the export")
        if self.gpg_home and not self.package_key:
            raise ValueError("gpg_home needs package_key, the key to use of that keyring")
        return self

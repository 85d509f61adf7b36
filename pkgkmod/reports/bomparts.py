"""The parts of a bill of materials, in CycloneDX' words: packages, modules, firmware, kernels, drivers, sources.

Names of properties begin with `pkgkmod:`, as CycloneDX asks of those that are nobody else's (its property taxonomy).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    IdentifiableAction,
    Property,
    XsUri,
)
from cyclonedx.model.component import (
    Commit,
    Component,
    ComponentScope,
    ComponentType,
    Diff,
    Patch,
    PatchClassification,
    Pedigree,
    Swhid,
)
from cyclonedx.model.contact import OrganizationalContact, OrganizationalEntity
from cyclonedx.model.license import DisjunctiveLicense, License, LicenseExpression
from cyclonedx.spdx import is_supported_id
from packageurl import PackageURL

from pkgkmod.data.distros import distros_of_kernel
from pkgkmod.model.artifacts import PackageFormat, Provenance
from pkgkmod.model.distro import Distro
from pkgkmod.model.kernel import Kernel, PackageFile
from pkgkmod.model.project import ProjectInfo, Target
from pkgkmod.packages.spdx import parse_spdx
from pkgkmod.reports.shipped import ShippedModule, ShippedPackage

# Schemes of addresses that others can reach, and what is in an address (RFC 3986).
_SCHEMES = ("http", "https", "git", "ssh", "ftp")
_ADDRESS = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
_GIT_ID = re.compile(r"[0-9a-f]{40}")
_DEB_FILE = re.compile(r"_(?P<arch>[a-z0-9-]+)\.deb")
_RPM_FILE = re.compile(r"\.(?P<arch>[a-z0-9_]+)\.rpm")
_KERNEL_LICENSE = "GPL-2.0-only WITH Linux-syscall-note"  # COPYING of the kernel
# Fields of modinfo that say what a module is and needs; aliases and parameters are many, and in the module.
_FIELDS = ("srcversion", "vermagic", "license", "depends", "softdep", "firmware", "import_ns")


@dataclass(frozen=True)
class Place:
    """Whose packages they are, and for which release of which distribution."""

    info: ProjectInfo
    target: Target
    distro: Distro

    @property
    def vendor(self) -> str:
        """Namespace of the packages in package URLs."""
        return self.info.vendor or self.info.name

    @property
    def release(self) -> str:
        """The release of the distribution in package URLs."""
        minor = self.target.minor
        return self.distro.purl_distro if minor is None else f"{self.distro.purl_distro}.{minor}"


def plain(text: str) -> str:
    """Return a text that JSON can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def properties(values: Mapping[str, str | Iterable[str]]) -> list[Property]:
    """Return properties; one for each value, and none for empty ones."""
    found = []
    for name, value in values.items():
        texts = (value,) if isinstance(value, str) else tuple(value)
        found += [Property(name=f"pkgkmod:{name}", value=plain(text)) for text in texts if text]
    return found


def sha256(digest: str) -> list[HashType]:
    """Return a SHA-256 as a component's hashes."""
    return [HashType(alg=HashAlgorithm.SHA_256, content=digest)]


def licenses(text: str) -> list[License]:
    """Return a licence: by its identifier, as an expression, or by name if it is no SPDX expression."""
    text = plain(text).strip()
    if not text:
        return []
    if is_supported_id(text):
        return [DisjunctiveLicense(id=text)]
    found = parse_spdx(text)
    names = [part.identifier for part in found.licenses] if found else []
    if names and all(is_supported_id(name.removesuffix("+")) or name.startswith("LicenseRef-") for name in names):
        return [LicenseExpression(value=text)]
    return [DisjunctiveLicense(name=text)]


def address(text: str) -> XsUri | None:
    """Return an address that others can reach, without user, password and query; None for any other text."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # of a password with a slash in it, this is the beginning
        shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return None
    if parts.scheme not in _SCHEMES or not parts.netloc or not _ADDRESS.fullmatch(shown):
        return None
    return XsUri(shown)


def packager(info: ProjectInfo) -> OrganizationalContact:
    """Return who packages it."""
    name, _, mail = info.maintainer.rstrip(">").partition(" <")
    return OrganizationalContact(name=plain(name), email=plain(mail))


def supplier(info: ProjectInfo) -> OrganizationalEntity:
    """Return who the packages are from: the vendor, or whoever packages it."""
    contact = packager(info)
    return OrganizationalEntity(name=info.vendor or contact.name, contacts=[contact])


# --- packages --------------------------------------------------------------------------------------------


def package_url(package: ShippedPackage, place: Place) -> PackageURL:
    """Return the package URL of a package that was built."""
    version, qualifiers = package.version, {"arch": package.arch, "distro": place.release}
    if package.format == "rpm" and place.info.epoch:
        qualifiers["epoch"] = str(place.info.epoch)
    return PackageURL(package.format, place.vendor.lower(), package.name, version, qualifiers)


def package_component(package: ShippedPackage, place: Place, firmware_licenses: Mapping[str, str]) -> Component:
    """Return a package with the modules and firmware in it."""
    url = package_url(package, place)
    kind = ComponentType.DEVICE_DRIVER if package.modules else ComponentType.LIBRARY
    if package.firmware and not package.modules:
        kind = ComponentType.FIRMWARE
    modules = [_module_component(module, url, place) for module in package.modules]
    firmware = [
        _inside(
            url,
            file.path,
            place,
            type=ComponentType.FIRMWARE,
            name=plain(file.path.rpartition("/")[2]),
            hashes=sha256(file.sha256),
            licenses=licenses(firmware_licenses.get(file.path, "")),
            properties=properties({"path": file.path}),
        )
        for file in package.firmware
        if not _says_licence(file.path, package)
    ]
    stated = sorted({firmware_licenses.get(file.path, "") for file in package.firmware} - {""})
    own = licenses(" AND ".join(f"({text})" for text in stated) if len(stated) > 1 else "".join(stated))
    return Component(
        name=package.name,
        type=kind,
        bom_ref=str(url),
        version=package.version,
        purl=url,
        supplier=supplier(place.info),
        hashes=sha256(package.sha256),
        # Of firmware alone, nothing but its own licences is known.
        licenses=own if package.firmware and not package.modules else licenses(place.info.license),
        components=[*modules, *firmware],
        properties=properties({"file": package.file, "kind": package.kind}),
    )


def _says_licence(path: str, package: ShippedPackage) -> bool:
    """Tell whether a file only says the licence of the one beside it."""
    return any(path == f"{other.path}.license" for other in package.firmware)


def source_component(files: Iterable[ShippedPackage], place: Place) -> Component:
    """Return a Debian source package, which is several files; its description (.dsc) stands for it."""
    files = tuple(files)
    head = next((one for one in files if one.file.endswith(".dsc")), files[0])
    component = package_component(head, place, {})
    component.components = [
        _inside(
            package_url(head, place),
            one.file,
            place,
            type=ComponentType.FILE,
            name=one.file,
            hashes=sha256(one.sha256),
            licenses=licenses(place.info.license),
        )
        for one in files
        if one is not head
    ]
    return component


def module_ref(package: ShippedPackage, module: ShippedModule, place: Place) -> str:
    """Return the name by which the document refers to a module."""
    return str(_url_inside(package_url(package, place), module.path))


def _url_inside(url: PackageURL, path: str) -> PackageURL:
    return PackageURL(**{**url.to_dict(), "subpath": plain(path)})


def _inside(url: PackageURL, path: str, place: Place, **facts: Any) -> Component:
    """Return a file of a package; it is of the package's version, unless it says another."""
    own = _url_inside(url, path)
    return Component(**{"version": url.version, **facts}, bom_ref=str(own), purl=own, supplier=supplier(place.info))


def _module_component(module: ShippedModule, url: PackageURL, place: Place) -> Component:
    version = plain(next(iter(module.info("version")), ""))
    facts = {f"modinfo:{name}": module.info(name) for name in _FIELDS}
    return _inside(
        url,
        module.path,
        place,
        type=ComponentType.DEVICE_DRIVER,
        name=plain(module.name),
        **({"version": version} if version else {}),
        hashes=sha256(module.sha256),
        licenses=licenses(place.info.license),
        properties=properties(
            {
                "path": module.path,
                "size": str(module.size),
                **facts,
                "signed": "yes" if module.signed else "no",
                "unreadable": module.fault,
            }
        ),
    )


# --- what it was built with, and of ----------------------------------------------------------------------


def kernel_ref(release: str) -> str:
    """Return the name by which the document refers to a kernel."""
    return f"kernel:{release}"


def kernel_component(kernel: Kernel, compiled_by: str, distro: Distro) -> Component:
    """Return a kernel that modules were built for, with the packages that its build tree came in."""
    packages = kernel.offer.packages if kernel.offer else ()
    return Component(
        name="linux",
        # Not `operating-system`: that is taken for the distribution (trivy, pkg/sbom/cyclonedx).
        type=ComponentType.PLATFORM,
        bom_ref=kernel_ref(kernel.uname_r),
        version=kernel.uname_r,
        purl=PackageURL("generic", None, "linux", kernel.uname_r, {"arch": kernel.arch}),
        supplier=OrganizationalEntity(name=distro.purl_vendor) if _is_own(kernel, distro) else None,
        licenses=[LicenseExpression(value=_KERNEL_LICENSE)],
        components=[_header_package(package, kernel, distro) for package in packages],
        properties=properties(
            {
                "kernel:release": kernel.uname_r,
                "kernel:arch": kernel.arch,
                "kernel:tree": "" if packages else kernel.identity,
                "kernel:compiler": kernel.compiler.text or str(kernel.compiler) if kernel.compiler else "",
                "modules:compiler": compiled_by,
            }
        ),
    )


def _is_own(kernel: Kernel, distro: Distro) -> bool:
    """Tell whether a kernel is the distribution's, as far as its packages or its name tell."""
    if kernel.offer:
        return _is_of(kernel.offer.packages[0], distro)
    return distro.id in distros_of_kernel(kernel.uname_r, distro.format)


def _format_of(package: PackageFile) -> PackageFormat:
    return "rpm" if package.url.endswith(".rpm") else "deb"


def _is_of(package: PackageFile, distro: Distro) -> bool:
    """Tell whether a header package is the distribution's; kernels of others can be built for, too."""
    return _format_of(package) == distro.format


def _header_package(package: PackageFile, kernel: Kernel, distro: Distro) -> Component:
    format = _format_of(package)
    file = package.url.rpartition("/")[2]
    arch = (_RPM_FILE if format == "rpm" else _DEB_FILE).search(file)
    epoch, colon, version = package.version.rpartition(":")
    qualifiers = {"arch": arch["arch"]} if arch else {}
    if format == "rpm" and colon:
        qualifiers["epoch"] = epoch
    ours = _is_of(package, distro)
    if ours:
        qualifiers["distro"] = distro.purl_distro
    version = version if format == "rpm" else package.version
    url = PackageURL(format, distro.purl_vendor if ours else None, package.name, version, qualifiers)
    where = address(package.url)
    return Component(
        name=package.name,
        type=ComponentType.LIBRARY,
        bom_ref=f"{kernel_ref(kernel.uname_r)}/{url}",
        version=package.version,
        purl=url,
        supplier=OrganizationalEntity(name=distro.purl_vendor) if ours else None,
        licenses=[LicenseExpression(value=_KERNEL_LICENSE)],
        # It is built with, and not installed where the modules are.
        scope=ComponentScope.EXCLUDED,
        hashes=sha256(package.sha256),
        external_references=[ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=where)] if where else [],
    )


def driver_ref(name: str) -> str:
    """Return the name by which the document refers to a driver in other packages."""
    return f"driver:{name}"


def driver_component(name: str, version: str) -> Component:
    """Return a driver in other packages that modules build on."""
    return Component(name=name, type=ComponentType.DEVICE_DRIVER, bom_ref=driver_ref(name), version=version or None)


def tool_component(name: str, version: str) -> Component:
    """Return a program that took part."""
    return Component(name=name, type=ComponentType.APPLICATION, bom_ref=f"tool:{name}", version=version or None)


def pedigree(provenance: Provenance) -> Pedigree:
    """Return where the sources are from: the commit, what of it was imported, and the patches with their digests.

    Git's ids of commits, folders and files are those of Software Heritage, too (SWHID, ISO/IEC 18670).
    """
    where = address(provenance.repository)
    kinds = {"tree": "dir", "blob": "cnt"}
    objects = [("rev", provenance.commit), *((kinds[d.kind], d.object_id) for d in provenance.directories)]
    name = provenance.repository.rstrip("/").rpartition("/")[2].removesuffix(".git") if where else ""
    origin = Component(
        name=plain(name) or "sources",
        type=ComponentType.DEVICE_DRIVER,
        bom_ref="sources",
        version=plain(provenance.describe) or provenance.commit,
        swhids=[Swhid(f"swh:1:{kind}:{id}") for kind, id in objects if _GIT_ID.fullmatch(id)],
        external_references=[ExternalReference(type=ExternalReferenceType.SCM, url=where)] if where else [],
        properties=properties({"directory": [f"{d.path} {d.object_id}" for d in provenance.directories]}),
    )
    commit = Commit(
        uid=provenance.commit,
        url=where,
        author=_when(provenance.author_date),
        committer=IdentifiableAction(timestamp=datetime.fromtimestamp(provenance.commit_epoch, UTC)),
        message=plain(provenance.subject) or None,
    )
    # A fragment with the digest, as pip has it for addresses of archives.
    patches = [
        Patch(
            type=PatchClassification.UNOFFICIAL,
            diff=Diff(url=XsUri(f"patches/{quote(patch.name, errors='surrogateescape')}#sha256={patch.sha256}")),
        )
        for patch in provenance.patches
    ]
    some = [
        f"{patch.name} is applied for {', '.join(patch.kernels)} only" for patch in provenance.patches if patch.kernels
    ]
    return Pedigree(ancestors=[origin], commits=[commit], patches=patches, notes=plain("; ".join(some)) or None)


def _when(date: str) -> IdentifiableAction | None:
    try:
        found = datetime.fromisoformat(date)
    except ValueError:
        return None
    return IdentifiableAction(timestamp=found.astimezone(UTC)) if found.tzinfo else None

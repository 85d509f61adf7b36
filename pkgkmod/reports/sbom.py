"""A bill of materials of the packages of one job: CycloneDX 1.6, as JSON.

The same facts make the same bytes: every reference has a name of its own, the time is that of the sources, and the
serial number is made of the content. Nothing in it tells where, or by whom, it was built.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.bom_ref import BomRef
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.lifecycle import LifecyclePhase, PredefinedLifecycle
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6

from pkgkmod import __version__
from pkgkmod.model.artifacts import Provenance
from pkgkmod.model.job import Job
from pkgkmod.reports import bomparts
from pkgkmod.reports.bomparts import Place
from pkgkmod.reports.shipped import ShippedPackage

_NOT_YET = uuid.UUID(int=0)


@dataclass(frozen=True)
class Materials:
    """Everything that goes into a bill of materials."""

    job: Job
    provenance: Provenance
    packages: tuple[ShippedPackage, ...]
    compilers: Mapping[str, str] = field(default_factory=dict)
    """What compiled the modules, with its version, by release of the kernel."""
    tools: Mapping[str, str] = field(default_factory=dict)
    """Versions of the programs that took part, by name; empty where it is not known."""
    drivers: Mapping[str, str] = field(default_factory=dict)
    """Versions of the drivers in other packages that this one builds on, by name; empty where it is not known."""
    firmware_licenses: Mapping[str, str] = field(default_factory=dict)
    """Licences of firmware files, by the path at which they are installed."""


@dataclass(frozen=True)
class Document:
    """A finished bill of materials."""

    text: str
    serial: str
    components: int


def write_bom(materials: Materials) -> Document:
    """Return the bill of materials."""
    job = materials.job
    place = Place(job.project.project, job.target, job.distro)
    parts = list(_packages(materials, place))
    kernels = [
        bomparts.kernel_component(kernel, materials.compilers.get(kernel.uname_r, ""), job.distro)
        for kernel in job.kernels
    ]
    drivers = [bomparts.driver_component(name, version) for name, version in materials.drivers.items()]
    root = _root(materials, place)
    bom = Bom(
        serial_number=_NOT_YET,
        components=[*parts, *kernels, *drivers],
        metadata=BomMetaData(
            component=root,
            timestamp=datetime.fromtimestamp(materials.provenance.commit_epoch, UTC),
            tools=ToolRepository(components=list(_tools(materials))),
            authors=[bomparts.packager(place.info)],
            supplier=bomparts.supplier(place.info),
            lifecycles=[PredefinedLifecycle(LifecyclePhase.BUILD)],
        ),
    )
    edges = {root.bom_ref.value or "": {part.bom_ref.value or "" for part in parts}}
    for needs in (_contained([*parts, *kernels, *drivers]), _needed(materials, place)):
        for ref, others in needs:
            edges.setdefault(ref, set()).update(others)
    bom.dependencies = [
        Dependency(BomRef(ref), [Dependency(BomRef(other)) for other in others]) for ref, others in edges.items()
    ]
    return _finished(bom)


def _packages(materials: Materials, place: Place) -> Iterator[Component]:
    """Yield the packages; the files of a Debian source package are one."""
    sources = [one for one in materials.packages if one.kind == "source" and one.format == "deb"]
    for package in materials.packages:
        if package.kind != "metadata" and package not in sources:
            yield bomparts.package_component(package, place, materials.firmware_licenses)
    if sources:
        yield bomparts.source_component(sources, place)


def _root(materials: Materials, place: Place) -> Component:
    """Return the driver itself, which all packages are of."""
    info = place.info
    home = bomparts.address(info.url)
    where = [ExternalReference(type=ExternalReferenceType.WEBSITE, url=home)] if home else []
    # dpkg lists there what it was built in. When that was, too: so its digest is another one each time.
    where += [
        ExternalReference(type=ExternalReferenceType.BUILD_META, url=XsUri(one.file))
        for one in materials.packages
        if one.file.endswith(".buildinfo")
    ]
    return Component(
        name=info.name,
        type=ComponentType.DEVICE_DRIVER,
        bom_ref=f"project:{info.name}",
        group=info.vendor,
        version=info.version,
        description=bomparts.plain(info.summary) or None,
        supplier=bomparts.supplier(info),
        licenses=bomparts.licenses(info.license),
        external_references=where,
        pedigree=bomparts.pedigree(materials.provenance),
        properties=bomparts.properties({"target": materials.job.id}),
    )


def _tools(materials: Materials) -> Iterator[Component]:
    yield bomparts.tool_component("pkgkmod", __version__)
    for name, version in sorted(materials.tools.items()):
        yield bomparts.tool_component(name, version)


def _contained(components: Iterable[Component]) -> Iterator[tuple[str, set[str]]]:
    """Yield every component, by its reference, with those that are in it."""
    for component in components:
        yield component.bom_ref.value or "", {one.bom_ref.value or "" for one in component.components}
        yield from _contained(component.components)


def _needed(materials: Materials, place: Place) -> Iterator[tuple[str, set[str]]]:
    """Yield packages with their kernels and those they name, and modules with their kernel and each other."""
    named = {one.name: str(bomparts.package_url(one, place)) for one in materials.packages if one.kind == "binary"}
    built_for = {kernel.uname_r: bomparts.kernel_ref(kernel.uname_r) for kernel in materials.job.kernels}
    drivers = {bomparts.driver_ref(name) for name in materials.drivers}
    for package in materials.packages:
        refs = {(one.folder, one.name): bomparts.module_ref(package, one, place) for one in package.modules}
        kernels = {one.folder: {built_for[one.folder]} for one in package.modules if one.folder in built_for}
        for module in package.modules:
            names = {name.replace("-", "_") for text in module.info("depends") for name in text.split(",")}
            others = {refs[module.folder, name] for name in names - {module.name} if (module.folder, name) in refs}
            yield refs[module.folder, module.name], others | kernels.get(module.folder, set()) | drivers
        if package.kind == "binary":
            own = str(bomparts.package_url(package, place))
            others = {named[name] for name in package.requires if name in named} - {own}
            yield own, others.union(*kernels.values(), drivers if package.modules else ())


def _finished(bom: Bom) -> Document:
    """Return the text, with a serial number that is made of everything else in it."""
    content: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"urn:sha256:{digest}").urn
    content["serialNumber"] = serial
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    count = sum(1 + len(one.components) for one in bom.components)
    return Document(text, serial, count)

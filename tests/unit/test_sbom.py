"""Bills of materials: what is in them, and what must not be."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from packageurl import PackageURL

from pkgkmod.data.distros import find_distro, known_distros
from pkgkmod.model.kernel import Compiler, KernelOffer, PackageFile
from pkgkmod.reports.bomparts import address, licenses
from pkgkmod.reports.sbom import Document, Materials, write_bom
from pkgkmod.reports.shipped import ShippedFile, ShippedModule, ShippedPackage
from tests.fixtures.packaging import HOSTILE, make_facts, make_job, make_project

KERNEL = "6.1.0-56-amd64"


def module(name: str, *, depends: str = "", folder: str = KERNEL, path: str = "") -> ShippedModule:
    info = (("version", "3.1"), ("srcversion", "0123456789ABCDEF0123456"), ("license", "GPL"), ("depends", depends))
    return ShippedModule(path or f"/lib/modules/{folder}/updates/e1000e/{name}.ko", "1" * 64, 1000, info)


def deb(name: str, **facts: Any) -> ShippedPackage:
    known = {"format": "deb", "version": "1:6.1.90-1~deb12", "arch": "amd64", "kind": "binary", **facts}
    return ShippedPackage(file=known.pop("file", f"{name}_6.1.90-1_amd64.deb"), sha256="2" * 64, name=name, **known)


def materials(*packages: ShippedPackage, distro: str = "debian12", hostile: bool = False, **info: Any) -> Materials:
    job = make_job(distro, (KERNEL,), make_project(**info))
    return Materials(job, make_facts(job, hostile=hostile).provenance, packages)


def content(found: Materials) -> dict[str, Any]:
    """Return the document, of which every reference must have its one target."""
    document: dict[str, Any] = json.loads(write_bom(found).text)
    top = [document["metadata"]["component"], *document["components"]]
    everything = [one for component in top for one in (component, *component.get("components", ()))]
    refs = [one["bom-ref"] for one in everything]
    assert len(set(refs)) == len(refs)
    for dependency in document["dependencies"]:
        assert {dependency["ref"], *dependency.get("dependsOn", ())} <= set(refs)
    # Nothing hangs in the air: all of it is reached from the driver itself.
    edges = {one["ref"]: one.get("dependsOn", []) for one in document["dependencies"]}
    reached, waiting = set(), [document["metadata"]["component"]["bom-ref"]]
    while waiting:
        here = waiting.pop()
        waiting += [ref for ref in edges.get(here, ()) if ref not in reached]
        reached.add(here)
    assert {ref for ref in refs if not ref.startswith(("kernel:", "driver:"))} <= reached
    return document


def component(document: dict[str, Any], name: str) -> dict[str, Any]:
    found = [one for top in document["components"] for one in (top, *top.get("components", ())) if one["name"] == name]
    assert len(found) == 1, found
    return dict(found[0])


def test_a_package_has_a_url_with_arch_epoch_and_release() -> None:
    document = content(materials(deb("acme-modules", modules=(module("e1000e"),)), vendor="acme"))
    url = PackageURL.from_string(component(document, "acme-modules")["purl"])
    assert (url.type, url.namespace, url.name, url.version) == ("deb", "acme", "acme-modules", "1:6.1.90-1~deb12")
    assert url.qualifiers == {"arch": "amd64", "distro": "debian-12"}


def test_the_epoch_of_an_rpm_is_a_qualifier() -> None:
    package = deb("kmod-e1000e", format="rpm", version="6.1.90-1.el9", arch="x86_64", file="a.rpm")
    document = content(materials(package, distro="el9", epoch=2))
    url = PackageURL.from_string(component(document, "kmod-e1000e")["purl"])
    assert url.qualifiers == {"arch": "x86_64", "distro": "rhel-9", "epoch": "2"}
    assert (url.namespace, url.version) == ("e1000e", "6.1.90-1.el9")


def test_modules_need_each_other_and_their_kernel() -> None:
    modules = (module("one"), module("two", depends="one,usbcore"))
    document = content(materials(deb("some", modules=modules, requires=("fw",)), deb("fw")))
    edges = {one["ref"].rpartition("/")[2]: one.get("dependsOn", []) for one in document["dependencies"]}
    assert sorted(ref.rpartition("/")[2] for ref in edges["two.ko"]) == [f"kernel:{KERNEL}", "one.ko"]
    assert edges["one.ko"] == [f"kernel:{KERNEL}"]
    whole = "/some@1:6.1.90-1~deb12?arch=amd64&distro=debian-12"
    (package,) = (one for one in document["dependencies"] if one["ref"].endswith(whole))
    assert any(ref.startswith("pkg:deb/e1000e/fw@") for ref in package["dependsOn"])


def test_the_same_makes_the_same_bytes_and_a_digest_another_serial_number() -> None:
    found = materials(deb("some", modules=(module("one"),)), deb("other"))
    first, again = write_bom(found), write_bom(replace(found, packages=found.packages[::-1]))
    assert first.text == again.text
    other = write_bom(replace(found, packages=(found.packages[0], replace(found.packages[1], sha256="3" * 64))))
    assert other.serial != first.serial
    assert first.serial.startswith("urn:uuid:")
    assert json.loads(first.text)["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"


def test_hostile_texts_are_texts() -> None:
    odd = module("x", path=f"/lib/modules/{KERNEL}/updates/\udcff%2e/../a b?c#d.ko")
    package = deb("some", modules=(odd,), firmware=(ShippedFile("/lib/firmware/ü\n.bin", "4" * 64),))
    found = materials(package, hostile=True, **HOSTILE)
    document = content(found)
    assert "project:e1000e" in {one["ref"] for one in document["dependencies"]}
    write_bom(found).text.encode()


def test_what_is_unreadable_is_said() -> None:
    broken = ShippedModule("/lib/modules/6/x.ko", "1" * 64, 3, fault="it is no ELF file")
    document = content(materials(deb("some", modules=(broken,))))
    assert {"name": "pkgkmod:unreadable", "value": "it is no ELF file"} in component(document, "x")["properties"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://joe:s3c/ret@example.org/linux.git?private_token=x#y", None),
        ("https://joe:s3cret@example.org/linux.git?private_token=x#y", "https://example.org/linux.git"),
        ("https://joe:s3@cret@example.org/a", "https://example.org/a"),
        ("ssh://git@example.org:22/a.git", "ssh://example.org:22/a.git"),
        ("file:///home/joe/linux", None),
        ("/home/joe/linux", None),
        ("git@example.org:a.git", None),
        ("https://[broken/a", None),
        ("https://example.org/a b", None),
        ("", None),
    ],
)
def test_addresses_are_shown_without_secrets_and_places_of_the_machine(text: str, shown: str | None) -> None:
    found = address(text)
    assert found is None if shown is None else found is not None and str(found) == shown


def test_the_machine_and_its_user_are_not_in_it() -> None:
    found = materials(deb("some", modules=(module("one"),)))
    found = replace(found, provenance=found.provenance.model_copy(update={"repository": "/home/joe/secret/linux"}))
    text = write_bom(found).text
    assert "joe" not in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        ("GPL-2.0-only", "id", "GPL-2.0-only"),
        ("GPL-2.0-only OR BSD-3-Clause", "expression", "GPL-2.0-only OR BSD-3-Clause"),
        ("GPL-2.0-only WITH Linux-syscall-note", "expression", "GPL-2.0-only WITH Linux-syscall-note"),
        ("LicenseRef-acme", "expression", "LicenseRef-acme"),
        ("Proprietary", "name", "Proprietary"),
        ("All rights reserved, %(id)", "name", "All rights reserved, %(id)"),
    ],
)
def test_licences_are_identifiers_expressions_or_names(text: str, kind: str, shown: str) -> None:
    (found,) = licenses(text)
    if kind == "expression":
        assert isinstance(found, LicenseExpression)
        assert found.value == shown
    else:
        assert isinstance(found, DisjunctiveLicense)
        assert getattr(found, kind) == shown


def test_a_package_of_firmware_alone_has_the_licences_of_its_files() -> None:
    files = tuple(ShippedFile(f"/lib/firmware/updates/{name}", "5" * 64) for name in ("a", "a.license", "b"))
    found = materials(deb("fw", firmware=files))
    known = {"/lib/firmware/updates/a": "LicenseRef-acme", "/lib/firmware/updates/b": "MIT"}
    document = content(replace(found, firmware_licenses=known))
    package = component(document, "fw")
    assert package["type"] == "firmware"
    assert package["licenses"] == [{"expression": "(LicenseRef-acme) AND (MIT)"}]
    assert [one["name"] for one in package["components"]] == ["a", "b"]
    assert "licenses" not in component(content(found), "fw")


def test_a_kernel_of_an_archive_has_its_header_packages() -> None:
    found = materials(deb("some", modules=(module("one"),)))
    files = (
        PackageFile(
            "linux-headers-x", "6.1.176-1", "https://deb.example.org/l/linux-headers-x_6.1_amd64.deb", "6" * 64, 1
        ),
        PackageFile("linux-kbuild", "1:6.1", "file:///srv/mirror/linux-kbuild_6.1_all.deb", "7" * 64, 1),
    )
    kernel = found.job.kernels[0]
    offer = KernelOffer(kernel.release, "x86_64", "apt", files)
    kernel = replace(kernel, offer=offer, compiler=Compiler("gcc", 12, "gcc-12 (Debian 12.2.0-14) 12.2.0"))
    document = content(replace(found, job=replace(found.job, kernels=(kernel,)), compilers={KERNEL: "gcc-12 12.2.0"}))
    headers = component(document, "linux-headers-x")
    assert headers["purl"] == "pkg:deb/debian/linux-headers-x@6.1.176-1?arch=amd64&distro=debian-12"
    assert headers["hashes"] == [{"alg": "SHA-256", "content": "6" * 64}]
    assert headers["externalReferences"][0]["url"].startswith("https://deb.example.org/")
    assert headers["scope"] == "excluded"
    assert "externalReferences" not in component(document, "linux-kbuild")
    said = {one["name"]: one["value"] for one in component(document, "linux")["properties"]}
    assert said["pkgkmod:kernel:compiler"] == "gcc-12 (Debian 12.2.0-14) 12.2.0"
    assert said["pkgkmod:modules:compiler"] == "gcc-12 12.2.0"
    assert "pkgkmod:kernel:tree" not in said


def test_sources_have_commit_ids_of_software_heritage_and_patches_with_digests() -> None:
    pedigree = content(materials(deb("some")))["metadata"]["component"]["pedigree"]
    assert pedigree["commits"][0]["url"] == "https://example.org/linux.git"
    assert pedigree["ancestors"][0]["swhid"] == [
        f"swh:1:dir:{'a' * 40}",
        "swh:1:rev:1f2e3d4c5b6a79880716253443526170f1e2d3c4",
    ]
    assert pedigree["patches"][0]["diff"]["url"] == f"patches/0001-fix-link-check.patch#sha256={'0' * 64}"


def test_a_debian_source_package_is_one_component() -> None:
    files = [
        deb("e1000e-modules", kind="source", arch="source", file=f"e1000e-modules_6.1.90{ending}")
        for ending in (".orig.tar.xz", ".dsc", ".debian.tar.xz")
    ]
    metadata = deb("e1000e-modules", kind="metadata", arch="source", file="e1000e_6.1.90_amd64.buildinfo")
    document = content(materials(*files, metadata))
    source = component(document, "e1000e-modules")
    assert source["properties"][0] == {"name": "pkgkmod:file", "value": "e1000e-modules_6.1.90.dsc"}
    assert len(source["components"]) == 2
    where = {one["type"]: one["url"] for one in document["metadata"]["component"]["externalReferences"]}
    assert where == {"website": "https://example.org/e1000e", "build-meta": "e1000e_6.1.90_amd64.buildinfo"}


def test_other_drivers_are_named() -> None:
    found = replace(materials(deb("some", modules=(module("one"),))), drivers={"acme-foo": "2.0", "bar": ""})
    document = content(found)
    assert component(document, "acme-foo")["version"] == "2.0"
    needs = next(one for one in document["dependencies"] if one["ref"].endswith("one.ko"))
    assert {"driver:acme-foo", "driver:bar"} <= set(needs["dependsOn"])


def test_the_count_is_that_of_the_components() -> None:
    document: Document = write_bom(materials(deb("some", modules=(module("one"), module("two")))))
    assert document.components == 4


@pytest.mark.parametrize("name", known_distros())
def test_every_distribution_has_its_words_of_package_urls(name: str) -> None:
    distro = find_distro(name)
    url = PackageURL(distro.format, distro.purl_vendor, "x", "1", {"distro": distro.purl_distro})
    assert PackageURL.from_string(str(url)) == url
    assert distro.purl_vendor == distro.purl_vendor.lower()

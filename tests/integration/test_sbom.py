"""Bills of materials of real packages: judged by CycloneDX' own schema, and compared with what other tools see."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from pkgkmod.reports.sbom import write_bom
from tests.fixtures.machine import CHECKOUT, Driver, commit, hello, need, pkgkmod, series_and_kernel
from tests.fixtures.packaging import HOSTILE
from tests.fixtures.signing import new_key
from tests.unit.test_sbom import deb, materials, module


@pytest.fixture(scope="module")
def kernel() -> str:
    return series_and_kernel()[1]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    need("bwrap", "make", "rpmbuild", "dpkg-buildpackage", "modinfo", "rpm2cpio", "cpio")
    return hello(tmp_path_factory.mktemp("git") / "repository")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, driver: Driver, kernel: str) -> Path:
    """A project for RPM and DEB, with firmware and a patch, whose documents are written."""
    folder = tmp_path_factory.mktemp("joes-secret") / "project"
    make(folder, driver, kernel)
    pkgkmod("sbom", "-C", "build.reuse=false", cwd=folder)
    return folder


def make(folder: Path, driver: Driver, kernel: str) -> None:
    (folder / "firmware/acme").mkdir(parents=True)
    (folder / "firmware/acme/hello.bin").write_bytes(b"firmware")
    (folder / "firmware/acme/hello.bin.license").write_text("SPDX-License-Identifier: LicenseRef-acme-firmware\n")
    lines = (driver.repository / driver.directory / "main.c").read_text().splitlines(keepends=True)
    (folder / "patches").mkdir()
    (folder / "patches/0001-say-more.patch").write_text(
        f"--- a/{driver.directory}/main.c\n+++ b/{driver.directory}/main.c\n@@ -1,2 +1,3 @@\n"
        f" {lines[0]}+/* patched */\n {lines[1]}"
    )
    (folder / "pkgkmod.toml").write_text(
        f"""
[project]
name = "hello"
vendor = "acme"
epoch = 2
license = "GPL-2.0-only OR BSD-3-Clause"
[source]
repository = "{driver.repository}"
revision = "{driver.commit}"
directories = ["{driver.directory}"]
[[target]]
distro = "debian12"
kernels = ["{kernel}"]
[[target]]
distro = "el9"
kernels = ["{kernel}"]
"""
    )


def documents(folder: Path) -> dict[str, Path]:
    """Return the newest document of each target."""
    found = sorted(folder.glob("results/sbom/*/*/*/*.cdx.json"), key=lambda path: path.stat().st_mtime_ns)
    return {
        path.parents[2].name: path for path in found if "dpkg-deb" in path.read_text() or "rpmbuild" in path.read_text()
    }


def check_valid(text: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    # What reads it has the same again, with every reference leading somewhere.
    found = Bom.from_json(json.loads(text))  # type: ignore[attr-defined]
    found.validate()
    assert len(found.components) == len(json.loads(text)["components"])


def components(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for top in document["components"] for one in (top, *top.get("components", ()))]


def said(component: dict[str, Any]) -> dict[str, str]:
    return {one["name"].removeprefix("pkgkmod:"): one["value"] for one in component.get("properties", ())}


def unpacked(package: Path, folder: Path) -> Path:
    """Unpack a package with the tools of its format."""
    folder.mkdir()
    if package.suffix == ".deb":
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    else:
        archive = subprocess.run(["rpm2cpio", package], capture_output=True, check=True).stdout
        subprocess.run(["cpio", "-idm", "--quiet"], input=archive, cwd=folder, check=True)
    return folder


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def modinfo(module: Path, field: str) -> str:
    argv = ["/usr/sbin/modinfo", "-F", field, module]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(("target", "stage"), [("debian12", "build_deb"), ("el9", "build_rpm")])
def test_documents_are_valid_and_say_what_other_tools_see(
    project: Path, target: str, stage: str, tmp_path: Path
) -> None:
    text = documents(project)[target].read_text()
    check_valid(text)
    document = json.loads(text)
    packages = {path.name: path for path in project.glob(f"results/{stage}/{target}/*/*/*") if path.suffix != ".json"}
    seen = set()
    for component in document["components"]:
        if "file" not in said(component):
            continue
        package = packages[said(component)["file"]]
        assert component["hashes"] == [{"alg": "SHA-256", "content": digest(package)}]
        assert PackageURL.from_string(component["purl"]).namespace == "acme"
        if said(component)["kind"] != "binary":
            continue
        folder = unpacked(package, tmp_path / package.name)
        for inside in component.get("components", ()):
            file = folder / said(inside)["path"].lstrip("/")
            assert inside["hashes"] == [{"alg": "SHA-256", "content": digest(file)}]
            if file.suffix != ".bin":
                assert said(inside)["modinfo:srcversion"] == modinfo(file, "srcversion")
                assert said(inside)["modinfo:vermagic"].strip() == modinfo(file, "vermagic")
            else:
                assert inside["licenses"] == [{"expression": "LicenseRef-acme-firmware"}]
            seen.add(inside["name"])
    assert seen == {"hello", "hello.bin"}
    assert len([one for one in components(document) if "purl" in one]) >= 6


def test_sources_tools_and_compiler_are_named(project: Path, driver: Driver, kernel: str) -> None:
    document = json.loads(documents(project)["el9"].read_text())
    pedigree = document["metadata"]["component"]["pedigree"]
    assert pedigree["commits"][0]["uid"] == driver.commit
    patch = project / "patches/0001-say-more.patch"
    assert pedigree["patches"][0]["diff"]["url"] == f"patches/{patch.name}#sha256={digest(patch)}"
    tree = subprocess.run(
        ["git", "rev-parse", f"{driver.commit}:{driver.directory}"],
        cwd=driver.repository, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert f"swh:1:dir:{tree}" in pedigree["ancestors"][0]["swhid"]
    tools = {one["name"]: one.get("version") for one in document["metadata"]["tools"]["components"]}
    rpmbuild = subprocess.run(["rpmbuild", "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    assert tools["rpmbuild"] == rpmbuild
    assert {"pkgkmod", "make", "ld"} <= set(tools)
    (linux,) = (one for one in document["components"] if one["name"] == "linux")
    assert linux["version"] == kernel
    config = Path(f"/lib/modules/{kernel}/build/.config").read_text()
    assert f'CONFIG_CC_VERSION_TEXT="{said(linux)["kernel:compiler"]}"' in config


def test_another_place_umask_and_time_zone_make_the_same_bytes_and_are_not_in_them(
    project: Path, driver: Driver, kernel: str, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere"
    make(other, driver, kernel)
    before = os.umask(0o077)
    try:
        pkgkmod("sbom", "-C", "build.reuse=false", cwd=other, TZ="Asia/Kolkata", USER="somebody", LC_ALL="C")
    finally:
        os.umask(before)
    one, two = documents(project), documents(other)
    assert set(one) == {"debian12", "el9"}
    for target in one:
        text = one[target].read_text()
        assert text == two[target].read_text()
        for word in (str(project), "joes-secret", str(driver.repository), str(CHECKOUT), str(Path.home()) + "/"):
            assert word not in text


def test_signed_packages_are_those_that_are_listed(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project, folder, symlinks=True)
    (folder / "keys").mkdir()
    key = new_key(folder / "keys")
    with (folder / "pkgkmod.toml").open("a") as file:
        file.write(f'\n[signing]\nmodule_key = "{key.key}"\nmodule_certificate = "{key.certificate}"\n')
    pkgkmod("sbom", "--target", "debian12", cwd=folder)
    document = json.loads(documents(folder)["debian12"].read_text())
    (hello_ko,) = (one for one in components(document) if one["name"] == "hello")
    assert said(hello_ko)["signed"] == "yes"
    (package,) = folder.glob("results/sign/debian12/*/*/hello-modules-*-amd64_*.deb")
    assert digest(package) in json.dumps(document)


def test_it_can_be_turned_off_and_asked_for(project: Path) -> None:
    off = ("-C", "sbom.format=none")
    plan = pkgkmod("plan", *off, cwd=project)
    assert "sbom" not in plan.out
    assert "turns this off" in pkgkmod("sbom", *off, cwd=project, code=2).err
    events = pkgkmod("sbom", *off, "--format", "cyclonedx", "--json", cwd=project).events
    assert {Path(str(file)).suffixes[-1] for one in events for file in one.get("files", ())} == {".json"}


@pytest.mark.parametrize(("target", "stage"), [("debian12", "build_deb"), ("el9", "build_rpm")])
def test_packages_of_a_farm_have_theirs(project: Path, target: str, stage: str, tmp_path: Path) -> None:
    """Copies of packages that were built here stand in for those of a farm."""
    farm = tmp_path / "farm"
    (farm / "x86_64").mkdir(parents=True)
    for package in project.glob(f"results/{stage}/{target}/*/*/*"):
        if package.suffix not in (".json", ".txt"):
            shutil.copy(package, farm / "x86_64")
    asked = ("sbom", "--packages", farm, "--target", target)
    (event,) = (one for one in pkgkmod(*asked, "--json", cwd=project).events if one["event"] == "result")
    (file,) = event["files"]  # type: ignore[misc]
    check_valid(text := Path(file).read_text())
    theirs, ours = (
        {one["purl"]: one["hashes"] for one in components(json.loads(each)) if "hashes" in one}
        for each in (text, documents(project)[target].read_text())
    )
    assert theirs
    assert {url: ours.get(url) for url in theirs} == theirs
    assert str(farm) not in text and "x86_64/" not in text
    tools = json.loads(text)["metadata"]["tools"]["components"]
    assert [one["name"] for one in tools] == ["pkgkmod"]  # what the farm has is not known
    # What is there, and for these kernels, is asked first.
    assert "there is no folder" in pkgkmod("sbom", "--packages", tmp_path / "gone", cwd=project, code=2).err
    (tmp_path / "empty").mkdir()
    assert "package in" in pkgkmod("sbom", "--packages", tmp_path / "empty", cwd=project, code=2).err


def test_packages_that_are_twice_or_nameless_are_refused(project: Path, tmp_path: Path) -> None:
    need("ar", "tar")
    (package,) = project.glob("results/build_deb/debian12/*/*/hello-modules-amd64_*.deb")
    farm = tmp_path / "farm"
    farm.mkdir()
    for name in ("one.deb", "two.deb"):
        shutil.copy(package, farm / name)
    asked = ("sbom", "--packages", farm, "--target", "debian12")
    assert "one.deb and two.deb are the same package" in pkgkmod(*asked, cwd=project, code=2).err
    (farm / "two.deb").unlink()
    (tmp_path / "control").write_text("Version: 1\nArchitecture: all\n")
    subprocess.run(["tar", "-cf", "control.tar", "./control"], cwd=tmp_path, check=True)
    subprocess.run(["tar", "-cf", "data.tar", "-T", "/dev/null"], cwd=tmp_path, check=True)
    (tmp_path / "debian-binary").write_text("2.0\n")
    members = ("debian-binary", "control.tar", "data.tar")
    subprocess.run(["ar", "rc", farm / "one.deb.new", *members], cwd=tmp_path, check=True)
    (farm / "one.deb.new").replace(farm / "one.deb")
    assert "does not say its Package" in pkgkmod(*asked, cwd=project, code=17).err


def test_packages_for_other_kernels_are_refused(project: Path, tmp_path: Path) -> None:
    (package,) = project.glob("results/build_deb/debian12/*/*/hello-firmware_*.deb")
    (tmp_path / "farm").mkdir()
    shutil.copy(package, tmp_path / "farm")
    asked = ("sbom", "--packages", tmp_path / "farm", "--target", "debian12")
    assert "none of the packages has modules for" in pkgkmod(*asked, cwd=project, code=2).err


def test_drivers_of_other_projects_are_named(tmp_path: Path, kernel: str) -> None:
    need("bwrap", "make", "dpkg-buildpackage")
    shutil.copytree(CHECKOUT / "examples/foobar", tmp_path / "foobar")
    commit(tmp_path / "foobar")
    target = ("-C", f'target=[{{distro="debian12",kernels=["{kernel}"]}}]')
    pkgkmod("build_modules", *target, cwd=tmp_path / "foobar/two/foo")
    pkgkmod("sbom", *target, cwd=tmp_path / "foobar/two/bar")
    document = json.loads(documents(tmp_path / "foobar/two/bar")["debian12"].read_text())
    (foo,) = (one for one in document["components"] if one["bom-ref"] == "driver:foo")
    assert (foo["name"], foo["version"]) == ("foo", "1.0")
    needs = {one["ref"]: one.get("dependsOn", []) for one in document["dependencies"]}
    (ref,) = (ref for ref in needs if ref.endswith("/bar.ko"))
    assert "driver:foo" in needs[ref]


def test_hostile_texts_leave_the_document_valid() -> None:
    odd = module("x", path="/lib/modules/6.1.0-56-amd64/updates/\udcff%2e/../a b?c#d.ko")
    check_valid(write_bom(materials(deb("some", modules=(odd,)), hostile=True, **HOSTILE)).text)

"""The kinds of packages of real drivers, e1000e and jool, built by the real dpkg-buildpackage."""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pkgkmod.formats.deb import read_deb
from tests.fixtures.archive_drivers import jool
from tests.fixtures.machine import Driver, e1000e, need, pkgkmod, series_and_kernel

KINDS = """
[deb]
dkms = true
dbgsym = true
[devel]
enabled = true
"""


@dataclass(frozen=True)
class Made:
    """What was built of a driver for one kernel."""

    folder: Path
    """Folder of the project."""
    name: str
    kernel: str

    @property
    def results(self) -> Path:
        """Folder of the packages."""
        (changes,) = self.folder.glob("results/build_deb/*/*/*/*.changes")
        return changes.parent

    @property
    def packages(self) -> dict[str, Path]:
        """Files of the packages by name, without the driver's."""
        return {file.name.split("_")[0].removeprefix(f"{self.name}-"): file for file in self.results.glob("*.deb")}

    @property
    def modules(self) -> str:
        """Name of the package with the modules, without the driver's."""
        return f"modules-{self.kernel}"

    def control(self, package: str) -> Mapping[str, str]:
        """Return the control fields of a package."""
        return read_deb(self.packages[package]).control

    def unpack(self, package: str, folder: Path) -> Path:
        """Unpack a package into a folder, and return that."""
        subprocess.run(["dpkg-deb", "-x", self.packages[package], folder], check=True)
        return folder


def build(folder: Path, driver: Driver, more: str = KINDS) -> Made:
    """Build all kinds of packages of a driver for the newest kernel whose headers are installed."""
    need("bwrap", "dh", "dh_dkms", "dpkg-buildpackage", "make")
    _, kernel = series_and_kernel()
    for name, text in (("fw.bin", b"\0" * 64), ("sub folder/fw two.bin", b"\1" * 64)):
        place = folder / "firmware" / driver.name / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text)
    (folder / "pkgkmod.toml").write_text(
        f"""
[project]
name = "{driver.name}"
version = "6.1.1"
summary = "Kernel modules of {driver.name}"
maintainer = "Jane Packager <jane@debian.org>"
url = "https://example.org/{driver.name}"
[source]
repository = "{driver.repository}"
revision = "{driver.commit}"
directories = ["{driver.directory}"]
[[target]]
distro = "debian12"
kernels = ["{kernel}"]
{more}"""
    )
    pkgkmod("build_deb", cwd=folder)
    return Made(folder, driver.name, kernel)


@pytest.fixture(scope="module")
def intel(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return build(tmp_path_factory.mktemp("e1000e"), e1000e())


@pytest.fixture(scope="module")
def nat64(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return build(tmp_path_factory.mktemp("jool"), jool())


@pytest.fixture(params=["intel", "nat64"])
def made(request: pytest.FixtureRequest) -> Made:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Made)
    return found


def test_all_kinds_are_made(made: Made) -> None:
    meta = f"modules-{made.kernel.rpartition('-')[2]}"
    kinds = {made.modules, f"{made.modules}-dbgsym", meta, "dkms", "firmware", "modules-dev"}
    assert set(made.packages) == kinds
    needed = made.control(made.modules)["Depends"].split(", ")
    image = f"linux-image-{made.kernel}"
    assert needed == [f"{image} | {image}-unsigned", "kmod", f"{made.name}-firmware (>= 6.1.1-1~deb12)"]
    assert made.control(meta)["Depends"] == f"{made.name}-{made.modules} (= 6.1.1-1~deb12)"
    assert "dkms" in made.control("dkms")["Depends"]


def test_lintian_finds_neither_error_nor_warning(made: Made) -> None:
    need("lintian")
    # The drivers' commits are older than the policy that the release follows.
    options = ("--allow-root", "--tag-display-limit=0", "--suppress-tags=timewarp-standards-version")
    (changes,) = made.results.glob("*.changes")
    done = subprocess.run(["lintian", *options, changes], capture_output=True, text=True, check=False)
    assert [line for line in done.stdout.splitlines() if line[:2] in ("E:", "W:")] == []
    assert "unused-override" not in done.stdout


def test_the_digest_of_the_symbols_is_that_of_a_list_as_modprobe_gives_it(made: Made, tmp_path: Path) -> None:
    root = made.unpack(made.modules, tmp_path / "root")
    (listed,) = (root / "usr/share/doc").glob("*/kernel-symbols*")
    content = listed.read_bytes()
    content = gzip.decompress(content) if listed.suffix == ".gz" else content
    assert made.control(made.modules)["Kmod-Symbols-Hash"] == hashlib.sha256(content).hexdigest()
    files = sorted((root / f"lib/modules/{made.kernel}/updates/{made.name}").glob("*.ko"))
    said = [
        subprocess.run(["modprobe", "--dump-modversions", file], capture_output=True, text=True, check=True).stdout
        for file in files
    ]
    lines = content.decode().splitlines()
    assert lines == sorted(lines, key=lambda line: line.split("\t")[1])
    # What jool_common exports is not the kernel's.
    own = made.unpack("modules-dev", tmp_path / "dev") / f"usr/src/kmods/{made.name}/{made.kernel}/Module.symvers"
    exported = {line.split("\t")[1] for line in own.read_text().splitlines()}
    assert bool(exported) == (made.name == "jool")
    wanted = {line for text in said for line in text.splitlines() if line.split("\t")[1] not in exported}
    assert set(lines) == wanted


def _read_as_ubuntu_drivers(field: str) -> dict[str, list[str]]:
    """Take a field Modaliases apart as detect.py of ubuntu-drivers-common does."""
    found = {}
    for part in field.split(")"):
        if part := part.strip(", "):
            module, listed = part.split("(")
            found[module] = [alias.strip() for alias in listed.split(",")]
    return found


def test_ubuntu_drivers_finds_the_package_for_a_device(intel: Made, tmp_path: Path) -> None:
    aliases = _read_as_ubuntu_drivers(intel.control(intel.modules)["Modaliases"])
    root = intel.unpack(intel.modules, tmp_path / "root")
    (file,) = root.glob("lib/modules/*/updates/e1000e/e1000e.ko")
    said = subprocess.run(["modinfo", "-F", "alias", file], capture_output=True, text=True, check=True).stdout
    assert aliases == {"e1000e": sorted(said.split())}
    device = "pci:v00008086d000010D3sv000015D9sd0000040Dbc02sc00i00"
    assert [alias for alias in aliases["e1000e"] if fnmatch.fnmatch(device, alias)]


def test_only_the_modules_are_offered_for_hardware(intel: Made, nat64: Made) -> None:
    assert [name for name in intel.packages if "Modaliases" in intel.control(name)] == [intel.modules]
    assert [name for name in nat64.packages if "Modaliases" in nat64.control(name)] == []


def test_debug_information_is_found_by_the_build_id(intel: Made, tmp_path: Path) -> None:
    need("gdb")
    root = intel.unpack(intel.modules, tmp_path / "root")
    debug = intel.unpack(f"{intel.modules}-dbgsym", tmp_path / "debug")
    (module,) = root.glob("lib/modules/*/updates/e1000e/e1000e.ko")
    (found,) = debug.glob("usr/lib/debug/.build-id/*/*.debug")
    notes = subprocess.run(["readelf", "-n", module], capture_output=True, text=True, check=True).stdout
    build_id = intel.control(f"{intel.modules}-dbgsym")["Build-Ids"]
    assert build_id in notes and build_id == found.parent.name + found.stem
    link = debug / f"usr/lib/debug/lib/modules/{intel.kernel}/updates/e1000e/e1000e.ko.debug"
    assert link.resolve() == found
    assert not [line for line in _sections(module) if line.startswith(".debug_")]
    commands = (f"set debug-file-directory {debug}/usr/lib/debug", f"file {module}", "info line e1000_probe")
    words = [word for command in commands for word in ("-ex", command)]
    said = subprocess.run(["gdb", "-nx", "-batch", *words], capture_output=True, text=True, check=True).stdout
    assert "/e1000e-6.1.1/drivers/net/ethernet/intel/e1000e/netdev.c" in said


def _sections(file: Path) -> list[str]:
    said = subprocess.run(["readelf", "-SW", file], capture_output=True, text=True, check=True).stdout
    return [word for line in said.splitlines() for word in line.split() if word.startswith(".")]


def test_firmware_with_a_space_in_its_name(intel: Made) -> None:
    facts = read_deb(intel.packages["firmware"])
    assert "/lib/firmware/updates/e1000e/sub folder/fw two.bin" in facts.files
    assert facts.control["Architecture"] == "all"
    triggers = subprocess.run(
        ["dpkg-deb", "-I", intel.packages["firmware"], "triggers"], capture_output=True, text=True, check=True
    ).stdout
    assert "activate-noawait update-initramfs\n" in triggers


def test_sources_of_dkms_hold_nothing_that_was_built(made: Made) -> None:
    names = [name for name in read_deb(made.packages["dkms"]).files if name.startswith("/usr/src/")]
    top = f"/usr/src/{made.name}-6.1.1"
    assert {f"{top}/dkms.conf", f"{top}/pkgkmod.mk", f"{top}/Kbuild"} <= set(names)
    others = (".ko", ".o", ".mod", ".symvers", ".bin")
    assert not [name for name in names if name.endswith(others) or f"{top}/debian" in name or f"{top}/.pc" in name]


def test_source_package_alone_gives_the_same_packages(intel: Made, tmp_path: Path) -> None:
    """As in a farm: no pkgkmod, the modules compiled; those for all machines, and the others, on their own."""
    (dsc,) = intel.results.glob("*.dsc")
    subprocess.run(["dpkg-source", "-q", "-x", dsc, tmp_path / "tree"], check=True, stdout=subprocess.DEVNULL)
    clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    for which, kinds in (("-A", {"dkms", "firmware"}), ("-B", set(intel.packages) - {"dkms", "firmware"})):
        shutil.copytree(tmp_path / "tree", tmp_path / which / "tree", symlinks=True)
        argv = ["dpkg-buildpackage", "-us", "-uc", "-d", which]
        # The build's dependencies are not looked for: not all of them are packages where this test runs.
        done = subprocess.run(
            argv, cwd=tmp_path / which / "tree", env=clean, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        again = {file.name.split("_")[0].removeprefix("e1000e-"): file for file in (tmp_path / which).glob("*.deb")}
        assert set(again) == kinds
        assert [name for name in again if again[name].read_bytes() != intel.packages[name].read_bytes()] == []


def test_no_debug_packages_where_the_builder_wants_none(intel: Made, tmp_path: Path) -> None:
    (dsc,) = intel.results.glob("*.dsc")
    subprocess.run(["dpkg-source", "-q", "-x", dsc, tmp_path / "tree"], check=True, stdout=subprocess.DEVNULL)
    prebuilt = tmp_path / "prebuilt" / intel.kernel
    prebuilt.mkdir(parents=True)
    for file in intel.folder.glob("results/build_modules/*/*/*/*"):
        if file.suffix in (".ko", ".symvers"):
            shutil.copy(file, prebuilt)
    options = {"DEB_BUILD_OPTIONS": "noautodbgsym nocheck", "KMOD_PREBUILT": str(prebuilt.parent)}
    argv = ["dpkg-buildpackage", "-us", "-uc", "-d", "-B"]
    done = subprocess.run(argv, cwd=tmp_path / "tree", env={**os.environ, **options}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    names = [file.name for file in tmp_path.glob("*.deb")]
    assert names and not [name for name in names if "dbgsym" in name]

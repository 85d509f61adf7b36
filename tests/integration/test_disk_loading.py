"""What is said of driver disks when the kernels of installers are here: real packages of real modules, real kernels."""

from pathlib import Path

import pytest

from pkgkmod.kernels.tree import read_kernel
from tests.fixtures.archive_modules import archive_driver
from tests.fixtures.machine import need, pkgkmod
from tests.fixtures.smallrpms import kmod_rpm


def symvers(uname_r):
    return Path(f"/lib/modules/{uname_r}/build/Module.symvers").read_text()


@pytest.fixture
def other(kernel):
    """A later installed kernel that has other symbols."""
    release = read_kernel(Path(f"/lib/modules/{kernel}/build"), "test").release
    for place in sorted(Path("/lib/modules").glob("*/build")):
        found = read_kernel(place, "test")
        later = found.release > release and found.release.flavour == release.flavour
        if later and symvers(found.uname_r) != symvers(kernel):
            return found.uname_r
    return pytest.skip(f"no kernel later than {kernel} is installed")


@pytest.fixture
def jool(kernel, tmp_path):
    """Two packages that installers with this kernel or a later one take: jool_common, and what needs it."""
    need("rpmbuild")
    modules = archive_driver("jool-dkms", kernel).modules
    common = [file for file in modules if file.name == "jool_common.ko"]
    place, provides = f"lib/modules/{kernel}/extra", f"kernel-modules >= {kernel.replace('-amd64', '_amd64')}"
    base = kmod_rpm(tmp_path, "kmod-common", common, place, provides)
    return base, kmod_rpm(tmp_path, "kmod-user", [one for one in modules if one not in common], place, provides)


def codes(*packages, cwd, installer, code):
    words = ("--distro", "el9", "--installer", installer)
    done = pkgkmod("iso", "check", *packages, *words, "--json", cwd=cwd, code=code)
    return {event["code"]: event for event in done.events if event["event"] == "finding"}


def test_an_installer_whose_kernel_takes_the_modules(jool, kernel, tmp_path):
    assert not {"DISK013", "DISK014"} & set(codes(*jool, cwd=tmp_path, installer=kernel, code=0))


def test_an_installer_that_takes_a_package_whose_modules_its_kernel_refuses(jool, other, tmp_path):
    found = codes(*jool, cwd=tmp_path, installer=other, code=21)["DISK013"]
    assert f"the installer with the kernel {other} takes it, and its kernel refuses jool" in found["text"]
    assert "module_layout: CRC" in found["text"]
    assert f"build it for {other}" in found["cure"]


def test_a_module_of_another_driver_that_is_not_on_the_disk(jool, kernel, tmp_path):
    found = codes(jool[1], cwd=tmp_path, installer=kernel, code=21)
    assert "jool needs the module jool_common, which is neither on the disk nor" in found["DISK014"]["text"]
    assert "nobody exports it" in found["DISK013"]["text"]


def test_a_disk_is_refused(jool, kernel, other, tmp_path):
    need("xorriso", "createrepo_c")
    words = ("--distro", "el9", "--installer", other)
    said = pkgkmod("build_iso", *jool, "-i", "a.iso", *words, cwd=tmp_path, code=21).err
    assert "DISK013" in said
    assert not (tmp_path / "a.iso").exists()
    pkgkmod("build_iso", *jool, "-i", "a.iso", *words, "--ignore", "DISK013", cwd=tmp_path)
    said = pkgkmod("iso", "check", "a.iso", "--installer", other, cwd=tmp_path, code=21).out
    assert "DISK013" in said
    pkgkmod("iso", "check", "a.iso", "--installer", kernel, cwd=tmp_path)

"""Packages in a Debian system of their own: real kernels of two generations, the real dpkg, apt, depmod and dkms.

The driver has the name of one of the kernel's own modules, dummy.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.debroots import FLAVOUR, Kernels, Machine, kernels, machine
from tests.fixtures.machine import Driver, commit, hello, lacking, pkgkmod
from tests.fixtures.matrix import small_cache

OURS = "updates/dummy/dummy.ko"
DKMS = "updates/dkms/dummy.ko"
THEIRS = "kernel/drivers/net/dummy.ko"


@pytest.fixture(scope="module")
def known() -> Kernels:
    if os.getuid():
        lacking("packages can be installed in a system of their own as root only")
    return kernels()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    made = hello(tmp_path_factory.mktemp("driver") / "git")
    folder = made.repository / "drivers/net/dummy"
    shutil.copytree(made.repository / made.directory, folder)
    (folder / "Makefile").write_text("obj-m += dummy.o\ndummy-y := main.o\n")
    # As nearly all of the kernel's own, it has no version: dkms takes two without one for the same.
    source = folder / "main.c"
    source.write_text("".join(line for line in source.open() if "MODULE_VERSION" not in line))
    return Driver("dummy", made.repository, "drivers/net/dummy", commit(made.repository))


def build(folder: Path, driver: Driver, releases: tuple[str, ...], version: str, more: str = "") -> dict[str, Path]:
    """Build a version of the driver for some kernels of the archive; return its packages by name."""
    folder.mkdir(parents=True)
    (folder / "pkgkmod.toml").write_text(
        f"""
[project]
name = "{driver.name}"
version = "{version}"
[source]
repository = "{driver.repository}"
revision = "{driver.commit}"
directories = ["{driver.directory}"]
[plugin.apt]
archives = ["machine"]
[[target]]
distro = "debian12"
kernels = {list(releases)}
[deb]
dkms = true
{more}
"""
    )
    pkgkmod("build_deb", cwd=folder, XDG_CACHE_HOME=str(small_cache(folder.parent / "cache")))
    return {file.name.split("_")[0]: file for file in folder.glob("results/build_deb/*/*/*/*.deb")}


@pytest.fixture(scope="module")
def first(driver: Driver, known: Kernels, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("first") / "p", driver, (known.older,), "1.0")


@pytest.fixture(scope="module")
def second(driver: Driver, known: Kernels, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("second") / "p", driver, (known.older, known.newer), "1.1")


@pytest.fixture
def system(known: Kernels, tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path, known) as made:
        yield made


def test_install_upgrade_remove_reinstall_purge(
    system: Machine, known: Kernels, first: dict[str, Path], second: dict[str, Path]
) -> None:
    kernel, package = known.older, f"dummy-modules-{known.older}"
    before = system.run("sh", "-c", "find /lib/modules /boot /usr/lib/depmod.d 2>/dev/null || :")
    system.apt("install", f"linux-image-{kernel}")
    assert system.module(kernel, "dummy") == THEIRS
    system.calls()

    system.publish(first[package])
    system.apt("install", package)
    assert system.module(kernel, "dummy") == OURS
    assert system.calls() == [f"update-initramfs -u -k {kernel}"]

    system.publish(second[package])
    system.apt("upgrade")
    assert system.version(package) == "1.1-1~deb12"
    assert system.module(kernel, "dummy") == OURS
    assert system.calls() == [f"update-initramfs -u -k {kernel}"]

    for word in ("remove", "install", "purge"):
        system.apt(word, package)
        assert system.module(kernel, "dummy") == (OURS if word == "install" else THEIRS)
        assert system.calls() == [f"update-initramfs -u -k {kernel}"]
    system.apt("install", package)
    system.run("dpkg-reconfigure", package)
    system.apt("install", "--reinstall", package)
    assert system.module(kernel, "dummy") == OURS
    # The kernel and its modules together, and nothing is left.
    system.apt("purge", package, f"linux-image-{kernel}")
    assert system.run("sh", "-c", "find /lib/modules /boot /usr/lib/depmod.d 2>/dev/null || :") == before


def test_a_system_without_the_kernel(system: Machine, known: Kernels, second: dict[str, Path]) -> None:
    package = f"dummy-modules-{known.newer}"
    system.publish(second[package])
    before = system.run("find", "/lib/modules", "/boot")
    for _ in range(2):
        system.run("dpkg", "--force-depends", "-i", f"/packages/{second[package].name}")
        assert "modules.dep" not in system.run("ls", f"/lib/modules/{known.newer}")
    system.run("dpkg", "--purge", package)
    assert system.run("find", "/lib/modules", "/boot") == before
    assert system.calls() == []


def test_nothing_fails_where_depmod_and_the_stand_in_for_initramfs_tools_do(
    system: Machine, known: Kernels, second: dict[str, Path]
) -> None:
    package = f"dummy-modules-{known.newer}"
    system.publish(*known.packages(known.newer), second[package])
    system.apt("install", f"linux-image-{known.newer}")
    system.run("touch", "/etc/fail-on-purpose")
    system.run("dpkg-divert", "--rename", "/usr/sbin/depmod")
    system.run("sh", "-c", "printf '#!/bin/sh\nexit 1\n' > /usr/sbin/depmod; chmod 755 /usr/sbin/depmod")
    for words in (("install",), ("install", "--reinstall"), ("remove",)):
        said = system.apt(*words, package)
        assert f"{package}: depmod failed for {known.newer}" in said
        assert f"{package}: no new initramfs for {known.newer}" in said
    system.run("rm", "/usr/sbin/depmod")
    system.apt("purge", package)


def test_apt_upgrade_brings_kernel_and_modules_together(
    system: Machine, known: Kernels, first: dict[str, Path], second: dict[str, Path]
) -> None:
    meta, kernel_meta = f"dummy-modules-{FLAVOUR}", f"linux-image-{FLAVOUR}"
    system.publish(*first.values())
    system.apt("install", meta, kernel_meta)
    assert system.version(kernel_meta) == known.older_version
    assert system.module(known.older, "dummy") == OURS

    system.publish(*known.packages(known.newer), *second.values())
    system.run("apt", "-y", "upgrade")
    assert (system.version(meta), system.version(kernel_meta)) == ("1.1-1~deb12", known.newer_version)
    assert [system.module(release, "dummy") for release in (known.older, known.newer)] == [OURS, OURS]
    # An older kernel goes with its modules, or stays with them.
    gone = system.apt("autoremove", "-s")
    assert (f"Remv linux-image-{known.older} " in gone) == (f"Remv dummy-modules-{known.older} " in gone)
    assert f"Remv dummy-modules-{known.newer} " not in gone


def test_a_newer_kernel_waits_for_its_modules_only_if_the_project_says_so(
    system: Machine,
    known: Kernels,
    driver: Driver,
    second: dict[str, Path],
    tmp_path: Path,
) -> None:
    held = build(tmp_path / "held", driver, (known.older,), "1.0", "hold_kernel = true")
    meta, kernel_meta = f"dummy-modules-{FLAVOUR}", f"linux-image-{FLAVOUR}"
    system.publish(*held.values())
    system.apt("install", meta, kernel_meta)
    system.publish(*known.packages(known.newer))
    assert "kept back" in system.run("apt", "-y", "upgrade")
    assert system.version(kernel_meta) == known.older_version
    system.publish(*second.values())
    system.run("apt", "-y", "upgrade")
    assert system.version(kernel_meta) == known.newer_version
    assert system.module(known.newer, "dummy") == OURS


# --- dkms, with its own hooks of kernel packages ----------------------------------------------------


def test_dkms_builds_for_two_kernels_and_finished_modules_win(
    system: Machine, known: Kernels, first: dict[str, Path], second: dict[str, Path]
) -> None:
    older, newer = known.older, known.newer
    system.publish(*known.packages(newer), first["dummy-dkms"], *second.values())
    system.apt("install", f"linux-image-{older}", f"linux-image-{newer}")
    system.run("dpkg", "-i", f"/packages/{first['dummy-dkms'].name}")
    assert [system.module(kernel, "dummy") for kernel in (older, newer)] == [DKMS, DKMS]
    status = system.run("dkms", "status")
    assert all(f"dummy/1.0, {kernel}, x86_64: installed" in status for kernel in (older, newer))

    system.apt("install", f"dummy-modules-{newer}")
    assert [system.module(kernel, "dummy") for kernel in (older, newer)] == [DKMS, OURS]
    # The next version of the sources leaves out the kernel that has a package.
    system.apt("install", "dummy-dkms")
    assert f"dummy/1.1, {newer}" not in system.run("dkms", "status")
    assert [system.module(kernel, "dummy") for kernel in (older, newer)] == [DKMS, OURS]
    # Without the package, dkms fills the gap.
    system.apt("remove", f"dummy-modules-{newer}")
    assert [system.module(kernel, "dummy") for kernel in (older, newer)] == [DKMS, DKMS]
    system.apt("purge", "dummy-dkms")
    assert [system.module(kernel, "dummy") for kernel in (older, newer)] == [THEIRS, THEIRS]
    assert "dummy" not in system.run("ls", "/usr/src", "/var/lib/dkms")


def test_dkms_does_not_hinder_a_kernel_that_comes_with_its_modules(
    system: Machine, known: Kernels, second: dict[str, Path]
) -> None:
    system.publish(*known.packages(known.newer), *second.values())
    system.apt("install", f"linux-image-{known.older}", "dummy-dkms")
    assert system.module(known.older, "dummy") == DKMS
    # The modules are unpacked before the hooks of the kernel's package run.
    system.apt("install", f"linux-image-{known.newer}", f"dummy-modules-{known.newer}")
    assert system.module(known.newer, "dummy") == OURS
    assert system.run("dpkg", "--audit") == ""
    system.apt("remove", f"dummy-modules-{known.newer}")
    assert system.module(known.newer, "dummy") == DKMS

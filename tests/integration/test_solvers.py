"""Whether dnf and zypper accept packages of kernel modules. The solvers are real; the kernels are stubs, with the
symbols of a real one.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fixtures import stubkernels
from tests.fixtures.archive_drivers import jool
from tests.fixtures.families import Made, ask, family
from tests.fixtures.machine import pkgkmod
from tests.fixtures.otherroots import kernels_in, run_in, trixie
from tests.fixtures.rpmroots import ScratchRoot, dnf, repository, zypper
from tests.fixtures.stubkernels import EL_NEXT, Package

SYMBOLS = ("kfree", "drmm_kfree")  # of vmlinux, and of a module


def package(folder, name, *requires):
    stubkernels.build(folder, "1.0-1", Package(name, requires=requires))
    return folder / f"x86_64/{name}-1.0-1.x86_64.rpm"


def red_hat_kmod(folder):
    crcs = stubkernels.red_hat().symbols
    needs = [f"kernel({name}) = {crcs[name]}" for name in SYMBOLS]
    return package(folder, "kmod-hand-written", *needs, "/usr/sbin/depmod", "/usr/sbin/weak-modules")


def suse_kmp(folder):
    crcs = stubkernels.suse().symbols
    needs = [f"ksym(default:{name}) = {int(crcs[name], 16):x}" for name in SYMBOLS]
    return package(folder, "hand-written-kmp-default", *needs, "suse-kernel-rpm-scriptlets")


@pytest.fixture
def solve(tmp_path):
    """Run a solver on a repository of packages, in a root where nothing is installed."""

    def run(solver, *packages, words=("install", "kmod-hand-written")):
        place = repository(tmp_path / "repository", stubkernels.base_system(), *packages)
        return solver(ScratchRoot(tmp_path / "root"), place, *words)

    return run


@pytest.mark.parametrize("solver", [dnf, zypper])
def test_a_hand_written_kmod_installs_with_the_stub_kernel_it_was_made_for(solve, tmp_path, solver):
    done = solve(solver, red_hat_kmod(tmp_path), *stubkernels.red_hat().packages)
    assert done.accepted, done.text
    assert done.names() == {"base-system", "kernel-core", "kernel-modules-core", "kmod-hand-written"}


@pytest.mark.parametrize(("variant", "symbol"), [("changed", SYMBOLS[0]), ("missing", SYMBOLS[1])])
@pytest.mark.parametrize("solver", [dnf, zypper])
def test_a_stub_kernel_with_other_symbols_is_refused_by_name_of_the_symbol(solve, tmp_path, solver, variant, symbol):
    kernel = stubkernels.red_hat(**{variant: (symbol,)})
    done = solve(solver, red_hat_kmod(tmp_path), *kernel.packages)
    assert not done.accepted
    crc = stubkernels.red_hat().symbols[symbol]
    assert f"nothing provides kernel({symbol}) = {crc} needed by kmod-hand-written-1.0-1.x86_64" in done.text
    assert not done.installed


@pytest.mark.parametrize("solver", [dnf, zypper])
def test_of_two_stub_kernels_the_one_with_the_right_symbols_is_taken(solve, tmp_path, solver):
    wrong = stubkernels.red_hat(EL_NEXT, changed=("kfree",))
    done = solve(solver, red_hat_kmod(tmp_path), *wrong.packages, *stubkernels.red_hat().packages)
    assert done.accepted, done.text
    kernels = [one for one in done.installed if one.startswith("kernel-core")]
    assert kernels == ["kernel-core-5.14.0-427.13.1.el9_4.x86_64"]


@pytest.mark.parametrize("solver", [dnf, zypper])
def test_a_hand_written_kmp_installs_with_the_stub_kernel_of_suse_it_was_made_for(solve, tmp_path, solver):
    words = ("install", "hand-written-kmp-default")
    done = solve(solver, suse_kmp(tmp_path), *stubkernels.suse().packages, words=words)
    assert done.accepted, done.text
    assert done.names() == {"base-system", "kernel-default", "hand-written-kmp-default"}


@pytest.mark.parametrize("variant", ["changed", "missing"])
@pytest.mark.parametrize("solver", [dnf, zypper])
def test_a_stub_kernel_of_suse_with_other_symbols_is_refused_by_name(solve, tmp_path, solver, variant):
    kernel = stubkernels.suse(**{variant: ("kfree",)})
    words = ("install", "hand-written-kmp-default")
    done = solve(solver, suse_kmp(tmp_path), *kernel.packages, words=words)
    assert not done.accepted
    crc = int(stubkernels.suse().symbols["kfree"], 16)
    assert f"nothing provides ksym(default:kfree) = {crc:x} needed by hand-written-kmp-default" in done.text


@pytest.mark.parametrize("solver", [dnf, zypper])
def test_a_release_of_suse_with_two_dashes_is_found_by_a_solver(solve, tmp_path, solver):
    """Of the spelling `kernel-uname-r = RELEASE` rpmbuild says by default that it is an error; solvers take it."""
    wanted = package(tmp_path, "by-release", f"kernel-uname-r = {stubkernels.SUSE}")
    other = package(tmp_path, "by-other-release", f"kernel-uname-r = {stubkernels.SUSE_NEXT}")
    packages = (wanted, other, *stubkernels.suse().packages)
    refused = solve(solver, *packages, words=("install", "by-other-release"))
    assert f"nothing provides kernel-uname-r = {stubkernels.SUSE_NEXT}" in refused.text
    assert solve(solver, *packages, words=("install", "by-release")).accepted


@pytest.mark.parametrize("solver", [dnf, zypper])
def test_a_package_for_one_stub_kernel_of_fedora_brings_that_kernel(solve, tmp_path, solver):
    kernels = [stubkernels.fedora(), stubkernels.fedora("6.11.5-300.fc41.x86_64")]
    wanted = package(tmp_path, "kmod-hand-written", f"kernel-uname-r = {stubkernels.FEDORA}")
    done = solve(solver, wanted, *(file for kernel in kernels for file in kernel.packages))
    assert done.accepted, done.text
    assert [one for one in done.installed if one.startswith("kernel-core")] == ["kernel-core-6.11.4-301.fc41.x86_64"]


def test_dnf_removes_a_kmod_with_the_last_stub_kernel_that_has_its_symbols(tmp_path):
    root = ScratchRoot(tmp_path / "root")
    packages = (stubkernels.base_system(), red_hat_kmod(tmp_path), *stubkernels.red_hat().packages)
    place = repository(tmp_path / "repository", *packages)
    assert dnf(root, place, "install", "base-system", "kmod-hand-written").accepted
    assert dnf(root, place, "remove", "kernel-core").names() == {"base-system"}


FAMILIES = {
    "el9": (stubkernels.red_hat, "kmod-{}", "kernel({}) = 0x{:08x}"),
    "sle15sp6": (stubkernels.suse, "{}-kmp-default", "ksym(default:{}) = {:x}"),
}


def built(folder, driver, target):
    """Build the package of a driver for a target."""
    project = family(folder / "project", driver, target)
    pkgkmod("build_rpm", cwd=project)
    return Made(project, target).packages[FAMILIES[target][1].format(driver.name)]


def check_solvers(folder, driver, target, symbol):
    """Assert that both solvers take a package for a kernel that has its symbols, and not for one that lacks one."""
    kernel, name, spelled = FAMILIES[target]
    file, name = built(folder, driver, target), name.format(driver.name)
    needed = spelled.format(symbol, int(kernel().symbols[symbol], 16))
    for solver in (dnf, zypper):
        place = folder / solver.__name__
        fitting = repository(place / "fitting", stubkernels.base_system(), file, *kernel().packages)
        done = solver(ScratchRoot(place / "accepts"), fitting, "install", name)
        assert done.accepted, done.text
        assert name in done.names()
        other = repository(place / "other", stubkernels.base_system(), file, *kernel(changed=(symbol,)).packages)
        done = solver(ScratchRoot(place / "refuses"), other, "install", name)
        assert not done.accepted
        assert f"nothing provides {needed} needed by {name}-" in done.text


@pytest.mark.parametrize("target", FAMILIES)
def test_our_package_is_accepted_and_refused_by_the_symbols_of_a_stub_kernel(tmp_path, hello, target):
    check_solvers(tmp_path, hello, target, "_printk")


@pytest.mark.slow
@pytest.mark.parametrize("target", FAMILIES)
def test_jool_whose_modules_need_each_other_is_accepted_and_refused(tmp_path, target):
    driver = jool()
    check_solvers(tmp_path, driver, target, "kmem_cache_alloc")
    modules = Made(tmp_path / "project", target).modules
    assert {Path(name).stem for name in modules} == set(driver.modules)
    for name in ("jool.ko", "jool_siit.ko"):
        argv = ["modinfo", "-F", "depends", modules[name]]
        needs = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        assert "jool_common" in needs.strip().split(",")


@pytest.mark.slow
@pytest.mark.parametrize("target", FAMILIES)
def test_rpm_4_20_of_debian_13_builds_our_source_package_with_the_same_kind_of_requirements(tmp_path, hello, target):
    root = trixie()
    (release,) = kernels_in(root)
    assert run_in(root, ["rpm", "--version"], tmp_path).startswith("RPM version 4.20")
    built(tmp_path, hello, target)
    shutil.copy(Made(tmp_path / "project", target).packages["src"], tmp_path / "it.src.rpm")
    (tmp_path / "trees").mkdir()
    (tmp_path / "trees" / release).symlink_to(f"/usr/src/linux-headers-{release}")
    defines = {"_topdir": "/build", "kernels": release, "kernel_trees": "/build/trees"}
    words = [word for name, value in defines.items() for word in ("--define", f"{name} {value}")]
    run_in(root, ["rpmbuild", "--rebuild", "--nodeps", *words, "it.src.rpm"], tmp_path)
    (package,) = tmp_path.glob("RPMS/x86_64/*.rpm")
    symvers = (root / f"usr/src/linux-headers-{release}/Module.symvers").read_text().splitlines()
    crc = next(int(line.split("\t")[0], 16) for line in symvers if line.split("\t")[1] == "_printk")
    wanted = FAMILIES[target][2].replace("default", "amd64").format("_printk", crc)
    assert wanted in ask(package, "--requires")
    assert "/hello/hello.ko" in "".join(ask(package, "-l"))
    assert not (root / "build").exists()

"""Fedora's packages, for kernels of Fedora's shape: real headers of Debian in its names and places."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pkgkmod.formats.rpm import read_header
from tests.fixtures import stubkernels
from tests.fixtures.archive_drivers import jool
from tests.fixtures.fedorakernels import FEDORA, ask, built, by_name
from tests.fixtures.machine import Driver, e1000e, hello
from tests.fixtures.otherroots import kernels_in, run_in, trixie
from tests.fixtures.rpmroots import ScratchRoot, dnf, repository

OLD, NEW = FEDORA
# Fedora's kmod has this file; Debian's depmod does not know extra/.
SEARCH = "search updates extra built-in weak-updates\n"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    return hello(tmp_path_factory.mktemp("driver") / "git")


@pytest.fixture(scope="module")
def packages(driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return built(tmp_path_factory.mktemp("fedora") / "project", driver)


@pytest.fixture(scope="module")
def newer(driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return built(tmp_path_factory.mktemp("newer") / "project", driver, head='version = "1.1"')


def modules(packages: dict[str, Path], *kernels: str) -> list[Path]:
    return [packages["hello-kmod-common"], *(packages[f"kmod-hello-{kernel}"] for kernel in kernels)]


def unpack(package: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    archive = subprocess.run(["rpm2cpio", package], capture_output=True, check=True).stdout
    subprocess.run(["cpio", "-idm", "--quiet"], input=archive, cwd=folder, check=True)


@pytest.fixture
def root(tmp_path: Path) -> ScratchRoot:
    made = ScratchRoot(tmp_path / "root")
    (made / "usr/lib/depmod.d").mkdir(parents=True, exist_ok=True)
    (made / "usr/lib/depmod.d/dist.conf").write_text(SEARCH)
    for kernel in FEDORA:
        made.add_kernel(kernel)
    return made


# --- what is in them --------------------------------------------------------------------------------


def test_which_packages_are_made(packages: dict[str, Path]) -> None:
    assert set(packages) == {"src", "hello-kmod-common", "kmod-hello", *(f"kmod-hello-{kernel}" for kernel in FEDORA)}
    assert packages["src"].name.startswith("hello-kmod-1.0-1.fc45.src")
    assert packages["hello-kmod-common"].name.endswith(".noarch.rpm")
    assert read_header(packages["kmod-hello"]).files == ()


@pytest.mark.parametrize("kernel", FEDORA)
def test_each_kernel_has_modules_of_its_own(kernel: str, packages: dict[str, Path], tmp_path: Path) -> None:
    header = read_header(packages[f"kmod-hello-{kernel}"])
    folder = f"/lib/modules/{kernel}/extra/hello"
    assert header.files == (folder, f"{folder}/hello.ko.xz")
    unpack(packages[header.name], tmp_path / "root")
    module = tmp_path / "root" / folder.lstrip("/") / "hello.ko.xz"
    vermagic = subprocess.run(["modinfo", "-F", "vermagic", module], capture_output=True, text=True, check=True)
    assert vermagic.stdout.split()[0] == kernel
    # The kernel reads no other check than this.
    listed = subprocess.run(["xz", "--robot", "--list", module], capture_output=True, text=True, check=True)
    assert "CRC32" in listed.stdout
    assert module.stat().st_mode & 0o777 == 0o644


def test_dependencies(packages: dict[str, Path]) -> None:
    header = read_header(packages[f"kmod-hello-{NEW}"])
    provided = {f"kernel-modules-for-kernel = {NEW}", f"kernel-modules = {NEW}", "hello-kmod = 1.0-1.fc45"}
    assert provided | {"kmod(hello.ko)"} <= set(header.provides)
    assert {f"kernel-uname-r = {NEW}", "hello-kmod-common >= 1.0", "/usr/sbin/depmod"} <= set(header.requires)
    # Fedora's kernels provide no symbols, and weak-modules has nothing to do there.
    assert not [one for one in header.requires if one.startswith(("kernel(", "ksym("))]
    assert not [one for one in header.requires if "weak-modules" in one]
    assert f"kmod-hello-{NEW} = 1.0-1.fc45" in read_header(packages["kmod-hello"]).requires


def test_packages_are_compressed_as_installers_read_them(packages: dict[str, Path]) -> None:
    for package in packages.values():
        assert ask(package, "--qf", "%{PAYLOADCOMPRESSOR} %{PAYLOADFLAGS}") == ["xz 2"]


# --- installing, upgrading, removing ----------------------------------------------------------------


def test_installing_for_two_kernels(packages: dict[str, Path], root: ScratchRoot) -> None:
    root.install(*modules(packages, *FEDORA))
    calls = root.log()
    assert sorted(str(call) for call in calls if call.program == "depmod") == [f"depmod -a {k}" for k in FEDORA]
    assert [str(call) for call in calls if call.program != "depmod"] == [
        f"dracut -f /boot/initramfs-{kernel}.img {kernel}" for kernel in FEDORA
    ]
    # The initramfs is made when everything is in place.
    assert all(any(f"/{kernel}/extra/hello/" in file for file in calls[-2].files) for kernel in FEDORA)
    assert not [path for path in root.files() if "rpm-state" in path]
    for kernel in FEDORA:
        assert root.module_file(kernel, "hello") == f"/lib/modules/{kernel}/extra/hello/hello.ko.xz"


def test_drivers_of_one_transaction_share_the_initramfs(packages: dict[str, Path], root: ScratchRoot) -> None:
    # What the %post of two other drivers has left, in the forms of Fedora's and of Red Hat's packages.
    state = root / "var/lib/rpm-state/pkgkmod/initramfs"
    state.mkdir(parents=True)
    (state / f"kmod-other-{NEW}").write_text(f"{NEW} -\n")
    (state / "kmod-third").write_text(f"{OLD} weak-updates/third\n")
    root.install(*modules(packages, NEW))
    assert [str(call) for call in root.log("dracut")] == [
        f"dracut -f /boot/initramfs-{kernel}.img {kernel}" for kernel in FEDORA
    ]
    assert not state.exists()


def test_a_kernel_without_an_initramfs_gets_none(packages: dict[str, Path], root: ScratchRoot) -> None:
    (root / f"boot/initramfs-{OLD}.img").unlink()
    root.install(*modules(packages, OLD))
    assert [str(call) for call in root.log()] == [f"depmod -a {OLD}"]


@pytest.mark.parametrize("other", ["updates", "updates/acme", "extra", "kernel/drivers/misc", "weak-updates/hello"])
def test_depmod_prefers_these_modules_to_all_others(other: str, packages: dict[str, Path], root: ScratchRoot) -> None:
    place = root / f"lib/modules/{NEW}/{other}"
    place.mkdir(parents=True, exist_ok=True)
    unpack(packages[f"kmod-hello-{NEW}"], root.folder.with_name("unpacked"))
    (module,) = root.folder.with_name("unpacked").rglob("hello.ko.xz")
    shutil.copy(module, place)
    root.install(*modules(packages, NEW))
    assert root.module_file(NEW, "hello") == f"/lib/modules/{NEW}/extra/hello/hello.ko.xz"
    root.erase(f"kmod-hello-{NEW}")
    # Without these modules, that they were preferred has no effect.
    assert root.module_file(NEW, "hello") == f"/lib/modules/{NEW}/{other}/hello.ko.xz"


def test_upgrading(packages: dict[str, Path], newer: dict[str, Path], root: ScratchRoot) -> None:
    root.install(*modules(packages, *FEDORA))
    root.forget()
    root.upgrade(*modules(newer, *FEDORA))
    assert [str(call) for call in root.log("dracut")] == [
        f"dracut -f /boot/initramfs-{kernel}.img {kernel}" for kernel in FEDORA
    ]
    for kernel in FEDORA:
        assert root.module_file(kernel, "hello").endswith("/extra/hello/hello.ko.xz")
    assert not [path for path in root.files() if "rpm-state" in path]


def test_removing_for_one_kernel(packages: dict[str, Path], root: ScratchRoot) -> None:
    root.install(*modules(packages, *FEDORA))
    root.forget()
    root.erase(f"kmod-hello-{OLD}")
    assert [str(call) for call in root.log()] == [f"depmod -a {OLD}", f"dracut -f /boot/initramfs-{OLD}.img {OLD}"]
    assert root.module_file(OLD, "hello") == ""
    assert root.module_file(NEW, "hello").endswith("/extra/hello/hello.ko.xz")
    root.erase(f"kmod-hello-{NEW}", "hello-kmod-common")
    # Fedora's kernels own the folder above.
    assert root.files() == {f"/usr/lib/modules/{kernel}/extra" for kernel in FEDORA}


def test_removing_takes_no_time_for_an_initramfs_without_the_modules(
    packages: dict[str, Path], root: ScratchRoot
) -> None:
    root.stand_in("/usr/bin/lsinitrd", does="echo usr/lib/modules/1/kernel/hello.ko.xz\n")
    root.install(*modules(packages, OLD, NEW))
    root.forget()
    root.erase(f"kmod-hello-{OLD}")
    assert not root.log("dracut")
    root.stand_in("/usr/bin/lsinitrd", does=f"echo usr/lib/modules/{NEW}/extra/hello/hello.ko.xz\n")
    root.erase(f"kmod-hello-{NEW}")
    assert [str(call) for call in root.log("dracut")] == [f"dracut -f /boot/initramfs-{NEW}.img {NEW}"]


def test_no_transaction_fails_because_of_a_tool(packages: dict[str, Path], root: ScratchRoot) -> None:
    for tool in ("/usr/sbin/depmod", "/usr/bin/dracut"):
        root.stand_in(tool, code=1)
    root.install(*modules(packages, NEW))
    root.erase(f"kmod-hello-{NEW}")
    root.without("/usr/sbin/depmod", "/usr/bin/dracut")
    root.install(packages[f"kmod-hello-{NEW}"])
    shutil.rmtree(root / f"lib/modules/{NEW}")
    root.erase(f"kmod-hello-{NEW}")


# --- dnf --------------------------------------------------------------------------------------------


def test_dnf_installs_the_newest_kernel_with_its_modules(packages: dict[str, Path], tmp_path: Path) -> None:
    kernels = [stubkernels.fedora(kernel) for kernel in FEDORA]
    files = [file for kernel in kernels for file in kernel.packages]
    offered = [file for name, file in packages.items() if name != "src"]
    place = repository(tmp_path / "repository", stubkernels.base_system(), *files, *offered)
    root = ScratchRoot(tmp_path / "root")
    done = dnf(root, place, "install", "kmod-hello")
    assert done.accepted, done.text
    assert {"kmod-hello", f"kmod-hello-{NEW}", "hello-kmod-common", "kernel-core"} <= done.names()
    assert f"kmod-hello-{OLD}" not in done.names()
    assert root.module_file(NEW, "hello") == f"/lib/modules/{NEW}/extra/hello/hello.ko.xz"


def test_dnf_refuses_modules_whose_kernel_is_nowhere(packages: dict[str, Path], tmp_path: Path) -> None:
    kernel = stubkernels.fedora(OLD)
    offered = [file for name, file in packages.items() if name != "src"]
    place = repository(tmp_path / "repository", stubkernels.base_system(), *kernel.packages, *offered)
    done = dnf(ScratchRoot(tmp_path / "root"), place, "install", "kmod-hello")
    assert not done.accepted
    assert f"nothing provides kernel-uname-r = {NEW}" in done.text


@pytest.mark.slow
@pytest.mark.parametrize(("real", "names"), [(e1000e, {"e1000e"}), (jool, {"jool", "jool_common", "jool_siit"})])
def test_real_drivers(real: Callable[[], Driver], names: set[str], tmp_path: Path) -> None:
    driver = real()
    made = built(tmp_path / "project", driver)
    for kernel in FEDORA:
        header = read_header(made[f"kmod-{driver.name}-{kernel}"])
        folder = f"/lib/modules/{kernel}/extra/{driver.name}"
        assert {file for file in header.files if file.endswith(".xz")} == {f"{folder}/{name}.ko.xz" for name in names}
        assert {f"kmod({name}.ko)" for name in names} <= set(header.provides)


@pytest.mark.slow
def test_the_source_package_with_the_rpm_of_debian_13(driver: Driver, tmp_path: Path) -> None:
    made = built(tmp_path / "project", driver, "[rpm]\nakmod = true\ndkms = true\n")
    root = trixie()
    folder = tmp_path / "build"
    (folder / "trees").mkdir(parents=True)
    real = f"/usr/lib/modules/{kernels_in(root)[0]}/build"
    for kernel in FEDORA:
        (folder / "trees" / kernel).symlink_to(real)
    shutil.copy(made["src"], folder / "hello.src.rpm")
    defines = ("--define", "_topdir /build/top", "--define", "kernel_trees /build/trees")
    run_in(root, ["rpmbuild", "--rebuild", "--nodeps", *defines, "hello.src.rpm"], folder)
    again = by_name(*folder.glob("top/RPMS/*/*.rpm"))
    assert set(again) == set(made) - {"src"}
    for name, package in again.items():
        assert read_header(package).files == read_header(made[name]).files

"""Disks that Debian's own script reads, whose packages its udpkg unpacks, and dpkg installs in the new system.

What stands in for what is said in tests/fixtures/debianinstaller.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pkgkmod.command import run
from pkgkmod.data.distros import find_distro
from pkgkmod.media.carriers.iso import write_iso
from pkgkmod.media.carriers.usb import Partition, write_usb
from pkgkmod.media.layouts.debian import DebianLayout, UbuntuLayout, autoinstall
from pkgkmod.media.packages import read_packages
from pkgkmod.model.disk import DiskRelease
from pkgkmod.model.packaging import Disk
from pkgkmod.plugins import DiskDraft
from pkgkmod.progress import Progress
from tests.fixtures.debianinstaller import cloud_init, installer, make_deb, modules_deb, yaml_as_json
from tests.fixtures.kabitrees import compiled_hello
from tests.fixtures.machine import need, series_and_kernel

OTHER = "6.12.99+deb13-amd64"
EPOCH = 1_700_000_000


def quietly(command):
    return run(command, log=Path("/dev/null"), progress=Progress())


def releases(**packages: list[Path]) -> list[DiskRelease]:
    return [
        DiskRelease(find_distro(name), read_packages(paths, quietly, Progress())) for name, paths in packages.items()
    ]


def written(folder: Path, ones: list[DiskRelease], layout: object = None) -> Path:
    disk, scratch = folder / "disk", folder / "scratch"
    disk.mkdir()
    scratch.mkdir()
    (layout or DebianLayout()).write(ones, DiskDraft(disk, scratch, "hello 1.0", EPOCH, quietly))
    return disk


@pytest.fixture
def hello() -> tuple[str, bytes]:
    _, kernel = series_and_kernel()
    return kernel, compiled_hello(kernel).module.read_bytes()


def as_it_is(disk: Path, folder: Path) -> Path:
    return disk


def as_iso(disk: Path, folder: Path) -> Path:
    """Put the files on an ISO image that is labelled as the script wants it, and take them from there."""
    need("xorriso", "blkid")
    image, files = folder / "disk.iso", folder / "files"
    write_iso(disk, image, label="OEMDRV", epoch=EPOCH, scratch=folder, run=quietly)
    # As the installer's block-attr asks for the label.
    asked = subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", "LABEL", image], capture_output=True, text=True, check=True
    )
    assert asked.stdout == "OEMDRV\n"
    subprocess.run(
        ["xorriso", "-osirrox", "on", "-indev", image, "-extract", "/", files], check=True, capture_output=True
    )
    return files


def as_stick(disk: Path, folder: Path) -> Path:
    """Put the files on the image of a USB stick, and take them from its partition."""
    need("mkfs.vfat", "mcopy", "sfdisk")
    image, files = folder / "disk.img", folder / "files"
    write_usb([Partition("OEMDRV", disk)], image, epoch=EPOCH, scratch=folder, run=quietly)
    table = subprocess.run(["sfdisk", "-d", image], capture_output=True, text=True, check=True).stdout
    start = int(table.partition("start=")[2].partition(",")[0]) * 512
    files.mkdir()
    subprocess.run(["mcopy", "-s", "-i", f"{image}@@{start}", "::/", files], check=True, capture_output=True)
    return files


@pytest.mark.parametrize("carried", [as_it_is, as_iso, as_stick])
def test_the_installer_unpacks_and_installs_what_it_finds(
    tmp_path: Path, hello: tuple[str, bytes], carried: Callable[[Path, Path], Path]
) -> None:
    kernel, module = hello
    ones = releases(debian12=[modules_deb(tmp_path, kernel, module)])
    assert list(DebianLayout().check(ones, Disk())) == []
    disk = written(tmp_path, ones)
    machine = installer(tmp_path / "installer", kernel)
    machine.read_disk(carried(disk, tmp_path))
    assert machine.unpacked == [f"lib/modules/{kernel}/updates/hello.ko"]
    assert "asked medium driver-injection-disk/load" in machine.log
    unpacked = machine.root / machine.unpacked[0]
    assert unpacked.read_bytes() == module
    # The installer's own kmod reads it, and finds it for its hardware.
    machine.run("depmod", "-a", kernel)
    assert "updates/hello.ko:" in (machine.root / "lib/modules" / kernel / "modules.dep").read_text()
    assert machine.run("modinfo", "-F", "name", f"/{machine.unpacked[0]}") == "hello\n"
    machine.install()
    assert machine.installed == {f"hello-modules-{kernel} 1.0-1~deb12": "installed"}
    assert (machine.root / f"new/usr/lib/modules/{kernel}/updates/hello.ko").read_bytes() == module


@pytest.mark.parametrize(
    ("place", "merged", "is_found"),
    [("lib", False, True), ("lib", True, True), ("usr/lib", True, True), ("usr/lib", False, False)],
)
def test_modules_below_usr_are_found_where_it_is_one_with_lib(
    tmp_path: Path, hello: tuple[str, bytes], place: str, merged: bool, is_found: bool
) -> None:
    kernel, module = hello
    deb = make_deb(tmp_path, "hello", files={f"{place}/modules/{kernel}/updates/hello.ko": module})
    machine = installer(tmp_path / "installer", merged=merged)
    machine.read_disk(written(tmp_path, releases(debian13=[deb])))
    machine.run("mkdir", "-p", f"/lib/modules/{kernel}")
    machine.run("depmod", "-a", kernel)
    listed = (machine.root / "lib/modules" / kernel / "modules.dep").read_text()
    assert ("updates/hello.ko:" in listed) == is_found


@pytest.mark.parametrize("how", ["-Znone", "-Zgzip", "-Zxz", "-Zzstd"])
def test_each_way_of_packing_is_taken_from_the_disk_and_only_gzip_as_it_was(tmp_path: Path, how: str) -> None:
    package = modules_deb(tmp_path, OTHER, how=how)
    foreign = tmp_path / "foreign/debian-drivers"
    foreign.mkdir(parents=True)
    shutil.copy(package, foreign)
    skipping = installer(tmp_path / "skipping")
    skipping.read_disk(foreign.parent)
    assert bool(skipping.unpacked) == (how == "-Zgzip")
    (one,) = ones = releases(debian13=[package])
    on_disk = DiskRelease(one.distro, tuple(replace(p, place=f"debian-drivers/{p.path.name}") for p in one.packages))
    codes = {finding.code for finding in DebianLayout().check([on_disk], Disk())}
    assert codes == {"-Zgzip": set(), "-Zzstd": {"DISK062", "DISK063"}}.get(how, {"DISK062"})
    taking = installer(tmp_path / "taking")
    taking.read_disk(written(tmp_path, ones))
    assert taking.unpacked == [f"lib/modules/{OTHER}/updates/hello.ko"]


def test_udpkg_does_not_unpack_zstd(tmp_path: Path) -> None:
    """Behind a control archive that the script can read, the files still are in its way."""
    package = modules_deb(tmp_path, OTHER, how="-Zzstd")
    parts = tmp_path / "parts"
    parts.mkdir()
    subprocess.run(["ar", "x", package], cwd=parts, check=True)
    subprocess.run("zstd -dq control.tar.zst && gzip -n control.tar", shell=True, cwd=parts, check=True)
    mixed = tmp_path / "disk/debian-drivers/mixed.deb"
    mixed.parent.mkdir(parents=True)
    subprocess.run(["ar", "rc", mixed, "debian-binary", "control.tar.gz", "data.tar.zst"], cwd=parts, check=True)
    machine = installer(tmp_path / "installer")
    said = machine.read_disk(mixed.parents[1])
    assert "Invalid compression type for data.tar" in said and machine.unpacked == []


def test_the_script_skips_other_labels_other_machines_and_folders_of_releases(tmp_path: Path) -> None:
    deb = modules_deb(tmp_path, OTHER)
    arm = make_deb(tmp_path, "arm", Architecture="arm64", files={"lib/modules/1/updates/arm.ko": b"x"})
    disk = written(tmp_path, releases(debian13=[deb, arm]))
    machine = installer(tmp_path / "installer")
    machine.read_disk(disk, label="DRIVERS")
    assert machine.log == "" and machine.unpacked == []
    machine.read_disk(disk, answer="false")
    assert machine.unpacked == []
    inside = tmp_path / "inside/debian-drivers"
    shutil.copytree(disk / "debian-drivers", inside / "trixie")
    machine.read_disk(inside.parent)
    assert machine.unpacked == []
    machine.read_disk(disk)
    assert machine.unpacked == [f"lib/modules/{OTHER}/updates/hello.ko"]


def test_packages_for_another_kernel_are_unpacked_and_taken_away_again(
    tmp_path: Path, hello: tuple[str, bytes]
) -> None:
    kernel, module = hello
    here, there = modules_deb(tmp_path, kernel, module), modules_deb(tmp_path, OTHER)
    meta = {"Depends": f"hello-modules-{kernel}"}
    newer = {"Version": "1.0-1~deb13", "Depends": f"hello-modules-{OTHER}"}
    debs = [make_deb(tmp_path, "hello-modules-amd64", **meta), make_deb(tmp_path, "hello-modules-amd64", **newer)]
    ones = releases(debian12=[here, debs[0]], debian13=[there, debs[1]])
    found = {finding.code: finding.subject for finding in DebianLayout().check(ones, Disk())}
    assert found == {"DISK068": "debian-drivers", "DISK072": "hello-modules-amd64"}
    machine = installer(tmp_path / "installer", kernel)
    machine.read_disk(written(tmp_path, ones))
    assert machine.unpacked == sorted(f"lib/modules/{name}/updates/hello.ko" for name in (kernel, OTHER))
    machine.install()
    # The meta package for Debian 12 was there, and went with that for Debian 13.
    assert machine.installed == {f"hello-modules-{kernel} 1.0-1~deb12": "installed"}
    assert f"depends on linux-image-{OTHER}" in machine.log and f"depends on hello-modules-{OTHER}" in machine.log


def test_packages_are_installed_one_by_one_in_the_order_of_their_names(
    tmp_path: Path, hello: tuple[str, bytes]
) -> None:
    kernel, _ = hello
    depends = {"Depends": f"linux-image-{kernel}, {{0}}"}
    first = make_deb(tmp_path, "a-modules", files={"opt/a": b"a"}, Depends=depends["Depends"].format("z-firmware"))
    last = make_deb(tmp_path, "z-firmware", files={"opt/z": b"z"}, Architecture="all")
    lacking = make_deb(tmp_path, "b-modules", Depends=depends["Depends"].format("jool (>= 4)"))
    dkms = make_deb(tmp_path, "hello-dkms", Architecture="all", Depends="dkms (>= 2)")
    ones = releases(debian12=[first, last, lacking, dkms])
    found = [(finding.code, finding.subject.partition("_")[0]) for finding in DebianLayout().check(ones, Disk())]
    assert found == [("DISK070", "a-modules"), ("DISK069", "b-modules"), ("DISK071", "hello-dkms")]
    machine = installer(tmp_path / "installer", kernel)
    machine.read_disk(written(tmp_path, ones))
    machine.install()
    assert machine.installed == {"z-firmware 1.0-1~deb12": "installed"}


def test_depmod_of_the_installer_does_not_read_zstd(tmp_path: Path, hello: tuple[str, bytes]) -> None:
    need("zstd")
    kernel, module = hello
    packed = subprocess.run(["zstd", "-qc"], input=module, capture_output=True, check=True).stdout
    path = f"lib/modules/{kernel}/updates/hello.ko.zst"
    ones = releases(debian13=[make_deb(tmp_path, "hello", files={path: packed}, Depends=f"linux-image-{kernel}")])
    assert [finding.code for finding in DebianLayout().check(ones, Disk())] == ["DISK065"]
    machine = installer(tmp_path / "installer", kernel)
    machine.read_disk(written(tmp_path, ones))
    assert machine.unpacked == [path]
    machine.run("sh", "-c", f"depmod -a {kernel} || true")
    listed = machine.root / "lib/modules" / kernel / "modules.alias"
    assert not listed.exists() or "hello" not in listed.read_text()


def test_the_script_mounts_the_first_disk_that_it_can_with_a_stand_in_for_mount(tmp_path: Path) -> None:
    """mountmedia is not told which device has the label; what is mounted already, it takes."""
    need("dash")
    disk = written(tmp_path, releases(debian13=[modules_deb(tmp_path, OTHER)]))
    machine = installer(tmp_path / "installer")
    shutil.copytree(disk, machine.root / "disks/dev/sdb")
    (machine.root / "disks/dev/sda").mkdir()
    stand_ins = {
        "list-devices": '[ "$1" != disk ] || echo /dev/sda /dev/sdb\n',
        "block-attr": '[ "$2" != /dev/sdb ] || echo OEMDRV\n',
        "umount": "rm -rf /media/* /mounted\n",
        "mount": (
            "if [ $# = 0 ]; then cat /mounted; exit; fi\n"
            'echo "mount $1" >> /log; cp -r /disks/$1/. /media; echo "$1 on /media" > /mounted\n'
        ),
    }
    for name, text in stand_ins.items():
        (machine.root / "bin" / name).unlink(missing_ok=True)
        (machine.root / "bin" / name).write_text(f"#!/bin/sh\n{text}")
        (machine.root / "bin" / name).chmod(0o755)
    # busybox' own shell would not start a stand-in for what busybox can do itself.
    (machine.root / "bin/sh").unlink()
    shutil.copy("/bin/dash", machine.root / "bin/sh")
    (machine.root / "mounted").touch()
    (machine.root / "answer").write_text("true")
    machine.run("driver-injection-disk")
    assert "mount /dev/sda" in machine.log and "mount /dev/sdb" not in machine.log and machine.unpacked == []
    machine.run("mount", "/dev/sdb", "-tauto", "/media")
    machine.run("driver-injection-disk")
    assert machine.unpacked == [f"lib/modules/{OTHER}/updates/hello.ko"]


def test_answers_for_ubuntu_take_what_is_for_the_kernels_there_with_stand_ins_for_programs(tmp_path: Path) -> None:
    running, kernel, other = os.uname().release, "6.8.0-48-generic", "6.8.0-99-generic"
    firmware = {"lib/firmware/hello.bin": b"f"}
    debs = {name: modules_deb(tmp_path, name, how="-Zzstd") for name in (running, kernel, other)}
    extra = make_deb(tmp_path, "hello-firmware", files=firmware)
    packages = [*debs.values(), extra, make_deb(tmp_path, "hello-modules-generic")]
    ones = releases(ubuntu2404=packages)
    assert [finding.code for finding in UbuntuLayout().check(ones, Disk())] == ["DISK074"]
    disk = written(tmp_path, ones, UbuntuLayout())
    folder = disk / "ubuntu-drivers/noble"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {p.name: p.read_bytes() for p in packages}
    answers = tmp_path / "user-data"
    answers.write_text(autoinstall())
    # Its schema knows of autoinstall that there is a version, and no more.
    assert "Valid cloud-config" in cloud_init("schema", "-c", answers)
    commands = json.loads(yaml_as_json(answers))["autoinstall"]
    target = tmp_path / "target"
    (target / "lib/modules" / kernel).mkdir(parents=True)
    (tmp_path / "os-release").write_text("VERSION_CODENAME=noble\n")
    (tmp_path / "bin").mkdir()
    for name in ("curtin", "depmod", "dpkg", "mount", "udevadm"):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/asked\n')
        (tmp_path / "bin" / name).chmod(0o755)
    places = {"/etc/os-release": tmp_path / "os-release", "/run/drivers": disk, "/target": target}
    for command in (*commands["early-commands"], *commands["late-commands"]):
        for there, here in places.items():
            command = command.replace(there, str(here))
        subprocess.run(["sh", "-c", command], env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}, check=True)
    assert (tmp_path / "asked").read_text().splitlines() == [
        f"mount -o ro LABEL=OEMDRV {disk}",
        *(f"dpkg --unpack {folder}/{name}" for name in sorted((extra.name, debs[running].name))),
        "depmod -a",
        "udevadm trigger --action=add",
        "udevadm settle",
        f"curtin in-target -- apt-get install --yes /drivers/{extra.name} /drivers/{debs[kernel].name}",
    ]
    assert not (target / "drivers").exists()

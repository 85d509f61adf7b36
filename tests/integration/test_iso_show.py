"""`iso show` and `iso check` with disks of our own and of others, made by real tools: rpmbuild, dpkg-deb, xorriso,
genisoimage, mtools, cpio, mkfs. Their modules are stand-ins: objects with the facts of a module, and no code.
"""

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest

from pkgkmod.errors import InputError
from pkgkmod.media import volumes
from pkgkmod.media.images import open_disk
from pkgkmod.progress import Progress
from tests.fixtures.debianinstaller import modules_deb
from tests.fixtures.machine import need, pkgkmod
from tests.fixtures.rpmrepo import EL
from tests.fixtures.stubkernels import EL_NEXT, Package, build

EL10 = "6.12.0-55.9.1.el10_0.x86_64"
SUSE = "6.4.0-150600.21-default"
DEBIAN = "6.1.0-37-amd64"
ALIAS = "pci:v00008086d000010D3sv*sd*bc*sc*i*"


def call(*argv, **more):
    done = subprocess.run([str(word) for word in argv], capture_output=True, check=False, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def module(folder, kernel):
    """Make a module in the eyes of kmod: an ELF object with a section .modinfo."""
    need("gcc")
    facts = {"license": "GPL", "name": "hello", "vermagic": f"{kernel} SMP mod_unload", "depends": "", "alias": ALIAS}
    words = "".join(rf"{key}={value}\0" for key, value in facts.items())
    text = f'const char facts[] __attribute__((section(".modinfo"))) = "{words}";\n'
    file = folder / kernel / "hello.ko"
    file.parent.mkdir(parents=True)
    call("gcc", "-x", "c", "-c", "-o", file, "-", input=text.encode())
    return file


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Packages of one driver for five kernels, by kernel."""
    need("rpmbuild", "dpkg-deb")
    folder = tmp_path_factory.mktemp("packages")
    made = {}
    for kernel, name, release, place in (
        (EL, "kmod-hello", "1.el9", "extra"),
        (EL_NEXT, "kmod-hello", "2.el9", "extra"),
        (EL10, "kmod-hello", "1.el10", "extra"),
        (SUSE, "hello-kmp-default", "1", "updates"),
    ):
        tree = folder / f"tree-{release}-{kernel}"
        (tree / f"lib/modules/{kernel}/{place}").mkdir(parents=True)
        shutil.copy(module(folder / "modules", kernel), tree / f"lib/modules/{kernel}/{place}/hello.ko")
        provides = (f"kernel-modules = {kernel}",) if name == "kmod-hello" else ()
        build(folder, f"1.0-{release}", Package(name, files=(f"/lib/modules/{kernel}",), provides=provides), tree=tree)
        made[kernel] = folder / f"x86_64/{name}-1.0-{release}.x86_64.rpm"
    made[DEBIAN] = modules_deb(folder, DEBIAN, module(folder / "modules", DEBIAN).read_bytes())
    return made


@pytest.fixture(scope="module")
def disks(packages, tmp_path_factory):
    """A disk with all of them, on each carrier."""
    need("xorriso", "createrepo_c", "mkfs.vfat", "mcopy", "sfdisk", "cpio", "gzip")
    folder = tmp_path_factory.mktemp("disks")
    carriers = ("-C", 'disk.carriers=["iso", "usb", "initrd", "dud"]', "-C", "disk.check=warn")
    done = pkgkmod("build_iso", *packages.values(), "-i", "hello.iso", *carriers, "--json", cwd=folder)
    return {event["carrier"]: folder / event["file"] for event in done.events if event["event"] == "image"}


def shown(disk, *words):
    """Return the modules that are shown: installer, release, kernel, package."""
    done = pkgkmod("iso", "show", disk.name, "--json", *words, cwd=disk.parent)
    rows = [event for event in done.events if event["event"] == "disk-module"]
    return {(row["installer"], row["release"], row["kernel"], row["package"].rpartition("/")[2]) for row in rows}


ANACONDA = {
    ("anaconda", "el9", f"= {EL}", "kmod-hello-1.0-1.el9.x86_64.rpm"),
    ("anaconda", "el9", f"= {EL_NEXT}", "kmod-hello-1.0-2.el9.x86_64.rpm"),
    ("anaconda", "el10", f"= {EL10}", "kmod-hello-1.0-1.el10.x86_64.rpm"),
}
LINUXRC = {
    ("linuxrc", "sle15sp6", SUSE, "hello-kmp-default-1.0-1.x86_64.rpm"),
    ("linuxrc", "sle15sp6", SUSE, "hello.ko"),
}
INSTALLER = {("Debian installer", "debian12", DEBIAN, f"hello-modules-{DEBIAN}_1.0-1~deb12_amd64.deb")}


@pytest.mark.parametrize("carrier", ["iso", "usb", "initrd", "dud"])
def test_a_disk_of_ours_shows_on_each_carrier_what_was_put_on_it(disks, carrier):
    assert shown(disks[carrier]) == (LINUXRC if carrier == "dud" else ANACONDA | LINUXRC | INSTALLER)


def test_a_disk_is_told_in_words(disks):
    out = pkgkmod("iso", "show", "hello.iso", cwd=disks["iso"].parent).out
    lines = out.splitlines()
    assert lines[0].startswith("hello.iso: ISO image, label OEMDRV, ")
    assert lines[2].split() == ["INSTALLER", "RELEASE", "ARCH", "KERNEL", "MODULE", "PACKAGE"]
    assert any(
        line.split()[:6]
        == ["anaconda", "el9", "x86_64", EL, "hello", f"el9/{EL}/rpms/x86_64/kmod-hello-1.0-1.el9.x86_64.rpm"]
        for line in lines
    )
    assert "warning: DISK021 el9: " in out
    assert "that no installer looks at" not in out


def test_only_what_the_installer_with_a_kernel_takes_is_shown(disks):
    assert {row[2] for row in shown(disks["iso"], "--kernel", EL)} == {f"= {EL}"}
    assert {row[:3] for row in shown(disks["usb"], "--kernel", DEBIAN)} == {("Debian installer", "debian12", DEBIAN)}
    done = pkgkmod("iso", "show", "hello.iso", "--kernel", "5.14.0-503.el9.x86_64", cwd=disks["iso"].parent, code=21)
    assert "the installer with the kernel 5.14.0-503.el9.x86_64 takes nothing from hello.iso" in done.err
    assert f"hint: the disk is for {', '.join(sorted((EL, EL_NEXT, EL10, SUSE, DEBIAN)))}" in done.err


def test_devices_are_named(disks):
    done = pkgkmod("iso", "show", "hello.iso", "--devices", cwd=disks["iso"].parent)
    rows = [line.split() for line in done.out.splitlines()]
    assert any(row[:3] == ["hello", "pci", "8086:10d3"] for row in rows)


def rhdd3(folder, *packages, place=""):
    """Lay out a disk as ddiskit does."""
    root = folder / "root" / place
    (root / "rpms/x86_64").mkdir(parents=True)
    (root / "rhdd3").write_text("Driver Update Disk version 3")
    for package in packages:
        shutil.copy(package, root / "rpms/x86_64")
    return folder / "root"


def test_a_disk_of_ddiskit_without_rock_ridge_is_read_by_its_joliet_names(packages, tmp_path):
    need("genisoimage")
    root = rhdd3(tmp_path, packages[EL])
    call("genisoimage", "-quiet", "-V", "OEMDRV", "-J", "-joliet-long", "-o", tmp_path / "d.iso", root)
    assert shown(tmp_path / "d.iso") == {("anaconda", "el9", f"= {EL}", "kmod-hello-1.0-1.el9.x86_64.rpm")}


def test_a_disk_with_short_names_only_is_read_as_the_kernel_shows_them(packages, tmp_path):
    need("genisoimage")
    root = rhdd3(tmp_path, packages[EL])
    call("genisoimage", "-quiet", "-V", "OEMDRV", "-o", tmp_path / "d.iso", root)
    assert shown(tmp_path / "d.iso") == {("anaconda", "el9", f"= {EL}", "kmod_hel.rpm")}


def test_a_file_for_unattended_installation_and_another_label_are_found(packages, tmp_path):
    need("xorriso")
    root = rhdd3(tmp_path, packages[EL10], place="somewhere/deep")
    (root / "ks.cfg").write_text("text\n")
    (root / "other.iso").write_text("another disk\n")
    call("xorriso", "-as", "mkisofs", "-quiet", "-V", "DD", "-r", "-o", tmp_path / "d.iso", root)
    done = pkgkmod("iso", "check", "d.iso", "--json", cwd=tmp_path, code=21)
    found = {(event["code"], event["subject"]) for event in done.events if event["event"] == "finding"}
    assert {("DISK007", "ks.cfg"), ("DISK081", "DD"), ("DISK084", "other.iso")} <= found
    pkgkmod("iso", "check", "d.iso", "--ignore", "DISK007", cwd=tmp_path)
    out = pkgkmod("iso", "show", "d.iso", cwd=tmp_path).out
    assert "1 file that no installer looks at: ks.cfg" in out


@pytest.mark.parametrize("kind", ["ext4", "vfat"])
def test_a_bare_file_system_is_read(packages, tmp_path, kind):
    need(f"mkfs.{kind}", "debugfs", "mcopy")
    root, image = rhdd3(tmp_path, packages[EL10]), tmp_path / "disk.img"
    if kind == "ext4":
        call("mkfs.ext4", "-q", "-L", "OEMDRV", "-d", root, image, "8M")
    else:
        call("mkfs.vfat", "-C", "-n", "OEMDRV", image, "8192")
        call("mcopy", "-s", "-i", image, *sorted(root.iterdir()), "::/")
    assert shown(image) == {("anaconda", "el10", f"= {EL10}", "kmod-hello-1.0-1.el10.x86_64.rpm")}
    assert f"disk.img: {kind.strip('v4').upper() if kind == 'vfat' else 'ext'} file system, label OEMDRV" in (
        pkgkmod("iso", "show", "disk.img", cwd=tmp_path).out
    )


def dud(folder, packages, kernel=SUSE):
    """Lay out an update as mkdud does."""
    tree = folder / "root/linux/suse/x86_64-sles15"
    (tree / "install").mkdir(parents=True)
    (tree / "modules").mkdir()
    (tree / "dud.config").write_text("UpdateName:\thello\nUpdateID:\t1\n")
    shutil.copy(packages[SUSE], tree / "install")
    shutil.copy(module(folder, kernel), tree / "modules")
    (folder / "root/linux/suse/x86_64-sled15").symlink_to("x86_64-sles15")
    return folder / "root"


def test_a_dud_file_of_mkdud_is_read(packages, tmp_path):
    need("cpio")
    root = dud(tmp_path, packages)
    names = "\n".join(["linux", *sorted(str(path.relative_to(root)) for path in root.rglob("*"))][1:])
    (tmp_path / "hello.dud").write_bytes(
        gzip.compress(call("cpio", "-o", "-H", "newc", "--quiet", input=names.encode(), cwd=root))
    )
    done = pkgkmod("iso", "show", "hello.dud", cwd=tmp_path)
    assert done.out.startswith("hello.dud: archive (cpio, gzip), ")
    assert shown(tmp_path / "hello.dud") >= LINUXRC


def test_an_initrd_is_read_behind_one_that_is_packed_with_zstd(disks, tmp_path):
    need("cpio", "zstd")
    (tmp_path / "init").write_text("#!/bin/sh\n")
    plain = call("cpio", "-o", "-H", "newc", "--quiet", input=b"init\n", cwd=tmp_path)
    (tmp_path / "both.img").write_bytes(plain + call("zstd", "-q", "-c", input=plain) + disks["initrd"].read_bytes())
    assert shown(tmp_path / "both.img") == ANACONDA | LINUXRC | INSTALLER
    done = pkgkmod("iso", "show", "both.img", cwd=tmp_path)
    assert done.out.startswith("both.img: archive (cpio, gzip, zstd), ")
    assert "  dd.img: ISO 9660, label OEMDRV, " in done.out


def test_a_damaged_package_and_a_damaged_module_are_named_and_the_rest_is_shown(packages, tmp_path):
    root = dud(tmp_path, packages)
    rhdd3(tmp_path, packages[EL], packages[EL_NEXT])
    broken = root / "rpms/x86_64" / packages[EL_NEXT].name
    broken.write_bytes(broken.read_bytes()[:3000])
    (root / "linux/suse/x86_64-sles15/modules/other.ko").write_bytes(b"\x7fELF")
    done = pkgkmod("iso", "check", "root", "--json", cwd=tmp_path, code=21)
    found = {event["code"]: event for event in done.events if event["event"] == "finding"}
    assert found["DISK080"]["subject"] == f"rpms/x86_64/{packages[EL_NEXT].name}"
    assert str(tmp_path) not in found["DISK080"]["text"]
    assert "/tmp" not in found["DISK080"]["text"]
    assert found["DISK001"]["subject"] == "linux/suse/x86_64-sles15/modules/other.ko"
    assert ("anaconda", "el9", f"= {EL}", packages[EL].name) in shown(root)


def test_packages_are_checked_as_if_they_were_put_on_a_disk(packages, tmp_path):
    files = [packages[EL], packages[DEBIAN]]
    assert pkgkmod("iso", "check", *files, cwd=tmp_path).out.endswith("no errors\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(packages[EL], folder)
    missed = ("--installer", EL_NEXT)
    done = pkgkmod("iso", "check", folder, *missed, cwd=tmp_path, code=21)
    assert f"error: DISK011 {EL_NEXT}: " in done.out
    assert "there is 1 error: DISK011" in done.err
    pkgkmod("iso", "check", folder, *missed, "--ignore", "DISK011", cwd=tmp_path)
    pkgkmod("iso", "check", folder, "--ignore", "no code", cwd=tmp_path, code=3)


def test_a_disk_is_checked_for_an_installer(disks, tmp_path):
    disk = disks["iso"]
    pkgkmod("iso", "check", disk, "--installer", EL, "--installer", DEBIAN, cwd=tmp_path)
    done = pkgkmod("iso", "check", disk, "--installer", "5.14.0-1.el9.x86_64", cwd=tmp_path, code=21)
    assert "DISK011 5.14.0-1.el9.x86_64" in done.out
    pkgkmod("iso", "check", disk, "--distro", "el9", cwd=tmp_path, code=2)


def test_a_disk_for_nobody_is_an_error(tmp_path):
    need("mkfs.vfat")
    call("mkfs.vfat", "-C", "-n", "OEMDRV", tmp_path / "empty.img", "2048")
    done = pkgkmod("iso", "check", "empty.img", cwd=tmp_path, code=21)
    assert "DISK083" in done.err
    assert "no installer takes a module from it" in pkgkmod("iso", "show", "empty.img", cwd=tmp_path).out


@pytest.mark.parametrize("carrier", ["iso", "usb", "initrd", "dud"])
def test_a_disk_that_is_cut_off_is_refused(disks, carrier, tmp_path):
    content = disks[carrier].read_bytes()
    # An ISO image ends with 150 blocks of zeros.
    (tmp_path / "cut").write_bytes(content[: len(content) - 310_000 if carrier == "iso" else len(content) // 2])
    done = pkgkmod("iso", "show", "cut", cwd=tmp_path, code=17)
    assert "error: cut cannot be read: " in done.err
    assert "cut off" in done.err


ODD = ("a b'c.rpm", 'say "hi".rpm', "back\\slash", "new\nline", "-rm_r", "'", "esc\x1b[31m", "ünï", "#x", "*", "a;b")


@pytest.mark.parametrize("kind", ["iso", "ext4", "cpio"])
def test_odd_names_are_no_words_for_programs_and_contents_are_those_of_the_files(tmp_path, kind):
    need("xorriso", "mkfs.ext4", "debugfs", "cpio")
    root, image, scratch = tmp_path / "root", tmp_path / "image", tmp_path / "scratch"
    scratch.mkdir()
    for folder in ("", "fol'der"):
        (root / folder).mkdir()
        for name in ODD:
            (root / folder / name).write_text(f"{folder} {name!r}")
    # What lies elsewhere as one file, and as pieces, has more than a block.
    (root / "large").write_bytes(bytes(range(256)) * 20_000)
    if kind == "iso":
        call("xorriso", "-as", "mkisofs", "-quiet", "-r", "-J", "-joliet-long", "-V", "OEMDRV", "-o", image, root)
    elif kind == "ext4":
        call("mkfs.ext4", "-q", "-d", root, image, "16M")
    else:
        names = b"\0".join(str(path.relative_to(root)).encode() for path in sorted(root.rglob("*")))
        image.write_bytes(call("cpio", "-o", "-0", "-H", "newc", "--quiet", input=names, cwd=root))
    (volume,) = open_disk(image, scratch, Progress()).volumes
    wanted = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    if kind == "ext4":  # debugfs lists one file a line
        wanted = {name: path for name, path in wanted.items() if "\n" not in name}
    assert set(wanted) <= volume.listing.files
    files = {name: tmp_path / str(number) for number, name in enumerate(wanted)}
    volume.copy(files)
    assert {name: file.read_bytes() for name, file in files.items()} == {
        name: path.read_bytes() for name, path in wanted.items()
    }
    assert Path(root / "-rm_r").exists()


@pytest.mark.parametrize("bits", [12, 16, 32])
def test_fat_is_read_as_mtools_reads_it(tmp_path, bits):
    need("mkfs.vfat", "mcopy", "mdel")
    image, root, scratch = tmp_path / "image", tmp_path / "root", tmp_path / "scratch"
    scratch.mkdir()
    (root / "A folder/with a very long name that takes several records").mkdir(parents=True)
    for number in range(100):
        (root / "A folder" / f"file number {number}.rpm").write_bytes(bytes([number]) * number * 100)
    (root / "SHORT.TXT").write_text("short")
    (root / "lower.txt").write_text("lower")
    size = {12: 1440, 16: 20 << 10, 32: 40 << 10}[bits]
    call("mkfs.vfat", "-C", "-F", bits, "-s", 1, "-n", "OEMDRV", image, size)
    call("mcopy", "-s", "-i", image, root / "A folder", root / "SHORT.TXT", root / "lower.txt", "::/")
    # What is written into the gaps is in pieces.
    call("mdel", "-i", image, *(f"::/A folder/file number {number}.rpm" for number in range(1, 100, 2)))
    (root / "pieces").write_bytes(bytes(range(256)) * 2000)
    call("mcopy", "-i", image, root / "pieces", "::/pieces")
    (volume,) = open_disk(image, scratch, Progress()).volumes
    read = tmp_path / "read"
    read.mkdir()
    call("mcopy", "-s", "-i", image, "::/*", read)
    wanted = {str(path.relative_to(read)): path for path in read.rglob("*") if path.is_file()}
    assert (volume.kind, volume.label) == ("FAT", "OEMDRV")
    assert set(wanted) == volume.listing.files
    files = {name: tmp_path / str(number) for number, name in enumerate(wanted)}
    volume.copy(files)
    assert all(file.read_bytes() == wanted[name].read_bytes() for name, file in files.items())
    # On FAT32, mtools goes on behind what it wrote last.
    assert len(volume.entries["pieces"].parts) > (10 if bits < 32 else 0)


def test_an_image_whose_folders_go_in_a_circle_is_given_up(tmp_path, monkeypatch):
    need("xorriso")
    (tmp_path / "root/one/two").mkdir(parents=True)
    (tmp_path / "root/two").mkdir()
    image, scratch = tmp_path / "image", tmp_path / "scratch"
    scratch.mkdir()
    call("xorriso", "-as", "mkisofs", "-quiet", "-r", "-o", image, tmp_path / "root")
    content = bytearray(image.read_bytes())
    # ECMA-119, 9.1: of each folder in the root, place and size become those of the root.
    root = int.from_bytes(content[32768 + 158 : 32768 + 162], "little") * 2048
    place = root
    while length := content[place]:
        if content[place + 32] > 1:
            content[place + 2 : place + 18] = content[32768 + 158 : 32768 + 174]
        place += length
    image.write_bytes(content)
    monkeypatch.setattr(volumes, "_LIMITS", ("prlimit", "--cpu=1"))
    with pytest.raises(InputError, match="xorriso gave up: it took too long, or too much room"):
        open_disk(image, scratch, Progress())


def test_a_table_of_partitions_that_is_cut_off_is_refused(disks, tmp_path):
    (tmp_path / "cut.img").write_bytes(disks["usb"].read_bytes()[: 1 << 19])
    done = pkgkmod("iso", "show", "cut.img", cwd=tmp_path, code=17)
    assert "cut.img cannot be read: it is cut off: it has 524288 bytes, and partition 1 begins behind them" in done.err


def test_a_second_partition_is_named_with_what_is_in_it(packages, tmp_path):
    need("mkfs.vfat", "mcopy", "sfdisk")
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed/user-data").write_text("#cloud-config\n")
    words = ("-C", 'disk.carriers=["usb"]', "-C", f"disk.second_partition={tmp_path}/seed")
    pkgkmod("build_iso", packages[EL], "-i", "d.img", *words, cwd=tmp_path)
    lines = pkgkmod("iso", "show", "d.img", cwd=tmp_path).out.splitlines()
    assert lines[0].startswith("d.img: image of a USB stick, ")
    assert lines[1].startswith("  partition 1: FAT, label OEMDRV, ")
    assert lines[2].startswith("  partition 2: FAT, label CIDATA, ")
    assert lines[2].endswith(": user-data")

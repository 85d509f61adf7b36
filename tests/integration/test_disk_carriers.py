"""The carriers of a driver disk, written and read back with the real programs."""

import gzip
import io
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from pkgkmod.command import Command, Completed, run
from pkgkmod.errors import InputError, PackageError, ToolError
from pkgkmod.media.carriers.archive import write_dud, write_initrd
from pkgkmod.media.carriers.iso import write_iso
from pkgkmod.media.carriers.usb import Partition, write_usb
from pkgkmod.progress import Progress
from tests.fixtures.machine import need

EPOCH = 1700000000
FILES = {
    "README.txt": b"read me\n",
    "el9/rhdd3": b"Driver Update Disk version 3\n",
    "el9/rpms/x86_64/kmod-a-1.0~rc1+2-1.el9.x86_64.rpm": bytes(range(256)) * 400,
    "el9/rpms/x86_64/kmod-b-1.0-1.el9.x86_64.rpm": bytes(range(256)) * 400,
    "debian-drivers/a b=c%.deb": b"spaces and the like",
    ".hidden/" + "l" * 251 + ".rpm": b"a long name",
    "linux/suse/x86_64-sles15/dud.config": b"UpdateID:\ta\n",
    "empty": b"",
    "größenordnung.txt": b"not only ASCII",
}
LINK = "linux/suse/x86_64-sled15"


def execute(command: Command) -> Completed:
    return run(command, log=command.cwd / "log", progress=Progress())


def tree(folder: Path, *, backwards: bool = False) -> Path:
    """Make the disk; the order in which files are made is that of their inodes, and often of the folder."""
    names = sorted(FILES, reverse=backwards)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FILES[name])
        path.chmod(0o600 if backwards else 0o664)
        os.utime(path, (EPOCH + backwards, EPOCH + backwards))
    (folder / LINK).symlink_to("x86_64-sles15")
    return folder


def iso(folder: Path, scratch: Path) -> Path:
    write_iso(folder, scratch / "image", label="OEMDRV", epoch=EPOCH, scratch=scratch, run=execute)
    return scratch / "image"


def usb(folder: Path, scratch: Path) -> Path:
    write_usb([Partition("OEMDRV", folder)], scratch / "image", epoch=EPOCH, scratch=scratch, run=execute)
    return scratch / "image"


def dud(folder: Path, scratch: Path) -> Path:
    write_dud(folder, scratch / "image", epoch=EPOCH, scratch=scratch, run=execute)
    return scratch / "image"


def said(*argv: object) -> str:
    return subprocess.run([*map(str, argv)], capture_output=True, text=True, check=True).stdout


def content(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder; those in folders that are links, too."""
    paths = [Path(parent, name) for parent, _, names in os.walk(folder, followlinks=True) for name in names]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


WITH_LINK = {**FILES, f"{LINK}/dud.config": FILES["linux/suse/x86_64-sles15/dud.config"]}


@pytest.mark.parametrize("make", [iso, usb, dud])
def test_same_bytes_whoever_makes_it_and_wherever(make, tmp_path, monkeypatch):
    need("xorriso", "mkfs.vfat", "mcopy", "gzip")
    (tmp_path / "a").mkdir()
    first = make(tree(tmp_path / "disk"), tmp_path / "a").read_bytes()
    for name, value in {"TZ": "Asia/Tokyo", "LC_ALL": "de_DE.UTF-8", "SOURCE_DATE_EPOCH": "1", "USER": "x"}.items():
        monkeypatch.setenv(name, value)
    other = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else tmp_path
    place = other / f"pkgkmod-test-{os.getpid()}"
    before = os.umask(0o077)
    try:
        (place / "scratch").mkdir(parents=True)
        again = make(tree(place / "another disk=", backwards=True), place / "scratch").read_bytes()
    finally:
        os.umask(before)
        shutil.rmtree(place)
    assert first == again


def test_iso_as_others_read_it(tmp_path):
    need("xorriso", "blkid")
    pycdlib = pytest.importorskip("pycdlib")
    image = iso(tree(tmp_path / "disk"), tmp_path)
    # A stick that the image is written to has the label by itself.
    found = dict(line.split("=", 1) for line in said("blkid", "-p", "-o", "export", image).splitlines())
    assert (found["LABEL"], found["TYPE"]) == ("OEMDRV", "iso9660")
    disc = pycdlib.PyCdlib()
    disc.open(str(image))
    names = {}
    for parent, folders, files in disc.walk(rr_path="/"):
        for name in (*folders, *files):
            path = f"{parent.rstrip('/')}/{name}"
            record = disc.get_record(rr_path=path)
            names[path[1:]] = record
            if not record.rock_ridge.is_symlink():
                assert record.rock_ridge.get_file_mode() & 0o777 == (0o555 if record.is_dir() else 0o444), path
            parts = record.rock_ridge.dr_entries
            assert (parts.px_record.posix_user_id, parts.px_record.posix_group_id) == (0, 0)
    assert set(FILES) | {LINK} <= set(names)
    assert names[LINK].rock_ridge.is_symlink()
    assert names[LINK].rock_ridge.symlink_path() == b"x86_64-sles15"
    for name, data in FILES.items():
        got = io.BytesIO()
        disc.get_file_from_iso_fp(got, rr_path=f"/{name}")
        assert got.getvalue() == data
    joliet = {f"{parent}/{name}".strip("/") for parent, _, files in disc.walk(joliet_path="/") for name in files}
    assert "debian-drivers/a b=c%.deb" in joliet
    assert any(name.startswith(".hidden/lll") for name in joliet)
    disc.close()
    # Contents lie in the order of the paths.
    lines = said("xorriso", "-indev", image, "-find", "/", "-exec", "report_lba").splitlines()
    places = {line.split("'")[1]: int(line.split(",")[1]) for line in lines if line.startswith("File data")}
    order = sorted((f"/{name}" for name in FILES if FILES[name]), key=lambda name: Path(name).parts)
    assert sorted(order, key=places.__getitem__) == order


def test_stick_as_others_read_it(tmp_path):
    need("mkfs.vfat", "mcopy", "sfdisk", "blkid", "fsck.vfat")
    (tmp_path / "cloud").mkdir()
    (tmp_path / "cloud/user-data").write_text("#cloud-config\n")
    image = tmp_path / "image"
    parts = [Partition("OEMDRV", tree(tmp_path / "disk")), Partition("CIDATA", tmp_path / "cloud")]
    write_usb(parts, image, epoch=EPOCH, scratch=tmp_path, run=execute)
    table = json.loads(said("sfdisk", "--json", image))["partitiontable"]
    assert table["label"] == "dos"
    assert not any(part.get("bootable") for part in table["partitions"])
    assert table["partitions"][0]["start"] == 2048
    contents = []
    for number, (part, label) in enumerate(zip(table["partitions"], ("OEMDRV", "CIDATA"), strict=True)):
        start, size = part["start"] * 512, part["size"] * 512
        assert start % 2**20 == size % 2**20 == 0
        found = said("blkid", "-p", "-o", "export", "--offset", start, image)
        assert f"LABEL={label}\n" in found
        assert "TYPE=vfat\n" in found
        alone = tmp_path / f"part{number}"
        with image.open("rb") as whole:
            whole.seek(start)
            alone.write_bytes(whole.read(size))
        said("fsck.vfat", "-n", alone)
        files = tmp_path / f"files{number}"
        files.mkdir()
        said("mcopy", "-s", "-Q", "-i", f"{image}@@{start}", "::/", files)
        contents.append(content(files))
    assert image.stat().st_size == (table["partitions"][1]["start"] + table["partitions"][1]["size"]) * 512
    assert contents == [WITH_LINK, {"user-data": b"#cloud-config\n"}]
    dates = said("mdir", "-/", "-a", "-i", f"{image}@@1M", "::")
    assert "2023-11-14  22:13" in dates


@pytest.mark.parametrize(
    ("sizes", "bits"),
    [((1,), "FAT16"), ((140_000_000,), "FAT16"), ((300_000_000,), "FAT32"), ((1,) * 600, "FAT32")],
    ids=["one file", "140 MB", "300 MB", "600 in the root"],
)
def test_stick_is_as_large_as_its_files(sizes, bits, tmp_path):
    need("mkfs.vfat", "mcopy", "blkid")
    folder = tmp_path / "disk"
    folder.mkdir()
    for number, size in enumerate(sizes):
        with (folder / f"file-{number:03}").open("wb") as sink:
            sink.truncate(size)
    image = usb(folder, tmp_path)
    found = said("blkid", "-p", "-o", "export", "--offset", 2**20, image)
    assert f"VERSION={bits}\n" in found
    assert image.stat().st_size < sum(sizes) * 1.1 + 42 * 2**20
    listed = said("mdir", "-b", "-i", f"{image}@@1M", "::").split()
    assert listed == [f"::/file-{number:03}" for number in range(len(sizes))]


def test_dud_as_cpio_unpacks_it(tmp_path):
    need("cpio", "gzip")
    disk = tree(tmp_path / "disk")
    (disk / "linux/install").mkdir()
    image = dud(disk, tmp_path)
    plain = gzip.decompress(image.read_bytes())
    assert image.read_bytes()[3:8] == bytes(5)  # neither name nor time
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(["cpio", "-idm", "--quiet"], input=plain, cwd=out, check=True, capture_output=True)
    assert done.stderr == b""
    assert content(out) == WITH_LINK
    assert (out / "linux/install").is_dir()
    assert (out / LINK).readlink() == Path("x86_64-sles15")
    for path in out.rglob("*"):
        facts = path.lstat()
        if not path.is_symlink():
            assert stat.S_IMODE(facts.st_mode) == (0o755 if path.is_dir() else 0o444)
        if not path.is_dir():  # cpio changes folders again when it fills them
            assert facts.st_mtime == EPOCH
    listing = subprocess.run(["cpio", "-itvn", "--quiet"], input=plain, check=True, capture_output=True, text=False)
    lines = listing.stdout.decode().splitlines()
    assert {tuple(line.split()[2:4]) for line in lines} == {("0", "0")}


def test_archives_for_the_initrd_one_behind_the_other(tmp_path):
    need("cpio", "gzip")
    disk = tmp_path / "disk.iso"
    disk.write_bytes(b"a driver disk" * 1001)
    images = []
    for number in range(2):
        image = tmp_path / f"initrd{number}"
        write_initrd(disk, image, epoch=EPOCH + number, scratch=tmp_path, run=execute)
        assert image.stat().st_size % 4 == 0
        images.append(image.read_bytes())
    first = tmp_path / "alone"
    first.mkdir()
    subprocess.run(["cpio", "-id", "--quiet"], input=gzip.decompress(images[0]), cwd=first, check=True)
    assert content(first) == {"dd.img": disk.read_bytes()}
    assert [path.name for path in first.iterdir()] == ["dd.img"]
    # As the kernel goes through them: unpack, skip zeros, go on with what follows.
    joined = gzip.decompress(images[0] + images[1])
    assert joined.count(b"TRAILER!!!") == 2
    assert len(joined) % 512 == 0


def test_initrd_as_initramfs_tools_lists_it(tmp_path):
    need("lsinitramfs", "cpio", "gzip")
    (tmp_path / "disk.iso").write_bytes(b"a driver disk")
    write_initrd(tmp_path / "disk.iso", tmp_path / "initrd", epoch=EPOCH, scratch=tmp_path, run=execute)
    assert said("lsinitramfs", tmp_path / "initrd") == "dd.img\n"


@pytest.mark.parametrize("make", [iso, usb, dud])
@pytest.mark.parametrize(
    "name", ["line\nbreak", b"\xff", "out", "absolute", "nowhere", "pipe"], ids=lambda name: ascii(name)
)
def test_what_no_carrier_takes(make, name, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    path = folder / os.fsdecode(name)
    if name in ("out", "absolute", "nowhere"):
        path.symlink_to({"out": "../secret", "absolute": "/etc/passwd", "nowhere": "gone"}[name])
        (tmp_path / "secret").touch()
    elif name == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
    with pytest.raises(InputError, match="cannot be put on the driver disk"):
        make(folder, tmp_path)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["a:b"], "FAT allows none of"),
        (["dot."], "FAT allows none of"),
        (["a\U0001f600"], "first plane"),
        (["größe.txt"], "only in ASCII"),
        (["Aux.txt"], "name of a device"),
        (["ab[c]/x"], "brackets"),
        (["d/Name", "d/nAME"], "does not tell"),
    ],
)
def test_what_a_stick_does_not_take(names, why, tmp_path):
    for name in names:
        path = tmp_path / "disk" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(InputError, match=why):
        usb(tmp_path / "disk", tmp_path)


def test_links_that_go_round_are_refused_on_a_stick(tmp_path):
    (tmp_path / "disk/a").mkdir(parents=True)
    (tmp_path / "disk/a/up").symlink_to("..")
    with pytest.raises(InputError, match="a folder that it lies in"):
        usb(tmp_path / "disk", tmp_path)


def test_files_of_4_gib(tmp_path):
    (tmp_path / "disk").mkdir()
    with (tmp_path / "disk/large").open("wb") as sink:
        sink.truncate(2**32)
    for make in (usb, dud):
        with pytest.raises(InputError, match="smaller than 4 GiB"):
            make(tmp_path / "disk", tmp_path)


def test_a_label_that_fat_does_not_hold(tmp_path):
    with pytest.raises(InputError, match="TWELVE_CHARS") as caught:
        write_usb([Partition("TWELVE_CHARS", tmp_path)], tmp_path / "i", epoch=0, scratch=tmp_path, run=execute)
    assert "1 to 11" in caught.value.hint


@pytest.mark.parametrize(("make", "program"), [(iso, "xorriso"), (usb, "mkfs.vfat"), (dud, "gzip")])
def test_programs_that_fail_or_are_missing(make, program, tmp_path, monkeypatch):
    folder = tree(tmp_path / "disk")
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setattr("pkgkmod.programs.SYSTEM_PATH", str(tools))
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(ToolError, match=program):
        make(folder, tmp_path)
    (tools / program).write_text("#!/bin/sh\necho it is broken\nexit 3\n")
    (tools / program).chmod(0o755)
    with pytest.raises(PackageError, match=f"{program} failed") as caught:
        make(folder, tmp_path)
    assert "it is broken" in caught.value.details

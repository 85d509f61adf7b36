"""Carriers of a driver disk: what programs are told, and what is written without one."""

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from pkgkmod.command import Command, Completed
from pkgkmod.errors import DiskFullError, InputError
from pkgkmod.media.carriers import usb
from pkgkmod.media.carriers.archive import write_dud
from pkgkmod.media.carriers.iso import iso_command, sort_weights
from pkgkmod.media.carriers.tree import read_tree
from pkgkmod.media.carriers.usb import Partition, write_usb


def filled(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


class Recorded:
    """Stands in for the programs: all of them succeed, and none is started."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    def __call__(self, command: Command) -> Completed:
        self.commands.append(command)
        if command.argv[0] == "gzip":
            plain = Path(command.argv[-1])
            plain.rename(f"{plain}.gz")
        return Completed(command, 0, (), command.cwd / "log")


def test_xorriso_is_told_everything_that_may_differ():
    command = iso_command(Path("/a/disk"), Path("/b/i.iso"), label="OEMDRV", epoch=86399, weights=Path("/s/weights"))
    assert command.argv == (
        *("xorriso", "-no_rc", "-as", "mkisofs", "-quiet", "-V", "OEMDRV", "-r", "-J", "-joliet-long"),
        *("-iso-level", "3", "-uid", "0", "-gid", "0", "-dir-mode", "0555", "-file-mode", "0444"),
        *("--modification-date=1970010123595900", "--set_all_file_dates", "=86399"),
        *("--sort-weight-list", "/s/weights", "-o", "/b/i.iso", "/a/disk"),
    )
    assert command.env == {"SOURCE_DATE_EPOCH": "86399"}


def test_the_first_path_is_the_heaviest(tmp_path):
    filled(tmp_path, "b", "a/z", "a/b c=d")
    (tmp_path / "link").symlink_to("b")
    assert sort_weights(tmp_path) == "3 /a/b c=d\n2 /a/z\n1 /b\n"


def test_a_tree_is_read_in_the_order_of_its_parts(tmp_path):
    filled(tmp_path, "a-b", "a/x", "A")
    assert [str(path) for path in read_tree(tmp_path)] == ["A", "a", "a/x", "a-b"]


def test_programs_that_make_a_stick_with_stand_ins(tmp_path):
    filled(tmp_path / "disk", "b", "d/e/f", "d/g", "a")
    (tmp_path / "disk/link").symlink_to("b")
    told = Recorded()
    image, disk = tmp_path / "i", tmp_path / "disk"
    write_usb([Partition("OEMDRV", disk)], image, epoch=0, scratch=tmp_path, run=told)
    number = told.commands[0].argv[told.commands[0].argv.index("-i") + 1]
    blocks = image.stat().st_size // 1024 - 1024
    at = ("-i", f"{image}@@1048576")
    assert [command.argv for command in told.commands] == [
        (
            *("mkfs.vfat", "--invariant", "-F", "16", "-s", "4", "-S", "512", "-r", "512", "-n", "OEMDRV"),
            *("-i", number, "-h", "2048", "--offset", "2048", str(image), str(blocks)),
        ),
        ("mmd", *at, "::/d", "::/d/e"),
        ("mcopy", *at, "-Q", f"{disk}/a", f"{disk}/b", "::/"),
        ("mcopy", *at, "-Q", f"{disk}/b", "::/link"),
        ("mcopy", *at, "-Q", f"{disk}/d/g", "::/d/"),
        ("mcopy", *at, "-Q", f"{disk}/d/e/f", "::/d/e/"),
    ]
    # FAT begins in 1980.
    assert {command.env["SOURCE_DATE_EPOCH"] for command in told.commands} == {"315532800"}


def test_the_partition_table(tmp_path):
    one, two = filled(tmp_path / "1", "a"), filled(tmp_path / "2", "b")
    first = usb._planned(Partition("OEMDRV", one), 2**20)
    second = usb._planned(Partition("CIDATA", two), first.start + first.size)
    sector = usb._partition_table((first, second), 7)
    assert len(sector) == 512
    assert sector[:440] == bytes(440)
    assert sector[510:] == b"\x55\xaa"
    starts = [struct.unpack_from("<B3xB3xII", sector, 446 + 16 * number) for number in range(4)]
    assert starts[:2] == [
        (0, 0x0E, 2048, first.size // 512),
        (0, 0x0E, (first.start + first.size) // 512, second.size // 512),
    ]
    assert starts[2:] == [(0, 0, 0, 0)] * 2


def test_volume_ids_depend_on_what_is_there_only(tmp_path):
    one = usb._planned(Partition("OEMDRV", filled(tmp_path / "1", "a")), 2**20)
    same = usb._planned(Partition("OEMDRV", filled(tmp_path / "2", "a")), 2**20)
    assert usb._identity(1, one) == usb._identity(1, same)
    others = {usb._identity(2, one), usb._identity(1, replace(one, label="X")), usb._identity(1, one, one)}
    assert len({usb._identity(1, one), *others}) == 4


def test_arguments_are_divided():
    assert list(usb._portions(["a" * 40000, "b" * 20000, "c" * 20000])) == [
        ["a" * 40000, "b" * 20000],
        ["c" * 20000],
    ]
    assert list(usb._portions([])) == []


def test_a_fifth_partition(tmp_path):
    folder = filled(tmp_path / "disk", "a")
    with pytest.raises(InputError, match="four partitions"):
        write_usb([Partition("A", folder)] * 5, tmp_path / "i", epoch=0, scratch=tmp_path, run=Recorded())


def test_an_archive_byte_by_byte_with_a_stand_in_for_gzip(tmp_path):
    filled(tmp_path / "disk", "d/f")
    (tmp_path / "disk/l").symlink_to("d/f")
    write_dud(tmp_path / "disk", tmp_path / "i", epoch=255, scratch=tmp_path, run=Recorded())

    def head(inode: int, mode: int, links: int, time: int, size: int, name: bytes) -> bytes:
        numbers = (inode, mode, 0, 0, links, time, size, 0, 0, 0, 0, len(name) + 1, 0)
        text = b"070701" + b"".join(b"%08X" % number for number in numbers) + name + b"\0"
        return text + bytes(-len(text) % 4)

    wanted = (
        head(1, 0o040755, 2, 255, 0, b"d")
        + (head(2, 0o100444, 1, 255, 3, b"d/f") + b"d/f\0")
        + (head(3, 0o120777, 1, 255, 3, b"l") + b"d/f\0")
        + head(0, 0, 1, 0, 0, b"TRAILER!!!")
    )
    assert (tmp_path / "i").read_bytes() == wanted.ljust(512, b"\0")


def test_a_name_that_would_end_an_archive(tmp_path):
    filled(tmp_path / "disk", "TRAILER!!!")
    with pytest.raises(InputError, match="would end a cpio archive"):
        write_dud(tmp_path / "disk", tmp_path / "i", epoch=0, scratch=tmp_path, run=Recorded())


def test_an_archive_for_which_there_is_no_room(tmp_path):
    (tmp_path / "dud.cpio").symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match="no space left"):
        write_dud(filled(tmp_path / "disk", "a"), tmp_path / "i", epoch=0, scratch=tmp_path, run=Recorded())

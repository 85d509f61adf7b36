"""Opening disks that somebody else made: archives, names and places that lead out, and images that are cut off."""

import gzip
import io
import lzma
import random
from pathlib import Path

import pytest

from pkgkmod.cli import iso_report
from pkgkmod.errors import InputError
from pkgkmod.formats import entries as entries_module
from pkgkmod.formats.cpio import end_of_zstd, unpack
from pkgkmod.formats.entries import DamagedError, Entries, Entry, check_parts
from pkgkmod.media import images
from pkgkmod.media.contents import Row
from pkgkmod.media.images import open_disk
from pkgkmod.media.volumes import _unquoted, listed
from pkgkmod.model.disk import ModuleFacts
from pkgkmod.progress import Progress

FILE, FOLDER, LINK, DEVICE = 0o100644, 0o040755, 0o120777, 0o020644


def member(name, content=b"", mode=FILE, *, inode=1, links=1, size=None):
    """Return a member of a cpio archive, as the kernel's documentation describes it."""
    name = name.encode("utf-8", "surrogateescape") + b"\0"
    numbers = (inode, mode, 0, 0, links, 0, len(content) if size is None else size, 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
    head += bytes(-len(head) % 4)
    return head + content + bytes(-len(content) % 4)


def archive(*members):
    return b"".join(members) + member("TRAILER!!!")


DUD = archive(
    member("linux", mode=FOLDER),
    member("linux/suse", mode=FOLDER),
    member("linux/suse/x86_64-sles15/dud.config", b"UpdateName:\tA driver\n"),
    member("linux/suse/x86_64-sled15", b"x86_64-sles15", LINK),
)


@pytest.fixture
def opened(tmp_path):
    """Open an image of these bytes."""

    def do(content, name="image"):
        path, scratch = tmp_path / name, tmp_path / "scratch"
        path.write_bytes(content)
        scratch.mkdir()
        return open_disk(path, scratch, Progress())

    return do


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_an_archive_is_read_however_it_is_packed(opened, pack, tmp_path):
    disk = opened(pack(DUD))
    (volume,) = disk.volumes
    assert disk.carrier == "dud"
    assert volume.listing.files == {"linux/suse/x86_64-sles15/dud.config"}
    assert volume.listing.folders == {"linux", "linux/suse", "linux/suse/x86_64-sles15"}
    assert volume.listing.links == {"linux/suse/x86_64-sled15": "x86_64-sles15"}
    assert volume.listing.read("linux/suse/x86_64-sled15/dud.config") == b"UpdateName:\tA driver\n"
    volume.copy({"linux/suse/x86_64-sles15/dud.config": tmp_path / "7"})
    assert (tmp_path / "7").read_bytes() == b"UpdateName:\tA driver\n"


def test_archives_one_behind_the_other_are_all_read(opened):
    first, second, third = (archive(member(name, name.encode())) for name in ("one", "two", "three"))
    disk = opened(first + bytes(512) + gzip.compress(second) + bytes(3) + lzma.compress(third))
    assert [sorted(volume.listing.files) for volume in disk.volumes] == [["one"], ["two"], ["three"]]
    assert [volume.read(*volume.listing.files) for volume in disk.volumes] == [b"one", b"two", b"three"]
    assert disk.title == "archive (cpio, gzip, xz)"


def test_an_image_in_an_archive_is_opened_too(opened):
    disk = opened(archive(member("dd.img", archive(member("el9/rhdd3")))))
    assert disk.carrier == "initrd"
    assert [(volume.place, set(volume.listing.files)) for volume in disk.volumes] == [
        ("", {"dd.img"}),
        ("dd.img", {"el9/rhdd3"}),
    ]


def test_hard_links_have_the_content_of_the_last_one(opened):
    (volume,) = opened(
        archive(member("a", inode=5, links=2), member("b", b"content", inode=5, links=2), member("c", inode=6))
    ).volumes
    assert [volume.read(name) for name in "abc"] == [b"content", b"content", b""]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (DUD[:-40], "the archive is cut off"),
        (DUD[:115], "the archive is cut off"),
        (gzip.compress(DUD)[:-20], "it is cut off"),
        (lzma.compress(DUD)[:-20], "it is cut off"),
        (gzip.compress(DUD)[:30] + bytes(90), "it cannot be unpacked"),
        (archive(member("../../etc/passwd", b"x")), "'../../etc/passwd' in it leads out of it"),
        (archive(member("a/../../b")), "leads out of it"),
        (archive(member("a/" * 50 + "b")), "is too long"),
        (member("a", b"xy", size=0xFFFFFFFF), "the archive is cut off"),
        (DUD + b"something else", "there is no archive at byte"),
        (b"\x02\x21\x4c\x18" + bytes(100), "it is packed with lz4"),
        (b"070701zzzz" + bytes(200), "something else than a file at byte 0"),
    ],
)
def test_a_damaged_archive_is_refused_in_words(opened, content, says):
    with pytest.raises(InputError, match="image cannot be read: ") as caught:
        opened(content)
    assert says in caught.value.brief
    assert caught.value.hint


def test_what_is_no_image_is_refused_and_a_package_is_named_as_such(opened, tmp_path):
    with pytest.raises(InputError, match="is not the image of a disk") as caught:
        opened(b"#!/bin/sh\n" * 10_000)
    assert "ISO images, images of USB sticks (FAT, ext), archives (.dud, initrd), folders" in caught.value.hint
    (tmp_path / "a.rpm").write_bytes(b"\xed\xab\xee\xdb" + bytes(100))
    with pytest.raises(InputError) as caught:
        open_disk(tmp_path / "a.rpm", tmp_path / "scratch", Progress())
    assert "`pkgkmod iso check` takes packages" in caught.value.hint
    with pytest.raises(InputError, match="there is no file"):
        open_disk(tmp_path / "gone", tmp_path / "scratch", Progress())
    with pytest.raises(InputError, match="/dev/null is not a file") as caught:
        open_disk(Path("/dev/null"), tmp_path / "scratch", Progress())
    assert caught.value.hint == "copy the stick to one: `dd if=/dev/null of=stick.img`"


def test_the_end_of_a_zstd_frame_is_found():
    # RFC 8878: one segment, its size in a byte; a block as it is, one byte three times, and a checksum.
    frame = (
        b"\x28\xb5\x2f\xfd" + b"\x24\x05" + bytes([2 << 3, 0, 0]) + b"ab" + bytes([3 << 3 | 3, 0, 0]) + b"c" + b"sums"
    )
    assert end_of_zstd(io.BytesIO(b"__" + frame + b"behind"), 2) == 2 + len(frame)
    with pytest.raises(DamagedError, match="it is cut off"):
        end_of_zstd(io.BytesIO(frame[:12]), 0)


@pytest.mark.parametrize(("kind", "pack"), [("gzip", gzip.compress), ("xz", lzma.compress)])
def test_what_unpacks_to_more_than_is_allowed_is_refused_before_it_is_written(kind, pack):
    sink = io.BytesIO()
    with pytest.raises(DamagedError, match="unpacked, it is larger than 2 MiB"):
        unpack(io.BytesIO(pack(bytes(20 << 20))), 0, sink, kind, 2 << 20)
    assert len(sink.getvalue()) <= 2 << 20


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(opened, monkeypatch):
    monkeypatch.setattr(images, "_LARGEST_ARCHIVE", 1 << 20)
    with pytest.raises(InputError, match="larger than 1 MiB"):
        opened(gzip.compress(archive(member("zeros", bytes(8 << 20)))))


def test_thousands_of_files_are_refused_at_some_point(opened, monkeypatch):
    monkeypatch.setattr(entries_module, "MOST", 100)
    with pytest.raises(InputError, match="more than 100 files"):
        opened(archive(*(member(f"f{n}") for n in range(101))))


def test_links_are_followed_inside_of_a_disk_only():
    found = Entries()
    links = {"near": "folder", "out": "../../etc", "absolute": "/folder", "a": "b", "b": "a", "folder/up": "../near"}
    for path, target in links.items():
        found.put(path, Entry("link", target=target))
    found.put("folder", Entry("folder"))
    found.put("folder/file", Entry("file", 1))
    assert found.real("near/file") == "folder/file"
    assert found.real("folder/up/up/file") == "folder/file"
    assert [found.real(path) for path in ("out", "out/passwd", "absolute/file", "a", "near/gone")] == [None] * 5


def test_contents_that_are_not_in_the_image_are_refused():
    with pytest.raises(DamagedError, match="cut off: it has 10 bytes, and a lies behind them"):
        check_parts(Entries(a=Entry("file", 5, ((8, 5),))), 10)
    same = {name: Entry("file", 8, ((2, 8),)) for name in "abc"}
    check_parts(Entries(same), 10)  # hard links
    with pytest.raises(DamagedError, match="its files are larger than it is"):
        check_parts(Entries({**same, "d": Entry("file", 8, ((1, 8),))}), 10)


def test_names_that_are_not_text_are_written_out(opened):
    odd = archive(member("a\udcff\x1b[31m", b"x"), member("ünï", b"y"), member("null", mode=DEVICE))
    (volume,) = opened(odd).volumes
    assert volume.listing.files == {"a\\xff\x1b[31m", "ünï"}
    assert volume.read("a\\xff\x1b[31m") == b"x"
    with pytest.raises(InputError, match="null is no small file of the disk"):
        volume.read("null")


@pytest.mark.parametrize(
    ("shown", "name"),
    [
        ("'/plain'", "/plain"),
        ("""'/a b'"'"'c.rpm'""", "/a b'c.rpm"),
        (r"'/x\ny'", "/x\ny"),
        (r"'/back\\nslash'", "/back\\nslash"),
        (r"'/\303\274'", "/ü"),
        (r"'/esc\e[31m'", "/esc\x1b[31m"),
    ],
)
def test_names_are_read_as_xorriso_quotes_them(shown, name):
    assert _unquoted(shown) == name


def test_a_listing_of_xorriso_is_read():
    found = listed(
        "dr-xr-xr-x    1 0        0               0 Nov 21 14:13 '/'\n"
        "lr-xr-xr-x    1 0        0               0 Nov 21 14:13 '/el 10' -> '../we ird -> '\"'\"'x'\n"
        "-r--r--r--    1 0        0      4613734405 Nov 21 14:13 '/h.bin'\n"
        "-r--r--r--    1 0        0               0 Nov 21  2020 '/empty'\n"
        "Report layout: xt , Startlba ,   Blocks , Filesize , ISO image path\n"
        "File data lba:  0 ,       33 ,  2097151 , 4613734405 , '/h.bin'\n"
        "File data lba:  1 ,  2097184 ,   155650 , 4613734405 , '/h.bin'\n"
        "File data lba:  0 ,       38 ,        0 ,        0 , '/empty'\n"
    )
    first = 2097151 * 2048
    assert found == {
        "el 10": Entry("link", target="../we ird -> 'x"),
        "h.bin": Entry("file", 4613734405, ((33 * 2048, first), (2097184 * 2048, 4613734405 - first))),
        "empty": Entry("file"),
    }


def test_a_folder_is_a_disk_and_links_in_it_are_not_followed_out_of_it(tmp_path):
    root = tmp_path / "disk"
    (root / "el9/rpms/x86_64").mkdir(parents=True)
    (root / "el9/rhdd3").write_text("mark")
    (root / "secret").symlink_to("/etc/passwd")
    (root / "el10").symlink_to("el9")
    disk = open_disk(root, tmp_path, Progress())
    (volume,) = disk.volumes
    assert disk.carrier == "folder"
    assert volume.listing.files == {"el9/rhdd3"}
    assert volume.listing.links == {"secret": "/etc/passwd", "el10": "el9"}
    assert volume.read("el10/rhdd3") == b"mark"
    with pytest.raises(InputError, match="secret is no small file of the disk"):
        volume.read("secret")


def test_archives_with_wrong_bytes_anywhere_are_read_or_refused(tmp_path):
    chance = random.Random(1)
    outcomes = set()
    for number in range(300):
        content = bytearray(DUD)
        for _ in range(chance.choice((1, 3, 20))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        image, scratch = tmp_path / f"{number}.img", tmp_path / str(number)
        image.write_bytes(content)
        scratch.mkdir()
        try:
            (volume,) = open_disk(image, scratch, Progress()).volumes
            outcomes.add(len(volume.listing.files))
        except InputError as error:
            assert error.hint
            outcomes.add("refused")
    assert {1, "refused"} <= outcomes


ROWS = [
    Row("anaconda", "el9", "x86_64", "= 5.14.0-427.el9.x86_64", ModuleFacts(path="/a.ko", name="a"), "el9/one.rpm"),
    Row("anaconda", "el9", "x86_64", "= 5.14.0-427.el9.x86_64", ModuleFacts(path="/b.ko", name="b"), "el9/one.rpm"),
    Row("anaconda", "el9", "x86_64", ">= 5.14.0-503.el9.x86_64", ModuleFacts(path="/a.ko", name="a"), "el9/two.rpm"),
    Row("linuxrc", "", "", "", ModuleFacts(path="/a\x1b.ko", name="a\x1b"), "three.rpm"),
]


def test_a_narrow_terminal_gets_a_list_and_none_of_its_lines_is_longer_than_need_be(capsys, monkeypatch):
    monkeypatch.setattr(iso_report, "_width", lambda: 60)
    iso_report._show_rows(ROWS)
    assert capsys.readouterr().out.splitlines() == [
        "anaconda, el9, x86_64",
        "  el9/one.rpm",
        "    a  5.14.0-427.el9.x86_64",
        "    b  5.14.0-427.el9.x86_64",
        "  el9/two.rpm",
        "    a  >= 5.14.0-503.el9.x86_64",
        "linuxrc, ?",
        "  three.rpm",
        "    a\\x1b  none",
    ]


def test_a_table_on_a_terminal_says_what_rows_have_in_common_once_and_every_time_elsewhere(capsys, monkeypatch):
    iso_report._show_rows(ROWS[:2])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["INSTALLER", "RELEASE", "ARCH", "KERNEL", "MODULE", "PACKAGE"]
    wanted = ["anaconda", "el9", "x86_64", "5.14.0-427.el9.x86_64"]
    assert [row.split() for row in rows] == [[*wanted, "a", "el9/one.rpm"], [*wanted, "b", "el9/one.rpm"]]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(iso_report, "_width", lambda: 200)
    iso_report._show_rows(ROWS[:2])
    assert [row.split() for row in capsys.readouterr().out.splitlines()[1:]] == [
        [*wanted, "a", "el9/one.rpm"],
        ["b", "el9/one.rpm"],
    ]

"""Packages of the real dpkg-deb, taken apart and put together again; damaged and hostile ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import subprocess
import tarfile
from pathlib import Path
from typing import NoReturn

import pytest

from pkgkmod.errors import InputError
from pkgkmod.formats import debarchive, debchecksums, debpackage
from pkgkmod.formats.debarchive import MalformedError
from pkgkmod.formats.debchecksums import facts_of, read_listing
from pkgkmod.formats.debpackage import open_package, repackage, visit_modules
from pkgkmod.formats.debunpack import unpack
from pkgkmod.signing.openssl import run_quietly as run
from tests.fixtures.machine import need

FOLDER = "lib/modules/6.1.0-1-amd64/updates/acme"
LONG = f"{'long-' * 40}name.ko"
PACKERS = ("-Znone", "-Zgzip", "-Zgzip -z1", "-Zxz", "-Zxz -z1", "-Zxz -z9", "-Zzstd", "-Zzstd -z19")


def build(folder: Path, how: str = "-Zgzip", *, big: int = 100_000, **files: bytes) -> Path:
    """Make a package with modules, links of both kinds, conffiles, scripts, odd modes and times."""
    need("dpkg-deb", "xz", "gzip", "zstd")
    root = folder / "root"
    contents = {
        f"{FOLDER}/a.ko": b"module a " * 500,
        f"{FOLDER}/{LONG}": b"module with a long name",
        f"usr/{FOLDER}/b.ko": b"module b" * 128,
        "etc/acme.conf": b"# a conffile\n",
        "usr/share/doc/acme/big.ko": os.urandom(big),
        **{name.replace("__", "/"): content for name, content in files.items()},
    }
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "etc/acme.conf").chmod(0o4755)
    (root / FOLDER / "link.ko").symlink_to("a.ko")
    os.link(root / FOLDER / "a.ko", root / FOLDER / "z-hard.ko")
    sums = "".join(f"{hashlib.md5(content).hexdigest()}  {name}\n" for name, content in contents.items())
    control = "Package: acme\nVersion: 1\nArchitecture: amd64\nMaintainer: A <a@example.org>\n"
    control += "Installed-Size: 4000\nXB-Own: Installed-Size: 7\nDescription: s\n l\n"
    (root / "DEBIAN").mkdir()
    for name, text in {"md5sums": sums, "control": control, "conffiles": "/etc/acme.conf\n"}.items():
        (root / "DEBIAN" / name).write_text(text)
    (root / "DEBIAN/postinst").write_text("#!/bin/sh\nexit 0\n")
    (root / "DEBIAN/postinst").chmod(0o755)
    made = folder / "acme.deb"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run(["dpkg-deb", *how.split(), "-b", root, made], env=environment, check=True, capture_output=True)
    return made


def signed(path: str, content: bytes) -> bytes:
    return content + b"~signature of " + path.encode() + b"~" * 2000


def changed(source: Path, destination: Path, replace: debpackage.Replace = signed) -> None:
    with open_package(source, run) as package:
        repackage(package, destination, replace, run)


def archives(path: Path) -> dict[str, tarfile.TarFile]:
    def read(option: str) -> tarfile.TarFile:
        done = subprocess.run(["dpkg-deb", option, path], capture_output=True, check=True)
        assert len(done.stdout) % 10240 == 0
        return tarfile.open(fileobj=io.BytesIO(done.stdout))

    return {"control": read("--ctrl-tarfile"), "data": read("--fsys-tarfile")}


def facts(member: tarfile.TarInfo) -> tuple[object, ...]:
    names = ("name", "mode", "uid", "gid", "uname", "gname", "mtime", "type", "linkname", "devmajor")
    return tuple(getattr(member, name) for name in names)


def heads(path: Path) -> list[tuple[str, ...]]:
    """Name, owner, time and mode of each member."""
    lines = subprocess.run(["ar", "tvO", path], capture_output=True, text=True, check=True).stdout.splitlines()
    return [(words[-2], *words[:2], *words[3:-2]) for words in map(str.split, lines)]


@pytest.mark.parametrize("how", PACKERS)
def test_only_the_modules_change(tmp_path: Path, how: str) -> None:
    # What is not packed costs little, and may be larger than what is read at once.
    before, after = build(tmp_path, how, big=3_000_000 if how == "-Znone" else 300_000), tmp_path / "after.deb"
    changed(before, after)
    assert heads(before) == heads(after)
    one, other = archives(before), archives(after)
    grown = 0
    sums = dict(reversed(line.split("  ")) for line in read(other["control"], "./md5sums").splitlines())
    for kind in one:
        assert [facts(m) for m in one[kind].getmembers()] == [facts(m) for m in other[kind].getmembers()]
    for member in (m for m in one["data"].getmembers() if m.isreg()):
        content, new = (file.read() for file in (a["data"].extractfile(member.name) for a in (one, other)))
        path = member.name.removeprefix(".")
        is_module = "/lib/modules/" in path
        assert new == (signed(path, content) if is_module else content)
        assert sums[path.lstrip("/")] == hashlib.md5(new).hexdigest()
        grown += -(-len(new) // 1024) - -(-len(content) // 1024)
    text = read(one["control"], "./control")
    assert grown >= 5
    assert read(other["control"], "./control") == text.replace("Size: 4000", f"Size: {4000 + grown}")
    for name in ("./conffiles", "./postinst"):
        assert read(one["control"], name) == read(other["control"], name)
    changed(before, tmp_path / "again.deb")
    assert (tmp_path / "again.deb").read_bytes() == after.read_bytes()
    assert abs(after.stat().st_size - before.stat().st_size) < 20_000


def read(archive: tarfile.TarFile, name: str) -> str:
    file = archive.extractfile(name)
    assert file
    return file.read().decode()


def test_all_names_of_a_hard_link_get_the_signed_content(tmp_path: Path) -> None:
    source = build(tmp_path)
    with open_package(source, run) as package:
        seen: list[str] = []
        visit_modules(package, lambda path, content: seen.append(path))
        assert sorted(seen) == sorted(package.modules)
    assert sorted(seen) == sorted([f"/{FOLDER}/a.ko", f"/{FOLDER}/{LONG}", f"/usr/{FOLDER}/b.ko"])
    changed(source, tmp_path / "after.deb")
    subprocess.run(["dpkg-deb", "-x", tmp_path / "after.deb", tmp_path / "x"], check=True)
    assert (tmp_path / "x" / FOLDER / "z-hard.ko").samefile(tmp_path / "x" / FOLDER / "a.ko")
    assert b"~signature" in (tmp_path / "x" / FOLDER / "link.ko").read_bytes()


def test_a_module_hidden_behind_a_hard_link_is_found(tmp_path: Path) -> None:
    root = tmp_path / "root" / FOLDER
    root.mkdir(parents=True)
    (tmp_path / "root/a").write_bytes(b"content")
    os.link(tmp_path / "root/a", root / "m.ko")
    with open_package(build(tmp_path), run) as package:
        assert f"/{FOLDER}/m.ko" in package.modules


def test_what_does_not_change_is_copied(tmp_path: Path) -> None:
    source = build(tmp_path)
    changed(source, tmp_path / "after.deb", lambda path, content: content)
    assert (tmp_path / "after.deb").read_bytes() == source.read_bytes()


def test_contents_that_stay_give_the_same_tar_files(tmp_path: Path) -> None:
    """Through all of it and back: what is unpacked is the same, byte for byte."""
    source, there, back = build(tmp_path), tmp_path / "there.deb", tmp_path / "back.deb"
    changed(source, there)
    changed(there, back, lambda path, content: content.partition(b"~signature")[0])
    for option in ("--ctrl-tarfile", "--fsys-tarfile"):
        one, other = (
            subprocess.run(["dpkg-deb", option, path], capture_output=True, check=True).stdout
            for path in (source, back)
        )
        assert one == other


def test_further_members_stay_and_signatures_in_the_package_go(tmp_path: Path) -> None:
    source = build(tmp_path)
    (tmp_path / "_own").write_bytes(b"odd")
    (tmp_path / "_gpgorigin").write_bytes(b"signature")
    subprocess.run(["ar", "q", source, "_own", "_gpgorigin"], cwd=tmp_path, check=True, capture_output=True)
    with open_package(source, run) as package:
        assert package.is_signed
    changed(source, tmp_path / "after.deb")
    assert [name for name, *_ in heads(tmp_path / "after.deb")][-1] == "_own"
    assert subprocess.run(["ar", "p", tmp_path / "after.deb", "_own"], capture_output=True).stdout == b"odd"
    assert len(heads(tmp_path / "after.deb")) == 4


def test_a_module_that_is_not_what_its_md5sum_says_is_refused(tmp_path: Path) -> None:
    source = build(tmp_path)
    with open_package(source, run) as package:
        text = package.control.read_bytes()
        sum_of = hashlib.md5(b"module b" * 128).hexdigest().encode()
        assert sum_of in text
        package.control.write_bytes(text.replace(sum_of, b"0" * 32))
        with pytest.raises(InputError) as caught:
            repackage(package, tmp_path / "after.deb", signed, run)
    assert "the MD5 sum of" in caught.value.details
    assert not (tmp_path / "after.deb").exists()
    assert not list(tmp_path.glob(".repackage-*"))


def ar(*members: tuple[str, bytes], magic: bytes = b"!<arch>\n") -> bytes:
    whole = magic
    for name, content in members:
        whole += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        whole += content + b"\n" * (len(content) % 2)
    return whole


def tar(*entries: tuple[str, bytes, bytes], **more: object) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content, kind in entries:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(content), kind
            for key, value in more.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


FILE = tarfile.REGTYPE
BINARY = ("debian-binary", b"2.0\n")
CONTROL = ("control.tar", tar(("./control", b"Package: a\n", FILE)))
DATA = ("data.tar", tar((f"./{FOLDER}/a.ko", b"module", FILE)))


def wild_size(size: bytes) -> bytes:
    """An archive whose only file says that it has another size; the checksum is right."""
    block = bytearray(DATA[1])
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"!<arch>\n",
        b"!<arch>\nx",
        ar(BINARY),
        ar(BINARY, CONTROL),
        ar(CONTROL, DATA),
        ar(BINARY, CONTROL, DATA, DATA),
        ar(BINARY, CONTROL, DATA, ("data.tar.gz", b"")),
        ar(BINARY, CONTROL, ("data.tar.exe", b"")),
        ar(BINARY, CONTROL, ("data.tar.xz", b"not xz")),
        ar(BINARY, CONTROL, ("data.tar.gz", b"")),
        ar(BINARY, CONTROL, ("data.tar/../../x", b"")),
        ar(BINARY, CONTROL, ("data.tar", b"")),
        ar(BINARY, CONTROL, ("data.tar", DATA[1][:600])),
        ar(BINARY, CONTROL, ("data.tar", DATA[1] + b"more")),
        ar(BINARY, CONTROL, ("data.tar", DATA[1].replace(b"a.ko", b"b.ko"))),
        ar(BINARY, CONTROL, ("data.tar", wild_size(b"77777777777\0"))),
        ar(BINARY, CONTROL, ("data.tar", wild_size(b"\x80" + b"\0" * 3 + b"\x7f" * 8))),
        ar(BINARY, CONTROL, ("data.tar", wild_size(b"\xff" * 12))),
        ar(BINARY, CONTROL, ("data.tar", wild_size(b"no number..\0"))),
        ar(BINARY, CONTROL, ("data.tar", tar((f"{FOLDER}/a.ko", b"", FILE)))),
        ar(BINARY, CONTROL, ("data.tar", tar(("./a", b"1", FILE), ("a", b"2", FILE)))),
        ar(BINARY, CONTROL, ("data.tar", tar(("./a", b"x" * 600, b"S")))),
        ar(BINARY, CONTROL, ("data.tar", tar(("./a", b"20 path=b\n", b"x")))),
        ar(BINARY, CONTROL, ("data.tar", tar(("./a", b"x" * 5000, b"L")))),
        ar(BINARY, CONTROL, ("data.tar", tar(("./a", b"", tarfile.LNKTYPE), linkname="absent"))),
        ar(*[(f"m{number}", b"") for number in range(40)]),
        ar(BINARY, CONTROL, DATA)[:-1500],
        ar(BINARY, CONTROL, DATA).replace(b"`\n", b"``", 3),
    ],
)
def test_what_is_no_package_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.deb").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a Debian package"):
        changed(tmp_path / "x.deb", tmp_path / "after.deb")
    assert [path.name for path in tmp_path.iterdir()] == ["x.deb"]


def test_a_package_without_control_is_refused_and_a_small_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(ar(BINARY, ("control.tar", tar()), DATA))
    with pytest.raises(InputError):
        changed(tmp_path / "x.deb", tmp_path / "after.deb")
    (tmp_path / "x.deb").write_bytes(ar(BINARY, CONTROL, DATA))
    changed(tmp_path / "x.deb", tmp_path / "after.deb")
    assert b"~signature" in (tmp_path / "after.deb").read_bytes()
    with pytest.raises(InputError, match="cannot be read"):
        changed(tmp_path / "absent.deb", tmp_path / "after.deb")


def test_damage_anywhere_is_an_error_or_does_no_harm(tmp_path: Path) -> None:
    whole = ar(BINARY, CONTROL, DATA)
    outcomes = set()
    near = (*range(0, 800, 31), *range(len(whole) - len(DATA[1]) - 60, len(whole) - len(DATA[1]) + 600, 31))
    for place in (*near, *range(0, len(whole), 401)):
        for content in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]):
            (tmp_path / "x.deb").write_bytes(content)
            try:
                changed(tmp_path / "x.deb", tmp_path / "after.deb")
                outcomes.add("made")
            except InputError:
                outcomes.add("refused")
    assert outcomes == {"made", "refused"}


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debpackage, "_LARGEST_DATA", 1 << 20)
    source = build(tmp_path, "-Zxz", usr__share__zeros=bytes(5 << 20))
    with pytest.raises(InputError) as caught, open_package(source, run):
        pass
    assert "data.tar.xz cannot be unpacked" in caught.value.details


def test_an_archive_of_endless_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debarchive, "_MOST_ENTRIES", 5)
    with pytest.raises(InputError) as caught, open_package(build(tmp_path), run):
        pass
    assert "more than 5 files" in caught.value.details


# ---- .dsc, .buildinfo, .changes

CHANGES = """Format: 1.8
Date: Fri, 01 Mar 2024 12:00:00 +0000
Source: acme
Changes:
 acme (1) unstable; urgency=medium
 .
   * Files:
Checksums-Sha256:
 {sha256} {size} a_1.deb
Files:
 {md5} {size} kernel optional a_1.deb
"""


def listing_of(folder: Path) -> Path:
    (folder / "a_1.deb").write_bytes(b"package")
    facts = facts_of(folder / "a_1.deb")
    (folder / "a.changes").write_text(CHANGES.format(size=facts.size, **facts.digests))
    return folder / "a.changes"


def test_a_list_says_what_files_are_and_takes_new_ones(tmp_path: Path) -> None:
    path = listing_of(tmp_path)
    listing = read_listing(path)
    assert listing.time == 1709294400 and not listing.is_signed
    assert listing.fault(facts_of(tmp_path / "a_1.deb"), "a_1.deb") == ""
    (tmp_path / "a_1.deb").write_bytes(b"another")
    new = facts_of(tmp_path / "a_1.deb")
    assert "another SHA256" in listing.fault(new, "a_1.deb") or "another MD5" in listing.fault(new, "a_1.deb")
    assert listing.with_facts({}) == path.read_bytes()
    assert listing.with_facts({"a_1.deb": new}).decode() == CHANGES.format(size=new.size, **new.digests)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a_1.deb", "../a_1.deb"),
        ("a_1.deb", "/etc/passwd"),
        ("a_1.deb", "a 1.deb"),
        ("a_1.deb", "-rf"),
        ("kernel optional", "kernel"),
        ("Files:\n", "Files: x\n"),
        ("Files:\n", "Checksums-Sha256:\n"),
        ("Checksums-Sha256:", "Checksums-Sha1:"),
        ("Files:\n", "Files:\n\0\n"),
        ("Checksums-Sha256:\n", "Checksums-Sha256:\n ffff 1 b\n"),
    ],
)
def test_lists_that_are_none_are_refused(tmp_path: Path, before: str, after: str) -> None:
    path = listing_of(tmp_path)
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(InputError, match="cannot be read as a list of Debian's"):
        read_listing(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"-----BEGIN PGP SIGNED MESSAGE-----\n", b"Source: x\n"])
def test_what_lists_nothing_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.dsc").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a list"):
        debchecksums.read_listing(tmp_path / "x.dsc")


@pytest.mark.parametrize(("ending", "packed"), [(".xz", lzma.compress), (".gz", gzip.compress)])
def test_small_archives_are_unpacked_without_a_program(tmp_path, ending, packed) -> None:
    def none(command: object) -> NoReturn:
        raise AssertionError(command)

    content = bytes(range(256)) * 9000
    whole = packed(content)
    parts = {
        "one": (whole, content),
        "two": (whole + packed(b"more"), content + b"more"),
        "padded": (whole + bytes(8), content),
        "empty": (packed(b""), b""),
        "nothing": (b"", b""),
    }
    for name, (file, expected) in parts.items():
        (tmp_path / f"{name}.tar{ending}").write_bytes(file)
        made = unpack(tmp_path / f"{name}.tar{ending}", ending, len(content) + 4, none)
        assert made == tmp_path / f"{name}.tar" and made.read_bytes() == expected
        assert not (tmp_path / f"{name}.tar{ending}").exists()
    for file in (whole[:-9], whole[: len(whole) // 2], b"x" * 50, whole + b"x" * 50, packed(content * 2)):
        (tmp_path / f"bad.tar{ending}").write_bytes(file)
        with pytest.raises(MalformedError, match=f"bad.tar{ending} cannot be unpacked"):
            unpack(tmp_path / f"bad.tar{ending}", ending, len(content) + 4, none)


def test_xz_that_wants_more_memory_than_it_may_is_refused(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    (tmp_path / "bad.tar.xz").write_bytes(lzma.compress(b"x", filters=filters))
    with pytest.raises(MalformedError, match=r"[Mm]emory"):
        unpack(tmp_path / "bad.tar.xz", ".xz", 1 << 20, run)

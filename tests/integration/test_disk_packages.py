"""Reading packages for a driver disk: real ones, compared with what rpm, dpkg-deb and modinfo say of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import shutil
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pkgkmod.command import Command, Completed, run
from pkgkmod.errors import InputError, ToolError
from pkgkmod.formats.rpmheader import Header, SignatureTag, Tag, signature_header
from pkgkmod.formats.rpmpackage import read_headers
from pkgkmod.media import packages as media_packages
from pkgkmod.media.packages import find_packages, read_packages
from pkgkmod.model.disk import ModuleFacts, PackageFacts, Provide
from pkgkmod.progress import Progress
from pkgkmod.signing.modules import append
from tests.fixtures.aptrepo import key
from tests.fixtures.machine import made_once, need, series_and_kernel
from tests.fixtures.rpmrepo import sign

EL = "5.14.0-427.13.1.el9_4.x86_64"
FOLDER = f"lib/modules/{EL}/extra/hello"
EPOCH = 1_700_000_000
_SOURCE = """#include <linux/module.h>
#include <linux/pci.h>
static const struct pci_device_id ids[] = { { PCI_DEVICE(0x8086, 0x1533) }, { PCI_DEVICE(0x8086, 0x1539) }, { } };
MODULE_DEVICE_TABLE(pci, ids);
static int __init hello_init(void) { return PTR_ERR_OR_ZERO(THIS_MODULE); }
module_init(hello_init);
MODULE_LICENSE("GPL");
MODULE_ALIAS("of:N*T*Cacme,odd(1)");
"""
_SPEC = """Name: {name}
Version: 1.2
Release: 3.el9
{tags}
Summary: Says hello
License: GPL-2.0-only
AutoReqProv: no
%global debug_package %{{nil}}
%global __os_install_post %{{nil}}
%global _build_id_links none
%global _binaries_in_noarch_packages_terminate_build 0
%description
Hello.
%install
mkdir -p %{{buildroot}}
cp -a {tree}/. %{{buildroot}}/
%files
{files}
"""
_CONTROL = """Package: hello-modules
Version: 2:1.2-3~deb12
Architecture: amd64
Maintainer: A Packager <a@example.org>
Section: kernel
Description: says hello
 Hello.
"""
PROVIDES = (
    "kernel-modules >= 5.14.0-427.el9.x86_64",
    "kernel-modules",
    "hello-kmod = 1.2",
    "installer-enhancement = 19",
)


@pytest.fixture(scope="session")
def hello_ko() -> bytes:
    """A real module, without debug information."""
    need("make", "gcc", "strip")
    _, kernel = series_and_kernel()
    with made_once(f"disk-hello-{kernel}-{hashlib.sha256(_SOURCE.encode()).hexdigest()[:8]}") as (place, ready):
        if not ready:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            with tempfile.TemporaryDirectory() as work:
                Path(work, "hello.c").write_text(_SOURCE)
                Path(work, "Makefile").write_text("obj-m := hello.o\n")
                made = ["make", "-C", f"/lib/modules/{kernel}/build", f"M={work}", "modules"]
                subprocess.run(made, check=True, capture_output=True)
                subprocess.run(["strip", "-g", f"{work}/hello.ko", "-o", place / "hello.ko"], check=True)
    return (place / "hello.ko").read_bytes()


def write(tree: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)


def rpm(
    folder: Path, files: Mapping[str, bytes], *tags: str, name: str = "kmod-hello", payload: str = "w2.xzdio",
    target: str = "x86_64", kind: str = "-bb", links: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """Build a package of files with the real rpmbuild."""
    need("rpmbuild")
    tree, work = folder / "tree", folder / "work"
    tree.mkdir(parents=True)
    write(tree, files)
    for link, to in (links or {}).items():
        (tree / link).parent.mkdir(parents=True, exist_ok=True)
        os.link(tree / to, tree / link)
    listed = "\n".join(f'"/{one}"' for one in [*files, *(links or {})])
    folder.joinpath("a.spec").write_text(
        _SPEC.format(name=name, tags="\n".join(tags), tree=tree, files=listed).replace("\n\n", "\n")
    )
    defines = {"_topdir": work, "_rpmdir": folder, "_srcrpmdir": folder, "_dbpath": work / "db"}
    defines |= {"_binary_payload": payload, "_source_payload": payload, "use_source_date_epoch_as_buildtime": 1}
    words = [word for pair in defines.items() for word in ("--define", " ".join(map(str, pair)))]
    argv = ["rpmbuild", kind, *words, "--target", target, folder / "a.spec"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    (made,) = folder.rglob("*.rpm")
    return made


def deb(folder: Path, files: Mapping[str, bytes], *how: str, control: str = _CONTROL) -> Path:
    """Build a package of files with the real dpkg-deb."""
    need("dpkg-deb")
    tree = folder / "tree"
    write(tree, {**files, "DEBIAN/control": control.encode()})
    made = folder / "hello.deb"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
    argv = ["dpkg-deb", *(how or ("-Zxz", "-z1")), "--root-owner-group", "-b", tree, made]
    subprocess.run(argv, check=True, capture_output=True, env=environment)
    return made


def read(*paths: Path) -> tuple[PackageFacts, ...]:
    with tempfile.TemporaryDirectory() as place:

        def logged(command: Command) -> Completed:
            return run(command, log=Path(place, "log"), progress=Progress())

        return tuple(package.facts for package in read_packages(paths, logged, Progress()))


def one(path: Path) -> PackageFacts:
    (facts,) = read(path)
    return facts


def modinfo(content: bytes, field: str, folder: Path) -> list[str]:
    need("modinfo")
    (folder / "asked.ko").write_bytes(content)
    done = subprocess.run(["modinfo", "-F", field, folder / "asked.ko"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("payload", ["w9.gzdio", "w2.xzdio", "w3.zstdio", "w9.bzdio", "w6.lzdio", "w.ufdio"])
def test_an_rpm_says_what_rpm_and_modinfo_say(payload: str, hello_ko: bytes, tmp_path: Path) -> None:
    need("rpm")
    path = f"{FOLDER}/hello-world.ko"
    made = rpm(tmp_path, {path: hello_ko}, "Epoch: 2", *(f"Provides: {p}" for p in PROVIDES), payload=payload)
    facts = one(made)
    asked = "%{NAME}|%{EVR}|%{ARCH}|%{BUILDTIME}|%{SUMMARY}|%{PAYLOADCOMPRESSOR}"
    argv = ["rpm", "--dbpath", tmp_path / "db", "-qp", "--qf", asked, made]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    packed = facts.payload if payload != "w.ufdio" else "(none)"
    assert f"{facts.name}|{facts.version}|{facts.arch}|{facts.build_time}|{facts.summary}|{packed}" == said
    assert facts.payload == {"w9.gzdio": "gzip", "w2.xzdio": "xz", "w3.zstdio": "zstd", "w9.bzdio": "bzip2",
                             "w6.lzdio": "lzma", "w.ufdio": "none"}[payload]  # fmt: skip
    assert (facts.format, facts.kind, facts.machine, facts.signed) == ("rpm", "binary", "x86_64", False)
    assert (facts.version, facts.build_time, facts.size) == ("2:1.2-3.el9", EPOCH, made.stat().st_size)
    assert set(facts.provides) == {
        Provide(name="kernel-modules", relation=">=", version="5.14.0-427.el9.x86_64"),
        Provide(name="kernel-modules", relation="", version=""),
        Provide(name="installer-enhancement", relation="=", version="19"),
    }
    (vermagic,) = modinfo(hello_ko, "vermagic", tmp_path)
    assert facts.modules == (
        ModuleFacts(
            path=f"/{path}",
            name="hello_world",
            uname_r=EL,
            vermagic=vermagic.split()[0],
            machine="x86_64",
            aliases=tuple(modinfo(hello_ko, "alias", tmp_path)),
        ),
    )
    assert len(facts.modules[0].aliases) == 3


@pytest.mark.parametrize("how", ["-Znone", "-Zgzip", "-Zxz", "-Zzstd"])
def test_a_deb_says_what_dpkg_deb_says(how: str, hello_ko: bytes, tmp_path: Path) -> None:
    need("gzip", "xz", "zstd")
    made = deb(tmp_path, {f"usr/{FOLDER}/hello.ko": hello_ko}, how, "--uniform-compression")
    facts = one(made)
    fields = subprocess.run(["dpkg-deb", "-f", made], capture_output=True, text=True, check=True).stdout.splitlines()
    assert {f"Package: {facts.name}", f"Version: {facts.version}", f"Architecture: {facts.arch}"} <= set(fields)
    assert (facts.format, facts.kind, facts.machine, facts.summary) == ("deb", "binary", "x86_64", "says hello")
    assert (facts.build_time, facts.size, facts.control_path) == (EPOCH, made.stat().st_size, "./control")
    member, payload = {"-Znone": ("control.tar", "none"), "-Zgzip": ("control.tar.gz", "gzip"),
                       "-Zxz": ("control.tar.xz", "xz"), "-Zzstd": ("control.tar.zst", "zstd")}[how]  # fmt: skip
    assert (facts.control, facts.payload) == (member, payload)
    assert member in subprocess.run(["ar", "t", made], capture_output=True, text=True, check=True).stdout.split()
    assert [module.path for module in facts.modules] == [f"/usr/{FOLDER}/hello.ko"]
    assert facts.modules[0].uname_r == EL
    assert facts.modules[0].aliases


def compressed(content: bytes, *argv: str) -> bytes:
    need(argv[0])
    return subprocess.run(argv, input=content, capture_output=True, check=True).stdout


def test_compressed_and_signed_modules_are_read(hello_ko: bytes, tmp_path: Path) -> None:
    signed = append(hello_ko, b"a stand-in for a signature")
    files = {
        "a.ko": signed,
        "b.ko.xz": compressed(signed, "xz", "--check=crc32"),
        "c.ko.gz": compressed(signed, "gzip", "-n"),
        "d.ko.zst": compressed(signed, "zstd", "-q"),
        "e.ko.xz": compressed(hello_ko, "xz"),
    }
    for folder, build in (("rpm", rpm), ("deb", deb)):
        (tmp_path / folder).mkdir()
        facts = one(build(tmp_path / folder, {f"{FOLDER}/{name}": content for name, content in files.items()}))
        assert [module.compression for module in facts.modules] == ["none", "xz", "gz", "zst", "xz"]
        assert [module.signed for module in facts.modules] == [True, True, True, True, False]
        assert [module.fault for module in facts.modules] == [""] * 5
        assert len({module.aliases for module in facts.modules}) == 1
        assert facts.modules[0].aliases


def test_all_names_of_a_hard_link_are_modules(hello_ko: bytes, tmp_path: Path) -> None:
    made = rpm(tmp_path, {f"{FOLDER}/a.ko": hello_ko}, links={f"{FOLDER}/z.ko": f"{FOLDER}/a.ko"})
    facts = one(made)
    assert [module.name for module in facts.modules] == ["a", "z"]
    assert facts.modules[0].aliases == facts.modules[1].aliases != ()


def test_a_damaged_module_is_a_fault_and_the_others_are_read(hello_ko: bytes, tmp_path: Path) -> None:
    bare = tmp_path / "bare.ko"
    bare.write_bytes(hello_ko)
    subprocess.run(["objcopy", "--remove-section", ".modinfo", bare], check=True)
    faults = {
        "cut.ko": (hello_ko[:-400], "too early"),
        "cut.ko.xz": (compressed(hello_ko, "xz")[:-9], "truncated"),
        "cut.ko.zst": (compressed(hello_ko, "zstd", "-q")[:-9], "decompressed"),
        "empty.ko": (b"", "empty"),
        "no.ko": (b"#!/bin/sh\nrm -rf /\n", "not an ELF file"),
        "no-vermagic.ko": (bare.read_bytes(), "vermagic"),
        "plain.ko.xz": (hello_ko, "compressed as xz, and it is as none"),
        "packed.ko": (gzip.compress(hello_ko), "compressed as none, and it is as gz"),
    }
    files = {f"{FOLDER}/{name}": content for name, (content, _) in faults.items()} | {f"{FOLDER}/whole.ko": hello_ko}
    for folder, build in (("rpm", rpm), ("deb", deb)):
        (tmp_path / folder).mkdir()
        modules = {Path(module.path).name: module for module in one(build(tmp_path / folder, files)).modules}
        assert set(modules) == {*faults, "whole.ko"}
        for name, (_, words) in faults.items():
            assert words in modules[name].fault, name
            assert "\n" not in modules[name].fault
        assert modules["whole.ko"].fault == ""


@pytest.mark.parametrize(
    ("name", "place", "kind"),
    [
        ("kmod-hello-debuginfo", "usr/lib/debug/a.debug", "debuginfo"),
        ("kmod-hello-debugsource", "usr/src/debug/a.c", "debuginfo"),
        ("kmod-hello-symbols", f"usr/lib/debug/{FOLDER}/a.ko.debug", "debuginfo"),
        ("kmod-debuginfo-x", "usr/share/a", "binary"),
    ],
)
def test_debug_information_is_known_by_name_or_place(name: str, place: str, kind: str, tmp_path: Path) -> None:
    facts = one(rpm(tmp_path, {place: b"x"}, name=name))
    assert (facts.kind, facts.modules) == (kind, ())


def test_other_kinds_and_machines(hello_ko: bytes, tmp_path: Path) -> None:
    source = one(rpm(tmp_path / "s", {f"{FOLDER}/a.ko": hello_ko}, kind="-bs"))
    assert (source.kind, source.arch, source.machine, source.modules) == ("source", "src", "", ())
    common = one(rpm(tmp_path / "n", {"lib/firmware/a.bin": b"x"}, "BuildArch: noarch", target="noarch"))
    assert (common.kind, common.arch, common.machine, common.modules) == ("binary", "noarch", "", ())
    old = one(rpm(tmp_path / "i", {"lib/firmware/a.bin": b"x"}, target="i586"))
    assert (old.arch, old.machine) == ("i586", "i686")
    debug = _CONTROL.replace("hello-modules", "hello-modules-dbgsym")
    assert one(deb(tmp_path / "d", {f"{FOLDER}/a.ko": hello_ko}, control=debug)).kind == "debuginfo"
    debug = _CONTROL.replace("kernel", "non-free/debug")
    assert one(deb(tmp_path / "e", {f"{FOLDER}/a.ko": hello_ko}, control=debug)).kind == "debuginfo"
    everywhere = _CONTROL.replace("amd64", "all")
    assert one(deb(tmp_path / "a", {}, control=everywhere)).machine == ""
    other = _CONTROL.replace("amd64", "arm64")
    facts = one(deb(tmp_path / "o", {f"{FOLDER}/a.ko": hello_ko}, control=other))
    assert (facts.machine, facts.modules[0].machine) == ("aarch64", "x86_64")


def test_modules_are_those_below_a_kernels_folder(hello_ko: bytes, tmp_path: Path) -> None:
    files = dict.fromkeys((f"{FOLDER}/a.ko", "usr/share/a.ko", "lib/modules/a.ko", "lib/firmware/a.ko"), hello_ko)
    assert [module.path for module in one(rpm(tmp_path, files)).modules] == [f"/{FOLDER}/a.ko"]


def test_a_signed_package_is_known_as_such(tmp_path: Path) -> None:
    need("rpmsign", "gpg")
    made = rpm(tmp_path, {"usr/share/a": b"x"})
    assert not one(made).signed
    sign(key("rpm"), made)
    assert one(made).signed


def renumbered(path: Path, old: Tag, new: Tag, destination: Path) -> Path:
    """Write a package in which a tag has another number, with digests that are right."""
    package = read_headers(path)
    blob = bytearray(package.header.blob)
    place = blob.index(struct.pack(">I", old), 16)
    struct.pack_into(">I", blob, place, new)
    header = Header(bytes(blob), {})
    digest = hashlib.sha256(header.blob).hexdigest().encode() + b"\0"
    signature = signature_header({SignatureTag.SHA256: digest}, 0)
    padding = bytes(-len(signature) % 8)
    rest = path.read_bytes()[package.payload :]
    destination.write_bytes(package.lead + signature + padding + header.blob + rest)
    return destination


def test_a_package_of_format_6_is_read_unless_it_has_modules(hello_ko: bytes, tmp_path: Path) -> None:
    """A stand-in: the digest algorithm's number (8) stands for the format."""
    plain = rpm(tmp_path / "p", {"usr/share/a": b"x"})
    facts = one(renumbered(plain, Tag.PAYLOADDIGESTALGO, Tag.RPMFORMAT, tmp_path / "plain.rpm"))
    assert (facts.name, facts.kind, facts.modules) == ("kmod-hello", "binary", ())
    with_module = rpm(tmp_path / "m", {f"{FOLDER}/a.ko": hello_ko})
    odd = renumbered(with_module, Tag.PAYLOADDIGESTALGO, Tag.RPMFORMAT, tmp_path / "odd.rpm")
    with pytest.raises(InputError, match=r"odd\.rpm is a package of format 8, and only format 4 is read") as raised:
        one(odd)
    assert raised.value.hint


def test_packages_without_what_came_later_are_read(hello_ko: bytes, tmp_path: Path) -> None:
    """A stand-in for what others, and older rpms, leave out: tags that nobody knows are in their place."""
    made = rpm(tmp_path, {f"{FOLDER}/a.ko": hello_ko}, payload="w9.gzdio")
    late = (Tag.PAYLOADDIGESTALGO, Tag.PAYLOADCOMPRESSOR, Tag.PAYLOADFLAGS, Tag.SUMMARY, Tag.FILEDEVICES, Tag.BUILDTIME)
    for number, tag in enumerate(late):
        made = renumbered(made, tag, _unknown(9000 + number), tmp_path / f"{number}.rpm")
    facts = one(made)
    assert (facts.payload, facts.summary, facts.build_time, len(facts.modules)) == ("gzip", "", 0, 1)


def _unknown(number: int) -> Any:
    return number


def test_a_control_archive_without_dots_is_told_apart(tmp_path: Path) -> None:
    need("ar", "tar")
    write(tmp_path, {"debian-binary": b"2.0\n", "control": _CONTROL.encode(), "usr/share/a": b"x"})
    for name, what in (("control.tar.gz", "control"), ("data.tar.gz", "usr")):
        subprocess.run(["tar", "-czf", name, what], cwd=tmp_path, check=True)
    names = ["debian-binary", "control.tar.gz", "data.tar.gz"]
    subprocess.run(["ar", "rcD", "a.deb", *names], cwd=tmp_path, check=True)
    facts = one(tmp_path / "a.deb")
    assert (facts.name, facts.control, facts.control_path) == ("hello-modules", "control.tar.gz", "control")
    assert facts.build_time == 0, "ar's D writes no time"


def test_a_damaged_package_is_an_error(hello_ko: bytes, tmp_path: Path) -> None:
    files = {f"{FOLDER}/a.ko": hello_ko}
    chance = random.Random(5)
    for made in (rpm(tmp_path / "r", files), deb(tmp_path / "d", files, "-Zgzip")):
        whole, facts = made.read_bytes(), one(made)
        wrong = [whole[:size] for size in (0, 3, 96, len(whole) // 2, len(whole) - 3)]
        for _ in range(20):
            content = bytearray(whole)
            # In the archive: of the tables in front, no bit is lost without being said, but some mean nothing.
            content[chance.randrange(len(whole) * 2 // 3, len(whole) - 64)] ^= 1 << chance.randrange(8)
            wrong.append(bytes(content))
        for content in wrong:
            broken = tmp_path / f"broken{made.suffix}"
            broken.write_bytes(content)
            try:
                found = one(broken)
            except InputError as error:
                assert "broken" in str(error)
            else:
                # Bits of gzip's tables that no symbol uses may change, and what is unpacked does not.
                assert len(content) == len(whole) and found == facts


def test_no_damage_to_a_header_goes_unnoticed_or_is_a_traceback(hello_ko: bytes, tmp_path: Path) -> None:
    made = rpm(tmp_path, {f"{FOLDER}/a.ko": hello_ko})
    whole, package = made.read_bytes(), read_headers(made)
    header = package.payload - len(package.header.blob)
    chance = random.Random(6)
    broken = tmp_path / "broken.rpm"
    for _ in range(150):
        content, place = bytearray(whole), chance.randrange(package.payload)
        content[place] ^= 1 << chance.randrange(8)
        broken.write_bytes(content)
        try:
            read(broken)
            assert place < header, "what is in the lead, or reserved for signatures, means nothing"
        except InputError as error:
            assert "broken.rpm" in error.brief


def test_a_name_that_the_content_belies_is_an_error(tmp_path: Path) -> None:
    shutil.copy(rpm(tmp_path / "r", {"usr/share/a": b"x"}), tmp_path / "a.deb")
    shutil.copy(deb(tmp_path / "d", {"usr/share/a": b"x"}), tmp_path / "b.rpm")
    for name in ("a.deb", "b.rpm", "absent.rpm"):
        with pytest.raises(InputError, match=name):
            one(tmp_path / name)
    one(*find_packages([tmp_path / "r"]))
    with pytest.raises(InputError, match=r"a\.deb"):
        one(tmp_path / "a.deb")


@pytest.mark.parametrize(
    "path", [f"./lib/modules/../{'x' * 9}/a.ko", "./lib/modules/-x/a.ko", "./lib/modules/1/../../../a.ko",
             "./lib/modules/1/a\nb.ko", "./lib/modules/1/\x1b[2Ja.ko", "./lib/modules/a b/c.ko"],
)  # fmt: skip
def test_modules_whose_names_lead_elsewhere_are_refused(path: str, hello_ko: bytes, tmp_path: Path) -> None:
    need("ar")
    for name, inside, content in (("control.tar", "./control", _CONTROL.encode()), ("data.tar", path, hello_ko)):
        with tarfile.open(tmp_path / name, "w", format=tarfile.GNU_FORMAT) as archive:
            info = tarfile.TarInfo(inside)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (tmp_path / "debian-binary").write_text("2.0\n")
    subprocess.run(["ar", "rcD", "a.deb", "debian-binary", "control.tar", "data.tar"], cwd=tmp_path, check=True)
    with pytest.raises(InputError, match=r"a\.deb") as raised:
        one(tmp_path / "a.deb")
    assert raised.value.brief.isprintable()


def test_a_missing_zstd_is_no_fault_of_the_module(
    hello_ko: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = rpm(tmp_path, {f"{FOLDER}/a.ko.zst": compressed(hello_ko, "zstd", "-q")})
    monkeypatch.setattr("pkgkmod.programs.SYSTEM_PATH", str(tmp_path))
    with pytest.raises(ToolError, match="zstd"):
        one(made)
    monkeypatch.undo()
    assert one(made).modules[0].fault == ""


def test_a_second_reading_opens_no_package(hello_ko: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = deb(tmp_path / "d", {f"{FOLDER}/a.ko": hello_ko}), rpm(tmp_path / "r", {f"{FOLDER}/a.ko": hello_ko})
    first = read(*made)
    moved = [shutil.copy(path, tmp_path / f"moved{path.suffix}") for path in made]

    def refuse(*_: object) -> Any:
        raise AssertionError("it was read again")

    for name in ("_read_rpm", "_read_deb"):
        monkeypatch.setattr(media_packages, name, refuse)
    assert read(*map(Path, moved)) == first
    with Path(moved[0]).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(AssertionError, match="it was read again"):
        read(Path(moved[0]))


def test_many_packages_at_once_are_read_as_one_by_one(hello_ko: bytes, tmp_path: Path) -> None:
    files = {f"{FOLDER}/a{number}.ko": hello_ko + bytes(number) for number in range(3)}
    packages = []
    for number, payload in enumerate(("w2.xzdio", "w3.zstdio", "w9.gzdio")):
        whole = rpm(tmp_path / str(number), files, payload=payload)
        for copy in range(25):  # other bytes in the lead, which mean nothing
            content = bytearray(whole.read_bytes())
            content[70] = copy
            packages.append(tmp_path / f"{number}-{copy}.rpm")
            packages[-1].write_bytes(content)
    amounts: list[tuple[int, int]] = []

    class Counted(Progress):
        def amount(self, done: int, total: int) -> None:
            amounts.append((done, total))

    together = read_packages(packages, lambda command: pytest.fail(str(command)), Counted())
    assert [package.path for package in together] == packages
    assert amounts == [(number, 75) for number in range(1, 76)]
    for package in together:
        assert package.facts == media_packages._read_rpm(package.path)

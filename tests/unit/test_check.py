"""What `check` reads off bytes and options, the order of findings, and SARIF."""

from __future__ import annotations

import gzip
import json
import lzma
import struct
from typing import Any, cast

import pytest
from pydantic import ValidationError

from pkgkmod.engine.outcome import Run
from pkgkmod.errors import CheckError, ExitCode
from pkgkmod.model.finding import Finding
from pkgkmod.model.project import Project
from pkgkmod.modules.checks.btf import read_types
from pkgkmod.modules.checks.buildpaths import BuildPath, find_paths
from pkgkmod.modules.checks.codes import CODES, GROUPS, finding
from pkgkmod.modules.checks.compressed import Compression, compression_of
from pkgkmod.modules.checks.file import listed
from pkgkmod.modules.checks.kernel import compiler_of
from pkgkmod.modules.checks.modules import in_order
from pkgkmod.modules.kernelside import KernelSide
from pkgkmod.modules.kmod_deps import Export
from pkgkmod.modules.ownmodules import own_modules
from pkgkmod.packages.checkpackages import raise_errors
from pkgkmod.reports.sarif import sarif

# --- compression


@pytest.mark.parametrize(
    ("check", "name"),
    [
        (lzma.CHECK_NONE, "none"),
        (lzma.CHECK_CRC32, "CRC32"),
        (lzma.CHECK_CRC64, "CRC64"),
        (lzma.CHECK_SHA256, "SHA-256"),
    ],
)
def test_the_check_of_xz(check, name):
    found = compression_of(lzma.compress(b"x" * 9999, check=check))
    assert (found.kind, found.check, found.filters) == ("xz", name, ())
    assert bool(found.refused) == (name in ("CRC64", "SHA-256"))


@pytest.mark.parametrize("size", [4096, 6144, 1 << 20, 3 << 19])
def test_the_dictionary_and_the_filters_of_xz(size):
    lzma2 = {"id": lzma.FILTER_LZMA2, "dict_size": size}
    for before, names in (((), ()), (({"id": lzma.FILTER_X86},), ("x86",)), (({"id": lzma.FILTER_DELTA},), ("delta",))):
        found = compression_of(lzma.compress(b"x" * 99, check=lzma.CHECK_CRC32, filters=[*before, lzma2]))
        assert (found.dictionary, found.filters) == (size, names)
        assert bool(found.refused) == ("delta" in names)


def test_gzip_with_more_than_a_name_is_refused():
    plain = gzip.compress(b"x", mtime=0)
    assert compression_of(plain) == Compression("gzip") and not compression_of(plain).refused
    named, commented = (plain[:3] + bytes([flag]) + plain[4:] for flag in (0x08, 0x10))
    assert not compression_of(named).refused
    assert "header" in compression_of(commented).refused


@pytest.mark.parametrize(
    ("head", "window"),
    [
        (b"\x00\x58", 1 << 21),  # exponent 11
        (b"\x00\x5a", (1 << 21) + (1 << 19)),  # and two eighths
        (b"\x00\xa8", 1 << 31),
        (b"\x20\x64", 100),  # a single segment: the content's size is the window
        (b"\x60\x64\x00", 356),
        (b"\xa3\0\0\0\0\x00\x00\x10\x00", 1 << 20),  # behind the number of a dictionary
    ],
)
def test_the_window_of_zstd(head, window):
    found = compression_of(b"\x28\xb5\x2f\xfd" + head + b"\0" * 8)
    assert (found.kind, found.window) == ("zstd", window)
    assert bool(found.refused) == (window > 1 << 27)


@pytest.mark.parametrize(
    "content", [lzma.compress(b"x" * 99), b"\x28\xb5\x2f\xfd\x24abcdefgh", gzip.compress(b"x", mtime=0)]
)
def test_what_is_cut_off_is_no_traceback(content):
    for length in range(len(content)):
        compression_of(content[:length])


# --- paths


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("/home/jane/driver/main.c", "home"),
        ("/root/rpmbuild/BUILD/x-1.0/x.c", "home"),
        ("/build/linux-6.1/drivers/x.c", "build"),
        ("/tmp/tmpabc/x/x.c", "build"),
        ("/var/lib/dkms/x/1.0/build/x.c", "build"),
        ("/usr/local/src/x/x.c", "build"),
        ("/usr/src/linux-headers-6.1.0-56-common/include/linux/fs.h", None),
        ("/tmp/dump", None),
        ("/home/dir", None),
        ("/dev/video0", None),
        ("/proc/net/rt_cache.c", None),
        ("https://example.org/home/x.c", None),
        ("./home/jane/x.c", None),
        ("a/home/jane/x.c", None),
        ("%s/home/jane/x.c", None),
    ],
)
def test_which_texts_are_paths_of_the_build(text, kind):
    found = list(find_paths(b"other\0" + text.encode() + b"\0more", debug=False))
    assert found == ([BuildPath(text, kind)] if kind else [])


def test_debug_information_has_folders_too():
    texts = b"\0/home/jane/driver\0/usr/src/linux\0/build/x\0"
    assert [one.kind for one in find_paths(texts, debug=True)] == ["home", "build"]
    assert list(find_paths(texts, debug=False)) == []


def test_endless_paths_and_many_of_them_are_cut():
    assert list(find_paths(b"/home" + b"/a" * 100_000 + b".c", debug=False)) == []
    assert len(list(find_paths(b"\0/home/a/b.c" * 5000, debug=False))) == 1000


# --- types


def btf(types: bytes, words: bytes, **changed: int) -> bytes:
    fields = {"magic": 0xEB9F, "version": 1, "flags": 0, "header": 24, "types_at": 0, "types": len(types)}
    fields |= {"texts_at": len(types), "texts": len(words)} | changed
    return struct.pack("<HBBIIIII", *fields.values()) + types + words


def test_types_of_a_module_tell_where_those_of_its_kernel_end():
    words = b"speed\0driver\0"
    types = struct.pack("<III", 1000, 2 << 24, 1) + struct.pack("<III", 1006, 8 << 24, 1)
    members = struct.pack("<III", 12, (4 << 24) | 1, 8) + struct.pack("<III", 1000, 1, 0)
    assert read_types(btf(types + members, words), little_endian=True).base == 1000
    assert read_types(btf(struct.pack("<III", 5, 2 << 24, 1), b"\0"), little_endian=True).base is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "too short"),
        (b"x" * 30, "no type information"),
        (btf(b"", b"a\0", version=2), "version 2"),
        (btf(b"", b"a\0", texts=99), "outside"),
        (btf(b"", b"a\0", types_at=2**32 - 4), "outside"),
        (btf(b"", b"a"), "no end"),
        (btf(struct.pack("<III", 0, 31 << 24, 0), b"a\0"), "no kind"),
        (btf(struct.pack("<III", 0, (4 << 24) | 0xFFFF, 0), b"a\0"), "cut off"),
    ],
)
def test_damaged_types_are_told(data, why):
    assert why in read_types(data, little_endian=True).fault


# --- codes, order, settings


def test_codes_stand_in_order_within_their_groups():
    numbers = [int(code.removeprefix("KMOD")) for code in CODES]
    assert numbers == sorted(numbers) and set(GROUPS) <= set(numbers)
    for code, meaning in CODES.items():
        assert not meaning.title.endswith(".") and meaning.why.endswith("."), code


def test_findings_are_told_once_and_the_worst_first():
    ones = [finding("KMOD013", "a", "x"), finding("KMOD030", "b", "x"), finding("KMOD004", "a", "x")]
    assert [one.code for one in in_order([*ones, *ones])] == ["KMOD030", "KMOD004", "KMOD013"]
    assert [one.code for one in in_order(ones, ["KMOD030", "KMOD013"])] == ["KMOD004"]


def test_what_a_hostile_module_says_is_cut():
    assert len(finding("KMOD030", "a", "x" * 100_000).text) < 3000
    assert len(listed(["x" * 10_000] * 100)) < 3000 and listed("abcdefgh").endswith(" and 2 more")


def test_errors_are_raised_and_nothing_else():
    raise_errors([finding("KMOD013", "a", "x"), finding("KMOD004", "a", "x")], "")
    with pytest.raises(CheckError) as raised:
        raise_errors([finding("KMOD030", f"m{number}", "why", "cure") for number in range(12)], "hint")
    assert raised.value.exit_code is ExitCode.CHECK == 23
    assert raised.value.details.startswith("KMOD030 m0: why\n  cure\n") and raised.value.details.endswith("and 2 more")


def test_a_failed_check_is_told_as_such_although_all_was_made():
    made = {("build_iso", "_", "_"): cast(Any, None)}
    failed = {("check", "debian12", "_"): CheckError("refused")}
    assert Run(results=made, errors=dict(failed)).failure is failed["check", "debian12", "_"]


def test_the_table_check():
    info = {"project": {"name": "x"}}
    assert Project.model_validate(info).check.level == "fail"
    with pytest.raises(ValidationError):
        Project.model_validate({**info, "check": {"level": "sometimes"}})
    with pytest.raises(ValidationError):
        Project.model_validate({**info, "check": {"ignore": ["52"]}})


@pytest.mark.parametrize(
    ("text", "compiler"),
    [
        ("GCC: (Debian 12.2.0-14+deb12u1) 12.2.0", ("gcc", 12)),
        ("GCC: (GNU) 8.5.0 20210514 (Red Hat 8.5.0-26)", ("gcc", 8)),
        ("GCC: (SUSE Linux) 7.5.0", ("gcc", 7)),
        ("Debian clang version 16.0.6 (27+b1)", ("clang", 16)),
        ("clang version 17.0.0 (https://github.com/llvm/llvm-project.git abc)", ("clang", 17)),
        ("Linker: LLD 16.0.6", None),
        ("rustc version 1.78.0", None),
        ("GCC: ", None),
    ],
)
def test_compilers_by_what_they_write(text, compiler):
    assert compiler_of(text) == compiler


def test_a_kernels_own_modules_by_exports_and_options(tmp_path):
    exports = {
        "a": Export(1, "vmlinux", "EXPORT_SYMBOL", ""),
        "b": Export(1, "drivers/net/foo-bar", "EXPORT_SYMBOL", ""),
    }
    side = KernelSide("6.1.0-1-x", "x86_64", exports, {"E1000E": "m", "EXT4": "y"})
    own = own_modules(side, ["e1000e", "ext4", "mine"], tmp_path)
    assert (own.modules, own.builtin, own.complete) == ({"foo_bar", "e1000e"}, {"ext4"}, False)
    place = tmp_path / "6.1.0-1-x"
    place.mkdir()
    (place / "modules.order").write_text("kernel/drivers/net/e1000e.ko\n")
    (place / "modules.alias").write_text("alias crypto-md5 md5_generic\nalias pci:v1* x\n")
    own = own_modules(side, ["ext4"], tmp_path)
    assert own.complete and own.has("e1000e") and own.has("crypto_md5") and not own.has("ext4")


# --- SARIF


def test_sarif_of_nothing_is_a_document_with_a_run():
    document = json.loads(sarif([], CODES, "1.0"))
    assert document["version"] == "2.1.0" and document["$schema"].endswith("sarif-2.1.0.json")
    (run,) = document["runs"]
    assert run["results"] == [] and run["tool"]["driver"] == {"name": "pkgkmod", "version": "1.0", "rules": []}


@pytest.mark.parametrize(
    ("subject", "uri", "name"),
    [
        ("x y#1.rpm: /lib/modules/k/ü.ko", "x%20y%231.rpm", "/lib/modules/k/ü.ko"),
        ("/abs/a:b.ko", "file:///abs/a%3Ab.ko", None),
        ("a:b?.ko", "a%3Ab%3F.ko", None),
        ("6.1.0-56-amd64", None, "6.1.0-56-amd64"),
    ],
)
def test_where_findings_are_in_sarif(subject, uri, name):
    (result,) = json.loads(sarif([finding("KMOD030", subject, "x")], CODES, "1"))["runs"][0]["results"]
    (location,) = result["locations"]
    assert location.get("physicalLocation", {}).get("artifactLocation", {}).get("uri") == uri
    assert [one["name"] for one in location.get("logicalLocations", ())] == ([name] if name else [])


def test_texts_are_no_markup_in_sarif():
    odd = Finding(code="OTHER1", severity="warning", subject="a.ko", text="{0} [a](b)\x1b", cure="mend it")
    document = json.loads(sarif([odd], CODES, "1"))
    (result,) = document["runs"][0]["results"]
    assert result["message"]["text"] == "{{0}} \\[a\\](b)\\x1b. Mend it."
    assert document["runs"][0]["tool"]["driver"]["rules"] == [{"id": "OTHER1"}]

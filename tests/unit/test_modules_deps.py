"""Reading modules and saying what they need: made-up ELF files for what no real module here has."""

import ast
import gzip
import io
import lzma
import os
import random
import struct
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest

from pkgkmod.modules import kmod_deps
from pkgkmod.modules.kmod_deps import STYLES, ModuleError, combined, parse_module, read_module
from tests.fixtures.machine import need

PROGRAM = Path(kmod_deps.__file__)
MODINFO = b"license=GPL\0vermagic=6.4.0-150600.23.47-default SMP mod_unload modversions \0"


def madeup_elf(sections=None, symbols=(), *, order="<", wide=True):
    """Make a relocatable ELF file of named sections, and symbols (name, section or number, value, binding)."""
    sections = dict(sections or {})
    names = list(sections)
    strings, rows = b"\0", [b"\0" * (24 if wide else 16)]
    for name, place, value, binding in symbols:
        number = names.index(place) + 1 if isinstance(place, str) else place
        head = (len(strings), binding << 4, 0, number)
        row = (*head, value, 0) if wide else (head[0], value, 0, *head[1:])
        rows.append(struct.pack(order + ("IBBHQQ" if wide else "IIIBBH"), *row))
        strings += name.encode("utf-8", "surrogateescape") + b"\0"
    bodies = [(name, 1, body) for name, body in sections.items()]
    bodies += [(".symtab", 2, b"".join(rows)), (".strtab", 3, strings)]
    texts = b"\0" + b"".join(name.encode() + b"\0" for name in (*names, ".symtab", ".strtab", ".shstrtab"))
    bodies.append((".shstrtab", 3, texts))
    size = 64 if wide else 52
    headers, content = [bytes(64 if wide else 40)], b""
    for name, kind, body in bodies:
        link = len(bodies) - 1 if kind == 2 else 0
        values = (
            texts.index(b"\0" + name.encode() + b"\0") + 1,
            kind,
            0,
            0,
            size + len(content),
            len(body),
            link,
            0,
            0,
            0,
        )
        headers.append(struct.pack(order + ("IIQQQQIIQQ" if wide else "IIIIIIIIII"), *values))
        content += body
    ident = bytes([0x7F, *b"ELF", 2 if wide else 1, 1 if order == "<" else 2, 1]).ljust(16, b"\0")
    start = size + len(content)
    numbers = (1, 62, 1, 0, 0, start, 0, size, 0, 0, len(headers[0]), len(headers), len(headers) - 1)
    head = struct.pack(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"), *numbers)
    return ident + head + content + b"".join(headers)


def versions(*pairs, order="<", wide=True):
    layout = order + ("Q56s" if wide else "I60s")
    return b"".join(struct.pack(layout, crc, name.encode()) for name, crc in pairs)


VERSIONS = versions(("kfree", 1), ("other", 2), ("shared", 3))


def program(*words, names="", code=0):
    """Run the program in this process: started anew each time, it would take most of the time of these tests."""
    stdout, stderr, stdin = io.StringIO(), io.StringIO(), io.TextIOWrapper(io.BytesIO(os.fsencode(names)))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.setattr(sys, "stdin", stdin)
        try:
            ended = kmod_deps.main(list(map(str, words)))
        except SystemExit as error:  # argparse
            ended = error.code
    assert ended == code, stderr.getvalue()
    return SimpleNamespace(stdout=stdout.getvalue(), stderr=stderr.getvalue())


def test_it_is_a_program(installed):
    path = installed("a.ko", madeup_elf({".modinfo": MODINFO, "__versions": versions(("x", 1))}))
    for names, code in ((path, 0), (path.replace("a.ko", "gone.ko"), 1)):
        argv = [sys.executable, PROGRAM, "requires", "--style", "suse"]
        done = subprocess.run(argv, input=names, capture_output=True, text=True, check=False)
        inside = program(*argv[2:], names=names, code=code)
        assert (done.returncode, done.stdout, done.stderr) == (code, inside.stdout, inside.stderr)


@pytest.fixture
def installed(tmp_path):
    """Write modules to where a package has them."""

    def write(name, content, kernel="6.4.0-150600.23.47-default"):
        path = tmp_path / "lib/modules" / kernel / "updates" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)

    return write


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_madeup_module_of_each_word_size_and_byte_order(order, wide):
    elf = madeup_elf(
        {
            ".modinfo": MODINFO + b"alias=pci:v1*\0alias=\0version\0",
            "__versions": versions(("module_layout", 0x12345678), ("kfree", 0xA), order=order, wide=wide),
            "__kcrctab": struct.pack(order + "II", 1, 0xCAFE),
        },
        [
            ("kfree", 0, 0, 1),
            ("maybe", 0, 0, 2),
            ("_GLOBAL_OFFSET_TABLE_", 0, 0, 1),
            ("__crc_first", 0xFFF1, 0xFFFFFFFF00000005, 1) if wide else ("__crc_first", 0xFFF1, 5, 1),
            ("__crc_second", "__kcrctab", 4, 0),
            ("__crc_third", 0, 0, 2),
            ("__ksymtab_third", "__kcrctab", 0, 0),
        ],
        order=order,
        wide=wide,
    )
    module = parse_module(elf, "/x/foo-bar.ko.xz")
    assert module.name == "foo_bar"
    assert module.versions == {"module_layout": 0x12345678, "kfree": 0xA}
    assert (module.undefined, module.weak) == ({"kfree"}, {"maybe"})
    assert module.imports == {"kfree", "module_layout"}
    assert module.exports == {"first": 5, "second": 0xCAFE, "third": None}
    assert module.info("alias") == ["pci:v1*", ""]
    assert (module.release, module.flavour) == ("6.4.0-150600.23.47-default", "default")


def test_madeup_module_with_extended_versions_which_win():
    elf = madeup_elf(
        {
            "__versions": versions(("old", 1)),
            "__version_ext_crcs": struct.pack("<II", 7, 8),
            # As modpost writes them: a text of C, with one more NUL behind it.
            "__version_ext_names": b"_RNv_a_name_longer_than_the_56_bytes_of_the_old_table_has_room_for\0.new\0\0",
        }
    )
    read = parse_module(elf, "a.ko").versions
    assert read == {"_RNv_a_name_longer_than_the_56_bytes_of_the_old_table_has_room_for": 7, "new": 8}


@pytest.mark.parametrize(("size", "names"), [(8, b"one\0"), (6, b"one\0two\0\0"), (4, b"no end"), (4, b"")])
def test_madeup_extended_versions_that_do_not_fit_are_refused(size, names):
    elf = madeup_elf({"__version_ext_crcs": bytes(size), "__version_ext_names": names})
    with pytest.raises(ModuleError, match="do not go together"):
        parse_module(elf, "a.ko")


def test_madeup_names_of_64_bit_powerpc_lose_their_dot():
    symbols = [(".kfree", 0, 0, 1), (".TOC.", 0, 0, 1), (".maybe", 0, 0, 2)]
    elf = madeup_elf({"__versions": versions((".kfree", 1), order=">")}, symbols, order=">")
    module = parse_module(elf[:18] + bytes([0, 21]) + elf[20:], "a.ko")
    assert module.machine == 21
    assert (module.versions, module.undefined, module.weak) == ({"kfree": 1}, {"kfree"}, {"maybe"})
    assert parse_module(elf, "a.ko").undefined == {".kfree"}


def test_without_modversions_there_is_nothing_to_say_about_symbols():
    module = parse_module(madeup_elf({".modinfo": MODINFO}, [("kfree", 0, 0, 1)]), "/lib/modules/1/extra/a.ko")
    assert module.versions is None
    assert kmod_deps.requires([module], STYLES["redhat"]) == []
    assert kmod_deps.requires([module], STYLES["suse"]) == []
    assert module.imports == {"kfree"}


def modules(alias=b"", *, crc=0x1F):
    table = versions(("kfree", 0xABC), ("other", 0x5), ("shared", crc))
    user = madeup_elf({".modinfo": MODINFO + alias, "__versions": table})
    owner = madeup_elf(
        {".modinfo": MODINFO, "__kcrctab": struct.pack("<I", 0x1F)}, [("__crc_shared", "__kcrctab", 0, 0)]
    )
    folder = "/lib/modules/6.4.0-150600.23.47-default/updates/"
    return parse_module(user, folder + "the-user.ko"), parse_module(owner, folder + "owner.ko.zst")


SYMVERS = "0x00000abc\tkfree\tvmlinux\tEXPORT_SYMBOL\t\n0x00000006\tother\tvmlinux\tEXPORT_SYMBOL_GPL\tNS\n"


def test_red_hats_words(tmp_path):
    symvers = tmp_path / "Module.symvers"
    symvers.write_text(SYMVERS)
    user, owner = modules(b"version=1.0 (beta)\0version=2\0alias=pci:v1,d?\0")
    red_hat = STYLES["redhat"]
    assert kmod_deps.requires([user], red_hat, [str(symvers)]) == [
        "kernel(kfree) = 0x00000abc",
        "ksym(other) = 0x00000005",  # the kernel's is another one
        "ksym(shared) = 0x0000001f",
    ]
    assert kmod_deps.requires([user, owner], red_hat, [str(symvers)]) == [
        "kernel(kfree) = 0x00000abc",
        "ksym(other) = 0x00000005",
    ]
    assert kmod_deps.provides([user, owner], red_hat) == [
        "kmod(owner.ko)",
        "kmod(the-user.ko)",
        "ksym(shared) = 0x0000001f",
        "modalias(pci:v1_d?) = 1.0__beta_",
    ]
    assert kmod_deps.supplements([user], red_hat) == []


def test_a_sibling_with_another_crc_does_not_answer():
    assert "kernel(shared) = 0x00000020" in kmod_deps.requires(modules(crc=0x20), STYLES["redhat"])


def test_suses_words():
    user, owner = modules(b"alias=pci:v1,d?\0alias=none\0alias=acpi*:A B%:*\0")
    suse = STYLES["suse"]
    assert kmod_deps.requires([user], suse) == [
        "ksym(default:kfree) = abc",
        "ksym(default:other) = 5",
        "ksym(default:shared) = 1f",
    ]
    firmware = ["/b/lib/firmware/acme/a b.bin", "/b/lib/firmware/acme/c.bin.xz", "/b/usr/share/d.bin"]
    assert kmod_deps.provides([user, owner], suse, firmware) == [
        "firmware(acme/c.bin)",
        "kmod(owner.ko)",
        "kmod(the_user.ko)",
        "ksym(default:shared) = 1f",
    ]
    assert kmod_deps.supplements([user], suse, "azure") == [
        "modalias(kernel-azure:acpi*:A%20B%25:*)",
        "modalias(kernel-azure:pci:v1%2Cd%3F)",
    ]


def test_tumbleweeds_and_fedoras_words():
    user, _ = modules(b"alias=pci:v1\0")
    assert kmod_deps.requires([user], STYLES["tumbleweed"]) == ["kernel-uname-r = 6.4.0-150600.23.47-default"]
    assert kmod_deps.provides([user], STYLES["tumbleweed"]) == ["kmod(the_user.ko)"]
    assert kmod_deps.supplements([user], STYLES["tumbleweed"]) == ["modalias(kernel-default:pci:v1)"]
    assert kmod_deps.requires([user], STYLES["fedora"]) == []
    assert kmod_deps.provides([user], STYLES["fedora"]) == ["kmod(the-user.ko)", "modalias(pci:v1)"]


def test_the_kernels_own_modules_require_nothing():
    user = modules()[0]._replace(path="/lib/modules/6.4.0-1-default/kernel/drivers/a.ko")
    assert all(kmod_deps.requires([user], style) == [] for style in STYLES.values())


def test_aliases_that_differ_in_one_place_are_merged():
    assert combined(["pci:v1", "pci:v2", "pci:v3", "pci:w3", "usb:a"]) == ["pci:v[123]", "pci:w3", "usb:a"]
    # only at one place, never at a star, never of different lengths
    assert combined(["ab", "ac", "bc"]) == ["a[bc]", "bc"]
    assert combined(["a*", "ab"]) == ["a*", "ab"]
    assert combined(["a", "ab"]) == ["a", "ab"]
    assert combined([]) == []


@pytest.mark.parametrize("style", sorted(STYLES))
def test_whatever_an_alias_or_a_name_holds_each_line_is_one_dependency(style, installed):
    hostile = b"alias=a:b\n%{lua:x} = 1, kernel(x) >= 0\0alias=x:\xff\xfe)(\0version=1\n2 = 3\0"
    elf = madeup_elf({".modinfo": MODINFO + hostile})
    names = [installed(name, elf) for name in ("a b.ko", "x = 1.ko", "$(touch x),.ko", "ok.ko")]
    for what in ("requires", "provides", "supplements"):
        for line in program(what, "--style", style, names="\n".join(names)).stdout.splitlines():
            words = line.split(" ")
            assert len(words) == 1 or (len(words), words[1]) == (3, "="), line
            assert "," not in line
            assert line.isascii()
            assert line.isprintable()


@pytest.mark.parametrize("style", sorted(STYLES))
def test_what_rpm_asks_of_each_file_is_found_out_for_all_at_once(style, installed, tmp_path):
    """Each file is asked about alone: that one module of a package offers what another takes is not left out."""
    symvers = tmp_path / "trees-6.4.0-150600.23.47-default/Module.symvers"
    symvers.parent.mkdir()
    symvers.write_text(SYMVERS)
    owner = madeup_elf({".modinfo": MODINFO, "__kcrctab": bytes(4)}, [("__crc_shared", "__kcrctab", 0, 0)])
    names = [
        installed("user.ko", madeup_elf({".modinfo": MODINFO + b"alias=pci:v1*\0", "__versions": VERSIONS})),
        installed("owner.ko.xz", lzma.compress(owner)),
        str(tmp_path / "lib/firmware/acme/a b.bin"),
        installed("notes.txt", b"no module"),
    ]
    given = ("--style", style, "--symvers", symvers)
    program("rpm", *given, "--folder", tmp_path / "answers", names="\n".join(names))
    for what in ("requires", "provides", "supplements"):
        for name in names[:3]:
            assert Path(f"{tmp_path}/answers/{what}{name}").read_text() == program(what, *given, names=name).stdout
        assert not Path(f"{tmp_path}/answers/{what}{names[3]}").exists()


def test_a_file_that_cannot_be_read_fails_the_build_of_the_package(installed, tmp_path):
    path = installed("text.ko", b"hello, this is no module\n")
    done = program("rpm", "--style", "redhat", "--folder", tmp_path / "answers", names=path, code=1)
    assert "not an ELF file" in done.stderr
    assert not (tmp_path / "answers").exists()


def test_a_symbol_that_is_no_name_is_refused(installed):
    path = installed("a.ko", madeup_elf({"__versions": versions(("x) = 1, evil", 1))}))
    done = program("requires", "--style", "redhat", names=path, code=1)
    assert "no C name" in done.stderr
    assert done.stdout == ""


def test_no_flavour_to_be_had(installed):
    path = installed("a.ko", madeup_elf({"__versions": versions(("x", 1))}))
    assert "--flavour" in program("requires", "--style", "suse", names=path, code=1).stderr
    assert program("requires", "--style", "suse", "--flavour", "rt", names=path).stdout == "ksym(rt:x) = 1\n"


def test_names_that_are_no_modules_are_ignored(tmp_path):
    names = f"{tmp_path}/missing.txt\n/usr/bin/tool\nrelative.ko\n\n/x/lib/modules/1/modules.dep\n"
    assert program("requires", "--style", "redhat", names=names).stdout == ""


def test_files_that_cannot_be_read(installed, tmp_path):
    folder = tmp_path / "lib/modules/1/extra/dir.ko"
    folder.mkdir(parents=True)
    fifo = tmp_path / "lib/modules/1/extra/fifo.ko"
    os.mkfifo(fifo)
    for path, reason in (
        (f"{tmp_path}/lib/modules/1/gone.ko", "No such file"),
        (str(folder), "not a regular file"),
        (str(fifo), "not a regular file"),
        (f"{tmp_path}/lib/modules/1/\0.ko", "not a file name"),
        (installed("empty.ko", b""), "not an ELF file"),
        (installed("text.ko", b"hello, this is no module\n"), "not an ELF file"),
        (installed("program.ko", Path(sys.executable).resolve().read_bytes()), "not a module"),
        (installed("a.ko.xz", lzma.compress(bytes(10_000))[:-40]), "truncated"),
        (installed("a.ko.gz", gzip.compress(random.Random(1).randbytes(100))[:60]), "truncated"),
        (installed("b.ko.gz", b"\x1f\x8b\x08\0" + b"\xff" * 60), "cannot be decompressed"),
        (installed("\x1b[31mred.ko", b"no"), r"\x1b[31mred.ko: not an ELF"),
    ):
        done = program("provides", "--style", "redhat", names=path, code=1)
        assert reason in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert "\x1b" not in done.stderr


def test_a_symvers_with_more_lines_than_a_kernel_has_symbols_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(kmod_deps, "_EXPORTS_LIMIT", 3)
    line = "0x00000001\tname{}\tvmlinux\tEXPORT_SYMBOL\t\n"
    (tmp_path / "Module.symvers").write_text("".join(map(line.format, range(3))))
    assert len(kmod_deps.read_symvers(str(tmp_path / "Module.symvers"))) == 3
    (tmp_path / "Module.symvers").write_text("".join(map(line.format, range(4))))
    with pytest.raises(ModuleError, match="more than 3 lines"):
        kmod_deps.read_symvers(str(tmp_path / "Module.symvers"))


def test_a_small_symvers_that_unpacks_to_a_huge_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(kmod_deps, "_TABLE_LIMIT", 100_000)
    (tmp_path / "symvers.gz").write_bytes(gzip.compress(b"\n" * 200_000))
    with pytest.raises(ModuleError, match="too large"):
        kmod_deps.read_symvers(str(tmp_path / "symvers.gz"))


@pytest.mark.parametrize("size", [0, 1, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, 9 << 20])
@pytest.mark.parametrize("pack", [gzip.compress, lambda content: lzma.compress(content, preset=0)])
def test_what_is_unpacked_piece_by_piece_is_whole(size, pack):
    noise = random.Random(size).randbytes(min(size, 100_000))
    content = noise + bytes(size - len(noise))
    assert kmod_deps.unpacked(pack(content), "a.ko.gz") == content


def test_a_bomb_is_not_unpacked(installed, monkeypatch):
    monkeypatch.setattr(kmod_deps, "_UNPACKED_LIMIT", 100_000)
    for name, content in (("a.ko.gz", gzip.compress(bytes(200_000))), ("a.ko.xz", lzma.compress(bytes(200_000)))):
        with pytest.raises(ModuleError, match="too large"):
            read_module(installed(name, content))
    need("zstd")
    packed = subprocess.run(["zstd", "-qc"], input=bytes(200_000), capture_output=True, check=True).stdout
    with pytest.raises(ModuleError, match="too large"):
        read_module(installed("a.ko.zst", packed))
    with pytest.raises(ModuleError, match="damaged"):
        read_module(installed("b.ko.zst", packed[: len(packed) // 2]))


def test_zstd_that_is_not_installed(installed, monkeypatch):
    path = installed("a.ko.zst", b"\x28\xb5\x2f\xfd rest")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ModuleError, match="'zstd' is needed"):
        read_module(path)


def test_madeup_damaged_files_never_lead_to_anything_but_a_module_error():
    whole = madeup_elf(
        {".modinfo": MODINFO, "__versions": versions(("a", 1), ("b", 2)), "__kcrctab": bytes(8)},
        [("__crc_x", "__kcrctab", 4, 0), ("a", 0, 0, 1), ("__ksymtab_x", 1, 0, 0)],
    )
    chance = random.Random(7)
    refused = 0
    for number in range(4000):
        content = bytearray(whole)
        if number % 3 == 0:
            del content[chance.randrange(len(content)) :]
        for _ in range(number % 4):
            if content:
                content[chance.randrange(len(content))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        try:
            parse_module(bytes(content), "a.ko")
        except ModuleError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 1000


def test_tables_of_no_bounds_are_refused(monkeypatch):
    monkeypatch.setattr(kmod_deps, "_MODINFO_LIMIT", 100)
    with pytest.raises(ModuleError, match="a table of"):
        parse_module(madeup_elf({".modinfo": b"a=b\0" * 100}), "a.ko")
    endless = madeup_elf({}, [("x" * 600, 0, 0, 1)])
    with pytest.raises(ModuleError, match="a name without an end"):
        parse_module(endless, "a.ko")


def test_madeup_module_with_more_sections_than_a_symbol_can_name():
    symbols = [("__crc_x", 0xFFFF, 4, 0)]
    elf = madeup_elf({"__kcrctab": struct.pack("<II", 1, 9), "more": struct.pack("<II", 0, 1)}, symbols)
    # the section "more" becomes a table of section numbers (SHT_SYMTAB_SHNDX)
    (start,) = struct.unpack_from("<Q", elf, 40)
    patched = bytearray(elf)
    struct.pack_into("<I", patched, start + 2 * 64 + 4, 18)
    assert parse_module(bytes(patched), "a.ko").exports == {"x": 9}


def test_symvers_plain_and_compressed(tmp_path):
    for name, pack in (("a", bytes), ("a.gz", gzip.compress), ("a.xz", lzma.compress)):
        (tmp_path / name).write_bytes(pack(SYMVERS.encode()))
        read = kmod_deps.read_symvers(str(tmp_path / name))
        assert read["other"] == (6, "vmlinux", "EXPORT_SYMBOL_GPL", "NS")
        assert len(read) == 2
    (tmp_path / "bad").write_text(SYMVERS + "what is this\n")
    with pytest.raises(ModuleError, match="line 3 "):
        kmod_deps.read_symvers(str(tmp_path / "bad"))
    with pytest.raises(ModuleError, match="No such file"):
        kmod_deps.read_symvers(str(tmp_path / "gone"))


def test_of_several_symvers_that_of_the_modules_kernel_counts(tmp_path):
    user, _ = modules()
    for release, crc in ((user.release, "0xabc"), ("6.4.0-150600.23.4-default", "0x1")):
        (tmp_path / release).mkdir()
        (tmp_path / release / "Module.symvers").write_text(f"{crc}\tkfree\tvmlinux\tEXPORT_SYMBOL\t\n")
    paths = [str(path) for path in sorted(tmp_path.glob("*/Module.symvers"))]
    assert "kernel(kfree) = 0x00000abc" in kmod_deps.requires([user], STYLES["redhat"], paths)
    assert "ksym(kfree) = 0x00000abc" in kmod_deps.requires([user], STYLES["redhat"], paths[:1])


def test_greylist_names_what_is_not_stable(tmp_path):
    stable = tmp_path / "kabi_stablelist_x86_64"
    stable.write_text("[rhel9_x86_64_stablelist]\n\tkfree\n\tother_one\n")
    paths = []
    for name, content in zip(("a.ko", "b.ko"), (madeup_of(m) for m in ("user", "owner")), strict=True):
        (tmp_path / name).write_bytes(content)
        paths.append(str(tmp_path / name))
    assert program("greylist", "--stable", stable, names="\n".join(paths)).stdout == "other\n"
    assert program("greylist", "--stable", stable, names=paths[0]).stdout == "other\nshared\n"
    (tmp_path / "empty").touch()
    assert program("greylist", "--stable", tmp_path / "empty", names=paths[0]).stdout == "kfree\nother\nshared\n"
    symvers = tmp_path / "Module.symvers"
    symvers.write_text(SYMVERS)
    only_kernels = program("greylist", "--stable", stable, "--symvers", symvers, names=paths[0])
    assert only_kernels.stdout == "other\n"
    failed = program("greylist", "--stable", tmp_path / "gone", names=paths[0], code=1)
    assert (failed.stdout, "No such file" in failed.stderr) == ("", True)


def madeup_of(what):
    if what == "user":
        return madeup_elf({"__versions": VERSIONS})
    return madeup_elf({"__kcrctab": bytes(4)}, [("__crc_shared", "__kcrctab", 0, 0)])


def test_what_is_asked_must_be_said_in_full():
    assert "--style is needed" in program("requires", code=2).stderr
    assert "--stable is needed" in program("greylist", code=2).stderr
    assert "--folder is needed" in program("rpm", "--style", "suse", code=2).stderr
    assert "invalid choice" in program("requires", "--style", "arch", code=2).stderr


def test_the_file_is_alone_and_old_pythons_understand_it():
    source = PROGRAM.read_text()
    tree = ast.parse(source, feature_version=(3, 6))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert imported <= set(sys.stdlib_module_names)
    # what Debian's python3-minimal lacks
    assert not imported & {"mmap", "shutil", "tempfile", "dataclasses"}
    assert source.startswith("#!/usr/bin/python3\n")
    assert io.StringIO(source).read().isascii()

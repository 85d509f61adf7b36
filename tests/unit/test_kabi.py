"""kABI lists: the formats of kernel trees, what is found about symbols, and the words of the commit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkgkmod.errors import InputError
from pkgkmod.modules.kabi import Finding, Use, changes, commit_message, compare, uses_of
from pkgkmod.modules.kabifiles import Importer
from pkgkmod.modules.kabilists import (
    Export,
    NameList,
    SymbolFolder,
    SymversList,
    is_symbol,
    minor_release,
    open_lists,
    parse_export,
    parse_list,
    read_exports,
)
from pkgkmod.modules.kmod_deps import Module

KFREE = "0x037a0cba\tkfree\tvmlinux\tEXPORT_SYMBOL\t"
FOLDER = "redhat/kabi/kabi-module/kabi_x86_64"


def export(symbol="kfree", crc=0x037A0CBA, module="vmlinux", kind="EXPORT_SYMBOL", namespace=""):
    return Export(crc, symbol, module, kind, namespace)


class Files:
    """A kernel tree of files in memory."""

    def __init__(self, **files):
        self.files = {name: content.encode() for name, content in files.items()}

    def names(self, folder):
        inside = {name[len(folder) + 1 :].partition("/")[0] for name in self.files if name.startswith(folder + "/")}
        return frozenset(inside) or None

    def read(self, paths):
        return {path: self.files[path] for path in paths if path in self.files}


def folder(text, minor=6):
    return SymbolFolder(FOLDER, {"kfree": text}, minor)


@pytest.mark.parametrize(
    "line",
    [
        KFREE,
        "0x90e00558\tadd_disk\tvmlinux\tEXPORT_SYMBOL",  # without namespaces: before 5.4
        "0x3a187f0b\t__ib_alloc_cq\tdrivers/infiniband/core/ib_core\tEXPORT_SYMBOL_GPL\tRDMA",
    ],
)
def test_lines_of_module_symvers_are_read_and_written_alike(line):
    assert parse_export(line).line == line


@pytest.mark.parametrize(
    "line",
    [
        "",
        "kfree",
        "0x1\tkfree\tvmlinux\tEXPORT_SYMBOL",
        "0x037a0cba\t../kfree\tvmlinux\tEXPORT_SYMBOL",
        "0x037a0cba\tkfree\tvmlinux\tEXPORT_SYMBOL\tNS\tmore",
        "0x037a0cba\tkfree\tvml inux\tEXPORT_SYMBOL",
        KFREE + "\n",
        KFREE + "\r",
        "0x037a0cba\tkfr\u00e9e\tvmlinux\tEXPORT_SYMBOL",
    ],
)
def test_other_lines_are_no_exports(line):
    assert parse_export(line) is None


@given(st.text(max_size=300))
def test_what_counts_as_a_symbol_is_safe_as_a_file_name(name):
    if is_symbol(name):
        assert name.isascii()
        assert name.isidentifier()
        assert len(name) < 256


def test_a_symbols_file_has_its_release_and_the_kernels_line():
    lists = open_lists(Files(**{f"{FOLDER}/kmalloc": "#0-\n"}), "x86_64", ["kfree"], minor=6)
    assert lists[0].find("kfree") is None
    assert lists[0].with_symbols([export()]) == {f"{FOLDER}/kfree": f"#6-\n{KFREE}\n".encode()}


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        (f"#0-\n{KFREE}\n", False),
        (f"#8-\n{KFREE}\n\n", False),  # CentOS Stream 9 has an empty line behind it
        (f"#0-7\n{KFREE}\n", False),
        (f"#0-6\n{KFREE}\n", True),
        (f"#0-2\n{KFREE}\n", True),
        (f"#0-\n#I:1\n#P:mm/slab.c\n0x00000001\tkfree\tvmlinux\tEXPORT_SYMBOL\t\n{KFREE}\n", False),
    ],
)
def test_the_line_that_counts_is_found_in_a_symbols_file(text, gone):
    listed = folder(text).find("kfree")
    assert listed.export == export()
    assert bool(listed.gone) is gone


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        KFREE,
        "#0-\n",
        f"#0\n{KFREE}\n",
        f"#0-\n#I:5\n{KFREE}\n",
        f"#0-\n{KFREE.replace('kfree', 'kmalloc')}\n",
        f"#0-\r\n{KFREE}\r\n",
        "#0-\nkfree\n",
    ],
)
def test_a_symbols_file_of_another_format_is_an_error(text):
    with pytest.raises(InputError, match="kfree is there in another format"):
        folder(text).find("kfree")


def test_mending_a_symbols_file_keeps_what_else_it_says():
    old = "0x00000001\tkfree\tvmlinux\tEXPORT_SYMBOL\t"
    mended = folder(f"#0-\n#I:1\n#P:mm/slab.c\n{old}\n{old}\n\n").with_symbols([export()])
    assert mended == {f"{FOLDER}/kfree": f"#0-\n#I:1\n#P:mm/slab.c\n{old}\n{KFREE}\n\n".encode()}
    back = folder(f"#0-2\n{KFREE}\n").with_symbols([export()])
    assert back == {f"{FOLDER}/kfree": f"#6-\n{KFREE}\n".encode()}


def test_without_a_minor_release_no_symbols_file_is_made():
    with pytest.raises(InputError, match="which minor release") as caught:
        SymbolFolder(FOLDER, {}, None).with_symbols([export()])
    assert "--minor" in caught.value.hint


def test_lists_in_one_file_keep_their_order_and_the_rest():
    symvers = SymversList("Module.kabi_x86_64", ("# top", "0x00000001\tI_BDEV\tvmlinux\tEXPORT_SYMBOL", KFREE, ""))
    new = [export("__alloc_skb", 2), export("zap", 3), export("kfree", 4)]
    (content,) = symvers.with_symbols(new).values()
    assert [line.split("\t")[1:2] for line in content.decode().splitlines()] == [
        [],
        ["I_BDEV"],
        ["__alloc_skb"],
        ["kfree"],
        ["zap"],
    ]
    assert b"0x00000004\tkfree" in content
    names = NameList("kabi_whitelist_x86_64", ("[rhel7_x86_64_whitelist]", "\tI_BDEV", "\tkfree"))
    (content,) = names.with_symbols(new).values()
    assert content == b"[rhel7_x86_64_whitelist]\n\tI_BDEV\n\t__alloc_skb\n\tkfree\n\tzap\n"
    assert names.with_symbols([export("kfree")]) == {}


def test_an_empty_stable_list_is_a_list():
    # RHEL 9.0's has a heading only.
    (content,) = parse_list("kabi_stablelist_x86_64", b"[rhel9_x86_64_stablelist]\n").with_symbols([export()]).values()
    assert content == b"[rhel9_x86_64_stablelist]\n\tkfree\n"


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        (SymversList, ("0x1 kfree",)),
        (SymversList, ("<<<<<<< HEAD", KFREE)),
        (NameList, ("[one]", "\tkfree", "[two]")),
        (NameList, ("kfree",)),
        (NameList, ("\tkfree kmalloc",)),
        (NameList, ("\t../kfree",)),
    ],
)
def test_lists_in_one_file_of_another_format_are_errors(kind, lines):
    with pytest.raises(InputError, match="another format"):
        kind("list", lines)


def test_a_list_must_be_ascii_text():
    with pytest.raises(InputError, match="another format"):
        parse_list("list", b"\tkfre\xe9\n")


def test_the_lists_of_a_tree_are_found():
    old = Files(**{"redhat/kabi/Module.kabi_x86_64": KFREE + "\n", "redhat/kabi/kabi_whitelist_x86_64": "\tkfree\n"})
    assert {one.path for one in open_lists(old, "x86_64", ["kfree"])} == set(old.files)
    assert open_lists(old, "s390x", ["kfree"]) == ()
    new = Files(**{f"{FOLDER}/kfree": f"#0-\n{KFREE}\n", "redhat/kabi/Module.kabi_x86_64": ""})
    assert [one.path for one in open_lists(new, "x86_64", [])] == [FOLDER]
    # An architecture that nothing is listed for yet: git keeps no empty folders.
    assert [one.path for one in open_lists(new, "aarch64", [])] == ["redhat/kabi/kabi-module/kabi_aarch64"]
    assert open_lists(Files(Makefile=""), "x86_64", []) == ()


def test_a_folder_that_is_named_is_made():
    tree = Files(Makefile="")
    dup, own = "redhat/kabi/kabi-dup-module", "lists/{arch}/mine"
    assert [one.path for one in open_lists(tree, "x86_64", [], folder=dup)] == [f"{dup}/kabi_x86_64"]
    assert [one.path for one in open_lists(tree, "x86_64", [], folder=own)] == ["lists/x86_64/mine"]


@pytest.mark.parametrize(
    ("name", "text", "minor"),
    [
        ("Makefile.rhelver", "RHEL_MAJOR = 9\nRHEL_MINOR = 6\n", 6),
        ("Makefile", "RHEL_MAJOR=7\nRHEL_MINOR := 10\n", 10),
        ("Makefile", "# RHEL_MINOR = 1\nRHEL_MINOR = $(shell id)\n", None),
    ],
)
def test_the_minor_release_is_what_the_makefile_says(name, text, minor):
    assert minor_release(Files(**{name: text})) == minor


def test_the_kernels_symbols_are_read_also_compressed(tmp_path):
    import gzip

    plain = tmp_path / "Module.symvers"
    plain.write_text(f"{KFREE}\n0x00000001\tother\tvmlinux\tEXPORT_SYMBOL\t\n")
    packed = tmp_path / "symvers.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_exports(plain, {"kfree"}) == read_exports(packed, {"kfree"}) == {"kfree": export()}


@pytest.mark.parametrize("content", [b"kfree\n", b"\x7fELF\xff", (KFREE + "\nrest\n").encode()])
def test_a_file_that_is_no_module_symvers_is_an_error(tmp_path, content):
    (tmp_path / "Module.symvers").write_bytes(content)
    with pytest.raises(InputError, match="not a line of"):
        read_exports(tmp_path / "Module.symvers", {"kfree"})
    with pytest.raises(InputError, match="cannot be read"):
        read_exports(tmp_path / "absent", {"kfree"})


def importer(name, imports, exports=(), arch="x86_64", versions=None):
    module = Module(f"{name}.ko", (), versions or dict.fromkeys(imports, 1), frozenset(imports), frozenset(), {})
    return Importer(f"{name}.ko", arch, module._replace(exports=dict.fromkeys(exports, 1)))


def test_what_a_module_beside_exports_is_not_the_kernels():
    found = uses_of(
        [importer("a", ["kfree", "b_api"]), importer("b", ["kfree"], ["b_api"]), importer("c", ["b_api"], arch="s390x")]
    )
    assert {arch: {use.symbol: dict(use.modules) for use in uses} for arch, uses in found.items()} == {
        "x86_64": {"kfree": {"a.ko": 1, "b.ko": 1}},
        "s390x": {"b_api": {"c.ko": 1}},
    }


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\nb", "a b", "", "x" * 300, "\x1b[2J", "na\u00efve", "1st"])
def test_a_name_that_is_none_in_c_is_refused(name):
    with pytest.raises(InputError, match="is no C name") as caught:
        uses_of([importer("evil", [name])])
    assert caught.value.brief.isprintable()


def compared(use, exports, lists, others=()):
    (finding,) = compare("x86_64", [use], exports, lists, others)
    return finding


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0x00000001\tkfree\tvmlinux\tEXPORT_SYMBOL\t", "listed with 0x00000001, the kernel has 0x037a0cba"),
        (KFREE.replace("SYMBOL", "SYMBOL_GPL"), "listed with the kind EXPORT_SYMBOL_GPL"),
        (KFREE.replace("vmlinux", "mm/slab"), "listed with the module mm/slab"),
        (KFREE + "MM", "listed with the namespace MM, the kernel has -"),
    ],
)
def test_entries_that_differ_are_conflicts(line, words):
    lists = [folder(f"#0-\n{line}\n"), SymversList("Module.kabi_x86_64", (line,))]
    for one in lists:
        finding = compared(Use("kfree", {"a.ko": 0x037A0CBA}), {"kfree": export()}, [one])
        assert (finding.state, finding.clash) == ("conflict", "list")
        assert words in finding.reason


def test_a_checksum_that_is_not_settled_yet_is_no_conflict():
    # CentOS Stream 9 listed symbols with zeros while they were under review.
    zeros = folder("#0-\n0x00000000\tkfree\tvmlinux\tEXPORT_SYMBOL\t\n")
    assert compared(Use("kfree", {"a.ko": 0x037A0CBA}), {"kfree": export()}, [zeros]).state == "listed"


def test_the_column_of_namespaces_may_be_absent():
    old = folder("#0-\n0x037a0cba\tkfree\tvmlinux\tEXPORT_SYMBOL\n")
    assert compared(Use("kfree", {"a.ko": None}), {"kfree": export()}, [old]).state == "listed"


def test_modules_of_another_kernel_are_conflicts_whatever_is_listed():
    finding = compared(Use("kfree", {"a.ko": 1}), {"kfree": export()}, [folder(f"#0-\n{KFREE}\n")])
    assert (finding.state, finding.clash) == ("conflict", "module")
    assert finding.reason == "a.ko was built for 0x00000001, the kernel has 0x037a0cba"


def test_a_symbol_that_the_kernel_lacks_is_unknown():
    assert compared(Use("kfree", {"a.ko": 1}), {}, [SymbolFolder(FOLDER, {}, 6)]).state == "unknown"


def test_what_is_on_another_list_is_not_added():
    dup = SymbolFolder("redhat/kabi/kabi-dup-module/kabi_x86_64", {}, 6)
    main = NameList("kabi_stablelist_x86_64", ("\tkfree",))
    use = Use("kfree", {"a.ko": 0x037A0CBA})
    assert compared(use, {"kfree": export()}, [dup], [main]).state == "listed"
    assert compared(use, {"kfree": export()}, [dup]).missing == (dup.path,)


def test_a_conflict_with_another_list_is_not_this_lists():
    dup = SymbolFolder("redhat/kabi/kabi-dup-module/kabi_x86_64", {}, 6)
    use = Use("kfree", {"a.ko": None})
    differs = folder("#0-\n0x00000001\tkfree\tvmlinux\tEXPORT_SYMBOL\t\n")
    finding = compared(use, {"kfree": export()}, [dup], [differs])
    assert (finding.state, finding.clash, finding.missing) == ("conflict", "other", ())
    gone = folder(f"#0-2\n{KFREE}\n")
    assert compared(use, {"kfree": export()}, [dup], [gone]).state == "new"


def test_mending_mends_all_lists_at_once():
    lists = {
        "Module.kabi_x86_64": SymversList("Module.kabi_x86_64", ("0x00000001\tkfree\tvmlinux\tEXPORT_SYMBOL",)),
        "kabi_whitelist_x86_64": NameList("kabi_whitelist_x86_64", ()),
    }
    finding = compared(Use("kfree", {"a.ko": None}), {"kfree": export()}, list(lists.values()))
    files = changes([finding], lists, overwrite=True)
    assert files == {"Module.kabi_x86_64": f"{KFREE}\n".encode(), "kabi_whitelist_x86_64": b"\tkfree\n"}


def test_only_the_list_that_lacks_a_symbol_is_changed():
    lists = {
        "Module.kabi_x86_64": SymversList("Module.kabi_x86_64", (KFREE,)),
        "kabi_whitelist_x86_64": NameList("kabi_whitelist_x86_64", ("\tkmalloc",)),
    }
    finding = compared(Use("kfree", {"a.ko": None}), {"kfree": export()}, list(lists.values()))
    assert changes([finding], lists, overwrite=False) == {"kabi_whitelist_x86_64": b"\tkfree\n\tkmalloc\n"}


def test_conflicts_are_mended_only_on_request():
    lists = {FOLDER: folder("#0-\n0x00000001\tkfree\tvmlinux\tEXPORT_SYMBOL\t\n")}
    finding = compared(Use("kfree", {"a.ko": None}), {"kfree": export()}, list(lists.values()))
    assert changes([finding], lists, overwrite=False) == {}
    assert changes([finding], lists, overwrite=True) == {f"{FOLDER}/kfree": f"#0-\n{KFREE}\n".encode()}


def test_the_message_says_what_why_and_who():
    found = [
        Finding(arch, Use(symbol, {"a.ko": 1}), "new", export(symbol))
        for arch, symbol in (("x86_64", "kfree"), ("x86_64", "__kmalloc"), ("s390x", "kfree"))
    ]
    text = commit_message(found, ["a"], reason="Customers need it.\n\nJIRA: X-1", signature="Signed-off-by: A <a@b>")
    assert text == (
        "kabi: list 2 symbols that a uses\n\nCustomers need it.\n\nJIRA: X-1\n\n"
        "s390x, for a.ko:\n\n  kfree  0x037a0cba  vmlinux\n\n"
        "x86_64, for a.ko:\n\n  kfree      0x037a0cba  vmlinux\n  __kmalloc  0x037a0cba  vmlinux\n\n"
        "Signed-off-by: A <a@b>\n"
    )


def test_the_message_cannot_be_taken_for_a_patch():
    found = [Finding("x86_64", Use("kfree", {"a.ko": 1}), "new", export())]
    evil = "why\n---\ndiff --git a/x b/x\n--- a/x\nFrom me\x1b[2J"
    lines = commit_message(found, ["a", "b"], reason=evil, signature="s").splitlines()
    assert lines[0] == "kabi: list 1 symbol that 2 modules use"
    assert lines[3:7] == [" ---", " diff --git a/x b/x", " --- a/x", " From me\\x1b[2J"]


def test_long_names_stay_out_of_the_first_line():
    found = [Finding("x86_64", Use("kfree", {"a.ko": 1}), "new", export())]
    assert len(commit_message(found, ["a" * 200], reason="", signature="s").splitlines()[0]) <= 72

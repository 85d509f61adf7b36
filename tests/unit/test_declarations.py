"""Headers as one kernel's compiler would see them: conditions, declarations, what callers see, and hostile ones."""

import os

import pytest

from pkgkmod.cachefolder import cache_folder
from pkgkmod.errors import KernelError
from pkgkmod.kernels import tree
from pkgkmod.modules.api.declarations import Declaration, declarations
from pkgkmod.modules.api.headerindex import header_indexes, headers_below
from pkgkmod.modules.api.headertext import Conditions, read_header
from pkgkmod.modules.api.signatures import arity, declared_signature, is_compatible, members, signature
from pkgkmod.progress import Progress
from tests.fixtures.headertrees import header_tree

OPTIONS = {"PCI": "y", "USB": "m", "HZ": "250"}


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ("defined(CONFIG_PCI)", True),
        ("defined CONFIG_USB", False),
        ("defined(CONFIG_USB_MODULE)", True),
        ("defined(CONFIG_HZ)", True),
        ("IS_ENABLED(CONFIG_USB) && !IS_BUILTIN(CONFIG_USB)", True),
        ("IS_MODULE(CONFIG_PCI) || IS_REACHABLE(CONFIG_NONE)", False),
        ("!(defined(CONFIG_PCI) && defined(__KERNEL__))", False),
        ("LINUX_VERSION_CODE >= KERNEL_VERSION(6, 1, 0)", True),
        ("KERNEL_VERSION(6,1,300) > LINUX_VERSION_CODE", True),
        ("LINUX_VERSION_CODE < KERNEL_VERSION(6, 1)", None),
        ("0x0UL", False),
        ("1", True),
        ("SOMETHING > 3", None),
        ("SOMETHING && 0", False),
        ("SOMETHING || 1", True),
        ("(" * 5000 + "1" + ")" * 5000, None),
        ("!" * 3000 + "1", None),
        ("defined(", None),
        ("", None),
    ],
)
def test_conditions_are_worth_what_the_options_say(condition, value):
    assert Conditions(OPTIONS, 393472).value(condition) is value


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("#ifdef CONFIG_PCI\na\n#else\nb\n#endif", ["a"]),
        ("#ifndef CONFIG_PCI\na\n#elif defined(CONFIG_HZ)\nb\n#else\nc\n#endif", ["b"]),
        ("#ifdef UNKNOWN\na\n#else\nb\n#endif", ["a", "b"]),
        ("f() {\n#ifdef UNKNOWN\na {\n#else\nb {\n#endif\n}", ["f() {", "a {", "}"]),
        ("#ifdef CONFIG_NONE\n#ifdef CONFIG_PCI\na\n#endif\n#else\nb\n#endif", ["b"]),
        ("#if 0\na\n#endif\nb // c \\\n d\ne", ["b", "e"]),
        ("#endif\n#else\na", ["a"]),
    ],
)
def test_only_the_branches_of_the_kernel_are_kept_on_their_lines(text, kept):
    code = read_header(text.encode(), Conditions(OPTIONS)).code.decode()
    lines = [line.strip() for line in code.split("\n")]
    assert [line for line in lines if line] == kept
    assert all(line in text.split("\n")[number] for number, line in enumerate(lines))


def test_macros_and_includes_are_read():
    header = read_header(
        b"#define A 1 /* one\n two */\n#define B(a, \\\n  b) (a + \\\n b)\n#define same same\n"
        b'#include <linux/a.h>\n# include "b.h" // own\n#ifdef CONFIG_NONE\n#define C\n#include <c.h>\n#endif\n',
        Conditions(OPTIONS),
    )
    assert [(one.name, one.parameters, one.body, one.line) for one in header.macros] == [
        ("A", None, "1", 1),
        ("B", "(a, b)", "(a + b)", 3),
    ]
    assert header.includes == (("<linux/a.h", 7), ('"b.h', 8))


def declared(text):
    return {(one.kind, one.name): one.text for one in declarations(text.encode(), "a.h")}


@pytest.mark.parametrize(
    ("text", "kind", "name", "shown"),
    [
        (
            "extern __must_check int f(int a,\n\t\t struct x *b) __printf(1, 2);",
            "function",
            "f",
            "extern int f(int a, struct x *b)",
        ),
        (
            'void __iomem *map(phys_addr_t at) __attribute__((const, alias("x")));',
            "function",
            "map",
            "void *map(phys_addr_t at)",
        ),
        (
            "static __always_inline u32 g(const void __user *p)\n{ if (p) { return 1; } }",
            "inline",
            "g",
            "static inline u32 g(const void *p)",
        ),
        ("int (*handler)(int a);", "variable", "handler", "int (*handler)(int a)"),
        ("extern struct bus pci_bus;", "variable", "pci_bus", "extern struct bus pci_bus"),
        ("typedef int (*cb_t)(void *data);", "typedef", "cb_t", "typedef int (*cb_t)(void *data)"),
        (
            "struct s { int a; DECLARE_BITMAP(bits, 8); } __packed;",
            "struct",
            "s",
            "struct s { int a; unsigned long bits[8]; }",
        ),
        (
            "struct s { struct_group(g, int a; int b;); int c; };",
            "struct",
            "s",
            "struct s { struct { int a; int b;}; int c; }",
        ),
        ("struct s { struct inside { int a; } b; };", "struct", "inside", "struct inside { int a; }"),
        ("enum e { ONE = 1, TWO };", "enumerator", "TWO", "e"),
        ("ACPI_EXTERNAL_RETURN_STATUS(acpi_status acpi_f(u32 a))", "function", "acpi_f", "acpi_status acpi_f(u32 a)"),
        ("DECLARE_PER_CPU(struct x, per);", "variable", "per", "extern struct x per"),
        ("EXPORT_THING(a)\nint after(void);", "function", "after", "int after(void)"),
        ('build_read(readb, "b",\n "=q")\nint after(void);', "function", "after", "int after(void)"),
        ("int before(void);\n} } ) broken ( {\nint after(void);", "function", "before", "int before(void)"),
    ],
)
def test_a_parser_reads_what_is_declared(text, kind, name, shown):
    assert declared(text)[kind, name] == shown


def test_callers_do_not_see_names_of_parameters_and_linkage():
    assert signature("extern int f(int a, void (*done)(struct x *one))") == signature(
        "int f(int, void (*)(struct x *))"
    )
    assert signature("int f(int a)") != signature("int f(long a)")
    assert signature("static inline int f(char *a)") != signature("int f(const char *a)")


@pytest.mark.parametrize(
    ("old", "new", "fits"),
    [
        ("int f(char *a)", "int f(const char *a)", True),
        ("int f(const char *a)", "int f(char *a)", False),
        ("char *f(char *a)", "const char *f(char *a)", False),
        ("int f(int a)", "int f(int a, int b)", False),
    ],
)
def test_a_const_that_was_added_to_a_parameter_fits_all_calls(old, new, fits):
    assert is_compatible(signature(old), signature(new)) is fits


@pytest.mark.parametrize(
    ("kind", "text", "number"),
    [
        ("macro", "f(a, b) a + b", 2),
        ("macro", "f() 1", 0),
        ("macro", "f(a, ...) g(a, __VA_ARGS__)", None),
        ("macro", "f other", None),
        ("function", "int f(void)", 0),
        ("function", "int f(int, void (*)(int, int))", 2),
        ("inline", "static inline int f(int a)", 1),
        ("function", "int f(const char *fmt, ...)", None),
        ("variable", "int f", None),
    ],
)
def test_arguments_are_counted(kind, text, number):
    assert arity(Declaration("f", kind, text, "a.h", 1)) == number


def test_members_of_unnamed_structs_are_members():
    found = members("struct s { int a:3; union { struct x *b[2]; struct { const char *c; }; }; u32 (*d)(int e), *f; }")
    assert [(one.name, one.type) for one in found.values()] == [
        ("a", ""),
        ("b", "struct x"),
        ("c", ""),
        ("d", "u32"),
        ("f", "u32"),
    ]
    assert found["b"].signature == "struct x * b [ ]"
    assert found["c"].text == "const char *c"


def test_a_macro_is_compared_by_its_number_of_arguments():
    assert declared_signature(Declaration("f", "macro", "f(a, b) x", "a.h", 1)) == "macro of 2"


# --- hostile headers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"(" * 20_000,
        b"struct a {" * 1_000,
        b"DECLARE_BITMAP(a, b " * 500,
        b"\n" * 100_000,
        b"__aligned(" * 1_000,
        b"#if (\n" * 5_000,
        b"/*" * 50_000,
        bytes(range(256)) * 100,
        b"int " + b"*" * 20_000 + b"a;",
        b"int f(" + b"int (*" * 1_000,
        b"struct_group(a, " * 3_000,
        b"#define A(\n" * 3_000,
        b"ACPI_A_RETURN_B " * 500,
    ],
    ids=range(13),
)
def test_no_header_is_too_odd(content):
    header = read_header(content, Conditions(OPTIONS))
    assert header.code.count(b"\n") == content.count(b"\n")
    assert all(one.file == "a.h" for one in declarations(header.code, "a.h"))


def test_headers_that_are_too_large_or_no_files_are_left_out(tmp_path):
    (tmp_path / "good.h").write_text("int a;")
    (tmp_path / "large.h").write_bytes(b" " * 5_000_000)
    (tmp_path / "link.h").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe.h")
    assert [shown for _, shown in headers_below(tmp_path, "include")] == ["include/good.h"]


def test_headers_are_read_again_when_one_changes(tmp_path):
    kernel = header_tree(tmp_path / "tree", "6.1.0-1-amd64", {"linux/a.h": b"int f(int a); /* \xff */"})
    (index,) = header_indexes([kernel], Progress())
    assert [(one.kind, one.text, one.file, one.line) for one in index.find("f")] == [
        ("function", "int f(int a)", "include/linux/a.h", 1)
    ]
    assert index.version == 393472
    assert index.find("g") == ()
    header = tmp_path / "tree/include/linux/a.h"
    header.write_text("int g(void);")
    tree._folder_identity.cache_clear()  # as in another process
    (changed,) = header_indexes([tree.read_kernel(kernel.tree, "folder")], Progress())
    assert (changed.find("f"), len(changed.find("g"))) == ((), 1)
    kept = list((cache_folder() / "headers").iterdir())
    assert len(kept) == 2


def test_a_damaged_index_is_made_anew(tmp_path):
    kernel = header_tree(tmp_path / "tree", "6.1.0-1-amd64", {"linux/a.h": "int f(int a);"})
    header_indexes([kernel], Progress())
    (kept,) = (cache_folder() / "headers").iterdir()
    kept.write_bytes(kept.read_bytes()[:700])
    (index,) = header_indexes([kernel], Progress())
    assert len(index.find("f")) == 1


def test_a_tree_without_headers_is_said(tmp_path):
    kernel = header_tree(tmp_path / "tree", "6.1.0-1-amd64", {})
    (tmp_path / "tree/include/linux/module.h").unlink()
    with pytest.raises(KernelError, match="has no headers"):
        header_indexes([kernel], Progress())


def test_headers_are_found_as_kbuild_finds_them(tmp_path):
    texts = {
        "linux/a.h": '#include <asm/b.h>\n#include "inner.h"\n#include <linux/nowhere.h>',
        "linux/inner.h": "",
        "uapi/linux/c.h": "",
        "linux/kconfig.h": "#include <linux/c.h>",
    }
    kernel = header_tree(tmp_path / "tree", "6.1.0-1-amd64", texts)
    arch = tmp_path / "tree/arch/x86/include"
    (arch / "generated/asm").mkdir(parents=True)
    (arch / "generated/asm/b.h").write_text("#include <linux/a.h>")
    (index,) = header_indexes([kernel], Progress())
    assert index.included("<asm/b.h") == "arch/x86/include/generated/asm/b.h"
    assert index.included("<linux/c.h") == "include/uapi/linux/c.h"
    assert index.included("<linux/none.h") == ""
    assert {"include/linux/inner.h", "arch/x86/include/generated/asm/b.h", "include/uapi/linux/c.h"} <= index.reached(
        ["include/linux/a.h"]
    )

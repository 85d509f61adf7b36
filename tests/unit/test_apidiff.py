"""What changes between two kernels for a driver: exported symbols, declarations, members, headers, and what is used."""

import json
import os

import pytest
from click.testing import CliRunner

from pkgkmod.cli import cli
from pkgkmod.errors import DifferentError
from pkgkmod.modules.api.changes import Pair, Used, all_changes, changes_for
from pkgkmod.modules.api.diff import Risk, export_changes, risky_symbols
from pkgkmod.modules.api.headerindex import header_indexes
from pkgkmod.modules.api.headertext import Conditions
from pkgkmod.modules.api.use import Use, source_uses
from pkgkmod.modules.kernelside import KernelSide, kernel_side
from pkgkmod.modules.kmod_deps import Export
from pkgkmod.progress import Progress
from tests.fixtures.headertrees import header_tree

OLD, NEW = "6.1.0-1-amd64", "6.12.0-1-amd64"


def side(release, **exports):
    defaults = (0, "vmlinux", "EXPORT_SYMBOL", "")
    table = {name: Export(*words, *defaults[len(words) :]) for name, words in exports.items()}
    return KernelSide(release, "x86_64", table, {"MODVERSIONS": "y"})


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        ((1,), (1,), None),
        ((1,), None, ("gone",)),
        (None, (1,), ("new",)),
        ((1,), (2,), ("crc",)),
        ((1,), (1, "vmlinux", "EXPORT_SYMBOL_GPL"), ("gpl",)),
        ((1, "vmlinux", "EXPORT_SYMBOL_GPL"), (1,), ("not gpl",)),
        ((1,), (1, "vmlinux", "EXPORT_SYMBOL", "NS"), ("namespace",)),
        ((1, "vmlinux", "EXPORT_SYMBOL", "NS"), (1, "vmlinux", "EXPORT_SYMBOL", "NT"), ("namespace",)),
        ((1, "vmlinux", "EXPORT_SYMBOL", "NS"), (1,), ("not reserved",)),
        ((1,), (1, "vmlinux", "EXPORT_SYMBOL", "module:kvm"), ("reserved",)),
        ((1, "vmlinux", "EXPORT_SYMBOL", "module:kvm"), (1,), ("not reserved",)),
        ((1,), (1, "drivers/a/b"), ("moved",)),
        ((1,), (2, "drivers/a/b", "EXPORT_SYMBOL_GPL"), ("gpl", "crc", "moved")),
    ],
)
def test_what_became_of_an_exported_symbol(before, after, kinds):
    old, new = (side(name, **({"f": words} if words else {})) for name, words in ((OLD, before), (NEW, after)))
    assert [change.kinds for change in export_changes(old, new)] == ([kinds] if kinds else [])


def test_crcs_are_compared_only_where_both_kernels_have_them():
    without = KernelSide(NEW, "x86_64", {"f": Export(0, "vmlinux", "EXPORT_SYMBOL", "")}, {})
    assert export_changes(side(OLD, f=(7,)), without) == ()


def test_the_most_changeful_symbols_come_first_and_flavours_are_not_neighbours():
    sides = [
        side("6.12.0-1-amd64", f=(3,), g=(1,), h=(1,)),
        side("6.1.0-1-amd64", f=(1,), g=(1,), h=(1, "drivers/h")),
        side("6.1.0-2-amd64", f=(2,), h=(1,)),
        side("6.1.0-1-rt-amd64", f=(9,), g=(9,), h=(9,)),
    ]
    first, second = ("6.1.0-1-amd64", "6.1.0-2-amd64"), ("6.1.0-2-amd64", "6.12.0-1-amd64")
    assert risky_symbols(["f", "g", "h", "unknown"], sides) == (
        Risk("f", 2, (first, second)),
        Risk("g", 2, (first, second)),
    )
    assert risky_symbols(["f"], sides[3:]) == ()


OLD_HEADERS = {
    "linux/device.h": """
        #include <linux/inner.h>
        struct inner { int a; };
        struct device { struct inner *in; struct bus *bus; int *gone_member; char name[8]; };
        struct driver { int (*remove)(struct device *dev); int (*probe)(struct device *dev); };
        struct kept { struct device *dev; };
        extern struct device *make_device(int a, const char *name);
        void use_device(struct device *d);
        void look_at(struct device *d);
        static inline int helper(int a) { return a; }
        #define OLD_FLAG 1
        #define make_class(owner, name) __make_class(owner, name)
        enum states { FIRST_STATE, OLD_STATE };
        typedef int (*callback_t)(int);
        void by_name(struct opaque_one *o);
        struct opaque_one { int x; };
    """,
    "linux/inner.h": "int inner_helper(int a);",
    "linux/gone.h": "int unused;",
}
NEW_HEADERS = {
    "linux/device.h": """
        struct inner { long a; };
        struct device { struct inner *in; const struct bus *bus; char name[16]; };
        struct driver { void (*remove)(struct device *dev); int (*probe)(struct device *dev); };
        struct kept { struct device *dev; };
        struct device *make_device(long a, const char *device_name);
        void use_device(struct device *dev);
        void look_at(const struct device *dev);
        static inline int helper(int a, int b) { return a + b; }
        struct class *make_class(const char *name);
        enum states { FIRST_STATE };
        typedef void (*callback_t)(int);
        void by_name(struct opaque_one *o);
    """,
    "linux/inner.h": "int inner_helper(int a);",
}
OLD_SYMBOLS = """
    1 make_device
    2 use_device
    3 look_at
    4 unused_symbol
    5 stays
    6 locked
"""
NEW_SYMBOLS = """
    11 make_device
    12 use_device
    13 look_at
    5 stays drivers/stays
    6 locked vmlinux EXPORT_SYMBOL_GPL
    7 make_class
    8 fresh
"""
DRIVER = """
#include <linux/device.h>
#include <linux/gone.h>
#include "own.h"
static callback_t callback;
static int my_remove(struct device *dev) { return 0; }
static struct driver driver = { .remove = my_remove, .probe = no_such };
struct own { struct kept kept; struct opaque_one *one; };
static int twice(struct own *own, struct device *dev)
{
    int OLD_STATE_local = OLD_FLAG + OLD_STATE; /* helper(9) */
    own->kept.dev->bus = 0; dev->gone_member = 0; dev->name[0] = 0;
    make_class(0, "helper(1)"); helper(OLD_STATE_local); inner_helper(1);
    stays(); locked(); look_at(dev); use_device(make_device(1, "x")); by_name(own->one);
    own_macro(1);
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
    unused_symbol();
#endif
    return 0;
}
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    folder = tmp_path_factory.mktemp("kernels")
    old = header_tree(folder / "old", OLD, OLD_HEADERS, OLD_SYMBOLS)
    new = header_tree(folder / "new", NEW, NEW_HEADERS, NEW_SYMBOLS)
    # One by one: two processes take longer to start than this.
    (before,), (after,) = header_indexes([old], Progress()), header_indexes([new], Progress())
    patch.undo()
    return Pair(kernel_side(old), kernel_side(new), before, after)


def used_by(pair, folder, **files):
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    conditions = Conditions(pair.new.options, pair.new_headers.version)
    return source_uses(folder, conditions, pair.old_headers.find)


def test_what_breaks_a_driver_is_found_with_the_lines_that_use_it(pair, tmp_path):
    sources = used_by(pair, tmp_path, driver_c=DRIVER, own_h="#define own_macro(a) (a)\n")
    changes = {change.name: change for change in changes_for(pair, Used({}, sources))}
    sections = {}
    for change in changes.values():
        sections.setdefault(change.section, set()).add(change.name)
    assert sections == {
        "gone": {"OLD_FLAG", "OLD_STATE", "struct device.gone_member", "linux/gone.h"},
        "changed": {"make_device", "make_class", "helper", "struct driver.remove", "struct device.bus", "callback_t"},
        "include": {"linux/inner.h"},
        "restricted": {"locked"},
        "rebuild": {"use_device", "look_at"},
        "moved": {"stays"},
    }
    assert changes["OLD_FLAG"].places[0][:2] == ("driver.c", 11)
    assert changes["struct device.bus"].places[0].text.startswith("own->kept.dev->bus = 0;")
    assert changes["make_device"].old.text == "extern struct device *make_device(int a, const char *name)"
    assert (changes["make_device"].new.file, changes["make_device"].new.line) == ("include/linux/device.h", 6)
    assert changes["linux/inner.h"].names == ("inner_helper",)
    # Parameters that only got a const, or another name, need no change; the struct behind them is told.
    assert [chain.path for chain in changes["look_at"].chains] == [("struct device",)]


def test_the_nearest_type_that_changed_is_told_with_its_chain(pair, tmp_path):
    sources = used_by(pair, tmp_path, a_c="void f(void) { use_device(0); }")
    (change,) = changes_for(pair, Used({"use_device": ("mod",)}, sources))
    assert (change.section, change.modules) == ("rebuild", ("mod",))
    assert change.chains[0].path == ("struct device",)
    assert "const struct bus *bus" in change.chains[0].new.text


def test_a_driver_that_knows_of_a_change_is_left_alone(pair, tmp_path):
    knows = """
        static void my_remove(struct device *dev) { }
        static struct driver driver = { .remove = my_remove };
        void f(void) { make_class("x"); helper(1, 2); }
    """
    assert changes_for(pair, Used({}, used_by(pair, tmp_path, a_c=knows))) == ()


def test_what_fits_neither_kernel_is_told(pair, tmp_path):
    wrong = """
        static int my_probe(struct device *dev, int more) { return 0; }
        static struct driver driver = { .probe = my_probe };
        void f(void) { helper(1, 2, 3); use_device(); }
    """
    found = {one.name: one for one in changes_for(pair, Used({}, used_by(pair, tmp_path, a_c=wrong)))}
    assert found["struct driver.probe"].section == "misfit"
    assert "my_probe" in found["struct driver.probe"].note
    assert found["helper"].section == "changed"
    assert found["use_device"].section == "rebuild"


@pytest.mark.parametrize(
    "text",
    [
        # Which of them counts is not known.
        "#ifdef HAVE_IT\nstatic int g(struct device *d, int e) { return helper(1, 2, 3); }\n#endif\n"
        "struct driver d = {\n#ifdef HAVE_IT\n.probe = g,\n#endif\n};",
        # A header of the sources decides it.
        "#ifdef OWN_OLD\nint f(void) { return helper(1, 2, 3); }\n#endif",
        "#ifndef OWN_NEW\nint f(void) { return OLD_FLAG; }\n#endif",
        "#if OWN_LINUX_VERSION_CODE < OWN_KERNEL_VERSION(6, 12, 0)\nint f(void) { return OLD_FLAG; }\n#endif",
        # One of two definitions fits.
        "#ifdef HAVE_IT\nstatic int g(struct device *d) { }\n#else\nstatic int g(int d, int e) { }\n#endif\n"
        "struct driver d = { .probe = g };",
        # It may be several arguments, or no function of the kernel's.
        "#define BOTH 1, 2\nint f(void) { return helper(BOTH); }",
        "int f(int (*helper)(int)) { return helper(1); }",
    ],
    ids=range(7),
)
def test_conditions_that_nobody_knows_are_no_reason_to_complain(pair, tmp_path, text):
    own = "#ifndef OWN_H\n#define OWN_H\n#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 0, 0)\n#define OWN_NEW 1\n"
    own += "#undef OWN_OLD\n#else\n#define OWN_OLD 1\n#endif\n#endif\n"
    changes = changes_for(pair, Used({}, used_by(pair, tmp_path, a_c=text, own_h=own)))
    assert [change for change in changes if change.section in ("misfit", "gone")] == []


def test_names_in_comments_texts_and_locals_are_no_uses(pair, tmp_path):
    text = """
        /* helper(1); */ // OLD_FLAG
        static const char *t = "OLD_FLAG helper(1)";
        int f(int helper) { int OLD_FLAG = helper; return OLD_FLAG; }
    """
    uses = used_by(pair, tmp_path, a_c=text).uses
    assert not {"helper", "OLD_FLAG"} & {use.name for use in uses}


def test_members_are_followed_through_variables_casts_and_initializers(pair, tmp_path):
    text = """
        struct own { struct kept k[2]; };
        struct own table[] = { { .k = { { .dev = 0 } } } };
        void f(void *p) {
            struct own *own = p;
            own->k[0].dev->in->a = 1;
            ((struct driver *)p)->remove(0);
            make_device(1, "")->bus = 0;
            (&table[1])->k[1].dev = 0;
            unknown(p)->mystery = 0;
        }
    """
    members = {(use.owner, use.name) for use in used_by(pair, tmp_path, a_c=text).uses if use.kind == "member"}
    assert members == {
        ("struct own", "k"),
        ("struct kept", "dev"),
        ("struct device", "in"),
        ("struct inner", "a"),
        ("struct driver", "remove"),
        ("struct device", "bus"),
        ("", "mystery"),
    }


def test_whole_kernels_are_compared_by_their_symbols(pair):
    sections = {change.name: change.section for change in all_changes(pair)}
    assert sections["unused_symbol"] == "gone"
    assert sections["make_device"] == "changed"
    assert sections["make_class"] == "changed"  # it was a macro
    assert sections["fresh"] == "new"


def test_files_that_are_none_or_too_large_are_left_out(pair, tmp_path):
    os.mkfifo(tmp_path / "pipe.c")
    (tmp_path / "link.c").symlink_to("/dev/zero")
    (tmp_path / "large.c").write_bytes(b"helper(1);" * 500_000)
    (tmp_path / "latin.c").write_bytes(b'void f(void) { helper(1); } /* \xe9\xff */ char *s = "\xff";')
    uses = used_by(pair, tmp_path).uses
    assert [place.file for place in uses[Use("name", "helper", "")]] == ["latin.c"]


# --- the command --------------------------------------------------------------------------------------


@pytest.fixture
def trees(tmp_path, monkeypatch):
    """Two build trees, whose headers were read."""
    monkeypatch.chdir(tmp_path)
    evil = "struct device *make_device(int a);\n"
    old = header_tree(tmp_path / "old", OLD, {"linux/\x1b[31m.h": evil}, "1 make_device\n2 gone_\x1b]0;x")
    new = header_tree(tmp_path / "new", NEW, {"linux/a.h": "void make_device(int a);"}, "2 make_device")
    header_indexes([old], Progress())
    header_indexes([new], Progress())
    return ["./old", "./new"]


def run(*args):
    return CliRunner().invoke(cli, ["apidiff", *args])


def test_the_difference_is_an_exit_code_and_names_drive_no_terminal(trees):
    done = run(*trees)
    assert isinstance(done.exception, DifferentError)
    assert "\x1b" not in done.output
    assert "1 gone, 1 declared otherwise" in done.output
    assert "    - struct device *make_device(int a)\n    + void make_device(int a)\n" in done.output
    assert max(map(len, done.output.splitlines())) <= 80
    assert run("./old", "./old").exit_code == 0


def test_programs_get_a_line_for_each_change(trees):
    lines = [json.loads(line) for line in run(*trees, "--json").output.splitlines()]
    assert [line["event"] for line in lines] == ["api-change", "api-change", "api-changes"]
    assert lines[1]["name"] == "make_device"
    assert lines[1]["new"]["file"] == "include/linux/a.h"
    assert lines[-1]["worse"] is True


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["./nowhere", "./new"], "there is no build tree in ./nowhere"),
        (["./old", "./new", "--for", "nothing"], "nothing is not there"),
        (["./old", "./new", "--for", ".", "x.ko"], "do not go together"),
        (["./old", "./new", "x.ko"], "x.ko is not there"),
        (["no-such-release", "./new"], "kernel build tree no-such-release not found"),
    ],
)
def test_what_cannot_be_compared_is_said(trees, args, told):
    error = run(*args).exception
    assert told in error.brief
    assert error.hint

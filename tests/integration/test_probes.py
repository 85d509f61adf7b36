"""Questions to real kernels, with the real compiler: by pkgkmod, and by the makefile alone."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pkgkmod.cachefolder import cache_folder
from pkgkmod.command import run
from pkgkmod.errors import CompileError, KernelError
from pkgkmod.jobserver import JobServer
from pkgkmod.kernels.tree import read_kernel
from pkgkmod.model.probes import Probe
from pkgkmod.model.project import Build
from pkgkmod.modules.buildfolder import OPTIONS_FILE, static_texts
from pkgkmod.modules.probefiles import answers_file, answers_header, write_probes
from pkgkmod.modules.probes import ask_kernel, exports, known_answers
from pkgkmod.progress import Progress
from tests.fixtures.machine import CHECKOUT, commit, lacking, made, need, pkgkmod

CLASS = ("linux/device/class.h",)
EVERY_KIND = {
    "HAVE_CALL": Probe(includes=CLASS, call='class_create("x")'),
    "HAVE_ARGS": Probe(
        includes=("linux/export.h", *CLASS), args=('class_create(THIS_MODULE, "x")', 'class_create("x")')
    ),
    "HAVE_TYPE": Probe(includes=("linux/timer.h",), type="struct timer_list"),
    "HAVE_MEMBER": Probe(includes=("linux/netdevice.h",), member="struct net_device.mtu"),
    "HAVE_BITFIELD": Probe(includes=("linux/pci.h",), member="struct pci_dev.msi_enabled"),
    "HAVE_HEADER": Probe(header="linux/device/class.h"),
    "HAVE_CODE": Probe(
        includes=("linux/types.h",), code="static u8 unused;\nint f(u8 a);\nint f(u8 a)\n{\n\tint b;\n\treturn a;\n}"
    ),
    "HAVE_SYMBOL": Probe(symbol="class_create"),
    "HAVE_FREE_SYMBOL": Probe(symbol="_printk", gpl=False),
    "HAVE_OPTION": Probe(config="PCI"),
}
ABSENT = {
    "HAVE_NO_FUNCTION": Probe(includes=CLASS, call="class_creates(1)"),
    "HAVE_NO_ARGS": Probe(args=("f(1)", "f(2)")),
    "HAVE_NO_TYPE": Probe(includes=("linux/timer.h",), type="struct timer_lists"),
    "HAVE_NO_VARIABLE_TYPE": Probe(includes=("linux/jiffies.h",), type="jiffies"),
    "HAVE_NO_MEMBER": Probe(includes=("linux/netdevice.h",), member="struct net_device.mtux"),
    "HAVE_NO_STRUCTURE": Probe(member="struct net_devicex.mtu"),
    "HAVE_NO_HEADER": Probe(header="linux/device/classes.h"),
    "HAVE_NO_INCLUDE": Probe(includes=("linux/device/classes.h",), code="int f;"),
    "HAVE_NO_CODE": Probe(code="not_a_type a;"),
    "HAVE_OTHER_POINTER": Probe(includes=("linux/string.h",), call="strlen((int *)0)"),
    "HAVE_INT_FOR_POINTER": Probe(includes=("linux/string.h",), call="strlen(1)"),
    "HAVE_OTHER_RESULT": Probe(includes=("linux/string.h",), code="int *f(void);\nint *f(void) { return strlen; }"),
    "HAVE_NO_SYMBOL": Probe(symbol="class_creates"),
    "HAVE_NO_FREE_SYMBOL": Probe(symbol="class_destroy", gpl=False),
    "HAVE_NO_OPTION": Probe(config="NO_SUCH_OPTION"),
}
# Of the same headers, so that they are compiled together; some of them disturb the others.
_SAME = ("linux/module.h", "linux/device/class.h", "linux/netdevice.h")
_NET = "(struct net_device *)0"
TOGETHER = {
    "HAVE_WITH": 'class_create("x")',
    "HAVE_WITH_OTHER_ARGS": 'class_create(THIS_MODULE, "x")',
    "HAVE_WITHOUT": "no_such_function(1)",
    "HAVE_WITHOUT_AGAIN": "no_such_function(1, 2)",
    "HAVE_BRACKETS": 'strlen("a)b(")',
    "HAVE_WARNING": "strlen((int *)0)",
    "HAVE_PRIVATE": f"netdev_priv({_NET})",
    "HAVE_MEMBER_NOT": f"({_NET})->no_such_member",
    "HAVE_FEWER_ARGUMENTS": f"dev_set_mtu({_NET})",
    "HAVE_ARGUMENTS": f"dev_set_mtu({_NET}, 1)",
}
OLD, NEW = "6.1.", "6.12."


def headers(series):
    """The newest installed headers of a series, of the plain flavour."""
    found = [p.parent.name for p in Path("/lib/modules").glob(f"{series}*/build")]
    plain = [name for name in found if not re.search(r"rt|cloud|rpi", name)]
    if not plain:
        lacking(f"no kernel headers of {series}")
    return max(plain, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])


@pytest.fixture(params=[OLD, NEW])
def kernel(request):
    need("gcc", "make", "awk")
    return read_kernel(Path("/lib/modules", headers(request.param), "build"), "installed")


@pytest.fixture
def place(tmp_path):
    tmp_path.chmod(0o755)
    return tmp_path


def asker(place):
    """What runs the commands, and writes down how many there were."""
    commands = []

    def one(command):
        commands.append(command)
        budget = JobServer(2)
        try:
            return run(command, log=place / "log.txt", progress=Progress(), jobs=budget)
        finally:
            budget.close()

    return one, commands


def build_folder(place, probes):
    """A build folder with questions, and nothing to build, as in a source package."""
    folder = place / "build-folder"
    folder.mkdir()
    for name, text in static_texts().items():
        (folder / name).write_text(text)
    (folder / OPTIONS_FILE).touch()
    write_probes(probes, folder)
    return folder


def make(folder, kernel, *words, tree=None):
    """Ask with make alone."""
    argv = ["make", "-j2", "-f", "pkgkmod.mk", "probes", f"KERNEL={kernel}"]
    argv += [f"KERNEL_TREE={tree or Path('/lib/modules', kernel, 'build')}", *words]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True)


def test_both_ways_say_the_same_in_every_byte(kernel, place):
    probes = EVERY_KIND | ABSENT
    one, commands = asker(place)
    answers = ask_kernel(probes, kernel, Build(), place / "probes", one)
    assert len(commands) == 1
    values = {name: answer.value for name, answer in answers.items()}
    is_new = kernel.release.series == NEW[:-1]
    expected = dict.fromkeys(EVERY_KIND, 1) | {"HAVE_ARGS": 2 if is_new else 1} | dict.fromkeys(ABSENT, 0)
    # In 6.1 it was a macro around __class_create.
    expected |= {"HAVE_CALL": int(is_new), "HAVE_SYMBOL": int(is_new)}
    assert values == expected
    folder = build_folder(place, probes)
    # As a kernel with CONFIG_WERROR does.
    done = make(folder, kernel.uname_r, "KERNEL_CC=gcc-12", "KCFLAGS=-Werror -Wall -Wextra")
    assert done.returncode == 0, done.stderr
    assert answers_file(folder, kernel.uname_r).read_text() == answers_header(kernel.uname_r, values)

    again = ask_kernel(probes, kernel, Build(), place / "never", one)
    assert len(commands) == 1
    assert {name: (a.value, a.why) for name, a in again.items()} == {n: (a.value, a.why) for n, a in answers.items()}
    assert all(a.known for a in again.values())
    assert "implicit declaration" in again["HAVE_NO_FUNCTION"].why
    assert again["HAVE_NO_HEADER"].why == "linux/device/classes.h: No such file or directory"
    assert again["HAVE_NO_FREE_SYMBOL"].why == "class_destroy is exported to GPL modules only"


def test_only_what_changed_is_asked_again(kernel, place):
    one, _ = asker(place)
    ask_kernel({"HAVE_A": EVERY_KIND["HAVE_TYPE"]}, kernel, Build(), place / "one", one)
    probes = {"HAVE_RENAMED": EVERY_KIND["HAVE_TYPE"], "HAVE_B": Probe(includes=("linux/types.h",), type="u8")}
    assert set(known_answers(probes, kernel, Build())) == {"HAVE_RENAMED"}
    answers = ask_kernel(probes, kernel, Build(), place / "two", one)
    assert {name: answer.known for name, answer in answers.items()} == {"HAVE_RENAMED": True, "HAVE_B": False}
    assert (place / "two/pkgkmod-probes/list").read_text() == "HAVE_B compile 2\n"
    for file in (cache_folder() / "probes").iterdir():
        file.write_text('{"damaged": 3}')
    assert known_answers(probes, kernel, Build()) == {}


@pytest.mark.parametrize(
    "more",
    [{}, {"HAVE_SYNTAX": "1 +"}, {"HAVE_ASSERTION": "BUILD_BUG_ON_ZERO(1)"}],
    ids=["plain", "syntax", "in-a-header"],
)
def test_questions_compiled_together_have_the_answers_they_have_alone(kernel, place, more):
    texts = TOGETHER | more
    one, commands = asker(place)
    together = ask_kernel(
        {n: Probe(includes=_SAME, call=t) for n, t in texts.items()}, kernel, Build(), place / "one", one
    )
    assert len(list((place / "one/pkgkmod-probes").glob("*.group"))) == 1
    # A brace keeps each in a file of its own.
    apart = {name: Probe(includes=_SAME, call=f"({{ {text}; }})") for name, text in texts.items()}
    alone = ask_kernel(apart, kernel, Build(), place / "two", one)
    assert not list((place / "two/pkgkmod-probes").glob("*.group"))
    assert len(commands) == 2
    assert {n: a.value for n, a in together.items()} == {n: a.value for n, a in alone.items()}
    assert all(answer.value or answer.why for answer in together.values())
    assert together["HAVE_ARGUMENTS"].value
    assert not any(together[name].value for name in ("HAVE_WITHOUT_AGAIN", "HAVE_WARNING", *more))


def compiler(place, body):
    """A compiler that does something else for the questions, given by their number, and what it should for the rest."""
    file = place / "compiler"
    file.write_text(
        f'#!/bin/sh\nfor last; do :; done\ncase "$last" in\n*/asked/*.c) number=${{last##*/}} number=${{number%.c}}\n'
        f'{body}\n;;\nesac\nexec gcc-12 "$@"\n'
    )
    file.chmod(0o755)
    return f"KERNEL_CC={file}"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            '[ "$number" != 0 ] || { echo "$last:1:2: error: the tree is damaged" >&2; exit 1; }',
            "nothing compiles for KERNEL, not even #include <linux/module.h>",
        ),
        ("exit 0", "the compiler takes everything for KERNEL, even a function that is not declared"),
        (
            '[ "$number" != 2 ] || { echo "gcc: fatal error: Killed signal terminated program cc1" >&2; exit 1; }',
            "the compiler failed for KERNEL, which is no answer to a question",
        ),
        (
            '[ "$number" != 2 ] || { echo "$last:1:2: fatal error: error writing to /tmp/x.s: No space left on device" '
            ">&2; exit 1; }",
            "the compiler failed for KERNEL, which is no answer to a question",
        ),
        (
            '[ "$number" != 2 ] || { echo "$last:1:2: internal compiler error: Segmentation fault" >&2; exit 4; }',
            "the compiler failed for KERNEL, which is no answer to a question",
        ),
    ],
    ids=["broken-headers", "everything-compiles", "killed", "disk-full", "crashed"],
)
def test_a_compiler_that_does_not_work_is_no_answer(place, body, told):
    need("gcc-12", "make")
    kernel = headers(OLD)
    folder = build_folder(place, {"HAVE_A": Probe(type="int")})
    done = make(folder, kernel, compiler(place, body))
    assert done.returncode
    assert f"pkgkmod.mk: error: {told.replace('KERNEL', kernel)}" in done.stderr
    assert not answers_file(folder, kernel).exists()


def damaged_tree(place):
    """A copy of a real tree, in which a header that everything includes is damaged."""
    real = Path("/usr/src/linux-headers-" + headers(OLD))
    tree = place / "tree"
    shutil.copytree(real, tree, symlinks=True)
    for link in [path for path in tree.iterdir() if path.is_symlink()]:
        there = (real / link.readlink()).resolve()
        link.unlink()
        link.symlink_to(there)
    (tree / "include/generated/autoconf.h").write_text("this is damaged;\n")
    return tree


def test_a_damaged_tree_is_an_error_with_the_compilers_first_one(place):
    need("gcc-12", "make")
    kernel = read_kernel(damaged_tree(place), "folder")
    one, _ = asker(place)
    with pytest.raises(CompileError, match="compiling for it does not work at all") as error:
        ask_kernel({"HAVE_A": Probe(type="int")}, kernel, Build(), place / "probes", one)
    assert re.search(r"autoconf\.h:1:1: error: unknown type name", error.value.details)
    assert error.value.log == place / "log.txt"
    assert known_answers({"HAVE_A": Probe(type="int")}, kernel, Build()) == {}


SYMVERS = (
    "0x1\tplain\tvmlinux\tEXPORT_SYMBOL\t\n0x2\tgpl\tdrivers/a\tEXPORT_SYMBOL_GPL\tNS\n"
    "0x3\tclosed\tdrivers/b\tEXPORT_SYMBOL_GPL\tmodule:kvm,kvm-intel\n0x4\tfour\tvmlinux\tEXPORT_SYMBOL\n"
    "0x5\tthird\tNS\tvmlinux\tEXPORT_SYMBOL_GPL\n0x6\tbroken\n"
)


def test_exports_and_options_are_read_the_same_without_compiling_by_a_stand_in_for_a_tree(place, kernel):
    stub = place / "tree"
    (stub / "include/generated").mkdir(parents=True)
    for name in ("Makefile", "include/generated/utsrelease.h"):
        shutil.copy(kernel.place / name, stub / name)
    options = '# CONFIG_OFF is not set\nCONFIG_YES=y\nCONFIG_MODULE=m\nCONFIG_TEXT=""\nCONFIG_NO=n\n'
    real = (kernel.place / ".config").read_text()
    (stub / ".config").write_text("".join(re.findall(r"^CONFIG_(?:X86_64|64BIT)=y\n", real, re.M)) + options)
    (stub / "Module.symvers").write_text(SYMVERS)
    stand_in = read_kernel(stub, "folder")
    probes = {f"HAVE_{n.upper()}": Probe(symbol=n) for n in ("plain", "gpl", "closed", "four", "third", "broken")}
    probes |= {f"HAVE_FREE_{n.upper()}": Probe(symbol=n, gpl=False) for n in ("plain", "gpl", "four", "third")}
    probes |= {f"HAVE_{n}": Probe(config=n) for n in ("YES", "MODULE", "TEXT", "NO", "OFF", "Y")}
    one, commands = asker(place)
    answers = {name: a.value for name, a in ask_kernel(probes, stand_in, Build(), place / "probes", one).items()}
    assert not commands
    present = ("PLAIN", "GPL", "FOUR", "THIRD", "FREE_PLAIN", "FREE_FOUR", "YES", "MODULE", "TEXT")
    assert {name for name, value in answers.items() if value} == {f"HAVE_{name}" for name in present}
    folder = build_folder(place, probes)
    done = make(folder, stand_in.uname_r, tree=stub)
    assert done.returncode == 0, done.stderr
    assert answers_file(folder, stand_in.uname_r).read_text() == answers_header(stand_in.uname_r, answers)

    (stub / "Module.symvers").unlink()
    with pytest.raises(KernelError, match="what it exports is not known"):
        exports(stand_in)
    shutil.rmtree(folder / "build")
    assert "there is no" in make(folder, stand_in.uname_r, tree=stub).stderr


# --- the command, and a whole build ----------------------------------------------------------------


def project(place, kernels, more=""):
    """The example driver, for these kernels."""
    folder = place / "doorbell"
    shutil.copytree(CHECKOUT / "examples/doorbell", folder)
    file = folder / "pkgkmod.toml"
    text = re.sub(r"^kernels = .*$", f"kernels = {json.dumps(kernels)}", file.read_text(), flags=re.M)
    file.write_text(text + more)
    commit(folder)
    return folder


def test_one_source_compiles_for_both_kernels_with_and_without_pkgkmod(place):
    need("gcc", "make", "modinfo")
    kernels = [headers(OLD), headers(NEW)]
    folder = project(place, kernels)
    pkgkmod("build_modules", cwd=folder)
    headers_made = {k: next(folder.glob(f"results/build_modules/_/{k}/*/config.h")).read_text() for k in kernels}
    assert "/* #undef HAVE_CLASS_CREATE_1ARG */" in headers_made[kernels[0]]
    assert "#define HAVE_CLASS_CREATE_1ARG 1" in headers_made[kernels[1]]

    pkgkmod("generate_debian", cwd=folder)
    subprocess.run(["tar", "-xf", made(folder, "*.orig.tar.*"), "-C", place], check=True)
    (source,) = place.glob("doorbell-*/")
    for kernel in kernels:
        done = subprocess.run(
            ["make", "-f", "pkgkmod.mk", "modules", f"KERNEL={kernel}", "KERNEL_CC=gcc-12"],
            cwd=source,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert answers_file(source, kernel).read_text() == headers_made[kernel]
        (here,) = folder.glob(f"results/build_modules/_/{kernel}/*/doorbell.ko")
        assert (source / "modules" / kernel / "doorbell.ko").read_bytes() == here.read_bytes()

    # Other sources, the same questions: the log holds what every program wrote.
    (folder / "drivers/misc/doorbell/doorbell.c").open("a").write("/* changed */\n")
    commit(folder, "Change")
    pkgkmod("build_modules", cwd=folder)
    logs = sorted(folder.glob(f"results/build_modules/_/{kernels[1]}/*/log.txt"), key=lambda p: p.stat().st_mtime)
    assert [len(re.findall(r"M=\S+/asked\b", log.read_text())) for log in logs] == [1, 0]


def test_a_question_that_changes_compiles_again_and_a_kernel_that_is_not_asked_says_what_it_lacks(place):
    need("gcc", "make")
    folder = project(place, [headers(NEW)])
    pkgkmod("build_modules", cwd=folder)

    def action():
        return [e["action"] for e in pkgkmod("plan", "build_modules", "--json", cwd=folder).events][-1]

    assert action() == "SKIP"
    file = folder / "pkgkmod.toml"
    file.write_text(file.read_text().replace('class_create("x")', "no_such_function()"))
    assert action() == "RUN"
    failed = pkgkmod("build_modules", cwd=folder, code=8)
    assert "class_create" in failed.err


def test_ten_kernels_that_were_asked_start_no_compiler(place):
    need("strace", "gcc", "make")
    kernels = sorted(p.parent.name for p in Path("/lib/modules").glob("*-amd64/build"))[-10:]
    folder = project(place, kernels)
    for kernel in kernels:  # that all were asked is what this test needs, and not how long that takes
        probes = {"HAVE_CLASS_CREATE_1ARG": EVERY_KIND["HAVE_CALL"]}
        tree = read_kernel(Path("/lib/modules", kernel, "build"), "installed")
        ask_kernel(probes, tree, Build(), place / kernel, asker(place)[0])
    trace = place / "trace"
    command = Path(os.sys.executable).with_name("pkgkmod")
    argv = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", trace, command, "probe", "--json"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(e["kernel"], e["known"]) for e in events} == {(kernel, True) for kernel in kernels}
    started = [line for line in trace.read_text().splitlines() if "execve(" in line and "ENOENT" not in line]
    assert [line.partition('execve("')[2].partition('"')[0] for line in started] == [str(command)]


def test_the_command_shows_a_table_and_one_kernel_that_fails_does_not_hide_the_others(place):
    need("gcc", "make")
    kernels = [headers(OLD), headers(NEW)]
    folder = project(place, kernels)
    asked = pkgkmod("probe", "-n", cwd=folder)
    assert asked.out.splitlines() == [f"{kernel}: 0 known, 1 to be compiled" for kernel in kernels]
    assert not (folder / "results").exists()
    shown = pkgkmod("probe", "--why", cwd=folder).out
    assert re.search(r"^HAVE_CLASS_CREATE_1ARG +- +1$", shown, re.M)
    assert f"HAVE_CLASS_CREATE_1ARG in {kernels[0]}:\n  macro" in shown
    assert [e["value"] for e in pkgkmod("probe", "--json", "--kernel", kernels[1], cwd=folder).events] == [1]
    assert "nothing to compile" in pkgkmod("probe", "-n", cwd=folder).out

    damaged = damaged_tree(place)
    release = damaged / "include/generated/utsrelease.h"
    release.write_text('#define UTS_RELEASE "6.1.0-0-damaged"\n')
    file = folder / "pkgkmod.toml"
    file.write_text(
        file.read_text().replace(json.dumps(kernels), json.dumps([*kernels, "6.1.0-0-damaged"]))
        + f'\n[plugin.folder]\npaths = ["{damaged}"]\n'
    )
    done = pkgkmod("probe", cwd=folder, code=13)
    assert re.search(r"^HAVE_CLASS_CREATE_1ARG +- +1$", done.out, re.M)
    assert "1 kernel gave no answers" in done.err
    assert "6.1.0-0-damaged: the probes cannot be answered" in done.err
    assert "results/probe-6.1.0-0-damaged.log" in done.err
    alone = pkgkmod("probe", "--kernel", "*-damaged", cwd=folder, code=8)
    assert "autoconf.h:1:1: error:" in alone.err

"""update_kabi with real git, a real module, and real RPMs: what is printed, written and committed.

No kernel tree of Red Hat's is in reach: one of their shape is made, with the symbols of a Debian kernel.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
from pathlib import Path

import pytest

from pkgkmod.errors import SourceError
from pkgkmod.progress import Progress
from pkgkmod.sources.kabitree import open_kernel_tree
from tests.fixtures.gitrepos import Repo, folder_state
from tests.fixtures.kabitrees import (
    FOLDER,
    LISTED,
    NEW,
    Hello,
    compiled_hello,
    identify,
    red_hat_shaped,
    update_kabi,
)
from tests.fixtures.machine import hello as hello_driver
from tests.fixtures.machine import need, pkgkmod
from tests.fixtures.machine import project as make_project


@pytest.fixture(scope="module")
def hello(kernel) -> Hello:
    """The example driver's module."""
    return compiled_hello(kernel)


@pytest.fixture
def tree(tmp_path, hello) -> Repo:
    """A stand-in for a kernel tree of Red Hat's."""
    return red_hat_shaped(tmp_path / "kernel", hello)


def test_new_symbols_are_printed_as_lines_and_nothing_is_written(hello, tree, tmp_path):
    before = folder_state(tree.path)
    done = update_kabi(hello.module, "--kernel-tree", tree.path, cwd=tmp_path)
    assert done.out.splitlines() == [f"# {FOLDER}", *(hello.line(symbol) for symbol in NEW)]
    assert "5 symbols imported: 2 listed already, 3 new" in done.err
    assert folder_state(tree.path) == before


def test_a_commit_touches_nothing_but_its_branch(hello, tree, tmp_path):
    (tree.path / "Makefile").write_text("edited\n")
    (tree.path / "staged").write_text("staged\n")
    tree.git("add", "staged")
    status = tree.git("status")  # which freshens the index
    before = folder_state(tree.path)
    done = update_kabi(hello.module, "-g", tree.path, "--branch", "kabi/hello", "-m", "A customer.", cwd=tmp_path)
    after = folder_state(tree.path)
    changed = {
        Path(path).relative_to(tree.path).parts[:3]
        for path in before.keys() | after.keys()
        if before.get(path) != after.get(path)
    }
    assert {parts[:2] for parts in changed} <= {(".git", "objects"), (".git", "refs"), (".git", "logs"), (".git",)}
    assert (".git", "refs", "heads") in changed
    assert tree.git("status") == status
    assert done.out == f"branch kabi/hello {tree.git('rev-parse', 'kabi/hello')[:12]}: 3 symbols\n"
    assert tree.git("rev-parse", "kabi/hello^") == tree.git("rev-parse", "main")
    changed = tree.git("diff-tree", "-r", "--name-status", "main", "kabi/hello").splitlines()
    assert changed == [f"A\t{FOLDER}/{symbol}" for symbol in NEW]
    assert tree.git("show", f"kabi/hello:{FOLDER}/_printk") == f"#6-\n{hello.line('_printk')}".rstrip("\n")
    message = tree.git("show", "-s", "--format=%B", "kabi/hello")
    assert message.startswith("kabi: list 3 symbols that hello uses\n\nA customer.\n\nx86_64, for hello.ko:\n")
    assert message.strip().endswith("Signed-off-by: P. \u00c4ckager x <p@example.org>")
    assert (
        tree.git("show", "-s", "--format=%an %ae %cn", "kabi/hello")
        == "P. \u00c4ckager x p@example.org P. \u00c4ckager x"
    )
    tree.git("fsck", "--strict")


def test_the_second_run_finds_nothing_to_do(hello, tree, tmp_path):
    run = (hello.module, "-g", tree.path, "-t", "-o", tmp_path / "kabi.patch")
    update_kabi(*run, cwd=tmp_path)
    before = folder_state(tree.path)
    (tmp_path / "kabi.patch").unlink()
    assert update_kabi(*run, cwd=tmp_path).out == "nothing to add: all symbols are listed\n"
    assert folder_state(tree.path) == before
    assert not (tmp_path / "kabi.patch").exists()
    tree.git("merge", "--quiet", "--ff-only", "kabi-hello")
    assert update_kabi(hello.module, "-g", tree.path, cwd=tmp_path).out == "nothing to add: all symbols are listed\n"


def test_a_patch_is_one_that_git_am_takes(hello, tree, tmp_path):
    before = folder_state(tree.path)
    # What a packager likes in patches must not break this one.
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        "[diff]\nnoprefix = true\nexternal = false\n[format]\nattach = x\nsignOff = true\n"
    )
    update_kabi(hello.module, "-g", tree.path, "-o", "kabi.patch", cwd=tmp_path, HOME=str(home))
    assert folder_state(tree.path) == before
    tree.git("am", "--quiet", str(tmp_path / "kabi.patch"))
    assert update_kabi(hello.module, "-g", tree.path, cwd=tmp_path).out == "nothing to add: all symbols are listed\n"
    assert tree.git("show", "-s", "--format=%an", "HEAD") == "P. \u00c4ckager x"
    assert tree.git("show", "-s", "--format=%B", "HEAD").count("Signed-off-by") == 1


def test_a_patch_is_made_in_a_shallow_clone_too(hello, tree, tmp_path):
    tree.commit({"Makefile": "2\n"})
    tree.commit({"Makefile": "3\n"})
    clone = Repo(tmp_path / "clone")
    tree.git("clone", "--quiet", "--depth=1", f"file://{tree.path}", str(clone.path))
    identify(clone)
    update_kabi(hello.module, "-g", clone.path, "-o", "kabi.patch", "--branch", "new", cwd=tmp_path)
    clone.git("am", "--quiet", str(tmp_path / "kabi.patch"))
    assert clone.git("rev-parse", "HEAD^{tree}") == clone.git("rev-parse", "new^{tree}")


def test_the_modules_of_the_projects_results_are_taken(hello, tree, tmp_path, kernel):
    folder = make_project(tmp_path / "project", hello_driver(tmp_path / "driver"), kernel)
    pkgkmod("build_modules", cwd=folder)
    done = update_kabi("-g", tree.path, cwd=folder)
    assert done.out.splitlines()[1:] == [hello.line(symbol) for symbol in NEW]
    done = update_kabi("-g", tree.path, "--kernel", "9.9*", cwd=folder, code=2)
    assert "no target builds for 9.9*" in done.err


def test_without_results_the_hint_says_what_to_run(hello, tree, tmp_path, kernel):
    folder = make_project(tmp_path / "empty", hello_driver(tmp_path / "driver"), kernel, prepare=False)
    done = update_kabi("-g", tree.path, cwd=folder, code=2)
    assert "no modules have been built yet" in done.err
    assert "pkgkmod build_modules" in done.err


SPEC = """Name: kmod-hello
Version: 1
Release: 1
Summary: s
License: GPL
%description
d
%global __spec_install_post %{nil}
%global _build_id_links none
%install
install -D -m 644 %{module} "%{buildroot}/lib/modules/6.1/extra/my hello/hello.ko"
xz --check=crc32 -k "%{buildroot}/lib/modules/6.1/extra/my hello/hello.ko"
ln -s /etc/passwd %{buildroot}/lib/modules/6.1/extra/link.ko
echo text > %{buildroot}/lib/modules/6.1/extra/hello.ko.debug
%files
/lib/modules
"""


@pytest.fixture(scope="module")
def rpms(hello, tmp_path_factory) -> Path:
    """A folder with a source RPM, and a binary one that holds a space, a link and debug information, too."""
    need("rpmbuild", "xz")
    place = tmp_path_factory.mktemp("rpms")
    (place / "kmod-hello.spec").write_text(SPEC)
    defines = [
        f"--define={name} {value}" for name, value in (("_topdir", place), ("_dbpath", place), ("module", hello.module))
    ]
    subprocess.run(["rpmbuild", "-ba", *defines, "kmod-hello.spec"], cwd=place, check=True, capture_output=True)
    return place


def test_modules_are_read_out_of_rpms_and_folders(hello, tree, rpms, tmp_path):
    (rpm,) = (rpms / "RPMS").glob("*/*.rpm")
    expected = [f"# {FOLDER}", *(hello.line(symbol) for symbol in NEW)]
    done = update_kabi(rpm, "-g", tree.path, "--json", cwd=tmp_path)
    used_by = [event["used_by"] for event in done.events if event["event"] == "kabi-symbol"]
    assert used_by == [[f"{rpm.name}:hello.ko", f"{rpm.name}:hello.ko.xz"]] * 5
    assert update_kabi(rpms / "RPMS", "-g", tree.path, cwd=tmp_path).out.splitlines() == expected
    (source,) = (rpms / "SRPMS").glob("*.rpm")
    done = update_kabi(source, "-g", tree.path, cwd=tmp_path, code=17)
    assert "this is a source package" in done.err


def test_a_suffix_that_lies_does_no_harm(hello, tree, tmp_path):
    for name, content in (
        ("a.ko.gz", hello.module.read_bytes()),
        ("b.ko.gz", lzma.compress(hello.module.read_bytes())),
    ):
        (tmp_path / name).write_bytes(content)
        assert len(update_kabi(tmp_path / name, "-g", tree.path, cwd=tmp_path).out.splitlines()) == 1 + len(NEW)


def test_ddiskits_flags_are_understood(hello, tree, rpms, tmp_path):
    (rpm,) = (rpms / "RPMS").glob("*/*.rpm")
    shutil.copy(hello.symvers, tmp_path / "x86_64.symvers")
    where = ("-g", tree.path, "-d", "redhat/kabi/kabi-dup-module/kabi_x86_64", "-M", tmp_path / "{arch}.symvers")
    update_kabi("-e", "-O", "-b", "-t", "-m", "Why.", *where, rpm, cwd=tmp_path)
    listed = tree.git("ls-tree", "--name-only", "kabi-hello:redhat/kabi/kabi-dup-module/kabi_x86_64")
    assert listed.splitlines() == NEW
    assert tree.git("show", "-s", "--format=%B", "kabi-hello").startswith(
        "kabi: list 3 symbols that hello uses\n\nWhy.\n"
    )


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_compressed_modules_are_read(hello, tree, tmp_path, suffix):
    packed = tmp_path / f"hello.ko{suffix}"
    if suffix == ".zst":
        need("zstd")
        subprocess.run(["zstd", "-q", hello.module, "-o", packed], check=True)
    else:
        pack = {".gz": gzip.compress, ".xz": lzma.compress}[suffix]
        packed.write_bytes(pack(hello.module.read_bytes()))
    assert len(update_kabi(packed, "-g", tree.path, cwd=tmp_path).out.splitlines()) == 1 + len(NEW)


def test_what_is_listed_is_named_when_verbose(hello, tree, tmp_path):
    done = update_kabi(hello.module, "-g", tree.path, "-v", cwd=tmp_path)
    assert "listed already: __fentry__, module_layout\n" in done.err


def test_dry_run_writes_nothing(hello, tree, tmp_path):
    before = folder_state(tree.path)
    done = update_kabi(hello.module, "-g", tree.path, "--branch", "new", "-o", "x.patch", "--dry-run", cwd=tmp_path)
    assert done.out == "would write x.patch: 3 symbols\nwould write branch new: 3 symbols\n"
    assert folder_state(tree.path) == before
    assert not (tmp_path / "x.patch").exists()


def test_json_says_what_is_found_and_made(hello, tree, tmp_path):
    events = update_kabi(hello.module, "-g", tree.path, "--branch", "new", "--json", cwd=tmp_path).events
    symbols = {event["symbol"]: event for event in events if event["event"] == "kabi-symbol"}
    assert {name: event["state"] for name, event in symbols.items()} == {
        **dict.fromkeys(LISTED, "listed"),
        **dict.fromkeys(NEW, "new"),
    }
    assert symbols["_printk"]["lists"] == [FOLDER]
    assert symbols["_printk"]["crc"] == hello.line("_printk")[:10]
    (made,) = (event for event in events if event["event"] == "kabi-commit")
    assert made["commit"] == tree.git("rev-parse", "new")


def test_a_branch_that_is_there_is_refused_or_added_to(hello, tree, tmp_path):
    tree.git("branch", "mine")
    done = update_kabi(hello.module, "-g", tree.path, "--branch", "mine", cwd=tmp_path, code=2)
    assert "there is a branch mine already" in done.err
    assert "--append" in done.err
    assert tree.git("rev-parse", "mine") == tree.git("rev-parse", "main")
    tree.git("checkout", "--quiet", "mine")
    tip = tree.commit({"Makefile": "mine\n"})
    tree.git("checkout", "--quiet", "main")
    update_kabi(hello.module, "-g", tree.path, "--branch", "mine", "--append", cwd=tmp_path)
    assert tree.git("rev-parse", "mine^") == tip
    assert tree.git("log", "--format=%s", "-g", "-1", "mine") == "kabi: list 3 symbols that hello uses"


def test_what_was_listed_elsewhere_meanwhile_is_not_listed_twice(hello, tree, tmp_path):
    tree.git("branch", "old")
    tree.commit({f"{FOLDER}/_printk": f"#6-\n{hello.line('_printk')}\n"})
    done = update_kabi(hello.module, "-g", tree.path, "--branch", "old", "--append", cwd=tmp_path)
    assert done.out.endswith(": 2 symbols\n")
    tree.commit({f"{FOLDER}/param_ops_charp": "#6-\n0x00000001\tparam_ops_charp\tvmlinux\tEXPORT_SYMBOL\t\n"})
    tree.git("branch", "-f", "old", "main~2")
    done = update_kabi(hello.module, "-g", tree.path, "--branch", "old", "--append", cwd=tmp_path, code=17)
    assert "param_ops_charp (x86_64, hello.ko)" in done.err
    assert "listed with 0x00000001" in done.err


def test_a_branch_that_is_checked_out_is_refused(hello, tree, tmp_path):
    tree.git("worktree", "add", "--quiet", "-b", "side", str(tmp_path / "side"))
    for name in ("main", "side"):
        done = update_kabi(hello.module, "-g", tree.path, "--branch", name, "--append", cwd=tmp_path, code=2)
        assert f"the branch {name} is checked out in" in done.err
    # From the work tree itself, too, a new branch can be made.
    update_kabi(hello.module, "-g", tmp_path / "side", "--branch", "new", cwd=tmp_path)
    assert tree.git("rev-parse", "new^") == tree.git("rev-parse", "side")


@pytest.mark.parametrize("name", ["-x", "a..b", "HEAD", "a b", "x.lock", "", "a\nb", "*"])
def test_what_is_no_branch_name_is_refused(hello, tree, tmp_path, name):
    done = update_kabi(hello.module, "-g", tree.path, f"--branch={name}", cwd=tmp_path, code=2)
    assert "not a name for a branch" in done.err
    assert tree.git("branch", "--format=%(refname:short)") == "main"


def test_branches_in_each_others_way_are_gits_error(hello, tree, tmp_path):
    tree.git("branch", "kabi")
    done = update_kabi(hello.module, "-g", tree.path, "--branch", "kabi/hello", cwd=tmp_path, code=4)
    assert "the branch kabi/hello cannot be set" in done.err


def test_a_branch_that_moves_meanwhile_is_left_alone(hello, tree):
    tree.git("branch", "mine")
    old = tree.git("rev-parse", "mine")
    moved = tree.commit_tree()
    with open_kernel_tree(tree.path, Progress()) as opened:
        tree.git("branch", "-f", "mine", moved)
        with pytest.raises(SourceError, match="the branch mine cannot be set"):
            opened.commit(old, {"a": b"a\n"}, "m\n", "mine", old=old)
    assert tree.git("rev-parse", "mine") == moved


def test_several_architectures_stand_in_for_another_machine(hello, tree, tmp_path):
    """No compiler for another machine is needed: the header of a copy says that it is for arm64."""
    other = tmp_path / "arm64"
    other.mkdir()
    content = bytearray(hello.module.read_bytes())
    content[18:20] = (183).to_bytes(2, "little")
    (other / "hello.ko").write_bytes(content)
    done = update_kabi(hello.module, other, "-g", tree.path, "-M", hello.symvers, cwd=tmp_path, code=2)
    assert "which architecture is it for?" in done.err
    symvers = ("-M", f"x86_64={hello.symvers}", "-M", f"aarch64={hello.symvers}")
    done = update_kabi(hello.module, other, "-g", tree.path, *symvers, "--branch", "both", cwd=tmp_path)
    assert done.out.endswith(": 5 symbols\n")
    changed = tree.git("diff-tree", "-r", "--name-only", "main", "both").splitlines()
    arm = FOLDER.replace("x86_64", "aarch64")
    assert changed == sorted([*(f"{FOLDER}/{s}" for s in NEW), *(f"{arm}/{s}" for s in (*NEW, *LISTED))])
    done = update_kabi(hello.module, other, "-g", tree.path, "--arch", "aarch64", "-M", hello.symvers, cwd=tmp_path)
    assert done.out.splitlines()[0] == f"# {arm}"
    assert len(done.out.splitlines()) == 6
    done = update_kabi(hello.module, "-g", tree.path, "--arch", "s390x", cwd=tmp_path, code=2)
    assert "they are for x86_64" in done.err

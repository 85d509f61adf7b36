"""update_kabi with lists of all formats, repositories of all kinds, hostile ones among them, and bad input.

The kernel trees are stand-ins of the shape that Red Hat's have, with the symbols of a Debian kernel.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.gitrepos import Repo, folder_state, make_repo
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


@pytest.fixture(scope="module")
def hello(kernel) -> Hello:
    """The example driver's module."""
    return compiled_hello(kernel)


@pytest.fixture
def tree(tmp_path, hello) -> Repo:
    """A stand-in for a kernel tree of Red Hat's."""
    return red_hat_shaped(tmp_path / "kernel", hello)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_leaves_no_files_in_somebodys_repository(hello, tree, tmp_path):
    subprocess.run(["chown", "-R", "nobody", tree.path], check=True)
    before = folder_state(tree.path)
    done = update_kabi(hello.module, "-g", tree.path, "--branch", "new", cwd=tmp_path, code=2)
    assert "does not belong to root" in done.err
    update_kabi(hello.module, "-g", tree.path, "-o", "x.patch", cwd=tmp_path)
    assert folder_state(tree.path) == before


def test_without_an_identity_nothing_is_made(hello, tree, tmp_path):
    tree.git("config", "--unset", "user.email")
    before = folder_state(tree.path)
    nobody = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    done = update_kabi(hello.module, "-g", tree.path, "--branch", "new", cwd=tmp_path, code=9, **nobody)
    assert "git does not know who commits" in done.err
    assert "git config --global user.name" in done.err
    assert folder_state(tree.path) == before


def test_bare_repositories_and_sha256_do(hello, tmp_path):
    tree = red_hat_shaped(tmp_path / "kernel", hello)
    bare = Repo(tmp_path / "bare.git")
    tree.git("clone", "--quiet", "--bare", str(tree.path), str(bare.path))
    identify(bare)
    update_kabi(hello.module, "-g", bare.path, "--branch", "new", "-o", "x.patch", cwd=tmp_path)
    assert bare.git("rev-parse", "new^") == tree.git("rev-parse", "main")
    other = Repo(tmp_path / "sha256")
    tree.git("init", "--quiet", "--object-format=sha256", "-b", "main", str(other.path))
    shutil.copytree(tree.path / "redhat", other.path / "redhat")
    other.git("add", "-A")
    identify(other)
    other.git("commit", "--quiet", "-m", "import")
    update_kabi(hello.module, "-g", other.path, "--branch", "new", "-o", "x.patch", "--minor", 4, cwd=tmp_path)
    assert other.git("show", f"new:{FOLDER}/_printk").startswith("#4-\n")


def test_lists_in_one_file_are_added_to(hello, tmp_path):
    listed = "".join(f"{hello.line(symbol)}\n" for symbol in LISTED)
    names = "[rhel7_x86_64_whitelist]\n" + "".join(f"\t{symbol}\n" for symbol in LISTED)
    files = {"redhat/kabi/Module.kabi_x86_64": listed, "redhat/kabi/kabi_whitelist_x86_64": names}
    tree = make_repo(tmp_path / "rhel7-shaped", files)
    identify(tree)
    done = update_kabi(hello.module, "-g", tree.path, "--branch", "new", cwd=tmp_path)
    assert done.out.endswith(": 3 symbols\n")
    expected = sorted([*LISTED, *NEW])
    module_list = tree.git("show", "new:redhat/kabi/Module.kabi_x86_64").splitlines()
    assert [line.split("\t")[1] for line in module_list] == expected
    names = tree.git("show", "new:redhat/kabi/kabi_whitelist_x86_64").splitlines()
    assert [name.strip() for name in names[1:]] == expected


def test_the_list_of_the_driver_update_programme_takes_what_is_on_no_other(hello, tree, tmp_path):
    dup = "redhat/kabi/kabi-dup-module"
    done = update_kabi(hello.module, "-g", tree.path, "-d", dup, "--branch", "dup", cwd=tmp_path)
    assert done.out.endswith(": 3 symbols\n")
    assert tree.git("ls-tree", "--name-only", f"dup:{dup}/kabi_x86_64").splitlines() == NEW


def test_without_a_kernel_tree_a_stable_list_decides(hello, tmp_path):
    stable = tmp_path / "kabi_stablelist_x86_64"
    stable.write_text("[rhel9_x86_64_stablelist]\n\t_printk\n\tmodule_layout\n")
    done = update_kabi(hello.module, "-w", stable, cwd=tmp_path)
    new = ["__fentry__", "__x86_return_thunk", "param_ops_charp"]
    assert done.out.splitlines() == ["# kabi_x86_64", *(hello.line(symbol) for symbol in new)]
    done = update_kabi(hello.module, cwd=tmp_path, code=2)
    assert "no kABI list for x86_64 to compare with" in done.err


def test_a_module_of_another_kernel_is_refused(hello, tree, tmp_path):
    changed = tmp_path / "Module.symvers"
    changed.write_text(
        hello.symvers.read_text().replace(hello.line("_printk"), "0x00000001\t_printk\tvmlinux\tEXPORT_SYMBOL\t")
    )
    done = update_kabi(hello.module, "-g", tree.path, "-M", changed, cwd=tmp_path, code=17)
    assert "1 symbol cannot be listed" in done.err
    assert "_printk (x86_64, hello.ko): hello.ko was built for" in done.err
    done = update_kabi(hello.module, "-g", tree.path, "-M", changed, "-B", cwd=tmp_path)
    assert done.out.splitlines()[1:] == [hello.line(symbol) for symbol in NEW if symbol != "_printk"]
    assert "left out: _printk" in done.err


def test_symbols_that_no_kernel_exports_are_named(hello, tree, tmp_path):
    lines = hello.symvers.read_text().splitlines()
    symvers = tmp_path / "Module.symvers"
    symvers.write_text(
        "".join(line + "\n" for line in lines if line.split("\t")[1] not in ("_printk", "param_ops_charp"))
    )
    done = update_kabi(hello.module, "-g", tree.path, "--symvers", symvers, "--branch", "new", cwd=tmp_path, code=17)
    assert "2 symbols cannot be listed" in done.err
    assert "param_ops_charp (x86_64, hello.ko): the kernel does not export it" in done.err
    assert "name the modules that export them, too" in done.err
    assert tree.git("branch", "--format=%(refname:short)") == "main"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("#0-\n0x00000001\t_printk\tvmlinux\tEXPORT_SYMBOL\t\n", "listed with 0x00000001"),
        ("#0-\n{crc}\t_printk\tvmlinux\tEXPORT_SYMBOL_GPL\t\n", "listed with the kind EXPORT_SYMBOL_GPL"),
        ("#0-3\n{crc}\t_printk\tvmlinux\tEXPORT_SYMBOL\t\n", "taken off the list in minor release 3"),
    ],
)
def test_entries_that_differ_are_refused_mended_or_left(hello, tmp_path, entry, words):
    crc = hello.line("_printk")[:10]
    tree = red_hat_shaped(tmp_path / "kernel", hello, **{f"{FOLDER}/_printk": entry.format(crc=crc)})
    done = update_kabi(hello.module, "-g", tree.path, "--branch", "new", cwd=tmp_path, code=17)
    assert words in done.err
    assert "--overwrite mends" in done.err
    done = update_kabi(hello.module, "-g", tree.path, "--branch", "left", "-O", cwd=tmp_path)
    assert done.out.endswith(": 2 symbols\n")
    done = update_kabi(hello.module, "-g", tree.path, "--branch", "mended", "--overwrite", cwd=tmp_path)
    assert done.out.endswith(": 3 symbols\n")
    mended = tree.git("show", f"mended:{FOLDER}/_printk").splitlines()
    assert mended[1] == hello.line("_printk")
    assert mended[0] in ("#0-", "#6-")


def test_a_file_of_another_format_is_an_error_whatever_is_asked_for(hello, tmp_path):
    tree = red_hat_shaped(tmp_path / "kernel", hello, **{f"{FOLDER}/_printk": "<<<<<<< HEAD\n"})
    for flag in ("-b", "-B", "--overwrite"):
        done = update_kabi(hello.module, "-g", tree.path, "--branch", "new", flag, cwd=tmp_path, code=17)
        assert f"{FOLDER}/_printk is there in another format" in done.err


def in_the_way(tree: Repo, path: str, mode: str, content: bytes) -> None:
    """Commit an entry as no git add would make it."""
    if mode == "160000":
        oid = tree.git("rev-parse", "HEAD")
    elif mode == "040000":
        oid = tree.git("mktree", stdin=f"100644 blob {tree.blob(content)}\tx\n".encode())
    else:
        oid = tree.blob(content)
    tree.git("rm", "-r", "--quiet", "--cached", "--ignore-unmatch", path)
    if mode == "040000":
        tree.git("read-tree", f"--prefix={path}/", oid)
    else:
        tree.git("update-index", "--add", "--cacheinfo", f"{mode},{oid},{path}")
    tree.git("commit", "--quiet", "-m", "made by hand")


@pytest.mark.parametrize(
    ("path", "mode", "what"),
    [
        ("redhat", "120000", "a symbolic link"),
        ("redhat/kabi", "120000", "a symbolic link"),
        (FOLDER, "120000", "a symbolic link"),
        (f"{FOLDER}/_printk", "120000", "a symbolic link"),
        (f"{FOLDER}/_printk", "040000", "a folder"),
        (f"{FOLDER}/_printk", "160000", "a submodule"),
        ("redhat/kabi", "160000", "a submodule"),
        (FOLDER, "100644", "a file"),
        ("redhat/kabi/kabi-module", "100644", "a file"),
        ("Makefile.rhelver", "120000", "a symbolic link"),
    ],
)
def test_what_is_in_the_way_in_a_hostile_tree_is_never_followed(hello, tree, tmp_path, path, mode, what):
    outside = tmp_path / "outside"
    outside.mkdir()
    in_the_way(tree, path, mode, str(outside).encode())
    branches = tree.git("for-each-ref")
    done = update_kabi(hello.module, "-g", tree.path, "--branch", "new", "-o", "x.patch", cwd=tmp_path, code=4)
    assert f"{path} is {what} in the kernel tree" in done.err
    assert tree.git("for-each-ref") == branches
    assert not (tmp_path / "x.patch").exists()
    assert list(outside.iterdir()) == []


def test_a_hostile_repositorys_configuration_runs_nothing(hello, tree, tmp_path):
    proof = tmp_path / "proof"
    script = tmp_path / "evil.sh"
    script.write_text(f"#!/bin/sh\necho run >> {proof}\nexit 1\n")
    script.chmod(0o755)
    hooks = tree.path / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("reference-transaction", "post-index-change", "pre-commit", "post-checkout"):
        shutil.copy(script, hooks / name)
    for key in ("core.fsmonitor", "diff.external", "core.pager", "core.editor", "gpg.program", "filter.x.clean"):
        tree.git("config", key, str(script))
    tree.git("config", "commit.gpgSign", "true")
    (tree.path / ".git/info").mkdir(exist_ok=True)
    (tree.path / ".git/info/attributes").write_text("* filter=x diff=x\n")
    update_kabi(hello.module, "-g", tree.path, "--branch", "new", "-o", "x.patch", cwd=tmp_path)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("left_out", "listed", "code"), [("tree:0", True, 4), ("blob:none", True, 4), ("blob:none", False, 0)]
)
def test_a_hostile_partial_clone_fetches_nothing(hello, tmp_path, left_out, listed, code):
    tree = red_hat_shaped(tmp_path / "kernel", hello) if listed else make_repo(tmp_path / "kernel")
    clone = Repo(tmp_path / "clone")
    tree.git("config", "uploadpack.allowFilter", "true")
    url = f"file://{tree.path}"
    tree.git("clone", "--quiet", "--no-checkout", f"--filter={left_out}", url, str(clone.path))
    proof = tmp_path / "proof"
    identify(clone)
    clone.git("config", "remote.origin.url", "ssh://example.org/x")
    clone.git("config", "core.sshCommand", f"touch {proof};")
    own = ("--kabi-dir", "mine", "--minor", 3)
    done = update_kabi(hello.module, "-g", clone.path, "--branch", "new", *own, cwd=tmp_path, code=code)
    assert not code or "lacks" in done.err
    assert not proof.exists()


def test_objects_of_a_shared_repository_can_be_written_by_its_group(hello, tree, tmp_path):
    tree.git("config", "core.sharedRepository", "group")
    before = folder_state(tree.path / ".git/objects")
    update_kabi(hello.module, "-g", tree.path, "--branch", "new", cwd=tmp_path)
    after = folder_state(tree.path / ".git/objects")
    made = [Path(path) for path in after.keys() - before.keys() if Path(path).is_dir()]
    assert made
    assert all(folder.stat().st_mode & 0o020 for folder in made)


@pytest.mark.parametrize("name", [b"../../../../../x", b"param_ops\ncharp", b"\x1b[2Jm_ops_charp", b"param ops charp"])
def test_a_module_with_a_hostile_symbol_is_refused(hello, tree, tmp_path, name):
    module = hello.patched(tmp_path, b"param_ops_charp", name[:15])
    done = update_kabi(module, "-g", tree.path, "--branch", "new", cwd=tmp_path, code=17)
    assert "is no C name" in done.err
    assert "\x1b" not in done.err
    assert tree.git("branch", "--format=%(refname:short)") == "main"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("absent.ko",), 17, "absent.ko: No such file or directory"),
        (("text.ko",), 17, "text.ko: not an ELF file"),
        (("absent.rpm",), 17, "absent.rpm"),
        (("text.rpm",), 17, "cannot be read as an RPM"),
        (("empty",), 17, "there is no kernel module and no RPM in empty"),
        (("MODULE", "-g", "absent"), 4, "no kernel tree at absent"),
        (("MODULE", "-g", "https://example.org/kernel.git"), 4, "has to be cloned first"),
        (("MODULE", "-g", "empty"), 4, "is not a git repository"),
        (("MODULE", "-g", "TREE", "-r", "absent"), 4, "no revision 'absent'"),
        (("MODULE", "-g", "TREE", "-r", "--all"), 4, "no revision '--all'"),
        *(
            (("MODULE", "-g", "TREE", "-d", d), 2, "not a folder of")
            for d in ("/etc", "a/../../b", "a//b", ".git/x", "")
        ),
        (("MODULE", "--branch", "x"), 2, "--branch needs a kernel tree"),
        (("MODULE", "-g", "TREE", "--minor", "-1"), 2, "there is no such release"),
        (("MODULE", "-o", "x"), 2, "-o needs a kernel tree"),
        (("MODULE", "-g", "TREE", "--append"), 2, "--append needs a branch"),
        (("MODULE", "-g", "TREE", "-o", "MODULE"), 2, "is no patch"),
        (("-g", "TREE", "-o", "text.ko", "MODULE"), 2, "entries are replaced by --overwrite"),
        (("MODULE", "-g", "TREE", "-o", "absent/x"), 2, "there is no folder"),
        (("MODULE", "-g", "TREE", "-M", "absent"), 17, "cannot be read as a Module.symvers"),
        (("MODULE", "-g", "TREE", "-M", "text.ko"), 17, "not a line of a Module.symvers"),
        (("MODULE", "-w", "absent"), 17, "absent cannot be read"),
        (("MODULE", "-w", "MODULE"), 17, "is there in another format"),
        (("MODULE", "-g", "PLAIN"), 17, "there is no kABI list in"),
    ],
)
def test_bad_input_is_a_clear_error(hello, tree, tmp_path, args, code, words):
    (tmp_path / "empty").mkdir()
    for name in ("text.ko", "text.rpm"):
        (tmp_path / name).write_text("text\n")
    plain = make_repo(tmp_path / "plain")
    names = {"MODULE": hello.module, "TREE": tree.path, "PLAIN": plain.path}
    done = update_kabi(*(names.get(word, word) for word in args), cwd=tmp_path, code=code)
    assert words in done.err
    assert (tmp_path / "text.ko").read_text() == "text\n"


def test_a_kernel_that_is_not_here_is_named(hello, tree, tmp_path, kernel):
    absent = kernel.replace("6", "7", 1)
    module = hello.patched(tmp_path, f"vermagic={kernel}".encode(), f"vermagic={absent}".encode())
    done = update_kabi(module, "-g", tree.path, cwd=tmp_path, code=2)
    assert f"what the kernel {absent} exports is not known" in done.err
    assert "--symvers x86_64=FILE" in done.err


def test_modules_of_two_kernels_are_not_mixed(hello, tree, tmp_path, kernel):
    absent = kernel.replace("6", "7", 1)
    module = hello.patched(tmp_path, f"vermagic={kernel}".encode(), f"vermagic={absent}".encode())
    done = update_kabi(module, hello.module, "-g", tree.path, cwd=tmp_path, code=2)
    assert "were built for 2 kernels" in done.err
    assert absent in done.err

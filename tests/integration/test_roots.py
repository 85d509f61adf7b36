"""Build roots of real mmdebstrap, and programs of kbuild that run on this machine or do not."""

import json
import multiprocessing
import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pkgkmod.errors import KernelError, SandboxError, ToolError
from pkgkmod.kernels import provide, roots
from pkgkmod.kernels.roots import host_tools_complaint, recipe_for, root_folder
from pkgkmod.model.kernel import Compiler, Mount
from pkgkmod.model.project import Build
from pkgkmod.progress import Progress
from tests.fixtures import aptrepo
from tests.fixtures.machine import need
from tests.fixtures.offeredkernels import MAIN, kernel_of

# Making one, of an archive of small packages.

ALL = ("base-files", "gcc", "gcc-14", "libc6-dev", "libelf-dev", "libssl-dev", "make", "mawk", "patch", "libdep")


def small_deb(folder, name):
    """Build a package with a program that has all rights, documentation, and a script that tells that it ran."""
    root = folder / f"root-{name}"
    files = {
        f"usr/bin/{name}": ("program", 0o6755),
        f"usr/share/{name}/secret": ("data", 0o600),
        f"usr/share/doc/{name}/copyright": ("text", 0o644),
        "DEBIAN/postinst": (f"#!/bin/sh\ntouch {folder}/a-script-ran\n", 0o755),
        "DEBIAN/preinst": (f"#!/bin/sh\ntouch {folder}/a-script-ran\n", 0o755),
    }
    control = f"Package: {name}\nVersion: 1:2.0-1\nArchitecture: amd64\nMaintainer: T <t@example.org>\nDescription: t\n"
    control += "Essential: yes\n" if name == "base-files" else ""
    control += "Depends: libdep\n" if name == "gcc-14" else ""
    for path, (text, mode) in {**files, "DEBIAN/control": (control, 0o644)}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        (root / path).chmod(mode)
    made = folder / f"{name}_1%3a2.0-1_amd64.deb"
    subprocess.run(["dpkg-deb", "-Znone", "--root-owner-group", "-b", root, made], check=True, capture_output=True)
    return made


@pytest.fixture
def archive(tmp_path):
    need("mmdebstrap", "apt-ftparchive", "dpkg-deb")
    found = aptrepo.Archive(tmp_path / "archive")
    debs = tmp_path / "debs"
    debs.mkdir()
    found.add(*(small_deb(debs, name) for name in ALL))
    found.index()
    found.release()
    return found


@pytest.fixture
def recipe(archive):
    found = recipe_for(kernel_of(archive.entry("trusted=yes")))
    assert found.suite == aptrepo.SUITE
    return found


def test_a_root_is_unpacked_never_installed(tmp_path, recipe):
    cache = tmp_path / "cache"
    before = os.umask(0o077)
    try:
        root = root_folder(recipe, progress=Progress(), cache=cache)
    finally:
        os.umask(before)
    assert root == recipe.place(cache)
    assert (root / "usr/bin/gcc-14").read_text() == "program"
    assert (root / "bin/libdep").read_text() == "program", "what packages depend on, and /bin is a link"
    assert not list(tmp_path.rglob("a-script-ran"))
    assert (root / "usr/bin/awk").readlink() == Path("mawk")
    assert (root / "bin/sh").readlink() == Path("dash")
    assert not (root / "usr/share/doc").exists()
    assert list((root / "dev").iterdir()) == []
    for path in (p for p in (root, *root.rglob("*")) if not p.is_symlink()):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o755 if path.is_dir() or path.parent.name == "bin" else 0o644), path
    facts = json.loads((root.parent / "entry.json").read_text())
    assert facts["installed"] == dict.fromkeys(ALL, "1:2.0-1")
    assert facts["bytes"] > 100
    assert sorted(path.name for path in (cache / "roots").iterdir()) == ["locks", recipe.name]


def make(recipe, cache, found):
    found.put(root_folder(recipe, progress=Progress(), cache=cache).stat().st_ino)


def test_two_processes_make_one(tmp_path, recipe):
    found = multiprocessing.Queue()
    both = [multiprocessing.Process(target=make, args=(recipe, tmp_path / "cache", found)) for _ in range(2)]
    for process in both:
        process.start()
    inodes = {found.get(timeout=60) for _ in both}
    for process in both:
        process.join()
    assert len(inodes) == 1


def test_what_killed_runs_leave_is_no_root(tmp_path, recipe):
    cache = tmp_path / "cache"
    (cache / "roots" / f".new-{recipe.name}/root/usr/bin").mkdir(parents=True)  # while it was made
    (cache / "roots" / recipe.name / "root/leftover").mkdir(parents=True)  # while it was removed
    root = root_folder(recipe, progress=Progress(), cache=cache)
    assert (root / "usr/bin/gcc-14").exists()
    assert not (root / "leftover").exists()
    assert not list((cache / "roots").glob(".new-*"))


def test_an_archive_that_has_not_the_release(tmp_path, archive, recipe):
    (archive.pool / "gcc-14_1%3a2.0-1_amd64.deb").unlink()
    archive.index()
    archive.release()
    with pytest.raises(KernelError, match="a build root of stable could not be made") as caught:
        root_folder(recipe, progress=Progress(), cache=tmp_path / "cache")
    assert "Unable to locate package gcc-14" in caught.value.log.read_text()
    assert recipe.archives[0] in caught.value.details
    assert "gcc-14" in caught.value.hint
    assert not recipe.place(tmp_path / "cache").exists()
    assert not list((tmp_path / "cache/roots").glob(".new-*"))


# Whether the programs of kbuild run here: real programs, some of which want what this machine has not.


def compiled(path, *options, source="int main(void) { return 1; }"):
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-x", "c", "-", "-o", path, *options], input=source.encode(), check=True)
    return path


@pytest.fixture
def tree(tmp_path):
    """A kernel laid out as Debian's: `scripts` of the build tree is a link into another package."""
    need("gcc", "bwrap")
    kbuild, headers = tmp_path / "store/kbuild", tmp_path / "store/headers"
    headers.mkdir(parents=True)
    (headers / "scripts").symlink_to("../../lib/linux-kbuild-6.12/scripts")
    (headers / "tools").symlink_to("/usr/lib/linux-kbuild-6.12/tools")
    compiled(kbuild / "scripts/basic/fixdep")
    compiled(kbuild / "scripts/mod/modpost")
    mounts = (Mount(headers, kernel_of("").tree), Mount(kbuild, Path("/usr/lib/linux-kbuild-6.12")))
    return kernel_of(f"deb {MAIN} trixie main", mounts=mounts), kbuild


def of_another_release(path):
    """Make a program that wants a version of a library that this machine's does not have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    library, versions = path.parent / "libtest.so", path.parent / "versions"
    text = "int wanted(void) { return 0; }"
    versions.write_text("TEST_2.38 { wanted; };")
    compiled(library, "-shared", "-fPIC", f"-Wl,--version-script={versions}", source=text)
    use = "int wanted(void); int main(void) { return wanted(); }"
    compiled(path, "-L", path.parent, "-ltest", "-Wl,-rpath,$ORIGIN", source=use)
    versions.write_text("TEST_2.36 { wanted; };")
    compiled(library, "-shared", "-fPIC", f"-Wl,--version-script={versions}", source=text)


def of_another_libc(path):
    compiled(path, "-Wl,--dynamic-linker=/lib/ld-other.so.1")


def with_a_missing_library(path):
    of_another_release(path)
    (path.parent / "libtest.so").unlink()


def test_programs_that_run(tmp_path, tree):
    assert host_tools_complaint(tree[0], tmp_path / "cache") == ""


@pytest.mark.parametrize(
    ("make_one", "complaint"),
    [
        (of_another_release, "version `TEST_2.38' not found (required by"),
        (of_another_libc, "No such file or directory"),
        (with_a_missing_library, "error while loading shared libraries"),
    ],
)
@pytest.mark.parametrize("name", ["scripts/basic/fixdep", "scripts/mod/modpost.real-lsb-64", "tools/objtool/objtool"])
def test_programs_that_do_not_run(tmp_path, tree, make_one, complaint, name):
    kernel, kbuild = tree
    make_one(kbuild / name)
    assert complaint in host_tools_complaint(kernel, tmp_path / "cache")


def test_the_answer_is_kept_for_these_programs_and_this_libc(tmp_path, tree, monkeypatch):
    kernel, kbuild = tree
    cache = tmp_path / "cache"
    assert host_tools_complaint(kernel, cache) == ""
    with monkeypatch.context() as patch:
        patch.setattr(roots, "run", None)  # nothing may be started
        assert host_tools_complaint(replace(kernel, identity="of another flavour"), cache) == ""
    started = []
    with monkeypatch.context() as patch:
        patch.setattr(roots, "_try", lambda tool, mounts: started.append(tool) or "")
        patch.setattr(os, "confstr", lambda name: "glibc 2.99")
        assert host_tools_complaint(kernel, cache) == ""
    assert [tool.name for tool in started] == ["fixdep", "modpost"]
    of_another_libc(kbuild / "scripts/basic/fixdep")
    assert host_tools_complaint(kernel, cache) != ""


def test_links_that_go_round_in_circles(tmp_path, tree):
    kernel, kbuild = tree
    (kbuild / "tools").mkdir()
    (kbuild / "tools/objtool").symlink_to("objtool")
    assert host_tools_complaint(kernel, tmp_path / "cache") == ""


# When a kernel gets a root.


def provided(kernel, monkeypatch, tmp_path, **build):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return provide._with_root(kernel, Build(**build), make=False, progress=Progress())


def test_a_root_for_another_release_only(tmp_path, tree, monkeypatch):
    need("gcc")
    kernel = replace(tree[0], compiler=None)  # this machine's gcc will do
    assert provided(kernel, monkeypatch, tmp_path).root is None
    far = replace(kernel, compiler=Compiler("gcc", 99, ""))
    root = provided(far, monkeypatch, tmp_path).root
    assert root == tmp_path / f"cache/pkgkmod/roots/{recipe_for(far).name}/root"
    assert provided(far, monkeypatch, tmp_path, roots=False).root is None
    assert provided(far, monkeypatch, tmp_path, sandbox=False).root is None
    assert provided(far, monkeypatch, tmp_path, any_compiler=True).root is None
    assert provided(replace(far, mounts=()), monkeypatch, tmp_path).root is None, "an installed one"


@pytest.mark.parametrize("error", [SandboxError("no namespaces are allowed"), ToolError("bwrap is not installed")])
def test_no_sandbox_is_told_when_something_is_compiled(tmp_path, tree, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(roots, "run", refuse)
    kernel = replace(tree[0], compiler=None)
    assert provided(kernel, monkeypatch, tmp_path) == kernel


def test_programs_that_do_not_run_and_no_release_to_make_a_root_of(tmp_path, tree, monkeypatch):
    kernel, kbuild = tree
    of_another_release(kbuild / "scripts/mod/modpost")
    assert provided(replace(kernel, compiler=None), monkeypatch, tmp_path).root
    with pytest.raises(KernelError, match="do not run on this machine") as caught:
        provided(replace(kernel, offer=None), monkeypatch, tmp_path)
    assert "TEST_2.38" in caught.value.details

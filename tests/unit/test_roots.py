"""Build roots: which release a kernel's is of, what is in it, and which ones go."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pkgkmod import programs
from pkgkmod.errors import ToolError
from pkgkmod.kernels.compiler import compiler_stamps, find_compiler
from pkgkmod.kernels.roots import RootRecipe, prune, recipe_for, root_folder, stamp
from pkgkmod.model.kernel import Mount
from pkgkmod.progress import Progress
from tests.fixtures.offeredkernels import MAIN, kernel_of

SECURITY = "http://deb.debian.org/debian-security"


@pytest.mark.parametrize(
    ("line", "suite", "archive"),
    [
        (f"deb {MAIN} trixie main", "trixie", f"{MAIN} trixie main"),
        (f"deb {MAIN} trixie main contrib non-free-firmware", "trixie", f"{MAIN} trixie main"),
        (f"deb {MAIN} trixie-updates main", "trixie", f"{MAIN} trixie main"),
        (f"deb {MAIN} trixie-backports main", "trixie", f"{MAIN} trixie main"),
        (f"deb {MAIN} bookworm-backports-sloppy main", "bookworm", f"{MAIN} bookworm main"),
        (f"deb {MAIN} bookworm-proposed-updates main", "bookworm", f"{MAIN} bookworm main"),
        (f"deb {SECURITY} bullseye-security main", "bullseye", f"{MAIN} bullseye main"),
        ("deb http://security.debian.org/ buster/updates main", "buster", f"{MAIN} buster main"),
        ("deb http://security.debian.org/debian-security trixie-security main", "trixie", f"{MAIN} trixie main"),
        (
            "deb https://snapshot.debian.org/archive/debian-security/20250101T000000Z trixie-security main",
            "trixie",
            "https://snapshot.debian.org/archive/debian/20250101T000000Z trixie main",
        ),
        (
            "deb file:///srv/mirror/debian-security trixie-security main",
            "trixie",
            "file:///srv/mirror/debian trixie main",
        ),
        (f"deb {MAIN} sid main", "sid", f"{MAIN} sid main"),
        (
            "deb http://security.ubuntu.com/ubuntu noble-security main",
            "noble",
            "http://security.ubuntu.com/ubuntu noble main universe",
        ),
        ("deb http://example.org/kernels trixie custom", "trixie", "http://example.org/kernels trixie custom"),
    ],
)
def test_the_release_that_a_part_of_it_belongs_to(line, suite, archive):
    recipe = recipe_for(kernel_of(line))
    assert recipe.suite == suite
    (only,) = recipe.archives
    options, _, rest = only.partition("] ")
    assert (options, rest) == ("deb [arch=amd64 check-valid-until=no", archive)


def test_experimental_is_laid_over_sid():
    recipe = recipe_for(kernel_of(f"deb {MAIN} experimental main"))
    assert recipe.suite == "sid"
    assert [line.split()[-2] for line in recipe.archives] == ["sid", "experimental"]


def test_who_is_believed_stays(tmp_path):
    options = f"signed-by={tmp_path}/key.gpg"
    (line,) = recipe_for(kernel_of(f"deb [{options}] {SECURITY} bullseye-security main")).archives
    assert line == f"deb [arch=amd64 {options} check-valid-until=no] {MAIN} bullseye main"
    (line,) = recipe_for(kernel_of(f"deb [trusted=yes arch=amd64,arm64] {MAIN} trixie main")).archives
    assert line == f"deb [arch=amd64 trusted=yes check-valid-until=no] {MAIN} trixie main"


def test_all_parts_of_a_release_share_a_root():
    lines = (f"{MAIN} trixie main", f"{MAIN} trixie-backports main", f"{SECURITY} trixie-security main contrib")
    assert len({recipe_for(kernel_of(f"deb {line}")).name for line in lines}) == 1
    others = (f"deb {MAIN} bookworm main", f"deb [trusted=yes] {MAIN} trixie main")
    assert len({recipe_for(kernel_of(line)).name for line in (f"deb {lines[0]}", *others)}) == 3


@pytest.mark.parametrize(
    "kernel",
    [
        replace(kernel_of(""), offer=None),
        kernel_of("https://example.org/repo", source="rpm-md"),
        kernel_of("deb [trusted=yes] file:///srv/kernels ./"),
        kernel_of("not a line of sources.list"),
    ],
)
def test_no_root_without_a_whole_release(kernel):
    assert recipe_for(kernel) is None


def test_the_compiler_of_the_kernel_comes_along():
    line = f"deb {MAIN} trixie main"
    assert "gcc-14" in recipe_for(kernel_of(line)).packages
    assert recipe_for(kernel_of(line)).name.startswith("trixie-gcc-14-")
    assert {"clang-19", "lld-19", "llvm-19"} <= set(recipe_for(kernel_of(line, compiler=("clang", 19))).packages)
    unknown = recipe_for(kernel_of(line, compiler=None))
    assert "gcc" in unknown.packages
    assert unknown.name.startswith("trixie-gcc-")
    root = Path("/somewhere")
    assert find_compiler(kernel_of(line, root=root)) == Path("/usr/bin/gcc-14")
    assert find_compiler(kernel_of(line, compiler=None, root=root)) == Path("/usr/bin/gcc")


@pytest.mark.parametrize(("option", "vmlinux", "wanted"), [("y", True, True), ("y", False, False), ("n", True, False)])
def test_pahole_only_where_modules_get_type_information(tmp_path, option, vmlinux, wanted):
    (tmp_path / ".config").write_text(f"CONFIG_DEBUG_INFO_BTF_MODULES={option}\n")
    if vmlinux:
        (tmp_path / "vmlinux").touch()
    kernel = kernel_of(f"deb {MAIN} trixie main", mounts=(Mount(tmp_path, kernel_of("").tree),))
    assert ("pahole" in recipe_for(kernel).packages) is wanted


def with_packages(home, **versions):
    (home / "root").mkdir(parents=True, exist_ok=True)
    (home / "entry.json").write_text(json.dumps({"installed": versions, "bytes": 5}))
    return home / "root"


def test_the_stamp_is_of_what_shapes_code(tmp_path):
    first = stamp(with_packages(tmp_path / "a", **{"gcc-14": "14.2.0-19", "binutils": "2.44-3", "tzdata": "2025b"}))
    other = stamp(with_packages(tmp_path / "b", **{"gcc-14": "14.2.0-19", "binutils": "2.44-3", "tzdata": "2026a"}))
    assert first == other
    assert stamp(with_packages(tmp_path / "b", **{"gcc-14": "14.2.0-20", "binutils": "2.44-3"})) != first
    assert stamp(with_packages(tmp_path / "b", **{"gcc-14": "14.2.0-19", "binutils": "2.45-1"})) != first
    assert stamp(tmp_path / "absent/root") == "a root that is not made yet"
    kernel = kernel_of(f"deb {MAIN} trixie main", root=tmp_path / "a/root")
    assert compiler_stamps(kernel) == {"compiler": f"/usr/bin/gcc-14 of {first}"}


def test_a_root_that_is_there_is_only_marked(tmp_path):
    cache = tmp_path / "cache"
    recipe = RootRecipe("trixie", ("deb http://192.0.2.1/nowhere trixie main",), ("gcc-14",))
    with_packages(recipe.place(cache).parent)
    entry = recipe.place(cache).parent / "entry.json"
    os.utime(entry, (5, 5))
    assert root_folder(recipe, progress=Progress(), cache=cache) == recipe.place(cache)
    assert entry.stat().st_mtime > 5


def test_mmdebstrap_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "SYSTEM_PATH", str(tmp_path))
    with pytest.raises(ToolError, match="'mmdebstrap', needed for making a build root of trixie") as caught:
        root_folder(recipe_for(kernel_of(f"deb {MAIN} trixie main")), progress=Progress(), cache=tmp_path / "cache")
    assert "mmdebstrap; or install gcc-14 here, and set build.roots = false" in caught.value.hint


def test_prune_removes_what_no_build_used(tmp_path):
    assert prune(tmp_path, 0, dry_run=False) == []
    old, new = (with_packages(tmp_path / "roots" / name).parent for name in ("old", "new"))
    (tmp_path / "roots/.new-killed").mkdir()
    long_ago = time.time() - 50 * 24 * 60 * 60
    os.utime(old / "entry.json", (long_ago, long_ago))
    assert prune(tmp_path, 90, dry_run=False) == []
    assert prune(tmp_path, 40, dry_run=True) == [(old, 5)]
    assert old.exists()
    assert prune(tmp_path, 40, dry_run=False) == [(old, 5)]
    assert [path.name for path in (tmp_path / "roots").iterdir()] == ["new"]
    assert prune(tmp_path, None, dry_run=False) == [(new, 5)]
    assert list((tmp_path / "roots").iterdir()) == []

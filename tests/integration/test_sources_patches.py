"""Patches on imported files: all or none, and what is said when one does not apply."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pkgkmod.errors import PatchError
from pkgkmod.sources.patches import Patch, apply_patches, read_patches, unlisted_patches
from tests.fixtures.gitrepos import Listener, Repo, folder_state, make_repo
from tests.integration.test_sources_local import do_import, names

FOLDER = "drivers/net/hello"
GOOD = """\
From: Somebody <somebody@example.org>
Subject: [PATCH] Raise hello

diff --git a/drivers/net/hello/hello.h b/drivers/net/hello/hello.h
--- a/drivers/net/hello/hello.h
+++ b/drivers/net/hello/hello.h
@@ -1 +1 @@
-#define HELLO 1
+#define HELLO 2
"""
CREATE_RENAME_DELETE = """\
diff --git a/drivers/net/hello/new.c b/drivers/net/hello/new.c
new file mode 100755
--- /dev/null
+++ b/drivers/net/hello/new.c
@@ -0,0 +1 @@
+int new;
diff --git a/drivers/net/hello/tools/run.sh b/drivers/net/hello/scripts/start.sh
rename from drivers/net/hello/tools/run.sh
rename to drivers/net/hello/scripts/start.sh
diff --git a/drivers/net/hello/hello.h b/drivers/net/hello/hello.h
deleted file mode 100644
--- a/drivers/net/hello/hello.h
+++ /dev/null
@@ -1 +0,0 @@
-#define HELLO 2
"""
BAD = """\
--- linux.orig/drivers/net/hello/main.c\t2024-01-01
+++ linux/drivers/net/hello/main.c\t2024-01-02
@@ -3,3 +3,4 @@
 int line_1;
 int line_2;
+int line_2a;
 int line_3;
@@ -20,3 +21,3 @@ int somewhere
 int line_18;
-int line_XX;
+int line_YY;
 int line_20;
"""


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return make_repo(tmp_path / "kernel")


def put(folder: Path, **patches: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in patches.items():
        (folder / name.replace("_patch", ".patch")).write_text(content)
    return folder


def test_patches_are_applied_recorded_and_kept(repo: Repo, tmp_path: Path) -> None:
    put(tmp_path / "patches", a_patch=CREATE_RENAME_DELETE, b_patch=GOOD, c_patch=BAD)
    (tmp_path / "patches/series").write_text("# order\n\nb.patch\na.patch -p1 # behind b\n# c.patch\n")
    made = do_import(repo.path, FOLDER, into=tmp_path / "out")
    tree = tmp_path / "out/tree" / FOLDER
    assert names(tree) == ["Makefile", "main.c", "new.c", "scripts/start.sh"]
    assert (tree / "new.c").stat().st_mode & 0o777 == 0o755
    assert (tree / "new.c").stat().st_mtime == made.provenance.commit_epoch
    recorded = [(p.name, p.sha256) for p in made.provenance.patches]
    assert recorded == [
        ("b.patch", hashlib.sha256(GOOD.encode()).hexdigest()),
        ("a.patch", hashlib.sha256(CREATE_RENAME_DELETE.encode()).hexdigest()),
    ]
    assert (tmp_path / "out/patches/series").read_text() == "b.patch\na.patch\n"
    assert (tmp_path / "out/patches/a.patch").read_text() == CREATE_RENAME_DELETE
    assert names(tmp_path / "out") == sorted(
        ["manifest.json", "patches/a.patch", "patches/b.patch", "patches/series", "provenance.json"]
        + [f"tree/{FOLDER}/{name}" for name in names(tree)]
    )


def test_a_failing_hunk_is_named_and_nothing_is_half_patched(repo: Repo, tmp_path: Path) -> None:
    do_import(repo.path, FOLDER, into=tmp_path / "out")
    tree = tmp_path / "out/tree"
    before = folder_state(tree / "drivers")
    patches = (Patch("good.patch", GOOD.encode()), Patch("bad.patch", BAD.encode()))
    with pytest.raises(PatchError) as caught:
        apply_patches(tree, patches, Listener())
    error = caught.value
    assert error.brief == (
        "patch 'bad.patch' does not apply: drivers/net/hello/main.c, hunk 2 of 2 (@@ -20,3 +21,3 @@ int somewhere)"
    )
    assert "-int line_XX;\n+int line_YY;" in error.details and "line_2a" not in error.details
    assert "line 8 of the patch" in error.hint and "line 20 of the file" in error.hint
    assert folder_state(tree / "drivers") == before
    assert names(tmp_path / "out") == sorted(
        ["manifest.json", "provenance.json", *(f"tree/{name}" for name in names(tree))]
    )


def test_a_patch_for_a_file_that_was_not_imported(repo: Repo, tmp_path: Path) -> None:
    put(tmp_path / "patches", x_patch=GOOD.replace("hello.h", "absent.h"))
    with pytest.raises(PatchError) as caught:
        do_import(repo.path, FOLDER, into=tmp_path / "out")
    assert "drivers/net/hello/absent.h is not among the imported files" in caught.value.brief
    assert "-d" in caught.value.hint
    assert repo.git("rev-parse", "HEAD") in caught.value.details


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (GOOD.replace("drivers/net/hello/hello.h", "../../outside"), "invalid path"),
        (
            GOOD.replace("a/drivers/net/hello/hello.h", "/etc/hostname").replace("b/drivers", "/etc"),
            "x.patch",
        ),
        (CREATE_RENAME_DELETE.replace("drivers/net/hello/new.c", ".git/config"), "invalid path"),
        ("diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc\n", "link"),
        ("diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+../x\n", "link"),
        ("nothing at all\n", "holds no changes"),
        ("", "holds no changes"),
        (GOOD[:-20], "corrupt patch"),
    ],
)
def test_patches_that_are_refused(repo: Repo, tmp_path: Path, content: str, reason: str) -> None:
    do_import(repo.path, FOLDER, into=tmp_path / "out")
    tree = tmp_path / "out/tree"
    (tmp_path / "out/outside").write_text("#define HELLO 1\n")
    before = folder_state(tree / "drivers")
    with pytest.raises(PatchError) as caught:
        apply_patches(tree, [Patch("x.patch", content.encode())], Listener())
    assert reason in caught.value.brief
    assert folder_state(tree / "drivers") == before
    assert (tmp_path / "out/outside").read_text() == "#define HELLO 1\n"


def test_a_link_of_one_patch_does_not_lead_the_next_one_out(repo: Repo, tmp_path: Path) -> None:
    do_import(repo.path, FOLDER, into=tmp_path / "out")
    link = "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+drivers\n"
    through = "diff --git a/l/x b/l/x\nnew file mode 100644\n--- /dev/null\n+++ b/l/x\n@@ -0,0 +1 @@\n+x\n"
    with pytest.raises(PatchError, match="beyond a symbolic link"):
        apply_patches(tmp_path / "out/tree", [Patch("a", link.encode()), Patch("b", through.encode())], Listener())


def test_the_tree_may_lie_in_a_repository_with_odd_settings(repo: Repo, tmp_path: Path) -> None:
    """Outside files and settings do not decide how a patch is applied, nor does `git apply` skip silently."""
    outer = make_repo(tmp_path / "outer")
    outer.git("config", "apply.whitespace", "error-all")
    outer.git("config", "core.autocrlf", "true")
    (tmp_path / "outer/.gitignore").write_text("*\n")
    put(outer.path / "patches", x_patch=GOOD.replace("HELLO 2", "HELLO 2   "))
    do_import(repo.path, FOLDER, into=outer.path / "out")
    assert (outer.path / "out/tree" / FOLDER / "hello.h").read_text() == "#define HELLO 2   \n"


def test_patches_with_other_depths_and_places(repo: Repo, tmp_path: Path) -> None:
    folder = put(tmp_path / "patches")
    (folder / "sub").mkdir()
    (folder / "sub/zero.patch").write_text(GOOD.replace("a/drivers", "drivers").replace("b/drivers", "drivers"))
    (folder / "series").write_text("sub/zero.patch -p0\n")
    made = do_import(repo.path, FOLDER, into=tmp_path / "out")
    assert (tmp_path / "out/tree" / FOLDER / "hello.h").read_text() == "#define HELLO 2\n"
    assert made.provenance.patches[0].name == "sub/zero.patch"
    assert read_patches(tmp_path / "out/patches", quilt=True) == read_patches(folder, quilt=True)


# --- the folder of patches -----------------------------------------------------------------------


def test_no_folder_no_patches(tmp_path: Path) -> None:
    assert read_patches(tmp_path / "patches", quilt=True) == ()
    assert unlisted_patches(tmp_path / "patches", quilt=True) == ()


def test_without_series_all_by_name(tmp_path: Path) -> None:
    folder = put(tmp_path / "patches", b_patch="b", a_patch="a", README="not one")
    assert [p.name for p in read_patches(folder, quilt=True)] == ["a.patch", "b.patch"]
    (folder / "series").write_text("b.patch\n")
    assert [p.name for p in read_patches(folder, quilt=True)] == ["b.patch"]
    assert [p.name for p in read_patches(folder, quilt=False)] == ["a.patch", "b.patch"]
    assert unlisted_patches(folder, quilt=True) == ("a.patch",)
    assert unlisted_patches(folder, quilt=False) == ()


def test_a_patch_beside_the_series_is_warned_of(repo: Repo, tmp_path: Path) -> None:
    put(tmp_path / "patches", used_patch=GOOD, forgotten_patch=BAD, series="used.patch\n")
    heard = Listener()
    do_import(repo.path, FOLDER, into=tmp_path / "out", progress=heard)
    assert len(heard.warnings) == 1 and "forgotten.patch" in heard.warnings[0]


@pytest.mark.parametrize(
    ("series", "said"),
    [
        ("fix-al.patch\n", "'fix-al.patch' is not in"),
        ("ok.patch\n../outside.patch\n", "series:2: not a name inside"),
        ("/etc/passwd\n", "series:1: not a name inside"),
        ("ok.patch\nok.patch\n", "series:2: patch 'ok.patch' is there twice"),
        ("ok.patch --fuzz=3\n", "series:1: not understood"),
        ("ok.patch -R\n", "series:1: not understood"),
        ("\x1b[2J\n", "series:1: not a name inside"),
    ],
)
def test_a_wrong_series(tmp_path: Path, series: str, said: str) -> None:
    folder = put(tmp_path / "patches", ok_patch=GOOD, series=series)
    (folder / "fix-all.patch").write_text(GOOD)
    with pytest.raises(PatchError) as caught:
        read_patches(folder, quilt=True)
    assert said in caught.value.brief
    if "fix-al." in series:
        assert caught.value.hint == "did you mean 'fix-all.patch'?"

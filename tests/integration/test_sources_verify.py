"""Whether edits of imported files are noticed and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pkgkmod.model.artifacts import SourceTree
from pkgkmod.sources.manifest import Manifest, tree_id
from pkgkmod.sources.verify import tree_differences
from tests.fixtures.gitrepos import Repo, make_repo
from tests.integration.test_sources_local import do_import
from tests.integration.test_sources_patches import CREATE_RENAME_DELETE, GOOD, put

FOLDER = "drivers/net/hello"


@pytest.fixture(params=["plain", "patched"])
def imported(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, SourceTree]:
    repo = make_repo(tmp_path / "kernel")
    (repo.path / FOLDER / "link").symlink_to("main.c")
    repo.commit({f"{FOLDER}/tools.h": "int sorts_before_the_folder;\n", f"{FOLDER}/tools-x": "y"})
    if request.param == "patched":
        put(tmp_path / "patches", a_patch=GOOD, b_patch=CREATE_RENAME_DELETE)
    return tmp_path / "out", do_import(repo.path, FOLDER, "include/linux/hello_api.h", into=tmp_path / "out")


def append(path: Path) -> None:
    path.write_text(path.read_text() + "int edited;\n")


EDITS: dict[str, Callable[[Path], object]] = {
    f"changed: {FOLDER}/main.c": lambda tree: append(tree / FOLDER / "main.c"),
    f"missing: {FOLDER}/Makefile": lambda tree: (tree / FOLDER / "Makefile").unlink(),
    f"added: {FOLDER}/extra.c": lambda tree: (tree / FOLDER / "extra.c").write_text("int extra;\n"),
    f"changed: {FOLDER}/tools.h": lambda tree: (tree / FOLDER / "tools.h").chmod(0o755),
    "changed: include/linux/hello_api.h": lambda tree: append(tree / "include/linux/hello_api.h"),
    "added: elsewhere/x.c": lambda tree: ((tree / "elsewhere").mkdir(), (tree / "elsewhere/x.c").touch()),
}


def test_untouched(imported: tuple[Path, SourceTree]) -> None:
    folder, tree = imported
    assert tree_differences(folder, tree) == ()
    (folder / "tree" / FOLDER / "main.c").touch()  # another time is no edit
    (folder / "tree" / FOLDER / "empty").mkdir()  # git knows no empty folders
    assert tree_differences(folder, tree) == ()


@pytest.mark.parametrize("line", EDITS)
def test_an_edit_is_named(imported: tuple[Path, SourceTree], line: str) -> None:
    folder, tree = imported
    EDITS[line](folder / "tree")
    assert tree_differences(folder, tree) == (line,)


def test_all_edits_at_once_and_sorted(imported: tuple[Path, SourceTree]) -> None:
    folder, tree = imported
    for edit in EDITS.values():
        edit(folder / "tree")
    assert set(tree_differences(folder, tree)) == set(EDITS)


def test_a_link_that_became_a_file(imported: tuple[Path, SourceTree]) -> None:
    folder, tree = imported
    link = folder / "tree" / FOLDER / "link"
    link.unlink()
    link.write_text("main.c")
    assert tree_differences(folder, tree) == (f"changed: {FOLDER}/link",)


def test_a_file_in_place_of_its_folder(imported: tuple[Path, SourceTree]) -> None:
    folder, tree = imported
    place = folder / "tree/include/linux/hello_api.h"
    place.unlink()
    place.parent.rmdir()
    place.parent.write_text("")
    assert tree_differences(folder, tree) == ("added: include/linux", "missing: include/linux/hello_api.h")


def test_the_list_itself_is_not_trusted(imported: tuple[Path, SourceTree]) -> None:
    folder, tree = imported
    append(folder / "tree" / FOLDER / "main.c")
    edited = Manifest.load(folder)
    from pkgkmod.sources.manifest import state_on_disk

    state = state_on_disk(folder / "tree" / FOLDER / "main.c")
    assert state
    Manifest({**edited.imported, f"{FOLDER}/main.c": state}, edited.patched).save(folder)
    assert tree_differences(folder, tree) == (f"changed: manifest.json ({FOLDER})",)
    # Said to be the work of a patch: taking the patches back does not give what was imported.
    Manifest(edited.imported, {**edited.patched, f"{FOLDER}/main.c": state}).save(folder)
    assert tree_differences(folder, tree) == (f"changed: {FOLDER}/main.c",)
    (folder / "manifest.json").write_text(json.dumps({"imported": 1}))
    assert tree_differences(folder, tree) == ("missing: manifest.json",)


def test_changed_patches(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "kernel")
    put(tmp_path / "patches", a_patch=GOOD)
    tree = do_import(repo.path, FOLDER, into=tmp_path / "out")
    append(tmp_path / "out/patches/a.patch")
    assert tree_differences(tmp_path / "out", tree) == ("changed: patches/a.patch",)
    (tmp_path / "out/patches/a.patch").unlink()
    assert tree_differences(tmp_path / "out", tree) == ("missing: patches/a.patch",)


def test_tree_ids_are_gits(tmp_path: Path) -> None:
    repo: Repo = make_repo(tmp_path / "kernel")
    repo.commit({"n.b": "", "n/x.sh": "", "n-b": "", "n0": ""})
    do_import(repo.path, ".", into=tmp_path / "out")
    files = Manifest.load(tmp_path / "out").imported
    assert tree_id(files, "0" * 40) == repo.git("rev-parse", "HEAD^{tree}")

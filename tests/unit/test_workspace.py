import multiprocessing
import os

import pytest

from pkgkmod.progress import Progress
from pkgkmod.workspace import Workspace

KEY = ("stage", "el9", "6.1.0-56-amd64")


def save(workspace, fingerprint="f" * 64, text="made", **more):
    with workspace.draft() as draft:
        (draft.folder / "sub").mkdir()
        (draft.folder / "sub/file").write_text(text)
        draft.log.write_text("log\n")
        return workspace.save(
            draft, key=KEY, fingerprint=fingerprint, ingredients={}, inputs={}, **{"state": "ok", **more}
        )


def test_a_result_is_found_by_its_fingerprint_only(tmp_path):
    workspace = Workspace(tmp_path)
    saved = save(workspace)
    assert workspace.find(*KEY, "f" * 64).folder == saved.folder
    assert workspace.find(*KEY, "f" * 16 + "0" * 48) is None
    assert (saved.folder / "sub/file").read_text() == "made"
    assert not any(workspace.results.glob(".partial/*"))


def test_a_draft_that_is_not_saved_leaves_nothing(tmp_path):
    workspace = Workspace(tmp_path)
    with pytest.raises(RuntimeError), workspace.draft() as draft:
        (draft.folder / "file").write_text("half")
        raise RuntimeError
    assert workspace.all() == []
    assert not any(workspace.results.glob(".partial/*"))


def test_changes_are_seen_but_new_times_alone_are_not(tmp_path):
    saved = save(Workspace(tmp_path))
    file = saved.folder / "sub/file"
    os.utime(file, (1, 1))
    (saved.folder / "log.txt").write_text("other")
    assert saved.changed_files() == ()
    file.write_text("edit")
    (saved.folder / "new\nname").write_text("")
    assert saved.changed_files() == ("new\nname", "sub/file")
    file.unlink()
    assert "sub/file" in saved.changed_files()


def test_an_edited_result_is_kept_aside_when_it_is_made_anew(tmp_path):
    workspace = Workspace(tmp_path)
    saved = save(workspace)
    (saved.folder / "sub/file").write_text("precious edit")
    again = save(workspace, text="made anew")
    assert (again.folder / "sub/file").read_text() == "made anew"
    (aside,) = saved.folder.parent.glob("*.edited-*")
    assert (aside / "sub/file").read_text() == "precious edit"
    assert [result.folder for result in workspace.all()] == [again.folder]


def test_a_damaged_description_is_no_result(tmp_path):
    workspace = Workspace(tmp_path)
    saved = save(workspace)
    (saved.folder / "result.json").write_text('{"stage": "st')
    assert workspace.find(*KEY, "f" * 64) is None


def _hold(folder, name):
    with Workspace(folder).locked(Progress()):
        for word in ("in", "out"):
            with (folder / "order").open("a") as file:
                file.write(f"{name} {word}\n")


def test_two_runs_take_turns(tmp_path):
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_hold, args=(tmp_path, str(number))) for number in range(3)]
    with Workspace(tmp_path).locked(Progress()):
        for other in others:
            other.start()
        assert not (tmp_path / "order").exists()
    for other in others:
        other.join()
    seen = [line.split() for line in (tmp_path / "order").read_text().splitlines()]
    assert [word for _, word in seen] == ["in", "out"] * 3
    assert all(seen[i][0] == seen[i + 1][0] for i in (0, 2, 4))


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    workspace = Workspace(tmp_path)
    (workspace.results / ".partial/old").mkdir(parents=True)
    with workspace.locked(Progress()):
        assert not (workspace.results / ".partial").exists()

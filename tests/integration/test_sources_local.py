"""Importing from a repository on this machine."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pkgkmod.errors import SourceError
from pkgkmod.model.artifacts import Provenance, SourceTree
from pkgkmod.model.project import Source
from pkgkmod.sources.importer import import_sources, selection_key
from pkgkmod.sources.repository import parse_origin, resolve, resolve_source
from tests.fixtures.gitrepos import Listener, Repo, folder_state, make_repo


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return make_repo(tmp_path / "kernel")


def do_import(
    repo: Path | str, *directories: str, into: Path, progress: Listener | None = None, **settings: object
) -> SourceTree:
    source = Source.model_validate({"repository": str(repo), "directories": directories, **settings})
    into.mkdir()
    return import_sources(
        source,
        base=into.parent,
        cache=into.parent / "cache",
        destination=into,
        progress=progress or Listener(),
    )


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_a_folder_comes_with_its_kernel_paths(repo: Repo, tmp_path: Path) -> None:
    made = do_import(repo.path, "drivers/net/hello", into=tmp_path / "out")
    tree = tmp_path / "out" / "tree"
    assert names(tree) == [
        "drivers/net/hello/Makefile",
        "drivers/net/hello/hello.h",
        "drivers/net/hello/main.c",
        "drivers/net/hello/tools/run.sh",
    ]
    for name in names(tree):
        assert (tree / name).read_bytes() == (repo.path / name).read_bytes()
    assert stat.S_IMODE((tree / "drivers/net/hello/tools/run.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((tree / "drivers/net/hello/main.c").stat().st_mode) == 0o644
    assert (tree / "drivers/net/hello/main.c").stat().st_mtime == made.provenance.commit_epoch


def test_provenance_is_what_git_says(repo: Repo, tmp_path: Path) -> None:
    head = repo.commit({"drivers/net/hello/hello.h": "#define HELLO 2\n"}, "Raise hello\nto two\n\nIt was time.")
    provenance = do_import(
        repo.path, "drivers/net/hello", "include/linux/hello_api.h", into=tmp_path / "out"
    ).provenance
    assert provenance.commit == head
    assert provenance.author_date == "2024-03-01T12:00:00+02:00"
    assert provenance.commit_epoch == 1709287200
    assert provenance.subject == "Raise hello to two"
    assert provenance.describe == f"v6.1-1-g{head[:12]}"
    recorded = [(d.path, d.object_id, d.kind) for d in provenance.directories]
    assert recorded == [
        ("drivers/net/hello", repo.git("rev-parse", "HEAD:drivers/net/hello"), "tree"),
        ("include/linux/hello_api.h", repo.git("rev-parse", "HEAD:include/linux/hello_api.h"), "blob"),
    ]
    saved = (tmp_path / "out" / "provenance.json").read_text()
    assert Provenance.model_validate_json(saved) == provenance


@pytest.mark.parametrize("revision", ["main", "v6.1", "HEAD", "full", "short", "HEAD^{commit}", None])
def test_revisions(repo: Repo, revision: str | None) -> None:
    head = repo.git("rev-parse", "HEAD")
    given = {"full": head.upper(), "short": head[:9]}.get(revision or "", revision)
    source = Source(repository=str(repo.path), revision=given)
    assert resolve_source(source, base=Path("/"), cache=Path("/nonexistent")) == head
    origin = parse_origin(str(repo.path), Path("/"))
    assert resolve(origin, given or "HEAD", cache=Path("/nonexistent"), progress=Listener()) == head


@pytest.mark.parametrize("revision", ["v6.11", "--all", "-rf", "0" * 40, "main:drivers", "$(touch x)"])
def test_no_such_revision(repo: Repo, tmp_path: Path, revision: str) -> None:
    with pytest.raises(SourceError) as caught:
        do_import(repo.path, "drivers", into=tmp_path / "out", revision=revision)
    assert repr(revision) in caught.value.brief
    assert ("v6.1" in caught.value.hint) == (revision == "v6.11")


def test_no_such_folder_names_what_is_like_it(repo: Repo, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        do_import(repo.path, "drivers/net/helo/tools", into=tmp_path / "out")
    assert "no folder or file 'drivers/net/helo/tools'" in caught.value.brief
    assert "'drivers/net/helo' does not exist" in caught.value.details
    assert caught.value.hint == "did you mean drivers/net/hello?"


def test_a_path_through_a_file_does_not_exist(repo: Repo, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no folder or file"):
        do_import(repo.path, "Makefile/x", into=tmp_path / "out")
    with pytest.raises(SourceError, match="no folder or file"):
        do_import(repo.path, "Makefile", "Makefile/x", into=tmp_path / "out2")


def test_overlapping_folders_are_merged(repo: Repo, tmp_path: Path) -> None:
    made = do_import(
        repo.path, "drivers/net/hello/tools", "drivers/net/hello",
        "drivers/net/hello/main.c", "drivers/net/hello",
        into=tmp_path / "out",
    )  # fmt: skip
    assert [d.path for d in made.provenance.directories] == ["drivers/net/hello"]
    assert len(names(tmp_path / "out" / "tree")) == 4


def test_the_whole_tree_can_be_imported(repo: Repo, tmp_path: Path) -> None:
    made = do_import(repo.path, ".", into=tmp_path / "out")
    assert made.provenance.directories[0].object_id == repo.git("rev-parse", "HEAD^{tree}")
    assert names(tmp_path / "out" / "tree") == sorted(repo.git("ls-files").splitlines())


def test_nothing_in_the_repository_changes(repo: Repo, tmp_path: Path) -> None:
    (repo.path / "drivers/net/hello/main.c").write_text("edited, not committed\n")
    (repo.path / "new.c").write_text("new\n")
    os.utime(repo.path / ".git/index", (1, 1))
    before = folder_state(repo.path)
    do_import(repo.path, "drivers/net/hello", into=tmp_path / "out", follow_includes=True)
    with pytest.raises(SourceError):
        do_import(repo.path, "drivers/net/nothing", into=tmp_path / "out2")
    assert folder_state(repo.path) == before


def test_four_imports_at_once(repo: Repo, tmp_path: Path) -> None:
    before = folder_state(repo.path)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: do_import(repo.path, "drivers", into=tmp_path / f"out{n}"), range(4)))
    assert len({m.model_dump_json() for m in made}) == 1
    assert all(names(tmp_path / f"out{n}") == names(tmp_path / "out0") for n in range(4))
    assert folder_state(repo.path) == before


def test_settings_and_attributes_of_the_repository_do_not_touch_the_files(repo: Repo, tmp_path: Path) -> None:
    repo.commit({
        "drivers/net/hello/.gitattributes": "*.c filter=bad eol=crlf\n*.h export-ignore\n"
        "version export-subst\n",
        "drivers/net/hello/version": "$Format:%H$\n",
    })  # fmt: skip
    repo.git("config", "filter.bad.smudge", f"touch {tmp_path}/ran; cat")
    repo.git("config", "core.autocrlf", "true")
    repo.git("config", "core.fsmonitor", f"touch {tmp_path}/ran")
    made = do_import(repo.path, "drivers/net/hello", into=tmp_path / "out")
    tree = tmp_path / "out/tree/drivers/net/hello"
    assert (tree / "version").read_text() == "$Format:%H$\n"
    assert (tree / "hello.h").is_file()
    assert b"\r" not in (tree / "main.c").read_bytes()
    assert not (tmp_path / "ran").exists()
    assert made.provenance.directories[0].object_id == repo.git("rev-parse", "HEAD:drivers/net/hello")


def test_callers_git_variables_do_not_matter(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_WORK_TREE", "GIT_NAMESPACE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "nonsense")
    made = do_import(repo.path, "drivers/net/hello", into=tmp_path / "out")
    assert made.provenance.commit == repo.git("rev-parse", "HEAD")


def bare(repo: Repo, place: Path) -> Path:
    repo.git("clone", "--quiet", "--bare", str(repo.path), str(place))
    return place


def shallow(repo: Repo, place: Path) -> Path:
    repo.commit({"drivers/net/hello/hello.h": "#define HELLO 2\n"})
    repo.git("clone", "--quiet", "--depth=1", f"file://{repo.path}", str(place))
    return place


def work_tree(repo: Repo, place: Path) -> Path:
    repo.git("worktree", "add", "--quiet", "--detach", str(place))
    assert (place / ".git").is_file()
    return place


def borrowing(repo: Repo, place: Path) -> Path:
    repo.git("clone", "--quiet", "--shared", "--no-checkout", str(repo.path), str(place))
    return place


def odd_name(repo: Repo, place: Path) -> Path:
    odd = place.with_name('a:b "c" \\d $e')
    shutil.copytree(repo.path, odd)
    return odd


@pytest.mark.parametrize("kind", [bare, shallow, work_tree, borrowing, odd_name])
def test_kinds_of_repositories(repo: Repo, tmp_path: Path, kind: object) -> None:
    place = kind(repo, tmp_path / "variant")  # type: ignore[operator]
    before = folder_state(place)
    made = do_import(place, "drivers/net/hello", into=tmp_path / "out")
    assert made.provenance.commit == repo.git("rev-parse", "HEAD")
    assert made.provenance.directories[0].object_id == repo.git("rev-parse", "HEAD:drivers/net/hello")
    assert len(names(tmp_path / "out/tree")) == 4
    assert folder_state(place) == before


def test_a_repository_with_sha256(tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    repo = Repo(tmp_path / "kernel")
    repo.git("init", "--quiet", "--object-format=sha256")
    head = repo.commit({"drivers/x/x.c": "int x;\n"})
    assert do_import(repo.path, "drivers/x", into=tmp_path / "out").provenance.commit == head
    assert len(head) == 64


def test_a_partial_clone_is_not_completed_behind_the_packagers_back(repo: Repo, tmp_path: Path) -> None:
    repo.git("config", "uploadpack.allowFilter", "true")
    place = tmp_path / "partial"
    repo.git("clone", "--quiet", "--no-checkout", "--filter=blob:none", f"file://{repo.path}", str(place))
    before = folder_state(place)
    with pytest.raises(SourceError) as caught:
        do_import(place, "drivers/net/hello", into=tmp_path / "out")
    assert "partial clone" in caught.value.details
    with pytest.raises(SourceError, match="no revision"):
        do_import(place, "drivers/net/hello", into=tmp_path / "out2", revision="1" * 40)
    assert folder_state(place) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder somebody else's")
def test_root_may_import_from_somebody_elses_repository(repo: Repo, tmp_path: Path) -> None:
    for path in [repo.path, *repo.path.rglob("*")]:
        os.chown(path, 12345, 12345, follow_symlinks=False)
    made = do_import(repo.path, "drivers/net/hello", into=tmp_path / "out")
    assert made.provenance.describe == "v6.1"


def test_a_folder_without_repository_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="is not a git repository"):
        do_import(tmp_path / "empty", "drivers", into=tmp_path / "out")


def test_no_git_program(repo: Repo, tmp_path: Path) -> None:
    script = (
        "import pkgkmod.programs as c; c.SYSTEM_PATH='/nonexistent'\n"
        "from pathlib import Path\nfrom pkgkmod.errors import ToolError\n"
        "from pkgkmod.model.project import Source\nfrom pkgkmod.sources.repository import resolve_source\n"
        f"s = Source(repository={str(repo.path)!r})\n"
        "try: resolve_source(s, base=Path('/'), cache=Path('/nonexistent'))\n"
        "except ToolError as e: print(e.brief, '|', e.hint)\n"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "'git'" in done.stdout
    assert "git" in done.stdout.partition("|")[2]


# --- hostile trees -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "../../../../outside", "../../../../../../../../etc/passwd", "sub/deep/back/../.."],
)
def test_links_that_lead_outside_are_refused(repo: Repo, tmp_path: Path, target: str) -> None:
    link = repo.path / "drivers/net/hello/link"
    link.symlink_to(target)
    deep = repo.path / "drivers/net/hello/sub/deep"
    deep.mkdir(parents=True)
    (deep / "back").symlink_to("../../../../..")  # the top of the tree: inside
    repo.commit({})
    with pytest.raises(SourceError) as caught:
        do_import(repo.path, "drivers/net/hello", into=tmp_path / "out")
    assert f"drivers/net/hello/link -> {target}" in caught.value.details


def test_links_inside_are_kept(repo: Repo, tmp_path: Path) -> None:
    (repo.path / "drivers/net/hello/link.h").symlink_to("../other/other.h")
    (repo.path / "drivers/net/hello/dir").symlink_to("tools")
    repo.commit({})
    do_import(repo.path, "drivers/net/hello", into=tmp_path / "out")
    tree = tmp_path / "out/tree/drivers/net/hello"
    assert (tree / "link.h").readlink() == Path("../other/other.h")
    assert (tree / "dir/run.sh").is_file()


def test_a_submodule_is_named(repo: Repo, tmp_path: Path) -> None:
    head = repo.git("rev-parse", "HEAD")
    repo.git("update-index", "--add", "--cacheinfo", f"160000,{head},drivers/net/hello/sub")
    repo.git("commit", "--quiet", "--message", "Add a submodule")
    with pytest.raises(SourceError, match="submodule cannot be imported: drivers/net/hello/sub"):
        do_import(repo.path, "drivers/net/hello", into=tmp_path / "out")
    assert do_import(repo.path, "drivers/net/other", into=tmp_path / "out2")


@pytest.mark.parametrize("name", ["..", ".", ".git", ".GIT", "a\nb", "a\x1b[2Jb", "a/b", "../x", "\udcff"])
def test_names_that_are_not_safe(repo: Repo, tmp_path: Path, name: str) -> None:
    blob = repo.blob(b"bad\n")
    inner = repo.raw_tree(("100644", os.fsencode(name), blob))
    commit = repo.commit_tree(("040000", "tree", inner, "drivers"))
    try:
        do_import(repo.path, "drivers", into=tmp_path / "out", revision=commit)
    except SourceError as refused:
        assert "not safe to write" in refused.brief or "lacks" in refused.brief
        assert "\n" not in refused.brief and "\x1b" not in refused.brief
    else:
        # `a/b` is then just a file in a folder
        assert name == "a/b"
    assert not (tmp_path / "out/x").exists()
    assert not list(tmp_path.rglob("out/tree/.git"))


def test_a_link_and_a_folder_of_one_name(repo: Repo, tmp_path: Path) -> None:
    blob, link = repo.blob(b"bad\n"), repo.blob(str(tmp_path / "outside").encode())
    (tmp_path / "outside").mkdir()
    below = repo.raw_tree(("100644", b"file", blob))
    inner = repo.raw_tree(("120000", b"d", link), ("40000", b"d", below))
    commit = repo.commit_tree(("040000", "tree", inner, "drivers"))
    with pytest.raises(SourceError, match="'drivers/d' twice"):
        do_import(repo.path, "drivers", into=tmp_path / "out", revision=commit)
    assert not list((tmp_path / "outside").iterdir())


def test_odd_but_harmless_names(repo: Repo, tmp_path: Path) -> None:
    odd = ["a b.c", "%{x}.c", "$(touch x).c", "`id`.c", "-rf", "ü.c", "'\".c", "#.c", "*.c", ":(top)x"]
    repo.commit({f"drivers/odd/{name}": name for name in odd})
    do_import(repo.path, "drivers/odd", into=tmp_path / "out")
    assert names(tmp_path / "out/tree/drivers/odd") == sorted(odd)
    do_import(repo.path, *(f"drivers/odd/{name}" for name in odd), into=tmp_path / "out2")
    assert names(tmp_path / "out2/tree/drivers/odd") == sorted(odd)


def test_nonsense_in_a_commit(repo: Repo, tmp_path: Path) -> None:
    tree = repo.git("rev-parse", "HEAD^{tree}")
    raw = f"tree {tree}\nauthor A <a> 99999999999999999 +9999\ncommitter B <b> nonsense\n\n\x1b[31mred\udcff\n"
    commit = repo.git(
        "hash-object",
        "-t",
        "commit",
        "-w",
        "--literally",
        "--stdin",
        stdin=raw.encode(errors="surrogateescape"),
    )
    provenance = do_import(repo.path, "drivers", into=tmp_path / "out", revision=commit).provenance
    assert provenance.commit_epoch == 0
    assert provenance.subject.isprintable() and "red" in provenance.subject
    assert json.loads((tmp_path / "out/provenance.json").read_text())["commit"] == commit


# --- what identifies an import -------------------------------------------------------------------


def test_selection_key(tmp_path: Path) -> None:
    base = {"repository": "https://nowhere.invalid/x.git", "directories": ("b", "a", "a/c")}

    def key(commit: str = "1" * 40, **changes: object) -> dict[str, object]:
        return selection_key(Source.model_validate({**base, **changes}), commit=commit, base=tmp_path)

    first = key()
    assert json.loads(json.dumps(first)) == first
    assert key(directories=("a", "b")) == first
    assert key(low_bandwidth=True, check="off") == first
    assert key(commit="2" * 40) != first
    assert key(follow_includes=True) != first
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches/one.patch").write_text("x")
    patched = key()
    assert patched != first
    (tmp_path / "patches/one.patch").write_text("y")
    assert key() != patched

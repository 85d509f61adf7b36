"""Importing from a server: what crosses the wire, what the cache spares, and servers that refuse things."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pkgkmod.errors import SourceError
from pkgkmod.model.artifacts import SourceTree
from pkgkmod.model.project import Source
from pkgkmod.sources.importer import import_sources
from pkgkmod.sources.repository import parse_origin, resolve
from tests.fixtures.gitrepos import Listener, Repo, make_repo
from tests.fixtures.http_git import USUAL, GitServer, serve

FOLDER = "drivers/net/hello"


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """A repository with a commit that no branch or tag names."""
    made = make_repo(tmp_path / "served/kernel")
    made.commit({f"{FOLDER}/hello.h": "#define HELLO 2\n"}, "In the middle")
    made.commit({f"{FOLDER}/hello.h": "#define HELLO 3\n", "Documentation/big": "x" * 200_000}, "Newest")
    return made


@pytest.fixture
def server(repo: Repo) -> Iterator[GitServer]:
    with serve(repo.path.parent) as running:
        yield running


class Importer:
    """Imports from `url` into numbered folders, with one cache."""

    def __init__(self, url: str, place: Path) -> None:
        self.url, self.place, self.count = url, place, 0
        self.heard = Listener()

    def __call__(self, *directories: str, **settings: object) -> SourceTree:
        self.count += 1
        self.heard = Listener()
        self.into = self.place / f"out{self.count}"
        self.into.mkdir()
        source = Source.model_validate({"repository": self.url, "directories": directories or (FOLDER,), **settings})
        return import_sources(
            source, base=self.place, cache=self.place / "cache", destination=self.into, progress=self.heard
        )

    def read(self, name: str) -> str:
        return (self.into / "tree" / name).read_text()


@pytest.fixture
def fetch(server: GitServer, tmp_path: Path) -> Importer:
    return Importer(f"{server.url}/kernel", tmp_path)


def middle(repo: Repo) -> str:
    return repo.git("rev-parse", "main~1")


def test_a_commit_that_is_no_tip(fetch: Importer, server: GitServer, repo: Repo) -> None:
    made = fetch(revision=middle(repo))
    assert fetch.read(f"{FOLDER}/hello.h") == "#define HELLO 2\n"
    assert made.provenance.commit == middle(repo)
    assert made.provenance.directories[0].object_id == repo.git("rev-parse", f"main~1:{FOLDER}")
    assert made.provenance.subject == "In the middle"
    assert server.counts.requests <= 6
    assert server.counts.sent < 20_000  # the big file stayed there
    assert not fetch.heard.infos


def test_the_second_import_asks_nothing(fetch: Importer, server: GitServer, repo: Repo) -> None:
    first = fetch(revision=middle(repo))
    server.counts.reset()
    assert fetch(revision=middle(repo)) == first
    assert server.counts.requests == 0
    fetch(f"{FOLDER}/tools", revision=middle(repo))
    assert server.counts.requests == 0
    fetch("drivers/net/other", revision=middle(repo))
    assert 0 < server.counts.requests <= 2


def test_requests_do_not_grow_with_the_number_of_files(fetch: Importer, server: GitServer, repo: Repo) -> None:
    many = {f"drivers/many/{n % 17}/file{n}.c": f"int number_{n};\n" for n in range(600)}
    commit = repo.commit(many)
    fetch("drivers/many", "drivers/net", "include/linux/hello_api.h", revision=commit)
    assert len(list((fetch.into / "tree/drivers/many").rglob("*.c"))) == 600
    assert server.counts.requests <= 6
    fetch("drivers/many", revision="main")
    assert server.counts.requests <= 8  # asking what `main` is takes two


def test_low_bandwidth_gets_the_same_with_fewer_bytes(server: GitServer, repo: Repo, tmp_path: Path) -> None:
    commit = repo.commit({f"arch/many/{n}/{m}": f"{n * m}\n" for n in range(40) for m in range(10)})
    usual = Importer(f"{server.url}/kernel", tmp_path)
    expected = usual(FOLDER, "include/linux/hello_api.h", revision=commit)
    sent = server.counts.sent
    server.counts.reset()
    (tmp_path / "low").mkdir()
    low = Importer(f"{server.url}/kernel", tmp_path / "low")
    assert low(FOLDER, "include/linux/hello_api.h", revision=commit, low_bandwidth=True) == expected
    assert server.counts.sent < sent / 2
    server.counts.reset()
    assert low(FOLDER, revision=commit, low_bandwidth=True).provenance.commit == commit
    assert server.counts.requests == 0
    # What was left out comes when it is asked for, in either way.
    low("arch/many", revision=commit)
    assert len(list((low.into / "tree/arch").rglob("*"))) == 441
    with pytest.raises(SourceError, match="no folder or file 'drivers/nix/x'"):
        low("drivers/nix/x", revision=commit, low_bandwidth=True)


@pytest.mark.parametrize("revision", ["main", "v6.1", "HEAD", "refs/heads/main", "heads/main", None])
def test_names(fetch: Importer, repo: Repo, revision: str | None) -> None:
    assert fetch(revision=revision).provenance.commit == repo.git("rev-parse", f"{revision or 'HEAD'}^{{commit}}")


def test_a_short_hash_of_a_tip(fetch: Importer, repo: Repo) -> None:
    head = repo.git("rev-parse", "main")
    assert fetch(revision=head[:10]).provenance.commit == head
    assert not fetch.heard.infos


def test_a_short_hash_of_any_commit(fetch: Importer, server: GitServer, repo: Repo) -> None:
    assert fetch(revision=middle(repo)[:10]).provenance.commit == middle(repo)
    assert "cannot be asked for the short hash" in fetch.heard.infos[0]
    assert server.counts.sent < 20_000  # commits alone
    server.counts.reset()
    assert fetch(revision=middle(repo)[:8]).provenance.commit == middle(repo)
    assert server.counts.requests == 0


@pytest.mark.parametrize("revision", ["v6.11", "HEAD~3", "main^", "abcdef0123", "f" * 40, "v6.1..main", "a b", "-x"])
def test_no_such_revision(fetch: Importer, revision: str) -> None:
    with pytest.raises(SourceError) as caught:
        fetch(revision=revision)
    assert revision in caught.value.brief
    assert caught.value.hint
    if revision == "v6.11":
        assert "v6.1" in caught.value.hint


def test_a_server_without_filters(repo: Repo, tmp_path: Path) -> None:
    with serve(repo.path.parent, settings={}) as server:
        fetch = Importer(f"{server.url}/kernel", tmp_path)
        fetch(revision=middle(repo))
        assert fetch.read(f"{FOLDER}/hello.h") == "#define HELLO 2\n"
        assert len(fetch.heard.infos) == 1 and "cannot leave file contents out" in fetch.heard.infos[0]
        server.counts.reset()
        fetch("drivers/net/other", revision=middle(repo))
        assert server.counts.requests == 0
        fetch(revision=middle(repo)[:9])
        with pytest.raises(SourceError, match="short hash"):
            fetch(revision=repo.git("rev-parse", "v6.1^{commit}")[:9].replace("0", "1"))


@pytest.mark.parametrize("settings", [{}, USUAL])
@pytest.mark.parametrize("which", ["main", "main~1"])
def test_an_old_server_that_refuses_hashes(repo: Repo, tmp_path: Path, settings: dict[str, str], which: str) -> None:
    commit = repo.git("rev-parse", which)
    with serve(repo.path.parent, settings=settings, protocol=0) as server:
        fetch = Importer(f"{server.url}/kernel", tmp_path)
        assert fetch(revision=commit).provenance.commit == commit
        assert fetch.read(f"{FOLDER}/hello.h") == ("#define HELLO 3\n" if which == "main" else "#define HELLO 2\n")
        assert any("fetching" in info for info in fetch.heard.infos)
        server.counts.reset()
        fetch("drivers/net/other", revision=commit)
        assert server.counts.requests == 0
        with pytest.raises(SourceError, match="does not have commit"):
            fetch(revision="f" * 40)


def test_a_server_that_only_sends_files(repo: Repo, tmp_path: Path) -> None:
    repo.git("update-server-info")
    with serve(repo.path.parent, dumb=True) as server:
        fetch = Importer(f"{server.url}/kernel/.git", tmp_path)
        assert fetch(revision=middle(repo)).provenance.commit == middle(repo)
        assert fetch("drivers/net/other", revision="v6.1").provenance.commit == repo.git("rev-parse", "v6.1^{commit}")


def test_includes_are_followed_over_the_wire(fetch: Importer, server: GitServer, repo: Repo) -> None:
    commit = repo.commit({
        f"{FOLDER}/main.c": '#include "../other/other.h"\n',
        "drivers/net/other/other.h": '#include "../third.h"\n',
        "drivers/net/third.h": "int third;\n",
    })  # fmt: skip
    made = fetch(revision=commit, follow_includes=True)
    followed = [d.path for d in made.provenance.directories if d.followed]
    assert followed == ["drivers/net/other/other.h", "drivers/net/third.h"]
    assert fetch.read("drivers/net/third.h") == "int third;\n"
    assert server.counts.requests <= 8


def test_four_processes_at_once(server: GitServer, repo: Repo, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from pkgkmod.model.project import Source\n"
        "from pkgkmod.progress import Progress; from pkgkmod.sources.importer import import_sources\n"
        "place, url, commit = Path(sys.argv[1]), sys.argv[2], sys.argv[3]; place.mkdir()\n"
        f"s = Source(repository=url, revision=commit, directories=('{FOLDER}',))\n"
        "cache = place.parent / 'cache'\n"
        "made = import_sources(s, base=place, cache=cache, destination=place, progress=Progress())\n"
        "print(made.model_dump_json())\n"
    )

    def one(number: int) -> str:
        argv = [
            sys.executable,
            "-c",
            script,
            str(tmp_path / f"p{number}"),
            f"{server.url}/kernel",
            middle(repo),
        ]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(one, range(4)))) == 1
    assert server.counts.requests <= 6  # the others waited, and found it in the cache


def test_passwords_are_used_but_not_shown_or_kept(repo: Repo, tmp_path: Path) -> None:
    with serve(repo.path.parent, login="packager:s3cret") as server:
        with pytest.raises(SourceError, match="cannot fetch from"):
            Importer(f"{server.url}/kernel", tmp_path)(revision="main")
        url = f"{server.url}/kernel".replace("http://", "http://packager:s3cret@")
        (tmp_path / "with").mkdir()
        fetch = Importer(url, tmp_path / "with")
        assert fetch(revision="main").provenance.repository == f"{server.url}/kernel"
        for path in (tmp_path / "with").rglob("*"):
            assert path.is_dir() or b"s3cret" not in path.read_bytes(), path
        assert fetch.heard.commands and not any("s3cret" in command for command in fetch.heard.commands)
        with pytest.raises(SourceError) as caught:
            fetch(revision="v7")
        assert "s3cret" not in str(vars(caught.value))
        fetch.url = url.replace("/kernel", "/gone")
        with pytest.raises(SourceError) as caught:
            fetch(revision="main")
        assert "cannot fetch from" in caught.value.brief
        assert "s3cret" not in str(vars(caught.value))


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        Importer("http://127.0.0.1:1/kernel", tmp_path)(revision="a" * 40)
    assert "cannot fetch from http://127.0.0.1:1/kernel" in caught.value.brief
    assert caught.value.details


def test_what_a_killed_fetch_left_is_no_hindrance(fetch: Importer, repo: Repo, tmp_path: Path) -> None:
    fetch(revision="v6.1")
    (place,) = (tmp_path / "cache").glob("git-*/partial")
    (place / "shallow.lock").touch()
    (place / "objects/pack/tmp_pack_x").touch()
    fetch(revision=middle(repo))
    assert fetch.read(f"{FOLDER}/hello.h") == "#define HELLO 2\n"
    assert not (place / "objects/pack/tmp_pack_x").exists()


def test_a_broken_cache_entry_is_made_anew(fetch: Importer, server: GitServer, repo: Repo, tmp_path: Path) -> None:
    fetch(revision="main")
    for pack in (tmp_path / "cache").rglob("*.pack"):
        pack.unlink()
    fetch(revision="main")
    assert fetch.read(f"{FOLDER}/hello.h") == "#define HELLO 3\n"


def test_ssh_and_git_transports_ask_the_right_program(
    tmp_path: Path, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nshift $(($# - 1))\nexec sh -c "$1"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
    monkeypatch.setenv("GIT_SSH_VARIANT", "simple")
    repo.git("config", "uploadpack.allowFilter", "true")
    for url in (f"ssh://packager@example.invalid{repo.path}", f"packager@example.invalid:{repo.path}"):
        origin = parse_origin(url, tmp_path)
        assert resolve(origin, "main", cache=tmp_path / "cache", progress=Listener()) == repo.git("rev-parse", "main")
        made = Importer(url, tmp_path / str(len(url)))
        made.place.mkdir()
        made(revision=middle(repo))
        assert made.read(f"{FOLDER}/hello.h") == "#define HELLO 2\n"
    assert "example.invalid" in (tmp_path / "asked").read_text()

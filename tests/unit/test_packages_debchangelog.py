from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pkgkmod.errors import InputError
from pkgkmod.formats.deb import read_changelog
from pkgkmod.packages.debchangelog import debian_changelog, earlier_entries, read_entries, update_changelog
from pkgkmod.packages.facts import PackageFacts
from tests.fixtures.packaging import EPOCH, make_facts, make_job, make_project

OLD = """e1000e-modules (6.1.80-2) bookworm; urgency=high

  [ Jane Packager ]
  * Mend a thing, with
    a long story:
    - and a list.

 -- Jane Packager <jane@example.org>  Tue, 07 Nov 2023 22:13:20 +0000

e1000e-modules (6.1.80-1~deb12) bookworm; urgency=medium

  * Import drivers/net/ethernet/intel/e1000e at commit
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.

 -- Jane Packager <jane@example.org>  Mon, 06 Nov 2023 22:13:20 +0000
"""
JOB = make_job("debian12", ("6.1.0-56-amd64",))
VERSIONS = ("6.1.90-1", "6.1.80-2", "6.1.80-1")


def facts(distro: str = "debian12", **info: str) -> PackageFacts:
    return make_facts(make_job(distro, ("6.1.0-56-amd64",), make_project(**info)))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "debian" / "changelog"
    path.parent.mkdir()
    path.write_text(OLD)
    return path


@pytest.mark.parametrize(
    "distro, suffix, codename",
    [("debian12", "~deb12", "bookworm"), ("debian13", "~deb13", "trixie"), ("ubuntu2404", "~ubuntu24.04", "noble")],
)
def test_a_new_version_comes_on_top(kept: Path, tmp_path: Path, distro: str, suffix: str, codename: str) -> None:
    entries = read_entries(kept, JOB)
    assert [entry.version for entry in entries] == ["6.1.80-2", "6.1.80-1"] and entries[1].commit == "a" * 40
    made = debian_changelog(facts(distro), entries)
    written = tmp_path / "made"
    written.write_text(made.text)
    changes = read_changelog(written)
    assert [change.version for change in changes] == [version + suffix for version in VERSIONS]
    assert {change.distribution for change in changes} == {codename}
    assert changes[0].time == made.time == EPOCH
    assert "  [ Jane Packager ]\n  * Mend a thing, with\n    a long story:\n    - and a list.\n" in made.text
    subprocess.run(["dpkg-parsechangelog", "--all", "-l", written], check=True, stdout=subprocess.DEVNULL)


def test_no_changelog_is_none(tmp_path: Path) -> None:
    assert read_entries(tmp_path / "changelog", JOB) == ()
    (tmp_path / "changelog").write_text("\n")
    assert read_entries(tmp_path / "changelog", JOB) == ()


def test_a_version_that_is_there_stands_as_it_was_written(kept: Path) -> None:
    made = debian_changelog(facts(version="6.1.80", release="2"), read_entries(kept, JOB), ["not said"])
    assert made.text.startswith("e1000e-modules (6.1.80-2~deb12) bookworm; urgency=high\n\n  [ Jane Packager ]")
    assert "Import drivers" in made.text and "not said" not in made.text
    assert made.time == EPOCH - 7 * 86400
    older = debian_changelog(facts(version="6.1.80", release="1"), read_entries(kept, JOB))
    assert older.text.count(" -- ") == 1, "later versions are left out"


def test_times_go_up_where_the_same_commit_is_packaged_again(tmp_path: Path) -> None:
    path = tmp_path / "changelog"
    update_changelog(path, facts(), ())
    again = debian_changelog(facts(release="2"), read_entries(path, JOB))
    assert again.time == EPOCH + 1


def test_commits_are_named_up_to_a_number_and_close_no_bugs(kept: Path) -> None:
    commits = ["e1000e: closes: #1234, LP: #99\x1b[31m", *(f"commit {number}" for number in range(40))]
    made = debian_changelog(facts(), read_entries(kept, JOB)[1:], commits)
    assert "  * e1000e: closes #1234, LP #99 [31m\n" in made.text
    assert "  * commit 28\n" in made.text and "  * commit 29\n" not in made.text
    assert "  * And 11 more since aaaaaaaaaaaa.\n" in made.text


def test_the_packagers_changelog_gets_the_entry_once(kept: Path) -> None:
    one = debian_changelog(facts(), read_entries(kept, JOB), ["a commit"])
    update_changelog(kept, facts(), ["a commit"])
    assert kept.read_text().startswith("e1000e-modules (6.1.90-1) UNRELEASED; urgency=medium\n")
    assert kept.read_text().endswith(OLD)
    update_changelog(kept, facts("debian13"), ["another"])
    assert "another" not in kept.read_text()
    assert debian_changelog(facts(), read_entries(kept, JOB)) == one
    assert earlier_entries(facts().job, read_entries(kept, JOB))[1]
    assert [path.name for path in kept.parent.iterdir()] == ["changelog"]


@pytest.mark.parametrize(
    "text", ["nothing of the kind\n", OLD + "trailing rubbish (1-1)\n", OLD.replace(" -- Jane", " Jane")]
)
def test_what_is_no_changelog_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "changelog").write_text(text)
    with pytest.raises(InputError, match="not a Debian changelog"):
        read_entries(tmp_path / "changelog", JOB)


def test_the_changelog_of_another_package_is_refused(kept: Path) -> None:
    kept.write_text(OLD.replace("e1000e-modules", "e1000e"))
    with pytest.raises(InputError, match="of 'e1000e', not of 'e1000e-modules'"):
        read_entries(kept, JOB)


def test_what_cannot_be_read_or_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "folder").mkdir()
    for name in ("bytes", "folder"):
        with pytest.raises(InputError, match="cannot be read"):
            read_entries(tmp_path / name, JOB)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be"):
        update_changelog(tmp_path / "file" / "changelog", facts(), ())

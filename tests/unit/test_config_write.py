"""Writing project files: new ones load, and recording the sources leaves everything else as it is."""

import os
import tomllib

import pytest

from pkgkmod.config import layers, write
from pkgkmod.config.load import load
from pkgkmod.config.write import new_project_text, record_source
from pkgkmod.errors import ConfigError, DiskFullError

COMMIT = "830b3c68c1fb1e9176028d02ef86f3cf76aa2476"
SOURCE = {"repository": "/linux", "revision": COMMIT, "directories": ["drivers/a", "include/b.h"]}
PROJECT = '[project]\nname = "foo"\n'


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "SYSTEM_FILE", tmp_path / "none")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "pkgkmod.toml"


# --- a new file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", [None, "acme"])
@pytest.mark.parametrize("maintainer", [None, 'Jö "J" D <j@example.org>'])
def test_a_new_file_loads_without_a_mistake(file, vendor, maintainer):
    text = new_project_text(
        name="foo",
        targets=[("el9", 4), ("debian12", None)],
        vendor=vendor,
        summary='Driver "x" \\ {y} %z',
        maintainer=maintainer,
        kernels=["6.1.*"],
    )
    file.write_text(text, encoding="utf-8")
    project = load(file).project
    assert project.project.vendor == vendor
    assert project.project.summary == 'Driver "x" \\ {y} %z'
    assert project.project.maintainer == (maintainer or "Nobody <nobody@localhost>")
    assert [(t.distro, t.minor, t.kernels) for t in project.target] == [
        ("el9", 4, ("6.1.*",)),
        ("debian12", None, ("6.1.*",)),
    ]


def test_what_is_commented_out_in_a_new_file_loads_too(file):
    text = new_project_text(name="foo", targets=[("debian12", None)])
    lines = [
        line.removeprefix("# ") if line.startswith("# ") and is_toml(line[2:]) else line for line in text.split("\n")
    ]
    assert sum(line.startswith("# ") for line in text.split("\n")) > sum(line.startswith("# ") for line in lines) + 5
    file.write_text("\n".join(lines), encoding="utf-8")
    project = load(file).project
    assert project.project.vendor == "acme"
    assert project.source.revision == "v6.1"
    assert [module.name for module in project.module] == ["e1000e"]


def is_toml(line):
    try:
        return bool(tomllib.loads(line))
    except tomllib.TOMLDecodeError:
        return False


@pytest.mark.parametrize("name", ['a"b', "a\nb", "a\x1bb", "../x", "%{x}", "$(x)", "{name}"])
def test_a_hostile_name_stays_one_value(file, name):
    text = new_project_text(name=name, targets=[])
    assert tomllib.loads(text)["project"]["name"] == name
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"3|4.*project\.name"):
        load(file)


# --- recording the sources -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        PROJECT,
        PROJECT + "[source]\n\n[kconfig]\nA = 'm'\n",
        PROJECT
        + "# why\n[source] # where\nrevision = 'a' # old\n# level\ncheck = 'off' # none\n[build]\njobs = 1 # one\n",
        "source = { revision = 'a', check = 'off' } # inline\n" + PROJECT,
        "source.revision = 'a' # old\nsource.check = 'off'\n" + PROJECT,
        "source.check = 'off'\n" + PROJECT,
        PROJECT + "[source]\ndirectories = [\n  'x', # first\n  'y',\n]\n[[target]]\ndistro = 'el9'\n",
        PROJECT.rstrip("\n"),
        "# [source]\n# revision = 'x'\n" + PROJECT + "[[target]]\ndistro = 'el9'\n[[target]]\ndistro = 'el8'",
        new_project_text(name="foo", targets=[("debian12", None)]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_the_sources_change(file, text, end):
    file.write_bytes(text.replace("\n", end).encode())
    before = tomllib.loads(text)
    said = record_source(file, **SOURCE, comment="v6.1")
    after = file.read_bytes().decode()
    assert tomllib.loads(after) == {**before, "source": {**before.get("source", {}), **SOURCE}}
    assert len(said) == 3
    assert f'pkgkmod.toml: source.revision = "{COMMIT}"' in said[1]
    assert after.count("\r") == (after.count("\n") if end == "\r\n" else 0)
    untouched = [line for line in text.splitlines() if not is_recorded(line)]
    assert set(untouched) <= set(after.splitlines())
    assert "# old" not in after

    assert record_source(file, **SOURCE, comment=None) == []
    assert file.read_bytes().decode() == after


def is_recorded(line):
    return any(word in line for word in ("revision", "directories", "source = {", "'x',", "'y',")) or line == "]"


def test_the_name_of_a_revision_is_a_comment_that_goes_when_it_is_no_longer_true(file):
    file.write_text(PROJECT)
    record_source(file, **SOURCE, comment="v6.1")
    assert f'revision = "{COMMIT}" # v6.1\n' in file.read_text()
    said = record_source(file, **{**SOURCE, "revision": "f" * 40}, comment=None)
    assert said == [f'pkgkmod.toml: source.revision = "{"f" * 40}" (was "{COMMIT}")']
    assert f'revision = "{"f" * 40}"\n' in file.read_text()


def test_a_hostile_comment_stays_a_comment(file):
    file.write_text(PROJECT)
    record_source(file, **SOURCE, comment="x\n[build]\njobs = 1")
    assert tomllib.loads(file.read_text()).keys() == {"project", "source"}


def test_what_is_not_given_stays(file):
    file.write_text(PROJECT + "[source]\nrepository = '/mine'\ndirectories = ['x']\n")
    record_source(file, repository=None, revision=COMMIT, directories=[])
    assert tomllib.loads(file.read_text())["source"] == {
        "repository": "/mine",
        "directories": ["x"],
        "revision": COMMIT,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [("source = 5", "expected a table"), ("[[source]]\nx = 1", "expected a table"), ("x = \x1b", "not TOML")],
)
def test_a_file_that_cannot_be_edited_stays_as_it_is(file, text, said):
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        record_source(file, **SOURCE)
    assert caught.value.brief.isprintable()
    assert file.read_text() == text


def test_the_lines_are_told_when_the_editor_gets_it_wrong(file, monkeypatch):
    file.write_text(PROJECT)
    monkeypatch.setattr(write.tomlkit, "dumps", lambda document: PROJECT)
    with pytest.raises(ConfigError, match="cannot be edited") as caught:
        record_source(file, **SOURCE)
    assert f'revision = "{COMMIT}"' in caught.value.details
    assert file.read_text() == PROJECT


def test_mode_link_and_neighbours_are_kept(file, tmp_path):
    real = tmp_path / "real" / "project.toml"
    real.parent.mkdir()
    real.write_text(PROJECT)
    real.chmod(0o640)
    file.symlink_to(real)
    record_source(file, **SOURCE)
    assert file.is_symlink()
    assert COMMIT in real.read_text()
    assert real.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in real.parent.iterdir()] == ["project.toml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_leaves_the_file_its_owner(file):
    file.write_text(PROJECT)
    os.chown(file, 12345, 12346)
    record_source(file, **SOURCE)
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 12346)


@pytest.mark.parametrize(("number", "kind"), [(28, DiskFullError), (30, ConfigError)])
def test_a_disk_that_takes_nothing(file, monkeypatch, number, kind):
    file.write_text(PROJECT)

    def refuse(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(write.Path, "replace", refuse)
    with pytest.raises(kind):
        record_source(file, **SOURCE)
    assert file.read_text() == PROJECT
    assert [p.name for p in file.parent.iterdir()] == ["pkgkmod.toml"]

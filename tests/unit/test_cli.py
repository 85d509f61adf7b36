"""The command line: quick to start, near names, options that become settings."""

import json
import subprocess
import sys

import pytest

from pkgkmod import cli
from pkgkmod.cli import STAGE_SUMMARIES
from pkgkmod.cli.stage_commands import settings_of, stage_command
from pkgkmod.plugins import STAGES, load
from pkgkmod.progress import escape_controls, human_size

HEAVY = {"pydantic", "jinja2", "git", "debian", "rpm", "rich", "elftools", "tomlkit", "importlib_metadata"}


def loaded_by(*args):
    code = (
        "import sys; from pkgkmod.cli import _run; code = _run(sys.argv[1:]);"
        "print('\\n'.join({name.partition('.')[0] for name in sys.modules}), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
    return done.stdout, set(done.stderr.split())


@pytest.mark.parametrize("args", [("--help",), ("--version",), ()])
def test_nothing_heavy_is_imported_to_say_what_there_is(args, monkeypatch):
    if not args:
        monkeypatch.setenv("_PKGKMOD_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", "pkgkmod bu")
        monkeypatch.setenv("COMP_CWORD", "1")
    out, modules = loaded_by(*args)
    assert not HEAVY & modules
    assert {"--help": "Stages, in order", "--version": "pkgkmod 0"}.get(args[0] if args else "", "build_rpm") in out


def test_help_says_of_each_stage_what_the_stage_says():
    assert {name: load(STAGES, name).summary for name in STAGE_SUMMARIES} == STAGE_SUMMARIES


def run(*args, capsys):
    code = cli._run(list(args))
    streams = capsys.readouterr()
    assert "Traceback" not in streams.out + streams.err
    return code, streams.out, streams.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["biuld"], "did you mean 'build'?"),
        (["build_rmp"], "did you mean 'build_rpm'?"),
        (["build_rpm", "--srmp"], "--srpm"),
        (["plan", "build_rmp"], "did you mean 'build_rpm'?"),
    ],
)
def test_near_names(args, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pkgkmod.toml").write_text('[project]\nname = "foo"\n')
    code, _, err = run(*args, capsys=capsys)
    assert code in (2, 16)
    assert said in err


def test_dashes_and_underscores_are_the_same(capsys):
    assert run("prepare-sources", "--help", capsys=capsys)[0] == 0


@pytest.mark.parametrize(
    ("stage", "args", "settings"),
    [
        ("prepare_sources", ["-d", "a b", "-d", "c"], {"source.directories": ["a", "b", "c"]}),
        ("prepare_sources", ["-g", "/repo", "-r", "v6.1"], {"source.repository": "/repo", "source.revision": "v6.1"}),
        ("build_rpm", ["-s", "-e"], {"rpm.srpm_only": True, "source.archive": "kbuild"}),
        ("build_rpm", ["-a", "-g", "2"], {"source.archive": "all", "source.check": "fail"}),
        (
            "build_rpm",
            ["-m", "-r", "el9", "-l", "-O", "--foo", "-A", "--bar"],
            {
                "rpm.builder": "mock",
                "mock.config": "el9",
                "mock.offline": True,
                "mock.options": ["--foo"],
                "mock.more_options": ["--bar"],
            },
        ),
        ("build_iso", ["-i", "x.iso"], {"disk.file": "x.iso"}),
        ("build_modules", ["-j", "3"], {"build.jobs": 3}),
    ],
)
def test_options_of_stages_set_keys(stage, args, settings):
    command = stage_command(stage)
    given = command.make_context(stage, list(args)).params
    assert settings_of(load(STAGES, stage), given) == settings


def test_sizes_as_people_write_them():
    sizes = [0, 1023, 1024, 157 * 1024, 5 * 1024**2 + 300 * 1024, 3 * 1024**4]
    assert [human_size(size) for size in sizes] == ["0 B", "1023 B", "1.0 KiB", "157 KiB", "5.3 MiB", "3072 GiB"]


def test_names_from_outside_cannot_drive_the_terminal():
    assert escape_controls("a\x1b[31mb\u202ec\r") == "a\\x1b[31mb\\u202ec\\r"


def test_programs_are_told_of_errors_too(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("build", "--json", capsys=capsys)
    said = json.loads(out)
    assert (code, said["event"], said["code"]) == (3, "error", 3)
    assert said["brief"] in err
    assert "pkgkmod init" in said["hint"]

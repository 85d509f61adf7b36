"""Questions to kernels: what the project file may say, and the files that are made of it."""

import os
import re
import time

import pytest
from click.testing import CliRunner

from pkgkmod.cachefolder import cache_folder
from pkgkmod.cli import cli
from pkgkmod.cli.probe_command import _print, _print_reasons
from pkgkmod.config.load import load
from pkgkmod.errors import CompileError, ConfigError, SourceError
from pkgkmod.model.probes import Probe
from pkgkmod.modules.probefiles import (
    PROBES_FOLDER,
    PROBES_MAKEFILE,
    answers_header,
    c_texts,
    probe_ingredients,
    read_answers,
    write_probes,
)
from pkgkmod.modules.probes import Answer, _read, _write, prune_answers


def mistake(folder, text):
    """What the user is told of a project file with these lines."""
    file = folder / "pkgkmod.toml"
    file.write_text(f'[project]\nname = "x"\n{text}')
    with pytest.raises(ConfigError) as error:
        load(file)
    return f"{error.value.brief}\n{error.value.details}"


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (
            'HAVE_A]\ncall = "f()"\nincldes = ["a.h"]',
            r":5: probe\.HAVE_A\.incldes: unknown key; did you mean 'includes'",
        ),
        ('HAVE_A]\ncall = "f()"\ntype = "u8"', r":3: probe\.HAVE_A: must have exactly one .*; it has call and type"),
        ("HAVE_A]", r":3: probe\.HAVE_A: must have exactly one of call, .* and config; it has none"),
        ("HAVE_A]\nargs = []", "it has none"),
        ('HAVE_A]\ncall = ""', r":4: probe\.HAVE_A\.call: must be C code"),
        ('have_a]\nconfig = "X"', r":3: probe\.have_a: must be HAVE_ and .* \(given: 'have_a'\)"),
        ('"HAVE_A\\n#include"]\nconfig = "X"', "must be HAVE_"),
        (f'HAVE_{"A" * 60}]\nconfig = "X"', "at most 59"),
        ('HAVE_A]\nconfig = "CONFIG_X"', r"probe\.HAVE_A\.config: .*without CONFIG_"),
        ('HAVE_A]\nincludes = ["x.h>"]\ncall = "f()"', r"probe\.HAVE_A\.includes\[1\]: must be the name of a header"),
        ('HAVE_A]\nheader = "../x.h"', r"probe\.HAVE_A\.header"),
        ('HAVE_A]\ntype = "struct foo *"', "without stars"),
        ('HAVE_A]\nmember = "net_device"', "a type and the name of its member"),
        ('HAVE_A]\nsymbol = "a b"', "name of a function or variable"),
        ('HAVE_A]\nsymbol = "f"\nincludes = ["a.h"]', "'includes' means nothing beside 'symbol'"),
        ('HAVE_A]\ncall = "f()"\ngpl = false', "'gpl' means something beside 'symbol' only"),
        ("HAVE_A]\ncall = 3", "expected text, got the number 3"),
        ('HAVE_A]\ncode = "\\u0007"', "must be C code"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path, table, told):
    assert re.search(told, mistake(tmp_path, f"[probe.{table}\n"))


def test_every_kind_is_read_and_tabs_and_lines_are_kept(tmp_path):
    file = tmp_path / "pkgkmod.toml"
    file.write_text(
        '[project]\nname = "x"\n[probe.HAVE_A]\nargs = ["f(1)", "f(1, 2)"]\nincludes = ["linux/a.h"]\n'
        '[probe.HAVE_B]\ncode = """\nint f(void)\n{\n\treturn 1; // yes\n}\n"""\n'
        '[probe.HAVE_C]\nsymbol = "f"\ngpl = false\n'
    )
    probes = load(file).project.probe
    assert {name: probe.kind for name, probe in probes.items()} == {
        "HAVE_A": "args",
        "HAVE_B": "code",
        "HAVE_C": "symbol",
    }
    assert "\n\treturn 1; // yes\n}" in c_texts(probes["HAVE_B"])[0]
    assert [probe.compiles for probe in probes.values()] == [True, True, False]


def test_a_key_on_the_command_line_reaches_a_probe(tmp_path):
    file = tmp_path / "pkgkmod.toml"
    file.write_text('[project]\nname = "x"\n')
    assert load(file, overrides=["probe.HAVE_PCI.config=PCI"]).project.probe["HAVE_PCI"].config == "PCI"


def test_an_expression_cannot_swallow_what_stands_behind_it():
    (text,) = c_texts(Probe(call="f() // no", includes=("linux/a.h", "linux/b.h")))
    assert text.startswith("#include <linux/a.h>\n#include <linux/b.h>\n")
    assert "\nf() // no\n\t);\n}\n" in text


def test_a_member_is_asked_by_its_value_and_a_type_by_its_size():
    (member,) = c_texts(Probe(member="struct a.b.c"))
    assert "struct a *known = 0;" in member
    assert "(void)known->b.c;" in member
    (kind,) = c_texts(Probe(type="struct a"))
    assert "struct a *known = 0;" in kind
    assert "sizeof(*known)" in kind


def test_files_are_numbered_and_the_list_is_sorted(tmp_path):
    hostile = "$(shell touch pwned)\n#include `id`"
    write_probes(
        {
            "HAVE_C": Probe(config="PCI"),
            "HAVE_Z": Probe(call=hostile),
            "HAVE_A": Probe(args=("f(1)", "f(2)")),
            "HAVE_S": Probe(symbol="f"),
            "HAVE_T": Probe(symbol="f", gpl=False),
        },
        tmp_path,
    )
    asked = tmp_path / PROBES_FOLDER
    assert (asked / "list").read_text().splitlines() == [
        "HAVE_A first 2 3",
        "HAVE_C config PCI",
        "HAVE_S symbol f any",
        "HAVE_T symbol f free",
        "HAVE_Z compile 4",
    ]
    names = {path.name for path in asked.iterdir()}
    assert names == {"0.c", "1.c", "2.c", "3.c", "4.c", "Kbuild", "ask.sh", "answers.awk", "list"}
    assert {p.name for p in tmp_path.rglob("*") if p.is_file() and "pwned" in p.read_text()} == {"4.c"}


def test_questions_with_the_same_headers_are_compiled_together_if_none_can_disturb_the_others(tmp_path):
    safe = ["f(1)", "f(\"a) {;\", 'b')".replace("'", '"'), "a[(1)]", "sizeof(struct x)"]
    others = [
        "f(",
        "f)(",
        "f(]",
        "({ int f; })",
        "f(1); g(2)",
        "f() // x",
        "f() /* x",
        "f()\n#define g",
        'f("a',
        "asm(1)",
    ]
    same = {f"HAVE_{i}": Probe(includes=("linux/a.h",), call=text) for i, text in enumerate(safe + others)}
    same |= {"HAVE_T": Probe(includes=("linux/a.h",), type="struct x"), "HAVE_OTHER": Probe(call="f()")}
    write_probes(same, tmp_path)
    asked = tmp_path / PROBES_FOLDER
    (group,) = asked.glob("*.group")
    parts = {path.stem for path in asked.glob("*.part")}
    assert group.stem not in parts | {path.stem for path in asked.glob("*.c")}
    assert sorted(re.findall(r'#line 1 "question (\d+)"', group.read_text())) == sorted(parts)
    lines = dict(line.split(" compile ") for line in (asked / "list").read_text().splitlines())
    assert parts == {lines[f"HAVE_{i}"] for i in range(len(safe))} | {lines["HAVE_T"]}
    assert group.read_text().count("#include") == 1
    assert len(set(re.findall(r"^void (pkgkmod_probe_\d+)\(void\)$", group.read_text(), re.M))) == len(parts)


def test_without_questions_for_the_compiler_there_is_no_c(tmp_path):
    write_probes({"HAVE_C": Probe(config="PCI")}, tmp_path)
    assert not list(tmp_path.rglob("*.c"))


def test_without_probes_there_is_nothing(tmp_path):
    write_probes({}, tmp_path)
    assert not list(tmp_path.iterdir())
    assert probe_ingredients({}) == {}


@pytest.mark.parametrize("name", [PROBES_FOLDER, PROBES_MAKEFILE])
def test_sources_cannot_bring_a_makefile_of_that_name(tmp_path, name):
    (tmp_path / name).symlink_to("/nonexistent")
    with pytest.raises(SourceError, match=name):
        write_probes({}, tmp_path)


def test_every_key_of_a_probe_changes_the_fingerprint():
    one = {"HAVE_A": Probe(symbol="f")}
    assert probe_ingredients(one) != probe_ingredients({"HAVE_A": Probe(symbol="f", gpl=False)})
    assert probe_ingredients(one) != probe_ingredients({"HAVE_B": Probe(symbol="f")})


def test_the_header_is_read_as_it_was_written(tmp_path):
    text = answers_header("6.1.0-1-amd64", {"HAVE_B": 2, "HAVE_A": 0})
    assert "/* #undef HAVE_A */\n#define HAVE_B 2\n" in text
    file = tmp_path / "config.h"
    file.write_text(text)
    assert read_answers(file, ("HAVE_A", "HAVE_B")) == {"HAVE_A": 0, "HAVE_B": 2}
    with pytest.raises(CompileError, match="HAVE_C"):
        read_answers(file, ("HAVE_C",))


def test_the_table_fits_on_80_columns(capsys):
    names = [f"HAVE_{'A' * n}" for n in (1, 40)]
    found = {f"6.12.{i}+deb12-cloud-amd64": {name: Answer(i % 3, "not so") for name in names} for i in range(1, 20)}
    _print(found, json_lines=False)
    out = capsys.readouterr().out.splitlines()
    assert max(map(len, out)) <= 80
    assert sum(line.startswith("PROBE") for line in out) == 3
    (first, *_) = (line.split() for line in out if line.startswith("HAVE_A "))
    assert first == ["HAVE_A", "1", "2", "-", "1", "2", "-", "1"]
    _print_reasons(found)
    assert "HAVE_A in 6 kernels:\n  not so\n" in capsys.readouterr().out


def test_a_project_without_probes_is_told_how_to_write_one(tmp_path):
    (tmp_path / "pkgkmod.toml").write_text('[project]\nname = "x"\n')
    done = CliRunner().invoke(cli, ["-c", str(tmp_path / "pkgkmod.toml"), "probe"])
    assert "has no probes" in str(done.exception)


def test_answers_that_nobody_used_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache_folder() / "probes"
    folder.mkdir(parents=True)
    ages = {"6.1.0-1-old.json": 100, "6.1.0-2-used.json": 100, "6.1.0-3-new.json": 0, ".6.1.0-4.json.x8": 50}
    for name, days in ages.items():
        _write(folder / name, {"question": Answer(1)})
        os.utime(folder / name, (time.time() - days * 86400,) * 2)
    assert _read(folder / "6.1.0-2-used.json") == {"question": Answer(1)}  # which it has a use of
    listed = prune_answers(unused_for=40 * 86400, dry_run=True)
    assert [file.name for file, size in listed if size] == ["6.1.0-1-old.json", ".6.1.0-4.json.x8"]
    assert len(list(folder.iterdir())) == 4
    shown = CliRunner().invoke(cli, ["kernels", "prune", "-n"]).output
    assert "would remove answers to probes 6.1.0-1-old" in shown
    assert prune_answers(unused_for=40 * 86400) == listed
    assert sorted(file.name for file in folder.iterdir()) == ["6.1.0-2-used.json", "6.1.0-3-new.json"]
    assert len(prune_answers(unused_for=0)) == 2
    assert prune_answers(unused_for=0) == []

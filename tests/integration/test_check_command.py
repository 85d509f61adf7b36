"""`check` as a user meets it: files from anywhere, bad input, and what it says to programs."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.archive_modules import archive_driver
from tests.fixtures.flawedmodules import flawed_modules, kernel_of
from tests.fixtures.machine import need, pkgkmod

OLD = "6.1"


@pytest.fixture(scope="module")
def modules():
    return flawed_modules(kernel_of(OLD))


def put(modules: Path, folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(modules / f"{name}.ko", folder / f"{name}.ko")
    return folder


@pytest.mark.parametrize("package", ["acpi-call-dkms", "v4l2loopback-dkms", "jool-dkms"])
def test_drivers_of_the_archive_have_no_errors(package, tmp_path):
    built = archive_driver(package, kernel_of(OLD))
    done = pkgkmod("check", *built.modules, cwd=tmp_path)
    assert done.out.startswith(f"{len(built.modules)} module")
    assert f"for {kernel_of(OLD)}: no errors, " in done.out and "-v shows them" in done.out
    assert len(done.out.splitlines()) == 1, "notes are counted, not printed"


def test_the_module_of_dahdi_whose_symbols_nobody_exports_is_named(tmp_path):
    built = archive_driver("dahdi-dkms", kernel_of(OLD))
    done = pkgkmod("check", *built.modules, "--json", cwd=tmp_path, code=23)
    worse = [event for event in done.events if event["event"] == "finding" and event["severity"] != "note"]
    assert [(event["code"], Path(str(event["subject"])).name) for event in worse] == [
        ("KMOD030", "dahdi_echocan_oslec.ko")
    ]
    assert "oslec_create (nobody exports it)" in str(worse[0]["text"])


def test_siblings_and_named_drivers_export_what_a_module_needs(tmp_path):
    jool = {file.name: file for file in archive_driver("jool-dkms", kernel_of(OLD)).modules}
    alone = pkgkmod("check", jool["jool.ko"], cwd=tmp_path, code=23)
    assert "KMOD030" in alone.out and "nobody exports it" in alone.out
    pkgkmod("check", jool["jool.ko"], "--with", jool["jool_common.ko"], cwd=tmp_path)


def test_findings_stand_below_the_module_that_they_are_about(modules, tmp_path):
    put(modules, tmp_path, "lonely", "home")
    done = pkgkmod("check", "lonely.ko", "home.ko", cwd=tmp_path, code=23)
    assert done.out.splitlines() == [
        "home.ko",
        "  warning KMOD051: the path /home/jane/driver/home.c of somebody's home",
        "    build it with `pkgkmod build`, or with -ffile-prefix-map; debug information can be stripped",
        "lonely.ko",
        f"  error KMOD030: for {kernel_of(OLD)}: nobody_has_this_symbol (nobody exports it)",
        "    package the module that exports it, too, or require its driver ([[requires]], --with)",
        f"2 modules for {kernel_of(OLD)}: 1 error, 1 warning, 4 notes (-v shows them)",
    ]
    assert "pkgkmod check --explain KMOD030" in done.err


def test_ignored_findings_are_not_told_and_do_not_fail(modules, tmp_path):
    put(modules, tmp_path, "lonely")
    done = pkgkmod("check", "lonely.ko", "--ignore", "kmod030", "-v", cwd=tmp_path)
    assert "KMOD030" not in done.out and "no errors" in done.out
    (tmp_path / "pkgkmod.toml").write_text('[project]\nname = "x"\n[check]\nignore = ["KMOD030"]\n')
    assert "no errors" in pkgkmod("check", "lonely.ko", cwd=tmp_path).out


@pytest.mark.parametrize("pack", ["xz", "gz", "zst"])
def test_compressed_modules_are_read(pack, modules, tmp_path):
    content = (put(modules, tmp_path, "lonely") / "lonely.ko").read_bytes()
    file = tmp_path / f"lonely.ko.{pack}"
    if pack == "zst":
        need("zstd")
        subprocess.run(["zstd", "-q", tmp_path / "lonely.ko", "-o", file], check=True)
    else:
        file.write_bytes(lzma.compress(content, check=lzma.CHECK_CRC32) if pack == "xz" else gzip.compress(content))
    done = pkgkmod("check", file.name, "--json", cwd=tmp_path, code=23)
    (module,) = [event for event in done.events if event["event"] == "checked-module"]
    assert (module["name"], module["compression"]) == ("lonely", {"gz": "gzip", "zst": "zstd"}.get(pack, pack))
    assert module["kernel"] == kernel_of(OLD) and module["license"] == "GPL" and module["version"] == "1.0"


def test_a_kernel_that_is_not_here_is_a_note(modules, tmp_path):
    put(modules, tmp_path, "fine")
    done = pkgkmod("check", "fine.ko", "--kernel", "6.1.0-1-nowhere", "-v", cwd=tmp_path)
    assert "note KMOD070: neither what it exports nor how it was configured is known" in done.out
    assert done.out.endswith("no errors, 1 note; not here: 6.1.0-1-nowhere\n")


def test_a_module_may_be_checked_against_another_kernel(modules, tmp_path):
    put(modules, tmp_path, "fine")
    done = pkgkmod("check", "fine.ko", "--kernel", kernel_of("6.12"), cwd=tmp_path, code=23)
    assert "KMOD031" in done.out


def test_what_is_damaged_is_told_and_the_others_are_checked(modules, tmp_path):
    put(modules, tmp_path, "fine", "home")
    (tmp_path / "cut.ko.xz").write_bytes(lzma.compress((tmp_path / "fine.ko").read_bytes())[:500])
    (tmp_path / "empty.ko").touch()
    (tmp_path / "text.ko").write_text("no module at all\n")
    done = pkgkmod("check", ".", cwd=tmp_path, code=23)
    assert done.out.count("error KMOD001") == 3 and "KMOD051" in done.out
    assert "2 modules for" in done.out


def test_names_do_not_drive_the_terminal_nor_break_the_documents(modules, tmp_path):
    name = "a\x1b]0;x\x07\n{0} [b](c)%20é.ko"
    put(modules, tmp_path, "lonely")
    (tmp_path / "lonely.ko").rename(tmp_path / name)
    done = pkgkmod("check", ".", "--sarif", "out.sarif", cwd=tmp_path, code=23)
    assert "\x1b" not in done.out + done.err
    text = (tmp_path / "out.sarif").read_text()
    assert "\x1b" not in text and "\\u001b" not in text
    results = json.loads(text)["runs"][0]["results"]
    location = results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert location == "a%1B%5D0%3Bx%07%0A%7B0%7D%20%5Bb%5D%28c%29%2520%C3%A9.ko"


def test_file_names_that_are_no_text_are_shown_escaped(modules, tmp_path):
    put(modules, tmp_path, "lonely")
    (tmp_path / "lonely.ko").rename(tmp_path / os.fsdecode(b"\xff\xfe.ko"))
    for more in ((), ("--json",), ("--sarif", "out.sarif")):
        pkgkmod("check", ".", *more, cwd=tmp_path, code=23)
    assert "%FF%FE.ko" in (tmp_path / "out.sarif").read_text()


def test_sarif_names_the_rules_of_its_results_and_is_the_same_each_time(modules, tmp_path):
    put(modules, tmp_path, "lonely", "home", "fine")
    pkgkmod("check", ".", "--sarif", "one.sarif", cwd=tmp_path, code=23)
    pkgkmod("check", ".", "--sarif", "two.sarif", cwd=tmp_path, code=23)
    assert (tmp_path / "one.sarif").read_bytes() == (tmp_path / "two.sarif").read_bytes()
    document = json.loads((tmp_path / "one.sarif").read_text())
    (run,) = document["runs"]
    assert document["version"] == "2.1.0"
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] == rules[result["ruleIndex"]]["defaultConfiguration"]["level"]
        assert result["message"]["text"]
    assert {"KMOD030", "KMOD051"} <= {result["ruleId"] for result in run["results"]}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nothing.ko",), 17, "nothing.ko is not there"),
        (("note.txt",), 17, "neither a package nor a module"),
        (("fine.ko", "--ignore", "KMOD999"), 2, "no finding about modules has the code KMOD999"),
        (("--explain", "KMOD03"), 2, "there are: KMOD030, KMOD031"),
        (("--explain", "KMDO030"), 2, "did you mean 'KMOD030'?"),
        (("fine.ko", "--certificate", "note.txt"), 20, "note.txt cannot be used as certificate"),
        (("fine.ko", "--kernel", "a", "--kernel", "b"), 2, "with FILES, there is one --kernel"),
        (("fine.ko", "--target", "el9"), 2, "--target does not go with FILES"),
        (("fine.ko", "--sarif", "no/such/folder"), 17, "no/such/folder cannot be written"),
        ((), 3, "pkgkmod.toml"),
    ],
)
def test_bad_input_is_refused_in_words(words, code, said, modules, tmp_path):
    put(modules, tmp_path, "fine")
    (tmp_path / "note.txt").write_text("x\n")
    done = pkgkmod("check", *words, cwd=tmp_path, code=code)
    assert said in done.err


def test_a_code_is_explained(tmp_path):
    assert pkgkmod("check", "--explain", "kmod030", cwd=tmp_path).out.startswith("KMOD030 (error): Nobody has a symbol")
    (event,) = pkgkmod("check", "--explain", "KMOD030", "--json", cwd=tmp_path).events
    assert (event["event"], event["code"], event["severity"]) == ("code", "KMOD030", "error")

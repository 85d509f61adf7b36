"""What a packager is told when something is wrong: the exit code, what, why, what next."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pkgkmod import cli, programs, sandbox
from tests.fixtures.machine import CHECKOUT, pkgkmod, project

NAP = f"sleep 100.{os.getpid()}"
"""What nobody else on the machine does."""


@pytest.fixture
def ready(tmp_path, hello, kernel):
    """A project of the example driver with its sources imported."""
    return project(tmp_path / "project", hello, kernel)


def edit(folder, old, new):
    path = folder / "pkgkmod.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def results_of(folder, stage):
    return [p.parent for p in (folder / "results" / stage).rglob("result.json")]


def test_no_such_revision(tmp_path, hello, kernel):
    folder = project(tmp_path / "project", hello, kernel, prepare=False)
    before = (folder / "pkgkmod.toml").read_text()
    args = ("-g", hello.repository, "-r", "mian", "-d", hello.directory)
    said = pkgkmod("prepare_sources", *args, cwd=folder, code=4).err
    assert "no revision 'mian'" in said
    assert "main" in said.partition("hint:")[2]
    assert (folder / "pkgkmod.toml").read_text() == before


def test_no_such_directory_at_that_revision(tmp_path, hello, kernel):
    folder = project(tmp_path / "project", hello, kernel, prepare=False)
    before = (folder / "pkgkmod.toml").read_text()
    args = ("-g", hello.repository, "-r", "main", "-d", "drivers/misc/helo")
    said = pkgkmod("prepare_sources", *args, cwd=folder, code=4).err
    assert "drivers/misc/helo" in said
    assert "drivers/misc/hello" in said.partition("hint:")[2]
    assert (folder / "pkgkmod.toml").read_text() == before


def test_an_empty_folder_needs_little_to_become_a_project(tmp_path, hello):
    pkgkmod("prepare_sources", "-g", hello.repository, "-d", "drivers/misc/nothere", cwd=tmp_path, code=4)
    assert not (tmp_path / "pkgkmod.toml").exists()
    pkgkmod("prepare_sources", "-g", hello.repository, "-d", hello.directory, "-M", 9, "-m", 4, cwd=tmp_path)
    text = (tmp_path / "pkgkmod.toml").read_text()
    assert f'revision = "{hello.commit}"' in text
    assert 'distro = "el9"\nminor = 4' in text


def test_no_kernel_build_tree(ready, kernel):
    edit(ready, f'"{kernel}"', '"6.1.0-999-amd64"')
    said = pkgkmod("build", cwd=ready, code=6).err
    assert "kernel build tree 6.1.0-999-amd64 not found" in said
    assert kernel in said.partition("hint:")[2]


TELL_LOUD = '#if IS_ENABLED(CONFIG_HELLO_LOUD)\nMODULE_INFO(loud, "yes");\n#endif\n'


@pytest.fixture
def odd_kernel(tmp_path, kernel):
    """Change a copy of the kernel's build tree; the headers it includes stay where they are."""

    def make(**options):
        tree = tmp_path / "tree"
        original = Path("/lib/modules", kernel, "build").resolve()
        shutil.copytree(original, tree, symlinks=True)
        for link in [path for path in tree.iterdir() if path.is_symlink()]:
            link.unlink()
            link.symlink_to((original / link.name).resolve())
        for name in (".config", "include/config/auto.conf"):
            text = (tree / name).read_text()
            for option, value in options.items():
                text = re.sub(rf"^CONFIG_{option}=.*\n", "", text, flags=re.M)
                text += f"CONFIG_{option}={value}\n" if value else ""
            (tree / name).write_text(text)
        header = tree / "include/generated/autoconf.h"
        lines = header.read_text()
        for option, value in options.items():
            lines += {"y": f"#define CONFIG_{option} 1\n", "m": f"#define CONFIG_{option}_MODULE 1\n"}.get(value, "")
        header.write_text(lines)
        release = tree / "include/generated/utsrelease.h"
        release.write_text('#define UTS_RELEASE "6.1.0-1-odd"\n')
        return tree

    return make


def use_tree(folder, tree, kernel):
    edit(folder, f'"{kernel}"', '"6.1.0-1-odd"')
    with (folder / "pkgkmod.toml").open("a") as file:
        file.write(f'\n[plugin.folder]\npaths = ["{tree}"]\n')


def test_the_compiler_is_not_the_kernels(ready, kernel, odd_kernel):
    tree = odd_kernel(GCC_VERSION="40800")
    use_tree(ready, tree, kernel)
    said = pkgkmod("build", cwd=ready, code=7).err
    assert "6.1.0-1-odd was built with gcc 4" in said
    assert "any_compiler" in said
    assert not results_of(ready, "build_modules")
    pkgkmod("build_modules", "--any-compiler", cwd=ready)


@pytest.mark.parametrize("value", ["y", "m", ""])
def test_make_and_compiler_agree_whatever_the_kernel_was_configured_with(ready, kernel, odd_kernel, value):
    tree = odd_kernel(HELLO=value, HELLO_LOUD="y" if value == "y" else "")
    use_tree(ready, tree, kernel)
    break_source(ready, "#if !IS_MODULE(CONFIG_HELLO) || defined(CONFIG_HELLO)\n#error disagrees\n#endif\n" + TELL_LOUD)
    pkgkmod("build_modules", cwd=ready)
    (module,) = (ready / "results").glob("build_modules/*/*/*/hello.ko")
    loud = {event["name"]: event for event in pkgkmod("kconfig", "--json", cwd=ready).events}["HELLO_LOUD"]
    assert (loud["value"], loud["origin"]) == (("y", "kernel") if value == "y" else ("n", "not set"))
    assert (b"loud=yes" in module.read_bytes()) == (value == "y")


def test_the_projects_options_reach_the_compiler(ready):
    edit(ready, "[kconfig]", "[kconfig]\nHELLO_LOUD = true")
    break_source(ready, TELL_LOUD)
    pkgkmod("build_modules", cwd=ready)
    (module,) = (ready / "results").glob("build_modules/*/*/*/hello.ko")
    assert b"loud=yes" in module.read_bytes()


def break_source(folder, text="int broken(void) { return no_such_thing; }\n"):
    (source,) = (folder / "results").glob("prepare_sources/*/*/*/tree/drivers/misc/hello/main.c")
    source.write_text(source.read_text() + text)


@pytest.mark.parametrize("way", [(), ("--from-source",)])
def test_a_compile_error_is_on_top_and_the_log_is_there(ready, way):
    break_source(ready)
    said = pkgkmod("build_rpm", *way, cwd=ready, code=8).err
    assert re.search(r"error: .*do not compile.*\n  .*main\.c:\d+:\d+: error: .no_such_thing. undeclared", said)
    log = ready / said.rpartition("log: ")[2].strip()
    assert "no_such_thing" in log.read_text()
    assert not list((ready / "results").rglob("*.rpm"))


def test_edited_sources_are_built_with_a_warning_refused_or_silently(ready):
    break_source(ready, "/* an edit */\n")
    assert "warning: prepare_sources: edited by hand" in pkgkmod("build_modules", cwd=ready).err
    assert "main.c" in pkgkmod("prepare_sources", "--check", cwd=ready).out
    assert "warning" not in pkgkmod("build_rpm", "-g", "0", cwd=ready).err
    said = pkgkmod("build_rpm", "-g", "2", cwd=ready, code=14).err
    assert "edited by hand" in said
    pkgkmod("prepare_sources", "--check", "-C", 'source.check="fail"', cwd=ready, code=14)
    pkgkmod("prepare_sources", "--force", cwd=ready)
    assert pkgkmod("prepare_sources", "--check", cwd=ready).out.startswith("the imported files are those of")
    (aside,) = (ready / "results").glob("prepare_sources/*/*/*.edited-*/tree/drivers/misc/hello/main.c")
    assert "an edit" in aside.read_text()


def test_an_edited_spec_is_used_and_made_anew_on_request(ready):
    pkgkmod("generate_spec", cwd=ready)
    (spec,) = (ready / "results").glob("generate_spec/*/*/*/*.spec")
    spec.write_text(spec.read_text().replace("License: ", "Group: Special\nLicense: "))
    pkgkmod("build_rpm", cwd=ready)
    (rpm,) = (ready / "results").rglob("*x86_64.rpm")
    query = ["rpm", "-qp", "--qf", "%{GROUP}", str(rpm)]
    assert subprocess.run(query, capture_output=True, text=True, check=True).stdout == "Special"
    pkgkmod("build_rpm", "-G", cwd=ready)
    (spec,) = (p for p in (ready / "results").glob("generate_spec/*/*/*/*.spec") if ".edited" not in str(p))
    assert "Special" not in spec.read_text()


@pytest.mark.parametrize("name", ["a%b", "a$b", "a b", "a\nb", "../b", "$(id)", "-x", "é", ""])
def test_a_project_name_that_could_do_harm(tmp_path, name):
    pkgkmod("init", f"--name={name}", cwd=tmp_path, code=3 if name else 2)
    assert not list(tmp_path.iterdir())
    escaped = name.replace("\n", "\\n")
    (tmp_path / "pkgkmod.toml").write_text(f'[project]\nname = "{escaped}"\n[[target]]\ndistro = "el9"\n')
    said = pkgkmod("build", cwd=tmp_path, code=3).err
    assert "pkgkmod.toml:2: project.name" in said
    assert not (tmp_path / "results").exists()


def test_a_tool_that_is_not_installed_is_named_with_its_package(ready, monkeypatch, capsys):
    which = shutil.which
    monkeypatch.setattr(
        programs.shutil, "which", lambda name, path=None: None if name == "xorriso" else which(name, path=path)
    )
    monkeypatch.chdir(ready)
    assert cli._run(["build_iso"]) == 9
    said = capsys.readouterr().err
    assert "the program 'xorriso', needed for driver disks, is not installed" in said
    assert "xorriso" in said.partition("hint:")[2]


@pytest.fixture
def unwrapped(ready, monkeypatch):
    """A machine that allows no namespaces."""
    monkeypatch.chdir(ready)
    refusing = ["/bin/sh", "-c", "echo namespaces are forbidden >&2; exit 1"]
    monkeypatch.setattr(sandbox, "_wrapper", lambda root: refusing)
    for kept in (sandbox.check_sandbox, sandbox.isolation):
        kept.cache_clear()
    yield
    for kept in (sandbox.check_sandbox, sandbox.isolation):
        kept.cache_clear()


def test_no_isolation_is_refused_with_the_reason_unless_told(capsys, unwrapped):
    assert cli._run(["build_modules"]) == 11
    said = capsys.readouterr().err
    assert "namespaces are forbidden" in said
    assert "--no-sandbox" in said
    assert cli._run(["build_modules", "--no-sandbox"]) == 0


def test_a_build_root_without_isolation_compiles_in_place_and_says_so(ready, monkeypatch, capsys, tmp_path, unwrapped):
    """A stand-in for a farm's root: its mark at the top is a file of the test's."""
    (tmp_path / ".buildenv").touch()
    monkeypatch.setattr(sandbox, "_THROW_AWAY", {str(tmp_path / ".buildenv"): "an OBS build root"})
    assert cli._run(["build"]) == 0
    said = capsys.readouterr().err
    assert said.count("this is an OBS build root that allows no isolation (namespaces are forbidden)") == 1
    assert "compiled in place" in said
    assert results_of(ready, "build_deb")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_full_disk_loses_nothing(ready, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], check=True)
    try:
        said = pkgkmod("build", cwd=ready, code=10, TMPDIR=str(small)).err
        assert "no space left on the disk" in said
        assert not results_of(ready, "build_rpm")
    finally:
        subprocess.run(["umount", str(small)], check=True)
    pkgkmod("build", cwd=ready)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_an_interrupted_build_leaves_nothing_half_done(ready, number, code):
    break_source(ready, '#include "/dev/stdin"\n')  # reading what never comes: the compiler hangs
    (makefile,) = (ready / "results").glob("prepare_sources/*/*/*/tree/drivers/misc/hello/Makefile")
    good = makefile.read_text()
    makefile.write_text(f"{good}$(shell echo $$PPID; {NAP})\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "pkgkmod", "build"],
        cwd=ready,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for _ in range(600):
        if any(NAP in words for words in command_lines()):
            break
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert b"Traceback" not in said
    for _ in range(100):
        if not any(NAP in words for words in command_lines()):
            break
        time.sleep(0.05)
    assert not any(NAP in words for words in command_lines()), "no child is left"
    assert not results_of(ready, "build_modules")
    makefile.write_text(good)
    main = makefile.parent / "main.c"
    main.write_text(main.read_text().replace('#include "/dev/stdin"\n', ""))
    pkgkmod("build", cwd=ready)
    assert not list((ready / "results").glob(".partial/*"))


def command_lines():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue

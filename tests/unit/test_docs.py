"""The documentation: generated pages are fresh, every key, code and dependency is in it, and links lead somewhere."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from pkgkmod import farms, plugins
from pkgkmod.cli import COMMANDS, STAGE_SUMMARIES, cli
from pkgkmod.data import load
from pkgkmod.data.distros import known_distros
from pkgkmod.errors import ExitCode
from pkgkmod.model.project import Project

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def headings(page):
    return {line.lstrip("# ") for line in (DOCS / page).read_text("utf-8").splitlines() if line.startswith("#")}


def test_generated_pages_are_fresh():
    done = subprocess.run(
        [sys.executable, ROOT / "script/docs", "--check"], capture_output=True, text=True, check=False
    )
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


def test_a_stale_page_is_named(tmp_path):
    (tmp_path / "script").mkdir()
    script = tmp_path / "script" / "docs"
    script.write_text((ROOT / "script/docs").read_text("utf-8"))
    run = [sys.executable, script]
    subprocess.run(run, check=True, capture_output=True)
    assert (tmp_path / "docs/man/pkgkmod.1").read_text("utf-8").startswith('.\\" Made by')
    (tmp_path / "docs/reference/exit-codes.md").write_text("old")
    (tmp_path / "docs/man/pkgkmod-gone.1").write_text("gone")
    done = subprocess.run([*run, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "stale: docs/man/pkgkmod-gone.1",
        "stale: docs/reference/exit-codes.md",
        "run script/docs",
    ]


def test_every_key_command_and_distribution_has_its_heading():
    found = headings("reference/project-file.md")
    assert set(Project.model_fields) <= found
    assert {"project.name", "target.kernels", "source.directories", "module.directory", "disk.label"} <= found
    assert {f"pkgkmod {name}" for name in (*COMMANDS, *STAGE_SUMMARIES)} <= headings("reference/commands.md")
    assert set(known_distros()) <= headings("reference/distributions.md")


def test_every_exit_code_has_its_meaning():
    text = (DOCS / "reference/exit-codes.md").read_text("utf-8")
    for code in ExitCode:
        assert re.search(rf"^\| {code.value} \| {code.name} \| \w.+\. ?.* \|$", text, re.MULTILINE), code


def test_every_dependency_has_its_reason():
    text = (DOCS / "dependencies.md").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    rows = set(re.findall(r"^\| ([\w-]+) \|", text, re.MULTILINE))
    assert {re.split("[<>=]", one)[0] for one in wanted} <= rows


def test_every_program_that_is_named_to_users_is_in_the_list():
    text = (DOCS / "dependencies.md").read_text("utf-8")
    covered = {"bwrap": "bubblewrap", "dh": "debhelper", "strip": "binutils"}
    needless = {
        "depmod",
        "fakeroot",
        "patch",
    }  # in the data for plugins' and templates' sake; pkgkmod does not run them
    for name in set(load("tools.toml")["packages"]) - needless:
        assert covered.get(name, name) in text, name
    # What the makefiles of source packages call, wherever those are built.
    assert "awk " in (ROOT / "pkgkmod/data/build/pkgkmod-probes.mk").read_text("utf-8")
    assert re.search(r"^\| awk \(mawk .*\|$", text, re.MULTILINE)


def test_tables_with_names_of_their_own_are_headed_so():
    text = (DOCS / "reference/project-file.md").read_text("utf-8")
    assert "\n`[probe.NAME]`: " in text and "\n`[plugin.NAME]`: " in text
    assert "\n`[kconfig]`: " in text and "\n`[[target]]`: " in text


def test_the_readme_leads_to_what_there_is():
    text = (ROOT / "README.md").read_text("utf-8")
    for page in ("probes", "sbom", "sign", "lock", "several-kernels", "driver-disks"):
        assert f"](docs/how-to/{page}.md)" in text, page


@pytest.mark.parametrize("page", sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md")))
def test_links_lead_somewhere(page):
    text = (DOCS / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (DOCS / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", sorted(p.name for p in (DOCS / "man").glob("*.[15]")))
def test_man_pages_hold_nothing_that_roff_would_take_for_its_own(page):
    for line in (DOCS / "man" / page).read_text("utf-8").splitlines():
        assert not line.startswith("'")
        assert not line.startswith(".") or re.match(r"\.(\\\"|TH |SH |TP$|PP$|br$|B )", line), line


def test_every_key_stands_in_the_manual_of_the_project_file():
    text = (DOCS / "man/pkgkmod.toml.5").read_text("utf-8")
    for name, field in Project.model_fields.items():
        table = {"probe": "[probe.NAME]", "plugin": "[plugin.NAME]"}.get(name, f"[{name}]")
        assert f".SH {table}\n" in text or f".SH [{table}]\n" in text
        for model in (field.annotation, *getattr(field.annotation, "__args__", ())):
            for key in getattr(model, "model_fields", ()):
                assert f".B {key}\n" in text, key


@pytest.mark.parametrize(
    "protocol",
    [plugins.Stage, plugins.Builder, farms.Farm, farms.FarmSession, plugins.KernelSource, plugins.Option],
)
def test_every_member_of_a_plugin_is_in_the_reference(protocol):
    text = (DOCS / "reference/plugins.md").read_text("utf-8")
    section = text.partition(f"## {protocol.__name__}\n")[2] or text
    members = {*vars(protocol), *protocol.__annotations__}
    for name in members:
        if not name.startswith("_"):
            assert re.search(rf"^\| `{name}[`(]", section, re.MULTILINE), name


def commands_in(text):
    """Yield the pkgkmod commands of a page: in code blocks, and in the running text."""
    yield from re.findall(r"^(?:\$ | {4})(pkgkmod .*)$", text, re.MULTILINE)
    for span in re.findall(r"`(pkgkmod [^`]+)`", text):
        yield " ".join(span.split())


def parse(line):
    """Parse a command line as pkgkmod would, without running it."""
    words = shlex.split(line, comments=True)[1:]
    command, context = cli, None
    while True:
        try:
            context = command.make_context(command.name, words, parent=context)
        except click.exceptions.Exit:  # --help
            return
        if not isinstance(command, click.Group):
            return
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        if command.invoke_without_command and not rest:
            return
        _, command, words = command.resolve_command(context, rest)


PAGES = [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md") if p.name != "commands.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist_and_take_these_options(page):
    for line in commands_in(page.read_text("utf-8")):
        if "COMMAND" not in line:
            parse(line)


@pytest.mark.parametrize("line", ["pkgkmod biuld", "pkgkmod build --swiftly", "pkgkmod --swiftly build"])
def test_a_wrong_command_is_noticed(line):
    assert list(commands_in(f"    {line}\n\n`{line}`\n")) == [line, line]
    with pytest.raises(click.UsageError):
        parse(line)

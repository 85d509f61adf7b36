"""A stage and a layout from a package of somebody else's: found, run, and given options and settings."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.fixtures.machine import CHECKOUT, need, pkgkmod, project

STAGE = """
from pydantic import BaseModel, ConfigDict
from pkgkmod.model.artifacts import Artifact, ModuleSet
from pkgkmod.plugins import Option


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    greeting: str = "hello"
    loud: bool = False


class Sizes(Artifact):
    text: str


class SizeReport:
    name = "size_report"
    version = 1
    summary = "Write down how large the modules are."
    scope = "project"
    produces = "size_report"
    in_build = True
    options = (Option(("--loud",), "plugin.size_report.loud", "Shout.", value=True),)

    def consumes(self, project):
        return ("module_set",)

    def applies(self, unit):
        return True

    def on_edit(self, project):
        return None

    def ingredients(self, unit):
        return self._settings(unit).model_dump()

    def run(self, work):
        settings = self._settings(work.unit)
        modules = [m for result in work.inputs["module_set"] for m in result.load(ModuleSet).modules]
        text = f"{settings.greeting}: " + ", ".join(f"{m.name} {m.size}" for m in modules)
        text = text.upper() if settings.loud else text
        (work.folder / "sizes.txt").write_text(text)
        return Sizes(text=text)

    def _settings(self, unit):
        return Settings.model_validate(unit.project.plugin.get(self.name, {}))
"""

LAYOUT = """
import shutil
from pkgkmod.model.finding import Finding


class Tower:
    name = "tower"
    title = "Tower's installer"
    format = "rpm"
    carriers = ("iso",)

    def write(self, releases, draft):
        folder = draft.folder / "tower"
        folder.mkdir()
        for release in releases:
            for package in release.packages:
                shutil.copyfile(package.path, folder / package.path.name)

    def check(self, releases, disk):
        yield Finding(code="TOWER1", severity="note", subject="tower", text="it is high", cure="")

    def kernels(self, package):
        return package.kernels

    def recognize(self, listing):
        return ()

    def instructions(self, releases, files):
        return f"Put {files['iso'][0]} on top."
"""


@pytest.fixture
def with_plugin(tmp_path):
    """A folder for PYTHONPATH that holds the installed plugin, and a broken one."""
    source = tmp_path / "plugin"
    source.mkdir()
    (source / "size_report.py").write_text(STAGE)
    (source / "tower.py").write_text(LAYOUT)
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "pkgkmod-size-report"\nversion = "1"\n'
        '[project.entry-points."pkgkmod.stages"]\nsize_report = "size_report:SizeReport"\n'
        '[project.entry-points."pkgkmod.layouts"]\ntower = "tower:Tower"\n'
        '[tool.hatch.build.targets.wheel]\ninclude = ["size_report.py", "tower.py"]\n'
    )
    place = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(place), str(source)]
    subprocess.run(pip, check=True, capture_output=True)
    return f"{CHECKOUT}:{place}"


def test_a_third_partys_stage(tmp_path, hello, kernel, with_plugin):
    folder = project(tmp_path / "project", hello, kernel)
    with (folder / "pkgkmod.toml").open("a") as file:
        file.write('\n[plugin.size_report]\ngreeting = "sizes"\n')

    def run(*args, code=0):
        return pkgkmod(*args, cwd=folder, code=code, PYTHONPATH=with_plugin)

    assert "size_report" in run("--help").out
    assert "--loud" in run("size_report", "--help").out
    run("size_report")
    (report,) = (folder / "results").glob("size_report/*/*/*/sizes.txt")
    assert report.read_text().startswith("sizes: hello ")
    run("size-report", "--loud")
    texts = {path.read_text().split()[0] for path in (folder / "results").glob("size_report/*/*/*/sizes.txt")}
    assert texts == {"sizes:", "SIZES:"}
    assert "SKIP  size_report" in run("plan").out
    assert "RUN   build_rpm" in run("plan").out


def test_a_third_partys_layout_shares_the_disk(tmp_path, hello, kernel, with_plugin):
    need("xorriso")
    folder = project(tmp_path / "project", hello, kernel)
    with (folder / "pkgkmod.toml").open("a") as file:
        file.write('\n[disk]\nlayouts = ["tower"]\n')
    done = pkgkmod("build_iso", cwd=folder, PYTHONPATH=with_plugin)
    assert "TOWER1 tower: it is high" in done.err
    assert "Tower's installer" in done.out
    assert "Put hello-1.0.iso on top." in done.out
    (image,) = folder.glob("results/build_iso/_/_/*/hello-1.0.iso")
    find = ["xorriso", "-indev", str(image), "-find", "/", "-name", "*.rpm"]
    found = subprocess.run(find, check=True, capture_output=True, text=True).stdout
    (rpm,) = folder.glob("results/build_rpm/**/*x86_64.rpm")
    assert {f"'/tower/{rpm.name}'", f"'/rpms/x86_64/{rpm.name}'"} <= set(found.split())
    # Without the plugin, it is missed.
    assert "no layout is called 'tower'" in pkgkmod("build_iso", "--force", cwd=folder, code=16).err


def test_settings_of_a_plugin_that_is_not_there_are_a_warning(tmp_path, hello, kernel):
    folder = project(tmp_path / "project", hello, kernel)
    with (folder / "pkgkmod.toml").open("a") as file:
        file.write("\n[plugin.foldre]\npaths = []\n")
    assert "warning: plugin.foldre: no plugin of that name; did you mean 'folder'?" in pkgkmod("plan", cwd=folder).err


def test_a_broken_plugin_is_an_error_not_a_traceback(tmp_path, hello, kernel, with_plugin):
    folder = project(tmp_path / "project", hello, kernel)
    (module,) = Path(with_plugin.rpartition(":")[2]).glob("size_report.py")
    module.write_text("raise RuntimeError('oh no')\n")
    shutil.rmtree(module.parent / "__pycache__", ignore_errors=True)
    said = pkgkmod("size_report", cwd=folder, code=16, PYTHONPATH=with_plugin).err
    assert "the stage 'size_report' cannot be loaded: RuntimeError: oh no" in said


def test_the_wheel_has_all_it_needs(tmp_path, hello, kernel):
    """Built and installed as a user would, away from the checkout."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(CHECKOUT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", str(wheel)], check=True, capture_output=True)
    folder = project(tmp_path / "project", hello, kernel)

    def installed(*args):
        command = [tmp_path / "venv/bin/pkgkmod", *args]
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout

    assert installed("--version").startswith("pkgkmod ")
    installed("generate_spec")
    installed("generate_debian")
    installed("build_rpm")
    assert "report.html: 1 kernel, 1 module" in installed("report")
    place = subprocess.run(
        [python, "-c", "from pkgkmod.templates import built_in; print(built_in('spec-templates'))"],
        check=True, capture_output=True, text=True, cwd=folder,
    ).stdout  # fmt: skip
    assert str(tmp_path) in place
    assert len(list((folder / "results").rglob("*.rpm"))) == 2

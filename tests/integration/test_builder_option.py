"""--builder: another builder than the project file names, for one run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.machine import hello, need, pkgkmod

PROJECT = """
[project]
name = "hello"
[source]
repository = "{repository}"
revision = "{commit}"
directories = ["{directory}"]
{more}"""
TARGET = """
[[target]]
distro = "{distro}"
kernels = ["{kernel}"]
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory):
    return hello(tmp_path_factory.mktemp("driver") / "git")


@pytest.fixture
def project(driver, kernel: str, tmp_path: Path):
    def make(*distros: str, more: str = "") -> Path:
        facts = {"repository": driver.repository, "commit": driver.commit, "directory": driver.directory}
        text = PROJECT.format(**facts, more=more) + "".join(TARGET.format(distro=d, kernel=kernel) for d in distros)
        (tmp_path / "pkgkmod.toml").write_text(text)
        return tmp_path

    return make


def planned(folder: Path, *words: str) -> set[tuple[str, str]]:
    events = pkgkmod("--json", *words, cwd=folder).events
    return {(str(one["stage"]), str(one["target"])) for one in events if one["event"] == "plan"}


def test_a_builder_of_one_format_leaves_the_other_targets_to_theirs(project) -> None:
    need("sbuild", "mmdebstrap")
    folder = project("debian12", "el9")
    said = pkgkmod("plan", "build_deb", "build_rpm", "--builder", "sbuild", cwd=folder)
    assert "sbuild makes DEBs only; the RPMs of el9 are made by local, as the project says" in said.err
    # The DEBs are compiled in sbuild's root: modules are built here for the RPMs alone.
    assert ("build_modules", "_") in planned(folder, "plan", "build_deb", "build_rpm", "--builder", "sbuild")
    assert ("build_modules", "_") not in planned(folder, "build_deb", "-n", "--builder", "sbuild")
    assert ("build_modules", "_") in planned(folder, "build_deb", "-n")
    only = pkgkmod("plan", "--builder", "sbuild", "--target", "debian12", cwd=folder)
    assert "as the project says" not in only.err
    for command in ("check", "sbom", "build"):
        assert "build_deb debian12" in pkgkmod(command, "-n", "--builder", "sbuild", cwd=folder).out


def test_the_same_is_built_whether_the_option_or_the_project_file_says_it(project) -> None:
    need("bwrap", "make", "rpmbuild")
    folder = project("el9", more='[rpm]\nbuilder = "mock"')
    first = pkgkmod("build_rpm", "--builder", "local", cwd=folder)
    assert "kmod-hello-1.0-1" in first.out
    (folder / "pkgkmod.toml").write_text((folder / "pkgkmod.toml").read_text().replace('"mock"', '"local"'))
    again = pkgkmod("build_rpm", cwd=folder)
    assert "nothing to do: all 4 steps" in again.err


@pytest.mark.parametrize(
    ("words", "complaint", "hint"),
    [
        (("build", "--builder", "sbiuld"), "no builder is called 'sbiuld'", "did you mean 'sbuild'?"),
        (("build", "--builder", "zzz"), "no builder is called 'zzz'", "known: local, mock, sbuild"),
        (("plan", "--builder", "koji"), "'koji' is a build farm", "`pkgkmod submit --builder koji --fetch`"),
        (("build", "--builder", "sbuild", "--target", "el9"), "sbuild makes DEBs", "of el9: --builder local or mock"),
        (("build_rpm", "--builder", "sbuild"), "sbuild makes DEBs", "the RPMs of el9: --builder local or mock"),
        (("build_deb", "--builder", "mock"), "mock makes RPMs", "the DEBs of debian12: --builder local or sbuild"),
        (("check", "x.ko", "--builder", "mock"), "does not go with FILES", "finished packages"),
        (("sign", "x.rpm", "--builder", "mock"), "here none are made", "leave it out"),
        (("build_iso", "x.rpm", "--builder", "mock"), "does not go with FILES", "finished packages"),
        (("build", "--builder", "mock", "--target", "el8"), "no target 'el8'", "did you mean 'el9'?"),
    ],
)
def test_a_builder_that_cannot_be_meant_is_refused_before_anything_is_done(project, words, complaint, hint) -> None:
    folder = project("debian12", "el9")
    done = pkgkmod(*words, cwd=folder, code=2)
    said = " ".join(done.err.split())
    assert complaint in said and hint in said
    assert not (folder / "results").exists()


def test_the_shell_completes_builders_and_for_submit_farms(tmp_path: Path) -> None:
    variables = {"_PKGKMOD_COMPLETE": "bash_complete", "COMP_WORDS": "pkgkmod build --builder ", "COMP_CWORD": "3"}
    assert pkgkmod(cwd=tmp_path, **variables).out.split() == ["plain,local", "plain,mock", "plain,sbuild"]
    variables |= {"COMP_WORDS": "pkgkmod submit --builder ko"}
    assert pkgkmod(cwd=tmp_path, **variables).out.split() == ["plain,koji"]

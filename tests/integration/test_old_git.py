"""An old git, as in long-lived build roots. It is a stand-in: the machine's own, which says that it is older, and
neither knows the options nor sees the variables that came later.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fixtures.http_git import serve
from tests.fixtures.machine import Driver, Finished, hello, need, pkgkmod

# What is used here, and in which version of git it appeared (Documentation/RelNotes of git).
STAND_IN = """#!/bin/sh
later='GIT_CONFIG_COUNT GIT_CONFIG_KEY_[0-9]* GIT_CONFIG_VALUE_[0-9]* GIT_CONFIG_GLOBAL GIT_NO_LAZY_FETCH'
for name in $later; do
    unset $(env | sed -n "s/^\\($name\\)=.*/\\1/p")
done
for word in "$@"; do
    case $word in
    version | --version) echo "git version {version}"; exit 0 ;;
    --show-object-format) echo "$word"; exit 0 ;;
    --no-write-fetch-head | --object-format=* | --filter=tree:0)
        echo "error: unknown option \\`$word'" >&2; exit 129 ;;
    esac
done
exec {git} "$@"
"""


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return hello(tmp_path / "driver")


@pytest.fixture
def project(driver: Driver, kernel: str, tmp_path: Path):
    def make(repository: str, distro: str = "el9") -> Path:
        folder = tmp_path / f"project-{distro}"
        folder.mkdir(exist_ok=True)
        (folder / "pkgkmod.toml").write_text(
            f'[project]\nname = "hello"\n[source]\nrepository = "{repository}"\nrevision = "main"\n'
            f'directories = ["{driver.directory}"]\n[[target]]\ndistro = "{distro}"\nkernels = ["{kernel}"]\n'
        )
        return folder

    return make


@pytest.fixture
def with_git(tmp_path: Path):
    """Run the command where /usr/bin/git is the stand-in."""
    need("bwrap", "git")
    real = shutil.copy2(shutil.which("git") or "", tmp_path / "real-git")

    def run(version: str, *words: str, cwd: Path, code: int = 0) -> Finished:
        stand_in = tmp_path / "git"
        stand_in.write_text(STAND_IN.format(version=version, git=real))
        stand_in.chmod(0o755)
        inside = ("bwrap", "--dev-bind", "/", "/", "--ro-bind", str(stand_in), "/usr/bin/git")
        return pkgkmod(*words, cwd=cwd, code=code, inside=inside)

    return run


@pytest.mark.parametrize(("distro", "stage"), [("el9", "generate_spec"), ("debian12", "generate_debian")])
def test_a_stand_in_for_git_2_18_writes_the_same_recipes_of_a_local_repository(
    driver, project, with_git, distro: str, stage: str
) -> None:
    folder = project(driver.repository, distro)
    with_git("2.18.4", stage, "--offline", cwd=folder)
    old = recipe(folder, stage)
    shutil.rmtree(folder / "results")
    pkgkmod(stage, cwd=folder)
    assert old and recipe(folder, stage) == old


def recipe(folder: Path, stage: str) -> dict[str, bytes]:
    found = folder.glob(f"results/{stage}/*/*/*/**/*")
    return {file.name: file.read_bytes() for file in found if file.is_file() and file.name != "result.json"}


def test_a_stand_in_for_git_1_8_is_refused(driver, project, with_git) -> None:
    done = with_git("1.8.3.1", "prepare_sources", cwd=project(driver.repository), code=9)
    assert "git 1.8 is too old: 2.18 is needed" in done.err


def test_a_stand_in_for_git_2_25_is_refused_for_servers_and_a_folder_named_in_its_place(
    tmp_path, driver, project, with_git
) -> None:
    with serve(tmp_path) as server:
        done = with_git("2.25.1", "prepare_sources", cwd=project(f"{server.url}/driver"), code=9)
        assert server.counts.requests == 0
    assert "git 2.25 is too old: 2.31 is needed" in done.err
    assert "git 2.18 and later read a repository on this machine, given as a folder" in done.err
    with_git("2.25.1", "prepare_sources", cwd=project(driver.repository))


def test_no_git_is_needed_where_the_sources_were_imported_before(driver, project, with_git) -> None:
    folder = project(driver.repository)
    text = (folder / "pkgkmod.toml").read_text().replace('"main"', f'"{driver.commit}"')
    (folder / "pkgkmod.toml").write_text(text)
    pkgkmod("prepare_sources", cwd=folder)
    driver.repository.rename(driver.repository.with_name("gone"))
    with_git("1.8.3.1", "generate_spec", "--offline", cwd=folder)
    assert list(folder.glob("results/generate_spec/*/*/*/*.spec"))

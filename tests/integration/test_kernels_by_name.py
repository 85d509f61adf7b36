"""Recipes and source packages need the names of kernels, not their build trees: a farm has these."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from tests.fixtures.families import family
from tests.fixtures.machine import hello, need, pkgkmod
from tests.fixtures.rpmrepo import EL

KOJI = '[plugin.koji]\nprofile = "nobody"\ntarget = "f43"\n'
NOWHERE = "5.14.0-9999.1.1.el9_9"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose only kernel stands in a repository, and is not here."""
    return family(tmp_path / "project", hello(tmp_path / "driver"), "el9", KOJI)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fetched(cache: Path) -> list[Path]:
    return list((cache / "pkgkmod/kernels").glob("packages/*/*"))


def asking_for(project: Path, *kernels: str) -> None:
    file = project / "pkgkmod.toml"
    file.write_text(file.read_text().replace(f'kernels = ["{EL}"]', f"kernels = {list(kernels)}"))


def srpms(project: Path) -> set[str]:
    found = project.glob("results/build_source/*/*/*/*.src.rpm")
    return {hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


@pytest.mark.parametrize(
    "settings", [(), ("-C", "build.from_source=true"), ("-C", "rpm.builder=koji"), ("-C", "build.sandbox=false")]
)
def test_what_would_be_sent_is_made_without_fetching_kernels(project: Path, cache: Path, settings) -> None:
    said = pkgkmod("submit", "-n", *settings, cwd=project).out
    assert said.startswith("SEND  kmod-hello-1.0-1.k5.14.0_427.13.1.el9_4.el9.src.rpm: build --scratch for f43")
    assert not fetched(cache)


def test_recipes_are_the_same_with_a_kernel_that_is_here_and_without(project: Path, cache: Path) -> None:
    plan = pkgkmod("plan", "build_source", cwd=project).out
    assert "FETCH" not in plan and "not here" not in plan
    pkgkmod("lock", cwd=project)
    pkgkmod("build_source", "--offline", cwd=project)
    without = srpms(project)
    assert len(without) == 1 and not fetched(cache)
    shutil.rmtree(project / "results")
    assert "FETCH" in pkgkmod("plan", "build_rpm", cwd=project).out
    pkgkmod("kernels", "fetch", cwd=project)
    assert fetched(cache)
    pkgkmod("build_source", "-C", "build.reuse=false", cwd=project)
    assert srpms(project) == without


def test_options_of_kernels_are_asked_of_their_build_trees(project: Path, cache: Path) -> None:
    done = pkgkmod("submit", "-n", "-C", 'only.config=["NONESUCH"]', cwd=project, code=6)
    assert "NONESUCH" in done.err and "SEND" not in done.out
    assert fetched(cache)


def test_a_farm_is_given_what_is_named_by_its_release_though_nobody_here_knows_it(project: Path, cache: Path) -> None:
    asking_for(project, EL, f"{NOWHERE}.aarch64")
    done = pkgkmod("submit", "-n", cwd=project)
    assert done.out.count("SEND") == 2
    assert f"kernel {NOWHERE}.aarch64 is in no archive that is known here, and is taken at its word" in done.err
    spec = next(project.glob(f"results/generate_spec/el9/{NOWHERE}.aarch64/*/*.spec")).read_text()
    assert "ExclusiveArch:  aarch64" in spec
    refused = pkgkmod("generate_spec", cwd=project, code=6)
    assert f"kernel build tree {NOWHERE}.aarch64 not found" in refused.err


@pytest.mark.parametrize("wanted", ["5.14.0-9999*", "newest of 4.18.*", "5.14.0..1-1", "nothing"])
def test_what_names_no_kernel_is_an_error_before_anything_is_said_to_be_sent(project: Path, cache, wanted) -> None:
    need("rpmbuild")
    asking_for(project, EL, wanted)
    done = pkgkmod("submit", "-n", cwd=project, code=6)
    assert f"kernel build tree {wanted} not found" in done.err
    assert done.out == ""


def test_one_spec_is_for_one_machine(project: Path, cache: Path) -> None:
    asking_for(project, "6.4.0-150600.23.47-default", "6.4.0-150600.23.47-default-aarch64")
    asking = (project / "pkgkmod.toml").read_text().replace('distro = "el9"', 'distro = "fedora"')
    (project / "pkgkmod.toml").write_text(asking)
    done = pkgkmod("submit", "-n", cwd=project, code=3)
    assert "are for several machines (aarch64, x86_64), and a spec is for one" in " ".join(done.err.split())

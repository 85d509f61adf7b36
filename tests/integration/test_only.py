"""Kernels that a driver is not for: what plan, lock and status say of them, fetched or not.

Small packages stand in for those of kernels that are never fetched here; the index of the archive is a real one.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.fixtures.aptrepo import Archive, signed_by, small
from tests.fixtures.machine import hello, need, pkgkmod, series_and_kernel

KERNELS = ("6.1.0-901-amd64", "6.1.0-901-rt-amd64", "6.12.0-901-amd64")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project for kernels of an archive, none of which is here."""
    need("git", "gpgv", "apt-ftparchive")
    archive = Archive(tmp_path / "debian")
    archive.add(*(small(tmp_path, f"linux-headers-{release}", "6.1-1") for release in KERNELS))
    archive.publish()
    driver = hello(tmp_path / "git")
    place = tmp_path / "project"
    place.mkdir()
    (place / "pkgkmod.toml").write_text(
        f"""
[project]
name = "hello"
[source]
repository = "{driver.repository}"
revision = "{driver.commit}"
directories = ["{driver.directory}"]
[[target]]
distro = "debian12"
kernels = ["*-901-*"]
[plugin.apt]
archives = ["{archive.entry(signed_by())}"]
"""
    )
    return place


def limit(folder: Path, text: str) -> None:
    file = folder / "pkgkmod.toml"
    file.write_text(f"{file.read_text().partition('[only]')[0]}[only]\n{text}\n")


def test_a_plan_checks_what_names_tell_and_says_what_is_checked_later(folder: Path) -> None:
    assert "checked" not in pkgkmod("plan", cwd=folder).out
    limit(folder, 'kernels = ["!*-rt-*"]\nbefore = "6.12"\nconfig = ["PCI"]')
    said = pkgkmod("plan", cwd=folder).out.splitlines()
    (fetched,) = (line for line in said if line.startswith("FETCH"))
    assert fetched.startswith(f"FETCH kernel {KERNELS[0]}: ")
    assert fetched.endswith("; then only.config is checked")
    assert f"SKIP  kernel {KERNELS[1]}: only.kernels is !*-rt-*" in said
    assert f"SKIP  kernel {KERNELS[2]}: only.before is 6.12" in said
    events = pkgkmod("plan", "--json", cwd=folder).events
    assert [event["unchecked"] for event in events if event.get("action") == "FETCH"] == [["only.config"]]


def test_a_lock_pins_no_kernel_that_is_left_out_and_fits_these_limits_alone(folder: Path) -> None:
    limit(folder, 'before = "6.12"')
    said = pkgkmod("lock", cwd=folder)
    assert f"kernel {KERNELS[2]} is left out: only.before is 6.12" in said.err
    lock = tomllib.loads((folder / "pkgkmod.lock").read_text())
    assert {kernel["release"] for kernel in lock["kernel"]} == set(KERNELS[:2])
    assert sorted(lock["target"][0]["kernels"]) == sorted(KERNELS[:2])
    assert "up to date" in pkgkmod("lock", cwd=folder).err
    # With other limits, there would be others.
    limit(folder, 'before = "6.13"')
    assert "[only] was another one when it was made" in pkgkmod("plan", cwd=folder, code=15).err
    pkgkmod("lock", cwd=folder)
    assert len(tomllib.loads((folder / "pkgkmod.lock").read_text())["kernel"]) == 3
    limit(folder, 'machine = "^vax$"')
    nothing = pkgkmod("lock", cwd=folder, code=6)
    assert "the driver is for none of these kernels" in nothing.err
    assert len(tomllib.loads((folder / "pkgkmod.lock").read_text())["kernel"]) == 3


def test_a_lock_without_limits_says_nothing_of_them(folder: Path) -> None:
    pkgkmod("lock", cwd=folder)
    assert "only" not in tomllib.loads((folder / "pkgkmod.lock").read_text())


def test_options_of_kernels_that_are_here_keep_them_out_of_the_lock(folder: Path) -> None:
    need("make")
    _, kernel = series_and_kernel()
    file = folder / "pkgkmod.toml"
    file.write_text(file.read_text().replace('"*-901-*"', f'"{kernel}", "6.1.0-901-amd64"'))
    limit(folder, 'config = ["NO_KERNEL_HAS_THIS"]')
    said = pkgkmod("lock", cwd=folder)
    assert f"kernel {kernel} is left out: the kernel has no CONFIG_NO_KERNEL_HAS_THIS" in said.err
    lock = tomllib.loads((folder / "pkgkmod.lock").read_text())
    assert [one["release"] for one in lock["kernel"]] == ["6.1.0-901-amd64"]


def test_what_was_skipped_is_known_afterwards(folder: Path) -> None:
    need("bwrap", "make")
    _, kernel = series_and_kernel()
    file = folder / "pkgkmod.toml"
    file.write_text(file.read_text().replace('"*-901-*"', f'"{kernel}", "6.12.0-901-amd64"'))
    limit(folder, 'before = "6.12"')
    pkgkmod("build_modules", cwd=folder)
    said = pkgkmod("status", cwd=folder).out.splitlines()
    assert "skipped build_modules 6.12.0-901-amd64: only.before is 6.12" in said
    (event,) = (one for one in pkgkmod("status", "--json", cwd=folder).events if one["kernel"] == "6.12.0-901-amd64")
    assert (event["state"], event["reason"]) == ("excluded", "only.before is 6.12")
    # The same again writes nothing.
    (result,) = folder.glob("results/build_modules/_/6.12.0-901-amd64/*/result.json")
    before = result.stat().st_mtime_ns
    pkgkmod("build_modules", cwd=folder)
    assert result.stat().st_mtime_ns == before
    # It is none of the results that a build has.
    limit(folder, 'before = "6.13"')
    assert "RUN   build_modules 6.12.0-901-amd64: its kernel is not here yet" in pkgkmod("plan", cwd=folder).out

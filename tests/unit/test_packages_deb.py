from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkgkmod.errors import ConfigError, InputError, PackageError
from pkgkmod.formats.deb import Change, read_changelog, read_control, read_deb, write_changelog
from pkgkmod.packages import deb
from pkgkmod.packages.facts import Dependency
from tests.fixtures.packaging import GOLDEN, HOSTILE, check_golden, make_facts, make_job, make_project

KERNELS = {
    "debian12": ("6.1.0-56-amd64", "6.1.0-56-cloud-amd64"),
    "debian13": ("6.12.117+deb13-amd64",),
}


@pytest.mark.parametrize("distro", KERNELS)
def test_golden_debian(distro: str, tmp_path: Path) -> None:
    facts = make_facts(make_job(distro, KERNELS[distro]), ("e1000e", "e1000e-extra"))
    deb.write_debian(facts, tmp_path / "debian", None)
    check_golden(tmp_path, GOLDEN / distro / "example")


@pytest.mark.parametrize("distro", KERNELS)
def test_golden_debian_with_hostile_texts(distro: str, tmp_path: Path) -> None:
    project = make_project(name="e1000e_x", version="6.1.90_rc1", epoch=2, release="3", **HOSTILE)
    facts = make_facts(make_job(distro, KERNELS[distro], project), hostile=True)
    deb.write_debian(facts, tmp_path / "debian", None)
    check_golden(tmp_path, GOLDEN / distro / "hostile")


@pytest.mark.parametrize("folder", sorted(GOLDEN.glob("*/*/debian")), ids=lambda p: f"{p.parts[-3]}-{p.parts[-2]}")
def test_every_golden_debian_is_understood(folder: Path) -> None:
    source, *binaries = read_control(folder / "control")
    (change,) = read_changelog(folder / "changelog")
    assert source["Source"] == change.package
    assert source["Rules-Requires-Root"] == "no"
    assert [b["Package"] for b in binaries] == [
        f"{source['Source']}-{release}" for release in KERNELS[folder.parts[-3]]
    ]
    for binary in binaries:
        for script in ("postinst", "postrm"):
            subprocess.run(["sh", "-n", folder / f"{binary['Package']}.{script}"], check=True)
    subprocess.run(["dpkg-parsechangelog", "-l", folder / "changelog"], check=True, stdout=subprocess.DEVNULL)


def test_what_the_control_file_says(tmp_path: Path) -> None:
    deb.write_debian(make_facts(make_job("debian12", KERNELS["debian12"])), tmp_path / "debian", None)
    source, plain, cloud = read_control(tmp_path / "debian" / "control")
    assert source["Source"] == "e1000e-modules"
    assert "debhelper-compat (= 13)" in source["Build-Depends"]
    assert "linux-headers-6.1.0-56-cloud-amd64 [amd64]" in source["Build-Depends"]
    assert plain["Package"] == "e1000e-modules-6.1.0-56-amd64"
    assert "linux-image-6.1.0-56-amd64 | linux-image-6.1.0-56-amd64-unsigned" in plain["Depends"]
    assert plain["Provides"].startswith("e1000e-modules")
    synopsis = "Driver of Intel's PCI Express gigabit Ethernet controllers"
    assert plain["Description"].startswith(f"{synopsis} (6.1.0-56-amd64)\n The e1000e")
    assert cloud["Description"].startswith(f"{synopsis}\n The e1000e"), "80 characters at most"


def test_changelog_says_where_the_sources_are_from(tmp_path: Path) -> None:
    deb.write_debian(make_facts(make_job("debian13", KERNELS["debian13"])), tmp_path / "debian", None)
    assert read_changelog(tmp_path / "debian" / "changelog") == (
        Change(
            package="e1000e-modules",
            version="6.1.90-1~deb13",
            distribution="trixie",
            author="Jane Packager <jane@example.org>",
            time=1_700_000_000,
            lines=(
                "Import drivers/net/ethernet/intel/e1000e at commit "
                "1f2e3d4c5b6a79880716253443526170f1e2d3c4 (v6.1.90-3-g1f2e3d4c5b6a).",
                "Apply 0001-fix-link-check.patch.",
            ),
        ),
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1), min_size=1))
def test_changelog_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    lines = tuple(" ".join(f"x{text}".split()) for text in texts)
    change = Change("a-modules", "1:1.0+x~y-1", "bookworm", "A B <a@example.org>", 1_600_000_000, lines)
    path = tmp_path_factory.mktemp("changelog") / "changelog"
    write_changelog([change], path)
    assert read_changelog(path) == (change,)


def test_names_and_versions_that_debian_cannot_spell() -> None:
    job = make_job("debian12", ("6.1.0-RC1_x",), make_project(name="my_drv", version="1_2", release="1_1", epoch=3))
    assert deb.source_name(job) == "my-drv-modules"
    assert deb.package_names(job) == {"6.1.0-RC1_x": "my-drv-modules-6.1.0-rc1-x"}
    assert deb.package_version(job) == "3:1.2-1.1~deb12"
    assert deb.archive_name(job) == "my-drv-modules_1.2.orig.tar.xz"


def test_two_kernels_whose_packages_would_be_called_alike() -> None:
    job = make_job("debian12", ("6.1.0-a_b", "6.1.0-A-b"))
    with pytest.raises(PackageError, match=r"6\.1\.0-a_b and 6\.1\.0-A-b"):
        deb.package_names(job)


def test_dependencies() -> None:
    assert deb.spelled(Dependency.parse("debhelper-compat = 13")) == "debhelper-compat (= 13)"
    assert deb.spelled(Dependency.parse("make > 4")) == "make (>> 4)"
    assert deb.spelled(Dependency.parse("make")) == "make"


def test_maintainer_scripts_do_nothing_without_the_kernel(tmp_path: Path) -> None:
    job = make_job("debian12", KERNELS["debian12"][:1])
    deb.write_debian(make_facts(job), tmp_path / "debian", None)
    (tmp_path / "bin").mkdir()
    depmod = tmp_path / "bin" / "depmod"
    depmod.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexit 1\n')
    depmod.chmod(0o755)
    (tmp_path / "kernel").mkdir()

    def run(script: str, action: str) -> str:
        text = (tmp_path / "debian" / f"e1000e-modules-6.1.0-56-amd64.{script}").read_text()
        text = text.replace("/lib/modules/$kernel", f"{tmp_path}/kernel").replace("/boot/", f"{tmp_path}/boot/")
        env = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
        subprocess.run(["sh", "-c", text, script, action], check=True, env=env)
        return (tmp_path / "calls").read_text() if (tmp_path / "calls").exists() else ""

    assert run("postinst", "configure") == "" and run("postrm", "remove") == ""
    (tmp_path / "kernel" / "modules.builtin").touch()
    assert run("postinst", "abort-upgrade") == "" and run("postrm", "purge") == ""
    assert run("postinst", "configure") == "-a 6.1.0-56-amd64\n"
    assert run("postrm", "remove") == "-a 6.1.0-56-amd64\n" * 2


def test_broken_template_is_named(tmp_path: Path) -> None:
    (tmp_path / "rules.j2").write_text("@@{ nothing }@@\n")
    with pytest.raises(ConfigError, match=r"rules\.j2:1"):
        deb.write_debian(make_facts(make_job("debian12", KERNELS["debian12"])), tmp_path / "debian", tmp_path)
    assert deb.template_digest(tmp_path) != deb.template_digest(None)


def test_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("nothing of the kind\n")
    with pytest.raises(InputError, match="not a Debian changelog"):
        read_changelog(tmp_path / "x")
    with pytest.raises(InputError, match="cannot be read as a Debian package"):
        read_deb(tmp_path / "x")

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkgkmod.errors import ConfigError, InputError, PackageError
from pkgkmod.formats.deb import Change, read_changelog, read_control, read_deb, write_changelog
from pkgkmod.model.kernel import KernelOffer, PackageFile
from pkgkmod.model.project import Project
from pkgkmod.packages import deb
from pkgkmod.packages.facts import Dependency, PackageFacts
from tests.fixtures.packaging import GOLDEN, HOSTILE, check_golden, make_facts, make_job, make_project

KERNELS = {
    "debian12": ("6.1.0-56-amd64", "6.1.0-56-cloud-amd64"),
    "debian13": ("6.12.117+deb13-amd64",),
    "ubuntu2204": ("5.15.0-119-lowlatency", "6.8.0-40-generic"),
    "ubuntu2404": ("6.8.0-45-generic", "6.8.0-1015-aws"),
    "ubuntu2604": ("7.0.0-12-generic",),
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
    kernels = [f"{source['Source']}-{release}" for release in KERNELS[folder.parts[-3]]]
    names = [binary["Package"] for binary in binaries]
    assert names[: len(kernels)] == kernels and len(set(names)) == len(names)
    for binary in binaries[: len(kernels)]:
        for script in ("postinst", "postrm"):
            subprocess.run(["sh", "-n", folder / f"{binary['Package']}.{script}"], check=True)
    subprocess.run(["dpkg-parsechangelog", "-l", folder / "changelog"], check=True, stdout=subprocess.DEVNULL)


def test_what_the_control_file_says(tmp_path: Path) -> None:
    deb.write_debian(make_facts(make_job("debian12", KERNELS["debian12"])), tmp_path / "debian", None)
    source, plain, cloud, *_ = read_control(tmp_path / "debian" / "control")
    assert source["Source"] == "e1000e-modules"
    assert "debhelper-compat (= 13)" in source["Build-Depends"]
    assert "linux-headers-6.1.0-56-cloud-amd64 [amd64]" in source["Build-Depends-Arch"]
    assert plain["Package"] == "e1000e-modules-6.1.0-56-amd64"
    assert "linux-image-6.1.0-56-amd64 | linux-image-6.1.0-56-amd64-unsigned" in plain["Depends"]
    assert plain["Provides"] == "e1000e-modules (= ${binary:Version}),\n e1000e-kmod (= ${binary:Version})"
    synopsis = "Driver of Intel's PCI Express gigabit Ethernet controllers"
    assert plain["Description"].startswith(f"{synopsis} (6.1.0-56-amd64)\n The e1000e")
    assert cloud["Description"].startswith(f"{synopsis}\n The e1000e"), "80 characters at most"


# --- further kinds of packages ----------------------------------------------------------------------


def make_kinds(distro: str = "debian12", releases: tuple[str, ...] = (), **tables: Any) -> PackageFacts:
    """Return facts of a project with every kind of package."""
    project = make_project().model_dump(exclude_none=True)
    kinds = {"deb": {"dkms": True, "dbgsym": True}, "devel": {"enabled": True}, "firmware": {"version": "2.0_1"}}
    job = make_job(distro, releases or KERNELS[distro], Project.model_validate({**project, **kinds, **tables}))
    return replace(make_facts(job), firmware=("e1000e/fw.bin",))


@pytest.mark.parametrize("distro", KERNELS)
def test_golden_debian_with_every_kind_of_package(distro: str, tmp_path: Path) -> None:
    deb.write_debian(make_kinds(distro), tmp_path / "debian", None)
    check_golden(tmp_path, GOLDEN / distro / "kinds")


def packages_of(facts: PackageFacts) -> dict[str, dict[str, str]]:
    return {fields["Package"]: fields for fields in deb.control_paragraphs(facts)[1:]}


def test_names_of_all_kinds() -> None:
    made = packages_of(make_kinds())
    assert {name: fields["Architecture"] for name, fields in made.items()} == {
        "e1000e-modules-6.1.0-56-amd64": "amd64",
        "e1000e-modules-6.1.0-56-cloud-amd64": "amd64",
        "e1000e-modules-amd64": "amd64",
        "e1000e-modules-cloud-amd64": "amd64",
        "e1000e-dkms": "all",
        "e1000e-modules-dev": "amd64",
        "e1000e-firmware": "all",
    }
    assert "e1000e-firmware (>= 2.0.1-1~deb12)" in made["e1000e-modules-6.1.0-56-amd64"]["Depends"]
    # Programs may depend on either.
    assert made["e1000e-dkms"]["Provides"] == made["e1000e-modules-6.1.0-56-amd64"]["Provides"]


def test_meta_packages_follow_the_newest_kernel_of_each_flavour_and_series() -> None:
    releases = ("6.1.0-100-amd64", "6.1.0-99-amd64", "6.12.9+deb12-amd64", "6.12.10+deb12-amd64", "6.1.0-99-rt-amd64")
    made = packages_of(make_kinds("debian12", releases))
    metas = {name: fields for name, fields in made.items() if "Recommends" in fields}
    assert {name: (fields["Depends"].split(" ")[0], fields["Recommends"]) for name, fields in metas.items()} == {
        "e1000e-modules-amd64": ("e1000e-modules-6.1.0-100-amd64", "linux-image-amd64"),
        "e1000e-modules-rt-amd64": ("e1000e-modules-6.1.0-99-rt-amd64", "linux-image-rt-amd64"),
        "e1000e-modules-6.12-amd64": ("e1000e-modules-6.12.10+deb12-amd64", "linux-image-6.12-amd64"),
    }
    assert not [name for name in packages_of(make_kinds(deb={"meta": False})) if name.endswith("modules-amd64")]


def test_meta_package_of_two_machines() -> None:
    facts = make_kinds("debian12", ("6.1.0-56-generic", "6.1.0-57-generic"))
    first, second = facts.job.kernels
    job = replace(facts.job, kernels=(replace(first, arch="aarch64"), second))
    made = packages_of(replace(facts, job=job))["e1000e-modules-generic"]
    assert made["Architecture"] == "arm64 amd64"
    assert "e1000e-modules-6.1.0-56-generic (= ${binary:Version}) [arm64]" in made["Depends"]
    assert "e1000e-modules-6.1.0-57-generic (= ${binary:Version}) [amd64]" in made["Depends"]


def test_a_kernel_is_held_back_only_where_its_version_is_known() -> None:
    facts = make_kinds(deb={"hold_kernel": True})
    assert "Breaks" not in packages_of(facts)["e1000e-modules-amd64"]
    kernels = tuple(
        replace(
            kernel,
            offer=KernelOffer(
                kernel.release, kernel.arch, "apt", (PackageFile("linux-headers", "6.1.192-2", "http://a", "0", 1),)
            ),
        )
        for kernel in facts.job.kernels
    )
    known = replace(facts, job=replace(facts.job, kernels=kernels))
    assert packages_of(known)["e1000e-modules-amd64"]["Breaks"] == "linux-image-amd64 (>> 6.1.192-2)"
    free = replace(known, job=replace(known.job, project=make_project()))
    assert "Breaks" not in packages_of(free)["e1000e-modules-amd64"]


def test_a_flavour_whose_meta_package_has_the_name_of_another_package() -> None:
    with pytest.raises(PackageError, match="two packages would be called e1000e-modules-dev"):
        deb.control_paragraphs(make_kinds("debian12", ("6.1.0-56-dev",)))


def test_the_modules_are_for_hardware_and_the_packages_beside_them_are_not() -> None:
    with_field = [name for name, fields in packages_of(make_kinds()).items() if "XB-Modaliases" in fields]
    assert with_field == ["e1000e-modules-6.1.0-56-amd64", "e1000e-modules-6.1.0-56-cloud-amd64"]


def test_dkms_conf_is_read_by_bash_as_it_is_meant(tmp_path: Path) -> None:
    project = {**make_project(name="a+b._-c", version="1~rc1+git_2.x").model_dump(exclude_none=True)}
    job = make_job("debian12", KERNELS["debian12"], Project.model_validate({**project, "deb": {"dkms": True}}))
    deb.write_debian(make_facts(job, ("a_b", "c-d")), tmp_path / "debian", None)
    (conf,) = (tmp_path / "debian").glob("*.dkms")
    script = f'kernelver=6.1.0; . {conf}; echo "$PACKAGE_NAME $PACKAGE_VERSION ${{BUILT_MODULE_NAME[*]}} ${{MAKE[0]}}"'
    said = subprocess.run(["bash", "-euc", "kernel_source_dir=/x; " + script], capture_output=True, text=True)
    assert said.stderr == ""
    expected = "make -f pkgkmod.mk modules KERNEL=6.1.0 KERNEL_TREE=/x"
    assert said.stdout == f"a+b._-c 1~rc1+git_2.x a_b c-d {expected}\n"


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

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pkgkmod.errors import InputError, PackageError
from pkgkmod.formats.rpm import SpecFacts, compare_evr, parse_spec, read_header
from pkgkmod.packages import rpm
from pkgkmod.packages.facts import Dependency
from tests.fixtures.packaging import GOLDEN, HOSTILE, check_golden, make_facts, make_job, make_project

KERNELS = {
    "el8": "4.18.0-553.el8_10.x86_64",
    "el9": "5.14.0-427.13.1.el9_4.x86_64",
    "el10": "6.12.0-55.9.1.el10_0.x86_64",
}
DEBIAN_KERNEL = "6.1.0-56-amd64"
PWNED = Path("/tmp/pkgkmod-pwned")


def parsed(text: str, folder: Path) -> SpecFacts:
    file = folder / "x.spec"
    file.write_text(text, encoding="utf-8")
    return parse_spec(file)


@pytest.mark.parametrize("distro", KERNELS)
def test_golden_spec(distro: str, tmp_path: Path) -> None:
    job = make_job(distro, (KERNELS[distro],))
    spec = tmp_path / rpm.spec_name(job)
    spec.write_text(rpm.render_spec(make_facts(job, ("e1000e", "e1000e-extra")), None), encoding="utf-8")
    check_golden(tmp_path, GOLDEN / distro / "example")


@pytest.mark.parametrize("distro", KERNELS)
def test_golden_spec_with_hostile_texts(distro: str, tmp_path: Path) -> None:
    job = make_job(distro, (DEBIAN_KERNEL,), make_project(vendor="acme", epoch=2, release="3", **HOSTILE))
    spec = tmp_path / rpm.spec_name(job)
    spec.write_text(rpm.render_spec(make_facts(job, hostile=True), None), encoding="utf-8")
    check_golden(tmp_path, GOLDEN / distro / "hostile")


@pytest.mark.parametrize("spec", sorted(GOLDEN.glob("el*/*/*.spec")), ids=lambda p: f"{p.parts[-3]}-{p.parts[-2]}")
def test_every_golden_spec_is_understood_by_rpm(spec: Path) -> None:
    facts = parse_spec(spec)
    assert facts.packages[0] == facts.name == spec.stem
    assert facts.sources == ("e1000e-6.1.90.tar.xz",)
    assert "/usr/sbin/depmod" in facts.requires
    assert not PWNED.exists()


@pytest.mark.parametrize(
    "kernel, version, release, dependency",
    [
        ("5.14.0-427.el9.x86_64", "5.14.0-427.el9.x86_64", "5.14.0_427", "x = 5.14.0-427.el9.x86_64"),
        ("5.14.0-427.13.1.el9_4.aarch64", "5.14.0-427.13.1.el9_4.aarch64", "5.14.0_427.13.1.el9_4", None),
        ("6.1.0-56-rt-amd64", "6.1.0-56_rt_amd64", "6.1.0_56_rt_amd64", "x(6.1.0-56-rt-amd64)"),
        ("6.12.117+deb12-amd64", "6.12.117+deb12-amd64", "6.12.117+deb12_amd64", "x = 6.12.117+deb12-amd64"),
        ("6.15.8", "6.15.8", "6.15.8", "x = 6.15.8"),
    ],
)
def test_how_the_macros_spell_a_kernel(kernel: str, version: str, release: str, dependency: str | None) -> None:
    spec = (GOLDEN / "el9/example/kmod-e1000e.spec").read_text(encoding="utf-8")
    macros = spec[spec.index("%define as_version()") : spec.index("%define kernel_tree()")]
    asked = f"{macros}\n%{{as_version {kernel}}}|%{{as_release {kernel} .el9}}|%{{of_kernel x {kernel}}}"
    said = subprocess.run(["rpm", "--eval", asked], capture_output=True, text=True, check=True).stdout.strip()
    assert said.splitlines()[-1].split("|") == [version, release, dependency or f"x = {kernel}"]


def test_what_the_spec_says_for_a_red_hat_kernel(tmp_path: Path) -> None:
    facts = parsed(rpm.render_spec(make_facts(make_job("el9", (KERNELS["el9"],))), None), tmp_path)
    assert (facts.name, facts.version) == ("kmod-e1000e", "6.1.90")
    assert facts.release == "1.k5.14.0_427.13.1.el9_4.el9"
    assert "kernel-modules = 5.14.0-427.13.1.el9_4.x86_64" in facts.provides
    assert "e1000e-kmod = 6.1.90-1.k5.14.0_427.13.1.el9_4.el9" in facts.provides
    assert "kernel-uname-r = 5.14.0-427.13.1.el9_4.x86_64" in facts.requires
    assert "kernel-devel-uname-r = 5.14.0-427.13.1.el9_4.x86_64" in facts.build_requires


def test_what_the_spec_says_for_a_debian_kernel(tmp_path: Path) -> None:
    job = make_job("el9", (DEBIAN_KERNEL,), make_project(epoch=1, vendor="acme"))
    facts = parsed(rpm.render_spec(make_facts(job), None), tmp_path)
    assert facts.name == "kmod-acme-e1000e"
    assert facts.release == "1.k6.1.0_56_amd64.el9"
    assert f"{facts.version}-{facts.release}" == rpm.package_version(job)
    assert "kernel-modules = 6.1.0-56_amd64" in facts.provides
    assert "e1000e-kmod = 1:6.1.90-1.k6.1.0_56_amd64.el9" in facts.provides
    assert "kernel-uname-r(6.1.0-56-amd64)" in facts.requires


def test_texts_arrive_as_they_were_written(tmp_path: Path) -> None:
    job = make_job("el9", (DEBIAN_KERNEL,), make_project(**HOSTILE))
    facts = parsed(rpm.render_spec(make_facts(job, hostile=True), None), tmp_path)
    assert facts.summary == HOSTILE["summary"]
    # A line that rpm would understand is made an item of a list, and is otherwise kept.
    assert [
        line.replace("- ", "", 1) if line.lstrip().startswith("- ") else line for line in facts.description.split("\n")
    ] == (HOSTILE["description"].split("\n"))
    assert facts.packages == ("kmod-e1000e",)
    assert not PWNED.exists()


# What Project accepts (printable, and newlines in the description), with much of what rpm looks for.
_WORDS = st.sampled_from(
    ["%", "%%", "%{", "}", "%(", ")", "%[", "\\", "#", "%if 1", "%files", "%description -n x", " ", "- ", "*"]
)
_PRINTABLE = st.characters(exclude_categories=["C", "Z"], include_characters=" ")
_LINE = st.lists(st.one_of(_WORDS, st.text(_PRINTABLE, max_size=6)), max_size=6).map("".join)


@settings(max_examples=30, deadline=None)
@example(summary="\\%{", lines=["\\\\\\%(", "\\"])
@given(summary=_LINE, lines=st.lists(_LINE, max_size=5))
def test_no_text_is_understood_by_rpm(summary: str, lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    job = make_job("el9", (DEBIAN_KERNEL,), make_project(summary=summary, description="\n".join(lines)))
    facts = make_facts(job)
    read = parsed(rpm.render_spec(facts, None), tmp_path_factory.mktemp("spec"))
    assert read.packages == ("kmod-e1000e",)
    assert read.summary.split() == facts.summary.split()

    def words(text: str) -> str:  # without the dashes that keep a line from being understood
        return "".join(text.replace("-", "").split())

    assert words(read.description) == words(facts.description)


def test_dependencies_as_specs_say_them() -> None:
    assert rpm.spelled(Dependency.parse("kernel-uname-r = 5.14.0-1.el9")) == "kernel-uname-r = 5.14.0-1.el9"
    assert rpm.spelled(Dependency.parse("gcc")) == "gcc"
    with pytest.raises(ValueError):
        Dependency.parse("gcc = ")


def test_another_kernel_than_the_one_it_was_written_for(tmp_path: Path) -> None:
    (tmp_path / "x.spec").write_text(rpm.render_spec(make_facts(make_job("el9", (DEBIAN_KERNEL,))), None))
    other = make_job("el9", (KERNELS["el9"],))
    facts = parse_spec(tmp_path / "x.spec", {"kernels": KERNELS["el9"]})
    assert facts == parsed(rpm.render_spec(make_facts(other), None), tmp_path)
    assert facts.release == rpm.package_release(other)
    with pytest.raises(PackageError, match="does not understand") as caught:
        parse_spec(tmp_path / "x.spec", {"kernels": f"{KERNELS['el9']} {DEBIAN_KERNEL}"})
    assert "one kernel" in caught.value.details


@pytest.mark.parametrize(
    ("choice", "kernel", "wanted"),
    [
        (
            "release",
            "5.14.0-427.el9.x86_64",
            "(kernel-uname-r >= 5.14.0-427.el9.x86_64 with kernel-uname-r < 5.14.0-428)",
        ),
        ("release", "5.14.0-427.13.1.el9_4.x86_64", "kernel-uname-r = 5.14.0-427.13.1.el9_4.x86_64"),
        ("release", DEBIAN_KERNEL, f"kernel-uname-r({DEBIAN_KERNEL})"),
        ("exact", "5.14.0-427.el9.x86_64", "kernel-uname-r = 5.14.0-427.el9.x86_64"),
        ("symbols", "5.14.0-427.el9.x86_64", None),
    ],
)
def test_which_kernels_a_package_asks_for(choice: str, kernel: str, wanted: str | None, tmp_path: Path) -> None:
    project = make_project(rpm={"kernel_requires": choice})
    facts = parsed(rpm.render_spec(make_facts(make_job("el9", (kernel,), project)), None), tmp_path)
    assert [one for one in facts.requires if "kernel" in one] == ([wanted] if wanted else [])


def test_installers_with_later_kernels(tmp_path: Path) -> None:
    project = make_project(rpm={"installer_kernels": "later"})
    facts = parsed(rpm.render_spec(make_facts(make_job("el9", (KERNELS["el9"],), project)), None), tmp_path)
    assert f"kernel-modules >= {KERNELS['el9']}" in facts.provides


def test_a_stable_list_of_the_projects_own_is_a_source(tmp_path: Path) -> None:
    project = make_project(rpm={"stable_list": "lists/kabi"})
    facts = parsed(rpm.render_spec(make_facts(make_job("el9", (KERNELS["el9"],), project)), None), tmp_path)
    assert set(facts.sources) == {"e1000e-6.1.90.tar.xz", "kabi_stablelist"}


def test_spec_from_a_template_of_the_packagers_own(tmp_path: Path) -> None:
    job = make_job("el9", (DEBIAN_KERNEL,))
    before = rpm.template_digest(job, None)
    (tmp_path / "kmod.spec.j2").write_text("Name: @@{ name }@@\n")
    assert rpm.render_spec(make_facts(job), tmp_path) == "Name: kmod-e1000e\n"
    assert rpm.template_digest(job, tmp_path) != before


def test_scriptlets_are_shell(tmp_path: Path) -> None:
    text = rpm.render_spec(make_facts(make_job("el9", (KERNELS["el9"],))), None)
    for name in ("post", "posttrans", "preun", "postun"):
        script = re.split(r"\n%[a-z]", text.split(f"\n%{name}\n")[1])[0].replace("%%", "%").replace("%{", "{")
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)
        assert "||" in script


def test_wrong_spec_is_reported_in_rpms_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PackageError) as caught:
        parsed("Name: x\nVersion: 1-2\nRelease: 1\nSummary: s\nLicense: l\n%description\n", tmp_path)
    assert "Version" in caught.value.details or "version" in caught.value.details
    assert capfd.readouterr() == ("", "")


def test_macros_of_one_spec_do_not_reach_the_next(tmp_path: Path) -> None:
    spec = "%{!?leak: %global leak 1}\nName: x\nVersion: %{leak}\n"
    spec += "Release: 1\nSummary: s\nLicense: l\n%description\n"
    (tmp_path / "x.spec").write_text(spec)
    assert parse_spec(tmp_path / "x.spec", {"leak": "7"}).version == "7"
    assert parse_spec(tmp_path / "x.spec").version == "1"
    assert parse_spec(tmp_path / "x.spec", {"leak": "8"}).version == "8"


def test_file_that_is_no_rpm(tmp_path: Path) -> None:
    (tmp_path / "x.rpm").write_bytes(b"no package" * 100)
    with pytest.raises(InputError, match="cannot be read as an RPM"):
        read_header(tmp_path / "x.rpm")


def test_versions_compare_as_rpm_does() -> None:
    assert compare_evr("1.0-2", "1.0-10") < 0
    assert compare_evr("1:0.1-1", "9-1") > 0
    assert compare_evr("1.0~rc1-1", "1.0-1") < 0
    assert compare_evr("0:1-1", "1-1") == 0

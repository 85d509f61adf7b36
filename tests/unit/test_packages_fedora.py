from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pkgkmod.formats.rpm import SpecFacts, parse_spec
from pkgkmod.packages import rpm
from tests.fixtures.packaging import GOLDEN, HOSTILE, check_golden, make_facts, make_job, make_project

KERNELS = ("7.2.7-300.fc45.x86_64", "7.2.8-300.fc45.x86_64")
DEBUG = "7.2.8-300.fc45.x86_64+debug"
DEBIAN_KERNEL = "6.1.0-56-amd64"
PWNED = Path("/tmp/pkgkmod-pwned")


def spec_for(folder: Path, kernels: tuple[str, ...] = KERNELS, *, hostile: bool = False, **info: object) -> Path:
    job = make_job("fedora", kernels, make_project(**info))  # type: ignore[arg-type]
    spec = folder / rpm.spec_name(job)
    spec.write_text(rpm.render_spec(make_facts(job, ("e1000e", "e1000e-extra"), hostile=hostile), None))
    return spec


def parsed(folder: Path, kernels: tuple[str, ...] = KERNELS, **info: object) -> SpecFacts:
    return parse_spec(spec_for(folder, kernels, **info))


def asked(spec: Path, package: str, form: str, **defines: str) -> list[str]:
    """What rpm understands of one of a spec's packages: the lines that a query gives."""
    words = [word for name, body in defines.items() for word in ("--define", f"{name} {body}")]
    argv = ["rpmspec", "-q", *words, "--qf", f"\\f%{{name}}\\n{form}", spec]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    (found,) = (part for part in said.split("\f") if part.split("\n", 1)[0] == package)
    return found.splitlines()[1:]


def dependencies(spec: Path, package: str, kind: str) -> list[str]:
    tag = kind.upper()
    return [
        one.rstrip() for one in asked(spec, package, f"[%{{{tag}NAME}} %{{{tag}FLAGS:depflags}} %{{{tag}VERSION}}\\n]")
    ]


def test_golden_spec(tmp_path: Path) -> None:
    spec_for(tmp_path)
    check_golden(tmp_path, GOLDEN / "fedora" / "example")


def test_golden_spec_with_hostile_texts(tmp_path: Path) -> None:
    both = {"akmod": True, "dkms": True}
    spec_for(tmp_path, (DEBIAN_KERNEL,), hostile=True, vendor="acme", epoch=2, release="3", rpm=both, **HOSTILE)
    check_golden(tmp_path, GOLDEN / "fedora" / "hostile")


def test_the_source_package(tmp_path: Path) -> None:
    facts = parsed(tmp_path)
    assert (facts.name, facts.version, facts.release) == ("e1000e-kmod", "6.1.90", "1.fc45")
    assert f"{facts.version}-{facts.release}" == rpm.package_version(make_job("fedora", KERNELS))
    assert {f"kernel-devel-uname-r = {kernel}" for kernel in KERNELS} <= set(facts.build_requires)
    assert facts.packages == (
        "e1000e-kmod",
        "e1000e-kmod-common",
        *(f"kmod-e1000e-{kernel}" for kernel in KERNELS),
        "kmod-e1000e",
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_package_of_a_kernel(kernel: str, tmp_path: Path) -> None:
    spec = spec_for(tmp_path, epoch=1)
    package = f"kmod-e1000e-{kernel}"
    assert set(dependencies(spec, package, "provide")) >= {
        f"kernel-modules-for-kernel = {kernel}",
        f"kernel-modules = {kernel}",
        "e1000e-kmod = 1:6.1.90-1.fc45",
    }
    required = dependencies(spec, package, "require")
    assert {f"kernel-uname-r = {kernel}", "e1000e-kmod-common >= 1:6.1.90"} <= set(required)
    (other,) = set(KERNELS) - {kernel}
    assert not [one for one in required if other in one]


def test_the_meta_package_needs_the_package_of_the_newest_kernel(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, tuple(reversed(KERNELS)), vendor="acme")
    needed = dependencies(spec, "kmod-acme-e1000e", "require")
    assert [one for one in needed if "kmod" in one] == [f"kmod-acme-e1000e-{KERNELS[1]} = 6.1.90-1.fc45"]


def test_a_meta_package_for_each_flavour(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, (*KERNELS, DEBUG))
    assert f"kmod-e1000e-{DEBUG} = 6.1.90-1.fc45" in dependencies(spec, "kmod-e1000e-debug", "require")
    assert f"kmod-e1000e-{KERNELS[1]} = 6.1.90-1.fc45" in dependencies(spec, "kmod-e1000e", "require")
    # Where there is one flavour only, its name adds nothing.
    assert parsed(tmp_path, (DEBUG,)).packages[-1] == "kmod-e1000e"


def test_other_kernels_than_those_it_was_written_for(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, rpm={"akmod": True})
    facts = parse_spec(spec, {"kernels": f"{DEBUG} {DEBIAN_KERNEL}"})
    packages = (f"kmod-e1000e-{DEBUG}", f"kmod-e1000e-{DEBIAN_KERNEL}")
    assert facts.packages == ("e1000e-kmod", "e1000e-kmod-common", *packages)
    assert [one for one in facts.build_requires if "uname-r" in one] == [
        f"kernel-devel-uname-r = {DEBUG}",
        f"kernel-devel-uname-r({DEBIAN_KERNEL})",
    ]


def test_a_vendors_packages_exclude_those_without_its_name(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, vendor="acme")
    package = f"kmod-acme-e1000e-{KERNELS[0]}"
    assert f"kmod-e1000e-{KERNELS[0]}" in dependencies(spec, package, "conflict")
    assert "e1000e-kmod-common >= 6.1.90" in dependencies(spec, package, "require")
    assert "e1000e-kmod-common = 6.1.90-1.fc45" in dependencies(spec, "acme-e1000e-kmod-common", "provide")


def test_scriptlets_are_shell(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, vendor="acme", rpm={"akmod": True, "dkms": True})
    own = f"kmod-acme-e1000e-{KERNELS[0]}"
    scripts = {(own, tag) for tag in ("POSTIN", "POSTTRANS", "POSTUN")} | {("akmod-acme-e1000e", "POSTIN")}
    scripts |= {("akmod-acme-e1000e", "POSTTRANS"), ("acme-e1000e-dkms", "POSTIN"), ("acme-e1000e-dkms", "PREUN")}
    for package, tag in scripts:
        script = "\n".join(asked(spec, package, f"%{{{tag}}}"))
        assert "(none)" not in script and "%{" not in script
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)
        assert KERNELS[1] not in script


def test_texts_arrive_as_they_were_written(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, (DEBIAN_KERNEL,), hostile=True, **HOSTILE)
    lines = [line for line in HOSTILE["description"].split("\n") if line]
    for package in ("e1000e-kmod", "e1000e-kmod-common", "kmod-e1000e"):
        said = [line.replace("- ", "", 1) for line in asked(spec, package, "%{DESCRIPTION}")]
        assert [line for line in said if line][: len(lines)] == lines
        assert not [line for line in said[len(lines) :] if line.startswith("#")]
    assert asked(spec, "e1000e-kmod-common", "%{SUMMARY}") == [HOSTILE["summary"]]
    assert parse_spec(spec).packages == (
        "e1000e-kmod",
        "e1000e-kmod-common",
        f"kmod-e1000e-{DEBIAN_KERNEL}",
        "kmod-e1000e",
    )
    assert not PWNED.exists()


_WORDS = st.sampled_from(["%", "%%", "%{", "}", "%(", ")", "\\", "#", "%if 1", "%endif", "%files", "%package x", "*"])
_LINE = st.lists(st.one_of(_WORDS, st.text("aZ0 $`'\"", max_size=4)), max_size=6).map("".join)


@settings(max_examples=15, deadline=None)
@example(summary="\\%{", lines=["\\\\\\%(", "\\"])
@given(summary=_LINE, lines=st.lists(_LINE, max_size=4))
def test_no_text_is_understood_by_rpm(summary: str, lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("spec")
    facts = parsed(folder, summary=summary, description="\n".join(lines), rpm={"akmod": True, "dkms": True})
    assert len(facts.packages) == 7

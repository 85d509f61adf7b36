from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkgkmod.errors import PackageError
from pkgkmod.formats.rpm import SpecFacts, parse_spec
from pkgkmod.model.job import Job
from pkgkmod.model.kernel import KernelRelease
from pkgkmod.packages import rpm
from tests.fixtures.packaging import GOLDEN, HOSTILE, check_golden, make_facts, make_job, make_project

KERNELS = {
    "sle15sp6": ("6.4.0-150600.23.47-default",),
    "sle15sp7": ("6.4.0-150700.53.3-default", "6.4.0-150700.53.3-azure"),
    "sles16": ("6.12.0-160000.5-default",),
    "leap": ("6.12.0-160000.5-default",),
    "tumbleweed": ("6.15.8-1-default", "6.15.8-1-kvmsmall"),
}
DEBIAN_KERNEL = "6.1.0-56-cloud-amd64"
PWNED = Path("/tmp/pkgkmod-pwned")


def rendered(job: Job, folder: Path, *, hostile: bool = False) -> Path:
    spec = folder / rpm.spec_name(job)
    spec.write_text(rpm.render_spec(make_facts(job, hostile=hostile), None), encoding="utf-8")
    return spec


def parsed(job: Job, folder: Path) -> SpecFacts:
    return parse_spec(rendered(job, folder))


def queried(spec: Path, *words: str) -> list[str]:
    """Ask rpmspec about the packages of a spec."""
    argv = ["rpmspec", "-q", "--define", f"_dbpath {spec.parent}/db", *words, str(spec)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("distro", KERNELS)
def test_golden_spec(distro: str, tmp_path: Path) -> None:
    rendered(make_job(distro, KERNELS[distro]), tmp_path)
    check_golden(tmp_path, GOLDEN / distro / "example")


@pytest.mark.parametrize("distro", KERNELS)
def test_golden_spec_with_hostile_texts(distro: str, tmp_path: Path) -> None:
    project = make_project(vendor="acme", epoch=2, release="3", rpm={"stable_list": "kabi"}, **HOSTILE)
    rendered(make_job(distro, (DEBIAN_KERNEL,), project), tmp_path, hostile=True)
    check_golden(tmp_path, GOLDEN / distro / "hostile")


@pytest.mark.parametrize("distro", KERNELS)
@pytest.mark.parametrize("kind", ["example", "hostile"])
def test_golden_specs_are_understood_by_rpm(distro: str, kind: str) -> None:
    (spec,) = (GOLDEN / distro / kind).iterdir()
    facts = parse_spec(spec)
    assert facts.name == spec.stem
    flavours = [KernelRelease(k).flavour for k in (KERNELS[distro] if kind == "example" else (DEBIAN_KERNEL,))]
    assert facts.packages == (facts.name, *(f"{facts.name}-kmp-{flavour}" for flavour in flavours))
    assert not PWNED.exists()


def test_what_the_spec_says_of_its_packages(tmp_path: Path) -> None:
    job = make_job("sle15sp7", KERNELS["sle15sp7"])
    facts = parsed(job, tmp_path)
    assert (facts.name, facts.version, facts.release) == ("e1000e", "6.1.90", rpm.package_release(job))
    assert facts.release == "1.k6.4.0_150700.53.3"
    assert {"kernel-default-devel = 6.4.0-150700.53.3", "kernel-azure-devel = 6.4.0-150700.53.3"} <= set(
        facts.build_requires
    )
    assert "kernel-syms" in facts.build_requires
    nevra = queried(tmp_path / "e1000e.spec", "--builtrpms", "--qf", "%{name} %{version} %{release} %{arch}\\n")
    version = "6.1.90_k6.4.0_150700.53.3 1 x86_64"
    assert nevra == [f"e1000e-kmp-default {version}", f"e1000e-kmp-azure {version}"]
    provides = queried(tmp_path / "e1000e.spec", "--builtrpms", "--provides")
    assert [line for line in provides if "azure" not in line and "x86-64" not in line] == [
        "e1000e-kmp = 6.1.90",
        "e1000e-kmp = 6.1.90_k6.4.0_150700.53.3",
        "e1000e-kmp-default = 6.1.90_k6.4.0_150700.53.3-1",
        "e1000e-kmp-default-k6.4.0_150700.53.3",
        "multiversion(kernel)",
        "e1000e-kmp = 6.1.90",
        "e1000e-kmp = 6.1.90_k6.4.0_150700.53.3",
        "multiversion(kernel)",
    ]
    tags = queried(
        *(tmp_path / "e1000e.spec", "--builtrpms", "--qf"),
        "[%{supplementname} ][%{enhancename} ][%{conflictname} ]\\n",
    )
    assert tags == [
        f"(kernel-{flavour} and e1000e) kernel-{flavour} e1000e-kmp-{flavour}-k6.4.0_150700.53.3 "
        for flavour in ("default", "azure")
    ]


def test_vendor_and_epoch_reach_the_packages(tmp_path: Path) -> None:
    job = make_job("tumbleweed", KERNELS["tumbleweed"], make_project(vendor="acme", epoch=1, release="2"))
    spec = rendered(job, tmp_path)
    found = queried(spec, "--builtrpms", "--qf", "%{name} %{epoch}:%{version}-%{release} [%{conflictname} ]\\n")
    assert found[0] == (
        "acme-e1000e-kmp-default 1:6.1.90_k6.15.8_1-2 acme-e1000e-kmp-default-k6.15.8_1 e1000e-kmp-default "
    )
    assert "acme-e1000e-kmp = 1:6.1.90" in queried(spec, "--builtrpms", "--provides")
    # The version of a KMP is not that of the source package, whose changelog it is.
    (entry,) = queried(spec, "--srpm", "--qf", "%{epoch}:%{version}-%{release} [%{changelogname}]\\n")
    assert entry.startswith("1:6.1.90-2.k6.15.8_1 ") and entry.endswith(" - 1:6.1.90-2.k6.15.8_1")


@pytest.mark.parametrize(
    ("choice", "wanted"), [("exact", ["kernel-default = 6.4.0-150600.23.47"]), ("release", []), ("symbols", [])]
)
def test_which_kernels_a_package_asks_for(choice: str, wanted: list[str], tmp_path: Path) -> None:
    job = make_job("sle15sp6", KERNELS["sle15sp6"], make_project(rpm={"kernel_requires": choice}))
    needs = queried(rendered(job, tmp_path), "--builtrpms", "--requires")
    assert [line for line in needs if line.startswith("kernel")] == wanted


RELEASES = (
    *(release for releases in KERNELS.values() for release in releases),
    *("6.4.0-150600.10.20-rt", "6.16.0-rc1-1-default", "6.12.0-160000.5-64kb"),
    *("6.1.0-56-amd64", "6.1.0-56-cloud-amd64", "6.12.117+deb12-cloud-amd64", "6.12.9+deb12-rt-amd64"),
)


@pytest.mark.parametrize("release", RELEASES)
def test_another_kernel_than_the_one_it_was_written_for(release: str, tmp_path: Path) -> None:
    spec = rendered(make_job("sle15sp6", KERNELS["sle15sp6"]), tmp_path)
    facts = parse_spec(spec, {"kernels": release})
    assert facts == parsed(make_job("sle15sp6", (release,)), tmp_path)
    kernel = KernelRelease(release)
    assert facts.release == f"1.k{kernel.base.replace('-', '_')}"
    assert facts.packages == ("e1000e", f"e1000e-kmp-{kernel.flavour}")
    assert f"kernel-{kernel.flavour}-devel = {kernel.base}" in facts.build_requires


def test_several_kernels_given_to_a_spec(tmp_path: Path) -> None:
    spec = rendered(make_job("sle15sp6", KERNELS["sle15sp6"]), tmp_path)
    facts = parse_spec(spec, {"kernels": "6.4.0-150600.10.20-rt 6.4.0-150600.23.50-default"})
    assert facts.packages == ("e1000e", "e1000e-kmp-rt", "e1000e-kmp-default")


@pytest.mark.parametrize(
    ("kernels", "reason"),
    [
        ("6.4.0-1-default 6.4.0-2-default", "6.4.0-1-default and 6.4.0-2-default are of one flavour"),
        ("5.14.0-427.el9.x86_64", "5.14.0-427.el9.x86_64 has no flavour"),
    ],
)
def test_kernels_that_are_refused(kernels: str, reason: str, tmp_path: Path) -> None:
    spec = rendered(make_job("sle15sp6", KERNELS["sle15sp6"]), tmp_path)
    with pytest.raises(PackageError) as caught:
        parse_spec(spec, {"kernels": kernels})
    assert reason in caught.value.details


# What Project accepts (printable, and newlines in the description), with much of what rpm looks for.
_WORDS = st.sampled_from(
    ["%", "%%", "%{", "}", "%(", ")", "%[", "\\", "\\\n", "#", "%1", "%*", "%if 1", "%files", "%package x", " ", "'"]
)
_PRINTABLE = st.characters(exclude_categories=["C", "Z"], include_characters=" ")
_TEXT = st.lists(st.one_of(_WORDS, st.text(_PRINTABLE, max_size=6)), max_size=8).map("".join)


@settings(max_examples=12, deadline=None)  # two programs are run for each
@given(summary=_TEXT.map(lambda text: text.replace("\n", " ")), description=_TEXT)
def test_no_text_is_understood_by_rpm(summary: str, description: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("spec")
    job = make_job("tumbleweed", KERNELS["tumbleweed"], make_project(summary=summary, description=description))
    spec = rendered(job, folder)
    facts = parse_spec(spec)
    assert facts.packages == ("e1000e", "e1000e-kmp-default", "e1000e-kmp-kvmsmall")
    texts = "\n".join(queried(spec, "--builtrpms", "--qf", "%{summary}\\n%{description}\\n\\n"))
    # Each package has both texts, exactly as the source package has them.
    assert texts.strip() == f"{facts.summary}\n{facts.description}\n\n{facts.summary}\n{facts.description}".strip()


def test_hostile_texts_arrive_as_they_were_written(tmp_path: Path) -> None:
    spec = rendered(make_job("sles16", KERNELS["sles16"], make_project(**HOSTILE)), tmp_path, hostile=True)
    assert queried(spec, "--builtrpms", "--qf", "%{summary}\\n") == [HOSTILE["summary"]]
    assert "\n".join(queried(spec, "--builtrpms", "--qf", "%{description}\\n")) == parse_spec(spec).description
    assert not PWNED.exists()


@pytest.mark.parametrize("distro", KERNELS)
def test_scriptlets_are_shell_and_never_fail(distro: str, tmp_path: Path) -> None:
    spec = rendered(make_job(distro, KERNELS[distro]), tmp_path)
    tags = ("prein", "postin", "preun", "postun", "posttrans")
    said = "\n".join(queried(spec, "--builtrpms", "--qf", "".join(f"== {tag}\\n%{{{tag}}}\\n" for tag in tags)))
    for tag in tags:
        text = "".join(re.findall(rf"^== {tag}\n(.*?)(?=^== |\Z)", said, re.MULTILINE | re.DOTALL))
        assert text.count("kernel-scriptlets/kmp-") and not re.search(r"%\{?\w", text)
        assert f"--usrmerged {int(distro not in ('sle15sp6', 'sle15sp7'))} " in text
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("distro", KERNELS)
def test_modules_lie_below_updates_of_the_distributions_root(distro: str, tmp_path: Path) -> None:
    text = rendered(make_job(distro, KERNELS[distro]), tmp_path).read_text()
    root = "/lib/modules" if distro.startswith("sle15") else "/usr/lib/modules"
    assert f"%global module_root {root}\n" in text
    assert "MODULE_DIR=%{module_root}/%{1}/updates/e1000e" in text
    assert "kernel_module_package" not in text
    # The Open Build Service looks for this line as it is.
    assert "# needssslcertforbuild" in text.splitlines()


def test_a_spec_in_which_the_open_build_service_replaced_the_release(tmp_path: Path) -> None:
    spec = rendered(make_job("sle15sp6", KERNELS["sle15sp6"]), tmp_path)
    # It replaces each line that begins so (obs-build, substitutedeps).
    text, count = re.subn(r"(?im)^(Release\s*:\s*).*", r"\g<1>7.3", spec.read_text())
    spec.write_text(text)
    assert count == 1
    found = queried(spec, "--builtrpms", "--qf", "%{name}-%{version}-%{release}\\n")
    assert found == ["e1000e-kmp-default-6.1.90_k6.4.0_150600.23.47-7.3"]
    assert "--release '7.3'" in "".join(queried(spec, "--builtrpms", "--qf", "%{postin}"))
    assert parse_spec(spec).release == "7.3"

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pkgkmod.formats.rpm import compare_evr, parse_spec
from pkgkmod.packages import rpm
from tests.fixtures.packaging import make_facts, make_job, make_project

KERNELS = {"fedora": "7.2.8-300.fc45.x86_64", "el9": "5.14.0-427.13.1.el9_4.x86_64"}
OLDER = {"fedora": "7.2.7-300.fc45.x86_64", "el9": "5.14.0-362.8.1.el9_3.x86_64"}


def spec_for(distro: str, folder: Path, modules: tuple[str, ...] = ("e1000e",), **info: object) -> Path:
    project = make_project(rpm={"akmod": True, "dkms": True}, **info)
    job = make_job(distro, (KERNELS[distro],), project)
    spec = folder / rpm.spec_name(job)
    spec.write_text(rpm.render_spec(make_facts(job, modules), None))
    return spec


def without_comments(spec: Path) -> str:
    return "\n".join(line for line in spec.read_text().splitlines() if not line.startswith("#"))


@pytest.mark.parametrize("distro", KERNELS)
def test_both_are_made_only_if_asked_for(distro: str, tmp_path: Path) -> None:
    names = {"akmod-acme-e1000e", "acme-e1000e-dkms"}
    assert names <= set(parse_spec(spec_for(distro, tmp_path, vendor="acme")).packages)
    job = make_job(distro, (KERNELS[distro],))
    plain = tmp_path / "plain.spec"
    plain.write_text(rpm.render_spec(make_facts(job), None))
    assert not {"akmod-e1000e", "e1000e-dkms"} & set(parse_spec(plain).packages)
    assert "dkms" not in without_comments(plain) and "/usr/src/akmods" not in without_comments(plain)


@pytest.mark.parametrize("distro", KERNELS)
def test_akmods_finds_a_package_of_any_kernel_newer_than_the_source_package(distro: str, tmp_path: Path) -> None:
    # It builds for a kernel whose package is older than the source package, each time the machine boots.
    spec = spec_for(distro, tmp_path)
    packed = parse_spec(spec, {"kernels": "0"} if distro == "el9" else {})
    own = f"{packed.version}-{packed.release}"
    assert f"/usr/src/akmods/{packed.name}-{own}.src.rpm" in _expanded(spec)
    for kernel in (KERNELS[distro], OLDER[distro]):
        built = parse_spec(spec, {"kernels": kernel})
        assert compare_evr(f"{built.version}-{built.release}", own) >= 0
    newer = parse_spec(spec_for(distro, tmp_path, release="2"), {"kernels": "0"} if distro == "el9" else {})
    assert compare_evr(f"{built.version}-{built.release}", f"{newer.version}-{newer.release}") < 0


def _expanded(spec: Path) -> str:
    return subprocess.run(["rpmspec", "-P", spec], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("distro", KERNELS)
def test_akmods_finds_the_folder_of_the_modules_by_the_name_of_the_link(distro: str, tmp_path: Path) -> None:
    # akmods looks at /usr/lib/modules/UNAME_R/extra/NAME for /usr/src/akmods/NAME-kmod.latest.
    text = _expanded(spec_for(distro, tmp_path, vendor="acme"))
    assert "/usr/src/akmods/e1000e-kmod.latest" in text
    assert f"/lib/modules/{KERNELS[distro]}/extra/e1000e" in text
    assert "--akmod e1000e " in text


def test_what_the_built_packages_need_besides_the_kernel_comes_with_the_akmod_package(tmp_path: Path) -> None:
    # akmods takes only the machine's own packages from a build, so no noarch one.
    spec = spec_for("fedora", tmp_path, vendor="acme", epoch=1)
    form = "[%{=NAME} %{REQUIRENAME} %{REQUIREFLAGS:depflags} %{REQUIREVERSION}\\n]"
    said = subprocess.run(["rpmspec", "-q", "--qf", form, spec], capture_output=True, text=True, check=True).stdout
    needed = {line.partition(" ")[::2] for line in said.splitlines()}
    common = "e1000e-kmod-common >= 1:6.1.90"
    assert {(f"kmod-acme-e1000e-{KERNELS['fedora']}", common), ("akmod-acme-e1000e", common)} <= needed
    assert ("akmod-acme-e1000e", "akmods  ") in needed


# --- dkms.conf: bash sources it ---------------------------------------------------------------------


def dkms_conf(spec: Path) -> str:
    return spec.read_text().split("/dkms.conf << 'END'\n")[1].split("\nEND\n")[0]


def as_bash_reads_it(text: str, *words: str) -> list[str]:
    script = f"kernelver=6.1.0-56-amd64 kernel_source_dir=/k/build; . /dev/stdin; printf '%s\\n' {' '.join(words)}"
    done = subprocess.run(["bash", "-euc", script], input=text, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_what_dkms_reads(tmp_path: Path) -> None:
    conf = dkms_conf(spec_for("el9", tmp_path, ("e1000e", "e1000e-extra")))
    found = as_bash_reads_it(conf, '"$PACKAGE_NAME" "$PACKAGE_VERSION" "${MAKE[@]}" "$CLEAN" "$AUTOINSTALL"')
    assert found == [
        "e1000e",
        "6.1.90",
        "make -f pkgkmod.mk modules KERNEL=6.1.0-56-amd64 KERNEL_TREE=/k/build",
        "make -f pkgkmod.mk clean",
        "yes",
    ]
    assert as_bash_reads_it(conf, '"${BUILT_MODULE_NAME[@]}"') == ["e1000e", "e1000e-extra"]
    assert as_bash_reads_it(conf, '"${BUILT_MODULE_LOCATION[@]}"') == ["modules/6.1.0-56-amd64"] * 2
    assert as_bash_reads_it(conf, '"${DEST_MODULE_LOCATION[@]}"') == ["/extra/e1000e"] * 2


def test_names_and_versions_with_every_character_that_a_project_may_have(tmp_path: Path) -> None:
    name, version = "a+b._-c", "1~rc1+git_2.x"
    spec = spec_for("fedora", tmp_path, ("A_b-c", "0x"), name=name, version=version)
    conf = dkms_conf(spec)
    assert as_bash_reads_it(conf, '"$PACKAGE_NAME" "$PACKAGE_VERSION"') == [name, version]
    assert as_bash_reads_it(conf, '"${BUILT_MODULE_NAME[@]}"') == ["A_b-c", "0x"]
    assert {f"akmod-{name}", f"{name}-dkms"} <= set(parse_spec(spec).packages)


@pytest.mark.parametrize(("distro", "linked"), [("el9", True), ("fedora", False)])
def test_modules_are_linked_into_other_kernels_only_where_symbols_are_kept(
    distro: str, linked: bool, tmp_path: Path
) -> None:
    conf = dkms_conf(spec_for(distro, tmp_path))
    assert as_bash_reads_it(conf, '"${NO_WEAK_MODULES:-no}"') == ["no" if linked else "yes"]

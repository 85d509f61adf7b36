from __future__ import annotations

import pytest

from pkgkmod.data.arches import package_arch
from pkgkmod.data.distros import find_distro, known_distros
from pkgkmod.errors import ConfigError, KernelError
from pkgkmod.packages.facts import Dependency
from pkgkmod.templates import Templates


def test_which_are_known() -> None:
    assert set(known_distros()) >= {"debian12", "debian13", "el8", "el9", "el10"}
    assert set(known_distros()) >= {"ubuntu2204", "ubuntu2404", "ubuntu2604"}
    assert set(known_distros()) >= {"fedora", "sle15sp6", "sle15sp7", "sles16", "leap", "tumbleweed"}


@pytest.mark.parametrize("name", known_distros())
def test_data_file_is_whole(name: str) -> None:
    distro = find_distro(name)
    assert distro.id == name
    assert "{name}" in distro.module_folder
    words = {"uname_r": "6.1.0-56-amd64", "base": "6.1.0-56", "flavour": "amd64", "arch": "x86_64"}
    assert "6.1.0-56" in distro.kernel_tree.format(**words)
    for text in (*distro.build_requires, distro.kernel_build_requires.format(**words)):
        Dependency.parse(text)
    if distro.format == "rpm":
        assert distro.payload and Templates("spec-templates").text(distro.spec_template)
        assert "{driver}" in distro.source_package and distro.dependency_style
    else:
        assert distro.codename and distro.standards_version and "{uname_r}" in distro.kernel_requires


def test_red_hats_installers_read_lib_only() -> None:
    assert {find_distro(name).module_root for name in ("el8", "el9", "el10")} == {"/lib/modules"}


def test_unknown_distribution_has_a_near_name() -> None:
    with pytest.raises(ConfigError) as caught:
        find_distro("debain12")
    assert "debian12" in caught.value.hint


def test_arches() -> None:
    assert package_arch("x86_64", "deb") == "amd64"
    assert package_arch("aarch64", "rpm") == "aarch64"
    with pytest.raises(KernelError):
        package_arch("vax", "rpm")

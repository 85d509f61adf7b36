"""The kernels that a driver is for, as a dkms.conf says it: bash must mean what [only] means."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pkgkmod.data.distros import find_distro
from pkgkmod.errors import ConfigError
from pkgkmod.model.only import Only
from pkgkmod.model.project import Project
from pkgkmod.packages.dkms import dkms_conf
from pkgkmod.templates import built_in

RELEASES = (
    *("5.4.0-1-amd64", "5.10.0-30-rt-amd64", "5.14.0-427.13.1.el9_4.x86_64", "5.15.0", "5.15.1-08-generic"),
    *("6.1.0-56-amd64", "6.1.0-56-rt-amd64", "6.1.5", "6.4.0-150600.23.47-default", "6.12.0-rc1-00012-gabc"),
    *("6.12.115+deb12-amd64", "6.12.115+deb12-cloud-amd64", "7.2.3.4-x", "10.0.09~x"),
)

# What dkms 3.0.10 does with the two variables (read_conf).
JUDGE = """
for kernelver in "$@"; do
    unset BUILD_EXCLUSIVE_KERNEL BUILD_EXCLUSIVE_ARCH
    . "$0" >/dev/null
    if [[ $BUILD_EXCLUSIVE_KERNEL && ! $kernelver =~ $BUILD_EXCLUSIVE_KERNEL ]]; then echo no
    elif [[ $BUILD_EXCLUSIVE_ARCH && ! x86_64 =~ $BUILD_EXCLUSIVE_ARCH ]]; then echo no
    else echo yes; fi
done
"""


def conf(distro: str, only: Mapping[str, Any]) -> str:
    project = Project.model_validate({"project": {"name": "hello"}, "only": only})
    return dkms_conf(project, ("hello",), find_distro(distro), base=Path())


@pytest.mark.parametrize(
    "only",
    [
        {"kernels": ("6.*", "!*-rt-amd64")},
        {"kernels": ("!6.1.*", "!~x")},
        {"kernels": ("6.1.0-5?-amd64", "*~x")},
        {"release": r"^(5\.[6-9]\.|[6-9]\.)"},
        {"release": r"^6\.\d+\.\d+\+deb12-(cloud-)?amd64$"},
        {"oldest": "5.15"},
        {"oldest": "6.1.5", "before": "7.2.3.4"},
        {"newest": "6.1"},
        {"newest": "6.12.115", "oldest": "5.4.0"},
        {"before": "6.12"},
        {"machine": "^(x86_64|aarch64)$"},
        {"machine": "^arm"},
        {"release": "amd64$", "kernels": ("!*cloud*",), "oldest": "5.10", "before": "6.12.200"},
    ],
)
@pytest.mark.parametrize("distro", ["debian12", "el9"])
def test_bash_leaves_out_what_the_project_leaves_out(distro: str, only: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "dkms.conf"
    file.write_text(conf(distro, only))
    done = subprocess.run(["bash", "-c", JUDGE, file, *RELEASES], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    limits = Only.model_validate(only)
    expected = ["no" if limits.complaint(release, "x86_64") else "yes" for release in RELEASES]
    assert dict(zip(RELEASES, done.stdout.split(), strict=True)) == dict(zip(RELEASES, expected, strict=True))


def test_words_that_dkms_has_are_used() -> None:
    text = conf("debian12", {"config": ("PCI", "!PREEMPT_RT"), "oldest": "5.15", "before": "7.0", "machine": "^x86"})
    assert "BUILD_EXCLUSIVE_CONFIG='CONFIG_PCI !CONFIG_PREEMPT_RT'\n" in text
    assert "BUILD_EXCLUSIVE_KERNEL_MIN=5.15\n" in text
    assert "OBSOLETE_BY=7.0\n" in text
    assert "BUILD_EXCLUSIVE_ARCH='^x86'\n" in text


def test_without_limits_nothing_is_said_of_them() -> None:
    assert "OBSOLETE_BY" not in conf("el9", {})
    assert "\n\n" not in conf("el9", {})


def test_nothing_of_it_is_a_macro_of_rpm() -> None:
    text = conf("el9", {"kernels": ("6.*", "!*-rt"), "release": "^6", "oldest": "5", "newest": "7", "before": "8"})
    assert "%" not in text


@pytest.mark.parametrize("expression", [r"(?i)6", r"6.*?", r"\A6", r"[\d.]+", r"6\D", r"(6)\1"])
def test_expressions_that_bash_does_not_have_are_refused(expression: str) -> None:
    with pytest.raises(ConfigError, match=r"only\.release cannot be said in a dkms\.conf"):
        conf("debian12", {"release": expression})


def test_both_formats_say_it_in_the_same_words() -> None:
    one, two = (
        built_in(room).joinpath("dkms-limits.j2").read_text() for room in ("debian-templates", "spec-templates")
    )
    assert one == two

"""rpmlint on the specs and packages of each family, with tests/rpmlint.toml."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.families import family
from tests.fixtures.fedorakernels import fedora_project
from tests.fixtures.machine import CHECKOUT, hello, need, pkgkmod
from tests.fixtures.packaging import GOLDEN

CONFIG = CHECKOUT / "tests/rpmlint.toml"
EVERYTHING = """
[rpm]
akmod = true
dkms = true
debuginfo = true
[devel]
enabled = true
headers = ["*.c"]
"""


def errors(*files: Path) -> str:
    """What rpmlint calls an error, one a line."""
    need("rpmlint")
    done = subprocess.run(["rpmlint", "-c", CONFIG, *files], capture_output=True, text=True, check=False)
    checked = re.search(r"(\d+) packages and (\d+) specfiles checked", done.stdout)
    assert checked and int(checked[1]) + int(checked[2]) == len(files), done.stdout + done.stderr
    return "\n".join(line for line in done.stdout.splitlines() if ": E: " in line)


def test_specs_of_every_distribution() -> None:
    specs = sorted(GOLDEN.glob("*/example/*.spec"))
    assert len({spec.parts[-3] for spec in specs}) >= 4
    # One by one: rpmlint keeps what a spec defines while it reads the next one.
    assert "\n".join(filter(None, (errors(spec) for spec in specs))) == ""


def test_a_fault_is_found(tmp_path: Path) -> None:
    spec = tmp_path / "x.spec"
    spec.write_text(
        "Name: x\nVersion: 1\nRelease: 1\nSummary: s\nLicense: l\n%description\n%install\nrm -rf /usr/lib/x\n"
    )
    assert "hardcoded-library-path" in errors(spec)


@pytest.mark.parametrize("distro", ["el9", "fedora", "sle15sp6"])
def test_packages(distro: str, tmp_path: Path) -> None:
    driver = hello(tmp_path / "git")
    folder = tmp_path / "project"
    if distro == "fedora":
        fedora_project(folder, driver, EVERYTHING)
    else:
        family(folder, driver, distro, EVERYTHING)
    (folder / "firmware/hello").mkdir(parents=True)
    (folder / "firmware/hello/a file.bin").write_bytes(b"firmware")
    pkgkmod("build", cwd=folder)
    packages = sorted(folder.glob("results/build_rpm/*/*/*/*.rpm"))
    assert {"debuginfo", "devel", "dkms", "firmware"} <= {
        word for package in packages for word in package.name.split("-")
    }
    assert errors(*packages) == ""

"""Kernels that are not installed here: fetched from Debian's archives, some of them of other releases.

A header package of another release holds programs that may not run here, and its kernel was built with a compiler
that is not here: then the modules are compiled in a build root of that release.
"""

import json
import os
import re
import shutil
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.fixtures.machine import cache, hello, lacking, need, pkgkmod

MAIN, SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"
# Of releases that are no longer updated, the signed dates are over.
ARCHIVES = (
    f"deb [check-valid-until=no] {MAIN} bullseye main",
    f"deb [check-valid-until=no] {SECURITY} bullseye-security main",
    f"deb [check-valid-until=no] {MAIN} bookworm main",
    f"deb [check-valid-until=no] {SECURITY} bookworm-security main",
    f"deb [check-valid-until=no] {MAIN} trixie main",
    f"deb [check-valid-until=no] {MAIN} trixie-backports main",
)

pytestmark = pytest.mark.xdist_group("other-suites")


@pytest.fixture(autouse=True)
def kept(monkeypatch):
    """A cache that stays: kernels are fetched, and roots made, once for a machine."""
    need("bwrap", "gpgv", "modinfo")
    folder = cache() / "other-suites"
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "pkgkmod"


def project(folder, driver, *kernels):
    """Write a project for these kernels; what it needs is compiled, whatever is kept."""
    folder.mkdir()
    (folder / "pkgkmod.toml").write_text(
        f"""
[project]
name = "hello"
vendor = "acme"
version = "1.0"

[source]
repository = "{driver.repository}"
revision = "{driver.commit}"
directories = ["{driver.directory}"]

[build]
reuse = false

[plugin.apt]
archives = {json.dumps(ARCHIVES)}

[[target]]
distro = "debian12"
kernels = {json.dumps(kernels)}
"""
    )
    return folder


def offered(folder, *patterns):
    """Return the releases of the archives, oldest first."""
    found = pkgkmod("kernels", "list", "--json", cwd=folder).events
    names = [str(event["release"]) for event in found if event.get("source") == "apt"]
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def built(folder):
    """Return, by release, what the module says of its kernel, and the versions of the compilers that made it."""
    found = {}
    for module in (folder / "results/build_modules").glob("*/*/*/hello.ko"):
        magic = subprocess.run(["modinfo", "-F", "vermagic", module], capture_output=True, text=True, check=True).stdout
        compilers = set(re.findall(rb"GCC: \([^)]*\) ([0-9.]+)", module.read_bytes()))
        found[module.parents[1].name] = (magic.split()[0], {version.decode() for version in compilers})
    return found


def major(versions):
    (version,) = versions
    return int(version.partition(".")[0])


def test_kernels_of_this_release_that_are_not_installed(tmp_path):
    """Without a build root: the compiler and the libraries are this machine's."""
    if "VERSION_CODENAME=bookworm" not in Path("/etc/os-release").read_text():
        lacking("this machine is not a Debian 12")
    driver = hello(tmp_path / "repository")
    folder = project(tmp_path / "project", driver, "all")
    wanted = [(offered(folder, pattern) or [""])[-1] for pattern in ("6.1.0-*[0-9]-*amd64", "6.12.*+deb12-*amd64")]
    if not all(wanted):
        lacking("all kernels of Debian 12 are installed here")
    shutil.rmtree(folder)
    folder = project(folder, driver, *wanted)
    pkgkmod("prepare_sources", cwd=folder)
    said = pkgkmod("build_modules", cwd=folder)
    assert "build root" not in said.err
    found = built(folder)
    assert sorted(found) == sorted(wanted)
    for release, (magic, compilers) in found.items():
        assert magic == release
        assert major(compilers) == 12
        assert not os.path.lexists(f"/usr/src/linux-headers-{release}"), "nothing is installed"


OTHERS = {
    "newest of 5.10.*[0-9]-amd64": 10,
    "newest of 5.10.*-cloud-amd64": 10,
    "newest of 6.1.0-*-cloud-amd64": 12,
    "newest of 6.12.*+deb13-amd64": 14,
    "newest of 6.12.*+deb13-rt-amd64": 14,
    "newest of 7.*+deb13-amd64": 14,
}


@pytest.mark.slow
def test_kernels_of_other_releases(tmp_path, kept):
    """Debian 11, 12, 13 and its backports, on whatever this machine has."""
    need("mmdebstrap")
    driver = hello(tmp_path / "repository")
    folder = project(tmp_path / "project", driver, *OTHERS)
    pkgkmod("prepare_sources", cwd=folder)
    pkgkmod("build_modules", cwd=folder)
    found = built(folder)
    assert len(found) == len(OTHERS)
    for release, (magic, compilers) in found.items():
        assert magic == release
        expected = [
            version for text, version in OTHERS.items() if fnmatchcase(release, text.removeprefix("newest of "))
        ]
        assert [major(compilers)] == expected

    roots = {path.name.rpartition("-")[0] for path in (kept / "roots").iterdir() if (path / "entry.json").exists()}
    assert {"bullseye-gcc-10", "trixie-gcc-14"} <= roots

    again = pkgkmod("build_modules", cwd=folder)
    assert "nothing to do" in again.err
    assert "build root" not in again.err

    plan = pkgkmod("plan", cwd=folder)
    assert plan.out.count("SKIP  build_modules") == len(OTHERS)


@pytest.mark.slow
def test_packages_of_modules_that_a_build_root_compiled(tmp_path):
    """Compiled in the root, packaged here; compiling inside the package build is refused, with the way out."""
    need("mmdebstrap", "dpkg-buildpackage", "dh")
    folder = project(tmp_path / "project", hello(tmp_path / "repository"), "newest of 6.12.*+deb13-amd64")
    pkgkmod("prepare_sources", cwd=folder)
    pkgkmod("build", cwd=folder)
    (release,) = built(folder)
    (deb,) = folder.glob(f"results/build_deb/*/*/*/*{release.replace('+', '?')}*.deb")
    listing = subprocess.run(["dpkg-deb", "-c", deb], capture_output=True, text=True, check=True).stdout
    assert f"lib/modules/{release}/" in listing
    refused = pkgkmod("build_deb", "--from-source", cwd=folder, code=12)
    assert "without --from-source" in refused.err


@pytest.mark.slow
def test_a_root_that_was_removed_is_made_again(tmp_path, kept):
    """A run with nothing to do but a removed root makes it, and compiles nothing: the packages are the same."""
    need("mmdebstrap")
    folder = project(tmp_path / "project", hello(tmp_path / "repository"), "newest of 5.10.*-cloud-amd64")
    pkgkmod("prepare_sources", cwd=folder)
    pkgkmod("build_modules", cwd=folder)
    for root in (kept / "roots").glob("bullseye-*"):
        shutil.rmtree(root)
    said = pkgkmod("build_modules", cwd=folder)
    assert "Making a build root of bullseye" in said.err
    assert "nothing to do" in said.err

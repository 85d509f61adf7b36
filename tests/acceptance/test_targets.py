"""Targets with sources of their own, and patches for some kernels, on real kernels."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.machine import commit, head, hello, made, need, pkgkmod
from tests.fixtures.matrix import several, small_cache

OLD, NEW = "newest of 6.1.0-*-cloud-amd64", "newest of 6.12.*+deb12-cloud-amd64"


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """An empty cache of results, and the store that all tests share."""
    folder = small_cache(tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def driver(tmp_path):
    """The example driver with two tagged versions, which tell what they are in their description."""
    made = hello(tmp_path / "repository")
    (source,) = made.repository.rglob("main.c")
    for version in ("one", "two"):
        text = re.sub(r'MODULE_DESCRIPTION\(".*"\)', f'MODULE_DESCRIPTION("version {version}")', source.read_text())
        source.write_text(text)
        commit(made.repository, version)
        subprocess.run(["git", "tag", version], cwd=made.repository, check=True)
    return type(made)(made.name, made.repository, made.directory, head(made.repository))


def test_two_targets_of_one_distribution_have_versions_of_their_own(tmp_path, driver):
    own = f"""
[[target]]
distro = "debian12"
name = "old"
kernels = ["{OLD}"]
revision = "one"
"""
    folder = several(tmp_path / "project", driver, (NEW,), own)
    assert "debian12 and old make packages of the same name and version" in pkgkmod("plan", cwd=folder).err
    with (folder / "pkgkmod.toml").open("a") as file:
        file.write('version = "0.9"\n')
    assert "same name and version" not in pkgkmod("build", "--target", "debian12", "--target", "old", cwd=folder).err
    sources = sorted(path.name for path in (folder / "results/build_deb").rglob("*.dsc"))
    assert sources == ["hello-modules_0.9-1~deb12.dsc", "hello-modules_1.0-1~deb12.dsc"]


def test_another_compiler_is_a_warning_where_the_project_says_so(tmp_path, driver):
    """A tree whose .config names a compiler that nobody has stands in for a kernel of another release."""
    kernel = max(Path("/lib/modules").glob("6.1.*-amd64/build")).resolve()
    tree = tmp_path / "tree"
    shutil.copytree(kernel, tree, symlinks=True, ignore=shutil.ignore_patterns("scripts", "tools"))
    for name in ("scripts", "tools"):
        (tree / name).symlink_to((kernel / name).resolve())
    config = tree / ".config"
    config.write_text(re.sub("CONFIG_GCC_VERSION=\\d+", "CONFIG_GCC_VERSION=990100", config.read_text()))
    release = kernel.name.removeprefix("linux-headers-")
    for name in ("include/generated/utsrelease.h", "include/config/kernel.release"):
        text = (tree / name).read_text()
        (tree / name).write_text(text.replace(release, f"{release}-other"))
    folder = several(tmp_path / "project", driver, (f"{release}-other",), f'[plugin.folder]\npaths = ["{tree}"]\n')
    assert "was built with gcc 99" in pkgkmod("build_modules", cwd=folder, code=7).err
    with (folder / "pkgkmod.toml").open("a") as file:
        file.write("[build]\nany_compiler = true\n")
    said = pkgkmod("build_modules", cwd=folder).err
    assert re.search(r"warning: 6\.1\.\S+-other was built with gcc 99, its modules are with gcc \d+", said)


def modinfo(file, field):
    done = subprocess.run(["/sbin/modinfo", "-F", field, str(file)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def patch_for(driver, folder, name, description, header=""):
    """Write a patch that changes the module's description."""
    (source,) = driver.repository.rglob("main.c")
    before = source.read_text()
    changed = re.sub(r'MODULE_DESCRIPTION\(".*"\)', f'MODULE_DESCRIPTION("{description}")', before)
    source.write_text(changed)
    diff = subprocess.run(["git", "diff"], cwd=driver.repository, capture_output=True, text=True, check=True).stdout
    source.write_text(before)
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"From: A Packager <packager@example.org>\nSubject: {description}\n{header}\n{diff}")


def test_a_target_has_a_revision_and_patches_of_its_own(tmp_path, driver):
    own = f"""
[[target]]
distro = "el8"
name = "old"
kernels = ["{OLD}"]
revision = "one"
patches = "fixes"
"""
    folder = several(tmp_path / "project", driver, (NEW,), own)
    subprocess.run(["git", "checkout", "-q", "one"], cwd=driver.repository, check=True)
    patch_for(driver, folder / "fixes", "0001-fix.patch", "version one, fixed")
    subprocess.run(["git", "checkout", "-q", driver.commit], cwd=driver.repository, check=True)
    pkgkmod("build", cwd=folder)
    found = {
        modinfo(path, "vermagic").split(".deb")[0].split("-")[0]: modinfo(path, "description")
        for path in (folder / "results/build_modules").rglob("*.ko")
    }
    assert {key[:4]: text for key, text in found.items()} == {"6.1.": "version one, fixed", "6.12": "version two"}
    plan = pkgkmod("plan", cwd=folder).out
    assert len(re.findall(r"^SKIP  prepare_sources", plan, re.MULTILINE)) == 2
    rpms = [path.name for path in (folder / "results/build_rpm").rglob("*x86_64.rpm")]
    assert len(rpms) == 2


@pytest.mark.parametrize("way", [(), ("--from-source",)])
def test_a_patch_for_some_kernels_is_applied_for_these(tmp_path, driver, way):
    folder = several(tmp_path / "project", driver, (OLD, NEW))
    file = folder / "pkgkmod.toml"
    file.write_text(file.read_text().replace("directories =", 'patches = "patches"\ndirectories ='))
    patch_for(driver, folder / "patches", "0001-new.patch", "only for 6.12", "Only-Kernels: 6.12.*")
    pkgkmod("build", *way, cwd=folder)
    unpacked = {}
    for deb in (folder / "results/build_deb").rglob("*-modules-[0-9]*amd64.deb"):
        place = tmp_path / deb.stem
        subprocess.run(["dpkg-deb", "-x", str(deb), str(place)], check=True)
        for module in place.rglob("hello.ko"):  # a meta package has none
            unpacked[modinfo(module, "vermagic")[:4]] = modinfo(module, "description")
    assert unpacked == {"6.1.": "version two", "6.12": "only for 6.12"}
    # The source package says so as well.
    (dsc,) = (folder / "results/build_deb").rglob("*.dsc")
    listed = subprocess.run(["tar", "-tf", str(next(dsc.parent.glob("*.orig.tar.xz")))], capture_output=True, text=True)
    assert "pkgkmod-patches/0001-0001-new.patch" in listed.stdout


def test_a_patch_for_some_kernels_that_does_not_apply_is_named(tmp_path, driver):
    folder = several(tmp_path / "project", driver, (OLD, NEW))
    file = folder / "pkgkmod.toml"
    file.write_text(file.read_text().replace("directories =", 'patches = "patches"\ndirectories ='))
    patch_for(driver, folder / "patches", "0001-new.patch", "only for 6.12", "Only-Kernels: 6.12.*")
    patch = folder / "patches/0001-new.patch"
    patch.write_text(
        patch.read_text().replace('-MODULE_DESCRIPTION("version two")', '-MODULE_DESCRIPTION("version 2")')
    )
    said = pkgkmod("build", "--target", "el9", cwd=folder, code=13).err
    assert re.search(r"0001-new\.patch does not apply for 6\.12", said)
    assert len(list((folder / "results/build_rpm").rglob("*x86_64.rpm"))) == 1


def test_ccache_gives_the_same_bytes_and_is_used(tmp_path, driver, caches):
    need("ccache")
    folder = several(tmp_path / "project", driver, (NEW,))
    pkgkmod("build_modules", cwd=folder)
    plain = made(folder, "hello.ko").read_bytes()
    other = several(tmp_path / "other", driver, (NEW,))
    with (other / "pkgkmod.toml").open("a") as file:
        file.write("\n[build]\nccache = true\nreuse = false\n")
    pkgkmod("build_modules", cwd=other)
    assert made(other, "hello.ko").read_bytes() == plain
    pkgkmod("build_modules", "--force", cwd=other)
    assert made(other, "hello.ko").read_bytes() == plain
    environment = {**os.environ, "CCACHE_DIR": str(caches / "pkgkmod/ccache")}
    told = subprocess.run(
        ["ccache", "--print-stats"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    hits = sum(
        int(line.split()[1]) for line in told.splitlines() if line.startswith(("direct_cache_hit", "preprocessed_"))
    )
    assert hits >= 1, told

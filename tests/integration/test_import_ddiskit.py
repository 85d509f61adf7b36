"""ddiskit projects, imported and built as they are: real git, quilt, kbuild and rpmbuild.

The kernel is a stand-in: real headers of Debian in the shape of Red Hat's packages (tests/fixtures/families.py).
"""

import json
import os
import shutil
import subprocess
import tomllib

import pytest

from tests.fixtures.families import ask, query, repository
from tests.fixtures.gitrepos import folder_state, make_repo
from tests.fixtures.machine import CHECKOUT, HELLO, made, need, pkgkmod
from tests.fixtures.rpmrepo import EL

CONFIG = f"""
[global]
module_vendor = acme
module_author = Jane Doe
module_author_email = jane@example.org
include_srpm = False
[spec_file]
module_name = hello
module_version = 1.2_dup9.4
module_version_epoch = 1
module_rpm_release = 3
rpm_dist = el9_4
module_build_dir = {HELLO}
kernel_version = {EL.removesuffix(".x86_64")}
kernel_arch = x86_64
dependencies = linux-firmware >= 20200101
summary = {{module_name}} module for Driver Update Program
firmware_include = True
firmware_version = 20240101
devel_package = 1
"""
PATCH = """--- a/drivers/misc/hello/main.c
+++ b/drivers/misc/hello/main.c
@@ -1 +1,2 @@
+/* patched */
 {first}
"""


@pytest.fixture(autouse=True)
def _nobodys_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "home").mkdir()
    (tmp_path / "config").mkdir()


@pytest.fixture
def el_kernel(tmp_path):
    need("bwrap", "make", "rpmbuild", "createrepo_c")
    url, key = repository()
    text = f'[[plugin.rpm-md.repositories]]\nbaseurl = "{url}"\ngpgkey = "{key}"\n'
    (tmp_path / "config/pkgkmod.toml").write_text(text)


@pytest.fixture
def ddiskit(tmp_path):
    """A project as ddiskit has it, around the example driver."""
    folder = tmp_path / "ddiskit"
    shutil.copytree(CHECKOUT / "examples/hello", folder / "src")
    (folder / "src/firmware/acme").mkdir(parents=True)
    (folder / "src/firmware/acme/hello.bin").write_text("firmware\n")
    (folder / "src/patches").mkdir()
    first = (folder / "src" / HELLO / "main.c").read_text().splitlines()[0]
    (folder / "src/patches/0001-mark.patch").write_text(PATCH.format(first=first))
    (folder / "module.config").write_text(CONFIG)
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


def git(folder, *args):
    done = subprocess.run(["git", "-C", folder, *args], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def facts(rpm):
    return {
        "name": query(rpm, "%{name} %{epoch}:%{version}-%{release} %{arch}"),
        "summary": query(rpm, "%{summary}"),
        "files": ask(rpm, "-l"),
        "requires": ask(rpm, "--requires"),
        "provides": ask(rpm, "--provides"),
        "conflicts": ask(rpm, "--conflicts"),
    }


def test_both_ways_give_the_packages_that_ddiskit_would(ddiskit, el_kernel, tmp_path):
    imported = tmp_path / "imported"
    pkgkmod("import", "ddiskit", ddiskit, "-o", imported, cwd=tmp_path)
    pkgkmod("build_rpm", cwd=imported)
    pkgkmod("build_rpm", "-c", "module.config", cwd=ddiskit)
    one, two = (
        {query(rpm, "%{name}"): facts(rpm) for rpm in folder.glob("results/build_rpm/*/*/*/*.rpm")}
        for folder in (imported, ddiskit)
    )
    assert one == two
    kmod = facts(made(ddiskit, "kmod-acme-hello-1*x86_64.rpm"))
    # What ddiskit's template says (templates/spec), where docs/how-to/coming-from-ddiskit.md names no difference.
    release = EL.removesuffix(".x86_64")
    assert kmod["name"] == f"kmod-acme-hello 1:1.2_dup9.4-3.k{release.replace('-', '_')}.el9 x86_64"
    assert kmod["summary"] == "hello module for Driver Update Program"
    assert f"/lib/modules/{EL}/extra/hello/hello.ko" in kmod["files"]
    assert f"kernel-modules = {EL}" in kmod["provides"]
    assert "kmod-hello" in kmod["conflicts"]
    assert "linux-firmware >= 20200101" in kmod["requires"]
    assert f"kernel-uname-r = {EL}" in kmod["requires"]
    assert any(line.startswith("kmod-acme-hello-firmware >= ") for line in kmod["requires"])
    assert any(line.startswith("kernel(") for line in kmod["requires"])
    assert {"kmod-acme-hello-firmware", "kmod-acme-hello-devel"} <= set(two)
    assert "/lib/firmware/updates/acme/hello.bin" in two["kmod-acme-hello-firmware"]["files"]
    assert "firmware(hello) = 20240101" in two["kmod-acme-hello-firmware"]["provides"]


def test_a_disk_a_spec_and_the_configuration_without_importing(ddiskit, el_kernel, tmp_path):
    need("xorriso")
    pkgkmod("generate_spec", "-c", "module.config", cwd=ddiskit)
    assert "Requires:       linux-firmware >= 20200101" in made(ddiskit, "kmod-acme-hello.spec").read_text()
    pkgkmod("build_iso", "-c", "module.config", "-i", "dd.iso", cwd=ddiskit)
    assert (ddiskit / "dd.iso").stat().st_size
    pkgkmod("-C", "spec_file.module_version=9", "dump_config", "-c", "module.config", "-o", "all.toml", cwd=ddiskit)
    dumped = tomllib.loads((ddiskit / "all.toml").read_text())
    assert dumped["project"]["version"] == "9"
    assert dumped["rpm"]["requires"] == ["linux-firmware >= 20200101"]


def test_an_import_leaves_the_project_alone_and_plans_at_once(ddiskit, el_kernel, tmp_path):
    before = folder_state(ddiskit)
    shown = pkgkmod("import", "ddiskit", ddiskit, "-n", "-o", tmp_path / "new", cwd=tmp_path)
    assert not (tmp_path / "new").exists()
    pkgkmod("import", "ddiskit", ddiskit, "-o", tmp_path / "new", cwd=tmp_path)
    assert folder_state(ddiskit) == before
    assert shown.out == (tmp_path / "new/pkgkmod.toml").read_text()
    assert git(tmp_path / "new/sources", "fsck", "--strict") == ""
    assert git(tmp_path / "new/sources", "status", "--porcelain") == ""
    assert (tmp_path / "new/firmware/acme/hello.bin").is_file()
    plan = pkgkmod("plan", "build_rpm", "--json", cwd=tmp_path / "new").events
    assert {event.get("stage") for event in plan} >= {"prepare_sources", "build_modules", "generate_spec", "build_rpm"}


def test_the_same_project_gives_the_same_bytes(ddiskit, tmp_path):
    for name, mask in (("a", 0o022), ("b", 0o077)):
        old = os.umask(mask)
        try:
            pkgkmod("import", "ddiskit", ddiskit, "-o", tmp_path / name, cwd=tmp_path, TZ="Asia/Tokyo")
        finally:
            os.umask(old)
    files = [tmp_path / name / "pkgkmod.toml" for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len({git(file.parent / "sources", "rev-parse", "HEAD") for file in files}) == 1
    assert "1700000000" in git(tmp_path / "a/sources", "cat-file", "commit", "HEAD")


def test_a_second_import_does_not_write_over_the_first(ddiskit, tmp_path):
    pkgkmod("import", "ddiskit", ddiskit, cwd=tmp_path)
    text = (ddiskit / "pkgkmod.toml").read_text()
    refused = pkgkmod("import", "ddiskit", ddiskit, cwd=tmp_path, code=2)
    assert "is there already" in refused.err
    pkgkmod("import", "ddiskit", ddiskit, "--force", cwd=tmp_path)
    assert (ddiskit / "pkgkmod.toml").read_text() == text
    (ddiskit / "src" / HELLO / "main.c").write_text("changed\n")
    assert "holds other sources" in pkgkmod("import", "ddiskit", ddiskit, "-f", cwd=tmp_path, code=4).err
    assert (ddiskit / "pkgkmod.toml").read_text() == text


def test_plan_touches_nothing_and_touching_changes_nothing(ddiskit, el_kernel):
    before = folder_state(ddiskit)
    pkgkmod("plan", "-c", "module.config", "build_rpm", cwd=ddiskit)
    assert folder_state(ddiskit) == before
    pkgkmod("prepare_sources", "-c", "module.config", cwd=ddiskit)
    assert git(ddiskit / "results/.src.git", "fsck", "--strict") == ""
    os.utime(ddiskit / "src" / HELLO / "main.c")
    again = pkgkmod("plan", "-c", "module.config", "prepare_sources", "--json", cwd=ddiskit).events
    assert [event["action"] for event in again] == ["SKIP"]
    with (ddiskit / "src" / HELLO / "main.c").open("a") as file:
        file.write("/* more */\n")
    changed = pkgkmod("plan", "-c", "module.config", "prepare_sources", "--json", cwd=ddiskit).events
    assert [event["action"] for event in changed] == ["RUN"]


def test_patches_that_quilt_has_applied_are_taken_back(ddiskit, tmp_path):
    need("quilt")
    source = ddiskit / "src"
    original = (source / HELLO / "main.c").read_text()
    (source / "patches/series").write_text("0001-mark.patch\n0002-new.patch\n")
    new = "--- /dev/null\n+++ b/drivers/misc/hello/new.h\n@@ -0,0 +1 @@\n+#define NEW 1\n"
    (source / "patches/0002-new.patch").write_text(new)
    quilt = ["quilt", "--quiltrc=-", "push", "-a"]
    subprocess.run(quilt, cwd=source, check=True, capture_output=True, env={**os.environ, "QUILT_PATCHES": "patches"})
    assert "patched" in (source / HELLO / "main.c").read_text()
    assert (source / HELLO / "new.h").exists()
    pkgkmod("import", "ddiskit", ddiskit, "-o", tmp_path / "new", cwd=tmp_path)
    assert (tmp_path / "new/sources" / HELLO / "main.c").read_text() == original
    assert not (tmp_path / "new/sources" / HELLO / "new.h").exists()
    pkgkmod("prepare_sources", cwd=tmp_path / "new")
    assert made(tmp_path / "new", f"tree/{HELLO}/main.c").read_text() == (source / HELLO / "main.c").read_text()


def test_the_kernel_repository_is_used_where_it_has_the_same_files(ddiskit, tmp_path):
    names = ("Kconfig", "Makefile", "main.c")
    files = {f"{HELLO}/{name}": (ddiskit / "src" / HELLO / name).read_bytes() for name in names}
    repo = make_repo(tmp_path / "linux", {**files, "Makefile": "VERSION = 6\n"})
    commit = repo.git("rev-parse", "HEAD")
    with (ddiskit / "module.config").open("a") as file:
        file.write(f"git_hash = {commit[:12]}\n")
    pkgkmod("import", "ddiskit", ddiskit, "-g", repo.path, "-o", tmp_path / "same", cwd=tmp_path)
    source = tomllib.loads((tmp_path / "same/pkgkmod.toml").read_text())["source"]
    assert (source["repository"], source["revision"]) == (str(repo.path), commit)
    assert not (tmp_path / "same/sources").exists()
    (ddiskit / "src" / HELLO / "main.c").write_text("edited\n")
    events = pkgkmod(
        "import", "ddiskit", ddiskit, "-g", repo.path, "-o", tmp_path / "other", "--json", cwd=tmp_path
    ).events
    (said,) = [event for event in events if event.get("key") == "git_hash"]
    assert said["outcome"] == "decide"
    assert f"{HELLO}/main.c differs" in said["text"]
    assert (tmp_path / "other/sources" / HELLO / "main.c").read_text() == "edited\n"
    absent = pkgkmod("import", "ddiskit", ddiskit, "-g", tmp_path / "home", "-n", cwd=tmp_path, code=4)
    assert "not a git repository" in absent.err


def test_prepare_sources_fills_src_as_ddiskit_did(ddiskit, tmp_path):
    repo = make_repo(tmp_path / "linux", {f"{HELLO}/Makefile": "obj-m += hello.o\n", f"{HELLO}/hello.c": "int x;\n"})
    state = folder_state(repo.path)
    flags = ("prepare_sources", "-c", "module.config", "-g", "../linux", "-r", "main", "-d", HELLO)
    refused = pkgkmod(*flags, cwd=ddiskit, code=2)
    assert "has sources already" in refused.err
    shutil.rmtree(ddiskit / "src")
    pkgkmod(*flags, "-n", cwd=ddiskit)
    assert not (ddiskit / "src").exists()
    done = pkgkmod(*flags, cwd=ddiskit)
    assert sorted(path.name for path in (ddiskit / "src" / HELLO).iterdir()) == ["Makefile", "hello.c"]
    assert f"git_hash = {repo.git('rev-parse', 'HEAD')}" in done.err
    assert (ddiskit / "module.config").read_text() == CONFIG
    assert folder_state(repo.path) == state
    provenance = json.loads(made(ddiskit, "provenance.json").read_text())
    assert [one["path"] for one in provenance["directories"]] == [HELLO]


def test_a_file_that_is_no_project_is_said_to_be_none(ddiskit, tmp_path):
    (ddiskit / "module.config").write_text("[spec_file]\nnonsense\n")
    assert "module.config:2" in pkgkmod("import", "ddiskit", ddiskit, cwd=tmp_path, code=3).err
    assert "module.config:2" in pkgkmod("build_rpm", "-c", "module.config", cwd=ddiskit, code=3).err
    assert "does not exist" in pkgkmod("import", "ddiskit", tmp_path / "gone", cwd=tmp_path, code=3).err
    assert not (tmp_path / "gone").exists()

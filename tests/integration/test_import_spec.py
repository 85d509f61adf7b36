"""pkgkmod import spec: specs in the shapes that are about, with the real rpmspec, rpmbuild and git."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.machine import CHECKOUT, Finished, need, pkgkmod, series_and_kernel

SPECS = CHECKOUT / "tests/fixtures/specs"
HELLO = CHECKOUT / "examples/hello/drivers/misc/hello/main.c"
MAKEFILE = "obj-m := hello.o\nhello-y := main.o\n"
TWICE = """\
--- a/src/main.c
+++ b/src/main.c
@@ -1,2 +1,3 @@
+/* twice */
 // SPDX-License-Identifier: GPL-2.0-or-later
 /* A driver that greets: small enough to read, and a whole module all the same. */
"""
THRICE = """\
--- main.c.orig
+++ main.c
@@ -1,3 +1,4 @@
+/* thrice */
 /* twice */
 // SPDX-License-Identifier: GPL-2.0-or-later
 /* A driver that greets: small enough to read, and a whole module all the same. */
"""


def sources(folder: Path, name: str, *, top: str, makefile: str = MAKEFILE) -> None:
    """Write an archive with the driver in its src/, always the same."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "src/main.c": HELLO.read_bytes(),
        "src/Makefile": makefile.encode(),
        "src/README": b"x",
    }
    kind = {"gz": "gz", "xz": "xz", "bz2": "bz2"}[name.rpartition(".")[2]]
    with tarfile.open(folder / name, f"w:{kind}") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(f"{top}/{path}")
            member.size, member.mtime = len(content), 1_700_000_000
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A folder with the specs of all shapes, and their sources."""
    need("rpmspec", "bwrap", "git")
    folder = tmp_path / "beside"
    shutil.copytree(SPECS, folder)
    sources(folder, "hello-driver-1.2.tar.gz", top="hello-driver-1.2")
    sources(folder, "hello-1.2.tar.xz", top="hello-1.2")
    sources(folder, "hello-1.2.tar.bz2", top="hello-1.2")
    for name, text in {
        "greet-twice.patch": TWICE,
        "in-src.patch": THRICE,
        "never-applied.patch": TWICE,
        "99-hello.rules": "",
        "GPL-v2.0.txt": "",
        "preamble": "Requires: nothing\n",
    }.items():
        (folder / name).write_text(text)
    return folder


def values(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pkgkmod.toml").read_text())


def fates(said: Finished) -> dict[str, list[tuple[str, str, str]]]:
    """What became of each key: outcome, value and place."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for event in said.events:
        if event["event"] == "imported":
            fate = (str(event["outcome"]), str(event["value"]), str(event["place"]))
            found.setdefault(str(event["key"]), []).append(fate)
    return found


def line_of(spec: str, text: str) -> str:
    lines = (SPECS / spec).read_text().splitlines()
    return f"line {next(n for n, line in enumerate(lines, start=1) if text in line)}"


def test_a_spec_of_elrepos_shape(beside: Path, tmp_path: Path) -> None:
    said = pkgkmod("import", "spec", beside / "kmod-hello.spec", "-o", "new", "--json", cwd=tmp_path)
    found = values(tmp_path / "new")
    assert found["project"] == {
        "name": "hello",
        "version": "1.2",
        "release": "3",
        "epoch": 2,
        "summary": "Kernel modules of the hello driver",
        "description": found["project"]["description"],
        "license": "GPL-2.0-or-later",
        "maintainer": "Ann Packager <ann@example.org>",
        "url": "https://example.org/hello",
    }
    assert " ".join(found["project"]["description"].split()) == "The modules of the hello driver. They greet."
    kernel = "5.14.0-570.12.1.el9_6"
    assert found["target"] == [{"distro": "el9", "kernels": [f"{kernel}.x86_64", f"{kernel}.aarch64"]}]
    assert found["rpm"] == {
        "installer_kernels": "later",
        "requires": ["hello-firmware >= 2"],
        "build_requires": ["flex >= 2.6", "bison"],
    }
    assert found["source"]["directories"] == ["hello", "hello/src"] and found["kconfig"] == {"HELLO": "m"}
    became = fates(said)
    spec = "kmod-hello.spec"
    for key, text, shown in (
        ("%prep", "sed -i", "sed -i 's/hello/hullo/' src/README"),
        ("%post", "udevadm", "udevadm control --reload"),
        ("%install", "%{SOURCE9}", "install -m 0644 %{_topdir}/99-hello.rules %{buildroot}/usr/lib/udev/rules.d/"),
        ("%files", "/usr/lib/udev/rules.d/99-hello.rules", "/usr/lib/udev/rules.d/99-hello.rules"),
        ("Obsoletes", "Obsoletes:", "kmod-hullo < 1"),
    ):
        assert ("decide", shown, line_of(spec, text)) in became[key], key
    # Nothing else needs a decision: the greylist, signing, weak-modules and dracut are the packages' own.
    decisions = {key for key, list_ in became.items() if any(fate[0] == "decide" for fate in list_)}
    assert decisions == {"%prep", "%post", "%install", "%files", "Obsoletes", "Source9"}
    assert ("changed", "%if 0%{?rhel} >= 9", line_of(spec, "%if 0%{?rhel}")) in became["%if"]
    assert ("left out", "never-applied.patch", line_of(spec, "Patch9")) in became["Patch9"]
    assert (tmp_path / "new/imported.spec").read_text() == (SPECS / spec).read_text()
    assert (tmp_path / "new/patches/series").read_text() == "greet-twice.patch\nin-src.patch\n"


def test_the_imported_project_builds_and_has_the_same_name_and_modules(beside: Path, tmp_path: Path) -> None:
    need("rpmbuild", "make", "gcc")
    _, kernel = series_and_kernel()
    pkgkmod("import", "spec", beside / "kmod-hello.spec", "-o", "new", "--kernel", kernel, cwd=tmp_path)
    folder = tmp_path / "new"
    assert "RUN" in pkgkmod("plan", cwd=folder).out
    pkgkmod("build_rpm", cwd=folder)
    (package,) = [file for file in folder.glob("results/build_rpm/*/*/*/*.rpm") if ".src." not in file.name]
    query = "%{NAME} %{EPOCH} %{VERSION} %{LICENSE}\n[%{FILENAMES}\n]"
    name, *files = subprocess.check_output(["rpm", "-qp", "--qf", query, package], text=True).splitlines()
    assert name == "kmod-hello 2 1.2 GPL-2.0-or-later"
    assert f"/lib/modules/{kernel}/extra/hello/hello.ko" in files
    (patched,) = folder.glob("results/prepare_sources/*/*/*/tree/hello/src/main.c")
    assert patched.read_text().startswith("/* thrice */\n/* twice */\n")


def test_a_spec_of_akmods_shape_keeps_what_make_is_given(beside: Path, tmp_path: Path) -> None:
    said = pkgkmod("import", "spec", beside / "hello-kmod.spec", "-o", "new", "--json", cwd=tmp_path)
    found = values(tmp_path / "new")
    assert found["target"] == [{"distro": "fedora", "kernels": ["newest"]}]
    assert found["project"]["name"] == "hello" and found["project"]["license"] == "GPL-2.0-only AND BSD-3-Clause"
    assert found["project"]["version"] == "1.2+20250101git0123abc" and found["project"]["release"] == "1"
    assert found["build"]["make"] == "make -C $KERNEL_TREE M=$SOURCES/src GREETING=hi modules"
    assert found["module"] == [{"name": "hello", "built": "src/hello.ko"}]
    became = fates(said)
    assert [fate[0] for fate in became["License"]] == ["decide"] and [fate[0] for fate in became["make"]] == ["changed"]
    assert [fate[0] for fate in became["%package common"]] == ["left out"]


def test_calls_of_make_are_listed_where_no_makefile_defines_a_module(beside: Path, tmp_path: Path) -> None:
    sources(beside, "hello-1.2.tar.xz", top="hello-1.2", makefile="include hidden.mk\n")
    said = pkgkmod("import", "spec", beside / "hello-kmod.spec", "-o", "new", "--json", cwd=tmp_path)
    became = fates(said)
    assert [fate[0] for fate in became["modules"]] == ["decide"]
    assert [fate[:2] for fate in became["make"] if fate[0] == "decide"] == [("decide", "GREETING=hi")]
    assert "build" not in values(tmp_path / "new")


def test_what_make_is_given_reaches_the_compiler(beside: Path, tmp_path: Path) -> None:
    _, kernel = series_and_kernel()
    picky = f"{MAKEFILE}ifneq ($(GREETING),hi)\n$(error nobody greets)\nendif\n"
    sources(beside, "hello-1.2.tar.xz", top="hello-1.2", makefile=picky)
    options = ("-o", "new", "--distro", "el9", "--kernel", kernel)
    pkgkmod("import", "spec", beside / "hello-kmod.spec", *options, cwd=tmp_path)
    pkgkmod("build_modules", cwd=tmp_path / "new")
    (module,) = tmp_path.glob("new/results/build_modules/*/*/*/hello.ko")
    assert module.stat().st_size


def test_a_spec_of_suses_shape(beside: Path, tmp_path: Path) -> None:
    said = pkgkmod("import", "spec", beside / "hello.spec", "-o", "new", "--json", cwd=tmp_path)
    found = values(tmp_path / "new")
    assert found["project"]["name"] == "hello" and found["target"][0]["distro"] == "leap"
    assert found["project"]["license"] == "GPL-2.0-or-later"
    became = fates(said)
    place = line_of("hello.spec", "%kernel_module_package -n")
    assert became["%kernel_module_package"] == [("decide", "-n hello -p %{_topdir}/preamble -x debug", place)]
    place = line_of("hello.spec", "EXTRA_CFLAGS")
    assert ("decide", "export EXTRA_CFLAGS='-DVERSION=\\\"1.2\\\"'", place) in became["make"]
    assert [fate[0] for fate in became["%prep"]] == ["carried"]


def test_a_source_package_gives_the_same_as_its_spec(beside: Path, tmp_path: Path) -> None:
    need("rpmbuild", "rpm2archive")
    top = tmp_path / "top"
    defines = {"_topdir": top, "_sourcedir": beside, "_dbpath": top / "db", "dist": ".el9"}
    argv = [word for name, value in defines.items() for word in ("--define", f"{name} {value}")]
    subprocess.run(["rpmbuild", "-bs", "--nodeps", *argv, beside / "kmod-hello.spec"], check=True, capture_output=True)
    (package,) = (top / "SRPMS").iterdir()
    pkgkmod("import", "spec", package, "-o", "packed", cwd=tmp_path)
    pkgkmod("import", "spec", beside / "kmod-hello.spec", "-o", "plain", cwd=tmp_path, TZ="America/Lima")
    packed, plain = values(tmp_path / "packed"), values(tmp_path / "plain")
    # The commit's message says what it is of.
    packed["source"].pop("revision")
    plain["source"].pop("revision")
    assert packed == plain
    for name in ("imported.spec", "patches/in-src.patch", "sources/hello/src/main.c"):
        assert (tmp_path / "packed" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_the_same_spec_gives_the_same_project(beside: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        before = os.umask(0o077 if name == "one" else 0o022)
        try:
            pkgkmod("import", "spec", beside / "kmod-hello.spec", "-o", name, cwd=tmp_path)
        finally:
            os.umask(before)
    one, other = tmp_path / "one", tmp_path / "other"
    assert (one / "pkgkmod.toml").read_bytes() == (other / "pkgkmod.toml").read_bytes()


def test_nothing_is_written_with_n_and_nothing_is_written_over(beside: Path, tmp_path: Path) -> None:
    said = pkgkmod("import", "spec", beside / "kmod-hello.spec", "-o", "new", "-n", cwd=tmp_path)
    assert tomllib.loads(said.out)["project"]["name"] == "hello" and not (tmp_path / "new").exists()
    (tmp_path / "new").mkdir()
    (tmp_path / "new/pkgkmod.toml").write_text("mine")
    said = pkgkmod("import", "spec", beside / "kmod-hello.spec", "-o", "new", cwd=tmp_path, code=2)
    assert "--force" in said.err and (tmp_path / "new/pkgkmod.toml").read_text() == "mine"
    pkgkmod("import", "spec", beside / "kmod-hello.spec", "-o", "new", "--force", cwd=tmp_path)
    assert values(tmp_path / "new")["project"]["name"] == "hello"


def test_a_licence_that_spdx_does_not_know_is_kept_and_listed(beside: Path, tmp_path: Path) -> None:
    spec = beside / "kmod-hello.spec"
    spec.write_text(spec.read_text().replace("GPLv2+", "Redistributable, no modification permitted"))
    said = pkgkmod("import", "spec", spec, "-n", "--json", cwd=tmp_path)
    assert "decide" in [fate[0] for fate in fates(said)["License"]]


def test_sources_that_are_not_there_are_named(beside: Path, tmp_path: Path) -> None:
    (beside / "hello-driver-1.2.tar.gz").unlink()
    said = pkgkmod("import", "spec", beside / "kmod-hello.spec", "-o", "new", cwd=tmp_path, code=17)
    assert "hello-driver-1.2.tar.gz" in said.err and "source RPM" in said.err and not (tmp_path / "new").exists()


def test_a_patch_that_does_not_apply_is_reported_and_kept(beside: Path, tmp_path: Path) -> None:
    (beside / "in-src.patch").write_text(THRICE.replace(" /* twice */", " /* never there */"))
    said = pkgkmod("import", "spec", beside / "kmod-hello.spec", "-o", "new", "--json", cwd=tmp_path)
    (fate,) = fates(said)["patches/in-src.patch"]
    assert fate[0] == "decide" and (tmp_path / "new/patches/in-src.patch").exists()
    pkgkmod("prepare_sources", cwd=tmp_path / "new", code=5)


# --- specs of people who mean no good ------------------------------------------------------------------


def hostile(beside: Path, line: str) -> Path:
    spec = beside / "hostile.spec"
    text = (SPECS / "kmod-hello.spec").read_text()
    spec.write_text(text.replace("Group:", f"{line}\nGroup:", 1))
    return spec


def test_macros_reach_no_file_and_no_network(beside: Path, tmp_path: Path) -> None:
    secret, owned = tmp_path / "secret", tmp_path / "owned"
    secret.write_text("the-password")
    spec = hostile(
        beside, f"%global stolen %(touch {owned}; cat {secret} 2>/dev/null; ls /sys/class/net 2>/dev/null | wc -w)"
    )
    spec.write_text(spec.read_text().replace("They greet.", "They greet %{stolen} times."))
    said = pkgkmod("import", "spec", spec, "-o", "new", "--json", cwd=tmp_path)
    text = values(tmp_path / "new")["project"]["description"]
    assert not owned.exists() and "the-password" not in text and "They greet" in text
    assert [fate[0] for fate in fates(said)["macro"]] == ["changed"]


def test_macros_that_never_end_are_stopped(beside: Path, tmp_path: Path) -> None:
    spec = hostile(beside, "%global endless %(yes)")
    began = time.monotonic()
    said = pkgkmod("import", "spec", spec, "-o", "new", cwd=tmp_path, code=17)
    assert "rpm does not understand" in said.err and not (tmp_path / "new").exists()
    assert time.monotonic() - began < 60  # a limit of the program itself, not of its speed


def test_a_file_that_a_macro_puts_in_the_place_of_the_output_is_not_read(beside: Path, tmp_path: Path) -> None:
    spec = hostile(beside, "%global x %(rm -f expanded; ln -s /etc/passwd expanded)")
    said = pkgkmod("import", "spec", spec, "-o", "new", cwd=tmp_path, code=3)
    assert "no usable name" in said.err and "root:" not in said.out + said.err


def test_texts_of_a_spec_reach_no_shell_and_break_nothing(beside: Path, tmp_path: Path) -> None:
    spec = hostile(beside, "%global unused 1")
    text = spec.read_text().replace("Kernel modules of the", 'x"; $(touch /tmp/owned-by-spec) `id` \\" """ ]] #', 1)
    spec.write_text(text)
    pkgkmod("import", "spec", spec, "-o", "new", cwd=tmp_path)
    assert '$(touch /tmp/owned-by-spec) `id` \\" """ ]] #' in values(tmp_path / "new")["project"]["summary"]
    assert not Path("/tmp/owned-by-spec").exists()


@pytest.mark.parametrize("name", ["../../owned", "/owned", "hello-driver-1.2/../../../owned"])
def test_an_archive_with_names_that_lead_out_is_refused(beside: Path, tmp_path: Path, name: str) -> None:
    with tarfile.open(beside / "hello-driver-1.2.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    said = pkgkmod("import", "spec", beside / "kmod-hello.spec", "-o", "new", cwd=tmp_path, code=17)
    assert "not safe to write" in said.err and not list(tmp_path.rglob("owned"))


def test_what_is_no_spec(tmp_path: Path) -> None:
    need("rpmspec", "bwrap")
    (tmp_path / "x.spec").write_bytes(b"\0\xff\xfe nonsense")
    pkgkmod("import", "spec", "x.spec", cwd=tmp_path, code=17)
    (tmp_path / "x.src.rpm").write_bytes(b"nonsense")
    pkgkmod("import", "spec", "x.src.rpm", cwd=tmp_path, code=17)
    pkgkmod("import", "spec", "absent.spec", cwd=tmp_path, code=17)

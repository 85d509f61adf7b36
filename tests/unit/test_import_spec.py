"""Importing specs: marks and sections, scripts, patches, licences, archives; nothing is run here."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from pkgkmod.config.importers.spec import distro_macros, distro_of, translate
from pkgkmod.config.importers.specmake import folder_of, kbuild_only, make_command
from pkgkmod.config.importers.specpatches import move_patch
from pkgkmod.config.importers.specscripts import built, not_understood, prepared
from pkgkmod.config.importers.spectext import Line, Part, conditions, marked, parts_of, programs
from pkgkmod.data import names
from pkgkmod.data.distros import find_distro
from pkgkmod.errors import ConfigError, InputError
from pkgkmod.formats.tarball import unpack_tarball

SPEC = """\
Name: kmod-x
%if 1
Version: 1
%endif
%global long \\
  one \\
  two
%{expand:%(
  echo
)}
%description
Text
%prep
%setup -q -n x
%patch3 -p2
%build
make \\
  modules M=$PWD
%files
/a
/b
"""


def part(name: str, *lines: str) -> Part:
    return Part(name, lines=[Line(number, text) for number, text in enumerate(lines, start=1)])


# --- marks and sections --------------------------------------------------------------------------------


def test_marks_stand_before_tags_and_commands_and_nowhere_inside_a_macro() -> None:
    lines = marked(SPEC).splitlines()
    assert lines[lines.index("Name: kmod-x") - 1] == "Provides: pkgkmod-line(1)"
    assert (
        lines[lines.index("make \\") - 1] == "#pkgkmod@17" and lines[lines.index("make \\") + 1] == "  modules M=$PWD"
    )
    assert lines[lines.index("%global long \\") + 1] == "  one \\" and lines[lines.index("  echo") + 1] == ")}"
    assert "#pkgkmod:setup - -q -n x" in lines and "#pkgkmod:patch 3 -p2" in lines
    assert [line for line in lines if not line.startswith(("Provides: pkgkmod", "#pkgkmod"))] == [
        line for line in SPEC.splitlines() if not line.startswith(("%setup", "%patch"))
    ]


def test_sections_are_found_where_rpm_does_not_print_them() -> None:
    # As rpm 4.18 prints it: without %build, behind %prep; without comments among the files.
    printed = marked(SPEC).replace("%build\n", "").replace("%if 1\n", "\n").replace("%endif\n", "\n")
    found = parts_of(printed, SPEC)
    assert [(one.name, one.number) for one in found] == [
        ("preamble", 1),
        ("description", 11),
        ("prep", 13),
        ("build", 16),
        ("files", 19),
    ]
    by_name = {one.name: one.lines for one in found}
    assert by_name["prep"] == [Line(14, "%setup - -q -n x"), Line(15, "%patch 3 -p2")]
    assert by_name["build"] == [Line(17, "make modules M=$PWD")]
    assert by_name["files"] == [Line(20, "/a"), Line(21, "/b")]
    assert Line(3, "Version: 1") in by_name["preamble"]


def test_conditions_and_programs_are_listed_with_their_lines() -> None:
    text = "%if 0%{?rhel}\n%else\n%endif\n# %(no)\n%global a %(date)\n%global b %{lua:x()}\n%global c %%(no)\n"
    assert [line.number for line in conditions(text)] == [1]
    assert [line.number for line in programs(text)] == [5, 6]


# --- scripts -------------------------------------------------------------------------------------------


def test_where_and_how_patches_are_applied() -> None:
    found = prepared(
        part(
            "prep",
            "%setup - -q -c -T -a 0 -n top",
            "%patch 0 -p1",
            "pushd drv",
            "%patch - -P 3 -p0 -b .orig",
            "patch -p2 < %{_topdir}/by-name.patch",
            "popd; cd other",
            "%patch - 4 5 -p1 -R",
            "autoreconf -fi",
        )
    )
    assert found.name == "top" and found.created and found.every_patch is None and not found.more_archives
    assert [(one.number, one.file, one.strip, one.folder, one.reverse) for one in found.patches] == [
        (0, "", 1, "", False),
        (3, "", 0, "drv", False),
        (None, "by-name.patch", 2, "drv", False),
        (4, "", 1, "other", True),
        (5, "", 1, "other", True),
    ]
    assert [line.text for line in found.rest] == ["autoreconf -fi"]


@pytest.mark.parametrize(
    ("line", "strip"), [("%autosetup - -p1 -n x", 1), ("%autosetup - -n x", None), ("%autosetup - -N", "none")]
)
def test_autosetup(line: str, strip: object) -> None:
    found = prepared(part("prep", line)).every_patch
    assert (found.strip if found else "none") == strip


def test_more_archives_are_noticed() -> None:
    assert len(prepared(part("prep", "%setup - -q -a 1 -b 2")).more_archives) == 2


def test_calls_of_make() -> None:
    found = built(
        part(
            "build",
            "for k in KERNEL___KERNEL_TREE; do make -C ${k##*___} M=$PWD/_kmod_build_K CONFIG_X=m Y=z modules; done",
            "make KDIR=KERNEL_TREE all",
            "export EXTRA_CFLAGS=-DX",
            "./configure --with-linux=KERNEL_TREE",
        )
    )
    assert found.folders == ["$PWD/_kmod_build_K"] and found.options == {"X": "m"}
    assert [line.text for line in found.variables] == ["Y=z", "KDIR=KERNEL_TREE"]
    assert [line.text for line in found.plain] == ["make KDIR=KERNEL_TREE all"]
    assert [line.text for line in found.flags] == ["export EXTRA_CFLAGS=-DX"]
    assert [line.text for line in found.rest] == ["./configure --with-linux=KERNEL_TREE"]


def test_scriptlets_that_do_more_than_packages_do() -> None:
    known = (
        "modules=( $(find /lib/modules/K/extra/x | grep '\\.ko$') )",
        "printf '%s\\n' \"${modules[@]}\" | /usr/sbin/weak-modules --add-modules",
        'if [ -e "/boot/System.map-K" ]; then /usr/sbin/depmod -aeF /boot/System.map-K K || :; fi',
        "exit 0",
    )
    assert not_understood(part("post", *known)) == []
    for line in ("rm -rf /opt/x", "if true; then systemctl restart x; fi", "touch /etc/x", "curl http://x | sh"):
        (found,) = not_understood(part("post", *known, line))
        assert found.number == 5 and found.text in line


def test_make_in_the_words_of_build_make() -> None:
    line = Line(
        1, 'make V=1 -C ${kernel_version##*___} M=${PWD}/_kmod_build_${kernel_version%___*}/src A="b c" modules'
    )
    assert make_command(line) == 'make -C $KERNEL_TREE M=$SOURCES/src "A=b c" modules'
    assert make_command(line, "other") == 'make -C $KERNEL_TREE M=$SOURCES/other "A=b c" modules'
    plain = Line(1, "make -C /usr/src/kernels/5.14.0-1.el9.x86_64 -j4 V=1 modules M=$PWD CONFIG_X=m")
    assert kbuild_only(plain, "") == "make -C $KERNEL_TREE M=$SOURCES"
    assert make_command(Line(1, 'make X="`id`;$(id)" KVER=KERNEL')) == 'make "X=\\`id\\`;$(id)" KVER=$KERNEL'


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("$PWD", "."),
        ("$PWD/src", "src"),
        ("`pwd`", "."),
        ("$(pwd)/a/b", "a/b"),
        ("$PWD/obj/$flavor", "."),
        ("${PWD}/_kmod_build_X/ext", "ext"),
        ("$PWD/../up", "."),
        ("$(id)", "."),
    ],
)
def test_the_folder_that_kbuild_is_called_for(text: str, folder: str) -> None:
    assert folder_of(text) == folder


# --- patches -------------------------------------------------------------------------------------------

FILES = {"drv/src/main.c", "drv/src/old.c", "drv/Makefile"}
CHANGE = "--- {0}\n+++ {1}\n@@ -1,2 +1,2 @@\n--- not a head\n+++ nor this\n same\n"


@pytest.mark.parametrize(
    ("old", "new", "strip", "folder"),
    [
        ("a/src/main.c", "b/src/main.c", 1, ""),
        ("src/main.c", "src/main.c", 0, ""),
        ("main.c", "main.c", 0, "src"),
        ("x-1.0.orig/src/main.c\t2024-01-01 00:00:00", "x-1.0/src/main.c\t2024-01-01", 1, ""),
        ("main.c.orig", "main.c", 0, "src"),
        ("a/src/main.c", "b/src/main.c", 0, ""),  # the spec says another number, and rpm's patch would guess
        ("a/main.c", "b/main.c", 1, "somewhere/else"),
    ],
)
def test_paths_of_a_patch_begin_at_the_top(old: str, new: str, strip: int, folder: str) -> None:
    moved = move_patch(CHANGE.format(old, new).encode(), FILES, strip=strip, folder=folder, top="drv")
    assert moved and moved.content.decode() == CHANGE.format("a/drv/src/main.c", "b/drv/src/main.c")


def test_files_that_come_go_and_move() -> None:
    patch = """\
Says why.
diff --git a/src/new.c b/src/new.c
new file mode 100644
--- /dev/null
+++ b/src/new.c
@@ -0,0 +1 @@
+new
--- a/src/old.c
+++ /dev/null
@@ -1 +0,0 @@
-old
diff --git a/src/main.c b/src/first.c
rename from src/main.c
rename to src/first.c
--- a/src/main.c
+++ b/src/first.c
@@ -1 +1 @@
-a
+b
"""
    moved = move_patch(patch.encode(), FILES, strip=1, folder="", top="drv")
    assert moved and moved.created == {"drv/src/new.c"} and moved.removed == {"drv/src/old.c"}
    text = moved.content.decode()
    assert "diff --git a/drv/src/new.c b/drv/src/new.c\n" in text and "--- /dev/null\n+++ b/drv/src/new.c\n" in text
    assert "--- a/drv/src/old.c\n+++ /dev/null\n" in text and text.startswith("Says why.\n")
    assert "rename from drv/src/main.c\nrename to drv/src/first.c\n" in text


@pytest.mark.parametrize("path", ["/etc/passwd", "a/../../etc/passwd", "a/never/there.c"])
def test_patches_of_other_files_are_not_moved(path: str) -> None:
    assert move_patch(CHANGE.format(path, path).encode(), FILES, strip=1, folder="", top="drv") is None


# --- the whole -----------------------------------------------------------------------------------------


def project_of(*tags: str) -> dict[str, dict[str, object]]:
    preamble = part("preamble", "Name: kmod-x", *tags)
    return translate("", [preamble], (), "el9", None).values


@pytest.mark.parametrize(
    ("given", "license"),
    [
        ("GPLv2", "GPL-2.0-only"),
        ("GPLv2+ and (BSD or MIT)", "GPL-2.0-or-later AND (BSD-3-Clause OR MIT)"),
        ("GPL-2.0-only WITH Linux-syscall-note", "GPL-2.0-only WITH Linux-syscall-note"),
        ("Redistributable, no modification permitted", "Redistributable, no modification permitted"),
    ],
)
def test_licences_in_the_words_of_spdx(given: str, license: str) -> None:
    assert project_of(f"License: {given}")["project"]["license"] == license


def test_releases_lose_the_distribution_and_versions_what_packages_cannot_have() -> None:
    found = project_of("Release: 0.3.el9_4.2", "Version: 1.0^git-2")["project"]
    assert found["release"] == "0.3" and found["version"] == "1.0+git.2"


@pytest.mark.parametrize("name", ["%{kmod_name}", "kmod-", "Kernel Module", "../x"])
def test_a_spec_without_a_usable_name(name: str) -> None:
    with pytest.raises(ConfigError, match="no usable name"):
        translate("", [part("preamble", f"Name: {name}")], (), "el9", None)


@pytest.mark.parametrize(
    ("text", "distro"),
    [
        ("%define kmod_name x\n%{!?dist: %define dist .el8}", "el8"),
        ("%global buildforkernels akmod\nRelease: 1.el9", "fedora"),
        ("%kernel_module_package -p %{S:1}", "leap"),
        ("Release: 1.el6", "el9"),
    ],
)
def test_which_distribution_a_spec_is_for(text: str, distro: str) -> None:
    assert distro_of(text, names("distros")) == distro


@pytest.mark.parametrize("distro", names("distros"))
def test_each_distribution_has_macros_that_rpm_can_define(distro: str) -> None:
    macros = distro_macros(find_distro(distro))
    assert all(name.partition("(")[0].replace("_", "").isalnum() for name in macros)
    assert macros.get("dist", "") in ("", find_distro(distro).version_suffix)


# --- archives ------------------------------------------------------------------------------------------


def archive(path: Path, *members: tuple[str, bytes, str]) -> Path:
    """Write an archive: name, kind, and content or target of each."""
    with tarfile.open(path, "w:gz") as made:
        for name, kind, text in members:
            member = tarfile.TarInfo(name)
            member.type, member.mtime = kind, 1_600_000_000
            if kind == tarfile.REGTYPE:
                member.size = len(text)
            else:
                member.linkname = text
            made.addfile(member, io.BytesIO(text.encode()))
    return path


def test_what_an_archive_may_hold(tmp_path: Path) -> None:
    file, link, hard, device = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE
    made = archive(
        tmp_path / "x.tar.gz",
        ("./x/a", file, "one"),
        ("x/a", file, "two"),
        ("x/b", link, "a"),
        ("x/c", hard, "x/a"),
        ("x/out", link, "../../etc/passwd"),
        ("x/abs", link, "/etc/passwd"),
        ("x/null", device, ""),
        ("x/.git/config", file, "[core]"),
        ("x/dir", link, "."),
        ("x/dir/through", file, "not through the link"),
    )
    place = tmp_path / "place"
    place.mkdir()
    found = unpack_tarball(made, place)
    assert (place / "x/a").read_text() == (place / "x/c").read_text() == "two"
    assert (place / "x/b").readlink() == Path("a") and int((place / "x/a").stat().st_mtime) == 1_600_000_000
    names_left_out = {text.partition(":")[0] for text in found.left_out}
    assert names_left_out == {"x/out", "x/abs", "x/null", "x/.git/config", "x/dir"}
    assert (place / "x/dir/through").is_file() and not (place / "x/through").exists()


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a\nb", "/".join(["d"] * 80), "d" * 300])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(InputError):
        unpack_tarball(archive(tmp_path / "x.tar.gz", (name, tarfile.REGTYPE, "x")), place)
    assert not any(path.is_file() for path in place.rglob("*"))


def test_an_archive_that_says_it_holds_more_than_there_is_room_for(tmp_path: Path) -> None:
    member = tarfile.TarInfo("x/huge")
    member.size = 5 << 30
    (tmp_path / "x.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(InputError, match="more than a source tree"):
        unpack_tarball(tmp_path / "x.tar", tmp_path)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\0cut", b"BZh9cut", b"\xfd7zXZ\0cut"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.tar cannot be unpacked"):
        unpack_tarball(tmp_path / "x.tar", tmp_path)

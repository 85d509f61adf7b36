"""What imported files use outside, found in C and Makefiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from pkgkmod.errors import PatchError
from pkgkmod.sources.reach import include_folders, outside_reaches
from tests.fixtures.gitrepos import Listener, make_repo
from tests.integration.test_sources_local import do_import, names
from tests.integration.test_sources_patches import put


def lay(tree: Path, **files: str) -> Path:
    for name, content in files.items():
        path = tree / "drivers/d" / name.replace("__", "/").replace("_c", ".c").replace("_h", ".h")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tree


def needs(tree: Path) -> list[tuple[str, int, tuple[str, ...]]]:
    return [(r.file.removeprefix("drivers/d/"), r.line, r.needs) for r in outside_reaches(tree)]


@pytest.mark.parametrize(
    ("line", "needed"),
    [
        ('#include "../x.h"', ("drivers/x.h",)),
        (' #  include\t"../../lib/x.h" /* why */', ("lib/x.h",)),
        ('#include "../../lib/../fs/x.c"', ("fs/x.c",)),
        ('#include "../../include/linux/x.h"', ("include/linux/x.h",)),
        ('#include "../d/own.h"', None),
        ('#include "own.h"', None),
        ('#include "generated.h"', ("drivers/d/generated.h",)),
        ("#include <linux/module.h>", None),
        ("#include <../x.h>", None),
        ('#include "../../../../x.h"', None),
        ('s = "#include \\"../x.h\\"";', None),
        ('// #include "../x.h"', None),
    ],
)
def test_includes(tmp_path: Path, line: str, needed: tuple[str, ...] | None) -> None:
    tree = lay(tmp_path, main_c=f"int a;\n\n{line}\n", own_h="")
    assert needs(tree) == ([("main.c", 3, needed)] if needed else [])


@pytest.mark.parametrize(
    ("flags", "folder"),
    [
        ("ccflags-y += -I$(srctree)/drivers/other", "drivers/other"),
        ("ccflags-y += -I ${srctree}/drivers/other/", "drivers/other"),
        ("subdir-ccflags-y := -DX -I$(srctree)/$(src)/../other", "drivers/other"),
        ("ccflags-y += -I$(src)/../other", "drivers/other"),
        ("ccflags-y += -Idrivers/other", "drivers/other"),
        ("CFLAGS_main.o := \\\n  -I$(src)/../other # why", "drivers/other"),
        ("HERE = $(srctree)/$(src)\nTHERE := $(HERE)/../other\nccflags-y = -I$(THERE)", "drivers/other"),
    ],
)
def test_folders_that_a_makefile_adds(tmp_path: Path, flags: str, folder: str) -> None:
    tree = lay(tmp_path, Makefile=flags + "\n", main_c='#include "x.h"\n#include <y.h>\n#include "own.h"\n', own_h="")
    assert needs(tree) == [
        ("main.c", 1, ("drivers/d/x.h", f"{folder}/x.h")),
        ("main.c", 2, (f"{folder}/y.h",)),
    ]
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "x.h").touch()
    (tmp_path / folder / "y.h").touch()
    assert needs(tree) == []
    named = "srctree" in flags or "-Idrivers" in flags
    assert include_folders(tree) == ((folder,) if named else ())


@pytest.mark.parametrize(
    "flags",
    [
        "ccflags-y += -I$(srctree)/include -I$(srctree)/arch/x86/include/asm",
        "ccflags-y += -I/usr/include -I$(UNKNOWN)/x -I$(objtree)/drivers/other -I",
        "ccflags-y += -I$(srctree)/../outside -I$(src)/../../../x",
        "# ccflags-y += -I$(srctree)/drivers/other",
        "LOOP = $(LOOP)x\nccflags-y += -I$(LOOP)",
        "A = $(B)$(B)$(B)$(B)$(B)$(B)$(B)$(B)\nB = $(A)$(A)$(A)$(A)$(A)$(A)$(A)$(A)\nccflags-y += -I$(A)",
    ],
)
def test_folders_that_are_not_ours_to_bring(tmp_path: Path, flags: str) -> None:
    tree = lay(tmp_path, Makefile=flags + "\n", main_c='#include "x.h"\n')
    assert needs(tree) == [("main.c", 1, ("drivers/d/x.h",))]
    assert include_folders(tree) == ()


def test_flags_hold_for_folders_below(tmp_path: Path) -> None:
    tree = lay(tmp_path, Makefile="subdir-ccflags-y += -I$(srctree)/drivers/other\n", sub__a_c='#include "x.h"\n')
    assert needs(tree) == [("sub/a.c", 1, ("drivers/d/sub/x.h", "drivers/other/x.h"))]


def test_objects_and_makefiles_elsewhere(tmp_path: Path) -> None:
    makefile = "d-y := main.o ../other/shared.o \\\n  sub/../../far.o\ninclude $(srctree)/drivers/other/rules.mk\n"
    tree = lay(tmp_path, Kbuild=makefile + "include $(srctree)/scripts/Makefile.x\n")
    assert needs(tree) == [
        ("Kbuild", 1, ("drivers/other/shared.c", "drivers/other/shared.S")),
        ("Kbuild", 1, ("drivers/far.c", "drivers/far.S")),
        ("Kbuild", 3, ("drivers/other/rules.mk",)),
    ]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    tree = lay(tmp_path, Makefile="", main_c="")
    (tree / "drivers/d/Makefile").write_bytes(b"\xff\xfe -I\xff\n\\")
    (tree / "drivers/d/main.c").write_bytes(b'\xff\0#include "../\xff.h"\n#include "../\0.h"\n')
    (tree / "drivers/d/link.c").symlink_to("/etc/passwd")
    assert needs(tree) == []


# --- in an import --------------------------------------------------------------------------------

KERNEL = {
    "drivers/d/Makefile": "ccflags-y += -I$(srctree)/drivers/other\nobj-m += d.o\nd-y := main.o ../shared.o\n",
    "drivers/d/main.c": '#include "../up.h"\n#include "o.h"\n#include "../gone.h"\n',
    "drivers/up.h": '#include "up2.h"\n#include "../lib/deep.h"\n',
    "drivers/up2.h": "",
    "drivers/shared.c": "",
    "drivers/other/o.h": '#include "../other/o2.h"\n',
    "drivers/other/o2.h": "",
    "drivers/other/not-needed.h": "",
    "lib/deep.h": "",
}
FOLLOWED = [
    "drivers/other/o.h",
    "drivers/other/o2.h",
    "drivers/shared.c",
    "drivers/up.h",
    "drivers/up2.h",
    "lib/deep.h",
]


def test_without_following_it_is_said_once(tmp_path: Path) -> None:
    heard = Listener()
    do_import(make_repo(tmp_path / "kernel", KERNEL).path, "drivers/d", into=tmp_path / "out", progress=heard)
    assert len(heard.warnings) == 1
    assert "drivers/up.h (drivers/d/main.c:1)" in heard.warnings[0]
    assert "drivers/other/o.h (drivers/d/main.c:2)" in heard.warnings[0]
    assert "--follow-includes" in heard.warnings[0]
    assert "gone.h" not in heard.warnings[0]


def test_following_brings_what_is_needed_and_no_more(tmp_path: Path) -> None:
    heard = Listener()
    made = do_import(
        make_repo(tmp_path / "kernel", KERNEL).path,
        "drivers/d",
        into=tmp_path / "out",
        progress=heard,
        follow_includes=True,
    )
    assert names(tmp_path / "out/tree") == sorted(["drivers/d/Makefile", "drivers/d/main.c", *FOLLOWED])
    assert sorted(d.path for d in made.provenance.directories if d.followed) == FOLLOWED
    assert not heard.warnings
    assert include_folders(tmp_path / "out/tree") == ("drivers/other",)


def test_a_patch_may_add_an_include_or_change_a_followed_file(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "kernel", KERNEL)
    adds = "--- a/drivers/d/main.c\n+++ b/drivers/d/main.c\n@@ -1,3 +1,4 @@\n"
    adds += '+#include "../new.h"\n #include "../up.h"\n #include "o.h"\n #include "../gone.h"\n'
    changes = "--- a/drivers/up.h\n+++ b/drivers/up.h\n@@ -1,2 +1,1 @@\n"
    changes += ' #include "up2.h"\n-#include "../lib/deep.h"\n'
    repo.commit({"drivers/new.h": ""})
    put(tmp_path / "patches", a_patch=adds, b_patch=changes)
    do_import(repo.path, "drivers/d", into=tmp_path / "out", follow_includes=True)
    assert (tmp_path / "out/tree/drivers/new.h").is_file()
    assert (tmp_path / "out/tree/drivers/up.h").read_text() == '#include "up2.h"\n'
    with pytest.raises(PatchError, match=r"drivers/up\.h is not among the imported files"):
        do_import(repo.path, "drivers/d", into=tmp_path / "out2")

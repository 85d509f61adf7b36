"""What a dkms.conf becomes: commands without this machine's places, modules, kernels, and the report."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pkgkmod.config.importers.dkms import Imported, described, translate, with_patches
from pkgkmod.config.importers.dkmsconf import DkmsConf, with_variables
from pkgkmod.config.importers.dkmslimits import patterns
from pkgkmod.config.importers.dkmspatches import for_repository
from pkgkmod.data.kernelchanges import known_change
from pkgkmod.errors import ConfigError
from pkgkmod.model.only import Only, fits
from pkgkmod.model.project import Project
from pkgkmod.modules.compile import first_error
from pkgkmod.modules.kbuildfit import why_own_make
from pkgkmod.modules.ownmake import make_text, modules_variables, names_for, own_rules
from pkgkmod.sources.foldertree import read_folders

OLD, NEW, CLOUD = "6.1.0-56-amd64", "6.12.117+deb12-amd64", "6.1.0-56-cloud-amd64"


def conf(
    kernel: str = OLD, *, excluded: str = "", options: tuple[str, ...] = (), said: str = "", **values: Any
) -> DkmsConf:
    given = {"PACKAGE_NAME": "foo", "PACKAGE_VERSION": "1.2", "BUILT_MODULE_NAME": "foo", **values}
    makes, patches = (
        [value] if isinstance(value, str) else value for value in (given.get("MAKE", ""), given.get("PATCH", ()))
    )
    make_match, patch_match = given.get("MAKE_MATCH", {}), given.get("PATCH_MATCH", {})
    chosen = [number for number in range(len(makes)) if number in make_match and re.search(make_match[number], kernel)]
    numbers = [n for n in range(len(patches)) if n not in patch_match or re.search(patch_match[n], kernel)]
    arrays = {
        name: value if isinstance(value, dict) else dict(enumerate([value] if isinstance(value, str) else value))
        for name, value in given.items()
    }
    return DkmsConf(
        kernel,
        "x86_64",
        f"/usr/src/linux-headers-{kernel}",
        "/usr/src/foo-1.2",
        arrays,
        make_number=chosen[-1] if chosen else 0,
        patch_numbers=tuple(numbers),
        excluded=excluded,
        options=frozenset(options),
        said=said,
    )


def imported(*confs: DkmsConf, why: str = "it does more", script: str = "") -> Imported:
    return translate(confs, script=script, folder="foo", built_by_kbuild=not why, why_make=why)


def outcome(found: Imported, key: str) -> str:
    (entry,) = [entry for entry in found.entries if entry.key == key]
    return f"{entry.outcome}: {entry.text}"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("make -C /k/6.1 M=/src/a", 'make -C "$KERNEL_TREE" M="$SOURCES"'),
        ('make M="/src/a/b c"', 'make M="${SOURCES}/b c"'),
        ("make W='X=/src/a'", "make W='X='\"$SOURCES\"''"),
        ("make \\' M=/src/a \\\"", 'make \\\' M="$SOURCES" \\"'),
        ("cc -I/src/a/include -L/src/a", 'cc -I"$SOURCES"/include -L"$SOURCES"'),
        ("x /src/ab /other/src/a /src/a-2", "x /src/ab /other/src/a /src/a-2"),
        ("ls /usr/src/b/c", 'ls "$SOURCES"/../b/c'),
    ],
)
def test_places_become_variables_as_the_shell_quotes_them(command: str, expected: str) -> None:
    places = {"/k/6.1": "KERNEL_TREE", "/src/a": "SOURCES", "/usr/src/b": "SOURCES/../b"}
    assert with_variables(command, places) == expected


def test_the_commands_are_those_that_dkms_runs() -> None:
    plain = conf()
    assert plain.commands == 'make KERNELRELEASE="$KERNEL" -C "$KERNEL_TREE" M="$SOURCES"'
    many = conf(
        PRE_BUILD="configure --dir=/usr/src/foo-1.2 a;b",
        MAKE=["make one", "make two", "sh three"],
        MAKE_MATCH={1: "^6[.]1", 2: "^5"},
    )
    assert many.commands.splitlines() == ["./configure --dir=\"$SOURCES\" 'a;b'", 'make KERNELRELEASE="$KERNEL" two']
    builds = conf(MAKE="cd /var/lib/dkms/foo/1.2/build && make K=/lib/modules/6.1.0-56-amd64/build")
    assert builds.commands == 'cd "$SOURCES" && make K="$KERNEL_TREE"'


def test_all_that_is_said_is_in_the_report() -> None:
    found = imported(
        conf(
            PACKAGE_NAME="Foo_Bar",
            PACKAGE_VERSION="1.9.1-5",
            BUILT_MODULE_LOCATION="src/",
            DEST_MODULE_NAME="bar",
            DEST_MODULE_LOCATION="/extra",
            STRIP="no",
            CLEAN="make clean",
            POST_INSTALL="run.sh",
            AUTOINSTALL="yes",
            BUILD_DEPENDS="other",
            OBSOLETE_BY="6.5.0-1",
            BUILD_EXCLUSIVE_CONFIG="CONFIG_PCI !CONFIG_PREEMPT_RT",
            BUILD_EXCLUSIVE_KERNEL="^6",
            BUILD_EXCLUSIVE_KERNEL_MIN="5.15",
        )
    )
    assert found.values["project"] == {"name": "foo_bar", "version": "1.9.1", "release": "5"}
    assert found.modules == [{"name": "bar", "built": "src/foo.ko"}]
    assert found.values["only"] == {
        "release": "^6",
        "oldest": "5.15",
        "before": "6.5.0",
        "config": ["PCI", "!PREEMPT_RT"],
    }
    assert outcome(found, "PACKAGE_NAME").startswith("changed")
    assert outcome(found, "BUILD_DEPENDS[0]").startswith("decide")
    assert not found.requires
    assert outcome(found, "OBSOLETE_BY").startswith("changed")
    for key in ("CLEAN", "POST_INSTALL", "STRIP", "AUTOINSTALL", "DEST_MODULE_LOCATION"):
        assert outcome(found, key).startswith("left out")
    described({"Description": "driver of foo (DKMS)", "Maintainer": "nobody", "Homepage": "https://x.org"}, found)
    assert found.values["project"]["summary"] == "driver of foo"
    assert "maintainer" not in found.values["project"]
    found.values["target"] = [{"distro": "debian12", "kernels": ["newest"]}]  # type: ignore[assignment]
    written = tomllib.loads(found.text("foo"))
    assert written["module"] == found.modules
    assert written["build"]["make"] == conf().commands


def test_modules_of_some_kernels_say_which() -> None:
    more = {"BUILT_MODULE_NAME": ["foo", "new"], "DEST_MODULE_LOCATION": ["/a", "/b"]}
    found = imported(conf(OLD), conf(NEW, **more))
    assert found.modules == [{"name": "foo"}, {"name": "new", "kernels": ["6.12.*"]}]


def test_commands_that_differ_are_asked_for_again() -> None:
    found = imported(conf(OLD, MAKE="make old"), conf(NEW, MAKE="make new"))
    assert ". ./dkms.conf" in found.values["build"]["make"]
    assert outcome(found, "MAKE").startswith("changed")
    with pytest.raises(ConfigError, match="name of a folder"):
        imported(conf(MAKE="a", PACKAGE_VERSION="1'2"), conf(NEW, MAKE="b", PACKAGE_VERSION="1'2"))


@pytest.mark.parametrize(
    ("script", "only"),
    [
        ("grep CONFIG_I2C=y .config # CONFIG_PCI", {"config": ["I2C"]}),
        ("uname | grep cloud", {"kernels": ["!*-cloud-amd64"]}),
    ],
)
def test_what_is_computed_becomes_options_or_patterns(script: str, only: Mapping[str, object]) -> None:
    without = conf(
        CLOUD, excluded="BUILD_EXCLUSIVE_ARCH", options=("PCI",), said="no I2C", BUILD_EXCLUSIVE_ARCH="^never$"
    )
    found = imported(conf(OLD, options=("I2C", "PCI")), without, conf(NEW, options=("I2C",)), script=script)
    assert found.values["only"] == only
    assert "no I2C" in [entry.value for entry in found.entries]


def test_patterns_are_series_or_flavours_or_releases() -> None:
    assert patterns([OLD, CLOUD], [NEW]) == ("6.1.*",)
    assert patterns([CLOUD], [OLD, NEW]) == ("*-cloud-amd64",)
    assert patterns([OLD], [CLOUD, NEW]) == (OLD,)


def test_unusable_files_are_refused() -> None:
    with pytest.raises(ConfigError, match="PACKAGE_NAME"):
        imported(conf(PACKAGE_NAME="$(id)"[:0]))
    with pytest.raises(ConfigError, match="names no module"):
        imported(conf(BUILT_MODULE_NAME=""))
    found = imported(conf(PACKAGE_VERSION="$(id)"))
    assert found.values["project"]["version"] == "1.0"
    assert outcome(found, "PACKAGE_VERSION").startswith("decide")


def test_patches_lie_in_the_folder_of_the_sources() -> None:
    patch = b"From x\n--- a/m.c\n+++ b/m.c\n@@ -1,2 +1,2 @@\n--- a/not/this\n+++ b/nor/that\n context\n"
    patch += b"--- /dev/null\n+++ b/new\n"
    made = for_repository(patch, "foo", ("6.1.*",))
    assert made.splitlines() == [
        b"Only-Kernels: 6.1.*",
        b"From x",
        b"--- a/foo/m.c",
        b"+++ b/foo/m.c",
        b"@@ -1,2 +1,2 @@",
        b"--- a/not/this",
        b"+++ b/nor/that",
        b" context",
        b"--- /dev/null",
        b"+++ b/foo/new",
    ]
    confs = (
        conf(OLD, PATCH=["a", "b"], PATCH_MATCH={1: "^6[.]12"}),
        conf(NEW, PATCH=["a", "b"], PATCH_MATCH={1: "12"}),
    )
    assert with_patches(confs) == {"a": (), "b": ("6.12.*",)}


@pytest.mark.parametrize(
    ("rules", "release", "why"),
    [
        ({"kernels": ("6.*", "!*-rt-*")}, "6.1.0-1-rt-amd64", "only.kernels"),
        ({"kernels": ("!*-rt-*",)}, OLD, ""),
        ({"release": r"^(5\.[6-9]\.|[6-9]\.)"}, "5.4.0-1-amd64", "only.release"),
        ({"oldest": "5.15"}, "5.14.0-427.el9.x86_64", "only.oldest"),
        ({"newest": "6.1"}, "6.1.5", "only.newest"),
        ({"newest": "6.1"}, OLD, ""),
        ({"before": "6.12"}, NEW, "only.before"),
        ({"machine": "^(i[3-6]86|x86_64)$"}, OLD, ""),
    ],
)
def test_only_says_why_a_kernel_is_left_out(rules: Mapping[str, Any], release: str, why: str) -> None:
    complaint = Only.model_validate(rules).complaint(release, "x86_64")
    assert complaint.startswith(why) if why else not complaint


def test_only_asks_for_options() -> None:
    only = Only(config=("PCI", "!PREEMPT_RT"))
    assert only.option_complaint({"PCI": "m"}) == ""
    assert only.option_complaint({}) == "the kernel has no CONFIG_PCI"
    assert only.option_complaint({"PCI": "y", "PREEMPT_RT": "y"}) == "the kernel has CONFIG_PREEMPT_RT"


@pytest.mark.parametrize("expression", ["(a*)*b", "a" * 300, "(", "a.*b.*c.*d.*e.*f.*g.*h", "`id`"])
def test_expressions_that_take_no_end_are_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="regular expression"):
        Only(release=expression)


def _tree(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("makefile", "commands", "why"),
    [
        ("obj-m := m.o\n", 'make -C "$KERNEL_TREE" M="$SOURCES"', ""),
        (
            "obj-m := m.o\nPWD := $(shell pwd)\nall:\n\tmake M=$(PWD)\n",
            'make -C "$KERNEL_TREE" M="$SOURCES" modules',
            "",
        ),
        ("obj-m := m.o\n", './configure\nmake -C "$KERNEL_TREE" M="$SOURCES"', "something is run"),
        ("obj-m := m.o\n", 'make -C "$KERNEL_TREE" M="$SOURCES" HDAPS=1', "does more"),
        ("obj-m := m.o\n", 'make -C "$KERNEL_TREE" M="$SOURCES"; rm x', "does more"),
        ("obj-m := $(name).o\n", 'make -C "$KERNEL_TREE" M="$SOURCES"', "no obj-m line"),
        ("obj-m := m.o\nccflags-y += -I$(PWD)/include\n", 'make -C "$KERNEL_TREE" M="$SOURCES"', "depends on where"),
        ("obj-m := m.o\n", "make 'unclosed", "does more"),
    ],
)
def test_kbuild_is_preferred_where_it_does(tmp_path: Path, makefile: str, commands: str, why: str) -> None:
    tree = _tree(tmp_path, foo__Makefile=makefile)
    found = why_own_make(commands, tree, "foo", [("m", "foo")])
    assert why in found if why else not found


def _own(**build: Any) -> Project:
    return Project.model_validate(
        {
            "project": {"name": "foo"},
            "source": {"directories": ("foo",)},
            "build": {"make": "make all"},
            "module": (
                {"name": "a", "built": "src/a.ko"},
                {"name": "b", "built": "src/other.ko", "kernels": ("6.*", "!6.12.*")},
            ),
        }
    )


def test_a_make_of_its_own_leaves_modules_where_the_makefile_looks(tmp_path: Path) -> None:
    tree = _tree(tmp_path, foo__Makefile="")
    rules = own_rules(_own(), tree)
    assert [(rule.name, rule.directory) for rule in rules] == [("a", "foo/src"), ("b", "foo/src")]
    assert make_text(_own(), tree).splitlines()[1:] == [
        "make all",
        'if test -e "$SOURCES"/src/other.ko; then cp "$SOURCES"/src/other.ko "$SOURCES"/../foo/src/b.ko; fi',
    ]
    variables = modules_variables(_own(), rules)
    assert variables["MODULES"] == "foo/src/a"
    assert variables["KERNEL_MODULES"] == "$(shell case '$(KERNEL)' in (6.12.*);; (6.*) echo foo/src/b;; esac)"
    assert names_for(_own(), OLD, ("a", "b")) == ("a", "b")
    assert names_for(_own(), NEW, ("a", "b")) == ("a",)
    assert fits(OLD, ("!6.12.*",))


def test_a_make_of_its_own_needs_the_modules_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which modules"):
        own_rules(_own().model_copy(update={"module": ()}), tmp_path)


def test_links_that_lead_out_are_left_out(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "foo", a="x", src__b="y")
    (tree / "inside").symlink_to("src/b")
    (tree / "outside").symlink_to("../../etc/passwd")
    (tree / "away").symlink_to("/etc/passwd")
    (tree / "a").chmod(0o755)
    found = read_folders({"foo": tree})
    assert {path: mode for path, (mode, _) in found.files.items()} == {
        "foo/a": "100755",
        "foo/inside": "120000",
        "foo/src/b": "100644",
    }
    assert set(found.left_out) == {"foo/outside", "foo/away"}


def test_the_change_behind_an_error_is_named() -> None:
    assert "6.8" in known_change("m.c:1:2: error: implicit declaration of function \u2018strlcpy\u2019; did you mean")
    assert known_change("m.c:1:2: error: expected ';'") == ""
    log = ["//   cc-test-build/test.c:4:16: error: storage size", "m.c:1:2: error: real"]
    assert first_error(log) == log[1]

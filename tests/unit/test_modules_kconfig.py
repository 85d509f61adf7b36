import re
import subprocess

import pytest

from pkgkmod.errors import ConfigError, SourceError
from pkgkmod.model.project import ModuleEntry, Project, ProjectInfo, Source
from pkgkmod.modules.kconfig import asked_options, header_lines, make_words, option_values
from pkgkmod.modules.makefiles import module_rules
from pkgkmod.modules.survey import survey


def tree_of(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def project(directories=("drivers/net/foo",), modules=(), **kconfig):
    return Project(
        project=ProjectInfo(name="foo"),
        source=Source(directories=directories),
        module=tuple(ModuleEntry(**m) if isinstance(m, dict) else ModuleEntry(name=m) for m in modules),
        kconfig=kconfig,
    )


def test_rules_are_found_through_continuations_folders_and_kbuild_files(tmp_path):
    tree = tree_of(
        tmp_path,
        drivers__net__foo__Makefile=(
            "obj-$(CONFIG_FOO) += foo.o \\\n\tfoo_extra.o # not this.o\n"
            "obj-${CONFIG_SUB} += sub/\nobj-y += always/ builtin.o\nfoo-objs := a.o b.o\nobj-m := plain.o\n"
        ),
        drivers__net__foo__sub__Kbuild="obj-$(CONFIG_SUB) += sub.o\n",
        drivers__net__foo__sub__Makefile="obj-m += ignored.o\n",
        drivers__net__foo__always__Makefile="\tobj-$(CONFIG_ALWAYS)+=always.o\n",
    )
    rules = module_rules(tree, ("drivers/net/foo",))
    assert {(r.name, r.directory.rpartition("/")[2], r.option, r.outer_options) for r in rules} == {
        ("foo", "foo", "FOO", ()),
        ("foo_extra", "foo", "FOO", ()),
        ("plain", "foo", None, ()),
        ("sub", "sub", "SUB", ("SUB",)),
        ("always", "always", "ALWAYS", ()),
    }


def test_a_makefile_cannot_lead_out_of_the_tree(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "Makefile").write_text("obj-m += evil.o\n")
    tree = tree_of(tmp_path / "tree", drivers__net__foo__Makefile="obj-y += ../../../../outside/\nobj-m += good.o\n")
    assert [rule.name for rule in module_rules(tree, ("drivers/net/foo",))] == ["good"]


def test_options_of_the_modules_are_m_and_bool_ones_y(tmp_path):
    tree = tree_of(
        tmp_path,
        drivers__net__foo__Makefile="obj-$(CONFIG_VENDOR) += bar/\n",
        drivers__net__foo__Kconfig='config VENDOR\n\tbool "Vendor"\n',
        drivers__net__foo__bar__Makefile="obj-$(CONFIG_BAR) += bar.o\n",
    )
    assert dict(survey(project(), tree).overridden) == {"BAR": "m", "VENDOR": "y"}


def test_the_project_comes_next_and_the_kernel_answers_for_the_rest(tmp_path):
    tree = tree_of(
        tmp_path,
        drivers__net__foo__Makefile="obj-$(CONFIG_FOO) += foo.o\n",
        drivers__net__foo__foo__c="",
    )
    (tree / "drivers/net/foo/foo.c").write_text(
        "/* CONFIG_IN_COMMENT */\n#if IS_ENABLED(CONFIG_FOO_LOUD) // CONFIG_OTHER_COMMENT\n#endif\n"
        "#ifdef CONFIG_PCI_MODULE\n#endif\n#ifdef CONFIG_GONE\n#endif\n"
    )
    asked = asked_options(tree)
    assert set(asked) == {"FOO", "FOO_LOUD", "PCI", "GONE"}
    chosen = project(FOO_LOUD=True, HZ_WANTED=250)
    values = option_values(asked, survey(chosen, tree).overridden, chosen, {"FOO": "y", "PCI": "y", "FOO_LOUD": "n"})
    assert {(v.name, v.value, v.origin) for v in values} == {
        ("FOO", "m", "module"),
        ("FOO_LOUD", "y", "project"),
        ("HZ_WANTED", "250", "project"),
        ("PCI", "y", "kernel"),
        ("GONE", "n", "not set"),
    }


def test_make_and_the_compiler_see_the_same_values(tmp_path):
    overridden = {"OWN": "m", "YES": "y", "NO": "n", "COUNT": "42", "MASK": "0x1f", "TEXT": '"a b"'}
    (tmp_path / "autoconf.h").write_text("#define CONFIG_OWN 1\n#define CONFIG_NO_MODULE 1\n#define CONFIG_COUNT 7\n")
    (tmp_path / "kconfig.h").write_text("\n".join(header_lines(overridden)) + "\n")
    command = ["gcc", "-E", "-dM", "-include", "autoconf.h", "-include", "kconfig.h", "-x", "c", "/dev/null"]
    macros = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"#define (CONFIG_.*)", macros)) == {
        "CONFIG_OWN_MODULE 1",
        "CONFIG_YES 1",
        "CONFIG_COUNT 42",
        "CONFIG_MASK 0x1f",
        'CONFIG_TEXT "a b"',
    }
    (tmp_path / "inner.mk").write_text(
        "CONFIG_OWN := y\nCONFIG_NO := m\nall:\n"
        + "".join(f"\t@printf '%s\\n' '{name}=$(CONFIG_{name})'\n" for name in overridden)
    )
    (tmp_path / "outer.mk").write_text(
        f"OPTIONS := {' '.join(make_words(overridden))}\nall:\n\t@$(MAKE) -s -f inner.mk $(OPTIONS)\n"
    )
    told = subprocess.run(["make", "-s", "-f", "outer.mk"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert 'OWN=m\nYES=y\nNO=\nCOUNT=42\nMASK=0x1f\nTEXT="a b"' in told.stdout


@pytest.mark.parametrize("value", ["$(shell id)", "a`id`", 'a"b', "a'b", "a\\b", "a#b"])
def test_a_value_that_make_could_run_is_refused(tmp_path, value):
    tree = tree_of(tmp_path, drivers__net__foo__Makefile="obj-m += foo.o\n")
    with pytest.raises(ConfigError, match=r"kconfig\.TEXT"):
        survey(project(TEXT=value), tree)


def test_a_module_cannot_be_switched_off(tmp_path):
    tree = tree_of(tmp_path, drivers__net__foo__Makefile="obj-$(CONFIG_FOO) += foo.o\n")
    with pytest.raises(ConfigError, match=r"kconfig\.FOO is 'y'"):
        survey(project(FOO="y"), tree)


def test_named_modules_only(tmp_path):
    tree = tree_of(tmp_path, drivers__net__foo__Makefile="obj-$(CONFIG_A) += a-b.o\nobj-$(CONFIG_C) += c.o\n")
    found = survey(project(modules=["a_b"]), tree)
    assert (found.names, dict(found.overridden)) == (("a-b",), {"A": "m"})
    with pytest.raises(ConfigError, match="no imported Makefile builds it") as caught:
        survey(project(modules=["cc"]), tree)
    assert "'c'" in caught.value.hint or "c" in caught.value.hint


def test_twins_and_emptiness_are_refused(tmp_path):
    tree = tree_of(
        tmp_path,
        drivers__net__foo__Makefile="obj-m += x/ y/\n",
        drivers__net__foo__x__Makefile="obj-m += one_two.o\n",
        drivers__net__foo__y__Makefile="obj-m += one-two.o\n",
    )
    with pytest.raises(ConfigError, match="two Makefiles build"):
        survey(project(), tree)
    chosen = survey(project(modules=[{"name": "one-two", "directory": "drivers/net/foo/y"}]), tree)
    assert chosen.directories == ("drivers/net/foo/y",)
    with pytest.raises(SourceError, match="define no module"):
        survey(project(directories=("drivers/net/none",)), tree)

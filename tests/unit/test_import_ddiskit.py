"""Importing ddiskit projects: what each key becomes, and that nothing is dropped without a word."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from pkgkmod.cli import cli
from pkgkmod.cli.moduleconfig import epoch_of
from pkgkmod.config.importers import ddiskitini
from pkgkmod.config.importers.ddiskitini import Given, Settings, is_module_config, parse
from pkgkmod.config.importers.ddiskitproject import as_layers, is_override, read_project
from pkgkmod.config.importers.dependencies import split_dependencies
from pkgkmod.config.importers.projectfile import project_text, refusal, write_project
from pkgkmod.config.importers.report import Entry, comments
from pkgkmod.config.load import load
from pkgkmod.errors import ConfigError, SourceError, UsageError
from pkgkmod.packages import rpm
from pkgkmod.sources.treecommit import make_commit
from tests.fixtures.packaging import make_facts, make_job, make_project

PROJECTS = Path(__file__).parents[1] / "fixtures/ddiskit"
NAMES = sorted(path.parent.name for path in PROJECTS.glob("*/module.config"))
# All keys that ddiskit(1), its configuration and its template name.
KEYS = {
    "global": "module_vendor module_author module_author_email include_srpm",
    "spec_file": "module_name module_version module_rpm_release module_version_epoch rpm_dist module_build_dir "
    "rpm_name module_install_subdir git_hash kernel_version kernel_version_min kernel_version_dep kernel_arch "
    "dependencies build_dependencies dist_build_dependencies build_extra_cflags make_targets devel_package "
    "firmware_include firmware_version summary description description_suffix firmware_summary firmware_description "
    "devel_summary devel_description firmware_description_suffix",
    "rpm_gpg_check": "check_level use_keyring keyring_dir",
    "defaults": "profile quilt_support tar_all tar_strict srpm mock mock_config mock_offline mock_opts isofile "
    "spec_template src_patterns res_dir template_dir profile_dir config_template verbosity dump_config",
}


@pytest.fixture(autouse=True)
def _nobodys_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    monkeypatch.setattr(ddiskitini, "SITE_FILE", tmp_path / "site.config")


def project(name, **more):
    return read_project(PROJECTS / name / "module.config", profile_dir=PROJECTS / name / "profiles", **more)


def module_config(folder, *lines, section="spec_file"):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "module.config"
    file.write_text("\n".join([f"[{section}]", "module_name = hello", *lines]) + "\n")
    return file


def outcomes(imported):
    return {entry.key: (entry.outcome, entry.text) for entry in imported.entries}


def sources(folder, files):
    for name, content in files.items():
        path = folder / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_in_the_report_and_the_file_loads(name, tmp_path):
    made = project(name)
    listed = [entry.key for entry in made.entries]
    for key in made.conversion.settings.given:
        assert listed.count(".".join(key)) >= 1, key
    file = tmp_path / "pkgkmod.toml"
    file.write_text(project_text(made.values, made.entries, "module.config"))
    loaded = load(file).project
    assert loaded.project.name == made.values["project"]["name"]
    for entry in made.entries:
        assert (f"# - {entry.outcome}: {entry.key}" in file.read_text()) == entry.needs_a_look


def test_the_fixtures_have_every_key_of_ddiskit():
    given = {key for name in NAMES for key in project(name).conversion.settings.given}
    assert {(section, key) for section, keys in KEYS.items() for key in keys.split()} <= given


def test_what_the_keys_become():
    made = project("full")
    assert made.values == {
        "project": {
            "name": "hello",
            "vendor": "acme",
            "version": "1.2.3_dup9.4",
            "release": "3",
            "epoch": 2,
            "maintainer": "Jane Doe <jane@example.org>",
            "summary": "hello kernel module",
            "description": "The hello module.\nIt greets.\nProvided by acme.",
        },
        "source": {"directories": ["drivers/misc/hello"]},
        "build": {"extra_cflags": "-DACME=1 -Wno-unused"},
        "kconfig": {"HELLO": "m"},
        "rpm": {
            "requires": ["linux-firmware", "(dracut >= 049-10 if kernel)"],
            "build_requires": ["kmod-other-devel >= 2", "pahole"],
            "installer_kernels": "later",
        },
        "devel": {"enabled": True},
        "firmware": {"version": "20240101"},
        "disk": {"include_srpm": True},
        "target": [{"distro": "el9", "minor": 4, "kernels": ["5.14.0-427.el9.x86_64"]}],
    }
    assert outcomes(made)["spec_file.kernel_version_min"][0] == "changed"
    assert outcomes(made)["spec_file.module_install_subdir"][0] == "left out"


def test_what_the_options_of_its_command_line_become():
    made = project("behaviour").values
    assert made["source"] == {"quilt": False, "archive": "all"}
    assert made["rpm"] == {"srpm_only": True, "builder": "mock"}
    assert made["mock"] == {"config": "epel-9-x86_64", "offline": True, "options": ["--verbose"]}
    assert made["disk"] == {"file": "dd-hello.iso"}


def test_several_architectures_mean_that_of_the_machine_and_no_debug_kernels():
    made = project("multiarch")
    assert made.values["target"] == [{"distro": "el8", "minor": 5, "kernels": ["4.18.0-348.el8.*", "!*+*"]}]
    assert "vendor" not in made.values["project"]  # rpm_name is kmod-NAME
    assert outcomes(made)["spec_file.kernel_version_dep"][0] == "decide"
    assert outcomes(made)["spec_file.dist_build_dependencies"][0] == "carried"


def test_an_unknown_distribution_is_for_the_packager_to_decide():
    made = project("el7")
    assert "target" not in made.values
    assert outcomes(made)["spec_file.rpm_dist"] == (
        "decide",
        "no distribution that pkgkmod builds for (el10, el8, el9): write a [[target]]",
    )


def test_the_kernel_says_the_distribution_where_nothing_else_does(tmp_path):
    made = read_project(module_config(tmp_path, "kernel_version = 5.14.0-427.13.1.el9_4", "kernel_arch = x86_64"))
    assert made.values["target"] == [{"distro": "el9", "minor": 4, "kernels": ["5.14.0-427.13.1.el9_4.x86_64"]}]


def test_what_nobody_filled_in_is_absent():
    made = project("template")
    assert made.values["project"] == {"name": "hello", "release": "1"}
    assert outcomes(made)["global.module_vendor"] == (
        "left out",
        "not filled in: it is still what the template has",
    )


def test_layers_are_laid_over_each_other(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    shutil.copyfile(PROJECTS / "profiles/ddiskitrc", tmp_path / "home/.ddiskitrc")
    shutil.copyfile(PROJECTS / "profiles/site.config", tmp_path / "site.config")
    made = project("profiles", overrides=["spec_file.summary=From the command line"])
    info = made.values["project"]
    assert info["vendor"] == "acme"  # of the site
    assert info["maintainer"] == "Jane Doe <jane@example.org>"  # of the user
    assert info["release"] == "5"
    assert info["version"] == "1.0"  # the module's own, over the profile's
    assert info["description"] == "The module.\nFor tests only.\nNot for anything else."
    assert info["summary"] == "From the command line"
    assert {entry.key: entry.place for entry in made.entries}["global.module_vendor"].endswith("site.config:2")


def test_a_profile_that_is_not_there_is_an_error():
    with pytest.raises(ConfigError, match="no profile 'testin' of ddiskit") as raised:
        project("profiles", profile="testin")
    assert raised.value.hint == "did you mean 'testing'?"


def test_a_profile_with_a_slash_is_a_path(monkeypatch):
    monkeypatch.chdir(PROJECTS / "profiles")
    assert "description_suffix" in {key for _, key in project("profiles", profile="profiles/testing").conversion.done}


def test_interpolation():
    made = project("interpolation")
    values = made.conversion.settings.values
    assert made.values["project"]["name"] == "hello"
    assert made.values["project"]["vendor"] == "acme"
    assert values["spec_file", "summary"] in ("{a}", "{b}")  # ends, though they name each other
    assert values["spec_file", "description"] == "{nobody.knows} and {nothing}"
    assert values["spec_file", "devel_summary"] == "987654321{d9}"
    assert outcomes(made)["spec_file.module_version"][0] == "decide"


def test_eight_rounds_of_interpolation_and_no_more():
    chain = {("s", f"k{n}"): Given(f"{n}{{k{n + 1}}}") for n in range(12)}
    assert Settings.of(chain).values["s", "k0"] == "012345678{k9}"


def test_values_that_grow_without_end_are_refused(tmp_path):
    file = module_config(tmp_path, "a = " + "{b}" * 1000, "b = " + "{a}" * 1000)
    with pytest.raises(ConfigError, match="grows without end"):
        read_project(file)


@pytest.mark.parametrize("text", ["t", "Y", "true", "YES", "1"])
def test_what_is_true(text, tmp_path):
    assert read_project(module_config(tmp_path, f"devel_package = {text}")).values["devel"] == {"enabled": True}


@pytest.mark.parametrize("text", ["f", "N", "false", "no", "0"])
def test_what_is_false(text, tmp_path):
    assert read_project(module_config(tmp_path, f"devel_package = {text}")).values["devel"] == {"enabled": False}


def test_the_form_of_ini_files(tmp_path):
    mistakes = []
    text = '# c\n; c\n[A]\nKey : v = w ; c\nother=\n  one\n\n  two\nthird = ""\nfourth = a;b\n'
    found = parse(text, tmp_path / "f", mistakes)
    assert not mistakes
    assert {key: given.text for key, given in found.items()} == {
        ("a", "key"): "v = w",
        ("a", "other"): "\none\ntwo",
        ("a", "third"): "",
        ("a", "fourth"): "a;b",
    }
    assert found["a", "other"].line == 5


def test_lines_that_are_none_are_mistakes_with_their_place(tmp_path):
    (tmp_path / "module.config").write_text("stray\n[spec_file]\nmodule_name = x\nnonsense\n\x1b[31m\n")
    with pytest.raises(ConfigError) as raised:
        read_project(tmp_path / "module.config")
    assert "module.config:1" in str(vars(raised.value))
    assert "module.config:4" in str(vars(raised.value))
    assert "\x1b" not in str(vars(raised.value))


def test_hostile_values_are_refused_or_carried_in_a_form_that_is_safe(tmp_path):
    made = project("hostile")
    assert made.values["project"]["name"] == "touch-tmp-pkgkmod-pwned-hello"
    assert made.values["project"]["vendor"] == "etc"
    assert made.values["project"]["version"] == "1.0"
    assert "rpm" not in made.values
    assert "source" not in made.values
    said = outcomes(made)
    refused = ("rpm_name", "dependencies", "build_dependencies", "dist_build_dependencies", "kernel_version")
    for key in (*refused, "module_version_epoch", "module_build_dir", "make_targets", "devel_package"):
        assert said[f"spec_file.{key}"][0] == "decide", key
    assert said["spec_file.modul_name"][1].endswith("did you mean 'module_name'?")


def test_without_any_name_the_folder_gives_it(tmp_path):
    file = module_config(tmp_path / "My Driver", "module_name = ENTER_MODULE_NAME")
    made = read_project(file)
    assert made.values["project"]["name"] == "my-driver"
    assert [entry.outcome for entry in made.entries if entry.key == "spec_file.module_name"]


def test_dependencies_are_split_as_rpm_reads_them():
    assert split_dependencies("a, b >= 1:2.0-3 (c >= 1 if (d or e)) kernel(x) = 0x1 f") == [
        "a",
        "b >= 1:2.0-3",
        "(c >= 1 if (d or e))",
        "kernel(x) = 0x1",
        "f",
    ]
    for text in ("(a", "a)", "a >=", ">= 1"):
        with pytest.raises(ValueError, match=r"brackets|beside"):
            split_dependencies(text)


@pytest.mark.parametrize(
    ("distro", "kernel", "package"),
    [
        ("el9", "5.14.0-427.el9.x86_64", "kmod-e1000e"),
        ("fedora", "7.2.7-300.fc45.x86_64", "kmod-e1000e-7.2.7-300.fc45.x86_64"),
        ("sle15sp6", "6.4.0-150600.23.47-default", "e1000e-kmp-default"),
    ],
)
def test_rpm_finds_the_further_dependencies_in_the_specs_of_all_families(distro, kernel, package, tmp_path):
    rich = "(dracut >= 049-10 if kernel)"
    wanted = {"requires": ("linux-firmware >= 1:2-3", rich), "build_requires": ("pahole",)}
    job = make_job(distro, (kernel,), make_project(rpm=wanted))
    spec = tmp_path / rpm.spec_name(job)
    spec.write_text(rpm.render_spec(make_facts(job), None))
    argv = ["rpmspec", "-q", "--define", f"_dbpath {tmp_path}/db"]
    asked = [*argv, "--qf", "[%{=NAME}\t%{REQUIRENAME} %{REQUIREFLAGS:depflags} %{REQUIREVERSION}\n]", str(spec)]
    lines = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    found = {line.partition("\t")[2].strip() for line in lines if line.partition("\t")[0] == package}
    assert {"linux-firmware >= 1:2-3", rich} <= found
    built = subprocess.run([*argv, "--buildrequires", str(spec)], capture_output=True, text=True, check=True).stdout
    assert "pahole" in built.splitlines()


@pytest.mark.parametrize("text", ["%{x}", "a\nb", "$(id)", "`id`", "a;b", "", "-x"])
def test_dependencies_hold_no_macros_or_lines(text):
    assert refusal("rpm", "requires", [text]) or refusal("rpm", "build_requires", [text])


def test_what_is_a_module_config(tmp_path):
    assert is_module_config(PROJECTS / "full/module.config")
    ours = tmp_path / "module.config"
    ours.write_text('[project]\nname = "x"\n')
    assert not is_module_config(ours)
    assert not is_module_config(tmp_path / "absent")
    assert not is_module_config(tmp_path)


def test_whose_override_it_is():
    assert is_override("spec_file.module_version=1")
    assert is_override("quilt_support=no")
    assert not is_override("project.version=1")
    assert not is_override("version=1")


# --- src/ -----------------------------------------------------------------------------------------------


def test_sources_become_the_fewest_paths_with_the_built_folder_first(tmp_path):
    file = module_config(tmp_path, "module_build_dir = drivers/net/hello", "kernel_version = x")
    sources(
        tmp_path,
        {
            "drivers/net/hello/Makefile": "obj-m += hello.o\n",
            "drivers/net/hello/sub/a.c": "",
            "drivers/net/Makefile": "obj-y += hello/\n",
            "drivers/net/shared.h": "",
            "drivers/phy/x/Makefile": "obj-m += x.o\n",
            "include/linux/hello.h": "",
            "Kbuild": "",
            "tool.rpm": "",
            "patches/series": "",
        },
    )
    made = read_project(file)
    assert made.sources.directories == ("drivers/net/hello", "drivers/net/shared.h", "drivers/phy", "include")
    assert made.values["source"]["patches"] == "src/patches"
    said = outcomes(made)
    assert said["src/tool.rpm"][0] == said["src/Kbuild"][0] == said["src/drivers/net/Makefile"][0] == "left out"
    assert said["src/drivers/phy/x"][0] == "decide"


def test_patches_that_ddiskit_applied_and_we_do_not_are_named(tmp_path):
    file = module_config(tmp_path, "module_build_dir = d")
    sources(tmp_path, {"d/Makefile": "", "patches/1.patch": "", "patches/2.diff": ""})
    assert outcomes(read_project(file))["src/patches/2.diff"][0] == "decide"
    sources(tmp_path, {"patches/series": "2.diff\n1.patch -p1\n", "patches/3.patch": ""})
    said = outcomes(read_project(file))
    assert "src/patches/2.diff" not in said
    assert said["src/patches/3.patch"][0] == "decide"
    assert said["src/patches/series"][0] == "changed"


def test_nothing_in_src_leads_out_of_it(tmp_path):
    file = module_config(tmp_path, "module_build_dir = d")
    sources(tmp_path, {"d/a.c": "a", ".git/config": "secret", "d/.git/config": "secret"})
    (tmp_path / "src/d/link").symlink_to("/etc/passwd")
    (tmp_path / "src/etc").symlink_to("/etc")
    os.mkfifo(tmp_path / "src/d/pipe")
    made = read_project(file)
    assert {path: file.content for path, file in made.sources.files.items()} == {
        "d/a.c": b"a",
        "d/link": b"/etc/passwd",
        "etc": b"/etc",
    }
    assert {one.key for one in made.sources.entries if one.outcome == "left out"} == {
        "src/.git",
        "src/d/.git",
        "src/d/pipe",
    }


@pytest.mark.parametrize("name", ["src", "src/patches", "src/firmware", "src/.pc"])
def test_a_folder_that_is_a_link_is_refused(name, tmp_path):
    file = module_config(tmp_path, "module_build_dir = d", "firmware_include = yes")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to("/etc")
    with pytest.raises(SourceError, match="is a symbolic link"):
        read_project(file)


def test_the_date_of_the_sources(tmp_path, monkeypatch):
    file = module_config(tmp_path, "module_build_dir = d")
    sources(tmp_path, {"d/a.c": "", "d/b.c": ""})
    os.utime(tmp_path / "src/d/a.c", (100, 100))
    os.utime(tmp_path / "src/d/b.c", (200, 200))
    assert epoch_of(read_project(file)) == 200
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "50")
    assert epoch_of(read_project(file)) == 50
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    assert epoch_of(read_project(file)) == 200


@pytest.mark.parametrize("name", ["../../etc", "/etc", "gone", "link"])
def test_a_damaged_folder_of_quilt_is_an_error(name, tmp_path):
    file = module_config(tmp_path, "module_build_dir = d")
    sources(tmp_path, {"d/a.c": "", ".pc/applied-patches": f"{name}\n"})
    (tmp_path / "src/.pc/link").symlink_to("/etc")
    with pytest.raises(SourceError, match="damaged"):
        read_project(file)


def test_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pkgkmod.config.importers.ddiskitsources._LARGEST", 3)
    file = module_config(tmp_path, "module_build_dir = d")
    sources(tmp_path, {"d/a.c": "four"})
    with pytest.raises(SourceError, match="too large"):
        read_project(file)


def test_firmware_that_is_not_packaged_is_named(tmp_path):
    file = module_config(tmp_path, "module_build_dir = d", "firmware_include = no")
    sources(tmp_path, {"d/a.c": "", "firmware/acme/x.bin": ""})
    made = read_project(file)
    assert "firmware" not in made.values
    assert [e.value for e in made.entries if e.key == "src/firmware"] == ["acme/x.bin"]
    assert not any(path.startswith("firmware") for path in made.sources.files)


def test_each_value_keeps_its_place(tmp_path):
    file = PROJECTS / "full/module.config"
    layers = as_layers(project("full"), file)
    assert str(layers[-1].origin(("project", "version"))).endswith("full/module.config:10")


# --- writing --------------------------------------------------------------------------------------------


def test_a_project_file_is_not_written_over(tmp_path):
    file = tmp_path / "pkgkmod.toml"
    write_project(file, "a\n", force=False)
    with pytest.raises(UsageError, match="is there already"):
        write_project(file, "b\n", force=False)
    assert file.read_text() == "a\n"
    write_project(file, "b\n", force=True)
    assert file.read_text() == "b\n"
    assert [path.name for path in tmp_path.iterdir()] == ["pkgkmod.toml"]


def test_comments_cannot_be_left_by_a_value():
    text = comments([Entry("k\n", 'a\nb = "c"\x1b', "decide", "t\n[x]")], "m\nodule")
    assert tomllib.loads(text) == {}


def test_the_report_in_json(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(PROJECTS / "full", tmp_path / "full")
    cli.main(["import", "ddiskit", "full", "-n", "--json"], standalone_mode=False)
    out = capsys.readouterr().out
    assert '"key": "spec_file.git_hash"' in out or '"key":"spec_file.git_hash"' in out
    assert not (tmp_path / "full/pkgkmod.toml").exists()


def test_the_commit_of_files_is_the_same_for_the_same_files():
    files = {"b/x": ("100644", b"x"), "a": ("100755", b"a")}
    one = make_commit(files, epoch=1, message="m")
    two = make_commit(dict(reversed(files.items())), epoch=1, message="m")
    later = make_commit(files, epoch=2, message="m")
    assert one == two
    assert one.commit != later.commit
    assert one.label == later.label

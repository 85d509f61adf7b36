"""What modules build on: names, order, circles, and the words of the makefile and of packages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkgkmod.config import layers
from pkgkmod.config.load import load
from pkgkmod.errors import ConfigError, RequirementError
from pkgkmod.model.job import Job
from pkgkmod.model.project import ModuleEntry, Project
from pkgkmod.model.requires import Requirement, derived_order
from pkgkmod.modules.makefiles import ModuleRule
from pkgkmod.modules.providers import in_order, provider_variables
from pkgkmod.packages import rpm
from pkgkmod.packages.debcontrol import control_paragraphs
from pkgkmod.packages.providers import find_providers
from tests.fixtures.packaging import make_facts, make_job, make_project

UNAME_R = "6.1.0-56-amd64"
RULES = (ModuleRule("foo", "drivers/foo", None), ModuleRule("bar", "drivers/bar", None))
DEVEL = "[devel]\nenabled = true\n"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without settings of its own, and an empty present folder."""
    monkeypatch.setattr(layers, "SYSTEM_FILE", tmp_path / "etc/pkgkmod.toml")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a project file into a folder of the project's name; return its path."""

    def write(name: str, text: str = "", info: str = "") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "pkgkmod.toml").write_text(f'[project]\nname = "{name}"\n{info}{text}')
        return folder / "pkgkmod.toml"

    return write


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return f"{caught.value.brief}\n{caught.value.details}\n{caught.value.hint}"


# --- order and circles ------------------------------------------------------------------------------


@given(st.permutations(list("abcdef")), st.data())
@settings(max_examples=50)
def test_each_comes_behind_what_it_requires(names: list[str], data: st.DataObject) -> None:
    ranked = sorted(names)
    requires = {name: data.draw(st.lists(st.sampled_from(ranked[: ranked.index(name)] or [""]))) for name in names}
    requires = {name: [other for other in others if other] for name, others in requires.items()}
    order = derived_order(requires)
    assert sorted(order) == ranked
    assert all(order.index(other) < order.index(name) for name, others in requires.items() for other in others)
    if not any(requires.values()):
        assert list(order) == names


def test_modules_of_a_project_are_put_in_order() -> None:
    entries = (
        ModuleEntry(name="top", requires=("foo_bar", "elsewhere")),
        ModuleEntry(name="other"),
        ModuleEntry(name="foo-bar", requires=("base",)),
        ModuleEntry(name="base"),
    )
    assert [entry.name for entry in in_order(entries)] == ["base", "foo-bar", "top", "other"]


def test_a_circle_of_modules_is_named_with_its_path_and_place(write: Write) -> None:
    tables = "".join(
        f'[[module]]\nname = "{name}"\nrequires = ["{other}"]\n' for name, other in ("ab", "bc", "cd", "db")
    )
    said = refused(write("p", tables))
    assert "modules cannot require each other in a circle: 'b' requires 'c' requires 'd' requires 'b'" in said
    assert said.startswith("p/pkgkmod.toml:3: module: ")
    assert "'a' requires 'a'" in refused(write("q", '[[module]]\nname = "a"\nrequires = ["a"]\n'))


# --- names ------------------------------------------------------------------------------------------


def test_names_that_nobody_has_are_refused_with_the_nearest(write: Write) -> None:
    tables = '[[module]]\nname = "foo"\n[[module]]\nname = "bar"\nrequires = ["fooo", "zzzz"]\n'
    said = refused(write("p", tables + '[[requires]]\nname = "baz"\n')).splitlines()
    assert said[0] == "p/pkgkmod.toml: 2 mistakes"
    assert said[1] == (
        "p/pkgkmod.toml:7: module[2].requires[1]: no module and no driver in [[requires]] is called 'fooo'; "
        "did you mean 'foo'?"
    )
    assert said[2].endswith("is called 'zzzz'; there are: foo, bar, baz")


def test_a_project_that_is_required_gives_its_name_and_vendor(write: Write) -> None:
    write("foo", DEVEL, 'vendor = "acme"\n')
    tables = '[[module]]\nname = "bar"\nrequires = ["foo"]\n[[requires]]\nproject = "../foo"\n'
    (requirement,) = load(write("bar", tables)).project.requires
    assert (requirement.name, requirement.vendor, requirement.driver) == ("foo", "acme", "acme-foo")
    assert requirement.devel_folder == "/usr/src/kmods/foo"


REFUSED = {
    "nothing": ("", "needs `project`, the folder of another project, or `name`"),
    "no such project": ('project = "../fo"', "there is no "),
    "another name": ('project = "../foo"\nname = "baz"', "is the project 'foo', not 'baz'"),
    "no devel package": ('project = "../plain"', "makes no devel package"),
    "a folder of a project": ('project = "../foo"\nfolder = "/x"', "project goes without folder"),
    "unknown key": ('name = "foo"\nheader = "x"', "did you mean 'headers'?"),
    "relative folder": ('name = "foo"\nfolder = "x"', "must be an absolute path"),
    "make": ('name = "foo"\nfolder = "/$(shell id)"', "must be an absolute path"),
    "way out": ('name = "foo"\nsymvers = "../../x"', "without '..'"),
    "colon": ('name = "foo"\nheaders = "a:b"', "must hold only letters"),
    "macro": ('name = "foo"\nrpm_devel = "%(id)"', "must be a package"),
    "two packages": ('name = "foo"\ndeb_package = "a, b"', "must be a package"),
    "twice": ('name = "foo"\n[[requires]]\nproject = "../foo"', "'foo' is required twice"),
    "a module": ('name = "own"', "'own' is a module of this project, too"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_requirements_that_are_refused(name: str, write: Write) -> None:
    text, message = REFUSED[name]
    write("foo", DEVEL)
    write("plain")
    said = refused(write("bar", f'[[module]]\nname = "own"\n[[requires]]\n{text}\n'))
    assert message in said
    assert said.startswith("bar/pkgkmod.toml:")


def test_projects_that_require_each_other_are_refused_with_the_path(write: Write) -> None:
    for name, other in ("ab", "bc", "cb"):
        write(name, f'[[requires]]\nproject = "../{other}"\n{DEVEL}')
    said = refused(Path("a/pkgkmod.toml"))
    assert "projects cannot require each other in a circle" in said
    assert "b/pkgkmod.toml\nrequires c/pkgkmod.toml\nrequires b/pkgkmod.toml" in said


@pytest.mark.parametrize("key", ["rpm.akmod", "rpm.dkms", "deb.dkms"])
def test_what_is_built_for_kernels_that_were_not_foreseen_requires_nothing(key: str, write: Write) -> None:
    table, name = key.split(".")
    said = refused(write("bar", f'[[requires]]\nname = "foo"\n[{table}]\n{name} = true\n'))
    assert f"{table}: {name} cannot be made of a project with [[requires]]" in said


# --- the makefile -----------------------------------------------------------------------------------


def variables(tree: Path, *modules: ModuleEntry, requires: tuple[Requirement, ...] = ()) -> dict[str, str]:
    project = Project.model_validate({**make_project().model_dump(), "module": modules, "requires": requires})
    return provider_variables(project, RULES, tree)


def test_a_project_that_builds_on_nothing_has_no_variables(tmp_path: Path) -> None:
    assert variables(tmp_path, ModuleEntry(name="foo"), ModuleEntry(name="bar")) == {}


def test_headers_of_a_module_are_for_those_that_require_it(tmp_path: Path) -> None:
    (tmp_path / "drivers/foo/api/uapi").mkdir(parents=True)
    made = variables(tmp_path, ModuleEntry(name="bar", requires=("foo",)), ModuleEntry(name="foo", headers="api"))
    pairs = [f"drivers/{name}:drivers/foo/api{uapi}" for name in ("foo", "bar") for uapi in ("", "/uapi")]
    assert made == {"PROVIDER_INCLUDES": " ".join(pairs)}
    with pytest.raises(ConfigError, match="drivers/foo/apis, is not among the imported sources"):
        variables(tmp_path, ModuleEntry(name="bar", requires=("foo",)), ModuleEntry(name="foo", headers="apis"))


def test_headers_of_another_driver_are_for_all_unless_a_module_names_it(tmp_path: Path) -> None:
    one = Requirement(name="one", folder="/opt/one-{uname_r}", symvers="symvers")
    two = Requirement(name="two")
    made = variables(tmp_path, ModuleEntry(name="foo"), ModuleEntry(name="bar", requires=("two",)), requires=(one, two))
    assert made["PROVIDER_SYMBOLS"] == "/opt/one-$(KERNEL)/symvers /usr/src/kmods/two/$(KERNEL)/Module.symvers"
    folders = [pair.split(":") for pair in made["PROVIDER_INCLUDES"].split() if not pair.endswith("uapi")]
    assert folders == [
        ["drivers/foo", "/opt/one-$(KERNEL)/include"],
        ["drivers/bar", "/opt/one-$(KERNEL)/include"],
        ["drivers/bar", "/usr/src/kmods/two/include"],
    ]


# --- packages ---------------------------------------------------------------------------------------

OURS = {"name": "foo", "vendor": "acme"}
THEIRS = {
    "name": "stack",
    "rpm_package": "kmod-stack >= 2.1",
    "rpm_devel": "stack-devel({uname_r})",
    "deb_package": "stack-{uname_r} >= 2.1",
    "deb_devel": "stack-dev",
}
SPECS = {
    "el9": (
        "5.14.0-427.13.1.el9_4.x86_64",
        "Requires:       foo-kmod\n",
        "Requires:       kmod-stack >= 2.1\n",
        "BuildRequires:  %{of_kernel foo-kmod-devel-uname-r %{kernel}}\n",
        "BuildRequires:  stack-devel(%{kernel})\n",
    ),
    "fedora": (
        "6.11.4-301.fc41.x86_64",
        "Requires:       kmod-acme-foo-%{1} \\\n",
        "Requires:       kmod-stack >= 2.1 \\\n",
        "BuildRequires: %{of_kernel foo-kmod-devel-uname-r %{1}}\n",
        "BuildRequires: stack-devel(%{1})\n",
    ),
    "sle15sp6": (
        "6.4.0-150600.23.47-default",
        "Requires:       acme-foo-kmp-%{kernel_flavour %{1}} \\\n",
        "BuildRequires: %{of_kernel foo-kmod-devel-uname-r %{1}}\n",
    ),
    "tumbleweed": (
        "6.11.0-1-default",
        "Requires:       acme-foo-kmp-%{kernel_flavour %{1}}-k%{kernel_suffix %{1}} \\\n",
    ),
}


def job_for(distro: str, release: str) -> Job:
    project = Project.model_validate({**make_project().model_dump(exclude_none=True), "requires": [OURS, THEIRS]})
    return make_job(distro, (release,), project)


@pytest.mark.parametrize("distro", SPECS)
def test_specs_name_what_is_required_to_build_and_to_run(distro: str) -> None:
    release, *lines = SPECS[distro]
    spec = rpm.render_spec(make_facts(job_for(distro, release)), None)
    assert [line for line in lines if line not in spec] == []


def test_control_files_name_what_is_required_to_build_and_to_run() -> None:
    source, modules, *_ = control_paragraphs(make_facts(job_for("debian12", UNAME_R)))
    built_with = [line.strip() for line in source["Build-Depends-Arch"].split(",")]
    assert built_with[1:] == ["foo-modules-dev", "stack-dev", "python3:any"]
    needed = [line.strip() for line in modules["Depends"].split(",")]
    assert needed[1:] == ["kmod", f"foo-modules-{UNAME_R}", f"stack-{UNAME_R} (>= 2.1)", "${misc:Depends}"]


# --- what is on this machine ------------------------------------------------------------------------


def installed(folder: Path, **more: str) -> Project:
    return make_project().model_copy(
        update={"requires": (Requirement.model_validate({"name": "foo", "folder": str(folder), **more}),)}
    )


def test_an_installed_driver_is_known_by_its_exports_and_headers(tmp_path: Path) -> None:
    folder = tmp_path / "devel"
    project = installed(folder)
    with pytest.raises(RequirementError, match=rf"'foo', which this project requires, is not here for {UNAME_R}"):
        find_providers(project, tmp_path, UNAME_R, "_")
    (folder / UNAME_R).mkdir(parents=True)
    symvers = folder / UNAME_R / "Module.symvers"
    symvers.write_text("0x1\ta\tfoo\tEXPORT_SYMBOL\t\n0x2\tb\tfoo\tEXPORT_SYMBOL\t\n")
    (folder / "include/linux").mkdir(parents=True)
    (folder / "include/linux/foo.h").write_text("1")
    (folder / "README").write_text("not asked for")

    def stamp() -> str:
        (provider,) = find_providers(project, tmp_path, UNAME_R, "_")
        assert set(provider.files) == {str(symvers), f"{folder}/include/linux/foo.h"}
        return provider.stamp

    first = stamp()
    symvers.write_text("0x2\tb\tfoo\tEXPORT_SYMBOL\t\n0x1\ta\tfoo\tEXPORT_SYMBOL\t\n")
    (folder / "README").write_text("changed")
    assert stamp() == first
    symvers.write_text("0x1\ta\tfoo\tEXPORT_SYMBOL\t\n0x3\tb\tfoo\tEXPORT_SYMBOL\t\n")
    second = stamp()
    (folder / "include/linux/foo.h").write_text("2")
    assert len({first, second, stamp()}) == 3

"""The builder mock: its commands, and its configuration.

mock is not packaged for Debian: configurations are executed here as mock does that.
"""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import SandboxedEnvironment

from pkgkmod.builders.mock import MockBuilder
from pkgkmod.builders.mock import config as mockconfig
from pkgkmod.builders.mock.config import config_text, find_config, who_builds
from pkgkmod.builders.mock.kernels import kernel_packages
from pkgkmod.command import Command
from pkgkmod.data import load as load_data
from pkgkmod.engine import resolve
from pkgkmod.engine.plan import Selection, default_stages, make_steps
from pkgkmod.errors import (
    ConfigError,
    SandboxError,
    UsageError,
)
from pkgkmod.model.artifacts import Recipe
from pkgkmod.model.kernel import KernelOffer, KernelRelease, PackageFile
from pkgkmod.model.packaging import Mock
from pkgkmod.model.places import Places
from pkgkmod.model.project import Build, Project
from pkgkmod.plugins import BUILDERS, JobUnit, RootBuilder, load
from pkgkmod.progress import Progress
from tests.fixtures.packaging import make_job, make_project

EL = "5.14.0-427.13.1.el9_4.x86_64"
RECIPE = Recipe(
    format="rpm",
    name="kmod-e1000e",
    version="6.1.90-1.el9",
    spec="kmod-e1000e.spec",
    archive="e1000e-6.1.90.tar.xz",
    kernels=(EL,),
    source_date_epoch=1_700_000_000,
)
JANE = pwd.struct_passwd(("jane", "x", 1000, 1000, "", "/home/jane", "/bin/sh"))
PLACES = Places(Path("/b/place"), "x86_64", jobs=4)


def project(**mock: Any) -> Project:
    return Project.model_validate({**make_project().model_dump(exclude_none=True), "mock": mock})


def settings(**mock: Any) -> Mock:
    return Mock.model_validate(mock)


def executed(text: str, **config_opts: Any) -> dict[str, Any]:
    """Return what a configuration leaves, as mock's own code does it: `include` is text, and done before."""
    first, _, rest = text.partition("\ninclude(")
    place, _, rest = rest.partition(")\n")
    given: dict[str, Any] = {"environment": {}, "macros": {}, "dnf.conf": "[main]\n", **config_opts}
    exec(f"{first}\n{rest}", {"config_opts": given})
    return {**given, "included": eval(place)}


def text(include: str = "/etc/mock/rocky-9-x86_64.cfg", local: str | None = None, **mock: Any) -> str:
    keys = {one.gpgkey: one.gpgkey for one in settings(**mock).repositories if one.gpgkey}
    return config_text(
        settings(**mock), Path(include), extension="pkgkmod-0", local=Path(local) if local else None, keys=keys
    )


def test_it_is_a_builder_with_a_root() -> None:
    builder = load(BUILDERS, "mock")
    assert isinstance(builder, MockBuilder) and isinstance(builder, RootBuilder)
    assert not builder.prebuilt and builder.tools("rpm") == ("rpmbuild", "xz", "mock")
    assert {*builder.tools("rpm"), "createrepo_c"} <= set(load_data("tools.toml")["packages"])


@pytest.mark.parametrize(
    ("mock", "words"),
    [
        ({}, ()),
        ({"offline": True}, ("--offline",)),
        ({"bootstrap": False}, ("--no-bootstrap-chroot",)),
        ({"bootstrap": True}, ("--bootstrap-chroot",)),
    ],
)
def test_commands(monkeypatch: pytest.MonkeyPatch, mock: dict[str, Any], words: tuple[str, ...]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    more = {"options": ["--isolation=simple -v"], "more_options": ["-q"]}
    source, rebuild = MockBuilder().rpm_commands(RECIPE, project(**mock, **more), PLACES)
    assert source.argv[:2] == ("rpmbuild", "-bs") and not source.user and not source.isolates
    assert rebuild == Command(
        (
            *("mock", "-r", "/b/mock.cfg", *words, "--resultdir", "/b/place/RPMS", "--rpmbuild_timeout", "3600"),
            *("--isolation=simple", "-v", "-q", "--rebuild", "SRPMS/kmod-e1000e-6.1.90-1.el9.src.rpm"),
        ),
        cwd=Path("/b/place"),
        time_limit=7200,
        isolates=True,
    )


def test_commands_of_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    commands = MockBuilder().rpm_commands(RECIPE, project(user="jane"), PLACES)
    assert [command.user for command in commands] == ["jane", "jane"]
    alone = MockBuilder().rpm_commands(RECIPE, project(user="jane"), replace(PLACES, source_only=True))
    assert [(command.argv[:2], command.user) for command in alone] == [(("rpmbuild", "-bs"), "")]


def test_refusals() -> None:
    with pytest.raises(UsageError, match="quotation mark"):
        MockBuilder().rpm_commands(RECIPE, project(options=["'x"]), PLACES)
    with pytest.raises(UsageError, match="RPMs only"):
        MockBuilder().deb_commands(RECIPE, project(), PLACES)


def test_the_configuration_as_mock_reads_it() -> None:
    made = executed(text(local="/home/jane/.cache/roots/mock-0", macros={"dist": ".el9_4", "%vendor": "ACME"}))
    assert made["included"] == "/etc/mock/rocky-9-x86_64.cfg"
    assert made["unique-ext"] == "pkgkmod-0"
    assert made["macros"]["%dist"] == ".el9_4" and made["macros"]["%vendor"] == "ACME"
    assert made["macros"]["%_buildhost"] == "reproducible"
    assert made["dnf_warning"] is False
    assert made["dnf.conf"] == (
        "[main]\n\n[pkgkmod-kernels]\nname=pkgkmod-kernels\nbaseurl=file:///home/jane/.cache/roots/mock-0\n"
        "enabled=1\nskip_if_unavailable=0\ngpgcheck=0\n"
    )


def test_repositories_in_the_configuration() -> None:
    repositories = [
        "https://repo.example.org/$releasever/$basearch/",
        {"baseurl": "http://h/x", "name": "vendor", "gpgkey": "https://h/KEY"},
    ]
    added = executed(text(repositories=repositories))["dnf.conf"]
    assert "[extra-1]\nname=extra-1\nbaseurl=https://repo.example.org/$releasever/$basearch/\n" in added
    assert added.endswith(
        "[vendor]\nname=vendor\nbaseurl=http://h/x\nenabled=1\nskip_if_unavailable=0\ngpgcheck=1\n"
        "gpgkey=https://h/KEY\n"
    )
    assert "pkgkmod-kernels" not in added
    with pytest.raises(ConfigError, match="two are called 'pkgkmod-kernels'"):
        text(local="/x", repositories=[{"baseurl": "http://h/x", "name": "pkgkmod-kernels"}])


def test_older_mocks_know_yum_conf_only() -> None:
    made: dict[str, Any] = {"environment": {}, "macros": {}, "yum.conf": "[main]\n"}
    _, _, rest = text(local="/x").partition(".cfg')\n")
    exec(rest, {"config_opts": made})
    assert "baseurl=file:///x\n" in made["yum.conf"] and "dnf.conf" not in made


@pytest.mark.parametrize(
    "url",
    [
        "https://h/{{ 7*7 }}",
        "https://h/\n[main]\ngpgcheck=0",
        "file://relative",
        "$(id)",
        "https://h/a b",
        "https://h/..",
        "",
    ],
)
def test_hostile_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError):
        settings(repositories=[url])


@pytest.mark.parametrize("name", ["a]\n[b", "{{x}}", "..", "-x", ""])
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError):
        settings(repositories=[{"baseurl": "https://h/", "name": name}])
    with pytest.raises(ValueError):
        settings(macros={name: "x"})


def test_hostile_texts_stay_texts() -> None:
    body = '\'; import os; os.abort() #\\ %(id) ü """ {x} }}'
    made = executed(text("/srv/it's/x\"y.cfg", macros={"vendor": body}))
    assert made["macros"]["%vendor"] == body and made["included"] == "/srv/it's/x\"y.cfg"
    # mock renders macros as templates.
    assert SandboxedEnvironment().from_string(body).render() == body
    for template in ("{{ 7 }}", "{% raw %}", "{# x #}"):
        with pytest.raises(ConfigError, match="for a template"):
            text(macros={"vendor": template})
    with pytest.raises(ConfigError, match="no empty macro"):
        text(macros={"vendor": ""})
    with pytest.raises(UsageError, match="such as '/home/a b"):
        text(local="/home/a b/{{x}}")


def test_the_configuration_is_found_as_mock_finds_it(tmp_path: Path) -> None:
    user = pwd.struct_passwd(("jane", "x", 1000, 1000, "", str(tmp_path / "home"), "/bin/sh"))
    mine, system = tmp_path / "home/.config/mock", tmp_path / "etc"
    for file in (mine / "mine.cfg", mine / "both.cfg", system / "both.cfg", system / "rocky-9-x86_64.cfg"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "here.cfg").touch()
    (system / "site-defaults.cfg").touch()
    place = {"options": [f"-v --configdir={system}"]}
    found = [
        find_config(settings(config=name, **place), "el9", tmp_path, user) for name in ("mine", "both", "here.cfg")
    ]
    assert found == [mine / "mine.cfg", mine / "both.cfg", tmp_path / "here.cfg"]
    assert find_config(settings(config="mine"), "el9", tmp_path, user) == mine / "mine.cfg"
    by_target = settings(config={"el9": "rocky-9-x86_64"}, more_options=["--configdir", str(system)])
    assert find_config(by_target, "el9", tmp_path, user) == system / "rocky-9-x86_64.cfg"
    for config, brief, hint in (
        ("rocky-9-x86-64", "mock has no configuration 'rocky-9-x86-64'", "did you mean 'rocky-9-x86_64'?"),
        ("site-defaultz", "mock has no configuration", "`mock --list-chroots` lists them"),
        (None, "mock has no configuration 'default'", "-r NAME"),
        ("../x", "neither a name nor a file", ""),
        ("x.cfg", "there is no file", "begins at the project file"),
        ({"el8": "x"}, "names no configuration for el9", "el9 = 'NAME'"),
    ):
        with pytest.raises(ConfigError, match=brief) as caught:
            find_config(settings(config=config, **place), "el9", tmp_path, user)
        assert hint in caught.value.hint


def test_who_may_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    group = grp.struct_group(("mock", "x", 135, ["joe"]))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: JANE)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [1000])
    monkeypatch.setattr(grp, "getgrnam", lambda _: group)
    with pytest.raises(SandboxError, match="jane is not in the group mock") as caught:
        who_builds(settings())
    assert caught.value.hint.startswith("as root: usermod -a -G mock jane;")
    monkeypatch.setattr(os, "getgroups", lambda: [1000, 135])
    assert who_builds(settings()) == JANE
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(SandboxError, match="does not run as root") as caught:
        who_builds(settings())
    assert "user = 'NAME'" in caught.value.hint
    with pytest.raises(SandboxError, match="no user no-such-user"):
        who_builds(settings(user="no-such-user"))


def test_root_needs_no_user_for_a_source_package_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    whole = make_project(rpm={"builder": "mock", "srpm_only": True})
    unit = JobUnit(whole, Path("/nonexistent"), make_job("el9", (EL,), whole))
    assert "file" not in MockBuilder().ingredients(unit)
    with MockBuilder().at_work(unit, Progress()) as folder:
        assert folder.is_dir() and not (folder.parent / "mock.cfg").exists()
    assert not folder.exists()


def test_the_configuration_is_an_ingredient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mockconfig, "who_builds", lambda _: JANE)
    monkeypatch.setattr("pkgkmod.builders.mock.who_builds", lambda _: JANE)
    whole = project(config="here.cfg", offline=True)
    unit = JobUnit(whole, tmp_path, make_job("el9", (EL,), whole))
    (tmp_path / "here.cfg").write_text("one")
    one = MockBuilder().ingredients(unit)
    (tmp_path / "here.cfg").write_text("two")
    assert MockBuilder().ingredients(unit) != one and "offline" not in one


def test_packages_of_kernels() -> None:
    rpm = PackageFile("kernel-devel", "5", "https://h/a.rpm", "b" * 64, 1)
    deb = PackageFile("linux-headers", "5", "https://h/a.deb", "a" * 64, 1)
    kernel = make_job("el9", (EL,)).kernels[0]
    offer = KernelOffer(KernelRelease(EL), "x86_64", "rpm-md", (rpm, rpm, deb))
    assert kernel_packages([kernel, replace(kernel, offer=offer)]) == (rpm,)


@pytest.mark.parametrize(
    ("builder", "distros", "roots"),
    [("mock", ["el9"], False), ("local", ["el9"], True), ("mock", ["el9", "debian12"], True)],
)
def test_programs_of_a_kernel_need_not_run_here_for_a_root(
    monkeypatch: pytest.MonkeyPatch, builder: str, distros: list[str], roots: bool
) -> None:
    asked: list[bool] = []

    def provide(kernels: Any, build: Build, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        asked.append(build.roots)
        return {kernel.uname_r: kernel for kernel in kernels}, {}

    monkeypatch.setattr(resolve, "provide_kernels", provide)
    kernels = make_job("el9", (EL,)).kernels
    monkeypatch.setattr(resolve, "wanted_kernels", lambda project, *_, **__: dict.fromkeys(project.target, kernels))
    given = make_project(rpm={"builder": builder}).model_dump(exclude_none=True)
    whole = Project.model_validate({**given, "target": [{"distro": one} for one in distros]})
    resolve.resolve_jobs(whole, Path("/nonexistent"))
    assert asked == [roots]


def test_nothing_is_compiled_here_for_packages_that_are_made_in_a_root(tmp_path: Path) -> None:
    def stages(builder: str, *wanted: str) -> set[str]:
        whole = make_project(rpm={"builder": builder})
        selection = Selection(whole, tmp_path, (make_job("el9", (EL,), whole),), wanted)
        return {step.stage.name for step in make_steps(selection)}

    assert "build_modules" not in stages("mock", *default_stages())
    assert "build_modules" in stages("local", *default_stages())
    assert "build_modules" in stages("mock", "build_modules")

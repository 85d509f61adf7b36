"""Copr's chroots, states and logs; the frontend is a stand-in."""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path
from typing import Any

import copr.v3
import pytest

from pkgkmod.builders import download
from pkgkmod.builders.copr import CoprFarm, CoprSettings, checked, session
from pkgkmod.builders.copr.api import Frontend
from pkgkmod.builders.copr.session import CoprSession
from pkgkmod.errors import FarmError, PluginError, ToolError
from pkgkmod.farms import SourcePackage
from pkgkmod.model.artifacts import Recipe
from pkgkmod.model.submission import FarmBuild
from pkgkmod.progress import Progress
from tests.fixtures.packaging import make_job

TWO = ["epel-9-aarch64", "epel-9-x86_64"]
SETTINGS = {"project": "@group/drivers", "chroots": TWO}
KERNEL = "5.14.0-427.13.1.el9_4.x86_64"


def package() -> SourcePackage:
    recipe = Recipe(format="rpm", name="kmod-x", version="1-1", archive="x.tar", kernels=(KERNEL,), source_date_epoch=1)
    return SourcePackage(make_job("el9", (KERNEL,)), recipe, Path("/r"), (Path("/r/kmod-x-1-1.src.rpm"),))


class Proxies:
    """The library's proxies, with answers instead of a network."""

    def __init__(self, builds: dict[int, dict[str, Any]]) -> None:
        self._builds, self.asked = builds, []
        self.chroots: list[dict[str, Any]] = []
        self.made: dict[str, Any] = {}
        self.project: dict[str, Any] = {}
        self.build_proxy = self.build_chroot_proxy = self.project_proxy = self

    def get(self, *which: Any) -> Any:
        self.asked.append(("get", *which))
        if len(which) == 2:
            return self.project
        if which[0] not in self._builds:
            raise copr.v3.CoprNoResultException("gone")
        return self._builds[which[0]]

    def get_list(self, *which: Any, pagination: Any = None) -> Any:
        self.asked.append(("list", *which))
        if len(which) == 1:
            return self.chroots
        newest = sorted(self._builds.values(), key=lambda one: -int(one["id"]))
        return newest[pagination["offset"] :][: pagination["limit"]]

    def get_source_chroot(self, number: int) -> Any:
        return {"result_url": None}

    def get_built_packages(self, number: int) -> Any:
        return self.made


def session_of(proxies: Proxies) -> CoprSession:
    return CoprSession(Frontend(copr.v3, proxies, "https://copr", "me", ""), checked(SETTINGS))


def build(number: int, state: str, *chroots: str) -> dict[str, Any]:
    return {"id": number, "state": state, "chroots": list(chroots)}


def test_a_kernel_is_built_in_the_chroots_of_its_machine():
    asked = CoprFarm().describe(package(), {**SETTINGS, "chroots": {"el9": TWO, "el8": ["epel-8-x86_64"]}})
    assert asked["words"] == "build in @group/drivers for epel-9-x86_64"
    assert asked["options"] == {"chroots": ["epel-9-x86_64"], "background": False}
    with pytest.raises(FarmError, match="chroots for el9 are not known"):
        CoprFarm().describe(package(), {**SETTINGS, "chroots": {"el8": ["epel-8-x86_64"]}})


@pytest.mark.parametrize(
    ("key", "value"),
    [("project", "drivers"), ("project", "a/b/c"), ("chroots", ["x86_64"]), ("timeout", 0), ("bootstrap", "yes")],
)
def test_settings_that_copr_has_not_are_refused(key, value):
    with pytest.raises(PluginError, match=rf"plugin\.copr\.{key}"):
        checked({**SETTINGS, key: value})


def test_many_builds_are_asked_about_in_few_requests():
    proxies = Proxies({n: build(n, "running", "epel-9-x86_64") for n in range(1, 351)})
    found = session_of(proxies).builds([{"build": number} for number in range(101, 351)])
    assert len(proxies.asked) == 3  # pages of a hundred
    assert [one[0].id for one in found][:2] == ["101/epel-9-x86_64", "102/epel-9-x86_64"]  # type: ignore[index]
    assert {one[0].state for one in found} == {"building"}  # type: ignore[index]


def test_a_build_that_is_gone_is_told_in_its_place():
    proxies = Proxies({7: build(7, "succeeded", "epel-9-x86_64")})
    gone, there = session_of(proxies).builds([{"build": 5}, {"build": 7}])
    assert isinstance(gone, FarmError) and "knows no build 5" in gone.brief
    assert isinstance(there, tuple) and there[0].state == "succeeded"


def test_each_chroot_has_a_state_of_its_own():
    proxies = Proxies({7: build(7, "running", *TWO)})
    proxies.chroots = [{"name": TWO[0], "state": "skipped"}, {"name": TWO[1], "state": "running"}]
    session = session_of(proxies)

    def states() -> list[tuple[str, str]]:
        (found,) = session.builds([{"build": 7}])
        assert isinstance(found, tuple)
        return [(one.title, one.state) for one in found]

    assert states() == [(TWO[0], "cancelled"), (TWO[1], "building")]
    proxies._builds[7]["state"] = "failed"  # the SRPM could not be imported: the chroots never begin
    proxies.chroots = [{"name": name, "state": "waiting"} for name in TWO]
    assert states() == [(TWO[0], "failed"), (TWO[1], "failed")]
    proxies._builds[7]["state"] = "importing"
    proxies.chroots = []
    assert states() == [(TWO[0], "waiting"), (TWO[1], "waiting")]


def test_packages_for_several_machines_are_taken_once_and_those_of_one_name_refused():
    proxies = Proxies({})
    facts = {"name": "kmod-x", "version": "1", "release": "1"}
    folder = "https://results/results/g/drivers/{}/00000007-kmod-x"
    proxies.chroots = [{"name": name, "result_url": folder.format(name)} for name in TWO]
    proxies.made = {name: {"packages": [{**facts, "arch": "noarch"}, {**facts, "arch": "src"}]} for name in TWO}
    (only,) = session_of(proxies).files({"build": 7})
    assert only.place == f"{folder.format(TWO[0])}/kmod-x-1-1.noarch.rpm"
    proxies.project = {"storage": "pulp", "devel_mode": True}
    (only,) = session_of(proxies).files({"build": 7})
    assert only.place == f"{folder.format(TWO[0] + '-devel')}/kmod-x-1-1.noarch.rpm"
    proxies.made = {name: {"packages": [{**facts, "arch": "x86_64"}]} for name in TWO}
    with pytest.raises(FarmError, match=r"both have made kmod-x-1-1\.x86_64\.rpm"):
        session_of(proxies).files({"build": 7})


@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        (gzip.compress(b"a\n" * 9), b"a\n" * 9),
        (gzip.compress(b"one\n") + gzip.compress(b"two\n"), b"one\ntwo\n"),
        (b"plain\n", b"plain\n"),
        (gzip.compress(b"0" * 30_000_000 + b"end"), b"0" * (8 * 1024 * 1024 - 3) + b"end"),
    ],
    ids=["packed", "twice", "plain", "large"],
)
def test_the_end_of_a_log_is_kept(tmp_path, monkeypatch, packed, expected):
    monkeypatch.setattr(session, "save", lambda url, place, limit: place.write_bytes(packed))
    proxies = Proxies({})
    proxies.project = {"result_url": "https://results/x"}
    one = FarmBuild(id="7/epel-9-x86_64", title="epel-9-x86_64", state="failed")
    assert session_of(proxies).log({"build": 7}, one, tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == expected


@pytest.mark.parametrize(("build", "packed"), [("none", b"x"), ("7/x", b""), ("7/x", b"\x1f\x8bnot really")])
def test_there_may_be_no_log(tmp_path, monkeypatch, build, packed):
    monkeypatch.setattr(session, "save", lambda url, place, limit: place.write_bytes(packed))
    proxies = Proxies({})
    proxies.project = {"result_url": "https://results/x"}
    gone = FarmBuild(id=build, title="x", state="failed")
    assert not session_of(proxies).log({"build": 7}, gone, tmp_path / "log")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "", "ftp://x/y"])
def test_only_a_web_server_is_fetched_from(tmp_path, url):
    with pytest.raises(FarmError, match="does not say where"):
        download.save(url, tmp_path / "x")


def test_every_setting_stands_in_the_table_of_its_page():
    page = (Path(__file__).parents[2] / "docs/how-to/copr.md").read_text("utf-8")
    table = re.findall(r"^\| `(\w+)` \|", page.partition("\n## Settings\n")[2].partition("\n## ")[0], re.MULTILINE)
    assert table == list(CoprSettings.model_fields)


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "copr", None)
    with pytest.raises(ToolError, match="copr's client library is not installed") as missing:
        CoprFarm().connect(SETTINGS, Path("/"), Progress())
    assert "pip install 'pkgkmod[copr]'" in missing.value.hint

"""Koji's builds of several kernels: what is asked together, and refused before it is sent; the hub is a stand-in."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

import koji
import pytest

from pkgkmod.builders.koji import KojiFarm, KojiSettings, checked
from pkgkmod.builders.koji.api import Hub
from pkgkmod.builders.koji.session import KojiSession
from pkgkmod.errors import FarmError, PluginError, ToolError
from pkgkmod.farms import SourcePackage
from pkgkmod.model.artifacts import Recipe
from pkgkmod.model.submission import FarmBuild
from pkgkmod.progress import Progress
from tests.fixtures import kojihub
from tests.fixtures.packaging import make_job

REAL = {"target": "f43", "scratch": False}
PROFILE = {"profile": "stub", "weburl": "https://hub/koji", "topurl": "", "serverca": ""}


class Calls:
    """Calls that go to the stand-in, without a network between."""

    def __init__(self, hub: kojihub.Hub) -> None:
        self._hub = hub
        self.requests = 0

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: self._hub.call(name, list(arguments), named)

    logger = property(lambda self: logging.getLogger("koji"))

    def _callMethod(self, name: str, arguments: Any, named: Any) -> Any:
        assert name == "multiCall"
        self.requests += 1
        return self._hub.call(name, list(arguments), named)


def session_of(hub: kojihub.Hub, settings: dict[str, Any]) -> tuple[KojiSession, Calls]:
    calls = Calls(hub)
    calls.__dict__["multicall"] = _Multicall(calls)
    return KojiSession(Hub(koji, calls, PROFILE), checked(settings)), calls


class _Multicall:
    """As a session has it: false, and what makes a collection of calls."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def __bool__(self) -> bool:
        return False

    def __call__(self, batch: int) -> Any:
        return koji.MultiCallSession(self._calls, batch=batch)


def package(kernel: str, release: str) -> SourcePackage:
    version = f"1.0-{release}"
    recipe = Recipe(
        format="rpm", name="kmod-x", version=version, archive="x.tar", kernels=(kernel,), source_date_epoch=1
    )
    return SourcePackage(make_job("el9", (kernel,)), recipe, Path("/r"), (Path(f"/r/kmod-x-{version}.src.rpm"),))


KERNELS = ("5.14.0-427.13.1.el9_4.x86_64", "5.14.0-503.11.1.el9_5.x86_64")
BOTH = [("r1", package(KERNELS[0], "1.k427")), ("r2", package(KERNELS[1], "1.k503"))]


def test_several_kernels_are_several_builds_with_names_of_their_own():
    hub = kojihub.Hub()
    session, _ = session_of(hub, REAL)
    session.check(BOTH)
    described = [KojiFarm().describe(one, REAL)["words"] for _, one in BOTH]
    assert described == ["build for f43 at koji"] * 2
    hub.known = {"kmod-x-1.0-1.k427": "COMPLETE", "kmod-x-1.0-1.k503": "BUILDING"}
    with pytest.raises(FarmError) as refused:
        session.check(BOTH)
    assert refused.value.brief == "Koji has 2 of the 2 builds already, and builds no name, version and release twice"
    assert "kmod-x-1.0-1.k503 right now (task 77)" in refused.value.details


def test_two_kernels_that_would_be_one_build_are_refused():
    session, _ = session_of(kojihub.Hub(), REAL)
    same = [("r1", package(KERNELS[0], "1")), ("r2", package(KERNELS[1], "1"))]
    with pytest.raises(FarmError) as refused:
        session.check(same)
    assert refused.value.brief.startswith(f"el9/{KERNELS[0]} and el9/{KERNELS[1]} both are kmod-x-1.0-1, and Koji")
    tries, _ = session_of(kojihub.Hub(), {"target": "f43"})
    tries.check(same)  # of scratch builds there may be many


def test_a_target_for_each_of_the_projects_targets():
    settings = {**REAL, "target": {"el9": "epel9"}}
    assert KojiFarm().describe(BOTH[0][1], settings)["target"] == "epel9"
    with pytest.raises(FarmError, match="build target for el9 is not known"):
        KojiFarm().describe(BOTH[0][1], {**REAL, "target": {"el8": "epel8"}})
    with pytest.raises(PluginError, match=r"plugin\.koji\.target"):
        checked({"target": "a b"})


def test_many_builds_are_asked_about_in_few_requests():
    hub = kojihub.Hub(log={"x86_64": "error"})
    session, calls = session_of(hub, {"target": "f43"})
    hub.tasks = {number: kojihub.Task(number, "build", ["x.src.rpm", "f43", {}]) for number in range(100, 130)}
    tickets = [{"task": number} for number in (*range(100, 130), 999)]
    session.builds(tickets)
    before = calls.requests
    *found, unknown = session.builds(tickets)
    assert calls.requests - before == 3  # how they stand, what their parts are, and why those that failed did
    assert isinstance(unknown, FarmError) and "knows no task 999" in unknown.brief
    assert {(one[0].title, one[0].state) for one in found} == {("x86_64", "failed")}
    assert all("error building package" in one[0].reason for one in found)
    assert found[0][0].url == "https://hub/koji/taskinfo?taskID=130"


def test_builds_that_wait_cost_one_request_and_one_call_each():
    hub = kojihub.Hub(moves=False)
    session, calls = session_of(hub, {"target": "f43"})
    hub.tasks = {number: kojihub.Task(number, "build", ["x.src.rpm", "f43", {}]) for number in range(30)}
    found = session.builds([{"task": number} for number in range(30)])
    assert [[(one.id, one.state) for one in ones] for ones in found] == [[(str(n), "waiting")] for n in range(30)]
    assert calls.requests == 1 and hub.calls.count("getTaskInfo") == 30 and "getTaskChildren" not in hub.calls


def test_a_build_that_the_hub_has_forgotten_has_no_log(tmp_path):
    session, _ = session_of(kojihub.Hub(), {"target": "f43"})
    gone = FarmBuild(id="none", title="x", state="cancelled")
    assert not session.log({"task": 1}, gone, tmp_path / "log")


def test_every_setting_stands_in_the_table_of_its_page():
    page = (Path(__file__).parents[2] / "docs/how-to/koji.md").read_text("utf-8")
    table = re.findall(r"^\| `(\w+)` \|", page.partition("\n## Settings\n")[2].partition("\n## ")[0], re.MULTILINE)
    assert table == list(KojiSettings.model_fields)


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "koji", None)
    with pytest.raises(ToolError, match="koji's client library is not installed") as missing:
        KojiFarm().connect(REAL, Path("/"), Progress())
    assert "pip install 'pkgkmod[koji]'" in missing.value.hint

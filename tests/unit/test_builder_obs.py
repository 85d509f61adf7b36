"""The farm `obs`: settings, specs, descriptions of projects and packages, and hostile answers; nobody is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode
from xml.etree.ElementTree import Element, fromstring

import pytest

from pkgkmod.builders.obs import ObsFarm, Repository, checked, meta
from pkgkmod.builders.obs import spec as obsspec
from pkgkmod.builders.obs.api import NotFoundError, read_xml
from pkgkmod.builders.obs.session import ObsSession
from pkgkmod.engine.journal import Journal
from pkgkmod.engine.submit import Wanted, send
from pkgkmod.errors import FarmError, PluginError
from pkgkmod.farms import Farm, Item, SourcePackage
from pkgkmod.model.artifacts import Recipe
from pkgkmod.model.project import Project
from pkgkmod.plugins import BUILDERS, load
from pkgkmod.progress import Progress
from pkgkmod.workspace import Workspace
from tests.fixtures.packaging import make_job

KERNEL = "5.14.0-427.13.1.el9_4.x86_64"
OTHER = "5.14.0-503.el9.x86_64"
TICKET = {
    "project": "home:me",
    "package": "kmod-e1000e",
    "srcmd5": "a" * 32,
    "committed": 100,
    "after": {},
    "sent": 0.0,
}


def package(kernel: str = KERNEL, distro: str = "el9") -> SourcePackage:
    recipe = Recipe(
        format="rpm", name="kmod-e1000e", version="1-1", archive="a", kernels=(kernel,), source_date_epoch=0
    )
    return SourcePackage(make_job(distro, (kernel,)), recipe, Path("/nowhere"), (Path("/nowhere/a.src.rpm"),))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("project", "../admin"),
        ("project", "home:me?cmd=x"),
        ("project", "home::me"),
        ("package", "a/b"),
        ("package", "{nme}"),
        ("repositories", [{"name": "a/b"}]),
        ("repositories", [{"name": "a", "path": ["no slash"]}]),
        ("repositories", [{"name": "a", "arches": ["x86_64/../.."]}]),
        ("repositories", [{"name": "a"}, {"name": "a"}]),
        ("apiurl", "file:///etc; rm"),
        ("interval", 0),
        ("projct", "a"),
    ],
)
def test_settings_that_would_lead_elsewhere_are_refused(key: str, value: object) -> None:
    with pytest.raises(PluginError, match=f"plugin.obs.{key}"):
        checked({"project": "home:me", key: value})


def test_jobs_for_a_kernel_each_are_one_package_or_one_each() -> None:
    farm = load(BUILDERS, "obs")
    assert isinstance(farm, Farm)
    together = {"project": "home:me", "multibuild": True}
    assert farm.group(package(), together) == farm.group(package(OTHER), together) == "kmod-e1000e-el9"
    apart = {"project": "home:me"}
    assert farm.group(package(), apart) == ""
    assert farm.describe(package(), apart)["package"] == f"kmod-e1000e-el9-{KERNEL}"
    assert farm.group(package(), {**together, "package": "{target}-{name}"}) == "el9-kmod-e1000e"
    assert farm.group(package(), {**together, "package": "{name}.{kernel}"}) == ""


def test_targets_with_one_name_of_package_are_kept_apart_by_themselves_or_refused() -> None:
    own = package(distro="debian12")
    others = [{"distro": name, "kernels": [KERNEL]} for name in ("debian12", "debian13")]
    whole = Project.model_validate({**own.job.project.model_dump(exclude_none=True), "target": others})
    both = replace(own, job=replace(own.job, project=whole))
    # A further target changes nothing of the name.
    names = [ObsFarm().describe(one, {"project": "home:me", "multibuild": True})["package"] for one in (own, both)]
    assert names == ["kmod-e1000e-debian12"] * 2
    with pytest.raises(FarmError, match="packages of debian12 and debian13 would both be home:me/kmod-e1000e"):
        ObsFarm().describe(both, {"project": "home:me", "package": "{name}"})


def test_a_target_without_a_repository_is_said_before_anything_is_sent() -> None:
    settings = {"project": "home:me", "repositories": [{"name": "SUSE", "targets": ["sle15sp6"]}]}
    with pytest.raises(FarmError, match="no repository is for el9"):
        ObsFarm().describe(package(), settings)
    settings["repositories"] = [{"name": "EL_9", "targets": ["el9"], "arches": ["x86_64", "aarch64"]}]
    assert (
        ObsFarm().describe(package(), settings)["words"]
        == f"home:me/kmod-e1000e-el9-{KERNEL} for EL_9 (x86_64, aarch64)"
    )


SPEC = """Name: kmod-hello
BuildRequires:  gcc
BuildRequires:  %{of_kernel kernel-devel-uname-r %{kernel}}
%{each_kernel build_tree}
Requires: %{of_kernel kernel-uname-r %{kernel}}
"""


def replaced(spec: str, *required: str) -> str:
    return "".join(obsspec._replaced(spec.splitlines(keepends=True), required))


def test_build_dependencies_that_obs_cannot_read_are_written_out() -> None:
    line = "BuildRequires:  %{of_kernel kernel-devel-uname-r %{kernel}}"
    expected = SPEC.replace(line, "BuildRequires:  kernel-devel-uname-r = 5.14")
    assert replaced(SPEC, "gcc", "kernel-devel-uname-r = 5.14") == expected
    per_kernel = SPEC.replace(f"{line}\n", "")
    added = "BuildRequires:  gcc\nBuildRequires:  kernel-devel = 1\nBuildRequires:  kernel-devel = 2\n"
    made = replaced(per_kernel, "gcc", "kernel-devel = 1", "kernel-devel = 2")
    assert made == per_kernel.replace("BuildRequires:  gcc\n", added)
    plain = "Name: a\nBuildRequires: gcc >= 12\n"
    assert replaced(plain, "gcc >= 12") == plain


def test_a_recipe_asks_for_the_certificate_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dsc = tmp_path / "hello_1.dsc"
    dsc.write_text("Format: 3.0 (quilt)\nFiles:\n 0 1 a.tar.xz\n")
    asking = obsspec.dsc_for_obs(dsc)
    assert asking == dsc.read_bytes() + b"Obs: needssslcertforbuild\n"
    dsc.write_bytes(asking)
    assert obsspec.dsc_for_obs(dsc) == asking
    dsc.write_text("-----BEGIN PGP SIGNED MESSAGE-----\n\nFormat: 3.0 (quilt)\n")
    with pytest.raises(FarmError, match="is signed"):
        obsspec.dsc_for_obs(dsc)
    monkeypatch.setattr(obsspec, "read_header", lambda _: SimpleNamespace(requires=()))
    spec = tmp_path / "hello.spec"
    spec.write_text("Name: hello\n")
    once = obsspec.spec_for_obs(spec, tmp_path, certificate=True)
    assert once == b"# needssslcertforbuild\nName: hello\n"
    spec.write_bytes(once)
    assert obsspec.spec_for_obs(spec, tmp_path, certificate=True) == once


PROJECT = """<project name="home:me"><title>Mine</title><description/><person userid="me" role="maintainer"/>
<repository name="other"><path project="a" repository="b"/><arch>i586</arch></repository></project>"""


def test_a_project_is_changed_only_where_it_differs() -> None:
    wanted = Repository(name="EL_9", path=("openSUSE.org:EL:9/standard",), arches=("x86_64",))
    project = fromstring(PROJECT)
    meta.set_repositories(project, [wanted])
    assert meta.repositories(project) == {"other": ("i586",), "EL_9": ("x86_64",)}
    assert meta.differ(project, fromstring(PROJECT))
    again = fromstring(meta.text(project))
    meta.set_repositories(again, [wanted])
    assert not meta.differ(project, again)
    meta.set_repositories(again, [Repository(name="other", arches=("x86_64", "aarch64"))])
    assert meta.repositories(again)["other"] == ("x86_64", "aarch64")
    assert next(dict(one.attrib) for one in again.iter("path")) == {"project": "a", "repository": "b"}


def test_flags_of_a_package_stand_where_the_schema_wants_them() -> None:
    one = fromstring('<package name="p"><title/><description/><person userid="me"/><url>u</url></package>')
    meta.set_flag(one, "debuginfo", [("enable", {})])
    meta.set_flag(one, "build", [("disable", {"repository": "other"})])
    assert [child.tag for child in one] == ["title", "description", "person", "build", "debuginfo", "url"]
    before = meta.text(one)
    meta.set_flag(one, "build", [("disable", {"repository": "other"})])
    assert meta.text(one) == before
    meta.set_flag(one, "build", [])
    assert one.find("build") is None


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        b'<?xml version="1.0" encoding="nonesuch"?><a/>',
    ],
)
def test_answers_that_are_hostile_are_refused(answer: bytes) -> None:
    with pytest.raises(FarmError, match="cannot be read"):
        read_xml(answer)


class StandIn:
    """A server that gives one answer for each kind of question."""

    url, user = "https://api.example.org", "me"

    def __init__(self, **answers: str) -> None:
        self.answers = answers

    def xml(self, path: Sequence[str], query: object = (), **_: Any) -> Element:
        return fromstring(self.answers[path[-1].lstrip("_")])


def result(code: str, more: str = 'code="published"', details: str = "", checked: int = 200) -> str:
    status = f'<status package="kmod-e1000e" code="{code}"><details>{details}</details></status>'
    about = f'repository="EL_9" arch="x86_64" {more}'
    return f'<resultlist><result {about}>{status}<stats lastchecked="{checked}"/></result></resultlist>'


def states(answer: str, srcmd5: str = "a", endtime: int = 150, **ticket: object) -> list[tuple[str, str]]:
    jobs = f'<jobhistlist><jobhist package="kmod-e1000e" srcmd5="{srcmd5 * 32}" endtime="{endtime}"/></jobhistlist>'
    api: Any = StandIn(result=answer, jobhistory=jobs)
    session = ObsSession(api, checked({"project": "home:me"}), None, Progress())
    (builds,) = session.builds([{**TICKET, **ticket}])
    if isinstance(builds, FarmError):
        raise builds
    return [(build.state, build.reason) for build in builds]


def test_an_end_is_believed_if_it_is_that_of_the_sources_that_were_sent() -> None:
    assert states(result("succeeded")) == [("succeeded", "")]
    assert states(result("succeeded"), srcmd5="b") == [("waiting", "")]
    assert states(result("failed")) == [("failed", "")]
    # Sent once more after it had failed.
    assert states(result("failed"), after={"EL_9/x86_64": 150}) == [("waiting", "")]
    assert states(result("succeeded"), after={"SUSE/x86_64": 150}) == [("succeeded", "")]
    assert states(result("failed"), after={"EL_9/x86_64": 150}, endtime=160) == [("failed", "")]


def test_what_needs_no_job_is_believed_when_the_scheduler_has_looked_again() -> None:
    hopeless = result("unresolvable", details="nothing  provides x")
    assert states(hopeless) == [("failed", "unresolvable: nothing provides x")]
    assert states(result("unresolvable", 'dirty="true"')) == [("waiting", "")]
    assert states(result("broken", details="no source uploaded", checked=50)) == [("waiting", "")]
    assert states(result("broken"), sent=4e9) == [("waiting", "")]
    ((state, reason),) = states(result("excluded"))
    assert state == "cancelled" and reason.startswith(
        "it is built nowhere: EL_9/x86_64 excluded (recipes of another kind"
    )
    assert states(result("nonesuch")) == [("waiting", "")]


class Counting(StandIn):
    """A project of packages that all were built twice, but for one that nobody knows."""

    def __init__(self, names: Sequence[str], unknown: str) -> None:
        super().__init__()
        self.names, self.unknown = names, unknown
        self.asked: list[str] = []

    def xml(self, path: Sequence[str], query: Any = (), **_: Any) -> Element:
        self.asked.append(path[-1])
        wanted = [value for key, value in query if key == "package"]
        assert len(urlencode(query)) < 8000
        if self.unknown in wanted:
            raise NotFoundError("OBS does not know what it is asked about")
        if path[-1] == "_result":
            states = "".join(f'<status package="{name}" code="succeeded"/>' for name in self.names if name in wanted)
            return fromstring(f'<resultlist><result repository="EL_9" arch="x86_64">{states}</result></resultlist>')
        ended = [(name, end) for end in (100, 150) for name in self.names if name in wanted]
        most = dict(query)["limit"]
        jobs = [f'<jobhist package="{name}" srcmd5="{"a" * 32}" endtime="{end}"/>' for name, end in ended]
        return fromstring(f"<jobhistlist>{''.join(jobs[-most:])}</jobhistlist>")


def test_many_packages_are_asked_about_in_few_questions() -> None:
    names = [f"kmod-e1000e-el9-{KERNEL}:{number}" for number in range(200)]
    api: Any = Counting(names, "none")
    session = ObsSession(api, checked({"project": "home:me"}), None, Progress())
    tickets = [{**TICKET, "package": name} for name in names]
    answers = session.builds(tickets)
    assert [[(one.state, one.id) for one in answer] for answer in answers if not isinstance(answer, FarmError)] == [
        [("succeeded", "EL_9/x86_64#150")]
    ] * len(names)
    assert len(api.asked) < 12
    # One that is not known is found out, and the others are told all the same.
    api.unknown, api.asked = names[77], []
    answers = session.builds(tickets)
    assert [number for number, answer in enumerate(answers) if isinstance(answer, FarmError)] == [77]
    assert len(api.asked) < 40


def test_a_server_that_says_nothing_about_builds_is_asked_again() -> None:
    with pytest.raises(FarmError, match="does not say") as caught:
        states("<resultlist/>")
    assert caught.value.passing


def test_files_are_the_packages_of_one_repository_each_once() -> None:
    two = result("succeeded").replace("</resultlist>", "") + result("succeeded").replace("<resultlist>", "")
    listing = (
        '<binarylist><binary filename="kmod.x86_64.rpm" size="5" md5="' + "c" * 32 + '"/><binary filename="_log"/>'
        '<binary filename="rpmlint.log"/><binary filename="a.src.rpm"/><binary filename="../../x.rpm" size="-1"/>'
        "</binarylist>"
    )
    jobs = f'<jobhistlist><jobhist package="kmod-e1000e" srcmd5="{"a" * 32}" endtime="150"/></jobhistlist>'
    api: Any = StandIn(**{"result": two.replace("x86_64", "aarch64", 1), "jobhistory": jobs, "kmod-e1000e": listing})
    session = ObsSession(api, checked({"project": "home:me"}), None, Progress())
    found = session.files(TICKET)
    # The engine refuses the other name before it fetches anything.
    assert [(one.name, one.size, one.digest[:5]) for one in found] == [
        ("kmod.x86_64.rpm", 5, "md5:c"),
        ("../../x.rpm", None, ""),
    ]
    api.answers["result"] = two.replace("EL_9", "SUSE", 1)
    with pytest.raises(FarmError, match="both have made"):
        session.files(TICKET)


class Together:
    """A session that counts what it is sent."""

    interval = 1.0

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.arrived = False

    def find(self, items: Sequence[Item]) -> list[dict[str, int]] | None:
        return [{"number": number} for number, _ in enumerate(items)] if self.arrived else None

    def check(self, items: Sequence[Item]) -> None:
        pass

    def send(self, items: Sequence[Item]) -> list[dict[str, int]]:
        self.sent.append([request for request, _ in items])
        return [{"number": number} for number, _ in enumerate(items)]

    def builds(self, tickets: object) -> None:
        raise AssertionError

    log = files = fetch = builds


def test_source_packages_of_one_group_are_sent_together_once(tmp_path: Path) -> None:
    journal = Journal(Workspace(tmp_path), "stand-in")
    items = [Wanted(package(KERNEL), "a", "", "group"), Wanted(package(OTHER), "b", "", "group")]
    stand_in: Any = Together()
    assert send(items, stand_in, journal, Progress(), again=False) == 2
    assert send(items, stand_in, journal, Progress(), again=False) == 0
    assert [(one.kernel, one.ticket) for one in journal.all()] == [(KERNEL, {"number": 0}), (OTHER, {"number": 1})]
    # One that changed takes the other with it: what they are sent as is one.
    items[1] = Wanted(package(OTHER), "c", "", "group")
    assert send(items, stand_in, journal, Progress(), again=False) == 2
    assert stand_in.sent == [["a", "b"], ["a", "c"]]
    # A run was killed behind the sending.
    for one in journal.all():
        journal.put(one.model_copy(update={"state": "sending"}))
    stand_in.arrived = True
    assert send(items, stand_in, journal, Progress(), again=False) == 0
    assert all(one.state == "sent" for one in journal.all())

"""What a farm made, checked as what was made here: real packages, which a stand-in for a Koji hub hands out."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pkgkmod.model.verdict import CheckedModule
from pkgkmod.packages.fetched import compare
from tests.fixtures.families import query
from tests.fixtures.kojihub import Hub, profile, running_hub
from tests.fixtures.machine import Finished, hello, need, pkgkmod
from tests.fixtures.smallrpms import kmod_rpm

PROJECT = """
[project]
name = "hello"
[source]
repository = "{repository}"
revision = "{commit}"
directories = ["{directory}"]
[rpm]
debuginfo = true
[plugin.koji]
profile = "stub"
target = "f43"
interval = 0.05
[[target]]
distro = "el9"
kernels = ["{kernel}"]
"""


@dataclass
class Place:
    """A project whose packages were built here, and the hub that hands packages out."""

    hub: Hub
    project: Path
    home: Path
    kernel: str

    def run(self, *args: object, code: int = 0, **variables: str) -> Finished:
        return pkgkmod(*args, cwd=self.project, code=code, HOME=str(self.home), **variables)

    def hand_out(self, *files: Path) -> None:
        self.hub.outputs = {"x86_64": list(files)}

    @property
    def packages(self) -> dict[str, Path]:
        """What was built here, by name."""
        found = self.project.glob("results/build_rpm/*/*/*/*.rpm")
        return {query(file, "%{name}"): file for file in found if not file.name.endswith(".src.rpm")}

    @property
    def fetched(self) -> set[str]:
        return {file.name for file in self.project.glob("results/submit/*/*/*/*.rpm")}

    def verdicts(self) -> list[dict[str, str]]:
        """What `status` says of the checks, by stage."""
        events = self.run("--json", "status").events
        return [event for event in events if str(event["stage"]).startswith("check")]  # type: ignore[misc]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, kernel: str) -> Path:
    need("bwrap", "make", "rpmbuild", "find-debuginfo", "debugedit", "eu-strip")
    folder = tmp_path_factory.mktemp("fetched")
    driver = hello(folder / "driver")
    facts = {"repository": driver.repository, "commit": driver.commit, "directory": driver.directory}
    (folder / "project").mkdir()
    (folder / "project/pkgkmod.toml").write_text(PROJECT.format(**facts, kernel=kernel))
    pkgkmod("check", cwd=folder / "project")
    return folder / "project"


@pytest.fixture
def place(built: Path, kernel: str, tmp_path: Path) -> Iterator[Place]:
    need("openssl")
    for name in (".farms", "submit", "check_fetched"):
        shutil.rmtree(built / "results" / name, ignore_errors=True)
    with running_hub(tmp_path) as hub:
        profile(tmp_path / "home", hub, tmp_path)
        place = Place(hub, built, tmp_path / "home", kernel)
        place.hand_out(*place.packages.values())
        yield place


def module(place: Place) -> Path:
    (file,) = place.project.glob("results/build_modules/*/*/*/hello.ko")
    return file


def test_what_a_stub_hub_made_gets_the_verdict_that_the_same_packages_got_here(place: Place) -> None:
    assert any("debuginfo" in name for name in place.packages)
    place.run("submit", "--fetch")
    assert place.fetched == {file.name for file in place.packages.values()}
    here, there = sorted(place.verdicts(), key=lambda one: one["stage"])
    assert (here["stage"], there["stage"]) == ("check", "check_fetched")
    assert here["artifact"] == there["artifact"] and here["artifact"]["modules"]  # type: ignore[index]
    again = place.run("-v", "submit", "fetch")
    assert "check_fetched" not in again.err  # nothing changed that the findings depend on
    place.run("submit", "fetch", "-C", 'check.ignore=["KMOD052"]')
    assert len(list(place.project.glob("results/check_fetched/*/*/*"))) == 2


def test_modules_of_a_stub_hub_that_would_not_load_are_told_and_kept_with_their_packages(
    place: Place, tmp_path: Path
) -> None:
    broken = tmp_path / "hello.ko"
    broken.write_bytes(module(place).read_bytes()[:3000])
    package = kmod_rpm(tmp_path, "kmod-other", [broken], f"lib/modules/{place.kernel}/extra")
    place.hand_out(package)
    done = place.run("submit", "--fetch", code=23)
    said = " ".join(done.err.split())
    assert "KMOD001" in said and "it cannot be read" in said
    assert f"KMOD080 {place.kernel}: no package has modules for it" in said
    assert "KMOD081 kmod-other-1-1.el9.x86_64.rpm: it is of kmod-other 1, and kmod-hello 1.0 was sent" in said
    assert package.name in done.out and place.fetched == {package.name}
    assert [one["state"] for one in place.verdicts() if one["stage"] == "check_fetched"] == ["failed"]
    events = place.run("--json", "submit", "fetch", code=23).events
    told = [(event["code"], event["severity"]) for event in events if event["event"] == "finding"]
    assert [code for code, severity in told if severity == "error"] == ["KMOD001", "KMOD080", "KMOD081"]
    assert "fetched" in [event["event"] for event in events]
    place.run("report")
    page = (place.project / "results/report.html").read_text()
    assert "KMOD081" in page and "rpm of a farm" in page


@pytest.mark.parametrize(("level", "told"), [("warn", True), ("off", False)])
def test_the_project_says_what_errors_in_packages_of_a_stub_hub_do(
    place: Place, tmp_path: Path, level: str, told: bool
) -> None:
    place.hand_out(kmod_rpm(tmp_path, "kmod-other", [module(place)], f"lib/modules/{place.kernel}/extra"))
    done = place.run("--json", "submit", "--fetch", "-C", f"check.level={level}")
    found = [event["code"] for event in done.events if event["event"] == "finding" and event["severity"] == "error"]
    assert found == (["KMOD081"] if told else [])


def test_a_stub_hub_that_made_no_modules_for_a_kernel_is_told(place: Place) -> None:
    place.hand_out(next(file for name, file in place.packages.items() if "debuginfo" in name))
    done = place.run("submit", "--fetch", code=23)
    assert f"KMOD080 {place.kernel}: no package has modules for it" in done.err
    assert "KMOD081" not in done.err


def test_of_a_stub_hubs_modules_for_a_kernel_that_is_not_here_it_is_said_what_is_not_checked(
    place: Place, tmp_path: Path
) -> None:
    release = "5.14.0-503.11.1.el9_5.x86_64"
    text = (place.project / "pkgkmod.toml").read_text().replace(place.kernel, release)
    (tmp_path / "project").mkdir()
    (tmp_path / "project/pkgkmod.toml").write_text(text)
    elsewhere = Place(place.hub, tmp_path / "project", place.home, release)
    place.hand_out(kmod_rpm(tmp_path, "kmod-hello", [module(place)], f"lib/modules/{release}/extra"))
    done = elsewhere.run("submit", "--fetch", "-C", "project.version=1", code=23)
    assert f"kernel {release} is in no archive that is known here" in done.err
    assert f"symbols are not checked where no build tree is here: {release};" in done.err
    # It says of itself that it was built for another kernel than that of its folder; more cannot be told.
    assert "KMOD011" in done.err and "1 error" in done.err
    (verdict,) = elsewhere.verdicts()
    kept = json.loads((Path(str(verdict["folder"])) / "verdict.json").read_text())
    assert kept["unchecked"] == [release]
    events = elsewhere.run("--json", "submit", "fetch", code=23).events
    assert [event["kernel"] for event in events if event["event"] == "unchecked"] == [release]
    elsewhere.run("submit", "fetch", "-C", 'check.ignore=["KMOD011"]')
    # Nothing was built here, and it is not said that something is missing.
    assert "2 findings" in elsewhere.run("report").out
    page = (elsewhere.project / "results/report.html").read_text()
    assert "by a farm" in page and "not built yet" not in page


def test_packages_of_a_rebuild_are_of_the_sources_that_were_sent(tmp_path: Path) -> None:
    need("dpkg-deb")

    def deb(name: str, version: str, source: str = "") -> Path:
        control = tmp_path / name / "DEBIAN/control"
        control.parent.mkdir(parents=True)
        lines = {"Package": name, "Version": version, "Architecture": "amd64", "Maintainer": "A <a@example.org>"}
        lines |= {"Source": source} if source else {}
        control.write_text("".join(f"{key}: {value}\n" for key, value in {**lines, "Description": "x"}.items()))
        file = tmp_path / f"{name}.deb"
        subprocess.run(["dpkg-deb", "-b", "--root-owner-group", tmp_path / name, file], check=True, capture_output=True)
        return file

    files = [
        deb("hello-modules", "1:1.0-1~deb12"),
        deb("hello-modules-rebuilt", "1:1.0-1~deb12+b2", "hello-modules (1:1.0-1~deb12)"),
        deb("hello-modules-again", "1.0-1~deb12+b2", "hello-modules"),
        deb("hello-modules-old", "1:0.9-1~deb12", "hello-modules"),
        deb("other", "1:1.0-1~deb12"),
    ]
    found = compare("hello-modules_1.0-1~deb12.dsc", (), files, ())
    assert [(one.code, one.subject) for one in found] == [
        ("KMOD081", "hello-modules-old.deb"),
        ("KMOD081", "other.deb"),
    ]


def test_a_module_counts_for_the_kernel_of_its_folder_and_the_one_that_it_was_built_for() -> None:
    modules = [
        CheckedModule(name="a", path="/lib/modules/5.14.0-1.el9.x86_64/extra/a.ko", kernel="5.14.0-0.el9.x86_64"),
        CheckedModule(name="b", path="/usr/lib/modules/6.1.0-1-amd64/updates/b.ko", kernel="6.1.0-1-amd64"),
    ]
    wanted = ["5.14.0-0.el9.x86_64", "5.14.0-1.el9.x86_64", "5.14.0-2.el9.x86_64", "6.1.0-1-amd64"]
    (one,) = compare("x-1-1.src.rpm", wanted, (), modules)
    assert (one.code, one.subject) == ("KMOD080", "5.14.0-2.el9.x86_64")
    (other,) = compare("x-1-1.src.rpm", ["6.1.0-2-amd64"], (), modules)
    assert "there are some for 5.14.0-0.el9.x86_64, 5.14.0-1.el9.x86_64, 6.1.0-1-amd64" in other.text

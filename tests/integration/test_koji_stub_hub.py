"""Source packages given to Koji by its real client library; the hub is a stand-in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.families import Made, family
from tests.fixtures.kojihub import Hub, profile, running_hub
from tests.fixtures.machine import Finished, hello, need, pkgkmod

ERROR = "hello.c:3:5: error: implicit declaration of function 'nonesuch' [-Werror=implicit-function-declaration]"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A project whose RPMs were built here: what the hub hands out."""
    folder = tmp_path_factory.mktemp("built")
    made = Made(family(folder / "project", hello(folder / "driver"), "el9", KOJI), "el9")
    pkgkmod("build_rpm", cwd=made.folder)
    return made


KOJI = '[plugin.koji]\nprofile = "stub"\ntarget = "f43"\ninterval = 0.05\n'


class Place:
    """The project, with a home folder in which koji finds the hub."""

    def __init__(self, hub: Hub, project: Path, home: Path) -> None:
        self.hub, self.project, self.home = hub, project, home

    def run(self, *args: str, code: int = 0) -> Finished:
        return pkgkmod(*args, cwd=self.project, code=code, HOME=str(self.home))


@pytest.fixture
def place(built: Made, tmp_path: Path):
    need("openssl")
    project = tmp_path / "project"
    project.mkdir()
    (project / "pkgkmod.toml").write_text((built.folder / "pkgkmod.toml").read_text())
    with running_hub(tmp_path) as hub:
        hub.outputs = {"x86_64": [file for name, file in built.packages.items() if name != "src"]}
        profile(tmp_path / "home", hub, tmp_path)
        yield Place(hub, project, tmp_path / "home")


def test_an_srpm_is_built_at_a_stub_hub_and_its_rpms_are_fetched(place: Place, built: Made) -> None:
    done = place.run("--json", "submit", "--fetch")
    (task,) = place.hub.builds
    (upload,) = place.hub.uploads
    assert task.request[1:] == ["f43", {"scratch": True}] and task.request[0] == upload
    assert place.hub.uploads[upload] == built.packages["src"].read_bytes()
    (fetched,) = [event for event in done.events if event["event"] == "fetched"]
    files = {Path(file).name: Path(file).read_bytes() for file in fetched["files"]}
    assert files == {file.name: file.read_bytes() for name, file in built.packages.items() if name != "src"}
    states = [(e["build"], e["state"]) for e in done.events if e["event"] == "farm-build"]
    assert states == [("build", "building"), ("x86_64", "building"), ("x86_64", "succeeded")]


def test_nothing_is_sent_to_a_stub_hub_twice(place: Place) -> None:
    place.run("submit")
    again = place.run("submit", "-n")
    assert again.out.startswith("SKIP ") and again.out.endswith("was sent before\n")
    place.run("submit", "--wait")
    assert len(place.hub.builds) == 1
    assert "f43" in place.run("submit", "-n", "-C", "plugin.koji.target=other").out.replace("other", "f43")
    assert len(place.hub.builds) == 1


def test_a_run_that_is_killed_while_sending_finds_its_build_at_the_stub_hub(place: Place) -> None:
    process: list[subprocess.Popen[bytes]] = []
    place.hub.after_build = lambda: os.killpg(process[0].pid, signal.SIGKILL)
    argv = [str(Path(sys.executable).with_name("pkgkmod")), "submit", "--wait"]
    env = {**os.environ, "HOME": str(place.home)}
    process.append(
        subprocess.Popen(argv, cwd=place.project, env=env, start_new_session=True, stderr=subprocess.DEVNULL)
    )
    assert process[0].wait(60) == -signal.SIGKILL
    place.hub.after_build = None
    assert "may not have arrived" in place.run("submit", "status", "--offline").out
    said = place.run("submit", "--fetch")
    assert "had arrived" in said.err
    assert len(place.hub.builds) == 1


def test_a_build_that_fails_at_the_stub_hub_shows_the_first_compiler_error(place: Place) -> None:
    place.hub.log = {"aarch64": f"+ make\n{ERROR}\nmake[1]: *** [Makefile:2: hello.o] Error 1\n"}
    done = place.run("submit", "--wait", code=8)
    assert "does not compile for aarch64" in done.err
    assert ERROR in done.err
    (log,) = (place.project / "results/.farms/koji").glob("log-*.txt")
    assert ERROR in log.read_text()
    assert "failed" in place.run("submit", "status").out
    place.hub.log = {}
    place.run("submit", "--wait", code=8)
    assert len(place.hub.builds) == 1
    place.run("submit", "--wait", "--again")
    assert len(place.hub.builds) == 2


def test_an_outage_of_the_stub_hub_is_waited_for(place: Place) -> None:
    place.run("submit")
    place.hub.outage = 7
    done = place.run("submit", "--wait", code=25)
    assert "does not answer" in done.err and "Traceback" not in done.err
    place.hub.outage = 0
    place.hub.moves = False
    began = place.hub.calls.count("getTaskInfo")
    argv = [str(Path(sys.executable).with_name("pkgkmod")), "--json", "submit", "--wait"]
    env = {**os.environ, "HOME": str(place.home)}
    with subprocess.Popen(argv, cwd=place.project, env=env, stdout=subprocess.PIPE, text=True) as process:
        while place.hub.calls.count("getTaskInfo") < began + 2:
            assert process.poll() is None
        place.hub.outage, place.hub.moves = 8, True
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert any("asked again" in str(json.loads(line).get("text", line)) for line in said.splitlines())


def test_what_a_stub_hub_refuses_is_said(place: Place) -> None:
    refused = place.run("submit", "-C", "plugin.koji.target=nonesuch", code=25)
    assert "No such build target: nonesuch" in refused.err
    unknown = place.run("submit", "-C", "plugin.koji.profile=brew", code=25)
    assert "koji has no profile 'brew'" in unknown.err
    srpm = next(iter(place.hub.uploads)).rpartition("/")[2]
    place.hub.known = {srpm.removesuffix(".src.rpm")}
    twice = place.run("submit", "-C", "plugin.koji.scratch=false", code=25)
    assert "builds no name, version and release twice" in twice.err
    wrong = place.run("submit", "-C", "plugin.koji.scratsch=false", code=16)
    assert "plugin.koji.scratsch" in wrong.err


def test_a_package_that_arrives_damaged_from_a_stub_hub_is_refused(place: Place, tmp_path: Path) -> None:
    ((good, *_),) = place.hub.outputs.values()
    bad = tmp_path / good.name
    content = bytearray(good.read_bytes())
    content[-20] ^= 1
    bad.write_bytes(content)
    place.hub.outputs = {"x86_64": [bad]}
    refused = place.run("submit", "--fetch", code=25)
    assert "no package that can be read" in refused.err
    assert not list(place.project.glob("results/submit/**/*.rpm"))

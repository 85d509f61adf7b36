"""Source packages given to Koji by its real client library; the hub is a stand-in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures import farmproject
from tests.fixtures.families import Made, query
from tests.fixtures.farmproject import ERROR
from tests.fixtures.kojihub import Hub, profile, running_hub
from tests.fixtures.machine import Finished, need
from tests.fixtures.rpmrepo import EL

pytestmark = pytest.mark.xdist_group("koji-hub")  # the project is made once
KOJI = '[plugin.koji]\nprofile = "stub"\ntarget = "f43"\ninterval = 0.05\n'


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A project whose RPMs were built here: what the hub hands out."""
    return farmproject.built(tmp_path_factory.mktemp("built"), KOJI)


class Place:
    """The project, with a home folder in which koji finds the hub."""

    def __init__(self, hub: Hub, sender: farmproject.Sender) -> None:
        self.hub, self.sender, self.project, self.home = hub, sender, sender.project, sender.home

    def run(self, *args: str, code: int = 0) -> Finished:
        return self.sender.run(*args, code=code)


@pytest.fixture
def place(built: Made, tmp_path: Path):
    need("openssl")
    with running_hub(tmp_path) as hub:
        hub.outputs = {"x86_64": [file for name, file in built.packages.items() if name != "src"]}
        profile(tmp_path / "home", hub, tmp_path)
        yield Place(hub, farmproject.sender(built, tmp_path / "home"))


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


def real(*more: str) -> tuple[str, ...]:
    return ("submit", "-C", "plugin.koji.scratch=false", *more)


def test_a_real_build_at_a_stub_hub_is_limited_to_its_kernels_machine_and_fetched_as_published(
    place: Place, built: Made
) -> None:
    srpm = built.packages["src"]
    place.hub.outputs["x86_64"].append(srpm)  # which every build has, and nobody asked for
    done = place.run("--json", *real("--fetch"))
    (task,) = place.hub.builds
    assert task.request[1:] == ["f43", {}]
    (upload,) = place.hub.uploads.values()
    assert upload == srpm.read_bytes() and query(srpm, "[%{EXCLUSIVEARCH} ]").split() == ["x86_64"]
    (fetched,) = [event for event in done.events if event["event"] == "fetched"]
    files = {Path(file).name: Path(file).read_bytes() for file in fetched["files"]}
    assert files == {file.name: file.read_bytes() for name, file in built.packages.items() if name != "src"}


def test_a_target_that_a_stub_hub_has_not_is_refused_before_anything_is_uploaded(place: Place) -> None:
    def refused(name: str) -> str:
        return place.run("submit", "-C", f"plugin.koji.target={name}", code=25).err

    assert "the hub of 'stub' has no build target 'epel8'" in refused("epel8")
    assert "did you mean 'epel9'?" in refused("epel8")
    assert "`koji -p stub list-targets` has them" in refused("zzz")
    assert "it is a tag; builds for it have the target epel9" in refused("epel9-testing")
    assert not place.hub.uploads and not place.hub.builds
    place.run("submit", "-C", "plugin.koji.target=f43-build-side-1234")
    assert [task.request[1] for task in place.hub.builds] == ["f43-build-side-1234"]


def test_a_build_that_a_stub_hub_would_not_make_is_refused_before_anything_is_uploaded(place: Place) -> None:
    def refused() -> str:
        return place.run(*real(), code=25).err

    (plan,) = [one for one in place.run("--json", *real("-n")).events if one["event"] == "submission-plan"]
    nvr = str(plan["file"]).removesuffix(".src.rpm")
    place.hub.known = {nvr: "COMPLETE"}
    twice = refused()
    assert f"Koji has built {nvr} before, for colleague, and Koji builds no name" in twice
    assert "raise project.release" in twice
    place.hub.known = {nvr: "BUILDING"}
    assert f"colleague is building {nvr} right now (task 77)" in refused()
    place.hub.known = {nvr: "DELETED"}
    assert "which was deleted" in refused()
    place.hub.known = {}
    place.hub.packages = {"kmod-other"}
    assert "the package kmod-hello is not on the list of Koji's tag f43-updates" in refused()
    place.hub.packages, place.hub.locked = None, {"f43-updates"}
    assert "f43-updates is locked" in refused()
    assert not place.hub.uploads and not place.hub.builds
    place.hub.locked, place.hub.known = set(), {nvr: "FAILED"}
    place.run(*real())
    assert len(place.hub.builds) == 1


OTHER = "5.14.0-503.11.1.el9_5.x86_64"
"""A kernel that no archive here has: the farm is to have it."""


def test_several_kernels_are_builds_with_names_of_their_own_at_a_stub_hub(place: Place, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    text = (place.project / "pkgkmod.toml").read_text()
    (project / "pkgkmod.toml").write_text(text.replace(f'kernels = ["{EL}"]', f'kernels = ["{EL}", "{OTHER}"]'))
    both = Place(place.hub, farmproject.Sender(project, place.home, {}))
    place.hub.known = {f"kmod-hello-1.0-1.k{OTHER[:-7].replace('-', '_')}.el9": "BUILDING"}
    said = both.run(*real(), code=25).err
    assert "colleague is building" in said
    assert not place.hub.uploads  # nothing, although the first one would have been taken
    place.hub.known = {}
    both.run(*real())
    srpms = sorted(upload.rpartition("/")[2] for upload in place.hub.uploads)
    assert len(place.hub.builds) == len(srpms) == 2
    assert [name.partition(".k")[2].removesuffix(".el9.src.rpm").replace("_", "-", 1) for name in srpms] == [
        EL.removesuffix(".x86_64"),
        OTHER.removesuffix(".x86_64"),
    ]
    both.run(*real("--wait"))
    assert place.hub.calls.count("build") == 2


def test_settings_that_koji_has_not_are_refused(place: Place) -> None:
    wrong = place.run("submit", "-C", "plugin.koji.scratsch=false", code=16)
    assert "plugin.koji.scratsch" in wrong.err
    assert "plugin.koji.profile" in place.run("submit", "-C", "plugin.koji.profile=../x", code=16).err
    machines = place.run(*real("-C", 'plugin.koji.arches=["x86_64"]'), code=25)
    assert "only where the build is a scratch build" in machines.err


def test_an_srpm_that_cannot_be_made_anew_at_a_stub_hub_shows_the_log_of_that(place: Place) -> None:
    place.hub.srpm_log = "No matching package to install: 'redhat-rpm-config'\n"
    done = place.run("submit", "--wait", code=12)
    assert "was not built for source package" in done.err and "rebuildSRPM failed" in done.err
    (log,) = (place.project / "results/.farms/koji").glob("log-*.txt")
    assert "No matching package" in log.read_text()


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

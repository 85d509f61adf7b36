"""Source packages given to Copr by its real client library; the frontend is a stand-in."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures import farmproject
from tests.fixtures.coprfrontend import Frontend, configuration, running_frontend
from tests.fixtures.families import Made
from tests.fixtures.farmproject import ERROR
from tests.fixtures.kerberos import gssapi_folder, imported_gssapi, running_realm
from tests.fixtures.machine import CHECKOUT, Finished

pytestmark = pytest.mark.xdist_group("copr")  # the project is made once
X86, ARM = "epel-9-x86_64", "epel-9-aarch64"
COPR = f'[plugin.copr]\nproject = "owner/drivers"\nchroots = ["{X86}", "{ARM}"]\ninterval = 0.05\n'


@dataclass
class Place:
    """The project, with a home folder in which copr finds the frontend."""

    frontend: Frontend
    sender: farmproject.Sender

    def run(self, *args: str, code: int = 0) -> Finished:
        return self.sender.run(*args, code=code)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A project whose RPMs were built here: what the frontend hands out."""
    return farmproject.built(tmp_path_factory.mktemp("built"), COPR)


@pytest.fixture
def place(built: Made, tmp_path: Path) -> Iterator[Place]:
    with running_frontend() as frontend:
        frontend.projects = {"owner/drivers": {"chroot_repos": {X86: "", ARM: "", "epel-8-x86_64": ""}}}
        frontend.outputs = {X86: [file for name, file in built.packages.items() if name != "src"]}
        sender = farmproject.sender(built, tmp_path / "home")
        configuration(sender.home, frontend)
        yield Place(frontend, sender)


def test_an_srpm_is_built_at_a_stub_frontend_for_its_kernels_machine_and_its_rpms_are_fetched(
    place: Place, built: Made
) -> None:
    done = place.run("--json", "submit", "--fetch")
    (build,) = place.frontend.builds.values()
    assert build.srpm == built.packages["src"].read_bytes()
    assert build.file.endswith(f"-{built.packages['src'].name}")
    assert (build.options["chroots"], build.options["background"]) == ([X86], False)
    assert "timeout" not in build.options and "bootstrap" not in build.options
    states = [(e["build"], e["state"]) for e in done.events if e["event"] == "farm-build"]
    assert states == [(X86, "waiting"), (X86, "building"), (X86, "succeeded")]
    (fetched,) = [event for event in done.events if event["event"] == "fetched"]
    files = {Path(file).name: Path(file).read_bytes() for file in fetched["files"]}
    assert files == {file.name: file.read_bytes() for name, file in built.packages.items() if name != "src"}
    again = place.run("submit", "-n")
    assert again.out.startswith("SKIP ")
    place.run("submit", "-C", "plugin.copr.timeout=7200", "-C", "plugin.copr.bootstrap=off")
    *_, second = place.frontend.builds.values()
    assert (second.options["timeout"], second.options["bootstrap"]) == (7200, "off")


def test_a_run_that_is_killed_while_sending_finds_its_build_at_the_stub_frontend(place: Place) -> None:
    process: list[subprocess.Popen[bytes]] = []
    place.frontend.after_build = lambda: os.killpg(process[0].pid, signal.SIGKILL)
    argv = [str(Path(sys.executable).with_name("pkgkmod")), "submit", "--wait"]
    env = {**os.environ, "HOME": str(place.sender.home)}
    project = place.sender.project
    process.append(subprocess.Popen(argv, cwd=project, env=env, start_new_session=True, stderr=subprocess.DEVNULL))
    assert process[0].wait(60) == -signal.SIGKILL
    place.frontend.after_build = None
    (mine,) = place.frontend.builds.values()
    # Of somebody else, and an older one of the same package, which are not it.
    place.frontend.builds[6000] = type(mine)(6000, mine.file, {}, submitter="colleague", chroots={X86: "waiting"})
    place.frontend.builds[6001] = type(mine)(6001, f"{'0' * 32}-{mine.file[33:]}", {}, chroots={X86: "waiting"})
    said = place.run("submit", "--wait")
    assert "had arrived" in said.err
    assert list(place.frontend.builds) == [mine.id, 6000, 6001]


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "truncated"])
def test_a_build_that_fails_at_the_stub_frontend_shows_the_first_compiler_error(place: Place, packed: bool) -> None:
    log = gzip.compress(f"+ make\n{ERROR}\nmake[1]: *** [Makefile:2: hello.o] Error 1\n".encode() + b"x\n" * 99999)
    place.frontend.fails = {X86: log if packed else log[: len(log) // 2]}
    done = place.run("submit", "--wait", code=8)
    assert f"does not compile for {X86}" in done.err and ERROR in done.err
    (kept,) = (place.sender.project / "results/.farms/copr").glob("log-*.txt")
    assert ERROR in kept.read_text()
    assert f"{place.frontend.url}/coprs/build/5000/" in place.run("submit", "status").out
    place.frontend.fails = {}
    place.run("submit", "--wait", "--again")
    assert len(place.frontend.builds) == 2


def test_an_import_that_fails_at_the_stub_frontend_shows_the_log_of_that(place: Place) -> None:
    place.frontend.import_log = "error: query of the SRPM failed\n"
    done = place.run("submit", "--wait", code=12)
    assert "query of the SRPM failed" in done.err


def test_an_outage_of_the_stub_frontend_is_told_from_a_refusal_and_waited_for(place: Place) -> None:
    place.run("submit")
    place.frontend.outage = 9
    done = place.run("submit", "--wait", code=25)
    assert "Copr does not answer" in done.err
    place.frontend.outage = 0
    place.frontend.moves = False
    argv = [str(Path(sys.executable).with_name("pkgkmod")), "submit", "--wait"]
    env = {**os.environ, "HOME": str(place.sender.home)}
    asked = place.frontend.calls.count("GET build/5000")
    with subprocess.Popen(argv, cwd=place.sender.project, env=env, stderr=subprocess.PIPE, text=True) as process:
        while place.frontend.calls.count("GET build/5000") < asked + 2:
            assert process.poll() is None
        place.frontend.outage, place.frontend.moves = 2, True
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0 and "Copr does not answer; asked again" in said


def test_what_a_stub_frontend_would_refuse_is_said_before_anything_is_uploaded(place: Place) -> None:
    def refused(*more: str) -> str:
        return place.run("submit", *[part for one in more for part in ("-C", one)], code=25).err

    said = refused("plugin.copr.project=owner/driver")
    assert "Copr has no project owner/driver" in said and "did you mean 'owner/drivers'?" in said
    assert "copr-cli create --chroot NAME nobody/x makes it" in refused("plugin.copr.project=nobody/x")
    said = refused('plugin.copr.chroots=["epel-7-x86_64"]')
    assert "owner/drivers has not the chroot epel-7-x86_64" in said and "did you mean 'epel-" in said
    assert "is for the machine of its kernels (x86_64)" in refused(f'plugin.copr.chroots=["{ARM}"]')
    assert "Copr's chroots for el9 are not known" in refused("plugin.copr.chroots=[]")
    place.frontend.forbidden = True
    said = refused()
    assert "Copr does not allow that" in said and "not allowed to build" in said
    place.frontend.forbidden = False
    place.frontend.expired = True
    said = refused()
    assert "Copr does not let you in" in said and f"{place.frontend.url}/api renews the token" in said
    assert not place.frontend.builds


def test_a_configuration_that_copr_cannot_use_is_said(place: Place) -> None:
    file = configuration(place.sender.home, place.frontend)
    text = file.read_text()
    for bad, expected in (
        (text.replace("token = secret", ""), "Copr does not let you in"),
        (text.replace("[copr-cli]", "[copr]"), "copr's configuration cannot be used"),
        (text.replace("encrypted = False", ""), "should not be http"),
        ("nonsense", "copr's configuration cannot be used"),
        (text.replace(place.frontend.url, f"{place.frontend.url}/elsewhere"), "Copr "),
    ):
        file.write_text(bad)
        assert expected in place.run("submit", code=25).err
    assert "plugin.copr.project" in place.run("submit", "-C", "plugin.copr.project=drivers", code=16).err
    assert "plugin.copr.chroot" in place.run("submit", "-C", "plugin.copr.chroot=x", code=16).err


def test_a_stub_frontend_lets_in_by_a_ticket_of_kerberos(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries = gssapi_folder(tmp_path / "libraries")
    imported_gssapi(libraries)
    file = configuration(place.sender.home, place.frontend)
    file.write_text(f"[copr-cli]\ncopr_url = {place.frontend.url}\nencrypted = False\ngssapi = True\n")
    with running_realm(tmp_path / "realm", users=("packager",), services=("HTTP/127.0.0.1",)) as realm:
        monkeypatch.setenv("KRB5_CONFIG", realm.environment["KRB5_CONFIG"])  # of the stub, which runs here
        place.frontend.accept = realm.accept
        path = os.pathsep.join([str(CHECKOUT), str(libraries)])
        place.sender.variables = {"PYTHONPATH": path, **realm.environment}
        assert "kinit gets one" in place.run("submit", code=25).err
        realm.kinit("packager")
        place.run("submit")
        assert len(place.frontend.builds) == 1
        assert place.frontend.sessions == ["session=of-packager@EXAMPLE.ORG-0"]
        place.frontend.sessions.clear()  # the frontend has forgotten who it was, the client has not
        place.run("submit", "-C", "plugin.copr.background=true")
        assert len(place.frontend.builds) == 2 and len(place.frontend.sessions) == 1


def test_a_build_that_the_stub_frontend_has_forgotten_ends_the_waiting(place: Place) -> None:
    place.run("submit")
    place.frontend.builds.clear()
    said = place.run("submit", "--wait", code=12)
    assert "knows no build 5000" in said.err


def test_a_package_that_a_stub_frontend_does_not_publish_is_missed(place: Place) -> None:
    place.run("submit", "--wait")
    place.frontend.outputs[X86][0] = place.frontend.outputs[X86][0].with_name("gone.rpm")
    place.frontend.packages = lambda *_: [{"name": "gone", "version": "1", "release": "1", "arch": "x86_64"}]  # type: ignore[method-assign]
    said = place.run("submit", "--fetch", code=25)
    assert "the farm does not publish gone-1-1.x86_64.rpm" in said.err

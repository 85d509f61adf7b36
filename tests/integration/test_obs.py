"""Source packages given to the Open Build Service's real backend by osc's library, built there by real workers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.families import Made, family
from tests.fixtures.machine import Driver, commit, hello, need, pkgkmod
from tests.fixtures.obsfarm import DISTRO, SETTINGS, Farm, Place, more_kernels, root, running_farm, unpacked, wait
from tests.fixtures.rpmrepo import EL

pytestmark = pytest.mark.xdist_group("obs")
HELLO = f"kmod-hello-el9-{EL}"
NOWHERE = "empty"
"""A distribution without packages: nothing can be built on it."""


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    need("bwrap", "make", "rpmbuild", "createrepo_c")
    pytest.importorskip("osc")
    package = root()
    with running_farm() as made:
        made.distribution(NOWHERE)
        made.distribution(DISTRO, package)
        yield made


@pytest.fixture
def place(farm: Farm, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    """A project of the example driver; the test's mark says on what it is built."""
    path = getattr(request, "param", NOWHERE)
    project = re.sub("[^a-z]", "", request.node.name)[:60]
    settings = SETTINGS.format(project=project, path=path)
    return Place(farm, family(tmp_path / "project", hello(tmp_path / "driver"), "el9", settings), tmp_path / "home")


def events(said: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in said.splitlines()]


def files(place: Place, package: str = HELLO) -> dict[str, str]:
    found = place.farm.xml(f"/source/{_project(place)}/{package}")
    return {one.get("name", ""): one.get("md5", "") for one in found.iter("entry")}


def test_the_real_driver_is_built_by_obs_while_its_server_is_away_for_a_while(
    farm: Farm, e1000e: Driver, tmp_path: Path
) -> None:
    settings = SETTINGS.format(project="drivers", path=DISTRO)
    made = Made(family(tmp_path / "project", e1000e, "el9", settings), "el9")
    place = Place(farm, made.folder, tmp_path / "home")
    with place.begin("submit", "--fetch") as process:
        # From then on the worker itself does not need the source server any more.
        wait(
            lambda: b"CC [M]" in farm.log("home:ci:drivers", f"kmod-e1000e-el9-{EL}") or process.poll() is not None, 300
        )
        farm.stop("bs_srcserver")
        pkgkmod("build_rpm", cwd=made.folder)
        farm.start("bs_srcserver")
        said, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    found = events(said)
    assert any("asked again" in str(one.get("text", "")) for one in found)
    states = [str(one["state"]) for one in found if one["event"] == "farm-build"]
    assert list(dict.fromkeys(states)) == ["waiting", "building", "succeeded"]
    (fetched,) = [one for one in found if one["event"] == "fetched"]
    (package,) = [Path(str(one)) for one in fetched["files"]]  # type: ignore[attr-defined]
    # The release is the recipe's own, although OBS likes to count by itself; so are the bytes of the module.
    assert package.name == made.packages["kmod-e1000e"].name
    assert unpacked(package, "e1000e.ko") == unpacked(made.packages["kmod-e1000e"], "e1000e.ko")
    status = place.run("submit", "status").out
    assert "EL_9/x86_64" in status and "succeeded" in status and "fetched" in status


@pytest.mark.parametrize("place", [DISTRO], indirect=True)
def test_a_build_that_fails_at_obs_shows_the_first_compiler_error(place: Place, tmp_path: Path) -> None:
    source = next((tmp_path / "driver").rglob("main.c"))
    source.write_text(source.read_text().replace("pr_info(", "pr_inform(", 1))
    broken = commit(tmp_path / "driver", "Break it")
    project = place.folder / "pkgkmod.toml"
    lines = [
        f'revision = "{broken}"' if line.startswith("revision") else line for line in project.read_text().splitlines()
    ]
    project.write_text("\n".join(lines))
    done = place.run("submit", "--wait", code=8)
    assert "does not compile for EL_9/x86_64" in done.err
    assert "main.c" in done.err and "pr_inform" in done.err
    (log,) = (place.folder / "results/.farms/obs").glob("log-*.txt")
    first = next(line for line in log.read_text().splitlines() if "pr_inform" in line)
    assert not first.startswith("["), first
    # Nothing is sent, or built, a second time by itself.
    place.run("submit", "--wait", code=8)
    # Unless that is asked for: no commit, but a new build, for whose end the old one is not taken.
    place.run("submit", "--again")
    said = place.run("--json", "submit", "status").events
    (status,) = [one for one in said if one["event"] == "submission"]
    assert [one["state"] in ("waiting", "building") for one in status["builds"]] == [True]  # type: ignore[attr-defined]
    assert _revisions(place) == 1
    place.farm.ask(f"/source/{_project(place)}", method="DELETE")


@pytest.mark.parametrize("place", [DISTRO], indirect=True)
def test_a_worker_that_dies_while_it_builds_for_obs_costs_time_only(place: Place) -> None:
    farm = place.farm
    with place.begin("submit", "--fetch") as process:
        wait(lambda: b"init_buildsystem" in farm.log(_project(place), HELLO) or process.poll() is not None, 300)
        farm.stop("bs_worker --id w1")
        # That a worker never comes back, bs_warden notices within an hour; this one does.
        farm.worker(1)
        said, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    found = events(said)
    states = [str(one["state"]) for one in found if one["event"] == "farm-build"]
    assert states[0] == "waiting" and states[-1] == "succeeded" and states.count("building") >= 1
    restarted = (farm.folder / "bs_repserver.log").read_text()
    assert re.search(f"restarting build of job .*{_project(place)}", restarted)
    (fetched,) = [one for one in found if one["event"] == "fetched"]
    assert len(fetched["files"]) == 1  # type: ignore[arg-type]


def test_obs_is_sent_nothing_twice_and_changed_only_where_it_must_be(place: Place) -> None:
    assert place.run("submit", "-n").out.startswith("SEND ")
    place.run("submit")
    assert place.run("submit", "-n").out.startswith("SKIP ")
    before = _revisions(place)
    (journal,) = place.folder.glob("results/.farms/obs/submissions/el9/*.json")
    # As a run leaves it that is killed behind the commit.
    journal.write_text(journal.read_text().replace('"state": "sent"', '"state": "sending"'))
    assert "had arrived" in place.run("submit").err
    journal.unlink()
    place.run("submit")
    assert _revisions(place) == before
    meta = place.farm.ask(f"/source/{_project(place)}/_meta")
    place.run("submit", "-C", "plugin.obs.publish=false")
    assert place.farm.ask(f"/source/{_project(place)}/_meta") == meta
    assert b"<publish>" in place.farm.ask(f"/source/{_project(place)}/{HELLO}/_meta")
    assert _revisions(place) == before


def test_a_project_of_others_keeps_its_configuration_and_an_empty_one_lets_releases_be(place: Place) -> None:
    project = _project(place)
    meta = f'<project name="{project}"><title/><description/></project>'
    place.farm.ask(f"/source/{project}/_meta?user=other", method="PUT", body=meta)
    place.farm.ask(f"/source/{project}/_config?user=other", method="PUT", body="Macros:\n%a b\n:Macros")
    said = place.run("submit")
    assert "changing the configuration" in said.err
    assert place.farm.ask(f"/source/{project}/_config") == b"Macros:\n%a b\n:Macros\nRelease:\n"
    place.farm.ask(f"/source/{project}/_config?user=other", method="PUT", body="Macros:\n")
    said = place.run("submit", "-C", "project.version=2.0")
    assert "lets OBS count releases" in said.err and f"osc meta prjconf -e {project}" in said.err
    assert place.farm.ask(f"/source/{project}/_config") == b"Macros:\n"


def test_files_of_others_stay_in_obs_and_old_ones_of_ours_go(place: Place) -> None:
    place.run("submit")
    theirs = f"/source/{_project(place)}/{HELLO}/README?user=other&comment=pkgkmod"
    place.farm.ask(theirs, method="PUT", body="what others say\n")
    said = place.run("submit", "-C", "project.version=2.0")
    assert "README" in said.err and "stay" in said.err
    assert set(files(place)) == {"README", "hello-2.0.tar.xz", "kmod-hello.spec"}


def test_what_obs_cannot_resolve_is_said(place: Place) -> None:
    done = place.run("submit", "--wait", code=12)
    assert "unresolvable: nothing provides" in done.err and EL in done.err


def test_kernels_that_are_one_package_in_obs_have_a_flavor_each(place: Place, tmp_path: Path) -> None:
    releases = ["5.14.0-1.el9.x86_64", "5.14.0-2.el9.x86_64"]
    url = more_kernels(tmp_path, releases)
    project = place.folder / "pkgkmod.toml"
    text = re.sub('baseurl = ".*"', f'baseurl = "{url}"', project.read_text())
    project.write_text(text.replace(f'kernels = ["{EL}"]', f"kernels = {json.dumps(releases)}"))
    done = place.run("submit", "--wait", "-C", "plugin.obs.multibuild=true", code=13)
    for release in releases:
        # Each flavor has its own spec, which asks for its own kernel.
        assert f"el9/{release} was not built for EL_9/x86_64" in done.err
        assert f"nothing provides kernel-devel-uname-r = {release}" in done.err
    specs = {f"kmod-hello-{release}.spec" for release in releases}
    assert set(files(place, "kmod-hello-el9")) == {"_multibuild", "hello-1.0.tar.xz", *specs}
    part = place.run("submit", "--kernel", releases[0], "-C", "plugin.obs.multibuild=true", code=2)
    assert "would take the others out of it" in part.err


def test_a_debian_source_package_is_sent_to_obs_which_reads_what_it_needs(
    farm: Farm, tmp_path: Path, kernel: str
) -> None:
    farm.distribution("empty-debian", config="Type: dsc\nRepotype: debian\nBinarytype: deb\n")
    driver, folder = hello(tmp_path / "driver"), tmp_path / "project"
    folder.mkdir()
    settings = SETTINGS.format(project="debian", path="empty-debian").replace("EL_9", "Debian_12")
    (folder / "pkgkmod.toml").write_text(
        f"""
[project]
name = "hello"
[source]
repository = "{driver.repository}"
revision = "{driver.commit}"
directories = ["{driver.directory}"]
[[target]]
distro = "debian12"
kernels = ["{kernel}"]
{settings}"""
    )
    place = Place(farm, folder, tmp_path / "home")
    done = place.run("submit", "--wait", code=12)
    assert "unresolvable" in done.err and f"nothing provides linux-headers-{kernel}" in done.err
    version = "1.0-1~deb12"
    sent = {f"hello-modules_{version}.dsc", f"hello-modules_{version}.debian.tar.xz", "hello-modules_1.0.orig.tar.xz"}
    assert set(files(place, "hello-modules-debian12")) == sent


def test_what_obs_does_not_take_is_said(place: Place) -> None:
    refused = place.run("submit", "-C", "plugin.obs.project=company:drivers", code=25)
    assert "OBS has no project company:drivers" in refused.err and "plugin.obs.create" in refused.err
    assert "plugin.obs.project" in place.run("submit", "-C", "plugin.obs.project=../admin", code=16).err
    repository = 'plugin.obs.repositories=[{{name="EL_9", path=["{}"]}}]'
    near = place.run("submit", "-C", repository.format(f"{NOWHERE}/standrd"), code=25)
    assert f"{NOWHERE} has no repository standrd for EL_9" in near.err and "did you mean 'standard'?" in near.err
    nobody = place.run("submit", "-C", repository.format("nobody:here/standard"), code=25)
    assert "OBS has no project nobody:here to build on" in nobody.err
    # Nothing was made before that was said, and nothing counts as sent.
    assert _project(place).encode() not in place.farm.ask("/source")
    assert place.run("submit", "status").out == "nothing was submitted\n"
    (place.home / ".config/osc/oscrc").unlink()
    assert "osc has no user there" in place.run("submit", code=25).err


def _project(place: Place) -> str:
    (found,) = re.findall(r'^project = "(home:.*)"$', (place.folder / "pkgkmod.toml").read_text(), re.MULTILINE)
    return str(found)


def _revisions(place: Place) -> int:
    found = place.farm.xml(f"/source/{_project(place)}/{HELLO}/_history")
    return len(list(found.iter("revision")))

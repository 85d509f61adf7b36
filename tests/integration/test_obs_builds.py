"""Builds by OBS' real backend that take minutes: for Debian, for many kernels, with a certificate."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.fixtures import obsdebs
from tests.fixtures.families import family
from tests.fixtures.machine import Driver, hello, need, pkgkmod
from tests.fixtures.obsfarm import DISTRO, SETTINGS, Place, more_kernels, root, running_farm
from tests.fixtures.rpmrepo import EL

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("obs")]
DEBIAN = """
[project]
name = "{driver.name}"
[source]
repository = "{driver.repository}"
revision = "{driver.commit}"
directories = ["{driver.directory}"]
[[target]]
distro = "debian12"
kernels = ["{kernel}"]
"""
RELEASES = [f"5.14.0-{number}.el9.x86_64" for number in range(1, 13)]


@pytest.fixture(autouse=True)
def programs() -> None:
    need("bwrap", "make", "openssl", "rpmbuild", "createrepo_c")
    pytest.importorskip("osc")


def settings(project: str, path: str, *more: str) -> str:
    """Return the settings, with further lines among them."""
    return SETTINGS.format(project=project, path=path).replace("interval", "\n".join((*more, "interval")), 1)


def test_debs_that_obs_builds_of_the_archives_packages_are_those_that_are_built_here(
    tmp_path: Path, e1000e: Driver, kernel: str
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    text = DEBIAN.format(driver=e1000e, kernel=kernel) + settings("debs", obsdebs.DISTRO).replace("EL_9", "Debian_12")
    (folder / "pkgkmod.toml").write_text(text)
    packages, config = obsdebs.packages(f"linux-headers-{kernel}", "python3")
    with running_farm() as farm:
        farm.distribution(obsdebs.DISTRO, *packages, config=config)
        Place(farm, folder, tmp_path / "home").run("submit", "--fetch")
    pkgkmod("build_deb", cwd=folder)
    fetched = {file.name: file.read_bytes() for file in folder.glob("results/submit/debian12/*/*/*.deb")}
    assert len(fetched) == 2 and any(name.startswith(f"e1000e-modules-{kernel}_") for name in fetched)
    # Not the modules alone: everything, the versions included, to which OBS would like to add its count of builds.
    assert fetched == {file.name: file.read_bytes() for file in folder.glob("results/build_deb/debian12/*/*/*.deb")}


def test_obs_lays_the_projects_certificate_beside_the_sources_of_an_rpm_and_of_a_deb(
    tmp_path: Path, kernel: str
) -> None:
    """The certificate lies on the server as one made by a signer would; there is no signer here."""
    driver = hello(tmp_path / "driver")
    # What a project has that was there before is not changed, its configuration included.
    lines = ("needssslcert = true", 'config = "Release:\\n"')
    debs = tmp_path / "debs"
    debs.mkdir()
    own = settings("certified", obsdebs.DISTRO, *lines).replace("EL_9", "Debian_12")
    (debs / "pkgkmod.toml").write_text(DEBIAN.format(driver=driver, kernel=kernel) + own)
    rpms = family(tmp_path / "rpms", driver, "el9", settings("certified", DISTRO, *lines))
    packages, config = obsdebs.packages(f"linux-headers-{kernel}", "python3")
    with running_farm() as farm:
        farm.distribution(obsdebs.DISTRO, *packages, config=config)
        farm.distribution(DISTRO, root())
        certificate = farm.certificate("home:ci:certified")
        for folder, place in ((debs, "usr/src/packages/SOURCES"), (rpms, "home/abuild/rpmbuild/SOURCES")):
            Place(farm, folder, tmp_path / "home").run("submit", "--wait")
            assert (farm.folder / "root1" / place / "_projectcert.crt").read_bytes() == certificate


def test_two_workers_of_obs_build_twelve_flavors_of_a_package_and_none_waits_for_work(tmp_path: Path) -> None:
    """The headers of the twelve kernels are those of one, under names of their own."""
    own = settings("many", DISTRO, "multibuild = true")
    folder = family(tmp_path / "project", hello(tmp_path / "driver"), "el9", own)
    project = folder / "pkgkmod.toml"
    text = re.sub('baseurl = ".*"', f'baseurl = "{more_kernels(tmp_path, RELEASES)}"', project.read_text())
    project.write_text(text.replace(f'kernels = ["{EL}"]', f"kernels = {json.dumps(RELEASES)}"))
    with running_farm(workers=2) as farm:
        farm.distribution(DISTRO, root((EL, *RELEASES)))
        done = Place(farm, folder, tmp_path / "home").run("--json", "submit", "--fetch")
        jobs = farm.jobs("home:ci:many")
    fetched = [one for one in done.events if one["event"] == "fetched"]
    assert sorted(str(one["kernel"]) for one in fetched) == sorted(RELEASES)
    names = {Path(str(file)).name for one in fetched for file in one["files"]}  # type: ignore[attr-defined]
    assert len(names) == len(jobs) == len(RELEASES)
    assert {one["workerid"] for one in jobs} == {"w1", "w2"}
    assert (share := idle(jobs)) <= 0.2, f"the workers stood still for {share:.0%} of the time"


def idle(jobs: list[dict[str, str]]) -> float:
    """Return for what share of the time the workers had no job, though there was one to do.

    That is from when the first job was begun until the last was, by the times that OBS notes itself. Handing a package
    over, and giving out the next job, counts as having none.
    """
    times = [(int(one["starttime"]), int(one["endtime"])) for one in jobs]
    begin, end = min(start for start, _ in times), max(start for start, _ in times)
    busy = sum(min(stop, end) - start for start, stop in times)
    whole = len({one["workerid"] for one in jobs}) * (end - begin)
    return 1 - busy / whole

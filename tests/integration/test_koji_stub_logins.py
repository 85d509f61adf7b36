"""Koji's profiles, read by its real library, and the logins that they ask for: certificates, and Kerberos with a real
key distribution center; the hubs are stand-ins.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures import farmproject
from tests.fixtures.families import Made
from tests.fixtures.kerberos import Realm, gssapi_folder, imported_gssapi, running_realm
from tests.fixtures.kojihub import Hub, running_hub, write_profile
from tests.fixtures.machine import CHECKOUT, need

pytestmark = pytest.mark.xdist_group("koji-logins")  # the project is made once
KOJI = '[plugin.koji]\nprofile = "brew"\ntarget = "f43"\ninterval = 0.05\n'
# As the packages that bring profiles write them: brewkoji (brew), centos-packager (cbs), fedora-packager (koji, stg);
# in part with keys that the library has forgotten, and has to pass over. Addresses and certificates are the stubs'.
KINDS = {
    "brew": "topdir = /mnt/redhat/brewroot\nauthtype = kerberos\nkrbservice = brewhub\nkrb_rdns = False\n",
    "cbs": "topdir = /mnt/koji\ncert = ~/.centos.cert\nca = ~/.centos-server-ca.cert\nanon_retry = true\n",
    "koji": "topdir = /mnt/koji\nauthtype = kerberos\nkrb_canon_host = no\nanon_retry = true\n",
    "stg": "topdir = /mnt/koji\nauthtype = kerberos\nkrb_rdns = false\n",
}


@dataclass
class Hubs:
    """A hub for each of two profiles, the realm, and the project."""

    brew: Hub
    cbs: Hub
    realm: Realm
    sender: farmproject.Sender

    def submit(self, profile: str, code: int = 0) -> str:
        """Submit by a profile; return what was said."""
        return self.sender.run("submit", "-C", f"plugin.koji.profile={profile}", code=code).err


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return farmproject.built(tmp_path_factory.mktemp("built"), KOJI)


@pytest.fixture
def hubs(built: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hubs]:
    need("openssl")
    libraries = gssapi_folder(tmp_path / "libraries")
    imported_gssapi(libraries)
    home = tmp_path / "home"
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
    with (
        running_realm(tmp_path / "realm", users=("packager",), services=("HTTP/127.0.0.1",)) as realm,
        running_hub(tmp_path / "b") as brew,
        running_hub(tmp_path / "c") as cbs,
    ):
        monkeypatch.setenv("KRB5_CONFIG", realm.environment["KRB5_CONFIG"])  # of the stub, which runs here
        brew.accept = realm.accept
        for name, more in KINDS.items():
            hub, folder = (cbs, tmp_path / "c") if name == "cbs" else (brew, tmp_path / "b")
            write_profile(home, hub, folder, name, more)
        shutil.copy(tmp_path / "c/client.pem", home / ".centos.cert")
        sender = farmproject.sender(built, home)
        sender.variables = {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(libraries)]), **realm.environment}
        yield Hubs(brew, cbs, realm, sender)


def test_profiles_lead_to_their_stub_hubs_with_their_own_logins(hubs: Hubs) -> None:
    hubs.realm.kinit("packager")
    hubs.submit("brew")
    assert hubs.brew.logins == ["kerberos packager@EXAMPLE.ORG"] and len(hubs.brew.builds) == 1
    assert not hubs.cbs.calls
    hubs.submit("cbs")
    assert hubs.cbs.logins == ["certificate 127.0.0.1"] and len(hubs.cbs.builds) == 1
    hubs.submit("koji")
    hubs.submit("stg")
    assert hubs.brew.logins == ["kerberos packager@EXAMPLE.ORG"] * 3


def test_a_login_at_a_stub_hub_without_a_ticket_says_how_to_get_one(hubs: Hubs) -> None:
    said = hubs.submit("brew", code=25)
    assert "Koji does not let you in with Kerberos" in said and "kinit gets one" in said
    assert "https://docs" not in said and len(said.splitlines()) < 14  # the library's own complaint is not shown beside
    assert hubs.brew.calls == ["getAPIVersion"]
    (hubs.sender.home / ".centos.cert").unlink()
    said = hubs.submit("cbs", code=25)
    assert f"{hubs.sender.home}/.centos.cert is not there" in said


def test_a_login_at_a_stub_hub_without_a_library_for_kerberos_says_which(hubs: Hubs, tmp_path: Path) -> None:
    for name in ("requests_gssapi", "requests_kerberos"):
        (tmp_path / "libraries" / f"{name}.py").write_text("raise ImportError\n")
    said = hubs.submit("brew", code=9)
    assert "python3-requests-gssapi" in said
    hubs.submit("cbs")  # which needs none


def test_a_profile_that_cannot_be_used_is_said(hubs: Hubs, tmp_path: Path) -> None:
    said = hubs.submit("brw", code=25)
    assert "koji has no profile 'brw'" in said and "did you mean 'brew'?" in said
    assert "profiles that it has: brew, cbs, koji, stg" in said
    write_profile(hubs.sender.home, hubs.cbs, tmp_path / "nowhere", "other", KINDS["cbs"])
    said = hubs.submit("other", code=25)
    assert "names a file that is not there" in said and f"serverca = {tmp_path}/nowhere/hub.crt" in said
    write_profile(hubs.sender.home, hubs.cbs, tmp_path / "b", "other", KINDS["cbs"])
    assert "the Koji hub's certificate is not trusted" in hubs.submit("other", code=25)
    write_profile(hubs.sender.home, hubs.cbs, tmp_path / "c", "other", "authtype = ssl\ncert = ~/gone.pem\n")
    assert "cert = " in hubs.submit("other", code=25)
    write_profile(hubs.sender.home, hubs.cbs, tmp_path / "c", "other", "authtype = gss\n")
    assert "an authtype 'gss'" in hubs.submit("other", code=25)
    write_profile(hubs.sender.home, hubs.cbs, tmp_path / "c", "other", "timeout = soon\n")
    assert "koji's profile 'other' cannot be used" in hubs.submit("other", code=25)
    (hubs.sender.home / ".koji/config").write_text("server = x\n")
    assert "koji's configuration cannot be read" in hubs.submit("cbs", code=25)

"""The stage `sign` and the command, as a user runs them, on a project that is built for real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pkgkmod.config.load import load
from pkgkmod.errors import ConfigError
from pkgkmod.model.project import Project
from pkgkmod.plugins import JobUnit
from pkgkmod.stages.build_iso import BuildIso
from pkgkmod.stages.sign import Sign
from tests.fixtures.aptrepo import Key
from tests.fixtures.aptrepo import key as gpg_key
from tests.fixtures.machine import hello, need, pkgkmod, series_and_kernel
from tests.fixtures.packaging import make_job, make_project
from tests.fixtures.signing import PIN, new_token

MODULE = "/lib/modules/{}/extra/hello/hello.ko"


HOSTILE_SPEC = r"""Name: hostile
Version: 1
Release: 1
Summary: s
License: GPL
AutoReqProv: no
%global debug_package %{nil}
%global __os_install_post %{nil}
%description
d
%install
mkdir -p %{buildroot}/lib/modules/6.1/extra
cd %{buildroot}/lib/modules/6.1/extra
echo one > LATIN.ko
echo two > '%%(touch pwned) $(touch pwned) `touch pwned` ; touch pwned .ko'
%files
/lib/modules
"""


@pytest.fixture(scope="module")
def kernel_release() -> str:
    return series_and_kernel()[1]


@pytest.fixture(scope="module")
def gpg() -> Key:
    need("rpmsign", "rpmkeys", "gpg")
    return gpg_key("rpm")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, kernel_release: str) -> Path:
    """A project that is built, without keys; a new key lies beside."""
    need("openssl", "rpmbuild", "rpm2cpio", "cpio", "xorriso", "createrepo_c", "modinfo")
    folder = tmp_path_factory.mktemp("project")
    driver = hello(tmp_path_factory.mktemp("git") / "repository")
    pkgkmod("init", "--name", "hello", "--distro", "el9", "--kernel", kernel_release, cwd=folder)
    where = ("-g", driver.repository, "-r", driver.commit, "-d", driver.directory)
    pkgkmod("prepare_sources", *where, cwd=folder)
    pkgkmod("build", cwd=folder)
    told = pkgkmod("sign", "--new-key", "keys", "--name", "Test of the stage", cwd=folder)
    assert "mokutil --import" in told.out and "Test of the stage" in told.out
    assert (folder / "keys/mok.key").stat().st_mode & 0o777 == 0o600
    return folder


@pytest.fixture
def mine(project: Path, tmp_path: Path) -> Path:
    """A copy of the project."""
    shutil.copytree(project, tmp_path / "project", symlinks=True)
    return tmp_path / "project"


def configure(folder: Path, gpg: Key | None = None, **settings: str) -> None:
    known = {"module_key": "keys/mok.key", "module_certificate": "keys/mok.pem", **settings}
    if gpg:
        known |= {"package_key": gpg.fingerprint, "gpg_home": str(gpg.home)}
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in known.items() if value)
    with (folder / "pkgkmod.toml").open("a") as file:
        file.write(f"\n[signing]\n{text}")


def module_of(package: Path, folder: Path, release: str) -> Path:
    folder.mkdir()
    archive = subprocess.run(["rpm2cpio", package], capture_output=True, check=True).stdout
    subprocess.run(["cpio", "-idm", "--quiet"], input=archive, cwd=folder, check=True)
    return folder / MODULE.format(release).lstrip("/")


def modinfo(module: Path, field: str) -> str:
    argv = ["/usr/sbin/modinfo", "-F", field, module]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def test_build_signs_and_the_disk_has_the_signed_packages(
    mine: Path, gpg: Key, kernel_release: str, tmp_path: Path
) -> None:
    configure(mine, gpg)
    plan = pkgkmod("plan", cwd=mine).out.splitlines()
    changes = {line.split()[1].rstrip(":"): line.split()[0] for line in plan if "unchanged" not in line}
    # What is about the packages is about the signed ones now.
    assert changes.pop("check", "RUN") == "RUN"
    assert changes == {"sign": "RUN", "sbom": "RUN", "build_iso": "RUN"}
    pkgkmod("build", cwd=mine)
    assert "nothing to do" in pkgkmod("build", cwd=mine).err
    signed = next((mine / "results/sign").glob("*/*/*/*.x86_64.rpm"))
    module = module_of(signed, tmp_path / "root", kernel_release)
    assert modinfo(module, "signer") == "Test of the stage"
    assert modinfo(module, "sig_hashalgo") == "sha256"
    assert modinfo(module, "vermagic").split()[0] == kernel_release
    database = ["--dbpath", tmp_path / "db"]
    subprocess.run(["rpmkeys", *database, "--import", gpg.armored], check=True)
    for package in signed.parent.glob("*.rpm"):
        done = subprocess.run(["rpmkeys", *database, "-K", package], capture_output=True, text=True, check=False)
        assert done.stdout.strip().endswith("digests signatures OK")
    disks = sorted((mine / "results/build_iso").glob("*/*/*/*.iso"), key=lambda path: path.stat().st_mtime)
    extract = ["xorriso", "-osirrox", "on", "-indev", disks[-1], "-extract", "/rpms/x86_64", tmp_path / "disk"]
    subprocess.run(extract, check=True, capture_output=True)
    assert (tmp_path / "disk" / signed.name).read_bytes() == signed.read_bytes()
    told = pkgkmod("sign", "--verify", cwd=mine)
    assert told.out == f"1 module signed with {mine}/keys/mok.pem; 2 packages signed with {gpg.fingerprint}\n"
    rebuilt = pkgkmod("rebuild", "--compare", cwd=mine)
    assert "OTHER" not in rebuilt.out and signed.name in rebuilt.out


def test_a_project_whose_key_is_in_a_vault(mine: Path, kernel_release: str, tmp_path: Path) -> None:
    pkgkmod("sign", "--export-hashes", "vault", cwd=mine)
    configure(mine, module_key="", module_signatures="vault")
    assert "is missing" in pkgkmod("build", cwd=mine, code=20).err
    (digest,) = (mine / "vault").glob("*.sha256")
    sign = ["openssl", "pkeyutl", "-sign", "-inkey", mine / "keys/mok.key", "-pkeyopt", "digest:sha256"]
    subprocess.run([*sign, "-in", digest, "-out", digest.with_suffix(".sig")], check=True)
    assert "changed: signatures" in pkgkmod("plan", cwd=mine).out or "failed before" in pkgkmod("plan", cwd=mine).out
    pkgkmod("build", cwd=mine)
    signed = next((mine / "results/sign").glob("*/*/*/*.x86_64.rpm"))
    assert modinfo(module_of(signed, tmp_path / "root", kernel_release), "signer") == "Test of the stage"
    key = ("--key", "keys/mok.key", "--certificate", "keys/mok.pem")
    pkgkmod("sign", *(mine / "results/build_rpm").glob("*/*/*"), *key, "-o", "direct", cwd=mine)
    assert (mine / "direct" / signed.name).read_bytes() == signed.read_bytes()


def test_nothing_of_the_key_is_in_results_or_output(mine: Path, tmp_path: Path) -> None:
    pin = "a-very-secret-passphrase"
    encrypt = ["openssl", "pkey", "-in", "keys/mok.key", "-aes256", "-passout", "env:PIN", "-out", "keys/locked.key"]
    subprocess.run(encrypt, cwd=mine, env={**os.environ, "PIN": pin}, check=True)
    (mine / "keys/locked.key").chmod(0o600)
    configure(mine, module_key="keys/locked.key")
    refused = pkgkmod("sign", cwd=mine, code=20)
    assert "KBUILD_SIGN_PIN" in refused.err
    wrong = pkgkmod("sign", cwd=mine, code=20, KBUILD_SIGN_PIN="wrong-passphrase")
    assert "wrong-passphrase" not in wrong.out + wrong.err
    done = pkgkmod("sign", "-vv", "--json", cwd=mine, KBUILD_SIGN_PIN=pin)
    key = (mine / "keys/mok.key").read_text().splitlines()[1]
    cache = Path(os.environ["XDG_CACHE_HOME"])
    files = [path for folder in (mine / "results", cache) for path in folder.rglob("*") if path.is_file()]
    assert any("sign" in str(path.relative_to(mine)) for path in files if path.is_relative_to(mine))
    for secret in (pin, key, "PRIVATE KEY-----"):
        assert secret not in done.out + done.err
        for path in files:
            assert secret.encode() not in path.read_bytes(), path


def test_what_changes_is_signed_anew(mine: Path) -> None:
    configure(mine)
    pkgkmod("sign", cwd=mine)
    assert "SKIP  sign" in pkgkmod("plan", "sign", cwd=mine).out
    assert "changed: hash" in pkgkmod("plan", "sign", "-C", "signing.module_hash=sha512", cwd=mine).out
    pkgkmod("sign", "--new-key", "keys2", cwd=mine)
    for name in ("mok.key", "mok.pem"):
        shutil.move(mine / "keys2" / name, mine / "keys" / name)
    assert "changed: certificate, module key" in pkgkmod("sign", "-n", cwd=mine).out


def test_mistakes_are_explained(mine: Path) -> None:
    assert "the project has no key to sign with" in pkgkmod("sign", cwd=mine, code=2).err
    partial = pkgkmod("sign", "--key", "keys/mok.key", cwd=mine, code=3).err
    assert "module_key needs module_certificate" in partial
    other = ("--key", "keys/mok.key", "--certificate")
    assert "does not exist" in pkgkmod("sign", *other, "absent.pem", cwd=mine, code=20).err.replace(
        "No such file or directory", "does not exist"
    )
    pkgkmod("sign", "--new-key", "others", cwd=mine)
    wrong = pkgkmod("sign", *other, "others/mok.pem", cwd=mine, code=20).err
    assert "does not belong to the certificate" in wrong
    assert not list((mine / "results/sign").glob("*/*/*/*.rpm"))
    again = pkgkmod("sign", "--new-key", "others", cwd=mine, code=20).err
    assert "nothing was changed" in again
    for words, said in (
        (("--verfy",), "--verify"),
        (("--verify", "--new-key", "x"), "do not go together"),
        (("--contents",), "goes with --export-hashes"),
        (("-o", "x"), "-o is where signed FILES go"),
        (("--import-signatures", "x", "--certificate", "c", "--key", "k"), "--key does not go with"),
    ):
        assert said in pkgkmod("sign", *words, cwd=mine, code=2).err


def test_a_project_with_a_pin_in_it_is_refused(mine: Path) -> None:
    configure(mine, module_key="pkcs11:token=t;object=o;pin-value=123456")
    refused = pkgkmod("plan", cwd=mine, code=3)
    assert "must have no PIN in it" in refused.err and "123456" not in refused.out + refused.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("module_key = 'k'", "signing: module_key needs module_certificate"),
        ("module_certificate = 'c'", "signing: module_certificate needs module_key"),
        ("module_signatures = 's'", "signing: module_signatures needs module_certificate"),
        ("module_key = 'k'\nmodule_signatures = 's'\nmodule_certificate = 'c'", "do not go together: who signs?"),
        ("module_hash = 'sha512'", "signing: module_hash needs module_key"),
        ("gpg_home = 'g'", "signing: gpg_home needs package_key"),
        ("module_hash = 'sha999'", "signing.module_hash: expected '', 'sha1'"),
        ("modul_key = 'k'", "signing.modul_key: unknown key; did you mean 'module_key'?"),
        ("package_key = 5", "signing.package_key: expected text, got the number 5"),
    ],
)
def test_settings_that_are_not_whole_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "pkgkmod.toml").write_text(f"[project]\nname = 'hello'\n[signing]\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "pkgkmod.toml")
    assert said in caught.value.brief


def test_packages_are_signed_only_where_there_is_a_key() -> None:
    without, stage = make_project(), Sign()
    keys = {"module_key": "k", "module_certificate": "c"}
    with_key = Project.model_validate({**without.model_dump(exclude_none=True), "signing": keys})
    for distro, project, applies in (
        ("el9", without, False),
        ("el9", with_key, True),
        ("debian12", without, False),
        ("debian12", with_key, True),
    ):
        job = make_job(distro, ("6.1.0-1-amd64",), project)
        assert stage.applies(JobUnit(job.project, Path("/"), job)) is applies
    assert BuildIso().consumes(without) == ("package_set.rpm",)
    assert BuildIso().consumes(with_key) == ("signed_set",) == (stage.produces,)
    assert stage.consumes(make_job("el9", ("6.1.0-1-amd64",)).project) == ("package_set.rpm",)
    assert stage.consumes(make_job("debian12", ("6.1.0-1-amd64",)).project) == ("package_set.deb",)


# ---- packages from elsewhere, and no project


@pytest.fixture
def farm(project: Path, tmp_path: Path) -> Path:
    """A folder with finished packages and a key, and nothing of the project."""
    folder = tmp_path / "farm"
    (folder / "rpms").mkdir(parents=True)
    for package in (project / "results/build_rpm").glob("*/*/*/*.rpm"):
        shutil.copy(package, folder / "rpms")
    shutil.copytree(project / "keys", folder / "keys")
    return folder


KEY = ("--key", "keys/mok.key", "--certificate", "keys/mok.der")


def test_packages_of_a_farm(farm: Path, gpg: Key, kernel_release: str, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in (farm / "rpms").iterdir()}
    dry = pkgkmod("sign", "rpms", *KEY, "-o", "out", "-n", cwd=farm)
    assert "1 module" in dry.out and not (farm / "out").exists()
    package_key = ("--package-key", gpg.fingerprint, "--gpg-home", gpg.home)
    told = pkgkmod("sign", "rpms", *KEY, *package_key, "--hash", "sha384", "-o", "out", cwd=farm)
    assert told.out.endswith("2 packages, 1 module signed and verified\n")
    assert {path: path.read_bytes() for path in (farm / "rpms").iterdir()} == before
    assert sorted(path.name for path in (farm / "out").iterdir()) == sorted(path.name for path in before)
    verify = ("--verify", "out", "--certificate", "keys/mok.pem", "--public-key", gpg.armored)
    assert "1 module signed" in pkgkmod("sign", *verify, cwd=farm).out
    refused = pkgkmod("sign", "rpms", *KEY, "-o", "out", cwd=farm, code=2).err
    assert "is there already, and 1 more" in refused and "--force" in refused
    pkgkmod("sign", "rpms", *KEY, "-o", "out", "--force", cwd=farm)
    assert "signatures" not in pkgkmod("sign", *verify, cwd=farm, code=20).out
    pkgkmod("sign", "rpms", *KEY, "-o", "rpms", "--force", cwd=farm)  # in place
    (binary,) = (farm / "rpms").glob("*.x86_64.rpm")
    assert modinfo(module_of(binary, tmp_path / "root", kernel_release), "signer") == "Test of the stage"
    events = pkgkmod("sign", "rpms", *KEY, "-o", "json", "--json", cwd=farm).events
    assert events[-1]["event"] == "signed" and events[-1]["modules"] == 1


def test_a_key_in_a_token_makes_the_same_packages(farm: Path, tmp_path: Path) -> None:
    token = new_token(tmp_path, farm / "keys/mok.key")
    key = ("--key", token.uri, "--certificate", "keys/mok.pem")
    assert "KBUILD_SIGN_PIN" in pkgkmod("sign", "rpms", *key, "-o", "x", cwd=farm, code=20, **token.variables).err
    with_pin = {**token.variables, "KBUILD_SIGN_PIN": PIN}
    done = pkgkmod("sign", "rpms", *key, "-o", "token", "-vv", cwd=farm, **with_pin)
    assert PIN not in done.out + done.err
    pkgkmod("sign", "rpms", *KEY, "-o", "file", cwd=farm)
    for path in (farm / "file").iterdir():
        assert (farm / "token" / path.name).read_bytes() == path.read_bytes()
    in_uri = pkgkmod("sign", "rpms", "--key", f"{token.uri}?pin-value={PIN}", *key[2:], "-o", "x", cwd=farm, code=2)
    assert "must have no PIN in it" in in_uri.err and PIN not in in_uri.out + in_uri.err


def test_a_vault_signs(farm: Path) -> None:
    pkgkmod("sign", "rpms", "--export-hashes", "vault", cwd=farm)
    (digest,) = (farm / "vault").glob("*.sha256")
    missing = ("sign", "rpms", "--import-signatures", "vault", "--certificate", "keys/mok.pem", "-o", "out")
    assert "is missing" in pkgkmod(*missing, cwd=farm, code=20).err
    assert not (farm / "out").exists()
    sign = ["openssl", "pkeyutl", "-sign", "-inkey", farm / "keys/mok.key", "-pkeyopt", "digest:sha256"]
    subprocess.run([*sign, "-in", digest, "-out", digest.with_suffix(".sig")], check=True)
    pkgkmod(*missing, cwd=farm)
    pkgkmod("sign", "rpms", *KEY, "-o", "direct", cwd=farm)
    for path in (farm / "direct").iterdir():
        assert (farm / "out" / path.name).read_bytes() == path.read_bytes()


def test_what_cannot_be_signed_is_explained(farm: Path) -> None:
    assert "give a folder: -o DIR" in pkgkmod("sign", "rpms", *KEY, cwd=farm, code=2).err
    assert "there is no key to sign with" in pkgkmod("sign", "rpms", "-o", "x", cwd=farm, code=2).err
    assert "--key needs --certificate" in pkgkmod("sign", "rpms", *KEY[:2], "-o", "x", cwd=farm, code=2).err
    near = pkgkmod("sign", "rpms", *KEY, "--hash", "shaa256", "-o", "x", cwd=farm, code=2).err
    assert "did you mean 'sha256'?" in near
    (source,) = (farm / "rpms").glob("*.src.rpm")
    assert "there is no kernel module in 1 package" in pkgkmod("sign", source, *KEY, "-o", "x", cwd=farm, code=17).err
    (farm / "no.rpm").write_bytes(b"\xed\xab\xee\xdb\x03" + bytes(500))
    assert "cannot be read as an RPM" in pkgkmod("sign", "no.rpm", *KEY, "-o", "x", cwd=farm, code=17).err
    assert "absent.rpm is not there" in pkgkmod("sign", "absent.rpm", *KEY, "-o", "x", cwd=farm, code=17).err
    assert "verify with what?" in pkgkmod("sign", "rpms", "--verify", cwd=farm, code=2).err
    assert "the module is not signed" in pkgkmod("sign", "rpms", "--verify", *KEY[2:], cwd=farm, code=20).err
    assert not (farm / "x").exists()
    assert "cannot be made" in pkgkmod("sign", "rpms", *KEY, "-o", "no.rpm", cwd=farm, code=17).err
    assert "cannot be made" in pkgkmod("sign", "--new-key", "no.rpm", cwd=farm, code=17).err


def test_names_in_packages_are_only_names(tmp_path: Path, farm: Path) -> None:
    """Of a package that nobody would make: bytes that are no text, and words of shells and macros."""
    spec = HOSTILE_SPEC.encode().replace(b"LATIN", b"m\xe4")
    (tmp_path / "hostile.spec").write_bytes(spec)
    define = {"_topdir": tmp_path / "h", "_dbpath": tmp_path / "db", "_invalid_encoding_terminates_build": 0}
    words = [word for name, value in define.items() for word in ("--define", f"{name} {value}")]
    subprocess.run(["rpmbuild", "-bb", *words, tmp_path / "hostile.spec"], check=True, capture_output=True)
    (package,) = (tmp_path / "h/RPMS").glob("*/*.rpm")
    told = pkgkmod("sign", "--verify", package, *KEY[2:], cwd=farm, code=20)
    assert "2 of 2 modules" in told.err and "%(touch pwned)" in told.err
    pkgkmod("sign", "--verify", package, *KEY[2:], "--json", cwd=farm, code=20)
    pkgkmod("sign", package, *KEY, "-o", "out", cwd=farm)
    pkgkmod("sign", package, "--export-hashes", "vault", cwd=farm)
    pkgkmod("sign", "--verify", "out", *KEY[2:], cwd=farm)
    assert not list(farm.rglob("*pwned*"))

"""Keys in PKCS#11 tokens sign like sign-file with the same key in a file; and what must not be seen of any key."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from pkgkmod.command import Completed
from pkgkmod.errors import SigningError
from pkgkmod.progress import Plain
from pkgkmod.signing import cms, detached, keys, modules, openssl
from pkgkmod.signing.detached import ToSign
from tests.fixtures.machine import lacking, made_once, need
from tests.fixtures.signing import (
    HASHES,
    PIN,
    call,
    new_ec_key,
    new_key,
    new_token,
    sign_file,
    signed_by_kernel,
    small_module,
)


@pytest.fixture(autouse=True)
def no_pin(monkeypatch):
    monkeypatch.delenv(openssl.PIN, raising=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return new_key(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    return small_module(tmp_path_factory.mktemp("module"))


@pytest.fixture(scope="module")
def ec_key(tmp_path_factory):
    return new_ec_key(tmp_path_factory.mktemp("ec"))


@pytest.fixture(scope="module")
def shared_token(made, ec_key, tmp_path_factory):
    return new_token(tmp_path_factory.mktemp("token"), made.key, ec_key[0])


@pytest.fixture
def token(shared_token, monkeypatch):
    for name, value in shared_token.variables.items():
        monkeypatch.setenv(name, value)
    return shared_token


@pytest.mark.parametrize("hash", HASHES)
def test_a_key_in_a_token_signs_like_sign_file(made, token, module, tmp_path, monkeypatch, hash):
    monkeypatch.setenv(openssl.PIN, PIN)
    key = keys.load_key(token.uri, made.certificate, tmp_path)
    signed = modules.sign_module(module, key, hash)
    assert signed == signed_by_kernel(module, made.key, made.certificate, hash, tmp_path)


def test_an_ecdsa_key_in_a_token_signs(ec_key, token, module, tmp_path, monkeypatch):
    monkeypatch.setenv(openssl.PIN, PIN)
    key = keys.load_key("pkcs11:token=pkgkmod;object=key%202;type=private", ec_key[1], tmp_path)
    modules.verify_module(modules.sign_module(module, key, "sha384"), ec_key[1])


def test_a_pin_can_lie_in_a_file(made, token, tmp_path):
    (tmp_path / "pin").write_text(PIN)
    key = keys.load_key(f"{token.uri}?pin-source=file:{tmp_path}/pin", made.certificate, tmp_path)
    assert key.pin_env is None
    assert len(key.sign(cms.digest(b"x", "sha256"), "sha256")) == 256


@pytest.mark.parametrize(
    ("pin", "name", "hint"),
    [
        (None, "module%20key", "put the PIN into the variable KBUILD_SIGN_PIN"),
        ("wrong-4711", "module%20key", "the PIN in KBUILD_SIGN_PIN may be wrong"),
        (PIN, "no%20such%20key", "pkcs11-tool --list-objects"),
    ],
)
def test_a_token_that_does_not_sign_is_told_without_the_pin(made, token, tmp_path, monkeypatch, pin, name, hint):
    if pin:
        monkeypatch.setenv(openssl.PIN, pin)
    with pytest.raises(SigningError, match="openssl cannot sign with the key pkcs11:token=pkgkmod") as caught:
        keys.load_key(token.uri.replace("module%20key", name), made.certificate, tmp_path)
    error = caught.value
    assert hint in error.hint and error.details
    assert not pin or pin not in f"{error.brief}{error.details}{error.hint}{error!r}"


def test_a_wrong_pin_is_tried_once_so_that_the_token_does_not_lock(made, token, tmp_path, monkeypatch):
    monkeypatch.setenv(openssl.PIN, "wrong-0815")
    tried = []

    def run(command):
        tried.extend(["sign"] if "-sign" in command.argv else [])
        return openssl.run_quietly(command)

    for _ in range(5):
        with pytest.raises(SigningError, match="cannot sign with the key"):
            keys.load_key(token.uri, made.certificate, tmp_path, run)
    assert tried == ["sign"]
    monkeypatch.setenv(openssl.PIN, PIN)
    assert keys.load_key(token.uri, made.certificate, tmp_path, run).pin_env == openssl.PIN


def test_a_token_with_another_key_than_the_certificates_is_refused(made, token, tmp_path, monkeypatch):
    other = keys.new_key(tmp_path / "other", "Other", 1)
    monkeypatch.setenv(openssl.PIN, PIN)
    with pytest.raises(SigningError, match=r"does not belong to the certificate of CN=Other"):
        keys.load_key(token.uri, other.certificate, tmp_path)


@pytest.mark.parametrize(("number", "heading", "hash"), [(1, "an RSA key", "sha512"), (2, "an ECDSA key", "sha384")])
def test_the_readmes_commands_for_tokens_work_as_they_stand(made, ec_key, token, tmp_path, number, heading, hash):
    certificate = made.certificate if number == 1 else ec_key[1]
    out = tmp_path / "out"
    contents = (b"one", b"two")
    detached.export((ToSign("p.rpm", "/lib/m.ko", content, hash) for content in contents), out)
    text = (out / "README.txt").read_text().split(f"With a PKCS#11 token, {heading}", 1)[1].split("\n\n")[0]
    script = text.split("\n", 2)[2].replace("MODULE.so", str(token.pkcs11_module))
    script = script.replace("TOKEN", "pkgkmod").replace("--id ID", f"--id 0{number}")
    call("sh", "-euc", script, cwd=out, KEY_PIN=PIN)
    signatures = detached.load_signatures(out, certificate)
    for content in contents:
        modules.verify_module(detached.sign_with(content, hash, signatures), certificate)


def test_no_secret_is_left_in_logs_files_or_output(made, token, module, tmp_path, monkeypatch, capsys):
    """Everything that a run writes: its temporary files as they are made, its log, and what is shown with -vv."""
    from pkgkmod.command import run as run_command

    monkeypatch.setenv(openssl.PIN, PIN)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    secret = made.key.read_bytes().splitlines()[5]
    seen, shown = [], []

    def run(command):
        done = run_command(command, log=tmp_path / "log", progress=Plain(verbosity=2))
        seen.extend(path.read_bytes() for path in scratch.rglob("*") if path.is_file())
        shown.append(f"{command!r}{done!r}{command.argv}")
        return done

    for name in (token.uri, str(made.key)):
        key = keys.load_key(name, made.certificate, tmp_path, run)
        modules.verify_module(modules.sign_module(module, key, "sha256", run), made.certificate, run)
        shown.append(repr(key))
    monkeypatch.setenv(openssl.PIN, PIN + "-wrong")
    with pytest.raises(SigningError) as caught:
        keys.load_key(token.uri, made.certificate, tmp_path, run)
    said = capsys.readouterr()
    shown += [said.out, said.err, repr(vars(caught.value)), (tmp_path / "log").read_text()]
    assert "pkeyutl" in said.err and seen
    text = "".join(shown).encode() + b"".join(seen)
    assert PIN.encode() not in text and secret not in text and b"PRIVATE KEY" not in text
    assert list(scratch.iterdir()) == []


# Another generation of the tools: OpenSSL 3.5 with the PKCS#11 provider, in Debian 13.


@pytest.fixture(scope="module")
def trixie():
    """A root of Debian 13."""
    need("mmdebstrap", "chroot")
    if os.geteuid():
        lacking("only root can change its root")
    packages = "openssl,pkcs11-provider,softhsm2,opensc,libengine-pkcs11-openssl"
    with made_once(f"signing-trixie-{hashlib.sha256(packages.encode()).hexdigest()[:8]}") as (place, ready):
        if not ready:
            shutil.rmtree(place, ignore_errors=True)
            argv = ["mmdebstrap", "--variant=minbase", f"--include={packages}", "trixie", str(place)]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode:
                lacking(f"no root of Debian 13: {done.stderr[-500:]}")
    return place


@dataclass(frozen=True)
class Inside:
    """A folder in that root, and programs of Debian 13 that run there."""

    root: Path
    folder: Path

    @property
    def work(self):
        """The folder as seen from outside."""
        return self.root / self.folder.name

    def call(self, *argv):
        """Run a program that must succeed."""
        call("chroot", self.root, "env", f"SOFTHSM2_CONF={self.folder}/softhsm2.conf", *argv)

    def run(self, command):
        """Run a command of pkgkmod's, its folder copied there and back."""
        away = self.work / "run"
        shutil.copytree(command.cwd, away)
        argv = ["chroot", self.root, "sh", "-c", 'cd "$0" && exec "$@"', self.folder / "run", *command.argv]
        own = {"SOFTHSM2_CONF": f"{self.folder}/softhsm2.conf", "PATH": os.environ["PATH"]}
        done = subprocess.run(argv, env={**command.env, **own}, capture_output=True, text=True, check=False)
        shutil.copytree(away, command.cwd, dirs_exist_ok=True)
        shutil.rmtree(away)
        return Completed(command, done.returncode, tuple((done.stdout + done.stderr).splitlines()), Path("log"))


@pytest.fixture
def inside(trixie, made, request):
    """A folder with a token that has our key, and with sign-file."""
    found = Inside(trixie, Path(f"/signing-{os.getpid()}"))
    request.addfinalizer(lambda: shutil.rmtree(found.work))
    (found.work / "tokens").mkdir(parents=True)
    for file in (sign_file(), made.key, made.certificate):
        shutil.copy(file, found.work)
    (found.work / "pin").write_text(PIN)
    settings = f"directories.tokendir = {found.folder}/tokens\nobjectstore.backend = file\n"
    (found.work / "softhsm2.conf").write_text(settings)
    found.call("softhsm2-util", "--init-token", "--free", "--label", "pkgkmod", "--pin", PIN, "--so-pin", "12345678")
    what = ("--token", "pkgkmod", "--label", "module key", "--id", "01", "--pin", PIN)
    found.call("softhsm2-util", "--import", found.folder / "mok.key", *what)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("way", ["provider", "engine"])
def test_with_openssl_3_5_a_token_signs_like_sign_file(inside, made, module, monkeypatch, tmp_path, way):
    """The newer sign-file takes a PIN from pin-source only, not from KBUILD_SIGN_PIN."""
    uri = "pkcs11:token=pkgkmod;object=module%20key;type=private"
    (inside.work / "m.ko").write_bytes(module)
    names = (f"{uri}?pin-source=file:{inside.folder}/pin", inside.folder / "mok.pem", inside.folder / "m.ko")
    inside.call(inside.folder / "sign-file", "sha256", *names)
    if way == "engine":
        no_provider = ("-engine", "pkcs11", "-keyform", "engine")
        monkeypatch.setattr(openssl, "token_options", lambda run, variables: no_provider)
    monkeypatch.setenv(openssl.PIN, PIN)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    key = keys.load_key(uri, made.certificate, tmp_path, inside.run)
    assert modules.sign_module(module, key, "sha256", inside.run) == (inside.work / "m.ko").read_bytes()

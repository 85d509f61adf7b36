"""Keys: what is refused and why, what is never shown, and a new key. With the real openssl."""

import os
import stat
import subprocess

import pytest

from pkgkmod.command import Command
from pkgkmod.errors import ExitCode, SigningError, TimeLimitError, UsageError
from pkgkmod.signing import keys, openssl
from pkgkmod.signing.cms import digest
from tests.fixtures.machine import need


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    need("openssl")
    return keys.new_key(tmp_path_factory.mktemp("keys") / "new", "Acme/test + key, O=x", 30)


@pytest.fixture
def pin(monkeypatch):
    monkeypatch.delenv(openssl.PIN, raising=False)
    return lambda value: monkeypatch.setenv(openssl.PIN, value)


def ask(*argv):
    return subprocess.run(["openssl", *map(str, argv)], capture_output=True, text=True, check=True).stdout


def test_a_new_key_is_what_shim_and_the_kernel_want(made):
    text = ask("x509", "-in", made.certificate, "-noout", "-text", "-nameopt", "utf8,sep_comma_plus")
    assert "CN=Acme/test + key, O=x" in text
    assert "Public-Key: (2048 bit)" in text and "sha256WithRSAEncryption" in text
    assert "CA:FALSE" in text and "Digital Signature" in text and "Subject Key Identifier" in text
    assert "Code Signing, 1.3.6.1.4.1.2312.16.1.2" in text
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600
    assert made.certificate_der.read_bytes() == keys.read_certificate(made.certificate).encoded
    assert ask("x509", "-in", made.certificate, "-noout", "-checkend", str(29 * 86400)).startswith(
        "Certificate will not"
    )
    assert sorted(path.name for path in made.key.parent.iterdir()) == ["mok.der", "mok.key", "mok.pem"]


def test_it_is_told_how_to_enrol_it(made):
    for word in (f"mokutil --import {made.certificate_der}", "MokManager", "--test-key", "/proc/keys", "Acme/test"):
        assert word in made.enrol


def test_a_new_key_never_replaces_one(tmp_path):
    (tmp_path / "mok.pem").write_text("mine")
    with pytest.raises(SigningError, match=r"mok\.pem already"):
        keys.new_key(tmp_path, "Acme", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mok.pem"]
    assert (tmp_path / "mok.pem").read_text() == "mine"


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path):
    (tmp_path / "mok.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SigningError, match="already"):
        keys.new_key(tmp_path, "Acme", 1)


@pytest.mark.parametrize(
    ("name", "days", "bits"),
    [
        ("", 1, 2048),
        (" ", 1, 2048),
        ("a\nb", 1, 2048),
        ("a" * 65, 1, 2048),
        ("a", 0, 2048),
        ("a", 10**6, 2048),
        ("a", 1, 512),
    ],
)
def test_wishes_that_make_no_key_are_refused(tmp_path, name, days, bits):
    with pytest.raises(UsageError):
        keys.new_key(tmp_path / "new", name, days, bits)
    assert not (tmp_path / "new").exists()


def test_a_key_of_4096_bits_can_be_had(tmp_path):
    need("openssl")
    made = keys.new_key(tmp_path, "Größe", 1, 4096)
    x509 = keys.read_certificate(made.certificate)
    assert (x509.width, x509.subject) == (512, "CN=Größe")


@pytest.mark.parametrize("form", ["certificate", "certificate_der"])
def test_a_key_and_its_certificate_are_loaded(made, pin, form):
    loaded = keys.load_key("mok.key", getattr(made, form).name, made.key.parent)
    assert loaded.pin_env is None and loaded.warnings == ()
    assert loaded.key == str(made.key)
    assert len(loaded.sign(digest(b"", "sha256"), "sha256")) == 256


def test_a_certificate_can_stand_behind_other_things_in_a_pem(made, pin, tmp_path):
    """As in the kernel's own signing_key.pem, and in what `openssl x509 -text` prints."""
    text = ask("x509", "-in", made.certificate, "-text")
    (tmp_path / "both.pem").write_text(made.key.read_text() + text)
    loaded = keys.load_key("both.pem", "both.pem", tmp_path)
    assert loaded.x509 == keys.read_certificate(made.certificate)


def test_an_ecdsa_key_comes_with_a_warning(pin, tmp_path):
    need("openssl")
    make = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes", "-subj", "/CN=x")
    ask("req", "-new", "-x509", *make, "-keyout", tmp_path / "k.pem", "-out", tmp_path / "c.pem")
    (warning,) = keys.load_key("k.pem", "c.pem", tmp_path).warnings
    assert "CONFIG_CRYPTO_ECDSA=y" in warning


def test_a_token_that_never_answers_is_given_up(made, pin):
    def hang(command: Command):
        if "-sign" in command.argv:
            assert command.time_limit == 300
            raise TimeLimitError("'openssl' ran longer than 300 s and was stopped")
        return openssl.run_quietly(command)

    with pytest.raises(SigningError, match=r"no signature came from the key .* within 300 s"):
        keys.load_key("mok.key", made.certificate, made.key.parent, hang)


def test_a_new_key_that_cannot_be_put_in_place_leaves_nothing(tmp_path, monkeypatch):
    """A stand-in for a file system without links, or a file that appears meanwhile."""
    need("openssl")
    link = os.link

    def fail_at_the_last(source, target):
        if str(target).endswith(".der"):
            raise FileExistsError(17, "File exists")
        link(source, target)

    monkeypatch.setattr(os, "link", fail_at_the_last)
    with pytest.raises(SigningError, match=r"mok\.der cannot be made: File exists"):
        keys.new_key(tmp_path, "Acme", 1)
    assert list(tmp_path.iterdir()) == []


def test_everybody_can_read_it_is_worth_a_warning(made, pin, tmp_path):
    (tmp_path / "open.pem").write_bytes(made.key.read_bytes())
    (tmp_path / "open.pem").chmod(0o644)
    loaded = keys.load_key("open.pem", made.certificate, tmp_path)
    assert loaded.warnings == (f"everybody can read the private key {tmp_path}/open.pem: chmod 600 open.pem",)


def test_a_key_of_another_certificate_is_refused(made, pin, tmp_path):
    other = keys.new_key(tmp_path, "Other", 1)
    with pytest.raises(SigningError, match="does not belong to the certificate") as refused:
        keys.load_key(str(other.key), made.certificate, tmp_path)
    assert refused.value.exit_code == ExitCode.SIGNING == 20
    assert "Acme/test" in refused.value.brief and str(other.key) in refused.value.brief


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "neither DER nor a PEM"),
        (b"hello", "neither DER nor a PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n", "broken"),
        (b"\x30\x03\x02\x01\x01", "other parts"),
        (b"\x30\x82\x10\x00", "cut off"),
    ],
)
def test_what_is_no_certificate_is_refused(tmp_path, content, why):
    (tmp_path / "c.pem").write_bytes(content)
    with pytest.raises(SigningError, match="cannot be used as certificate") as refused:
        keys.load_key("k.pem", "c.pem", tmp_path)
    assert why in refused.value.details


def test_a_key_that_is_no_certificate_and_one_of_another_kind_are_refused(made, tmp_path):
    with pytest.raises(SigningError, match="cannot be used as certificate"):
        keys.read_certificate(made.key)
    ask(
        "req",
        "-new",
        "-x509",
        "-newkey",
        "ed25519",
        "-nodes",
        "-subj",
        "/CN=x",
        "-keyout",
        tmp_path / "k",
        "-out",
        tmp_path / "c",
    )
    with pytest.raises(SigningError) as refused:
        keys.read_certificate(tmp_path / "c")
    assert refused.value.details == "a key that is neither RSA nor ECDSA"


def test_missing_files_are_named(made, tmp_path):
    with pytest.raises(SigningError, match=r"certificate .*nowhere\.pem does not exist"):
        keys.load_key("k.pem", "nowhere.pem", tmp_path)
    with pytest.raises(SigningError, match=r"private key .*nowhere\.pem does not exist"):
        keys.load_key("nowhere.pem", made.certificate, tmp_path)
    with pytest.raises(SigningError, match="is no file"):
        keys.load_key(str(tmp_path), made.certificate, tmp_path)


def test_a_key_in_der_is_refused_with_the_command_that_converts_it(made, tmp_path):
    ask("pkey", "-in", made.key, "-outform", "DER", "-out", tmp_path / "k.der")
    with pytest.raises(SigningError, match="no private key in PEM") as refused:
        keys.load_key("k.der", made.certificate, tmp_path)
    assert "openssl pkey -inform DER -in k.der" in refused.value.hint


@pytest.fixture
def encrypted(made, tmp_path):
    ask("pkey", "-in", made.key, "-aes256", "-passout", "pass:geheimes-wort", "-out", tmp_path / "k.pem")
    return tmp_path / "k.pem"


def test_an_encrypted_key_takes_its_passphrase_from_the_environment(made, encrypted, pin):
    pin("geheimes-wort")
    loaded = keys.load_key("k.pem", made.certificate, encrypted.parent)
    assert loaded.pin_env == "KBUILD_SIGN_PIN"
    assert "geheimes-wort" not in repr(loaded)


def test_an_encrypted_key_without_a_passphrase_is_refused_before_openssl_asks(made, encrypted, pin):
    with pytest.raises(SigningError, match="is encrypted") as refused:
        keys.load_key("k.pem", made.certificate, encrypted.parent)
    assert "KBUILD_SIGN_PIN" in refused.value.hint


def test_a_wrong_passphrase_is_told_and_not_shown(made, encrypted, pin):
    pin("falsches-wort")
    with pytest.raises(SigningError, match="cannot sign") as refused:
        keys.load_key("k.pem", made.certificate, encrypted.parent)
    error = refused.value
    assert "KBUILD_SIGN_PIN may be wrong" in error.hint and error.details
    assert "falsches-wort" not in f"{error.brief} {error.details} {error.hint} {error!r}"


def test_a_passphrase_is_in_no_command_and_no_log(made, encrypted, pin, tmp_path):
    pin("geheimes-wort")
    said = []

    def run(command: Command):
        done = openssl.run_quietly(command)
        said.append(f"{command!r} {done!r}")
        return done

    keys.load_key("k.pem", made.certificate, encrypted.parent, run)
    assert said and not any("geheimes-wort" in text for text in said)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("pkcs11:token=a;object=b?pin-value=4711", "has a PIN in it: pkcs11:token=a;object=b?pin-value=***"),
        ("pkcs11:token=a;PIN-Value=4711;object=b", "pkcs11:token=a;PIN-Value=***;object=b"),
        ("pkcs11:token=a?module-path=/tmp/evil.so", "names a library"),
        ("pkcs11:token=a?module-name=evil", "names a library"),
        ("pkcs11:token=a?pin-source=|/tmp/evil", "not a file"),
        ("pkcs11:token=a?pin-source=https://x", "not a file"),
        ("pkcs11:token=a b", "space"),
        ("pkcs11:token=a\x1b[2J", "character"),
    ],
)
def test_a_uri_with_a_pin_or_a_program_is_refused(made, uri, why):
    with pytest.raises(SigningError) as refused:
        keys.load_key(uri, made.certificate, made.key.parent)
    error = refused.value
    assert why in error.brief
    assert "4711" not in f"{error.brief} {error.details} {error.hint}"


def test_without_openssls_parts_for_tokens_it_is_told_what_to_install(made, pin, monkeypatch):
    monkeypatch.setenv("OPENSSL_MODULES", "/nonexistent")
    monkeypatch.setenv("OPENSSL_ENGINES", "/nonexistent")
    with pytest.raises(Exception, match="neither the provider nor the engine") as refused:
        keys.load_key("pkcs11:token=a;object=b", made.certificate, made.key.parent)
    assert "pkcs11-provider" in refused.value.hint
    assert os.environ["OPENSSL_ENGINES"] == "/nonexistent"

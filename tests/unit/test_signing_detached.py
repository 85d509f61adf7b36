"""Digests go out, signatures come back: with the real openssl, and with what a careless or hostile vault returns."""

import json
import os
import subprocess

import pytest

from pkgkmod.errors import InputError, SigningError, UsageError
from pkgkmod.signing import cms, detached, keys, modules, openssl
from pkgkmod.signing.detached import ToSign
from tests.fixtures.machine import need

ONE, TWO = b"\x7fELF one" * 100, b"\x7fELF two" * 100


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    need("openssl")
    return keys.new_key(tmp_path_factory.mktemp("keys"), "Vault", 30)


@pytest.fixture
def key(made, monkeypatch):
    monkeypatch.delenv(openssl.PIN, raising=False)
    return keys.SigningKey(str(made.key), made.certificate, None)


@pytest.fixture
def out(tmp_path):
    """An export of two modules; the first lies in two packages."""
    wanted = [
        ToSign("kmod-one-1.rpm", "/lib/modules/5.14/extra/one.ko", ONE, "sha256"),
        ToSign("kmod-one-2.rpm", "/lib/modules/5.14/extra/one.ko.xz", ONE, "sha256"),
        ToSign("kmod-two-1.rpm", "/lib/modules/6.12/extra/two.ko", modules.append(TWO, b"old"), "sha512"),
    ]
    assert detached.export(wanted, tmp_path / "out") == 2
    return tmp_path / "out"


def name(content, hash="sha256"):
    return detached.digest_of(content, hash)


def pkeyutl(made, folder, content, hash="sha256", *options):
    stem = name(content, hash)
    argv = ["openssl", "pkeyutl", "-sign", "-inkey", made.key, "-pkeyopt", f"digest:{hash}", *options]
    subprocess.run([*argv, "-in", f"{stem}.{hash}", "-out", f"{stem}.sig"], cwd=folder, check=True)
    return folder / f"{stem}.sig"


def sign_all(made, folder):
    return pkeyutl(made, folder, ONE), pkeyutl(made, folder, TWO, "sha512")


def refused(folder, made, words, error=SigningError):
    with pytest.raises(error) as caught:
        detached.load_signatures(folder, made.certificate)
    text = f"{caught.value.brief}\n{caught.value.details}"
    assert words in text, text
    return text


def test_an_export_has_the_digests_and_says_whose_they_are(out):
    one, two = name(ONE), name(TWO, "sha512")
    assert {path.name for path in out.iterdir()} == {
        "README.txt",
        "manifest.json",
        *(f"{one}.sha256", f"{one}.digestinfo"),
        *(f"{two}.sha512", f"{two}.digestinfo"),
    }
    assert (out / f"{one}.sha256").read_bytes().hex() == one
    entries = {entry["digest"]: entry for entry in json.loads((out / "manifest.json").read_text())["to_sign"]}
    assert entries[one]["modules"] == [
        {"package": "kmod-one-1.rpm", "path": "/lib/modules/5.14/extra/one.ko"},
        {"package": "kmod-one-2.rpm", "path": "/lib/modules/5.14/extra/one.ko.xz"},
    ]
    assert entries[two]["hash"] == "sha512" and entries[two]["size"] == len(TWO)


def test_the_digestinfo_is_what_openssl_signs(out, made, tmp_path):
    signed = sign_all(made, out)[0]
    argv = ["openssl", "pkeyutl", "-verifyrecover", "-inkey", made.key, "-in", signed, "-out", tmp_path / "info"]
    subprocess.run(argv, check=True)
    assert (tmp_path / "info").read_bytes() == (out / f"{name(ONE)}.digestinfo").read_bytes()


def test_signatures_that_come_back_give_the_bytes_of_direct_signing(out, made, key):
    sign_all(made, out)
    signatures = detached.load_signatures(out, made.certificate_der)
    assert set(signatures) == {name(ONE), name(TWO, "sha512")}
    for content, hash in ((ONE, "sha256"), (TWO, "sha512")):
        signed = detached.sign_with(content, hash, signatures)
        assert signed == modules.sign_module(content, key, hash)
        modules.verify_module(signed, made.certificate)


def shell_of(out, heading):
    """Return the commands below a heading of the README."""
    text = (out / "README.txt").read_text()
    commands = text.split(f"\n{heading}", 1)[1].split("\n\n")[0]
    return commands.split("\n", 2)[2]


def test_the_readmes_commands_for_openssl_work_as_they_stand(out, made, key):
    script = shell_of(out, "With OpenSSL").replace("KEY.pem", str(made.key))
    subprocess.run(["sh", "-euc", script], cwd=out, check=True)
    signatures = detached.load_signatures(out, made.certificate)
    assert detached.sign_with(TWO, "sha512", signatures) == modules.sign_module(TWO, key, "sha512")


def test_the_readmes_commands_for_cms_work_on_exported_modules(made, key, tmp_path):
    out = tmp_path / "with-modules"
    wanted = [ToSign("p.rpm", "/lib/m.ko", modules.append(ONE, b"old"), hash) for hash in ("sha256", "sha384")]
    assert detached.export(wanted, out, contents=True) == 2
    assert (out / f"{name(ONE, 'sha384')}.ko").read_bytes() == ONE
    script = shell_of(out, "With a signer").replace("KEY.pem", str(made.key))
    script = script.replace("CERTIFICATE.pem", str(made.certificate))
    subprocess.run(["sh", "-euc", script], cwd=out, check=True)
    signatures = detached.load_signatures(out, made.certificate)
    for hash in ("sha256", "sha384"):
        assert detached.sign_with(ONE, hash, signatures) == modules.sign_module(ONE, key, hash)


def cms_sign(made, out, *options, content=ONE, stem=None):
    (out / "content").write_bytes(content)
    argv = ["openssl", "cms", "-sign", "-binary", "-md", "sha256", "-signer", made.certificate, "-inkey", made.key]
    target = f"{stem or name(content)}.p7s"
    argv += ["-outform", "DER", "-in", "content", "-out", target, *options]
    subprocess.run(argv, cwd=out, check=True)
    (out / "content").unlink()
    return out / target


def test_certificates_in_a_message_are_left_out(out, made, key):
    sign_all(made, out)
    (out / f"{name(ONE)}.sig").unlink()
    with_certificate = cms_sign(made, out, "-noattr")
    signatures = detached.load_signatures(out, made.certificate)
    assert len(signatures[name(ONE)]) < len(with_certificate.read_bytes())
    assert detached.sign_with(ONE, "sha256", signatures) == modules.sign_module(ONE, key, "sha256")


def test_a_message_that_names_its_signer_by_key_identifier_is_taken(out, made, key):
    sign_all(made, out)[0].unlink()
    cms_sign(made, out, "-noattr", "-keyid")
    assert detached.sign_with(ONE, "sha256", detached.load_signatures(out, made.certificate)) == (
        modules.sign_module(ONE, key, "sha256")
    )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "has signed attributes, and kernels refuse that"),
        (["-noattr", "-nodetach"], "not a detached signature"),
        (["-noattr", "-md", "sha512"], "was signed with sha512 instead of sha256"),
        (["-noattr", "-outform", "PEM"], "is no detached CMS message in DER"),
    ],
)
def test_a_message_that_no_kernel_takes_is_refused(out, made, options, why):
    sign_all(made, out)[0].unlink()
    cms_sign(made, out, *options)
    refused(out, made, why)


def test_all_faults_are_told_at_once(made, tmp_path):
    need("openssl")
    contents = [bytes([number]) * 50 for number in range(6)]
    wanted = [ToSign(f"kmod-{n}.rpm", f"/lib/m{n}.ko", content, "sha256") for n, content in enumerate(contents)]
    out = tmp_path / "out"
    detached.export(wanted, out)
    good, swapped, short, other_key, hexed = (pkeyutl(made, out, content) for content in contents[:5])
    swapped.write_bytes(good.read_bytes())
    short.write_bytes(b"x")
    other = keys.new_key(tmp_path / "other", "Other", 1)
    other_key.unlink()
    pkeyutl(other, out, contents[3])
    hexed.write_text(hexed.read_bytes().hex())
    (out / ("ab" * 32 + ".sig")).write_bytes(good.read_bytes())
    text = refused(out, made, "1 of 6 digests have a good signature")
    for number, words in (
        (1, "signs something else"),
        (2, "has 1 bytes, where 256 are expected"),
        (3, "another key"),
        (4, "neither hex nor Base64"),
        (5, "is missing"),
    ):
        line = f"{name(contents[number])[:16]}... (kmod-{number}.rpm: /lib/m{number}.ko): "
        assert line in text and words in text.split(line)[1].splitlines()[0]
    assert f"{'ab' * 32}.sig: belongs to another export" in text
    assert name(contents[0])[:16] not in text


def test_a_signature_with_another_padding_is_wrong(out, made):
    sign_all(made, out)
    pkeyutl(made, out, ONE, "sha256", "-pkeyopt", "rsa_padding_mode:pss")
    refused(out, made, "another scheme than PKCS #1 v1.5")


def test_a_digest_that_was_hashed_again_signs_something_else(out, made):
    sign_all(made, out)
    stem = name(ONE)
    argv = ["openssl", "dgst", "-sha256", "-sign", made.key, "-out", f"{stem}.sig", f"{stem}.sha256"]
    subprocess.run(argv, cwd=out, check=True)
    refused(out, made, "the digest as if it were the content")


def test_two_answers_for_one_digest_are_refused(out, made):
    sign_all(made, out)
    cms_sign(made, out, "-noattr")
    refused(out, made, "has a .sig and a .p7s")


def test_the_certificate_of_another_key_is_told(out, made, tmp_path):
    sign_all(made, out)
    other = keys.new_key(tmp_path / "other", "Other", 1)
    text = refused(out, other, "0 of 2")
    assert text.count("is wrong: another key") == 2
    cms_sign(made, out, "-noattr")
    (out / f"{name(ONE)}.sig").unlink()
    assert "was signed by another key: CN=Vault (serial" in refused(out, other, "0 of 2")


def test_files_that_are_no_files_are_not_read(out, made, tmp_path):
    one, two = sign_all(made, out)
    (tmp_path / "secret").write_bytes(one.read_bytes())
    one.unlink()
    one.symlink_to(tmp_path / "secret")
    two.unlink()
    os.mkfifo(two)
    text = refused(out, made, "is a symbolic link")
    assert "is no file" in text
    one.unlink()
    one.mkdir()
    assert refused(out, made, "0 of 2").count("is no file") == 2


def test_a_huge_file_is_not_read(out, made):
    one, _ = sign_all(made, out)
    with one.open("wb") as file:
        file.truncate(1 << 40)
    refused(out, made, "is too large: 1099511627776 bytes")


def with_manifest(out, change):
    manifest = json.loads((out / "manifest.json").read_text())
    change(manifest)
    (out / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["to_sign"][0].update(digest="../../../../etc/passwd"),
        lambda manifest: manifest["to_sign"][0].update(digest="ab" * 31),
        lambda manifest: manifest["to_sign"][0].update(digest=["ab" * 32]),
        lambda manifest: manifest["to_sign"][0].update(hash="md5"),
        lambda manifest: manifest["to_sign"][0].update(hash="../x"),
        lambda manifest: manifest["to_sign"][0].update(modules=[]),
        lambda manifest: manifest["to_sign"][0].update(modules=3),
        lambda manifest: manifest.update(to_sign=7),
        lambda manifest: manifest.update(to_sign=[7]),
        lambda manifest: manifest.update(format="other"),
        lambda manifest: manifest.clear(),
    ],
)
def test_a_manifest_that_was_changed_is_refused(out, made, change):
    sign_all(made, out)
    with_manifest(out, change)
    refused(out, made, "manifest.json is damaged", InputError)


@pytest.mark.parametrize("text", ["", "{", "[" * 100000, "7", "null", '"format"', "\xff\xfe"])
def test_a_manifest_that_is_no_json_is_refused(out, made, text):
    (out / "manifest.json").write_text(text, encoding="latin-1")
    refused(out, made, "manifest.json is damaged", InputError)


def test_file_names_in_a_manifest_open_nothing(out, made):
    sign_all(made, out)
    with_manifest(out, lambda manifest: manifest["to_sign"][0].update(files={"digest": "/etc/passwd"}))
    assert len(detached.load_signatures(out, made.certificate)) == 2


def test_names_in_a_manifest_add_no_lines_to_a_message(out, made):
    sign_all(made, out)[0].unlink()
    with_manifest(
        out, lambda manifest: [entry["modules"][0].update(path="a\nok: \x1b[2J") for entry in manifest["to_sign"]]
    )
    (out / "a\nb.sig").touch()
    text = refused(out, made, "is missing")
    assert len(text.splitlines()) == 3 and "\x1b" not in text


def test_a_folder_that_is_no_export_is_refused(made, tmp_path):
    refused(tmp_path, made, "is not a folder with exported digests", InputError)
    refused(tmp_path / "nowhere", made, "is not a folder with exported digests", InputError)
    (tmp_path / "manifest.json").symlink_to("/etc/passwd")
    refused(tmp_path, made, "manifest.json is a symbolic link", InputError)


def test_an_export_never_goes_into_a_folder_with_something_in_it(out, tmp_path):
    before = sorted(path.name for path in out.iterdir())
    with pytest.raises(UsageError, match="is there already"):
        detached.export([ToSign("p", "/m.ko", b"new", "sha256")], out)
    assert sorted(path.name for path in out.iterdir()) == before
    (tmp_path / "empty").mkdir()
    assert detached.export([ToSign("p", "/m.ko", b"new", "sha256")], tmp_path / "empty") == 1


def test_an_export_that_fails_leaves_nothing(tmp_path):
    def broken():
        yield ToSign("p", "/m.ko", b"new", "sha256")
        yield ToSign("p", "/n.ko", modules.MAGIC, "sha256")

    with pytest.raises(SigningError, match="broken"):
        detached.export(broken(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_was_made_anew_finds_no_signature(out, made):
    sign_all(made, out)
    signatures = detached.load_signatures(out, made.certificate)
    with pytest.raises(SigningError, match="no signature for this module") as caught:
        detached.sign_with(ONE + b"x", "sha256", signatures)
    assert "export again" in caught.value.hint


@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1"])
@pytest.mark.parametrize("halves", [True, False])
def test_ecdsa_signatures_are_taken_as_openssl_and_as_tokens_give_them(tmp_path, curve, halves):
    need("openssl")
    argv = ["openssl", "req", "-new", "-x509", "-newkey", "ec", "-pkeyopt", f"ec_paramgen_curve:{curve}", "-nodes"]
    argv += ["-subj", "/CN=EC", "-keyout", tmp_path / "k.pem", "-out", tmp_path / "c.pem"]
    subprocess.run(argv, check=True, capture_output=True)
    made = keys.NewKey(tmp_path / "k.pem", tmp_path / "c.pem", tmp_path / "c.pem", "")
    out = tmp_path / "out"
    detached.export([ToSign("p", "/m.ko", ONE, "sha256")], out)
    signed = pkeyutl(made, out, ONE)
    if halves:
        width = keys.read_certificate(made.certificate).width
        numbers = cms.der.element(signed.read_bytes(), 0x30).parts()
        signed.write_bytes(b"".join(cms.der.number(number).to_bytes(width, "big") for number in numbers))
    signatures = detached.load_signatures(out, made.certificate)
    modules.verify_module(detached.sign_with(ONE, "sha256", signatures), made.certificate)
    signed.write_bytes(b"\x30\x00")
    refused(out, made, "is wrong")

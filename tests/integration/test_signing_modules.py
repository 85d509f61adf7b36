"""Signed modules are those that the kernel's own sign-file makes, and modinfo reads in them what we read."""

from __future__ import annotations

import lzma
import random
from pathlib import Path

import pytest

from pkgkmod.errors import SigningError
from pkgkmod.signing import cms, keys, modules, openssl
from pkgkmod.signing.der import DerError
from tests.fixtures.machine import need
from tests.fixtures.signing import HASHES, call, cloud_kernel, new_ec_key, new_key, signed_by_kernel, small_module


@pytest.fixture(autouse=True)
def no_pin(monkeypatch):
    monkeypatch.delenv(openssl.PIN, raising=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return new_key(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    return small_module(tmp_path_factory.mktemp("module"))


@pytest.fixture
def key(made):
    return keys.load_key(str(made.key), made.certificate, Path("/"))


@pytest.mark.parametrize("hash", HASHES)
@pytest.mark.parametrize("form", ["certificate", "certificate_der"])
def test_a_signed_module_is_that_of_sign_file(made, module, tmp_path, hash, form):
    certificate = getattr(made, form)
    key = keys.load_key(str(made.key), certificate, tmp_path)
    signed = modules.sign_module(module, key, hash)
    assert signed == signed_by_kernel(module, made.key, certificate, hash, tmp_path)
    modules.verify_module(signed, certificate)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 5_000_000])
def test_modules_of_any_size_are_signed_like_that(made, key, tmp_path, size):
    content = random.Random(size).randbytes(size)
    signed = modules.sign_module(content, key, "sha256")
    assert signed == signed_by_kernel(content, made.key, made.certificate, "sha256", tmp_path)


def test_a_chain_of_names_and_a_long_serial_are_kept(module, tmp_path):
    need("openssl")
    subject = "/C=DE/O=Acme GmbH/OU=Kernel \\+ Treiber/CN=Module/emailAddress=mod@example.org"
    more = ("-newkey", "rsa:4096", "-nodes", "-set_serial", "0x00ff" + "ab" * 18)
    call("openssl", "req", "-new", "-x509", *more, "-subj", subject, "-keyout", "k.pem", "-out", "c.pem", cwd=tmp_path)
    key = keys.load_key("k.pem", "c.pem", tmp_path)
    signed = modules.sign_module(module, key, "sha512")
    assert signed == signed_by_kernel(module, tmp_path / "k.pem", tmp_path / "c.pem", "sha512", tmp_path)
    found = modules.signature_of(signed)
    assert found.serial == "00:FF" + ":AB" * 18
    assert "C=DE, O=Acme GmbH, OU=Kernel + Treiber, CN=Module, emailAddress=mod@example.org" in found.signer


@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1"])
def test_ecdsa_has_the_structure_of_sign_file(module, tmp_path, curve):
    """The signatures themselves are random."""
    key = keys.load_key(*map(str, new_ec_key(tmp_path, curve)), tmp_path)
    theirs = signed_by_kernel(module, key.key, key.certificate, "sha384", tmp_path)
    modules.verify_module(theirs, key.certificate)
    raw = modules.signature_of(theirs).message.signature
    assert modules.append(module, cms.message(key.x509, "sha384", raw)) == theirs
    ours = modules.sign_module(module, key, "sha384")
    modules.verify_module(ours, key.certificate)
    with pytest.raises(SigningError, match="does not verify"):
        modules.verify_module(b"x" + ours, key.certificate)


def test_openssl_verifies_the_message(made, key, module, tmp_path):
    found = modules.signature_of(modules.sign_module(module, key, "sha256"))
    (tmp_path / "m.p7s").write_bytes(found.cms)
    (tmp_path / "m.ko").write_bytes(module)
    verify = ("-verify", "-binary", "-inform", "DER", "-in", "m.p7s", "-content", "m.ko", "-out", "/dev/null")
    call("openssl", "cms", *verify, "-certfile", made.certificate, "-noverify", cwd=tmp_path)


@pytest.mark.parametrize("hash", ["sha256", "sha512"])
def test_modinfo_reads_what_we_read(key, module, tmp_path, hash):
    need("modinfo")
    signed = modules.sign_module(module, key, hash)
    (tmp_path / "m.ko").write_bytes(signed)
    lines = (line.partition(":") for line in call("modinfo", tmp_path / "m.ko").splitlines())
    said = {name: value.strip() for name, _, value in lines}
    found = modules.signature_of(signed)
    assert (said["sig_id"], said["sig_hashalgo"], said["sig_key"]) == ("PKCS#7", hash, found.serial)
    assert f"CN={said['signer']} (serial {found.serial})" == found.signer
    assert found.unsigned_length == len(module) and found.hash == hash


def test_signing_again_replaces_the_signature(made, key, module, tmp_path):
    other = keys.new_key(tmp_path, "Other", 1)
    first = modules.sign_module(module, keys.load_key("mok.key", other.certificate, tmp_path), "sha512")
    assert modules.sign_module(first, key, "sha256") == modules.sign_module(module, key, "sha256")
    assert modules.unsigned(first) == module


def refused(content, certificate):
    with pytest.raises(SigningError) as caught:
        modules.verify_module(content, certificate)
    return caught.value


def test_it_is_told_why_a_module_does_not_verify(made, key, module, tmp_path):
    signed = modules.sign_module(module, key, "sha256")
    other = keys.new_key(tmp_path, "Other", 1)
    assert refused(module, made.certificate).brief == "the module is not signed"
    strange = refused(signed, other.certificate)
    assert strange.brief == "the module is signed with another key"
    assert "CN=Größe & Söhne (serial " in strange.details and "CN=Other (serial " in strange.details
    assert refused(b"x" + signed[1:], made.certificate).brief == "the module was changed after it was signed"
    assert "broken" in refused(signed[:-30] + b"xx" + signed[-28:], made.certificate).brief
    assert refused(signed[:-1], made.certificate).brief == "the module is not signed"
    flipped = bytearray(signed)
    flipped[-100] ^= 1
    assert refused(bytes(flipped), made.certificate).brief == "the signature of the module does not verify"


def test_strip_removes_a_signature_and_that_is_told(made, key, module, tmp_path):
    need("strip")
    (tmp_path / "m.ko").write_bytes(modules.sign_module(module, key, "sha256"))
    call("strip", "--strip-debug", tmp_path / "m.ko")
    assert "strip" in refused((tmp_path / "m.ko").read_bytes(), made.certificate).hint


def test_signed_attributes_are_refused_as_by_the_kernel(made, module, tmp_path):
    (tmp_path / "m.ko").write_bytes(module)
    options = ("-sign", "-binary", "-md", "sha256", "-outform", "DER", "-nocerts")
    who = ("-signer", made.certificate, "-inkey", made.key)
    call("openssl", "cms", *options, *who, "-in", "m.ko", "-out", "m.p7s", cwd=tmp_path)
    signed = modules.append(module, (tmp_path / "m.p7s").read_bytes())
    assert "signed attributes" in refused(signed, made.certificate).brief


def test_a_key_that_takes_another_ones_name_is_found_out(made, module, tmp_path):
    """Issuer and serial number are only a claim."""
    x509 = keys.read_certificate(made.certificate)
    more = ("-newkey", "rsa:2048", "-nodes", "-set_serial", "0x" + cms.serial_text(x509.serial).replace(":", ""))
    call(
        "openssl",
        "req",
        "-new",
        "-x509",
        "-utf8",
        *more,
        "-subj",
        "/CN=Größe & Söhne",
        "-keyout",
        "k",
        "-out",
        "c",
        cwd=tmp_path,
    )
    impostor = keys.load_key("k", "c", tmp_path)
    signed = modules.sign_module(module, impostor, "sha256")
    assert impostor.x509.name == x509.name and (impostor.x509.issuer, impostor.x509.serial) == (
        x509.issuer,
        x509.serial,
    )
    assert refused(signed, made.certificate).brief == "the signature of the module does not verify"


def test_damaged_certificates_and_messages_never_surprise(made, key, module):
    message = modules.signature_of(modules.sign_module(module, key, "sha256")).cms
    certificate = made.certificate_der.read_bytes()
    dice = random.Random(7)
    refusals = 0
    for data, parse in ((message, cms.parse_message), (certificate, cms.parse_certificate)):
        for _ in range(3000):
            damaged = bytearray(data)
            for _ in range(dice.randint(1, 3)):
                damaged[dice.randrange(min(len(data), 400))] = dice.randrange(256)
            try:
                found = parse(bytes(damaged[: dice.choice((len(data), dice.randrange(len(data))))]))
                assert isinstance(found.signer if isinstance(found, cms.Message) else found.name, str)
            except DerError:
                refusals += 1
    assert refusals > 1000


# Compressed modules.


@pytest.mark.parametrize(
    ("suffix", "argv"),
    [
        (".xz", ("xz", "--check=crc32", "--lzma2=dict=1MiB", "-f")),
        (".gz", ("gzip", "-n", "-f")),
        (".zst", ("zstd", "-T0", "--rm", "-f", "-q")),
    ],
)
def test_modules_are_compressed_as_kbuild_does_it(tmp_path, suffix, argv):
    need("xz", "gzip", "zstd")
    content = b"".join(random.Random(number % 7).randbytes(5000) for number in range(400))
    (tmp_path / "m.ko").write_bytes(content)
    call(*argv, tmp_path / "m.ko")
    name = f"/lib/modules/K/extra/m.ko{suffix}"
    packed = modules.compressed(name, content)
    assert packed == (tmp_path / f"m.ko{suffix}").read_bytes()
    assert packed == modules.compressed(name, content)
    assert modules.plain(name, packed) == content


def test_a_plain_module_stays_as_it_is():
    assert modules.plain("a.ko", b"x") == modules.compressed("a.ko", b"x") == b"x"


def test_an_xz_has_the_checksum_that_the_kernel_reads():
    need("xz")
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    decompressor.decompress(modules.compressed("m.ko.xz", b"content"))
    assert decompressor.check == lzma.CHECK_CRC32


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".zst"])
@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: b"\x7fELF" + data, lambda data: b""])
def test_a_damaged_module_is_named(suffix, damage):
    packed = modules.compressed(f"m.ko{suffix}", b"content" * 1000)
    with pytest.raises(SigningError, match=rf"the module m\.ko\{suffix} cannot be decompressed") as caught:
        modules.plain(f"m.ko{suffix}", damage(packed))
    assert "Traceback" not in caught.value.details


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".zst"])
def test_a_module_that_grows_without_end_is_stopped(monkeypatch, suffix):
    monkeypatch.setattr(modules, "_LARGEST", 1 << 20)
    bomb = modules.compressed(f"m.ko{suffix}", bytes(3 << 20))
    with pytest.raises(SigningError, match="cannot be decompressed"):
        modules.plain(f"m.ko{suffix}", bomb)


def test_the_distributions_own_signature_is_understood(made, key, tmp_path):
    (file,) = cloud_kernel().glob("dummy.ko*")
    content = modules.plain(file.name, file.read_bytes())
    found = modules.signature_of(content)
    (tmp_path / "dummy.ko").write_bytes(content)
    said = call("modinfo", "-F", "sig_key", tmp_path / "dummy.ko").strip()
    assert (found.serial, found.hash) == (said, call("modinfo", "-F", "sig_hashalgo", tmp_path / "dummy.ko").strip())
    assert found.signer.startswith("CN=")
    assert refused(content, made.certificate).brief == "the module is signed with another key"
    ours = modules.sign_module(content, key, "sha256")
    modules.verify_module(ours, made.certificate)
    assert modules.unsigned(ours) == content[: found.unsigned_length]

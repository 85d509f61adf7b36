"""DER, the trailer of a signed module, and names: what is read there may come from anybody."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkgkmod.errors import SigningError
from pkgkmod.signing import cms, der, modules
from pkgkmod.signing.der import DerError


def name_of(text, tag=0x0C):
    pair = der.encode(der.SEQUENCE, der.oid("2.5.4.3"), der.encode(tag, text))
    return der.encode(der.SEQUENCE, der.encode(der.SET, pair))


@pytest.mark.parametrize(
    ("dotted", "encoded"),
    [
        ("2.5.4.3", "0603550403"),
        ("1.2.840.113549.1.7.2", "06092a864886f70d010702"),
        ("2.16.840.1.101.3.4.2.1", "0609608648016503040201"),
    ],
)
def test_an_object_identifier_is_encoded_as_x690_says(dotted, encoded):
    assert der.oid(dotted).hex() == encoded


@pytest.mark.parametrize(
    ("size", "header"), [(0, "3000"), (127, "307f"), (128, "308180"), (256, "30820100"), (70000, "3083011170")]
)
def test_a_length_takes_as_few_bytes_as_it_can(size, header):
    encoded = der.encode(der.SEQUENCE, bytes(size))
    assert encoded[: len(encoded) - size].hex() == header
    assert der.element(encoded, der.SEQUENCE).content == bytes(size)


@pytest.mark.parametrize(("number", "encoded"), [(0, "020100"), (127, "02017f"), (128, "02020080"), (256, "02020100")])
def test_a_number_is_never_negative(number, encoded):
    assert der.integer(number).hex() == encoded
    assert der.number(der.element(der.integer(number), der.INTEGER)) == number


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not one structure"),
        (b"\x30", "cut off"),
        (b"\x30\x05abc", "cut off"),
        (b"\x30\x80\x00\x00", "indefinite"),
        (b"\x30\x84\xff\xff\xff\xff", "cut off"),
        (b"\x30\xff" + b"\xff" * 127, "cut off"),
        (b"\x3f\x81\x01\x00", "several bytes"),
        (b"\x30\x00\x30\x00", "not one structure"),
        (b"\x31\x00", "not one structure"),
    ],
)
def test_what_is_no_der_is_refused(data, why):
    with pytest.raises(DerError, match=why):
        der.element(data, der.SEQUENCE)


@given(st.binary(max_size=300))
def test_no_bytes_bring_the_readers_down(data):
    for read in (cms.parse_message, cms.parse_certificate, cms.name_text):
        with pytest.raises(DerError):
            read(data)
            raise DerError("was read")  # a few bytes can be an empty name


@given(st.binary(max_size=80))
def test_no_end_of_a_module_brings_the_reader_down(end):
    try:
        found = modules.signature_of(end + modules.MAGIC)
    except SigningError as error:
        assert "broken" in error.brief
    else:
        raise AssertionError(found)


def trailer(*, algo=0, kind=2, signer=0, padding=0, size=4):
    return struct.pack(">BBBBBBBBI", algo, 0, kind, signer, 0, padding, 0, 0, size) + modules.MAGIC


@pytest.mark.parametrize(
    "facts", [{"algo": 1}, {"kind": 1}, {"signer": 5}, {"padding": 1}, {"size": 0}, {"size": 12}, {"size": 2**32 - 1}]
)
def test_a_trailer_that_the_kernel_refuses_is_broken(facts):
    content = b"content" + b"sign" + trailer(**facts)
    for read in (modules.signature_of, modules.unsigned):
        with pytest.raises(SigningError, match="broken"):
            read(content)


def test_a_trailer_can_be_taken_off_without_reading_the_signature():
    assert modules.unsigned(b"content" + b"sign" + trailer()) == b"content"
    assert modules.unsigned(b"content") == b"content"
    with pytest.raises(SigningError, match="broken"):
        modules.signature_of(b"content" + b"sign" + trailer())


def test_what_was_signed_twice_is_unsigned_at_once():
    twice = modules.append(modules.append(b"content", b"one"), b"two")
    assert modules.unsigned(twice) == b"content"


def test_a_magic_alone_is_a_broken_module():
    with pytest.raises(SigningError, match="cut off"):
        modules.unsigned(modules.MAGIC)


def test_a_module_without_a_signature_has_none():
    assert modules.signature_of(b"\x7fELF") is None
    assert modules.signature_of(b"") is None


@pytest.mark.parametrize(
    ("text", "hash"),
    [
        ("", "sha256"),
        ('CONFIG_MODULE_SIG_HASH=""\n', "sha256"),
        ('CONFIG_MODULE_SIG_HASH="sha512"\n', "sha512"),
        ('CONFIG_X=y\nCONFIG_MODULE_SIG_HASH="sha3-256"\nCONFIG_Y=m\n', "sha3-256"),
        ('# CONFIG_MODULE_SIG is not set\n#CONFIG_MODULE_SIG_HASH="sha1"\n', "sha256"),
    ],
)
def test_the_hash_is_the_kernels(text, hash):
    assert modules.hash_of_kernel(text) == hash


def test_a_hash_that_no_kernel_knows_is_refused_with_the_nearest():
    with pytest.raises(SigningError, match="sha265") as refused:
        modules.hash_of_kernel('CONFIG_MODULE_SIG_HASH="sha265"')
    assert "sha256" in refused.value.hint


def test_a_name_is_shown_as_people_write_it():
    assert cms.name_text(name_of(b"Acme")) == "CN=Acme"
    assert cms.name_text(name_of("Größe".encode("utf-16-be"), 0x1E)) == "CN=Größe"
    assert cms.name_text(der.encode(der.SEQUENCE)) == "no name"
    assert cms.serial_text(der.integer(0x00C1F2)) == "00:C1:F2"


def test_a_name_cannot_drive_a_terminal_or_add_a_line():
    assert cms.name_text(name_of(b"Acme\x1b[2J\nerror: \xff")) == "CN=Acme\\x1b[2J\\nerror: \ufffd"


def test_an_ecdsa_signature_of_a_token_becomes_der():
    assert cms.ecdsa_from_halves(b"\x00\x01\x80\x00").hex() == "30080201010203008000"

"""Certificates, and the CMS messages (RFC 5652) that a kernel accepts as signature of a module.

Such a message is detached, names its signer by issuer and serial number, and holds neither certificates nor signed
attributes (kernel, scripts/sign-file.c). One with signed attributes is refused (kernel, pkcs7_verify.c: "Invalid
module sig (has authattrs)").
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from pkgkmod.errors import SigningError, did_you_mean
from pkgkmod.progress import escape_controls
from pkgkmod.signing import der
from pkgkmod.signing.der import DerError, Element, encode, oid

KeyKind = Literal["rsa", "ec"]

_SIGNED_DATA, _DATA = oid("1.2.840.113549.1.7.2"), oid("1.2.840.113549.1.7.1")
_KINDS: dict[bytes, KeyKind] = {oid("1.2.840.113549.1.1.1"): "rsa", oid("1.2.840.10045.2.1"): "ec"}
_RSA, _NULL = oid("1.2.840.113549.1.1.1"), encode(der.NULL)
_KEY_ID = oid("2.5.29.14")

# Names as in CONFIG_MODULE_SIG_HASH: the digest's identifier, and that of ECDSA with it (RFC 5758, NIST CSOR).
_OIDS = {
    "sha1": ("1.3.14.3.2.26", "1.2.840.10045.4.1"),
    "sha224": ("2.16.840.1.101.3.4.2.4", "1.2.840.10045.4.3.1"),
    "sha256": ("2.16.840.1.101.3.4.2.1", "1.2.840.10045.4.3.2"),
    "sha384": ("2.16.840.1.101.3.4.2.2", "1.2.840.10045.4.3.3"),
    "sha512": ("2.16.840.1.101.3.4.2.3", "1.2.840.10045.4.3.4"),
    "sha3-256": ("2.16.840.1.101.3.4.2.8", "2.16.840.1.101.3.4.3.10"),
    "sha3-384": ("2.16.840.1.101.3.4.2.9", "2.16.840.1.101.3.4.3.11"),
    "sha3-512": ("2.16.840.1.101.3.4.2.10", "2.16.840.1.101.3.4.3.12"),
}
HASHES = tuple(_OIDS)
"""The digests that kernels sign modules with."""
_HASH_OF_OID = {oid(digest): name for name, (digest, _) in _OIDS.items()}

_NAME_PARTS = {
    oid("2.5.4.3"): "CN",
    oid("2.5.4.6"): "C",
    oid("2.5.4.10"): "O",
    oid("2.5.4.11"): "OU",
    oid("1.2.840.113549.1.9.1"): "emailAddress",
}


@dataclass(frozen=True)
class Certificate:
    """What matters here of an X.509 certificate; `issuer`, `serial` and `public_key` are DER."""

    encoded: bytes
    """All of it, as DER."""
    issuer: bytes
    serial: bytes
    subject: str
    public_key: bytes
    kind: KeyKind
    width: int
    """Bytes of an RSA signature; for ECDSA, of each of the two numbers of one."""
    key_id: bytes
    """The subject key identifier; empty if there is none."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.subject} (serial {serial_text(self.serial)})"


@dataclass(frozen=True)
class Message:
    """A signature of a module as it lies in the CMS message. A signer without issuer is named by `key_id`."""

    hash: str
    signature: bytes
    issuer: bytes
    serial: bytes
    key_id: bytes
    attributes: bool
    """True if it has signed attributes, so that no kernel takes it for a module."""

    @property
    def signer(self) -> str:
        """What messages call the signer."""
        if self.issuer:
            return f"{name_text(self.issuer)} (serial {serial_text(self.serial)})"
        return f"key identifier {self.key_id.hex(':').upper()}"

    def is_by(self, certificate: Certificate) -> bool:
        """Tell whether this names the certificate's key as signer; the signature itself is not looked at."""
        if self.issuer:
            return (self.issuer, self.serial) == (certificate.issuer, certificate.serial)
        return bool(self.key_id) and self.key_id == certificate.key_id


def digest(content: bytes, hash: str) -> bytes:
    """Return the digest of `content`; raise SigningError if kernels know no such hash."""
    return hashlib.new(check_hash(hash).replace("sha3-", "sha3_"), content, usedforsecurity=False).digest()


def check_hash(hash: str) -> str:
    """Return the name of a hash; raise SigningError if kernels know no such hash."""
    if hash not in HASHES:
        hint = did_you_mean(hash, HASHES) or f"known: {', '.join(HASHES)}"
        raise SigningError(f"modules cannot be signed with the hash '{hash}'", hint=hint)
    return hash


def digest_info(digest: bytes, hash: str) -> bytes:
    """Return what an RSA key really signs (PKCS #1 v1.5): the digest with the name of its hash."""
    return encode(der.SEQUENCE, encode(der.SEQUENCE, oid(_OIDS[hash][0]), _NULL), encode(der.OCTET_STRING, digest))


def message(certificate: Certificate, hash: str, signature: bytes) -> bytes:
    """Return the CMS message around a raw signature, with the same bytes as `sign-file` writes them."""
    digest_oid, ecdsa_oid = _OIDS[hash]
    algorithm = encode(der.SEQUENCE, oid(digest_oid))
    with_key = (_RSA, _NULL) if certificate.kind == "rsa" else (oid(ecdsa_oid),)
    version = der.integer(1)  # 1 says that signers are named by issuer and serial number
    signer = encode(
        der.SEQUENCE,
        version,
        encode(der.SEQUENCE, certificate.issuer, certificate.serial),
        algorithm,
        encode(der.SEQUENCE, *with_key),
        encode(der.OCTET_STRING, signature),
    )
    signed = encode(
        der.SEQUENCE,
        version,
        encode(der.SET, algorithm),
        encode(der.SEQUENCE, _DATA),
        encode(der.SET, signer),
    )
    return encode(der.SEQUENCE, _SIGNED_DATA, encode(0xA0, signed))


def parse_message(data: bytes) -> Message:
    """Read a detached CMS message with one signer; raise DerError that says why it is none."""
    kind, outer, *_ = der.element(data, der.SEQUENCE).parts(der.OID, 0xA0)
    if kind.encoded != _SIGNED_DATA:
        raise DerError("a CMS message, but not of signed data")
    _, _, wrapped, *others = der.element(outer.content, der.SEQUENCE).parts(der.INTEGER, der.SET, der.SEQUENCE)
    if [part.encoded for part in wrapped.parts()] != [_DATA]:
        raise DerError("not a detached signature: the message holds its content, or a type other than plain data")
    if not others or others[-1].tag != der.SET:
        raise DerError("no signer")
    signers = others[-1].parts()
    if len(signers) != 1:
        raise DerError(f"{len(signers)} signers, where one is expected")
    return _signer(signers[0])


def _signer(info: Element) -> Message:
    _, who, algorithm, *others = info.parts(der.INTEGER, least=3)
    hash = _HASH_OF_OID.get(algorithm.parts(der.OID)[0].encoded)
    if algorithm.tag != der.SEQUENCE or hash is None:
        raise DerError("signed with a hash that kernels do not know")
    issuer = serial = key_id = b""
    if who.tag == der.SEQUENCE:
        issuer, serial = (part.encoded for part in who.parts(der.SEQUENCE, der.INTEGER)[:2])
    elif who.tag == 0x80:
        key_id = who.content
    else:
        raise DerError("a signer named in an unknown way")
    signatures = [part.content for part in others if part.tag == der.OCTET_STRING]
    if len(signatures) != 1:
        raise DerError("no signature")
    return Message(hash, signatures[0], issuer, serial, key_id, any(part.tag == 0xA0 for part in others))


def parse_certificate(data: bytes) -> Certificate:
    """Read an X.509 certificate, DER or the first one of a PEM text; raise DerError that says why it is none."""
    encoded = data if data[:1] == b"\x30" else _from_pem(data)
    facts = der.element(encoded, der.SEQUENCE).parts(der.SEQUENCE)[0].parts()
    fields = facts[1:] if facts and facts[0].tag == 0xA0 else facts
    if [part.tag for part in fields[:6]] != [der.INTEGER, *[der.SEQUENCE] * 5]:
        raise DerError("not an X.509 certificate")
    serial, _, issuer, _, subject, public_key = fields[:6]
    kind, width = _key_facts(public_key)
    return Certificate(
        encoded=encoded,
        issuer=issuer.encoded,
        serial=serial.encoded,
        subject=name_text(subject.encoded),
        public_key=public_key.encoded,
        kind=kind,
        width=width,
        key_id=_key_id(fields[6:]),
    )


def _from_pem(data: bytes) -> bytes:
    found = re.search(rb"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----", data)
    if not found:
        raise DerError("neither DER nor a PEM text with a CERTIFICATE")
    try:
        return base64.b64decode(b"".join(found[1].split()), validate=True)
    except binascii.Error:
        raise DerError("a PEM text that is broken") from None


def _key_facts(public_key: Element) -> tuple[KeyKind, int]:
    algorithm, bits, *_ = public_key.parts(der.SEQUENCE, der.BIT_STRING)
    kind = _KINDS.get(algorithm.parts(der.OID)[0].encoded)
    if kind is None:
        raise DerError("a key that is neither RSA nor ECDSA")
    if kind == "ec":  # 04, then the two coordinates
        return kind, max(1, (len(bits.content) - 2) // 2)
    modulus = der.element(bits.content[1:], der.SEQUENCE).parts(der.INTEGER)[0]
    return kind, (der.number(modulus).bit_length() + 7) // 8


def _key_id(fields: list[Element]) -> bytes:
    for field in fields:
        if field.tag == 0xA3:
            for extension in der.element(field.content, der.SEQUENCE).parts():
                name, *values = extension.parts(der.OID)
                if name.encoded == _KEY_ID and values:
                    return der.element(values[-1].content, der.OCTET_STRING).content
    return b""


def name_text(encoded: bytes) -> str:
    """Return a distinguished name as people write it, such as `CN=Acme module key, O=Acme`."""
    words = []
    for group in der.element(encoded, der.SEQUENCE).parts():
        for pair in group.parts():
            kind, value, *_ = [*pair.parts(der.OID), pair]
            name = _NAME_PARTS.get(kind.encoded, "?")
            words.append(f"{name}={_text(value)}")
    return ", ".join(words) or "no name"


def _text(value: Element) -> str:
    encoding = "utf-16-be" if value.tag == 0x1E else "utf-8"  # BMPString, else what ASCII and UTF-8 share
    return escape_controls(value.content.decode(encoding, "replace"), keep="")


def serial_text(serial: bytes) -> str:
    """Return a serial number as modinfo prints it: bytes in hex, with colons."""
    return der.element(serial, der.INTEGER).content.hex(":").upper()


def ecdsa_from_halves(raw: bytes) -> bytes:
    """Return an ECDSA signature, that a token gave as two numbers of the same width, as DER."""
    half = len(raw) // 2
    numbers = (int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
    return encode(der.SEQUENCE, *map(der.integer, numbers))

"""Signatures at the end of kernel modules: append, find, verify; and compressed modules.

A signed module is its content, a CMS message, `struct module_signature` and a magic text (kernel,
include/linux/module_signature.h, scripts/sign-file.c).
"""

from __future__ import annotations

import re
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.command import Command
from pkgkmod.errors import SigningError
from pkgkmod.programs import find_tool
from pkgkmod.signing import cms
from pkgkmod.signing.cms import Message
from pkgkmod.signing.der import DerError
from pkgkmod.signing.keys import SigningKey, read_certificate
from pkgkmod.signing.openssl import Run, is_signature, run_quietly, signs_other

MAGIC = b"~Module signature appended~\n"
_TRAILER = struct.Struct(">BBBBB3xI")  # algo, hash, id_type, signer_len, key_id_len, sig_len
_PKCS7 = 2  # PKEY_ID_PKCS7
_DEFAULT_HASH = "sha256"
_LARGEST = 1 << 30  # bytes of a module; the largest real ones, with debug information, have some hundred MiB

# As kbuild compresses them (kernel, scripts/Makefile.modinst). One thread: xz 5.6 makes other bytes with several.
_COMPRESS = {
    ".xz": ("xz", "-q", "-f", "--check=crc32", "--lzma2=dict=1MiB", "--threads=1"),
    ".gz": ("gzip", "-q", "-n", "-f"),
    ".zst": ("zstd", "-q", "-f", "--rm"),
}
_DECOMPRESS = {
    ".xz": ("xz", "-q", "-d", "--memlimit=256MiB"),
    ".gz": ("gzip", "-q", "-d"),
    ".zst": ("zstd", "-q", "-d", "--rm"),
}


@dataclass(frozen=True)
class ModuleSignature:
    """The signature that a module carries."""

    signer: str
    """Who signed, for messages: the issuer's name and the serial number."""
    issuer: bytes
    """Distinguished name in DER; empty if the signer is named by a key identifier."""
    serial: str
    """As modinfo prints it (`sig_key`): bytes in hex, with colons; empty if there is none."""
    hash: str
    cms: bytes
    unsigned_length: int
    """Bytes of the module without the signature."""
    message: Message


def sign_module(content: bytes, key: SigningKey, hash: str, run: Run = run_quietly) -> bytes:
    """Return a module with a signature, as `sign-file HASH KEY CERTIFICATE` makes it; an older one is replaced.

    Raise SigningError if it cannot be signed. This runs outside of the build sandbox, since makefiles must not be
    able to read keys.
    """
    plain_content = unsigned(content)
    raw = key.sign(cms.digest(plain_content, hash), hash, run)
    return append(plain_content, cms.message(key.x509, hash, raw))


def append(content: bytes, message: bytes) -> bytes:
    """Return an unsigned module's content with a CMS message as its signature; nothing is checked."""
    return b"".join((content, message, _TRAILER.pack(0, 0, _PKCS7, 0, 0, len(message)), MAGIC))


def unsigned(content: bytes) -> bytes:
    """Return a module without its signature, or signatures; raise SigningError if the end of one is broken."""
    while (length := _split(content)) is not None:
        content = content[:length]
    return content


def signature_of(content: bytes) -> ModuleSignature | None:
    """Return the signature of a module, None if it has none; raise SigningError if it is broken. Not verified."""
    length = _split(content)
    if length is None:
        return None
    encoded = content[length : -len(MAGIC) - _TRAILER.size]
    try:
        found = cms.parse_message(encoded)
        serial = cms.serial_text(found.serial) if found.serial else ""
        return ModuleSignature(found.signer, found.issuer, serial, found.hash, encoded, length, found)
    except DerError as error:
        raise SigningError("the signature of the module is broken", details=str(error)) from None


def _split(content: bytes) -> int | None:
    """Return the length of a module's content before its signature, None if there is no signature."""
    if not content.endswith(MAGIC):
        return None
    at = len(content) - len(MAGIC) - _TRAILER.size
    if at < 0:
        raise SigningError("the end of the module is broken: it is cut off before its signature")
    algorithm, hash, kind, signer, key_id, length = _TRAILER.unpack_from(content, at)
    zeros = (algorithm, hash, signer, key_id)
    padding = content[at + 5 : at + 8]
    # What the kernel checks (mod_check_sig).
    if kind != _PKCS7 or any(zeros) or any(padding) or not 0 < length <= at:
        raise SigningError(
            "the end of the module is broken: its signature is of no kind that kernels take",
            details=f"id_type {kind}, where {_PKCS7} is expected" if kind != _PKCS7 else f"{length} bytes of signature",
        )
    return int(at - length)


def verify_module(content: bytes, certificate: Path, run: Run = run_quietly) -> None:
    """Verify that a module is signed with a certificate's key, as a kernel that trusts it would.

    Raise SigningError that says why not: unsigned, another key, changed content, or a broken signature.
    """
    x509 = read_certificate(certificate)
    found = signature_of(content)
    if found is None:
        raise SigningError("the module is not signed", hint="was it stripped after signing? strip removes signatures")
    if not found.message.is_by(x509):
        raise SigningError(
            "the module is signed with another key",
            details=f"signed by: {found.signer}\nexpected:  {x509.name}",
        )
    verify_message(found.message, content[: found.unsigned_length], x509, run)


def verify_message(message: Message, content: bytes, certificate: cms.Certificate, run: Run) -> None:
    """Verify a signature, whose signer is the certificate's, for a content; raise SigningError that says why not."""
    if message.attributes:
        raise SigningError(
            "the signature has signed attributes, and kernels refuse that",
            hint="sign without them: openssl cms -noattr",
        )
    digest = cms.digest(content, message.hash)
    if is_signature(message.signature, digest, message.hash, certificate, run):
        return
    if signs_other(message.signature, digest, message.hash, certificate, run):
        raise SigningError(
            "the module was changed after it was signed",
            details=f"{certificate.name} signed another content",
            hint="strip and objcopy have to run before signing",
        )
    raise SigningError(
        "the signature of the module does not verify",
        details=f"changed content, or a key that is not that of {certificate.name}, though it is named as signer",
    )


def hash_of_kernel(config_text: str) -> str:
    """Return the hash that a kernel's configuration signs modules with; sha256 if it says nothing.

    Raise SigningError if it is unknown.
    """
    found = re.search(r'^CONFIG_MODULE_SIG_HASH="([^"\n]*)"$', config_text, re.MULTILINE)
    return cms.check_hash(found[1]) if found and found[1] else _DEFAULT_HASH


def plain(name: str, content: bytes, run: Run = run_quietly) -> bytes:
    """Return a module's content decompressed, if its file name ends in .xz, .gz or .zst; else as it is.

    Raise SigningError if it is damaged, or larger than 1 GiB.
    """
    suffix = Path(name).suffix
    if suffix not in _DECOMPRESS:
        return content
    find_tool("prlimit", needed_for="decompressing with a limit")
    limited = ("prlimit", f"--fsize={_LARGEST}", *_DECOMPRESS[suffix])
    return _through(limited, f"m{suffix}", "m", content, name, run)


def compressed(name: str, content: bytes, run: Run = run_quietly) -> bytes:
    """Return a module's content compressed as kbuild does it for such a file name; the same bytes each time.

    Raise SigningError if the program fails.
    """
    suffix = Path(name).suffix
    if suffix not in _COMPRESS:
        return content
    return _through(_COMPRESS[suffix], "m", f"m{suffix}", content, name, run)


def _through(argv: tuple[str, ...], source: str, target: str, content: bytes, name: str, run: Run) -> bytes:
    """Return what a program makes of a file; the names given are those inside of a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="pkgkmod-") as place:
        folder = Path(place)
        (folder / source).write_bytes(content)
        done = run(Command((*argv, source), folder))
        if not done.ok or not (folder / target).is_file():
            raise SigningError(
                f"the module {name} cannot be {'decompressed' if argv[0] == 'prlimit' else 'compressed'}",
                details="\n".join(done.tail[-3:]) or f"damaged, or larger than {_LARGEST >> 20} MiB",
            )
        return (folder / target).read_bytes()

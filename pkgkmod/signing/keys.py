"""The key that signs, its certificate, and a new key for tests."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import stat
import tempfile
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pkgkmod.command import Command
from pkgkmod.errors import SigningError, UsageError
from pkgkmod.signing import cms
from pkgkmod.signing.cms import Certificate
from pkgkmod.signing.der import DerError
from pkgkmod.signing.openssl import PIN, Run, is_token, run_quietly, sign_digest

_MOST = 1024 * 1024  # bytes; keys and certificates have a few thousand
_LOOKS_ENCRYPTED = (b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED")


@dataclass(frozen=True)
class SigningKey:
    """A private key, by where it is, and the certificate that goes with it. `load_key` checks both."""

    key: str
    """Path of a PEM file, or a `pkcs11:` URI."""
    certificate: Path
    pin_env: str | None
    """Name of the variable with the passphrase or PIN; None if there is none."""
    warnings: tuple[str, ...] = ()
    """What should be said to the user, though it works."""

    @cached_property
    def x509(self) -> Certificate:
        """The certificate as it was when first read; raise SigningError if it cannot be read."""
        return read_certificate(self.certificate)

    def sign(self, digest: bytes, hash: str, run: Run = run_quietly) -> bytes:
        """Return the raw signature of a digest; raise SigningError if it cannot be made, or does not verify."""
        return sign_digest(digest, hash, self.key, self.pin_env, self.x509, run)


@dataclass(frozen=True)
class NewKey:
    """A new key for tests, and what its owner has to do so that a machine takes it."""

    key: Path
    certificate: Path
    certificate_der: Path
    """The same certificate in the form that mokutil takes."""
    enrol: str
    """How to enrol it, for people to read."""


def load_key(key: str, certificate: str | Path, base: Path, run: Run = run_quietly) -> SigningKey:
    """Return a key that works and belongs to its certificate; raise SigningError that says what is wrong.

    Paths are relative to `base`. The key signs a digest for trial, so that a wrong PIN is found before the work.
    """
    place = base / certificate
    x509 = read_certificate(place)
    pin_env = PIN if os.environ.get(PIN) else None
    if is_token(key):
        loaded = SigningKey(_checked_uri(key), place, pin_env, _kind_warnings(x509))
    else:
        path = base / key
        loaded = SigningKey(str(path), place, pin_env, (*_check_file(path, pin_env), *_kind_warnings(x509)))
    _try(loaded, run)
    return loaded


_FAILED: dict[tuple[str, str, bytes], SigningError] = {}
_ONE_AT_A_TIME = threading.Lock()


def _try(key: SigningKey, run: Run) -> None:
    """Let a key sign for trial; raise SigningError if it cannot.

    A token locks itself after a few wrong PINs, and many jobs may load its key at once: the same is not tried twice.
    """
    pin = os.environ.get(key.pin_env, "") if key.pin_env else ""
    asked = (key.key, pin, key.x509.encoded)
    with _ONE_AT_A_TIME if is_token(key.key) else nullcontext():
        if asked in _FAILED:
            raise _FAILED[asked]
        try:
            key.sign(cms.digest(key.x509.encoded, "sha256"), "sha256", run)
        except SigningError as error:
            if is_token(key.key) and pin:
                _FAILED[asked] = error
            raise


def read_certificate(path: Path) -> Certificate:
    """Read a certificate, PEM or DER; raise SigningError if there is none."""
    try:
        return cms.parse_certificate(_read(path, "certificate"))
    except DerError as error:
        raise SigningError(
            f"{path} cannot be used as certificate",
            details=str(error),
            hint="it has to be an X.509 certificate of an RSA or ECDSA key, in PEM or DER",
        ) from None


def _read(path: Path, what: str) -> bytes:
    try:
        if not path.is_file():
            raise SigningError(f"the {what} {path} does not exist, or is no file", hint="check the path")
        with path.open("rb") as file:
            return file.read(_MOST)
    except OSError as error:
        raise SigningError(f"the {what} {path} cannot be read: {error.strerror}") from None


def masked(uri: str) -> str:
    """Return a PKCS#11 URI without the PIN that may be in it."""
    return re.sub(r"(?i)(pin-value\s*=)[^;?&]*", r"\1***", uri)


def _checked_uri(uri: str) -> str:
    """Return a PKCS#11 URI that carries no PIN and loads no code; raise SigningError otherwise."""
    shown = masked(uri)
    if shown != uri:
        raise SigningError(
            f"the PKCS#11 URI has a PIN in it: {shown}",
            hint=f"take it out; put the PIN into the variable {PIN}, or into a file: pin-source=file:/PATH",
        )
    if not uri.isascii() or not uri.isprintable() or " " in uri:
        raise SigningError("the PKCS#11 URI has a space, or a character that URIs cannot have", details=shown)
    attributes = [part.partition("=")[::2] for part in re.split(r"[;?&]", uri[len("pkcs11:") :])]
    for name, value in attributes:
        if name.lower() in ("module-path", "module-name"):
            raise SigningError(
                f"the PKCS#11 URI names a library with '{name}'",
                details="a library that a project file names would run with the rights of the key",
                hint="set the variable PKCS11_MODULE_PATH (engine) or PKCS11_PROVIDER_MODULE (provider) instead",
            )
        if name.lower() == "pin-source" and not value.startswith(("file:", "/")):
            raise SigningError(
                "the PKCS#11 URI has a pin-source that is not a file", hint="write pin-source=file:/PATH"
            )
    return uri


def _kind_warnings(certificate: Certificate) -> tuple[str, ...]:
    # It has to be built in; Debian's 6.12 has it, Debian's 6.1 has none.
    if certificate.kind == "ec":
        return ("the key is ECDSA: only kernels with CONFIG_CRYPTO_ECDSA=y can verify it; all can verify RSA",)
    return ()


def _check_file(path: Path, pin_env: str | None) -> tuple[str, ...]:
    """Return warnings about a private key's file; raise SigningError if it can be none."""
    text = _read(path, "private key")
    if b"PRIVATE KEY-----" not in text:
        raise SigningError(
            f"{path} has no private key in PEM",
            hint=f"convert it: openssl pkey -inform DER -in {path.name} -out {path.stem}.pem",
        )
    if not pin_env and any(mark in text for mark in _LOOKS_ENCRYPTED):
        raise SigningError(
            f"the private key {path} is encrypted, and its passphrase is not known",
            hint=f"put the passphrase into the variable {PIN}",
        )
    if path.stat().st_mode & stat.S_IROTH:
        return (f"everybody can read the private key {path}: chmod 600 {path.name}",)
    return ()


_NEW_KEY_CONFIG = """\
[req]
prompt = no
string_mask = utf8only
distinguished_name = name
x509_extensions = extensions
[name]
CN = replaced by -subj
[extensions]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
# The second purpose is shim's "module signing only": such a key can sign no boot loader and no kernel.
extendedKeyUsage = codeSigning,1.3.6.1.4.1.2312.16.1.2
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""

_ENROL = """\
To let a machine with Secure Boot load modules that this key signed, enrol its certificate there:

  1. mokutil --import {der}
     It asks for a password, which is needed once, at the next boot.
  2. Reboot, with a keyboard and a screen at hand: before the system starts, MokManager appears.
     Choose "Enroll MOK", "Continue", "Yes", give that password, then "Reboot".
  3. Check it, as root: "mokutil --test-key {der}" says that it is already enrolled, and
     "grep asymmetri /proc/keys" lists the name '{name}'.

While Secure Boot is switched off, kernels (5.19 and later) ignore enrolled keys, and take unsigned modules.
To take it back: mokutil --delete {der}, then reboot.

Who has {key} can sign code that runs in the kernel of every machine that enrolled it:
keep it for tests, and delete it afterwards.
"""


def new_key(folder: Path, common_name: str, days: int, bits: int = 2048, run: Run = run_quietly) -> NewKey:
    """Make a key to throw away after tests: `mok.key` (mode 0600), `mok.pem` and `mok.der` in `folder`.

    The certificate is valid for `days`, though no kernel looks at that. Raise UsageError for a name or number that
    cannot be used, SigningError if files are there already.
    """
    _check_wishes(common_name, days, bits)
    made = NewKey(folder / "mok.key", folder / "mok.pem", folder / "mok.der", "")
    targets = (made.key, made.certificate, made.certificate_der)
    if there := [path.name for path in targets if os.path.lexists(path)]:
        raise SigningError(
            f"{folder} has {', '.join(there)} already: nothing was changed", hint="name another folder for the new key"
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix=".new-key-", dir=folder) as place:
        aside = Path(place)
        _make(aside, common_name, days, bits, run)
        (aside / "mok.key").chmod(0o600)
        _put_in_place(aside, targets)
    der = shlex.quote(str(made.certificate_der.absolute()))
    text = _ENROL.format(der=der, key=made.key, name=common_name)
    return NewKey(*targets, enrol=text)


def _put_in_place(aside: Path, targets: tuple[Path, ...]) -> None:
    """Move finished files to where they belong, all or none; a link, unlike a rename, never overwrites."""
    done: list[Path] = []
    try:
        for path in targets:
            os.link(aside / path.name, path)
            done.append(path)
    except OSError as error:
        for made in done:
            made.unlink()
        raise SigningError(f"{path} cannot be made: {error.strerror}", hint="name another folder") from None


def _check_wishes(common_name: str, days: int, bits: int) -> None:
    if not 0 < len(common_name) <= 64 or not common_name.isprintable() or not common_name.strip():
        raise UsageError("the name of a key has 1 to 64 printable characters", hint="for example: 'Acme test key'")
    if not 1 <= days <= 36500:
        raise UsageError("a certificate can be valid for 1 to 36500 days")
    if bits not in (2048, 4096):
        raise UsageError("RSA keys for modules have 2048 or 4096 bits")


def _make(folder: Path, common_name: str, days: int, bits: int, run: Run) -> None:
    (folder / "req.cnf").write_text(_NEW_KEY_CONFIG, encoding="utf-8")
    subject = "/CN=" + re.sub(r"([/+\\])", r"\\\1", common_name)
    make = ("openssl", "req", "-new", "-x509", "-newkey", f"rsa:{bits}", "-nodes", "-sha256", "-utf8", "-batch")
    where = ("-config", "req.cnf", "-days", str(days), "-subj", subject, "-keyout", "mok.key", "-out", "mok.pem")
    convert = ("openssl", "x509", "-in", "mok.pem", "-outform", "DER", "-out", "mok.der")
    for argv in ((*make, *where), convert):
        done = run(Command(argv, folder))
        if not done.ok:
            raise SigningError("openssl cannot make the key", details="\n".join(done.tail[-6:]))


def certificate_digest(certificate: Path, key: str = "signing.module_certificate") -> str:
    """Return the SHA-256 of a certificate that `key` names; raise SigningError if it cannot be read."""
    try:
        return hashlib.sha256(certificate.read_bytes()).hexdigest()
    except OSError as error:
        raise SigningError(
            f"the certificate {certificate} cannot be used: {error.strerror}",
            hint=f"{key} names the X.509 certificate that modules are signed with, in PEM or DER",
        ) from None

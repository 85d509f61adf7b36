"""Raw signatures, made and checked by the program openssl (1.1.1 or later).

Signing runs outside of the sandbox in which modules are built, and never beside a build: a makefile must not be able
to read a key, or to use a token that is open. PINs and passphrases are passed in the environment, so that no list of
processes, log or message has them.
"""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from pkgkmod import command
from pkgkmod.command import Command, Completed
from pkgkmod.errors import SigningError, TimeLimitError, ToolError
from pkgkmod.progress import Progress
from pkgkmod.signing.cms import Certificate, digest_info

Run = Callable[[Command], Completed]
"""Runs a program, such as a stage's `Work.run`."""

PIN = "KBUILD_SIGN_PIN"
"""The variable with the passphrase or PIN; the kernel's own build reads it too (kernel, scripts/sign-file.c)."""

_OURS = ("PATH", "LC_ALL", "TZ", "LOGNAME")
_PATIENCE = 300.0  # seconds for one signature: somebody may have to touch the token
_TAIL = 6  # lines of openssl's output that say what is wrong
_TOKEN_HINT = (
    "install OpenSSL's PKCS#11 provider (package pkcs11-provider) or engine (Debian: {engine}; Red Hat: {rpm})"
)


class Secrets(dict[str, str]):
    """Variables whose values never are shown, whoever prints the command they belong to."""

    def __repr__(self) -> str:
        return f"<{len(self)} variables>"


def run_quietly(command_line: Command) -> Completed:
    """Run a program whose log nobody will read."""
    with tempfile.TemporaryDirectory(prefix="pkgkmod-") as folder:
        return command.run(command_line, log=Path(folder) / "log", progress=Progress())


def is_token(key: str) -> bool:
    """Tell whether a key is named by a PKCS#11 URI (RFC 7512), not by a path."""
    return key.lower().startswith("pkcs11:")


def sign_digest(digest: bytes, hash: str, key: str, pin_env: str | None, certificate: Certificate, run: Run) -> bytes:
    """Return a key's raw signature of a digest; raise SigningError if openssl cannot make it.

    `key` is a PEM file or a PKCS#11 URI; `pin_env` names the variable with its PIN. The signature is checked with the
    certificate before it is returned.
    """
    secrets = _secrets(key, pin_env)
    options = (*(token_options(run, secrets) if is_token(key) else ()), "-inkey", key)
    if pin_env:
        options += ("-passin", f"env:{pin_env}")
    with tempfile.TemporaryDirectory(prefix="pkgkmod-sign-") as place:
        folder = Path(place)
        (folder / "digest").write_bytes(digest)
        argv = ("openssl", "pkeyutl", "-sign", *options, "-pkeyopt", f"digest:{hash}", "-in", "digest", "-out", "sig")
        try:
            done = run(Command(argv, folder, secrets, time_limit=_PATIENCE))
        except TimeLimitError:
            raise SigningError(
                f"no signature came from the key {key} within {_PATIENCE:.0f} s", hint="is the token reachable?"
            ) from None
        signature = (folder / "sig").read_bytes() if (folder / "sig").exists() else b""
    # Not what openssl returns counts, but the signature: SoftHSM 2.6 crashes openssl 3.5 when that ends, all work done.
    if not signature:
        raise SigningError(
            f"openssl cannot sign with the key {key}",
            details=_why(done, secrets, pin_env),
            hint=_hint(key, pin_env),
        )
    if not is_signature(signature, digest, hash, certificate, run):
        raise SigningError(
            f"the key {key} does not belong to the certificate of {certificate.name}",
            details="what the key signs cannot be verified with the certificate",
            hint="name the certificate that was made with this key",
        )
    return signature


def _secrets(key: str, pin_env: str | None) -> Secrets:
    """Return the variables that openssl gets.

    A vendor's PKCS#11 module finds its configuration through variables of its own (SOFTHSM2_CONF,
    YUBIHSM_PKCS11_CONF, ...), so with a token openssl gets all variables of the caller.
    """
    if is_token(key):
        return Secrets({name: value for name, value in os.environ.items() if name not in _OURS})
    return Secrets({pin_env: os.environ.get(pin_env, "")} if pin_env else {})


def _why(done: Completed, secrets: Mapping[str, str], pin_env: str | None) -> str:
    pin = secrets.get(pin_env, "") if pin_env else ""
    text = "\n".join(done.tail[-_TAIL:]) or f"openssl ended with status {done.returncode}"
    return text.replace(pin, "***") if pin else text


def _hint(key: str, pin_env: str | None) -> str:
    if is_token(key):
        given = f"the PIN in {pin_env} may be wrong" if pin_env else f"put the PIN into the variable {PIN}"
        return f"{given}; 'pkcs11-tool --list-objects --login' shows what the token has"
    return f"the passphrase in {pin_env} may be wrong" if pin_env else f"put a passphrase into the variable {PIN}"


def token_options(run: Run, variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return openssl's options for PKCS#11: by its provider, or else its engine; raise ToolError if it has neither."""
    # Engines are gone from OpenSSL 4; sign-file prefers the provider as well (kernel, since 6.13).
    provider = ("-provider", "pkcs11", "-provider", "default")
    here = Path(tempfile.gettempdir())
    if run(Command(("openssl", "list", "-providers", *provider), here, variables)).ok:
        return provider
    if run(Command(("openssl", "engine", "pkcs11"), here, variables)).ok:
        return "-engine", "pkcs11", "-keyform", "engine"
    raise ToolError(
        "openssl cannot use keys in PKCS#11 tokens: it has neither the provider nor the engine 'pkcs11'",
        hint=_TOKEN_HINT,
    )


def is_signature(signature: bytes, digest: bytes, hash: str, certificate: Certificate, run: Run) -> bool:
    """Tell whether a raw signature of a digest was made with the certificate's key."""
    options = ("-verify", "-sigfile", "sig", "-in", "digest", "-pkeyopt", f"digest:{hash}")
    with tempfile.TemporaryDirectory(prefix="pkgkmod-sign-") as place:
        folder = _with_public_key(Path(place), certificate)
        (folder / "sig").write_bytes(signature)
        (folder / "digest").write_bytes(digest)
        return run(Command(("openssl", "pkeyutl", "-pubin", "-inkey", "key.pem", *options), folder)).ok


def signs_other(signature: bytes, digest: bytes, hash: str, certificate: Certificate, run: Run) -> bool:
    """Tell whether an RSA signature was made with the certificate's key, but of something else than the digest."""
    if certificate.kind != "rsa":
        return False  # what ECDSA signed cannot be had from a signature
    with tempfile.TemporaryDirectory(prefix="pkgkmod-sign-") as place:
        folder = _with_public_key(Path(place), certificate)
        (folder / "sig").write_bytes(signature)
        options = ("-verifyrecover", "-in", "sig", "-out", "signed")
        run(Command(("openssl", "pkeyutl", "-pubin", "-inkey", "key.pem", *options), folder))
        signed = (folder / "signed").read_bytes() if (folder / "signed").exists() else b""
    return bool(signed) and signed != digest_info(digest, hash)


def _with_public_key(folder: Path, certificate: Certificate) -> Path:
    text = base64.encodebytes(certificate.public_key).decode("ascii")
    (folder / "key.pem").write_text(f"-----BEGIN PUBLIC KEY-----\n{text}-----END PUBLIC KEY-----\n", encoding="ascii")
    return folder

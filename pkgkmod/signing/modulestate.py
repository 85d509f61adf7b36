"""What is to be said of a module's signature, without stopping at one that is wrong."""

from __future__ import annotations

from pathlib import Path

from pkgkmod.errors import SigningError
from pkgkmod.modules.checks.opened import Signature
from pkgkmod.signing.keys import read_certificate
from pkgkmod.signing.modules import MAGIC, signature_of, verify_module
from pkgkmod.signing.openssl import Run, run_quietly


def module_signature(content: bytes, certificate: Path | None, run: Run = run_quietly) -> Signature:
    """Return what a module's plain bytes have of a signature, verified with a certificate if there is one.

    Raise SigningError if the certificate cannot be read.
    """
    expected = read_certificate(certificate).name if certificate else ""
    if not content.endswith(MAGIC):
        return Signature(expected=expected)
    try:
        found = signature_of(content)
        signer = f"{found.signer}" if found else ""
        if certificate:
            verify_module(content, certificate, run)
    except SigningError as error:
        details = "; ".join(error.details.splitlines())
        fault = f"{error.brief}: {details}" if details else error.brief
        return Signature(is_there=True, signer=_signer(content), expected=expected, fault=fault)
    return Signature(is_there=True, signer=signer, expected=expected)


def _signer(content: bytes) -> str:
    try:
        found = signature_of(content)
    except SigningError:
        return ""
    return found.signer if found else ""

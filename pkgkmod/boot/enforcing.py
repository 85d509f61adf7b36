"""A key that a booted kernel trusts: the certificate is put into the list `db` of the machine's firmware.

The firmware lets anybody do that as long as nobody owns it (UEFI 2.10, 8.2.2 and 32.3), so a first boot does it. With
Secure Boot switched off, as here, a kernel reads `db`, but not the list of MOK keys.
"""

from __future__ import annotations

import shutil
import struct
import uuid
from pathlib import Path
from typing import Any

_GLOBAL = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")  # EFI_IMAGE_SECURITY_DATABASE_GUID
_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072").bytes_le
_PKCS7 = uuid.UUID("4aafd29d-68df-49ee-8aa9-347d375665a7").bytes_le
_OWNER = uuid.uuid5(uuid.NAMESPACE_DNS, "pkgkmod.example").bytes_le
_ATTRIBUTES = 0x27
"""Non-volatile, for boot services and at run time, with a time as authentication."""

VARIABLE = f"db-{_GLOBAL}"
"""Its file in efivarfs."""
VARIABLES = "variables.fd"
"""The firmware's memory, in the machine's folder."""


def firmware_of(facts: Any) -> tuple[str, str] | None:
    """Return the files of the machine's firmware and of its empty memory; None if it is not installed here."""
    for code, variables in facts.get("firmware", ()):
        if Path(code).is_file() and Path(variables).is_file():
            return code, variables
    return None


def enrolment(certificate: bytes) -> bytes:
    """Return what is written to the variable: attributes, a descriptor nobody signed, and a list of one certificate."""
    size = len(_OWNER) + len(certificate)
    date = struct.pack("<HBBBBBBIhBB", 2024, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0)
    descriptor = date + struct.pack("<IHH", 24, 0x0200, 0x0EF1) + _PKCS7
    entry = _X509 + struct.pack("<III", 28 + size, 0, size) + _OWNER + certificate
    return struct.pack("<I", _ATTRIBUTES) + descriptor + entry


def new_variables(facts: Any, folder: Path) -> bool:
    """Put a firmware's empty memory into a machine's folder; return whether there is such a firmware."""
    found = firmware_of(facts)
    if found:
        shutil.copyfile(found[1], folder / VARIABLES)
        (folder / VARIABLES).chmod(0o644)
    return found is not None

"""Nothing unsigned is published where signatures are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pkgkmod.errors import SigningError
from pkgkmod.formats.debindex import deb_modules
from pkgkmod.model.artifacts import PackageFormat
from pkgkmod.model.packaging import Signing
from pkgkmod.publish.gpg import Signer
from pkgkmod.signing import modules
from pkgkmod.signing.openssl import Run
from pkgkmod.signing.packages import settled, verify_packages
from pkgkmod.signing.rpmsign import verify_signatures


def check_signatures(
    files: Sequence[Path], format: PackageFormat, signing: Signing, base: Path, signer: Signer | None, run: Run,
    scratch: Path,
) -> None:  # fmt: skip
    """Raise SigningError, which lists all of them, for modules and RPMs that are not signed as the settings say.

    DEBs have no signature of their own: that of the index is over all of them.
    """
    if signing.module_certificate:
        _CHECKS[format](files, settled(signing.module_certificate, base), run)
    if format == "rpm" and signer:
        public = scratch / signer.key.fingerprint
        public.write_bytes(signer.public_key())
        try:
            verify_signatures(files, public, scratch, run)
        except SigningError as error:
            hint = "`pkgkmod sign` signs packages; publish those that it made"
            raise SigningError(error.brief, details=error.details, hint=hint) from None


def _check_deb_modules(files: Sequence[Path], certificate: Path, run: Run) -> None:
    faults = []
    hint = ""
    for path in files:
        for name, content in deb_modules(path) if path.suffix == ".deb" else ():
            try:
                modules.verify_module(modules.plain(name, content, run), certificate, run)
            except SigningError as error:
                faults.append(f"{path.name}: {name}: {error.brief}")
                hint = hint or error.hint
    if faults:
        raise SigningError(
            f"{len(faults)} modules are not signed as they should be", details="\n".join(faults), hint=hint
        )


def _check_rpm_modules(files: Sequence[Path], certificate: Path, run: Run) -> None:
    verify_packages(files, certificate, run)


_CHECKS: dict[PackageFormat, Callable[[Sequence[Path], Path, Run], None]] = {
    "deb": _check_deb_modules,
    "rpm": _check_rpm_modules,
}

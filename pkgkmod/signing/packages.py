"""Finished packages: their modules signed, with everything else as it was, and whether all of them are.

This runs outside of the sandbox in which modules are built: makefiles must not be able to read keys.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.errors import InputError, SigningError
from pkgkmod.formats import debpackage
from pkgkmod.formats.rpmpackage import RpmPackage, read_package, repackage, visit_modules
from pkgkmod.model.packaging import Signing
from pkgkmod.progress import Progress
from pkgkmod.signing import cms, modules
from pkgkmod.signing.debs import (
    check_listings,
    finish_listings,
    is_deb,
    is_listing,
    verify_listings,
    with_listed,
)
from pkgkmod.signing.detached import ToSign, digest_of, load_signatures
from pkgkmod.signing.keys import SigningKey, load_key
from pkgkmod.signing.openssl import Run, is_token
from pkgkmod.signing.rpmsign import (
    PackageKey,
    export_public_key,
    find_package_key,
    keyring,
    sign_packages,
    verify_signatures,
)

Signer = Callable[[str, bytes], bytes]
"""Is given a module's path in its package and its content, decompressed; returns the signed content."""


def sign_with_key(key: SigningKey, hash_of: Callable[[str], str], run: Run) -> Signer:
    """Return what signs with a key; `hash_of` tells for the path of a module which hash its kernel takes."""
    return lambda path, content: modules.sign_module(content, key, hash_of(path), run)


def sign_with_signatures(signatures: Mapping[str, bytes]) -> Signer:
    """Return what appends signatures that were made elsewhere: CMS messages by the digest that they sign, in hex."""

    def sign(path: str, content: bytes) -> bytes:
        for hash in cms.HASHES:
            if message := signatures.get(digest_of(content, hash)):
                return modules.append(modules.unsigned(content), message)
        raise SigningError(
            "there is no signature for this module among those that came back",
            hint="export the digests of these very packages, and have those signed",
        )

    return sign


def sign_rpm(package: RpmPackage, destination: Path, sign: Signer, run: Run) -> None:
    """Write a package to `destination` with its modules signed; one without modules is copied as it is.

    The compression of modules stays as it was. Raise InputError for a damaged package, SigningError that names the
    module.
    """
    if not package.modules:
        shutil.copyfile(package.path, destination)
        return
    repackage(package, destination, _replacing(package.path, sign, run))


def sign_deb(source: Path, destination: Path, sign: Signer, run: Run, progress: Progress) -> None:
    """Write a .deb to `destination` with its modules signed; the same as `sign_rpm` otherwise."""
    with debpackage.open_package(source, run, destination.parent) as package:
        if package.modules and package.is_signed:
            progress.warning(f"{source.name}: the signatures inside of it (debsigs) are left out")
        debpackage.repackage(package, destination, _replacing(source, sign, run), run)


def _replacing(source: Path, sign: Signer, run: Run) -> Callable[[str, bytes], bytes]:
    """Return what gives a module in its package its signature."""

    def replace(path: str, content: bytes) -> bytes:
        try:
            plain = modules.plain(path, content, run)
            signed = sign(path, plain)
            return content if signed == plain else modules.compressed(path, signed, run)
        except SigningError as error:
            raise _about(source, path, error) from None

    return replace


def _about(source: Path, path: str, error: SigningError) -> SigningError:
    return SigningError(f"{source.name}: {path}: {error.brief}", details=error.details, hint=error.hint, log=error.log)


@dataclass(frozen=True)
class Signatures:
    """What is to be signed: the modules, the packages, or both."""

    sign: Signer | None = None
    certificate: Path | None = None
    """What the modules are verified with; there if `sign` is."""
    package_key: PackageKey | None = None


def wanted_signatures(
    signing: Signing, base: Path, hash_of: Callable[[str], str], run: Run, progress: Progress
) -> Signatures:
    """Return what the settings ask for, with keys that work; their paths begin at `base`.

    `hash_of` is asked where the modules are signed with a key. Raise SigningError if a key, its certificate, or a
    signature that was made elsewhere cannot be used.
    """
    sign = certificate = package_key = None
    if signing.module_certificate:
        certificate = settled(signing.module_certificate, base)
    if signing.module_key and certificate:
        name = signing.module_key if is_token(signing.module_key) else str(settled(signing.module_key, base))
        key = load_key(name, certificate, base, run)
        for warning in key.warnings:
            progress.warn_once(warning)
        sign = sign_with_key(key, hash_of, run)
    elif signing.module_signatures and certificate:
        sign = sign_with_signatures(load_signatures(settled(signing.module_signatures, base), certificate, run))
    if signing.package_key:
        package_key = find_package_key(signing.package_key, keyring(signing.gpg_home, base))
    return Signatures(sign, certificate, package_key)


def settled(path: str, base: Path) -> Path:
    """Return a path of the settings: `~` is the user's home, and relative ones begin at `base`."""
    return base / Path(path).expanduser()


def sign_set(
    sources: Sequence[Path], folder: Path, wanted: Signatures, *, scratch: Path, run: Run, progress: Progress
) -> int:
    """Write packages to `folder` with their modules signed, then themselves; return how many modules there are.

    `scratch` is an empty folder. All that was asked for is verified in the finished files. Raise SigningError if
    anything is not signed as it should be; what is in `folder` then is not to be used.
    """
    files = [folder / source.name for source in sources]
    check_listings(sources)
    for number, (source, file) in enumerate(zip(sources, files, strict=True)):
        progress.amount(number, len(files))
        if wanted.sign and is_rpm(source):
            package = read_package(source)
            if package.modules and package.has_file_signatures:
                progress.warning(f"{source.name}: its signatures of single files (IMA, fs-verity) are left out")
            sign_rpm(package, file, wanted.sign, run)
        elif wanted.sign and is_deb(source):
            sign_deb(source, file, wanted.sign, run, progress)
        else:
            shutil.copyfile(source, file)
    finish_listings(files, wanted.package_key, run)
    public = None
    if wanted.package_key:
        if rpms := [file for file in files if is_rpm(file)]:
            sign_packages(rpms, wanted.package_key, run)
        public = scratch / "public-key.asc"
        export_public_key(wanted.package_key, public)
    verify_files(files, public, scratch, run)
    progress.amount(len(files), len(files))
    return verify_packages(files, wanted.certificate, run) if wanted.certificate else 0


def is_rpm(path: Path) -> bool:
    """Tell whether a file is an RPM, by its name."""
    return path.suffix == ".rpm"


def find_packages(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the packages among `paths` and in folders among them, and what a .dsc or .changes among these lists.

    Raise InputError if there are none, or for a file that is none.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(one for one in path.rglob("*") if one.is_file() and _is_known(one))
        elif not path.is_file():
            raise InputError(f"{path} is not there", hint=_WANTED)
        elif _is_known(path):
            found.append(path)
        else:
            raise InputError(f"{path} is no package", hint=_WANTED)
    if not found:
        raise InputError(f"no package in {', '.join(str(path) for path in paths)}", hint=_WANTED)
    return with_listed(found)


_WANTED = "give packages (.rpm, .deb, .dsc, .changes), or folders that hold some"


def _is_known(path: Path) -> bool:
    return is_rpm(path) or is_deb(path) or is_listing(path)


def module_paths(source: Path, run: Run) -> tuple[str, ...]:
    """Return the paths of the modules in a package, none for another file. Raise InputError if it is damaged."""
    if is_rpm(source):
        return read_package(source).modules
    if is_deb(source):
        with debpackage.open_package(source, run) as package:
            return package.modules
    return ()


def verify_files(files: Sequence[Path], public_key: Path | None, scratch: Path, run: Run) -> None:
    """Raise SigningError unless RPMs, and the lists of Debian packages, are signed with the key; `scratch` is empty.

    Without a key, the lists of Debian packages need only be right.
    """
    rpms = [file for file in files if is_rpm(file)]
    if rpms and public_key:
        verify_signatures(rpms, public_key, scratch, run)
    others = [file for file in files if not is_rpm(file)]
    if others:
        verify_listings(others, public_key, scratch, run)


def modules_to_sign(sources: Iterable[Path], hash_of: Callable[[str], str], run: Run) -> Iterator[ToSign]:
    """Yield every module of some packages, for signing elsewhere. Raise InputError for one that is damaged."""
    for source in sources:
        found: list[ToSign] = []

        def visit(path: str, content: bytes, source: Path = source, found: list[ToSign] = found) -> None:
            try:
                plain = modules.unsigned(modules.plain(path, content, run))
            except SigningError as error:
                raise _about(source, path, error) from None
            found.append(ToSign(source.name, path, plain, hash_of(path)))

        _visit(source, visit, run)
        yield from found


def _visit(source: Path, visit: Callable[[str, bytes], object], run: Run) -> int:
    """Call `visit` with path and content of each module in a file, and return how many there are."""
    if is_rpm(source):
        rpm = read_package(source)
        visit_modules(rpm, visit)
        return len(rpm.modules)
    if is_deb(source):
        with debpackage.open_package(source, run) as deb:
            debpackage.visit_modules(deb, visit)
            return len(deb.modules)
    return 0


def verify_packages(packages: Iterable[Path], certificate: Path, run: Run) -> int:
    """Verify the modules in finished packages, and return how many there are.

    Raise SigningError that lists every module which is not signed with the certificate's key, or was changed since.
    """
    faults: list[str] = []
    hints: list[str] = []
    count = 0
    for path in packages:

        def visit(name: str, content: bytes, file: Path = path) -> None:
            try:
                modules.verify_module(modules.plain(name, content, run), certificate, run)
            except SigningError as error:
                reason = " ".join(f"{error.brief}; {error.details}".split()).rstrip("; ")
                faults.append(f"{file.name}: {name}: {reason}")
                hints.append(error.hint)

        if not (is_rpm(path) and read_package(path).is_source):
            count += _visit(path, visit, run)
    if faults:
        raise SigningError(
            f"{len(faults)} of {count} modules are not signed as they should be",
            details="\n".join(faults),
            hint=next(filter(None, hints), f"expected is the key of {certificate}"),
        )
    return count

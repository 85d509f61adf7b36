"""RPM package files, taken apart and put together again with other modules, and nothing else changed.

A package is a lead, a signature header, a header and a compressed cpio archive (rpm's manual, "RPM v4 Package
format"). Sizes and digests are as long as before whatever was measured, so the header is patched in place: not one
other byte of it moves. Compressing is left to rpm's library, which does it as rpmbuild did.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from pkgkmod.errors import DiskFullError, InputError
from pkgkmod.formats.rpmarchive import (
    PackagedFile,
    Replace,
    copy_archive,
    files_of,
    is_module_path,
    paths_of,
    read_files,
    read_modules,
)
from pkgkmod.formats.rpmheader import (
    FILE_SIGNATURES,
    SIGNATURES,
    Header,
    MalformedError,
    SignatureTag,
    Tag,
    read_header_blob,
    signature_header,
)
from pkgkmod.formats.rpmlibrary import load

_CHUNK = 1024 * 1024
_LEAD = 96
_LEAD_BEGINS = (b"\xed\xab\xee\xdb\x03", b"\xed\xab\xee\xdb\x04")  # 4 is written by rpm 6 for its own format
# Compressors, as rpm's library calls them (rpm, rpmio/rpmio.c).
_COMPRESSORS = {"gzip": "gzdio", "bzip2": "bzdio", "xz": "xzdio", "lzma": "lzdio", "zstd": "zstdio", "": "ufdio"}
_FLAGS = re.compile(r"[0-9]{0,2}(?:T[0-9]{0,3})?(?:L[0-9]{0,2})?")
"""Level, threads and window, as in 19T8L27: they become a part of the name by which rpm opens a file."""
# OpenPGP's numbers, which rpm uses for FILEDIGESTALGO and PAYLOADDIGESTALGO.
_DIGESTS = {1: "md5", 2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224", 12: "sha3_256", 14: "sha3_512"}
_HEADER_DIGESTS = {SignatureTag.SHA1: "sha1", SignatureTag.SHA256: "sha256", SignatureTag.SHA3_256: "sha3_256"}
# Digests of the archive in the header: as it is packed, and unpacked. "" is what PAYLOADDIGESTALGO says.
_PAYLOAD_DIGESTS = {
    "": (Tag.PAYLOADDIGEST, Tag.PAYLOADDIGESTALT),
    "sha512": (Tag.PAYLOADSHA512, Tag.PAYLOADSHA512ALT),
    "sha3_256": (Tag.PAYLOADSHA3_256, Tag.PAYLOADSHA3_256ALT),
}


@dataclass(frozen=True)
class RpmPackage:
    """A package file, with its headers read."""

    path: Path
    lead: bytes
    signature: Header
    header: Header
    payload: int
    """Where the compressed archive begins, in bytes."""

    @property
    def is_source(self) -> bool:
        """Tell whether it is a source package."""
        return Tag.SOURCEPACKAGE in self.header or Tag.SOURCERPM not in self.header

    @property
    def source(self) -> str:
        """File name of the source package that it was made of; its own NAME-VERSION-RELEASE.src.rpm if it is one."""
        if self.is_source:
            return "-".join(self.header.text(tag) for tag in (Tag.NAME, Tag.VERSION, Tag.RELEASE)) + ".src.rpm"
        return self.header.text(Tag.SOURCERPM)

    @property
    def build_time(self) -> int:
        """Seconds since 1970; 0 where the package does not say."""
        return self.header.number(Tag.BUILDTIME) if Tag.BUILDTIME in self.header else 0

    @property
    def is_signed(self) -> bool:
        """Tell whether it has signatures of the package or of its files, right or wrong."""
        return not SIGNATURES.isdisjoint(self.signature.entries)

    @property
    def has_file_signatures(self) -> bool:
        """Tell whether single files are signed (IMA, fs-verity)."""
        return not FILE_SIGNATURES.isdisjoint(self.signature.entries)

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of all files and folders, in packages of any format."""
        return tuple(paths_of(self.header))

    @cached_property
    def files(self) -> tuple[PackagedFile, ...]:
        """All files in the header's order."""
        return tuple(files_of(self.header))

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of the kernel modules."""
        return tuple(file.path for file in self.files if file.is_module)

    @property
    def compression(self) -> tuple[str, str]:
        """Name and level of the compressor, as in PAYLOADCOMPRESSOR and PAYLOADFLAGS."""
        name, flags = (
            self.header.text(tag) if tag in self.header else "" for tag in (Tag.PAYLOADCOMPRESSOR, Tag.PAYLOADFLAGS)
        )
        return name, flags

    @cached_property
    def compressor(self) -> str:
        """How the archive is compressed; empty if it is not."""
        if name := self.compression[0]:
            return name
        with self.path.open("rb") as file:
            file.seek(self.payload)
            # rpm says nothing of a payload that is not compressed, and did not of gzip once.
            return "gzip" if file.read(2) == b"\x1f\x8b" else ""

    @property
    def payload_digest(self) -> str:
        """Name of the digest of PAYLOADDIGEST."""
        return _digest_name(self.header, Tag.PAYLOADDIGESTALGO, 8)

    @property
    def file_digest(self) -> str:
        """Name of the digest of FILEDIGESTS; MD5 where the package does not say (rpm before 4.6)."""
        return _digest_name(self.header, Tag.FILEDIGESTALGO, 1)


def read_package(path: Path) -> RpmPackage:
    """Read a package's headers; raise InputError if it is none, is damaged, or of a kind that is not repackaged."""
    package = read_headers(path)
    with explained(path):
        hint = "sign its modules when they are built, before rpmbuild packs them"
        _refuse_archive(package, "repackaged", hint)
        known = SIGNATURES | frozenset(SignatureTag)
        if unknown := [tag for tag in package.signature.entries if tag not in known]:
            raise InputError(f"{path}: its signature header has the tag {unknown[0]}, which is not known", hint=hint)
        _ = package.files, package.build_time  # what is wrong with them is said here
        return package


def read_headers(path: Path) -> RpmPackage:
    """Read the headers of a package of whatever format; raise InputError if it is none, or is damaged."""
    try:
        with explained(path), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            lead = file.read(_LEAD)
            if len(lead) < _LEAD or not lead.startswith(_LEAD_BEGINS):
                raise MalformedError("it does not begin as a package does")
            signature = read_header_blob(file, size, SignatureTag.HEADERSIGNATURES)
            file.read(-file.tell() % 8)
            return RpmPackage(path, lead, signature, read_header_blob(file, size, Tag.HEADERIMMUTABLE), file.tell())
    except OSError as error:
        raise InputError(f"{path} cannot be read as an RPM", details=error.strerror or str(error)) from None


def check_digests(package: RpmPackage) -> None:
    """Raise InputError unless the package's digests are those of its content: what is damaged stays visible."""
    with explained(package.path), package.path.open("rb") as file:
        file.seek(package.payload)
        packed = _hash_file(file, {package.payload_digest}, package.header.blob)
        known = {tag: _header_digest(package.header.blob, name) for tag, name in _HEADER_DIGESTS.items()}
        known[SignatureTag.MD5] = packed.md5
        for tag, value in known.items():
            if tag in package.signature and package.signature.raw(tag) != value:
                raise MalformedError(f"it is damaged: its digest {tag.name} is another")
        digest = packed.hexdigests[package.payload_digest]
        if Tag.PAYLOADDIGEST in package.header and package.header.texts(Tag.PAYLOADDIGEST) != [digest]:
            raise MalformedError("it is damaged: the digest of its archive is another")


def visit_modules(package: RpmPackage, visit: Callable[[str, bytes], object]) -> None:
    """Call `visit` with path and content of each module; of hard links, with the first name only."""

    def replace(path: str, content: bytes) -> bytes:
        visit(path, content)
        return content

    with explained(package.path), _unpacked(package) as archive:
        copy_archive(package.files, archive, _Sink(None, ()), replace)


def module_contents(package: RpmPackage) -> Iterator[tuple[tuple[str, ...], bytes]]:
    """Yield names and content of each module, be it empty; raise InputError if the archive cannot be read."""
    with explained(package.path):
        if not any(map(is_module_path, package.paths)):
            return
        _refuse_archive(package, "read", "build it for an rpm that older ones can read")
        try:
            with _unpacked(package) as archive:
                yield from read_modules(package.files, archive)
        except OSError as error:  # as if this rpm was built without that compressor
            raise MalformedError(f"its archive cannot be unpacked: {error}") from None


def file_contents(package: RpmPackage, wanted: Callable[[str], bool]) -> Iterator[tuple[tuple[str, ...], int, bytes]]:
    """Yield names, mode and content of the wanted files, and of symbolic links, with their target as content."""
    with explained(package.path):
        _refuse_archive(package, "read", "build it for an rpm that older ones can read")
        try:
            with _unpacked(package) as archive:
                yield from read_files(package.files, archive, wanted)
        except OSError as error:  # as if this rpm was built without that compressor
            raise MalformedError(f"its archive cannot be unpacked: {error}") from None


def repackage(package: RpmPackage, destination: Path, replace: Replace) -> None:
    """Write the package anew, with what `replace` returns for each module, and without any signatures.

    Everything else is as it was, byte for byte. Raise InputError if the package is damaged; nothing is at
    `destination` then that was not there before.
    """
    check_digests(package)
    kind, level = package.compression
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".repackage-") as place:
        packed, whole = Path(place, "archive"), Path(place, "package")
        names = {name or package.payload_digest for name in _PAYLOAD_DIGESTS}
        with explained(package.path), _unpacked(package) as archive:
            with _rpm_file(str(packed), f"w{level}", _COMPRESSORS[kind]) as file:
                sink = _Sink(file, names)
                changed = copy_archive(package.files, archive, sink, replace)
            with packed.open("rb") as file:
                header = _patched_sizes(package, changed)
                digests = _hash_file(file, names, b"")
                header = _patched_payload(package, header, sink, digests)
                file.seek(0)
                md5 = _hash_file(file, set(), header.blob).md5
            signature = _new_signature(package, header, digests.size, sink.size, md5)
        with whole.open("wb") as output, packed.open("rb") as file:
            output.write(package.lead + signature + bytes(-(_LEAD + len(signature)) % 8) + header.blob)
            shutil.copyfileobj(file, output, _CHUNK)
        whole.chmod(0o644)
        whole.replace(destination)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Make an InputError of a MalformedError about a package."""
    try:
        yield
    except MalformedError as error:
        raise InputError(
            f"{path} cannot be read as an RPM", details=str(error), hint="fetch or build it again"
        ) from None


def _refuse_archive(package: RpmPackage, done: str, hint: str) -> None:
    header, path = package.header, package.path
    if Tag.RPMFORMAT in header and header.number(Tag.RPMFORMAT) > 4:
        number = header.number(Tag.RPMFORMAT)
        raise InputError(
            f"{path} is a package of format {number}, and only format 4 is {done}",
            hint="build it with --define '_rpmformat 4'",
        )
    if Tag.LONGFILESIZES in header:
        raise InputError(f"{path} holds a file of 4 GiB or more, and is not {done}", hint=hint)
    if Tag.PAYLOADFORMAT in header and header.text(Tag.PAYLOADFORMAT) != "cpio":
        kind = header.text(Tag.PAYLOADFORMAT)
        raise InputError(f"{path} is packed as '{kind}', and only cpio is {done}", hint=hint)
    if package.compression[0] not in _COMPRESSORS or not _FLAGS.fullmatch(package.compression[1]):
        raise InputError(f"{path}: the compression '{' '.join(package.compression)}' is not known", hint=hint)


def _digest_name(header: Header, tag: Tag, default: int) -> str:
    number = header.number(tag) if tag in header else default
    if number not in _DIGESTS:
        raise MalformedError(f"it uses digest {number}, which is not known")
    return _DIGESTS[number]


@dataclass(frozen=True)
class _Hashed:
    size: int
    md5: bytes
    hexdigests: Mapping[str, str]


def _hash_file(file: IO[bytes], names: Iterable[str], before: bytes) -> _Hashed:
    """Hash what is left of a file; MD5 is over `before`, too."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in names}
    md5 = hashlib.md5(before, usedforsecurity=False)
    size = 0
    while data := file.read(_CHUNK):
        size += len(data)
        for one in (md5, *hashes.values()):
            one.update(data)
    return _Hashed(size, md5.digest(), {name: one.hexdigest() for name, one in hashes.items()})


def _header_digest(blob: bytes, name: str) -> bytes:
    return hashlib.new(name, blob, usedforsecurity=False).hexdigest().encode() + b"\0"


@contextmanager
def _rpm_file(file: int | str, mode: str, kind: str) -> Iterator[Any]:
    """Open a file through one of rpm's compressors."""
    opened = load()[0].fd(file, mode, kind)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def _unpacked(package: RpmPackage) -> Iterator[Any]:
    """Open the archive, uncompressed."""
    kind = _COMPRESSORS[package.compressor]
    with package.path.open("rb") as file:
        os.lseek(file.fileno(), package.payload, os.SEEK_SET)
        with _rpm_file(file.fileno(), "r", kind) as archive:
            yield archive


class _Sink:
    """Where the unpacked archive goes: counted, hashed, and packed."""

    def __init__(self, packed: Any, names: Iterable[str]) -> None:
        self.size = 0
        self.packed = packed
        self.hashes = {name: hashlib.new(name, usedforsecurity=False) for name in names}

    def write(self, data: bytes) -> None:
        self.size += len(data)
        for hashed in self.hashes.values():
            hashed.update(data)
        if self.packed is None:
            return
        try:
            self.packed.write(data)
        except OSError as error:  # rpm's library has no number for it
            raise DiskFullError("the package cannot be written", details=str(error), hint="free some space") from None


def _patched_sizes(package: RpmPackage, changed: Mapping[int, bytes]) -> Header:
    """Return the header with sizes and digests of the files that changed."""
    header = package.header
    if not changed:
        return header
    sizes, digests = header.numbers(Tag.FILESIZES), header.texts(Tag.FILEDIGESTS)
    grown = 0
    for place, content in changed.items():
        if place == min(package.files[place].links):  # hard links take their room once
            grown += len(content) - sizes[place]
        sizes[place] = len(content)
        digests[place] = hashlib.new(package.file_digest, content, usedforsecurity=False).hexdigest()
    header = header.with_numbers(Tag.FILESIZES, sizes).with_texts(Tag.FILEDIGESTS, digests)
    for tag in (Tag.SIZE, Tag.LONGSIZE):
        if tag in header:
            header = header.with_numbers(tag, [header.number(tag) + grown])
    return header


def _patched_payload(package: RpmPackage, header: Header, sink: _Sink, packed: _Hashed) -> Header:
    """Return the header with sizes and digests of the archive."""
    for name, (tag, unpacked_tag) in _PAYLOAD_DIGESTS.items():
        algorithm = name or package.payload_digest
        if tag in header:
            header = header.with_texts(tag, [packed.hexdigests[algorithm]])
        if unpacked_tag in header:
            header = header.with_texts(unpacked_tag, [sink.hashes[algorithm].hexdigest()])
    sizes = {Tag.ARCHIVESIZE: sink.size, Tag.LONGARCHIVESIZE: sink.size}
    sizes |= {Tag.PAYLOADSIZE: packed.size, Tag.PAYLOADSIZEALT: sink.size}
    for tag, size in sizes.items():
        if tag in header:
            header = header.with_numbers(tag, [size])
    return header


def _new_signature(package: RpmPackage, header: Header, packed: int, unpacked: int, md5: bytes) -> bytes:
    """Return a signature header with the digests and sizes that the old one had; as long, with room for signatures."""
    values: dict[int, bytes] = {tag: _header_digest(header.blob, name) for tag, name in _HEADER_DIGESTS.items()}
    values[SignatureTag.MD5] = md5
    whole = len(header.blob) + packed
    for tag, size in ((SignatureTag.SIZE, whole), (SignatureTag.PAYLOADSIZE, unpacked)):
        values[tag] = size.to_bytes(4) if size < 1 << 32 else b""
    for tag, size in ((SignatureTag.LONGSIZE, whole), (SignatureTag.LONGARCHIVESIZE, unpacked)):
        values[tag] = size.to_bytes(8)
    kept = {tag: value for tag, value in values.items() if tag in package.signature}
    if b"" in kept.values():
        raise InputError(f"{package.path} would grow beyond 4 GiB", hint="leave some of its files out")
    return signature_header(kept, len(package.signature.blob))

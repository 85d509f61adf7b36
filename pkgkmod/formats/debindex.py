"""Debian packages as an apt archive lists them: paragraphs of Packages and Sources."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from debian.arfile import ArError
from debian.deb822 import Deb822
from debian.debfile import DebError, DebFile
from debian.debian_support import version_compare

from pkgkmod.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Debian policy 5.6.1, 5.6.12 and 5.6.8; what is not so would be a path, or another field.
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_VERSION = re.compile(r"(?:[0-9]+:)?[0-9A-Za-z][0-9A-Za-z.+~-]*")
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9-]*")
_FILE = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~_%-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SOURCE = re.compile(r"(?P<name>\S+)(?:\s+\((?P<version>\S+)\))?")
_MODULE = re.compile(r"(?:\./|/)?(?:usr/)?lib/modules/.*\.ko(?:\.(?:gz|xz|zst))?")
# What an index says of a package's file: the package itself has no say in it.
_OF_THE_INDEX = ("filename", "size", "md5sum", "sha1", "sha256", "sha512", "description-md5")


@dataclass(frozen=True)
class DebControl:
    """Which package a .deb is."""

    name: str
    version: str
    arch: str
    source: tuple[str, str]
    """Name and version of its source package."""
    fields: Mapping[str, str]


@dataclass(frozen=True)
class SourceControl:
    """Which source package a .dsc describes."""

    name: str
    version: str
    files: Mapping[str, tuple[str, int]]
    """SHA-256 and size in bytes of its other files, by name."""
    fields: Mapping[str, str]


def read_deb_control(path: Path) -> DebControl:
    """Return what a .deb says about itself; raise InputError if it is none, or says what no package may say."""
    try:
        with DebFile(str(path)) as package:
            fields = dict(package.debcontrol())
    except (DebError, ArError, OSError, tarfile.TarError, ValueError, EOFError, KeyError) as error:
        raise _malformed(path, "Debian package", str(error)) from None
    return _control(path, fields)


def parse_control(path: Path, text: bytes) -> DebControl:
    """Return what a control file says; `path` is its package's. Raise InputError for what no package may say."""
    try:
        return _control(path, dict(Deb822(text)))
    except ValueError as error:
        raise _malformed(path, "Debian package", str(error)) from None


def _control(path: Path, fields: Mapping[str, str]) -> DebControl:
    name, version = _field(path, fields, "Package", _NAME), _field(path, fields, "Version", _VERSION)
    arch = _field(path, fields, "Architecture", _ARCHITECTURE)
    said = _SOURCE.fullmatch(fields.get("Source", name).strip())
    source = (said["name"], said["version"] or version) if said else ("", "")
    if not _NAME.fullmatch(source[0]) or not _VERSION.fullmatch(source[1]):
        raise _malformed(path, "Debian package", f"Source: {fields.get('Source')!r}")
    return DebControl(name, version, arch, source, fields)


def read_source_control(path: Path) -> SourceControl:
    """Return what a .dsc says, its signature unchecked; raise InputError if it is none."""
    try:
        with path.open("rb") as file:
            _, lines, _ = Deb822.split_gpg_and_payload(file)
        fields = dict(Deb822(lines))
        files = dict(_checksums(fields["Checksums-Sha256"]))
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise _malformed(path, "Debian source package", str(error)) from None
    name, version = _field(path, fields, "Source", _NAME), _field(path, fields, "Version", _VERSION)
    return SourceControl(name, version, files, fields)


def deb_modules(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the kernel modules of a .deb, by path, as they are packed. Raise InputError if it is damaged."""
    try:
        with DebFile(str(path)) as package:
            archive = package.data.tgz()
            for member in archive:
                if member.isfile() and _MODULE.fullmatch(member.name) and (file := archive.extractfile(member)):
                    yield member.name.removeprefix("."), file.read()
    except (DebError, ArError, OSError, tarfile.TarError, ValueError, EOFError) as error:
        raise _malformed(path, "Debian package", str(error)) from None


def packages_paragraph(control: DebControl, filename: str, size: int, sha256: str) -> str:
    """Return a package's paragraph of Packages."""
    kept = {name: value for name, value in control.fields.items() if name.lower() not in _OF_THE_INDEX}
    return Deb822({**kept, "Filename": filename, "Size": str(size), "SHA256": sha256}).dump()


def sources_paragraph(control: SourceControl, directory: str, dsc: str, size: int, digests: Mapping[str, str]) -> str:
    """Return a source package's paragraph of Sources; `dsc`, `size` and `digests` (by algorithm) are of its .dsc."""
    own = {"source", "package", "directory", "format"}
    fields = {"Package": control.name, "Format": control.fields.get("Format", "1.0")}
    fields |= {name: value for name, value in control.fields.items() if name.lower() not in own}
    for name, algorithm in (("Files", "md5"), ("Checksums-Sha1", "sha1"), ("Checksums-Sha256", "sha256")):
        if name in fields:
            fields[name] = f"\n {digests[algorithm]} {size} {dsc}\n{fields[name].strip(chr(10))}"
    return Deb822({**fields, "Directory": directory}).dump()


def compare_versions(one: str, other: str) -> int:
    """Compare two versions as dpkg does: below, at or above 0 for older, same, newer."""
    result: int = version_compare(one, other)
    return result


def _checksums(text: str) -> Iterator[tuple[str, tuple[str, int]]]:
    for line in text.splitlines():
        if not line.strip():
            continue
        digest, size, name = line.split()
        if not _SHA256.fullmatch(digest) or not _FILE.fullmatch(name) or not size.isdecimal():
            raise ValueError(f"Checksums-Sha256: {line!r}")
        yield name, (digest, int(size))


def _field(path: Path, fields: Mapping[str, str], name: str, pattern: re.Pattern[str]) -> str:
    value = fields.get(name, "")
    if not pattern.fullmatch(value):
        raise _malformed(path, "Debian package", f"{name}: {value!r}")
    return value


def _malformed(path: Path, kind: str, details: str) -> InputError:
    return InputError(f"{path} cannot be read as a {kind}", details=details, hint="build it again")

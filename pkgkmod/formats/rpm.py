"""Specs and RPM packages, read with the real rpm library."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pkgkmod.errors import InputError, PackageError
from pkgkmod.formats.rpmlibrary import load

# The library keeps its macros and its log in global variables.
_LOCK = threading.Lock()


@dataclass(frozen=True)
class SpecFacts:
    """What rpm understands of a spec."""

    name: str
    version: str
    release: str
    packages: tuple[str, ...]
    """Names of the binary packages."""
    sources: tuple[str, ...]
    """File names of sources and patches."""
    summary: str
    description: str
    requires: tuple[str, ...]
    provides: tuple[str, ...]
    build_requires: tuple[str, ...]


@dataclass(frozen=True)
class RpmHeader:
    """What an RPM package says about itself."""

    name: str
    epoch: int
    """0 is none."""
    version: str
    release: str
    arch: str
    """Machine, or `src` for a source package."""
    summary: str
    description: str
    license: str
    provides: tuple[str, ...]
    """As `NAME` or `NAME = VERSION`."""
    requires: tuple[str, ...]
    files: tuple[str, ...]
    build_time: int
    """Seconds since 1970."""


def parse_spec(path: Path, defines: Mapping[str, str] | None = None) -> SpecFacts:
    """Read a spec as rpmbuild would, with macros defined; raise PackageError with rpm's words if it is wrong.

    Macros are expanded, and a spec can run programs that way: only for specs that may be built, too.
    """
    with _library(defines or {}) as (rpm, messages):
        try:
            spec = rpm.spec(str(path), rpm.RPMSPEC_ANYARCH | rpm.RPMSPEC_FORCE)
        except ValueError as error:
            messages.seek(0)
            raise PackageError(
                f"rpm does not understand the spec {path.name}", details=messages.read().strip() or str(error)
            ) from None
        headers = [package.header for package in spec.packages]
        main = headers[0]
        return SpecFacts(
            name=main["name"],
            version=main["version"],
            release=main["release"],
            packages=tuple(header["name"] for header in headers),
            sources=tuple(Path(source[0]).name for source in spec.sources),
            summary=main["summary"],
            description=main["description"],
            requires=_dependencies(rpm, main, "requirename"),
            provides=_dependencies(rpm, main, "providename"),
            build_requires=_dependencies(rpm, spec.sourceHeader, "requirename"),
        )


def read_header(path: Path) -> RpmHeader:
    """Read a package's header, signatures unchecked; raise InputError if the file is not an RPM."""
    rpm, _ = load()
    # No macro has a say in a header, and without checks no database is opened.
    with _LOCK:
        transaction = rpm.TransactionSet()
        transaction.setVSFlags(-1)  # no checks: they would open the system's keyring
        try:
            with path.open("rb") as file:
                header = transaction.hdrFromFdno(file)
        except (rpm.error, OSError) as error:
            raise InputError(f"{path} cannot be read as an RPM", details=str(error)) from None
        return RpmHeader(
            name=header["name"],
            epoch=header["epoch"] or 0,
            version=header["version"],
            release=header["release"],
            arch="src" if header["sourcepackage"] else header["arch"],
            summary=header["summary"],
            description=header["description"],
            license=header["license"],
            provides=_dependencies(rpm, header, "providename"),
            requires=_dependencies(rpm, header, "requirename"),
            files=tuple(header["filenames"]),
            build_time=header["buildtime"] or 0,
        )


def compare_evr(one: str, other: str) -> int:
    """Compare two [EPOCH:]VERSION[-RELEASE] as rpm does: below, at or above 0 for older, same, newer."""
    with _LOCK:
        result: int = load()[0].labelCompare(_parts(one), _parts(other))
        return result


def compare_versions(one: str, other: str) -> int:
    """Compare two texts as rpm compares versions (rpmvercmp): below, at or above 0 for older, same, newer."""
    # No macro has a say in it: there is no need to set up the library for each of thousands of calls.
    with _LOCK:
        result: int = load()[0].labelCompare(("0", one, ""), ("0", other, ""))
        return result


def _parts(evr: str) -> tuple[str, str, str | None]:
    epoch, colon, rest = evr.partition(":")
    version, dash, release = (rest if colon else evr).rpartition("-")
    if not dash:
        version, release = release, ""
    return epoch if colon else "0", version, release or None


def _dependencies(rpm: Any, header: Any, tag: str) -> tuple[str, ...]:
    # DNEVR puts one letter and a space (`R `) before each.
    return tuple(dict.fromkeys(dependency.DNEVR()[2:] for dependency in rpm.ds(header, tag)))


@contextmanager
def _library(defines: Mapping[str, str]) -> Iterator[tuple[Any, IO[str]]]:
    """Give the library and its messages, with some macros defined, and with no database but an empty one.

    Debian's rpm would otherwise make one in the home folder.
    """
    with _LOCK, tempfile.TemporaryDirectory() as place:
        rpm, messages = load()
        messages.truncate(0)
        macros = {"_dbpath": place, **defines}
        for name, body in macros.items():
            rpm.addMacro(name, body)
        try:
            yield rpm, messages
        finally:
            rpm.reloadConfig()  # forgets these macros, and those that a spec defined with %global

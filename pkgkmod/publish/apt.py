"""apt's repositories: pool/ with packages, dists/SUITE/ with their indexes (Debian wiki, DebianRepository/Format)."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

from pkgkmod.errors import InputError
from pkgkmod.formats.debindex import (
    DebControl,
    SourceControl,
    compare_versions,
    packages_paragraph,
    read_deb_control,
    read_source_control,
    sources_paragraph,
)
from pkgkmod.publish.entries import Entry, Incoming, StoredFile
from pkgkmod.publish.gpg import Signer
from pkgkmod.publish.repository import Draft, sha256_of

_BY_HASH = "by-hash/SHA256"
_OF_A_DSC = ("md5", "sha1", "sha256")


@dataclass(frozen=True)
class AptStyle:
    """How apt wants it; each series is a suite."""

    origin: str
    label: str
    component: str
    signer: Signer | None

    def link(self, series: str) -> str:
        """Return where apt looks for a suite."""
        return f"dists/{series}"

    def settings(self) -> Mapping[str, str]:
        """Return the texts of Release, and whose signature it has."""
        key = self.signer.key.signer if self.signer else ""
        return {"origin": self.origin, "label": self.label, "key": key}

    def compare(self, one: str, other: str) -> int:
        """Compare versions as dpkg does."""
        return compare_versions(one, other)

    def write(self, draft: Draft) -> tuple[str, ...]:
        """Write all index files, Release, and its signatures; return the names by digests."""
        texts = dict(self._indexes(draft.entries))
        named: list[str] = []
        facts: list[tuple[str, int, str]] = []
        for path, content in sorted((p, c) for name, text in texts.items() for p, c in _forms(name, text)):
            file, sha256 = draft.folder / path, hashlib.sha256(content).hexdigest()
            by_hash = f"{Path(path).parent}/{_BY_HASH}/{sha256}"
            (draft.folder / by_hash).parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            if not (draft.folder / by_hash).exists():
                os.link(file, draft.folder / by_hash)
                named.append(by_hash)
            facts.append((sha256, len(content), path))
        release = draft.folder / "Release"
        release.write_text(self._release(draft, facts), encoding="utf-8")
        if self.signer:
            self.signer.clearsign(release, draft.folder / "InRelease")
            self.signer.sign(release, draft.folder / "Release.gpg")
        return tuple(named)

    def _indexes(self, entries: Sequence[Entry]) -> Iterator[tuple[str, str]]:
        """Yield the texts of Packages and Sources, by path."""
        for component in self._components(entries):
            inside = [entry for entry in entries if entry.component == component]
            for arch in _architectures(entries):
                wanted = [e.paragraph for e in inside if e.kind == "binary" and e.arch in (arch, "all")]
                yield f"{component}/binary-{arch}/Packages", "\n".join(wanted)
            sources = [entry.paragraph for entry in inside if entry.kind == "source"]
            yield f"{component}/source/Sources", "\n".join(sources)

    def _components(self, entries: Iterable[Entry]) -> list[str]:
        """Return those of the packages: others may have published theirs into another one."""
        return sorted({self.component, *(entry.component for entry in entries)})

    def _release(self, draft: Draft, facts: Sequence[tuple[str, int, str]]) -> str:
        fields = {
            "Origin": self.origin,
            "Label": self.label,
            "Suite": draft.series,
            "Codename": draft.series,
            "Date": formatdate(time.time(), usegmt=True).replace("GMT", "UTC"),
            "Architectures": " ".join(_architectures(draft.entries)),
            "Components": " ".join(self._components(draft.entries)),
            "Acquire-By-Hash": "yes",
        }
        lines = [f"{name}: {value}" for name, value in fields.items()]
        return "\n".join([*lines, "SHA256:", *(f" {sha256} {size} {path}" for sha256, size, path in facts)]) + "\n"


def _architectures(entries: Iterable[Entry]) -> list[str]:
    """Return those of the binary packages.

    Packages for all architectures are in each index, as Debian has it, and in one of their own: they may be all that
    a machine of another architecture can use.
    """
    return sorted({entry.arch for entry in entries if entry.kind == "binary"})


def _forms(name: str, text: str) -> Iterator[tuple[str, bytes]]:
    content = text.encode()
    yield name, content
    yield f"{name}.gz", gzip.compress(content, mtime=0)
    yield f"{name}.xz", lzma.compress(content, check=lzma.CHECK_CRC32)


def read_packages(paths: Iterable[Path], suite: str, component: str) -> list[Incoming]:
    """Return what .deb and .dsc files are for a suite. Raise InputError for others, and damaged ones."""
    found = []
    for path in paths:
        if path.suffix == ".deb":
            found.append(_binary(path, read_deb_control(path), suite, component))
        elif path.suffix == ".dsc":
            found.append(_source(path, read_source_control(path), suite, component))
        else:
            raise InputError(f"{path} is not for apt", hint="give .deb and .dsc files")
    return found


def _file_version(version: str) -> str:
    """Return the version as file names have it, without the epoch."""
    return version.partition(":")[2] or version


def _binary(path: Path, control: DebControl, suite: str, component: str) -> Incoming:
    # Named anew: what the file is called says nothing.
    name = f"{control.name}_{_file_version(control.version)}_{control.arch}.deb"
    stored = StoredFile(
        path=f"pool/{suite}/{component}/{control.source[0]}/{name}", size=path.stat().st_size, sha256=sha256_of(path)
    )
    entry = Entry(
        kind="binary",
        name=control.name,
        version=control.version,
        counted_as=control.version,
        arch=control.arch,
        source=control.source,
        files=(stored,),
        component=component,
        paragraph=packages_paragraph(control, stored.path, stored.size, stored.sha256),
    )
    return Incoming(entry, (path,))


def _source(path: Path, control: SourceControl, suite: str, component: str) -> Incoming:
    folder = f"pool/{suite}/{component}/{control.name}"
    for name, (sha256, size) in control.files.items():
        file = path.with_name(name)
        if not file.is_file() or file.stat().st_size != size or sha256_of(file) != sha256:
            raise InputError(
                f"{path.name} does not fit the file {name} beside it",
                details="it is not there, or was changed",
                hint="keep a .dsc and the archives that it names together",
            )
    dsc = f"{control.name}_{_file_version(control.version)}.dsc"
    digests = {name: hashlib.new(name, path.read_bytes(), usedforsecurity=False).hexdigest() for name in _OF_A_DSC}
    stored = [StoredFile(path=f"{folder}/{dsc}", size=path.stat().st_size, sha256=digests["sha256"])]
    stored += [StoredFile(path=f"{folder}/{n}", size=size, sha256=sha) for n, (sha, size) in control.files.items()]
    entry = Entry(
        kind="source",
        name=control.name,
        version=control.version,
        counted_as=control.version,
        arch="source",
        source=(control.name, control.version),
        files=tuple(stored),
        component=component,
        paragraph=sources_paragraph(control, folder, dsc, stored[0].size, digests),
    )
    return Incoming(entry, (path, *(path.with_name(name) for name in control.files)))


def sources_file(url: str, suite: str, component: str, key: str | None) -> str:
    """Return what a user writes into /etc/apt/sources.list.d/NAME.sources; `key` is the file of the key there."""
    trust = f"Signed-By: {key}" if key else "Trusted: yes"
    return f"Types: deb\nURIs: {url}\nSuites: {suite}\nComponents: {component}\n{trust}\n"

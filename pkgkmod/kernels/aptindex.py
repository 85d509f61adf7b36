"""What an apt archive serves: header packages and kernels of its Packages files, and what was kept of them."""

from __future__ import annotations

import functools
import json
import re
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from pkgkmod.errors import KernelError
from pkgkmod.kernels.aptsources import AptEntry
from pkgkmod.model.kernel import PackageFile
from pkgkmod.progress import Progress
from pkgkmod.workspace import write_atomically

if TYPE_CHECKING:
    from pkgkmod.kernels.aptrelease import AptRelease

_FORMAT = 1  # of what is kept; raised when it changes
# linux-headers-*, linux-kbuild-*; Ubuntu's other kernels: linux-hwe-6.8-headers-6.8.0-40
HEADERS = re.compile(r"linux-(?:[a-z0-9.+-]+-)?(?:headers|kbuild)-[a-z0-9.+-]+")
# Debian: linux-image-K, linux-image-K-unsigned; Ubuntu: linux-image-unsigned-K, linux-modules-K, linux-modules-extra-K
IMAGES = re.compile(r"linux-(?:image|modules)-[a-z0-9.+-]+(?<!-dbg)")
_STANZAS = {
    HEADERS: re.compile(rb"\nPackage: linux-(?:[a-z0-9.+-]+-)?(?:headers|kbuild)-"),
    IMAGES: re.compile(rb"\nPackage: linux-(?:image|modules)-(?!\S*-dbg\n)"),
}
_RELATION = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9.+-]*)(?::\w+)?\s*(?:\(\s*(?P<op><<|<=|=|>=|>>)\s*(?P<version>\S+?)\s*\))?"
)
_FORMS = (".xz", ".gz", "")  # of a Packages file, the smallest first
_PIECE = 1024 * 1024


@dataclass(frozen=True)
class Need:
    """A package that another one depends on."""

    name: str
    relation: str = ""
    """As in Depends: =, >=, ...; empty if any version will do."""
    version: str = ""

    def is_met_by(self, version: str) -> bool:
        """Tell whether a version will do."""
        ours, wanted = version_key(version), version_key(self.version)
        match self.relation:
            case "=":
                return ours == wanted
            case ">=":
                return ours >= wanted
            case ">>":
                return ours > wanted
            case "<=":
                return ours <= wanted
            case "<<":
                return ours < wanted
            case _:
                return True


@dataclass(frozen=True)
class AptPackage:
    """A header package of an archive."""

    name: str
    version: str
    arch: str
    """Debian's name of the architecture, or `all`."""
    url: str
    sha256: str
    size: int
    needs: tuple[tuple[Need, ...], ...]
    """Header packages that it depends on: of each group, one."""

    @property
    def file(self) -> PackageFile:
        """The package, as the store fetches it."""
        return PackageFile(self.name, self.version, self.url, self.sha256, self.size)


@dataclass(frozen=True)
class AptIndex:
    """What is kept of an archive."""

    entry: AptEntry
    packages: tuple[AptPackage, ...]
    listing: Mapping[str, str]
    """Digest of each Packages file that was read, by its path."""
    failure: str = ""
    """Why the archive was left out; empty if it was read."""


@functools.cache
def version_key(text: str) -> tuple[Any, ...]:
    """Return what orders versions as dpkg does (Debian policy, 5.6.12)."""
    epoch, colon, rest = text.partition(":")
    if not colon:
        epoch, rest = "0", text
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
    return int(epoch) if epoch.isdigit() else 0, _part_key(upstream), _part_key(revision)


def _part_key(text: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Return what orders one part of a version: ~ is before its end, its end before letters, these before others."""
    pieces = re.findall(r"([^0-9]*)([0-9]*)", text)
    return tuple(((*map(_order, other), 0), int(number or 0)) for other, number in pieces)


def _order(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256


def load_index(entry: AptEntry, file: Path) -> AptIndex | None:
    """Return what was kept of an archive in `file`; None if there is nothing that can be used."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["format"] != _FORMAT or kept["entry"] != entry.line:
            return None
        packages = tuple(
            AptPackage(
                name, version, arch, url, sha256, size, tuple(tuple(Need(*n) for n in group) for group in groups)
            )
            for name, version, arch, url, sha256, size, groups in kept["packages"]
        )
        return AptIndex(entry, packages, kept["listing"], kept["failure"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_index(index: AptIndex, file: Path) -> None:
    """Keep in `file` what is needed of an archive."""
    content = {
        "format": _FORMAT,
        "entry": index.entry.line,
        "failure": index.failure,
        "listing": dict(index.listing),
        "packages": [
            (p.name, p.version, p.arch, p.url, p.sha256, p.size, [[_plain(n) for n in group] for group in p.needs])
            for p in index.packages
        ],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(content, separators=(",", ":")))


def _plain(need: Need) -> tuple[str, str, str]:
    return need.name, need.relation, need.version


def listing_of(entry: AptEntry, release: AptRelease) -> dict[str, str]:
    """Return which Packages files of the Release file are to be read, with the digests of their best forms.

    Raise KernelError if the archive lacks a component or an architecture of the entry.
    """
    found = {}
    for component in entry.components or ("",):
        for arch in (*entry.arches, "all"):
            path = f"{component}/binary-{arch}/Packages" if component else "Packages"
            forms = [release.files[path + ending][0] for ending in _FORMS if path + ending in release.files]
            if forms and (arch != "all" or release.has_index_for_all):
                found[path] = forms[0]
            elif arch != "all":
                raise KernelError(
                    f"the archive {entry.place} has no {path}",
                    details=f"components: {release.fields.get('components', 'not named')}\n"
                    f"architectures: {release.fields.get('architectures', 'not named')}",
                    hint="correct the entry's components or architectures",
                )
    return found


def read_packages(
    entry: AptEntry,
    release: AptRelease,
    listing: Mapping[str, str],
    progress: Progress,
    names: re.Pattern[str] = HEADERS,
) -> AptIndex:
    """Fetch the Packages files of an archive and read the header packages, or the IMAGES, out of them."""
    packages: dict[AptPackage, None] = {}
    for path in listing:
        packages |= dict.fromkeys(_fetched(entry, release, path, progress, names))
    return AptIndex(entry, tuple(packages), listing)


def _fetched(
    entry: AptEntry, release: AptRelease, path: str, progress: Progress, names: re.Pattern[str]
) -> list[AptPackage]:
    """Return the packages of some names in a Packages file, in the smallest form that the archive has."""
    from pkgkmod.kernels.download import NotFound, fetch_package  # needed for news only

    for ending in _FORMS:
        if path + ending not in release.files:
            continue
        sha256, size = release.files[path + ending]
        folder = path.rpartition("/")[0]
        places = [f"{folder}/by-hash/SHA256/{sha256}".lstrip("/")] if release.by_hash else []
        for name in (*places, path + ending):
            package = PackageFile(path + ending, f"of {entry.place}", entry.release_folder + name, sha256, size)
            with tempfile.TemporaryDirectory(prefix="pkgkmod-apt-") as work:
                file = Path(work, f"Packages{ending}")
                try:
                    fetch_package(package, file, progress)
                except NotFound:
                    continue
                return _read(entry, file, package, names)
    raise KernelError(
        f"the archive {entry.place} has no {path}, although its Release file names it",
        hint="the archive may be changing just now; try again",
    )


def _read(entry: AptEntry, file: Path, package: PackageFile, names: re.Pattern[str]) -> list[AptPackage]:
    import gzip
    import lzma
    import zlib

    openers: Mapping[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, "": open}
    try:
        with openers[file.suffix](file, "rb") as stream:
            return list(parse_packages(entry, stream, names))
    except (gzip.BadGzipFile, EOFError, lzma.LZMAError, zlib.error) as error:
        raise KernelError(f"{package.name} {package.version} cannot be unpacked: {error}") from None


def parse_packages(entry: AptEntry, stream: IO[bytes], names: re.Pattern[str] = HEADERS) -> Iterator[AptPackage]:
    """Return the header packages, or the IMAGES, of a Packages file; KernelError if one is malformed."""
    from pkgkmod.formats.deb import read_control  # python-debian needs 0.1 s to load

    with tempfile.TemporaryDirectory(prefix="pkgkmod-apt-") as work:
        cut = Path(work, "Packages")
        cut.write_text(b"\n\n".join(_stanzas(stream, _STANZAS[names])).decode("utf-8", "replace"), encoding="utf-8")
        for fields in read_control(cut):
            try:
                yield _package(entry, {name.lower(): value for name, value in fields.items()}, names)
            except (KeyError, ValueError) as error:
                raise KernelError(
                    f"the index of {entry.place} is malformed: {fields.get('Package', '')}: {error}",
                    hint="tell those who run the archive",
                ) from None


def _stanzas(stream: IO[bytes], wanted: re.Pattern[bytes]) -> Iterator[bytes]:
    """Cut out the stanzas that are wanted: an index has 60,000 others, and reading all takes half a minute.

    Debian's has 55 MB, and is held in pieces only.
    """
    rest = b""
    while piece := stream.read(_PIECE):
        whole, _, rest = (rest + piece).rpartition(b"\n\n")
        yield from _stanzas_of(b"\n" + whole, wanted)
    yield from _stanzas_of(b"\n" + rest, wanted)


def _stanzas_of(content: bytes, wanted: re.Pattern[bytes]) -> Iterator[bytes]:
    for found in wanted.finditer(content):
        begin = content.rfind(b"\n\n", 0, found.start() + 1)
        end = content.find(b"\n\n", found.end())
        yield content[max(begin, 0) : end if end >= 0 else len(content)].strip(b"\n")


def _package(entry: AptEntry, fields: Mapping[str, str], names: re.Pattern[str]) -> AptPackage:
    sha256 = fields["sha256"].strip().lower()
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"'{sha256}' is not a SHA256")
    if not names.fullmatch(fields["package"]):
        raise ValueError("not the name of a package")
    if not re.fullmatch(r"[0-9A-Za-z.+~:-]+", fields["version"]):
        raise ValueError(f"'{fields['version']}' is not a version")
    if not re.fullmatch("[0-9]{1,18}", fields["size"].strip()):
        raise ValueError(f"'{fields['size']}' is not a size")
    return AptPackage(
        name=fields["package"],
        version=fields["version"],
        arch=fields["architecture"],
        url=_package_url(entry, fields["filename"]),
        sha256=sha256,
        size=int(fields["size"]),
        needs=tuple(_needs(f"{fields.get('pre-depends', '')},{fields.get('depends', '')}", names)),
    )


def _package_url(entry: AptEntry, filename: str) -> str:
    """Return the address of a package; its name in the index must lead to nowhere outside of the archive."""
    path = PurePosixPath(filename)
    if path.is_absolute() or ".." in path.parts or not path.parts or not filename.isprintable() or "\\" in filename:
        raise ValueError(f"the file name '{filename}' leads out of the archive")
    # apt, too, writes + as %2b: some servers take it for a space.
    return f"{entry.uri}/{urllib.parse.quote(str(path), safe='/~:')}"


def _needs(depends: str, names: re.Pattern[str]) -> Iterator[tuple[Need, ...]]:
    """Return the dependencies of that kind; those on compilers and tools are met by the machine."""
    for group in depends.split(","):
        relations = [_RELATION.match(choice.strip()) for choice in group.split("|")]
        needs = tuple(Need(r["name"], r["op"] or "", r["version"] or "") for r in relations if r)
        if kept := tuple(need for need in needs if names.fullmatch(need.name)):
            yield kept

"""The repodata of an rpm-md repository: fetched, its signature and digests checked, and read for kernels' packages."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import re
import tempfile
import urllib.parse
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from pkgkmod.cachefolder import cache_folder
from pkgkmod.command import Command, run
from pkgkmod.errors import KernelError
from pkgkmod.kernels.download import fetch_index, fetch_package
from pkgkmod.model.kernel import PackageFile
from pkgkmod.programs import find_tool
from pkgkmod.progress import Progress
from pkgkmod.workspace import write_atomically

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element  # needs 5 ms to load

_FORMAT = 1  # of what is kept; raised when it changes
_PIECE = 1024 * 1024
_MOST = 4 * 1024**3  # bytes of an unpacked index whose size is not told
_COMMON = "{http://linux.duke.edu/metadata/common}"
_RPM = "{http://linux.duke.edu/metadata/rpm}"
_REPO = "{http://linux.duke.edu/metadata/repo}"
_BASE = "{http://www.w3.org/XML/1998/namespace}base"
# kernel-devel, kernel-64k-debug-devel, kernel-devel-uname-r; SUSE: kernel-default-devel, kernel-devel-rt
_KIN = re.compile(r"kernel-(?:[A-Za-z0-9_.+]+-)*devel(?:-[A-Za-z0-9_.+]+)*")
# kernel-core, kernel-64k-modules, kernel-rt-modules-core; SUSE: kernel-default, kernel-default-extra
_KERNEL = re.compile(r"kernel-(?!.*(?:devel|debuginfo|doc|headers|tools|source))[A-Za-z0-9_.+-]+")
_OPEN: Mapping[str, Callable[[Path, str], Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open, ".xml": open}
_WORD = re.compile(r"[0-9A-Za-z._+~^-]+")
# OpenPGP's numbers of MD5, SHA-1 and RIPEMD-160 (RFC 4880, 9.4)
_WEAK_HASHES = ("1", "2", "3")


@dataclass(frozen=True)
class Repository:
    """An rpm-md repository, and whose signatures count."""

    baseurl: str
    """http://, https:// or file://, without a slash at its end; repodata/ is in it."""
    arch: str
    """Machine, as `uname -m` prints it, whose packages are read."""
    keys: tuple[Path, ...] = ()
    """Files of OpenPGP keys; without any, signatures are not checked."""
    signed_repodata: bool = False
    """True if the repodata must be signed with one of the keys."""
    images: bool = False
    """True if kernels are read out of it, not what modules are built with."""

    @cached_property
    def folder(self) -> Path:
        """Where what is known of the repository is kept."""
        facts = (self.baseurl, self.arch, str(self.signed_repodata), *map(str, self.keys), *["images"] * self.images)
        return cache_folder() / "rpm-md" / hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]

    def address(self, href: str) -> str:
        """Return the address of a file that the index names; ValueError if it leads out of the repository."""
        path = PurePosixPath(href)
        if path.is_absolute() or ".." in path.parts or not path.parts or not href.isprintable() or "\\" in href:
            raise ValueError(f"the location '{href}' leads out of the repository")
        # A plus becomes %2B: some servers take it for a space.
        return f"{self.baseurl}/{urllib.parse.quote(str(path), safe='/~')}"


@dataclass(frozen=True)
class RpmPackage:
    """A package of a repository that has to do with building modules."""

    name: str
    epoch: int
    version: str
    release: str
    arch: str
    """Machine, or `noarch`."""
    url: str
    sha256: str
    size: int
    provides: tuple[tuple[str, str], ...]
    """Name and VERSION[-RELEASE] of what it provides, as far as it is about kernel-devel."""
    needs: tuple[tuple[str, str], ...]
    """Likewise, what it requires in exactly that version."""

    @property
    def evr(self) -> str:
        """[EPOCH:]VERSION-RELEASE."""
        return f"{self.epoch}:{self.version}-{self.release}" if self.epoch else f"{self.version}-{self.release}"

    @property
    def file(self) -> PackageFile:
        """The package, as the store fetches it."""
        return PackageFile(self.name, self.evr, self.url, self.sha256, self.size)

    @cached_property
    def age(self) -> tuple[object, ...]:
        """What orders packages of one name as rpm does."""
        return self.epoch, _version_key(self.version), _version_key(self.release)


def _version_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return what orders as rpmvercmp: ~ is before the end, ^ behind it, then come letters, and numbers last."""
    ranks = {"~": -1, "^": 1}
    parts = re.findall(r"[0-9]+|[A-Za-z]+|[~^]", text)
    key = [(3, int(p), "") if p.isdigit() else (2, 0, p) if p.isalpha() else (ranks[p], 0, "") for p in parts]
    return (*key, (0, 0, ""))


def load_index(repository: Repository) -> tuple[str, tuple[RpmPackage, ...]] | None:
    """Return what was kept of a repository: the digest of its primary index, and its packages; None if nothing was."""
    try:
        kept = json.loads((repository.folder / "index.json").read_text(encoding="utf-8"))
        if kept["format"] != _FORMAT or kept["baseurl"] != repository.baseurl:
            return None
        return str(kept["primary"]), tuple(_kept_package(facts) for facts in kept["packages"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _kept_package(facts: dict[str, Any]) -> RpmPackage:
    relations = {kind: tuple((name, version) for name, version in facts[kind]) for kind in ("provides", "needs")}
    return RpmPackage(**{**facts, **relations})


def ask_index(repository: Repository, progress: Progress) -> tuple[RpmPackage, ...]:
    """Ask a repository what it serves, and keep it; KernelError if it cannot be had or is not believed."""
    with progress.step(f"Reading the index of {repository.baseurl}"):
        primary = _read_repomd(repository, _fetch_repomd(repository, progress))
        kept = load_index(repository)
        if kept and kept[0] == primary.file.sha256:
            return kept[1]
        with tempfile.TemporaryDirectory(prefix="pkgkmod-rpm-md-") as work:
            file = Path(work, "primary")
            fetch_package(primary.file, file, progress)
            packages = tuple(_packages(repository, primary, file, progress))
    content = {
        "format": _FORMAT,
        "baseurl": repository.baseurl,
        "primary": primary.file.sha256,
        "packages": [asdict(package) for package in packages],
    }
    write_atomically(repository.folder / "index.json", json.dumps(content, separators=(",", ":")))
    return packages


def _fetch_repomd(repository: Repository, progress: Progress) -> Path:
    """Bring repomd.xml up to date and check its signature."""
    repository.folder.mkdir(parents=True, exist_ok=True)
    repomd, signature = repository.folder / "repomd.xml", repository.folder / "repomd.xml.asc"
    try:
        _fetch(repository, repomd)
        if repository.signed_repodata and not _fetch(repository, signature, wanted=False):
            raise KernelError(
                f"the repository {repository.baseurl} is not signed",
                details="there is no repodata/repomd.xml.asc",
                hint="repo_gpgcheck asks for it; without, gpgkey still checks packages that are signed themselves",
            )
        if repository.signed_repodata:
            _verify(repository, repomd, signature, progress)
    except KernelError:
        # Or "nothing newer" would be the answer to the next question about what is not believed.
        repomd.unlink(missing_ok=True)
        signature.unlink(missing_ok=True)
        raise
    return repomd


def _fetch(repository: Repository, file: Path, *, wanted: bool = True) -> bool:
    try:
        return fetch_index(f"{repository.baseurl}/repodata/{file.name}", file, ask=True, wanted=wanted)
    except KernelError as error:
        raise KernelError(
            f"the repository {repository.baseurl} cannot be read",
            details=error.brief,
            hint=error.hint or "baseurl is the folder that holds repodata/repomd.xml",
        ) from None


def _verify(repository: Repository, repomd: Path, signature: Path, progress: Progress) -> None:
    """Raise KernelError unless one of the repository's keys signed its repomd.xml."""
    find_tool("gpg", needed_for="the signatures of repositories")
    with tempfile.TemporaryDirectory(prefix="pkgkmod-rpm-md-") as name:
        work = Path(name)
        words = work / "words"
        gpg = ("gpg", "--homedir", name, "--batch", "--no-autostart", "--log-file", str(words), "--status-fd", "1")
        run(Command((*gpg, "--import", *map(str, repository.keys)), work), log=work / "log", progress=progress)
        argv = (*gpg, "--trust-model", "always", "--verify", str(signature), str(repomd))
        # The exit status is no help: it also tells failure where one of several signatures is of an unknown key.
        if not _is_signed(run(Command(argv, work), log=work / "log", progress=progress).tail):
            said = words.read_text(encoding="utf-8", errors="replace") if words.exists() else ""
            raise KernelError(
                f"the signature of the repository {repository.baseurl} is not one to believe",
                details=re.sub(r"(?m)^.*?gpg(?:\[\d+\])?: ", "", said).strip(),
                hint=f"it is to be signed with a key of {', '.join(map(str, repository.keys))}",
            )


def _is_signed(status: tuple[str, ...]) -> bool:
    """Tell whether there is a good signature, and no bad one; those of unknown keys do not count (doc/DETAILS)."""
    is_good = found = False
    for line in status:
        words = line.split(" ")
        if words[0] != "[GNUPG:]":
            continue
        if words[1] == "BADSIG":
            return False
        if words[1] in ("NEWSIG", "GOODSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "ERRSIG"):
            is_good = words[1] == "GOODSIG"
        found |= words[1] == "VALIDSIG" and is_good and len(words) > 9 and words[9] not in _WEAK_HASHES
    return found


@dataclass(frozen=True)
class _Primary:
    """The primary index: which file it is, and its size in bytes when it is unpacked."""

    file: PackageFile
    unpacked: int


def _read_repomd(repository: Repository, repomd: Path) -> _Primary:
    try:
        for data in _elements(_pieces(repomd.open("rb"), 64 * _PIECE), _REPO + "data"):
            if data.get("type") == "primary":
                return _primary(repository, data)
        raise ValueError("repomd.xml names no primary index")
    except ValueError as error:
        repomd.unlink(missing_ok=True)
        raise _malformed(repository, error) from None


def _primary(repository: Repository, data: Element) -> _Primary:
    href = _location(data, _REPO)
    return _Primary(
        PackageFile(
            name=PurePosixPath(href).name,
            version=f"of {repository.baseurl}",
            url=repository.address(href),
            sha256=_sha256(data, _REPO),
            size=int(_text(data, _REPO + "size")),
        ),
        unpacked=int(data.findtext(_REPO + "open-size") or _MOST),
    )


def _packages(repository: Repository, primary: _Primary, file: Path, progress: Progress) -> Iterator[RpmPackage]:
    """Read the packages that have to do with building modules out of the primary index."""
    ending = PurePosixPath(primary.file.name).suffix
    if ending == ".zst":
        file, ending = _unpacked_zstd(repository, primary, file, progress), ".xml"
    if ending not in _OPEN:
        raise KernelError(
            f"the index of {repository.baseurl} is compressed in a way that is not known here",
            details=primary.file.url,
            hint="known are gz, xz, bz2 and zst: createrepo_c --general-compress-type",
        )
    try:
        for element in _elements(_pieces(_OPEN[ending](file, "rb"), primary.unpacked), _COMMON + "package"):
            if package := _package(repository, element):
                yield package
    except ValueError as error:
        raise _malformed(repository, error) from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise KernelError(f"the index of {repository.baseurl} cannot be unpacked: {error}") from None


def _unpacked_zstd(repository: Repository, primary: _Primary, file: Path, progress: Progress) -> Path:
    # Python's own library knows zstd from 3.14 on.
    find_tool("zstd", needed_for=f"the index of {repository.baseurl}")
    find_tool("prlimit", needed_for="unpacking with a limit")
    target = file.with_name("primary.xml")
    argv = ("prlimit", f"--fsize={primary.unpacked}", "zstd", "-q", "-d", "-o", str(target), str(file))
    done = run(Command(argv, file.parent), log=file.with_name("log"), progress=progress)
    if not done.ok:
        raise KernelError(
            f"the index of {repository.baseurl} cannot be unpacked into the {primary.unpacked} bytes that it tells",
            details="\n".join(done.tail),
        )
    return target


def _pieces(stream: IO[bytes], limit: int) -> Iterator[bytes]:
    """Read a stream; ValueError if it is longer than it should be: what unpacks without end is an attack."""
    done = 0
    with stream:
        while piece := stream.read(_PIECE):
            done += len(piece)
            if done > limit:
                raise ValueError(f"it is longer than {limit} bytes")
            yield piece


def _elements(pieces: Iterator[bytes], tag: str) -> Iterator[Element]:
    """Parse XML as it comes, and return its elements `tag`, which are forgotten afterwards; ValueError if it is bad."""
    import xml.etree.ElementTree as etree

    found: list[Element] = []

    class Builder(etree.TreeBuilder):
        """Collects the elements, and refuses definitions: entities that grow without end need them."""

        def end(self, name: Any, /) -> Element:
            element = super().end(name)
            if name == tag:
                found.append(element)
            return element

        def doctype(self, *_: object) -> None:
            raise ValueError("it holds a document type definition")

    parser = etree.XMLParser(target=Builder())
    try:
        for piece in pieces:
            parser.feed(piece)
            for element in found:
                yield element
                element.clear()
            found.clear()
        parser.close()
    except etree.ParseError as error:
        raise ValueError(str(error)) from None


def _package(repository: Repository, element: Element) -> RpmPackage | None:
    """Return a package; None if it has nothing to do with building modules, or is for another machine."""
    name, arch = _text(element, _COMMON + "name"), _text(element, _COMMON + "arch")
    provides = _relations(element, "provides")
    is_kin = _KERNEL.fullmatch(name) if repository.images else _KIN.fullmatch(name) or provides
    if arch not in (repository.arch, "noarch") or not is_kin:
        return None
    version, size = element.find(_COMMON + "version"), element.find(_COMMON + "size")
    if version is None or size is None:
        raise ValueError(f"{name} has no version or size")
    for word in (name, version.get("ver") or "", version.get("rel") or ""):
        if not _WORD.fullmatch(word):
            raise ValueError(f"'{word}' is no part of a package's name")
    try:
        return RpmPackage(
            name=name,
            epoch=int(version.get("epoch") or 0),
            version=version.get("ver") or "",
            release=version.get("rel") or "",
            arch=arch,
            url=repository.address(_location(element, _COMMON)),
            sha256=_sha256(element, _COMMON),
            size=int(size.get("package") or ""),
            provides=provides,
            needs=_relations(element, "requires"),
        )
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _relations(element: Element, kind: str) -> tuple[tuple[str, str], ...]:
    """Return what a package provides or requires in one version, as far as it is about kernel-devel."""
    entries = element.iterfind(f"{_COMMON}format/{_RPM}{kind}/{_RPM}entry")
    found = {
        (entry.get("name", ""), "-".join(filter(None, (entry.get("ver"), entry.get("rel")))))
        for entry in entries
        if entry.get("flags") == "EQ" and _KIN.fullmatch(entry.get("name", ""))
    }
    return tuple(sorted(found))


def _text(element: Element, tag: str) -> str:
    text = element.findtext(tag)
    if not text:
        raise ValueError(f"'{tag.rpartition('}')[2]}' is missing")
    return text


def _location(element: Element, namespace: str) -> str:
    location = element.find(namespace + "location")
    if location is None or location.get(_BASE):
        raise ValueError("it does not lie in the repository (xml:base)" if location is not None else "no location")
    return location.get("href", "")


def _sha256(element: Element, namespace: str) -> str:
    checksum = element.find(namespace + "checksum")
    kind = checksum.get("type") if checksum is not None else "no checksum"
    if checksum is None or kind != "sha256" or not re.fullmatch("[0-9a-f]{64}", checksum.text or ""):
        raise ValueError(f"it is not named with its sha256, but: {kind}")
    return str(checksum.text)


def _malformed(repository: Repository, error: ValueError) -> KernelError:
    return KernelError(
        f"the index of {repository.baseurl} is malformed: {error}", hint="tell those who run the repository"
    )

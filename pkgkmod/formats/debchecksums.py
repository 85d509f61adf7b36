"""The lists of files in .dsc, .buildinfo and .changes: read, checked, and brought up to date.

Everything else in these files stays as it is. A signature around them is left out.
"""

from __future__ import annotations

import email.utils
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from debian.deb822 import Deb822

from pkgkmod.errors import InputError

ENDINGS = (".dsc", ".buildinfo", ".changes")
"""How these files end, in the order in which they are signed: each one lists those before it."""

_LISTS = {
    "files": "md5",
    "checksums-md5": "md5",
    "checksums-sha1": "sha1",
    "checksums-sha256": "sha256",
    "checksums-sha512": "sha512",
}
_FIELD = re.compile(rb"(?P<name>[!-9;-~]+):")
# deb-changes(5), dsc(5): digest, size, in .changes also section and priority, and a name without a folder.
_LINE = re.compile(
    rb"(?P<digest>[ \t]+[0-9a-f]{32,128})(?P<size>[ \t]+[0-9]{1,15})(?P<kind>(?:[ \t]+\S+[ \t]+\S+)?[ \t]+)"
    rb"(?P<name>[0-9A-Za-z][0-9A-Za-z.+~_%:-]*)[ \t]*\n?"
)
_LARGEST = 64 << 20
_SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----"


@dataclass(frozen=True)
class FileFacts:
    """Digests, by algorithm, and size in bytes of a file."""

    size: int
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Listing:
    """A .dsc, .buildinfo or .changes."""

    path: Path
    text: bytes
    """Without signature."""
    is_signed: bool
    """Tell whether there is a signature around it, right or wrong."""
    files: Mapping[str, Mapping[str, tuple[str, int]]]
    """What it says of other files: digest and size, by name, then by algorithm."""
    time: int | None
    """When it was made, in seconds since 1970, if it says so (Date, Build-Date)."""

    def fault(self, facts: FileFacts, name: str) -> str:
        """Return what is wrong in what it says of a file; nothing if all is right."""
        for algorithm, (digest, size) in self.files[name].items():
            if size != facts.size:
                return f"{self.path.name} says that {name} has {size} bytes, and it has {facts.size}"
            if digest != facts.digests[algorithm]:
                return f"{self.path.name} has another {algorithm.upper()} of {name}"
        return ""

    def with_facts(self, facts: Mapping[str, FileFacts]) -> bytes:
        """Return the text with the digests and sizes of some files."""

        def edit(algorithm: str, found: re.Match[bytes]) -> bytes:
            known = facts.get(found["name"].decode("ascii"))
            if known is None:
                return found[0]
            space = [found[part][: -len(found[part].lstrip())] for part in ("digest", "size")]
            digest, size = known.digests[algorithm].encode(), b"%d" % known.size
            return space[0] + digest + space[1] + size + found["kind"] + found["name"] + b"\n"

        return b"".join(_lines(self.text, edit))


def facts_of(path: Path) -> FileFacts:
    """Return size and digests of a file."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in _LISTS.values()}
    size = 0
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            size += len(data)
            for one in hashes.values():
                one.update(data)
    return FileFacts(size, {name: one.hexdigest() for name, one in hashes.items()})


def read_listing(path: Path) -> Listing:
    """Read a .dsc, .buildinfo or .changes, its signature unchecked; raise InputError if it is none, or is damaged."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("it is too large")
        text = path.read_bytes()
        is_signed = text.startswith(_SIGNED)
        if is_signed:
            _, lines, _ = Deb822.split_gpg_and_payload(iter(text.splitlines(keepends=True)))
            text = b"\n".join(line.rstrip(b"\r\n") for line in lines) + b"\n"
        return Listing(path, text, is_signed, _files(text), _time(text))
    except (OSError, ValueError, EOFError, TypeError, OverflowError) as error:
        raise InputError(
            f"{path} cannot be read as a list of Debian's", details=str(error), hint="fetch or build it again"
        ) from None


def _files(text: bytes) -> Mapping[str, Mapping[str, tuple[str, int]]]:
    found: dict[str, dict[str, tuple[str, int]]] = {}

    def note(algorithm: str, line: re.Match[bytes]) -> bytes:
        digest = line["digest"].strip().decode("ascii")
        if len(digest) != 2 * hashlib.new(algorithm, usedforsecurity=False).digest_size:
            raise ValueError(f"{digest} is no {algorithm.upper()}")
        known = found.setdefault(line["name"].decode("ascii"), {})
        if algorithm in known:
            raise ValueError(f"{line['name'].decode('ascii')} is listed twice")
        known[algorithm] = digest, int(line["size"])
        return line[0]

    for _ in _lines(text, note):
        pass
    if not found:
        raise ValueError("it lists no files")
    return found


def _lines(text: bytes, edit: Callable[[str, re.Match[bytes]], bytes]) -> Iterator[bytes]:
    """Yield the lines of a text, those of its lists as `edit` returns them; raise ValueError for one that is none."""
    algorithm = None
    for line in text.splitlines(keepends=True):
        if field := _FIELD.match(line):
            algorithm = _LISTS.get(field["name"].decode("ascii").lower())
            if algorithm and line[field.end() :].strip():
                raise ValueError(f"a list begins in an unknown way: {line!r}")
        elif algorithm and line.strip():
            found = _LINE.fullmatch(line)
            if not found:
                raise ValueError(f"no line of a list: {line[:200]!r}")
            line = edit(algorithm, found)
        yield line


def _time(text: bytes) -> int | None:
    found = re.search(rb"(?im)^(?:Build-)?Date:[ \t]*([^\n]{10,60})$", text)
    if not found:
        return None
    try:
        return int(email.utils.parsedate_to_datetime(found[1].decode("ascii", "replace").strip()).timestamp())
    except (ValueError, TypeError):
        return None

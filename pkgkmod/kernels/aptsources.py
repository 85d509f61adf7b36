"""Entries of sources.list(5): which archives there are, and whose signatures are believed."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pkgkmod import data
from pkgkmod.cachefolder import cache_folder
from pkgkmod.data.arches import package_arch
from pkgkmod.progress import Progress
from pkgkmod.workspace import write_atomically

ETC = Path("/etc/apt")

# deb [options] uri suite components; cdrom: entries have a label in brackets, which may hold spaces.
_LINE = re.compile(
    r"deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<uri>(?:\[[^]]*\]|[^\s\[])+)\s+(?P<suite>\S+)(?P<components>(?:\s+\S+)*)"
)
_OPTION = re.compile(r"(?P<name>[a-z-]+)(?P<change>[+-]?)=(?P<value>\S*)", re.IGNORECASE)
_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9_.+~:/-]+")  # of a suite or a component
_URI = re.compile(r"[!-~]+")
_FINGERPRINT = re.compile(r"(?:0x)?[0-9A-Fa-f]{40,64}!?")
_SCHEMES = ("http", "https", "file")
# What apt itself reads in sources.list.d (sources.list(5)).
_SOURCE_FILE = re.compile(r"[A-Za-z0-9_.-]+\.(?:list|sources)")
_YES, _NO = ("yes", "true", "1", "on", "with", "enable"), ("no", "false", "0", "off", "without", "disable")
# Options that believe more than a good signature; trusted=yes is the one that is spoken here.
_LOOSENING = ("allow-insecure", "allow-weak", "allow-downgrade-to-insecure")
_OPTION_OF_FIELD = {"architectures": "arch"}
_ARMOR = "-----BEGIN PGP PUBLIC KEY BLOCK-----"


@dataclass(frozen=True)
class AptEntry:
    """One archive: a suite, or a flat folder, at an address."""

    uri: str
    """http://, https:// or file://, without a slash at its end."""
    suite: str
    """Ends with a slash if the archive is flat."""
    components: tuple[str, ...]
    arches: tuple[str, ...]
    """Debian's names of the architectures that are read."""
    signed_by: tuple[str, ...] = ()
    """Keyring files and fingerprints; empty: the machine's keyrings."""
    trusted: bool = False
    """True if no signature is asked for."""
    check_valid_until: bool = True

    @property
    def is_flat(self) -> bool:
        """True if there is no dists/ and pool/, only a folder."""
        return self.suite.endswith("/")

    @property
    def place(self) -> str:
        """What messages call it."""
        return f"{self.uri} {self.suite}"

    @property
    def line(self) -> str:
        """The entry on one line, for sources.list(5)."""
        options = [f"arch={','.join(self.arches)}"]
        options += [f"signed-by={','.join(self.signed_by)}"] if self.signed_by else []
        options += ["trusted=yes"] if self.trusted else []
        options += [] if self.check_valid_until else ["check-valid-until=no"]
        return " ".join(("deb", f"[{' '.join(options)}]", self.uri, self.suite, *self.components))

    @property
    def release_folder(self) -> str:
        """Address, with a slash at its end, of the folder that holds InRelease."""
        if not self.is_flat:
            return f"{self.uri}/dists/{self.suite}/"
        steps = "".join(f"{step}/" for step in self.suite.split("/") if step not in ("", "."))
        return f"{self.uri}/{steps}"

    @property
    def key(self) -> str:
        """Digest of what is read and who is believed: other answers are kept under other names."""
        return hashlib.sha256(self.line.encode()).hexdigest()[:32]


@functools.cache
def machines() -> Mapping[str, str]:
    """Return what `uname -m` prints, by Debian's names of the architectures."""
    return {str(facts["deb"]): machine for machine, facts in data.load("arches.toml").items()}


def parse_line(text: str, base: Path = Path("/")) -> AptEntry:
    """Return the archive that a line of sources.list names; ValueError says what is wrong with it.

    A relative signed-by file lies below `base`.
    """
    found = _LINE.fullmatch(text.strip())
    if not text.isprintable() or not found:
        raise ValueError("expected 'deb [options] URI SUITE COMPONENTS', as in sources.list(5)")
    options: dict[str, str] = {}
    words = (found["options"] or "").split()
    for word in words:
        option = _OPTION.fullmatch(word)
        if not option:
            raise ValueError(f"the option '{word}' is not NAME=VALUE")
        if not option["change"]:  # arch+= and arch-= change a default that the reader of the file knows
            options[option["name"].lower()] = option["value"]
    return _entry(found["uri"], found["suite"], tuple(found["components"].split()), options, base)


def _entry(uri: str, suite: str, components: tuple[str, ...], options: Mapping[str, str], base: Path) -> AptEntry:
    native = package_arch(os.uname().machine, "deb")
    suite = suite.replace("$(ARCH)", native)
    for name in (suite, *components):
        if not _NAME.fullmatch(name):
            raise ValueError(f"'{name}' cannot be the name of a suite or a component")
    if suite.endswith("/") == bool(components):
        raise ValueError("a suite needs components, and a folder (with a slash at its end) has none")
    wanted = _words(options.get("arch", "")) or (native,)
    arches = tuple(arch for arch in wanted if arch in machines())
    if not arches:
        raise ValueError(f"the architecture '{wanted[0]}' is not known; known: {', '.join(machines())}")
    for name in _LOOSENING:
        if _switch(name, options):
            raise ValueError(f"the option {name} is not supported; trusted=yes asks for no signature")
    if _switch("trusted", options) is False:
        raise ValueError("trusted=no says that it is not to be believed")
    return AptEntry(
        uri=_uri(uri),
        suite=suite,
        components=components,
        arches=arches,
        signed_by=tuple(_believed(word, base) for word in _words(options.get("signed-by", ""))),
        trusted=_switch("trusted", options) is True,
        check_valid_until=_switch("check-valid-until", options) is not False,
    )


def _uri(uri: str) -> str:
    scheme, colon, rest = uri.partition(":")
    scheme = {"copy": "file"}.get(scheme.lower(), scheme.lower())
    if not colon or scheme not in _SCHEMES or not _URI.fullmatch(uri):
        raise ValueError(f"{uri} is not an address that can be read; it starts with {', '.join(_SCHEMES)}")
    urllib.parse.urlsplit(uri)  # ValueError for an odd host
    if ".." in urllib.parse.unquote(rest).split("/"):
        raise ValueError(f"{uri} has '..' in it")
    if scheme == "file":
        rest = "//" + rest.removeprefix("//")
        if not rest.startswith("///"):
            raise ValueError(f"{uri} names no absolute path: file:///PATH")
    return f"{scheme}:{rest}".rstrip("/")


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.split(r"[\s,]+", text.strip())) if text.strip() else ()


def _switch(name: str, options: Mapping[str, str]) -> bool | None:
    """Return what an option says; None if it is not given."""
    if name not in options:
        return None
    value = options[name].strip().lower()
    if value not in _YES + _NO:
        raise ValueError(f"the option {name} is yes or no, not '{value}'")
    return value in _YES


def _believed(word: str, base: Path) -> str:
    """Return a signed-by value as it can be used anywhere: an absolute path, or a fingerprint in capitals."""
    if _FINGERPRINT.fullmatch(word):
        return word.removeprefix("0x").upper()
    return str(base / word)


def machine_entries(progress: Progress) -> Iterator[AptEntry]:
    """Return the archives that this machine's apt uses; what cannot be used here is left out with a warning."""
    folder = ETC / "sources.list.d"
    files = [ETC / "sources.list", *(sorted(folder.iterdir()) if folder.is_dir() else ())]
    for path in files:
        if not path.is_file() or not (path.parent == ETC or _SOURCE_FILE.fullmatch(path.name)):
            continue
        try:
            content = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            progress.warning(f"{path} cannot be read: {error.strerror}")
            continue
        yield from (
            _of_deb822(path, content, progress) if path.suffix == ".sources" else _of_list(path, content, progress)
        )


def _of_list(path: Path, content: str, progress: Progress) -> Iterator[AptEntry]:
    for line in content.splitlines():
        text = _without_comment(line).replace("\t", " ").strip()
        if not text or not text.startswith("deb ") or "cdrom:" in text:
            continue
        try:
            yield parse_line(text)
        except ValueError as error:
            progress.warning(f"{path}: '{text}' is left out: {error}")


def _without_comment(line: str) -> str:
    """Return a line without what follows #, unless it stands in brackets (as apt reads it)."""
    found = re.match(r"(?:\[[^]]*\]|[^#])*", line)
    return found[0] if found else ""


def _of_deb822(path: Path, content: str, progress: Progress) -> Iterator[AptEntry]:
    for fields in _paragraphs(content):
        options = {_OPTION_OF_FIELD.get(name.lower(), name.lower()): value for name, value in fields.items()}
        enabled = options.get("enabled", "yes").strip().lower() not in _NO
        if not enabled or "deb" not in _words(options.get("types", "")):
            continue
        keys: tuple[str, ...] = ()
        if _ARMOR in options.get("signed-by", ""):
            keys = (_kept_key(options.pop("signed-by")),)
        for uri in _words(options.get("uris", "")):
            for suite in _words(options.get("suites", "")):
                if uri.startswith("cdrom:"):
                    continue
                try:
                    entry = _entry(uri, suite, _words(options.get("components", "")), options, Path("/"))
                except ValueError as error:
                    progress.warning(f"{path}: {uri} {suite} is left out: {error}")
                else:
                    yield replace(entry, signed_by=keys or entry.signed_by)


def _kept_key(value: str) -> str:
    """Keep a key that stands in a .sources file as a file; return its path."""
    lines = (line.strip() for line in value.strip().splitlines())
    text = "\n".join("" if line == "." else line for line in lines) + "\n"
    path = apt_folder() / "keys" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.asc"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    return str(path)


def _paragraphs(content: str) -> list[dict[str, str]]:
    """Return the paragraphs of a .sources file, read by python-debian only when the file is new."""
    digest = hashlib.sha256(content.encode()).hexdigest()[:32]
    kept = apt_folder() / "sources" / f"{digest}.json"
    try:
        found: list[dict[str, str]] = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        from pkgkmod.formats.deb import read_control  # python-debian needs 0.1 s to load

        with tempfile.TemporaryDirectory(prefix="pkgkmod-apt-") as work:
            file = Path(work, "sources")
            file.write_text(content, encoding="utf-8")
            found = [dict(paragraph) for paragraph in read_control(file)]
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps(found))
    return found


def apt_folder() -> Path:
    """Return the folder that keeps what archives said."""
    return cache_folder() / "apt"

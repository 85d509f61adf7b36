"""The Release file of an apt archive: fetched, its signature checked by gpgv, and read."""

from __future__ import annotations

import base64
import binascii
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from pkgkmod.command import Command, run
from pkgkmod.errors import KernelError
from pkgkmod.kernels.aptsources import ETC, AptEntry
from pkgkmod.kernels.download import fetch_index
from pkgkmod.programs import find_tool
from pkgkmod.progress import Progress

# Where Debian's and Ubuntu's keys are if apt itself does not hold them.
_DISTRIBUTIONS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
)
_BEGIN, _SIGNATURE, _END = (
    b"-----BEGIN PGP SIGNED MESSAGE-----",
    b"-----BEGIN PGP SIGNATURE-----",
    b"-----END PGP SIGNATURE-----",
)
_ARMOR = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t\r]*\n(?P<headers>(?:[^\n]*\S[^\n]*\n)*?)[ \t\r]*\n"
    rb"(?P<body>[A-Za-z0-9+/=\s]+?)(?:\n=[A-Za-z0-9+/]{4}\s*)?-----END PGP PUBLIC KEY BLOCK-----"
)
_KEYBOX = b"KBXf"
_LOGGED = re.compile(r"^(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d )?gpgv(?:\[\d+\])?:? ", re.MULTILINE)
# OpenPGP's numbers of MD5, SHA-1 and RIPEMD-160 (RFC 4880, 9.4): apt does not believe them either.
_WEAK_HASHES = ("1", "2", "3")


@dataclass(frozen=True)
class AptRelease:
    """What a Release file says."""

    fields: Mapping[str, str]
    """By names in lower case."""
    files: Mapping[str, tuple[str, int]]
    """SHA-256 and size in bytes of each index, by its path beside the Release file."""

    @property
    def by_hash(self) -> bool:
        """True if indexes are also served under the names of their digests."""
        return self.fields.get("acquire-by-hash", "").strip().lower() == "yes"

    @property
    def has_index_for_all(self) -> bool:
        """True if packages of architecture `all` are in an index of their own only.

        Some archives have that index without naming `all` as an architecture. Such a one may be stale, as that of
        Debian's security archive; apt does not read it either.
        """
        named = self.fields.get("architectures", "all").split()
        return "all" in named and "Packages" not in self.fields.get("no-support-for-architecture-all", "").split()


def fetch_release(entry: AptEntry, folder: Path, progress: Progress) -> AptRelease:
    """Ask an archive for its Release file, kept in `folder`; KernelError if it cannot be had or is not believed."""
    with tempfile.TemporaryDirectory(prefix="pkgkmod-apt-") as name:
        work = Path(name)
        text = work / "Release"
        files = _fetch(entry, folder)
        try:
            if len(files) == 1:
                _check_frame(entry, files[0])
            if entry.trusted:
                text.write_bytes(_unsigned(files[0].read_bytes()))
            else:
                _verify(entry, files, text, work, progress)
        except KernelError:
            # Or "nothing newer" would be the answer to the next question about what is not believed.
            for file in files:
                file.unlink(missing_ok=True)
            raise
        release = _read(entry, text)
    _warn_if_old(entry, release, progress)
    return release


def _fetch(entry: AptEntry, folder: Path) -> tuple[Path, ...]:
    """Return InRelease; or Release, with Release.gpg behind it if signatures count."""
    folder.mkdir(parents=True, exist_ok=True)
    combined, plain, detached = folder / "InRelease", folder / "Release", folder / "Release.gpg"
    if fetch_index(entry.release_folder + "InRelease", combined, ask=True, wanted=False):
        return (combined,)
    if not fetch_index(entry.release_folder + "Release", plain, ask=True, wanted=False):
        raise KernelError(
            f"the archive {entry.place} has no Release file",
            details=f"neither InRelease nor Release at {entry.release_folder}",
            hint="correct the entry; for a folder of your own, `apt-ftparchive release . > Release` makes one",
        )
    if entry.trusted:
        return (plain,)
    if not fetch_index(entry.release_folder + "Release.gpg", detached, ask=True, wanted=False):
        plain.unlink()
        raise KernelError(f"the archive {entry.place} is not signed", hint=_trust_hint(entry))
    return plain, detached


def _trust_hint(entry: AptEntry) -> str:
    if entry.signed_by:
        return f"it is to be signed with {', '.join(entry.signed_by)}, as its entry says"
    return "name the file of its key in the entry: [signed-by=FILE]; [trusted=yes] asks for no signature"


def _check_frame(entry: AptEntry, file: Path) -> None:
    """Refuse text before, between or after what is signed: nothing but one signed message counts."""
    content = file.read_bytes().replace(b"\r\n", b"\n")
    if _BEGIN not in content:
        if file.name == "Release" and entry.trusted:
            return
        raise KernelError(f"the InRelease file of {entry.place} is not a signed text", hint=_trust_hint(entry))
    lines = content.strip().split(b"\n")
    frame = [line.rstrip() for line in lines if line.startswith(b"-----")]
    if frame != [_BEGIN, _SIGNATURE, _END] or lines[0].rstrip() != _BEGIN or lines[-1].rstrip() != _END:
        raise KernelError(f"the InRelease file of {entry.place} holds more than one signed text")


def _unsigned(content: bytes) -> bytes:
    """Return what a signed text says, or all of a text that is not signed."""
    if not content.startswith(_BEGIN):
        return content
    text = content.replace(b"\r\n", b"\n").partition(b"\n\n")[2].partition(b"\n" + _SIGNATURE)[0]
    return re.sub(rb"(?m)^- ", b"", text) + b"\n"


def _verify(entry: AptEntry, files: tuple[Path, ...], text: Path, work: Path, progress: Progress) -> None:
    """Write what is signed to `text`; raise KernelError unless a key that is believed signed it."""
    find_tool("gpgv", needed_for="the signatures of apt's archives")
    status, words = work / "status", work / "gpgv.log"
    argv = ("gpgv", "--homedir", str(work), "--status-fd", "1", "--log-file", str(words), *_keyrings(entry, work))
    if len(files) == 1:
        argv += ("--output", str(text), str(files[0]))
    else:
        text.write_bytes(files[0].read_bytes())
        argv += (str(files[1]), str(files[0]))
    run(Command(argv, work), log=status, progress=progress)
    signers = _signers(status.read_text(encoding="utf-8", errors="replace").splitlines())
    wanted = {word.removesuffix("!") for word in entry.signed_by if not word.startswith("/")}
    if not signers or (wanted and not signers & wanted) or not text.exists():
        details = words.read_text(encoding="utf-8", errors="replace") if words.exists() else ""
        raise KernelError(
            f"the signature of the archive {entry.place} is not one to believe",
            details=_LOGGED.sub("", details).strip(),
            hint=_trust_hint(entry),
        )


def _signers(status: list[str]) -> set[str]:
    """Return the fingerprints of the keys with good signatures, and of their primary keys; none if one is bad.

    gpgv's exit status is no help: it also fails where one of several signatures is of an unknown key. What the
    words mean is in GnuPG's doc/DETAILS.
    """
    signers: set[str] = set()
    is_good = False
    for line in status:
        words = line.split(" ")
        if len(words) < 2 or words[0] != "[GNUPG:]":
            continue
        if words[1] == "BADSIG":
            return set()
        if words[1] in ("GOODSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "ERRSIG", "NEWSIG"):
            is_good = words[1] == "GOODSIG"
        elif words[1] == "VALIDSIG" and is_good and len(words) > 9 and words[9] not in _WEAK_HASHES:
            signers |= {words[2], words[-1]}
    return signers


def _keyrings(entry: AptEntry, work: Path) -> tuple[str, ...]:
    """Return gpgv's options for the keys that are believed, all in one keyring."""
    named = [Path(word) for word in entry.signed_by if word.startswith("/")]
    keyring = work / "keyring.gpg"
    options = ["--keyring", str(keyring)]
    with keyring.open("wb") as merged:
        for number, path in enumerate(named or _machine_keyrings()):
            content = _key_content(path, entry)
            if content[8:12] == _KEYBOX:
                box = work / f"{number}.kbx"
                box.write_bytes(content)
                options += ["--keyring", str(box)]
            else:
                merged.write(content)
    return tuple(options)


def _machine_keyrings() -> list[Path]:
    folder = ETC / "trusted.gpg.d"
    files = [ETC / "trusted.gpg", *sorted(folder.glob("*.gpg")), *sorted(folder.glob("*.asc")), *_DISTRIBUTIONS]
    return [path for path in files if path.is_file()]


def _key_content(path: Path, entry: AptEntry) -> bytes:
    """Return a keyring as gpgv takes it: not armored."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KernelError(
            f"the keyring {path} of the archive {entry.place} cannot be read: {error.strerror}",
            hint="distributions have their keys in packages such as debian-archive-keyring and ubuntu-keyring",
        ) from None
    if b"-----BEGIN PGP" not in content:
        return content
    try:
        found = [base64.b64decode(block["body"]) for block in _ARMOR.finditer(content.replace(b"\r\n", b"\n"))]
    except binascii.Error:
        found = []
    if not found:
        raise KernelError(f"the keyring {path} of the archive {entry.place} holds no key that can be read")
    return b"".join(found)


def _read(entry: AptEntry, text: Path) -> AptRelease:
    from pkgkmod.formats.deb import read_control  # python-debian needs 0.1 s to load

    text.write_text(text.read_bytes().decode("utf-8", "replace"), encoding="utf-8")
    paragraphs = read_control(text)
    fields = {name.lower(): value for name, value in paragraphs[0].items()} if paragraphs else {}
    files = {}
    for line in fields.get("sha256", "").splitlines():
        words = line.split()
        if len(words) == 3 and re.fullmatch("[0-9a-f]{64}", words[0]) and words[1].isdigit():
            files[words[2]] = (words[0], int(words[1]))
    if not files:
        raise KernelError(f"the Release file of {entry.place} names no index with its SHA256")
    return AptRelease(fields, files)


def _warn_if_old(entry: AptEntry, release: AptRelease, progress: Progress) -> None:
    """Say that the archive's word has expired: a mirror that is no longer updated, or one that is held back."""
    until = release.fields.get("valid-until", "")
    if not until or not entry.check_valid_until:
        return
    try:
        expired = parsedate_to_datetime(until).timestamp() < time.time()
    except ValueError:
        expired = True
    if expired:
        progress.warning(f"the index of {entry.place} was valid until {until} only: is the archive still updated?")

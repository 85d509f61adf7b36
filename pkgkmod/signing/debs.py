"""The signatures of Debian's packages.

A .deb has none of its own: its digests stand in .buildinfo and .changes, those of a source package in .dsc, and these
are signed, as debsign does it. Whoever changes a .deb has to write its digests anew there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pkgkmod.command import Command
from pkgkmod.errors import InputError, SigningError
from pkgkmod.formats import debchecksums, debpackage
from pkgkmod.formats.debchecksums import Listing, facts_of, read_listing
from pkgkmod.programs import find_tool
from pkgkmod.signing.openssl import Run
from pkgkmod.signing.rpmsign import PackageKey, agent, agent_environment

_ARMORED = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"


def is_deb(path: Path) -> bool:
    """Tell whether a file is a binary package of Debian's, by its name."""
    return path.suffix in debpackage.ENDINGS


def is_listing(path: Path) -> bool:
    """Tell whether a file is a .dsc, .buildinfo or .changes, by its name."""
    return path.suffix in debchecksums.ENDINGS


def with_listed(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return some files, and those that a .dsc or .changes among them lists, which lie beside it.

    Raise InputError if one is not there.
    """
    found = dict.fromkeys(paths)
    for path in paths:
        if not is_listing(path):
            continue
        for name in read_listing(path).files:
            if (beside := path.parent / name).is_file():
                found.setdefault(beside)
            elif path.suffix == ".changes":
                raise InputError(f"{beside} is not there", details=f"{path.name} lists it", hint="give all of a set")
    return tuple(found)


def check_listings(sources: Iterable[Path]) -> None:
    """Raise InputError for files that are not what a .dsc, .buildinfo or .changes says: what is damaged stays so."""
    sources = tuple(sources)
    known = {source.name: source for source in sources}
    for listing in _listings(sources):
        for name in listing.files.keys() & known.keys():
            if fault := listing.fault(facts_of(known[name]), name):
                raise InputError(f"{known[name]} is damaged, or not the one that was built", details=fault)


def finish_listings(files: Sequence[Path], key: PackageKey | None, run: Run) -> None:
    """Bring the lists among finished files up to date, and sign them if there is a key; older signatures are replaced.

    The signatures' time is that of the .changes, or of the key where that is younger: the same files and key give the
    same bytes. Raise SigningError if gpg fails, or if there is a .deb that would not be signed.
    """
    listings = _listings(files)
    if key and (alone := _unlisted(files, listings)):
        raise SigningError(
            f"{alone[0].name} cannot be signed: a .deb has no signature of its own",
            hint="give the .changes that lists it: that is signed, with the digests of all its files",
        )
    time = max((listing.time or 0 for listing in listings if listing.path.suffix == ".changes"), default=0)
    for listing in listings:
        beside = {name: listing.path.parent / name for name in listing.files}
        text = listing.with_facts({name: facts_of(path) for name, path in beside.items() if path.is_file()})
        if key:
            listing.path.write_bytes(text.rstrip() + b"\n")
            _clearsign(listing.path, key, max(time, key.created), run)
        elif text != listing.text:
            listing.path.write_bytes(text)


def verify_listings(files: Sequence[Path], public_key: Path | None, scratch: Path, run: Run) -> None:
    """Raise SigningError, which lists all faults, unless the files are what signed lists among them say.

    Without a key, the lists need no signature. `scratch` is a folder to work in.
    """
    place = scratch / "verified"
    place.mkdir(exist_ok=True)
    keyring = _keyring(public_key, place, run) if public_key else None
    faults: list[str] = []
    verified: list[Listing] = []
    for path in (path for path in files if is_listing(path)):
        try:
            listing = read_listing(_signed_text(path, keyring, place, run) if keyring else path)
        except SigningError as error:
            faults.append(f"{path.name}: {error.brief}")
            continue
        verified.append(listing)
        beside = {name: path.parent / name for name in listing.files}
        faults += [
            fault
            for name, other in beside.items()
            if other.is_file() and (fault := listing.fault(facts_of(other), name))
        ]
    if keyring:
        faults += [f"{path.name}: no signed .changes lists it" for path in _unlisted(files, verified)]
    if faults:
        signed = f"signed with {public_key.name}" if public_key else "what the lists say"
        raise SigningError(
            f"{len(faults)} of {len(files)} files are not {signed}",
            details="\n".join(faults),
            hint="a .deb has no signature of its own: its .changes has, and must be given, too" if keyring else "",
        )


def _listings(files: Iterable[Path]) -> list[Listing]:
    """Return the lists among some files, in the order in which they are signed: each knows those before it."""
    found = (path for path in files if is_listing(path))
    return [read_listing(path) for path in sorted(found, key=lambda path: debchecksums.ENDINGS.index(path.suffix))]


def _unlisted(files: Iterable[Path], listings: Iterable[Listing]) -> list[Path]:
    known = {name for listing in listings for name in listing.files}
    return [path for path in files if is_deb(path) and path.name not in known]


def _clearsign(path: Path, key: PackageKey, time: int, run: Run) -> None:
    find_tool("gpg", needed_for="signing packages")
    signed = path.with_name(f"{path.name}.asc")
    how = ("--batch", "--no-tty", "--yes", "--pinentry-mode=error", f"--faked-system-time={time}!")
    # As debsign calls it (devscripts, scripts/debsign.sh).
    what = ("--clearsign", "--armor", "--textmode", "--digest-algo=SHA512", "--no-emit-version")
    who = ("--local-user", f"{key.signer}!", "--output", str(signed.absolute()), str(path.absolute()))
    with agent(key.home):
        done = run(Command(("gpg", *how, *what, *who), path.parent, agent_environment(key.home)))
    if not done.ok:
        signed.unlink(missing_ok=True)
        raise SigningError(
            f"{path.name} cannot be signed with the key {key.fingerprint}",
            details="\n".join(done.tail[-6:]),
            hint="gpg cannot ask for a passphrase here: give it to gpg-agent before (gpg-preset-passphrase), "
            "or use a key without one",
        )
    signed.replace(path)


def _keyring(public_key: Path, place: Path, run: Run) -> Path:
    """Return a keyring as gpgv takes it: not armored."""
    find_tool("gpgv", needed_for="the signatures of packages")
    try:
        content = public_key.read_bytes()
    except OSError as error:
        raise SigningError(f"the public key {public_key} cannot be read: {error.strerror}") from None
    keyring = place / "key.gpg"
    keyring.unlink(missing_ok=True)
    if not content.lstrip().startswith(_ARMORED):
        keyring.write_bytes(content)
        return keyring
    (place / "key.asc").write_bytes(content)
    argv = ("gpg", "--batch", "--no-tty", "--output", str(keyring), "--dearmor", str(place / "key.asc"))
    done = run(Command(argv, place, agent_environment(place)))
    if not done.ok or not keyring.is_file():
        raise SigningError(f"gpg cannot use the public key {public_key}", details="\n".join(done.tail[-6:]))
    return keyring


def _signed_text(path: Path, keyring: Path, place: Path, run: Run) -> Path:
    """Return a file with what is signed of a text, and nothing else; raise SigningError if gpgv does not accept it."""
    text = place / path.name
    text.unlink(missing_ok=True)
    argv = ("gpgv", "--keyring", str(keyring), "--output", str(text), str(path.absolute()))
    done = run(Command(argv, place, agent_environment(place)))
    if not done.ok or not text.is_file():
        said = [line.removeprefix("gpgv: ") for line in done.tail if re.match(r"gpgv: (?!Signature made|  )", line)]
        raise SigningError("; ".join(said[-2:]) if read_listing(path).is_signed else "it is not signed")
    return text

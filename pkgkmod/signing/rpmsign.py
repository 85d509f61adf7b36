"""The signatures of whole packages: rpmsign makes them with a key of a GPG keyring, rpmkeys checks them."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pkgkmod import command
from pkgkmod.command import Command
from pkgkmod.errors import SigningError
from pkgkmod.formats.rpmpackage import read_package
from pkgkmod.programs import find_tool
from pkgkmod.progress import Progress
from pkgkmod.signing.openssl import Run, run_quietly


@dataclass(frozen=True)
class PackageKey:
    """A key of a GPG keyring."""

    fingerprint: str
    """Of the whole key, in hexadecimal digits."""
    signer: str
    """Fingerprint of the part that signs: the key itself, or a subkey."""
    created: int
    """When it was whole, in seconds since 1970: earlier signatures would not be believed."""
    home: Path
    """Folder of the keyring."""


def keyring(home: str | None, base: Path) -> Path:
    """Return the folder of a keyring; relative ones begin at `base`. The user's own if none is named."""
    return (base / Path(home).expanduser()).absolute() if home else Path.home() / ".gnupg"


def find_package_key(name: str, home: Path) -> PackageKey:
    """Return the secret key that `name` (key id, fingerprint or user id) means in a keyring.

    Raise SigningError if there is none, or more than one, or if it expired or was revoked.
    """
    find_tool("gpg", needed_for="signing packages")
    if not home.is_dir():
        raise SigningError(f"the keyring {home} is not a folder", hint="signing.gpg_home names the folder of a keyring")
    with agent(home), tempfile.TemporaryDirectory(prefix="pkgkmod-") as place:
        log = Path(place, "log")
        listing = _gpg(home, home, "--with-colons", "--list-secret-keys", "--", name)
        done = command.run(listing, log=log, progress=Progress())
        records = [line.split(":") for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    keys = [record for record in records if record[0] == "sec"]
    if not done.ok or not keys:
        raise SigningError(
            f"there is no secret key '{name}' in the keyring {home}",
            details="\n".join(done.tail[-6:]),
            hint=f"gpg --homedir {home} --list-secret-keys lists those that there are",
        )
    if len(keys) > 1:
        raise SigningError(
            f"'{name}' means {len(keys)} keys in the keyring {home}",
            details="\n".join(record[4] for record in keys),
            hint="name one by its fingerprint",
        )
    prints = [record[9] for record in records if record[0] == "fpr"]
    parts = [record for record in records if record[0] in ("sec", "ssb")]
    usable = [(int(part[5]), fpr) for part, fpr in zip(parts, prints, strict=False) if _can_sign(part)]
    if not usable or keys[0][1] in _GONE:
        raise SigningError(
            f"the key {prints[0]} cannot sign any more, or never could",
            details=f"it {'expired or was revoked' if keys[0][1] in _GONE else 'has no usable part that may sign'}",
            hint=f"gpg --homedir {home} --list-secret-keys tells; take another key, or make it valid for longer",
        )
    created, signer = max(usable)
    return PackageKey(prints[0], signer, max(created, int(keys[0][5])), home)


_GONE = ("d", "e", "i", "r")  # disabled, expired, invalid, revoked (GnuPG, doc/DETAILS)


def _can_sign(part: list[str]) -> bool:
    """Tell whether a key or subkey is valid, may sign, and is here; in GnuPG's words, or on a card."""
    return part[1] not in _GONE and "s" in part[11] and part[14] != "#"


def export_public_key(key: PackageKey, destination: Path) -> None:
    """Write the public key, armored as rpm takes it."""
    # The agent is not asked for public keys.
    done = run_quietly(
        _gpg(key.home, destination.parent, "--armor", "--output", str(destination), "--export", key.fingerprint)
    )
    if not done.ok or not destination.is_file():
        raise SigningError("gpg cannot export the public key", details="\n".join(done.tail))


def sign_packages(packages: Sequence[Path], key: PackageKey, run: Run) -> None:
    """Sign package files in place; raise SigningError if rpmsign fails.

    The signatures' time is that of the package, or of the key where that is younger: the same package and key give
    the same bytes.
    """
    find_tool("rpmsign", needed_for="signing packages")
    with agent(key.home):
        for package in packages:
            time = max(read_package(package).build_time, key.created)
            # Debian's rpm looks for gpg2. The key's name reaches rpm's macros as hexadecimal digits only.
            defines = {
                "__gpg": find_tool("gpg"),
                "_gpg_name": f"{key.signer}!",  # this very part: at an earlier time, gpg may prefer another
                "_gpg_digest_algo": "sha256",
                "_gpg_sign_cmd_extra_args": f"--batch --pinentry-mode=error --faked-system-time={time}!",
            }
            words = [word for name, value in defines.items() for word in ("--define", f"{name} {value}")]
            argv = ("rpmsign", "--addsign", *words, str(package.absolute()))
            done = run(Command(argv, package.parent, agent_environment(key.home)))
            if not done.ok:
                raise SigningError(
                    f"{package.name} cannot be signed with the key {key.fingerprint}",
                    details="\n".join(done.tail[-6:]),
                    hint="gpg cannot ask for a passphrase here: give it to gpg-agent before (gpg-preset-passphrase), "
                    "or use a key without one",
                )


def verify_signatures(packages: Sequence[Path], public_key: Path, scratch: Path, run: Run) -> None:
    """Raise SigningError, which lists every package, unless all are signed with the public key; `scratch` is empty."""
    find_tool("rpmkeys", needed_for="the signatures of packages")
    database = ("--dbpath", str(scratch / "keys"))
    done = run(Command(("rpmkeys", *database, "--import", str(public_key.absolute())), scratch))
    if not done.ok:
        raise SigningError(
            f"rpm cannot use the public key {public_key}",
            details="\n".join(done.tail[-6:]),
            hint="it takes armored keys: files that begin with -----BEGIN PGP PUBLIC KEY BLOCK-----",
        )
    faults: list[str] = []
    for package in packages:
        path = str(package.absolute())
        done = run(Command(("rpmkeys", *database, "--checksig", path), scratch))
        # Of a package that is not signed, its digests alone are OK.
        if not done.ok or done.tail[-1:] != (f"{path}: digests signatures OK",):
            faults.append(" ".join(line.replace(path, package.name) for line in done.tail[-1:]))
    if faults:
        raise SigningError(
            f"{len(faults)} of {len(packages)} packages are not signed with {public_key.name}",
            details="\n".join(faults),
            hint="`rpmkeys --checksig -v FILE` says more",
        )


def agent_environment(home: Path) -> dict[str, str]:
    """Return the variables with which gpg uses the keyring in `home`, and its agent."""
    # gpg finds the agent of the user's own keyring by HOME.
    return {"GNUPGHOME": str(home), "HOME": str(Path.home())}


def _gpg(home: Path, cwd: Path, *words: str) -> Command:
    return Command(("gpg", "--batch", "--no-tty", *words), cwd, agent_environment(home))


_ONE_AT_A_TIME = threading.Lock()
"""Jobs run side by side; none may stop the agent that another one uses."""


@contextmanager
def agent(home: Path) -> Iterator[None]:
    """Stop the agent that gpg started for a keyring, if none was there before: keys must not stay open."""
    options = ("--homedir", str(home))
    ask = ("gpg-connect-agent", *options, "--no-autostart", "GETINFO pid", "/bye")
    with _ONE_AT_A_TIME:
        was_there = any(line.startswith("D ") for line in run_quietly(Command(ask, home, agent_environment(home))).tail)
        try:
            yield
        finally:
            if not was_there:
                run_quietly(Command(("gpgconf", *options, "--kill", "gpg-agent"), home, agent_environment(home)))

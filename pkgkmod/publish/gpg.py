"""Signatures of indexes: gpg makes them with a key of a keyring, and gpgv checks what it made."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.command import Command
from pkgkmod.errors import SigningError
from pkgkmod.programs import find_tool
from pkgkmod.signing.openssl import Run
from pkgkmod.signing.rpmsign import PackageKey, agent, agent_environment, export_public_key
from pkgkmod.workspace import write_atomically


@dataclass(frozen=True)
class Signer:
    """Signs with one key."""

    key: PackageKey
    run: Run

    @property
    def public_name(self) -> str:
        """Name of the file of the public key: another key gets another name."""
        return f"archive-key-{self.key.fingerprint[-16:]}.asc"

    def public_key(self) -> bytes:
        """Return the public key, armored."""
        with tempfile.TemporaryDirectory(prefix="pkgkmod-") as place:
            export_public_key(self.key, Path(place, "key.asc"))
            return Path(place, "key.asc").read_bytes()

    def write_public_key(self, root: Path) -> None:
        """Put the public key into a repository, in one step."""
        text = self.public_key().decode("ascii")
        if not (root / self.public_name).is_file() or (root / self.public_name).read_text("utf-8") != text:
            write_atomically(root / self.public_name, text)

    def clearsign(self, file: Path, output: Path) -> None:
        """Write a text with its signature around it, as InRelease is. Raise SigningError if gpg fails."""
        self._sign(file, output, "--clearsign")
        self._check(output)

    def sign(self, file: Path, output: Path) -> None:
        """Write a signature of a file, armored. Raise SigningError if gpg fails."""
        self._sign(file, output, "--armor", "--detach-sign")
        self._check(output, file)

    def _sign(self, file: Path, output: Path, *how: str) -> None:
        find_tool("gpg", needed_for="signing the index")
        words = ("--batch", "--no-tty", "--pinentry-mode=error", "--digest-algo=SHA256", "--no-emit-version")
        who = ("--local-user", f"{self.key.signer}!", "--output", str(output), *how, str(file))
        with agent(self.key.home):
            done = self.run(Command(("gpg", *words, *who), file.parent, agent_environment(self.key.home)))
        if not done.ok:
            raise SigningError(
                f"the index cannot be signed with the key {self.key.fingerprint}",
                details="\n".join(done.tail[-6:]),
                hint="gpg cannot ask for a passphrase here: give it to gpg-agent before (gpg-preset-passphrase), or "
                "use a key without one",
            )

    def _check(self, *files: Path) -> None:
        find_tool("gpgv", needed_for="checking the index's signature")
        with tempfile.TemporaryDirectory(prefix="pkgkmod-") as place:
            armored, keyring = Path(place, "key.asc"), Path(place, "key.gpg")
            armored.write_bytes(self.public_key())
            # gpgv takes no armored keys.
            dearmor = ("gpg", "--batch", "--output", str(keyring), "--dearmor", str(armored))
            self.run(Command(dearmor, Path(place), agent_environment(Path(place))))
            argv = ("gpgv", "--keyring", str(keyring), *map(str, files))
            done = self.run(Command(argv, files[0].parent, agent_environment(Path(place))))
        if not done.ok:
            raise SigningError("gpgv does not accept the signature of the index", details="\n".join(done.tail[-6:]))

"""Signing with keys that never leave their vault: hand out what is to be signed, take signatures back.

The folder that is handed out has for each module a file `DIGEST.HASH`, named by the digest in it. What comes back is
`DIGEST.sig`, a raw signature, or `DIGEST.p7s`, a detached CMS message. A module that lies in many packages is signed
once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pkgkmod.errors import InputError, SigningError, UsageError
from pkgkmod.progress import escape_controls
from pkgkmod.signing import cms, modules
from pkgkmod.signing.cms import Certificate, Message
from pkgkmod.signing.der import DerError
from pkgkmod.signing.keys import read_certificate
from pkgkmod.signing.openssl import Run, is_signature, run_quietly, signs_other
from pkgkmod.signing.readme import readme

MANIFEST = "manifest.json"
_FORMAT = "pkgkmod detached signing 1"
_LARGEST_MANIFEST = 64 << 20  # bytes
_LARGEST_SIGNATURE = 64 << 10  # bytes; a CMS message with a chain of certificates has some thousand


@dataclass(frozen=True)
class ToSign:
    """A module to be signed: where it is, and its content, decompressed; a signature that it has is left out."""

    package: str
    path: str
    content: bytes
    hash: str


def digest_of(content: bytes, hash: str) -> str:
    """Return what is signed of a module: the digest, in hex, of its content without a signature."""
    return cms.digest(modules.unsigned(content), hash).hex()


def export(to_sign: Iterable[ToSign], folder: Path, *, contents: bool = False) -> int:
    """Fill a new folder with all that a signer needs, and return how many digests there are to sign.

    With `contents` the modules are added, for signers that want to see what they sign. Raise UsageError if the
    folder has something in it already.
    """
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder} is there already", hint="name a folder that does not exist, or an empty one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        entries: dict[str, dict[str, Any]] = {}
        for module in to_sign:
            _add(module, entries, aside, contents)
        manifest = {"format": _FORMAT, "to_sign": sorted(entries.values(), key=lambda entry: str(entry["digest"]))}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        hashes = tuple(sorted({str(entry["hash"]) for entry in entries.values()}))
        (aside / "README.txt").write_text(readme(hashes, len(entries), contents=contents), encoding="utf-8")
        aside.chmod(0o755)
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return len(entries)


def _add(module: ToSign, entries: dict[str, dict[str, Any]], folder: Path, contents: bool) -> None:
    content = modules.unsigned(module.content)
    digest = cms.digest(content, module.hash)
    name = digest.hex()
    if name not in entries:
        entries[name] = {
            "digest": name,
            "hash": module.hash,
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "files": {"digest": f"{name}.{module.hash}", "digestinfo": f"{name}.digestinfo"},
            "modules": [],
        }
        (folder / f"{name}.{module.hash}").write_bytes(digest)
        (folder / f"{name}.digestinfo").write_bytes(cms.digest_info(digest, module.hash))
        if contents:
            (folder / f"{name}.ko").write_bytes(content)
    entries[name]["modules"].append({"package": module.package, "path": module.path})


def sign_with(content: bytes, hash: str, signatures: Mapping[str, bytes]) -> bytes:
    """Return a module with the signature that came back for it; raise SigningError if none did."""
    message = signatures.get(digest_of(content, hash))
    if message is None:
        raise SigningError(
            "there is no signature for this module among those that came back",
            details=f"its digest ({hash}) is {digest_of(content, hash)}",
            hint="it was made anew after the export, or the signatures belong to another one: export again",
        )
    return modules.append(modules.unsigned(content), message)


def load_signatures(folder: Path, certificate: Path, run: Run = run_quietly) -> Mapping[str, bytes]:
    """Return the CMS message for each digest (in hex) of an export, all of them verified.

    Raise SigningError that lists every signature that is missing, wrong, or of another export; InputError if this is
    not a folder that `export` made.
    """
    x509 = read_certificate(certificate)
    wanted = _read_manifest(folder)
    loaded: dict[str, bytes] = {}
    faults = list(_strangers(folder, wanted))
    for digest, entry in wanted.items():
        try:
            loaded[digest] = _load(folder, digest, entry, x509, run)
        except _Fault as fault:
            faults.append(f"{digest[:16]}... ({entry.what}): {fault}")
    if faults:
        right = f"{len(loaded)} of {len(wanted)} digests have a good signature"
        raise SigningError(
            f"the signatures in {folder} cannot be used: {right}",
            details="\n".join(faults),
            hint=f"expected is the key of {x509.name}; README.txt in the folder has the commands",
        )
    return loaded


class _Fault(Exception):
    """What is wrong with one signature, in words."""


@dataclass(frozen=True)
class _Entry:
    hash: str
    what: str


def _read_manifest(folder: Path) -> dict[str, _Entry]:
    """Return what an export asked for, by digest. Of the manifest's names none is used to open a file."""
    try:
        data = json.loads(_read_small(folder / MANIFEST, _LARGEST_MANIFEST))
        if data["format"] != _FORMAT:
            raise ValueError("of another format")
        return {str(entry["digest"]): _entry(entry) for entry in data["to_sign"]}
    except _Fault as fault:
        raise InputError(f"{folder} is not a folder with exported digests: {MANIFEST} {fault}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{folder / MANIFEST} is damaged", details=str(error)[:200], hint="export the digests again"
        ) from None


def _entry(entry: Mapping[str, Any]) -> _Entry:
    hash = str(entry["hash"])
    size = hashlib.new(hash.replace("sha3-", "sha3_")).digest_size if hash in cms.HASHES else 0
    if not size or not re.fullmatch(rf"[0-9a-f]{{{2 * size}}}", str(entry["digest"])):
        raise ValueError("a digest that is none")
    first, *others = [f"{module['package']}: {module['path']}" for module in entry["modules"]]
    what = escape_controls(first[:300], keep="")
    return _Entry(hash, what + (f", and {len(others)} more" if others else ""))


def _strangers(folder: Path, wanted: Mapping[str, _Entry]) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.suffix in (".sig", ".p7s") and path.stem not in wanted:
            name = escape_controls(path.name[:150], keep="")
            yield f"{name}: belongs to another export: no digest of this one is called so"


def _load(folder: Path, digest: str, entry: _Entry, certificate: Certificate, run: Run) -> bytes:
    """Return the CMS message for a digest; raise _Fault if there is none, or if it is wrong."""
    raw, ready = folder / f"{digest}.sig", folder / f"{digest}.p7s"
    there = [path for path in (raw, ready) if os.path.lexists(path)]
    if not there:
        raise _Fault("is missing")
    if len(there) > 1:
        raise _Fault("has a .sig and a .p7s: which one counts? Delete the other")
    data = _read_small(there[0], _LARGEST_SIGNATURE)
    signature = _of_message(data, entry, certificate) if there[0] == ready else _raw(data, certificate)
    wanted = bytes.fromhex(digest)
    if not is_signature(signature, wanted, entry.hash, certificate, run):
        if signs_other(signature, wanted, entry.hash, certificate, run):
            raise _Fault("signs something else: another module, another hash, or the digest as if it were the content")
        raise _Fault("is wrong: another key, or another scheme than PKCS #1 v1.5 or ECDSA")
    # Made anew of the raw signature, so that it has no certificates in it: as if signed directly.
    return cms.message(certificate, entry.hash, signature)


def _raw(data: bytes, certificate: Certificate) -> bytes:
    if certificate.kind == "rsa" and len(data) != certificate.width:
        raise _Fault(
            f"has {len(data)} bytes, where {certificate.width} are expected; raw bytes, neither hex nor Base64"
        )
    if certificate.kind == "ec" and len(data) == 2 * certificate.width:
        return cms.ecdsa_from_halves(data)  # as PKCS#11 returns it
    return data


def _of_message(data: bytes, entry: _Entry, certificate: Certificate) -> bytes:
    try:
        message: Message = cms.parse_message(data)
        signer = message.signer
    except DerError as error:
        raise _Fault(f"is no detached CMS message in DER: {error}") from None
    if message.attributes:
        raise _Fault("has signed attributes, and kernels refuse that: sign without (openssl cms -noattr)")
    if not message.is_by(certificate):
        raise _Fault(f"was signed by another key: {signer}")
    if message.hash != entry.hash:
        raise _Fault(f"was signed with {message.hash} instead of {entry.hash}")
    return message.signature


def _read_small(path: Path, most: int) -> bytes:
    """Read a file that came from outside: no link, no device, not larger than `most` bytes; raise _Fault otherwise."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        is_link = path.is_symlink()
        raise _Fault("is a symbolic link" if is_link else f"cannot be read: {error.strerror}") from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise _Fault("is no file")
        if facts.st_size > most:
            raise _Fault(f"is too large: {facts.st_size} bytes")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)

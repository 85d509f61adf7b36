"""Recipes in the words that an Open Build Service understands, without rpm."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pkgkmod.errors import FarmError
from pkgkmod.formats.rpm import read_header

_BUILD_REQUIRES = re.compile(r"^BuildRequires:\s*(.*\S)", re.IGNORECASE)
# Its scheduler reads specs with a parser of its own (obs-build, Build::Rpm), which runs no programs and no Lua: what
# they would print is "MACRO" there, or missing.
_UNREADABLE = re.compile(r"%[{(]")
# Looked for by the worker (bs_worker), line by line; in a .dsc it is a field, since that has no comments.
_CERTIFICATE = "# needssslcertforbuild\n"
_CERTIFICATE_FIELD = "Obs: needssslcertforbuild\n"


def spec_for_obs(spec: Path, srpm: Path, *, certificate: bool) -> bytes:
    """Return a spec whose build dependencies are those that rpm put into the SRPM; the rest is as it was.

    `certificate` asks for that of the project, as the specs of SUSE's targets do by themselves.
    """
    header = read_header(srpm)
    required = [one for one in header.requires if not one.startswith("rpmlib(")]
    lines = _replaced(spec.read_text(encoding="utf-8").splitlines(keepends=True), required)
    is_missing = certificate and _CERTIFICATE not in lines
    return ((_CERTIFICATE if is_missing else "") + "".join(lines)).encode()


def dsc_for_obs(dsc: Path) -> bytes:
    """Return a .dsc that asks for the project's certificate; raise FarmError for one that is signed."""
    text = dsc.read_text(encoding="utf-8")
    if _CERTIFICATE_FIELD in text.splitlines(keepends=True):
        return text.encode()
    if text.startswith("-----BEGIN PGP"):
        raise FarmError(
            f"{dsc.name} is signed, so that nothing can be added to it",
            hint="plugin.obs.needssslcert adds a field by which OBS gives the project's certificate",
        )
    return (text.rstrip("\n") + "\n" + _CERTIFICATE_FIELD).encode()


def _replaced(lines: Sequence[str], required: Sequence[str]) -> list[str]:
    """Return the lines with the dependencies that cannot be read in them, as text."""
    found = {number: match[1] for number, line in enumerate(lines) if (match := _BUILD_REQUIRES.match(line))}
    plain = {" ".join(text.split()) for text in found.values() if not _UNREADABLE.search(text)}
    missing = [f"BuildRequires:  {one}\n" for one in required if one not in plain]
    if not missing:
        return list(lines)
    gone = {number for number, text in found.items() if _UNREADABLE.search(text)}
    place = min(gone, default=max(found, default=-1) + 1)
    kept = [[] if number in gone else [line] for number, line in enumerate(lines)]
    return [line for part in (*kept[:place], missing, *kept[place:]) for line in part]

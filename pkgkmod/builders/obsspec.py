"""Specs in the words that an Open Build Service understands, without rpm."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pkgkmod.formats.rpm import read_header

_BUILD_REQUIRES = re.compile(r"^BuildRequires:\s*(.*\S)", re.IGNORECASE)
# Its scheduler reads specs with a parser of its own (obs-build, Build::Rpm), which runs no programs and no Lua: what
# they would print is "MACRO" there, or missing.
_UNREADABLE = re.compile(r"%[{(]")
_CERTIFICATE = "# needssslcertforbuild\n"


def spec_for_obs(spec: Path, srpm: Path, *, certificate: bool) -> bytes:
    """Return a spec whose build dependencies are those that rpm put into the SRPM; the rest is as it was."""
    header = read_header(srpm)
    required = [one for one in header.requires if not one.startswith("rpmlib(")]
    lines = _replaced(spec.read_text(encoding="utf-8").splitlines(keepends=True), required)
    return ((_CERTIFICATE if certificate else "") + "".join(lines)).encode()


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

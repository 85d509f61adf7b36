"""Who holds the rights in the sources, and their licences: read in the files, for Debian's copyright file."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pkgkmod.model.fields import ArchiveContent
from pkgkmod.packages.facts import PackageFacts
from pkgkmod.packages.spdx import Expression, License, parse_spdx
from pkgkmod.sources.archive import belongs
from pkgkmod.sources.unpack import walk_files

_READ = 32 * 1024  # bytes: licences and holders stand at the top
_LINE = 400  # characters of a line that are looked at
_IDENTIFIER = re.compile(r"SPDX-License-Identifier:[ \t]*(?P<text>[^\n]{,300})")
_END_OF_COMMENT = re.compile(r"\s*(?:\*/|-->|\*\)|\"\s*\)?;?)\s*$")
_CLAIM = re.compile(
    r"(?:SPDX-FileCopyrightText:|\bcopyright\b|\(c\)(?=\s*(?:copyright\b|\d{4}))|©)(?P<rest>.*)", re.IGNORECASE
)
_SIGN = re.compile(r"[\s:,*]*(?:copyright\b|\(c\)|©|&copy;)[\s:,]*", re.IGNORECASE)
_YEARS = re.compile(
    r"\s*(\d{4})(?:\s*(?:-|\u2013|\u2014|to)\s*(\d{4}|\d{2}|present|now)\b)?[\s,;&.]*(?:and\s+(?=\d))?", re.IGNORECASE
)
_LAST_YEARS = re.compile(r"[\s,(]+(\d{4})(?:\s*[-\u2013]\s*(\d{4}))?\)?$")
_NOTICES = re.compile(r"[\s,;]*\ball rights? (?:are )?reserved\b.*", re.IGNORECASE)
_SHORTENED = re.compile(r"\b(?:Inc|Ltd|Co|Corp|Jr|S\.A|S\.L|B\.V|e\.V|LLC|a\.s|GmbH & Co)$")
_MOST_GROUPS = 12  # of one licence: with more, their holders are listed together
_SHOWN = 40  # files without a licence that are named

Years = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Claim:
    """What a file says: its licence (None: nothing that can be understood), and its holders with their years."""

    license: Expression | None
    holders: Mapping[str, frozenset[tuple[int, int]]]


@dataclass(frozen=True)
class Claims:
    """What the packed files of a source tree say, by path."""

    files: Mapping[str, Claim] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    """Texts of licences, by SPDX identifier."""
    packs_texts: bool = False
    """Whether files of the kernel's folder LICENSES are among the sources."""

    def with_texts(self, files: Mapping[str, str]) -> Claims:
        """Return the claims with the texts of further licences, from files of the kernel's folder LICENSES."""
        return replace(self, texts={**{name: _license_text(file) for name, file in files.items()}, **self.texts})


NO_CLAIMS = Claims()


def read_claims(tree: Path, content: ArchiveContent, also: Collection[str] = ()) -> Claims:
    """Read the heads of all files in `tree` that are packed: what `content` says, and the files `also`."""
    paths = [path for path in walk_files(tree) if belongs(path, content, also)]
    files = [path for path in paths if not (tree / path).is_symlink()]
    licenses = [path for path in files if path.startswith("LICENSES/")]
    texts = {path.rsplit("/", 1)[1]: (tree / path).read_text(encoding="utf-8", errors="replace") for path in licenses}
    heads = {path: _head(tree / path) for path in files if not path.startswith("LICENSES/")}
    return Claims({path: read_claim(head) for path, head in heads.items()}, packs_texts=bool(licenses)).with_texts(
        texts
    )


def _head(file: Path) -> str:
    with file.open("rb") as opened:
        start = opened.read(_READ)
    try:
        return "" if b"\0" in start else start.decode()
    except UnicodeDecodeError:
        return start.decode("latin-1")


def _license_text(text: str) -> str:
    """Return a licence's text: behind `License-Text:` in the kernel's own files."""
    text = re.split(r"^License-Text:[ \t]*\n", text, maxsplit=1, flags=re.MULTILINE)[-1]
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)


def read_claim(head: str) -> Claim:
    """Return what the first lines of a file say about its licence and its holders."""
    named = _IDENTIFIER.search(head)
    expression = parse_spdx(_END_OF_COMMENT.sub("", named["text"])) if named else None
    holders: dict[str, frozenset[tuple[int, int]]] = {}
    for line in head.splitlines():
        found = _CLAIM.search(line[:_LINE])
        if found and (claim := _holder(found["rest"], signed=found[0][0] in "(©S")):
            name, years = claim
            holders[name] = holders.get(name, frozenset()) | years
    return Claim(expression, holders)


def _holder(rest: str, *, signed: bool) -> tuple[str, frozenset[tuple[int, int]]] | None:
    """Return holder and years behind the word copyright; None if this is a sentence about it.

    A claim has years or the sign, `signed` if it stood before.
    """
    text = _END_OF_COMMENT.sub("", "".join(c if c.isprintable() else " " for c in rest))
    while sign := _SIGN.match(text):
        text, signed = text[sign.end() :], signed or not sign[0].strip(" :,*").isalpha()
    years: set[tuple[int, int]] = set()
    text = text.lstrip(" :,*")
    while found := _YEARS.match(text):
        years.add(_span(found[1], found[2]))
        text = text[found.end() :]
    text = _NOTICES.sub("", text).strip(" \t,;*/\"'\\")
    if not years and (found := _LAST_YEARS.search(text)):
        years.add(_span(found[1], found[2]))
        text = text[: found.start()]
    name = re.sub(r"^by\s+", "", " ".join(text.split()), flags=re.IGNORECASE).rstrip(" ,;-")
    name = name if _SHORTENED.search(name.rstrip(".")) else name.rstrip(".")
    if not (years or signed) or len(re.findall(r"[^\W\d_]", name)) < 2 or len(name) > 200:
        return None
    return name, frozenset(years)


def _span(first: str, last: str | None) -> tuple[int, int]:
    start = int(first)
    if not last or not last.isdigit():
        return start, start
    return start, max(start, int(first[: 4 - len(last)] + last))


def shown_holders(holders: Mapping[str, frozenset[tuple[int, int]]]) -> list[str]:
    """Return a line for each holder: years that follow each other as a span, then the name."""
    return sorted(f"{_years(spans)} {name}".strip() for name, spans in holders.items())


def _years(spans: Iterable[tuple[int, int]]) -> str:
    merged: list[list[int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return ", ".join(f"{start}-{end}" if end > start else str(start) for start, end in merged)


# --- the file's paragraphs -------------------------------------------------------------------------------


@dataclass
class _Group:
    """Files of one licence and the same holders."""

    license: str
    files: list[str] = field(default_factory=list)
    holders: dict[str, frozenset[tuple[int, int]]] = field(default_factory=dict)

    def add(self, files: Iterable[str], holders: Mapping[str, frozenset[tuple[int, int]]]) -> None:
        self.files += files
        for name, years in holders.items():
            self.holders[name] = self.holders.get(name, frozenset()) | years


def copyright_values(facts: PackageFacts, claims: Claims) -> dict[str, Any]:
    """Return what the template of debian/copyright is given: paragraphs of files, licences, and what lacks one."""
    ours = project_license(facts.job.project.project.license)
    groups = _groups(claims, ours.debian)
    packers = parse_spdx("GPL-2.0-or-later")
    assert packers
    used: dict[str, License] = {}
    for expression in (ours, packers, *(claim.license for claim in claims.files.values() if claim.license)):
        used |= {part.short_name: part for part in expression.licenses}
    unmarked = sorted(path for path, claim in claims.files.items() if claim.license is None)
    others = f"{time.gmtime(facts.provenance.commit_epoch).tm_year} and before, the authors of the files"
    return {
        "license": ours.debian,
        "packer_license": packers.debian,
        "own_patches": any(patch.kernels for patch in facts.provenance.patches),
        "groups": [
            {
                "files": _patterns(group.files, claims.files) if number else ["*"],
                "holders": shown_holders(group.holders) or [others],
                "license": group.license,
            }
            for number, group in enumerate(groups or [_Group(ours.debian)])
        ],
        "packs_texts": claims.packs_texts,
        "unmarked": _folded(unmarked[:_SHOWN]),
        "more_unmarked": max(0, len(unmarked) - _SHOWN),
        "licenses": [
            {
                "name": name,
                "identifier": found.identifier,
                "exception": found.exception,
                "common": found.common_file,
                "text": claims.texts.get(found.identifier, ""),
                "exception_text": claims.texts.get(found.exception, ""),
            }
            for name, found in sorted(used.items())
        ],
    }


def missing_texts(claims: Claims) -> tuple[str, ...]:
    """Return the SPDX identifiers of the licences whose text neither Debian's systems nor the sources have."""
    named = [claim.license.licenses for claim in claims.files.values() if claim.license]
    used = {name: part for parts in named for part in parts for name in (part.identifier, part.exception) if name}
    common = {part.identifier for part in used.values() if part.common_file}
    return tuple(sorted(set(used) - common - set(claims.texts)))


def project_license(text: str) -> Expression:
    """Return the project's licence; a text that is no SPDX expression becomes one made-up name."""
    made_up = re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-.+") or "unknown"
    return parse_spdx(text) or Expression("", (License(f"LicenseRef-{made_up[:60]}"),))


def _groups(claims: Claims, ours: str) -> list[_Group]:
    """Put files of one licence and the same holders together; the largest group comes first."""
    by_license: dict[str, dict[frozenset[str], _Group]] = {}
    nameless: dict[str, list[str]] = {}
    for path, claim in sorted(claims.files.items()):
        license = claim.license.debian if claim.license else ours
        if not claim.holders:
            nameless.setdefault(license, []).append(path)
            continue
        key = frozenset(claim.holders)
        by_license.setdefault(license, {}).setdefault(key, _Group(license)).add([path], claim.holders)
    groups: list[_Group] = []
    for license in {**by_license, **nameless}:
        found = sorted(by_license.get(license, {}).values(), key=lambda g: (-len(g.files), g.files))
        if len(found) > _MOST_GROUPS:
            together = _Group(license)
            for group in found:
                together.add(group.files, group.holders)
            found = [together]
        # A file that names nobody is most likely by those who wrote the others.
        found = found or [_Group(license)]
        found[0].add(nameless.get(license, []), {})
        groups += found
    return sorted(groups, key=lambda g: (-len(g.files), g.files))


def _patterns(files: list[str], all_files: Iterable[str]) -> list[str]:
    """Return patterns for some files: whole folders where no other file is in them."""
    others = set(all_files) - set(files)
    patterns: dict[str, None] = {}
    for path in sorted(files):
        folders = ["/".join(path.split("/")[:end]) + "/" for end in range(1, path.count("/") + 1)]
        whole = next((f for f in folders if not any(other.startswith(f) for other in others)), "")
        patterns[_escaped(whole) + "*" if whole else _escaped(path)] = None
    return list(patterns)


def _escaped(path: str) -> str:
    """Return a path as a pattern: blanks would part patterns, and nothing but ? stands for one (7.2 of the format)."""
    return re.sub(r"[^\x21-\x7e\xa1-\U0010ffff]|[\ud800-\udfff]", "?", re.sub(r"([\\*?])", r"\\\1", path))


def _folded(paths: Iterable[str]) -> list[str]:
    return ["".join(c if c.isprintable() else "?" for c in path) for path in paths]

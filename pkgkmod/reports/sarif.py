"""Findings as SARIF 2.1.0, which code-scanning sites and editors read (OASIS, Static Analysis Results Interchange)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote

from pkgkmod.model.finding import Finding, Severity
from pkgkmod.progress import escape_controls

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_VERSION = "2.1.0"
_SAFE = "/._-+~"


class Code(Protocol):
    """What the meaning of a code has to say of itself."""

    @property
    def severity(self) -> Severity:
        """Severity of its findings."""

    @property
    def title(self) -> str:
        """What it is about, without a full stop."""

    @property
    def why(self) -> str:
        """Why it matters."""


def sarif(findings: Sequence[Finding], codes: Mapping[str, Code], version: str) -> str:
    """Return a document with findings, and the rules that they are about; the same findings make the same bytes.

    `version` is that of this program.
    """
    used = sorted({one.code for one in findings})
    run = {
        "tool": {
            "driver": {
                "name": "pkgkmod",
                "version": version,
                "rules": [_rule(code, codes[code]) if code in codes else {"id": code} for code in used],
            }
        },
        "columnKind": "unicodeCodePoints",
        "results": [_result(one, used.index(one.code)) for one in findings],
    }
    document = {"$schema": SCHEMA, "version": _VERSION, "runs": [run]}
    return json.dumps(document, indent=2) + "\n"


def _rule(code: str, meaning: Code) -> dict[str, Any]:
    return {
        "id": code,
        "shortDescription": {"text": f"{meaning.title}."},
        "fullDescription": {"text": f"{meaning.title}. {meaning.why}"},
        "help": {"text": meaning.why},
        "defaultConfiguration": {"level": meaning.severity},
    }


def _result(one: Finding, rule: int) -> dict[str, Any]:
    text = f"{one.text}." + (f" {one.cure[:1].upper()}{one.cure[1:]}." if one.cure else "")
    return {
        "ruleId": one.code,
        "ruleIndex": rule,
        "level": one.severity,
        # `{0}` would be a placeholder, and brackets a link (3.11.5, 3.11.6).
        "message": {"text": _escaped(escape_controls(text, keep=""))},
        "locations": [_location(one.subject)],
        "partialFingerprints": {"finding/v1": _digest(f"{one.code}\0{one.subject}")},
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _escaped(text: str) -> str:
    text = text.replace("{", "{{").replace("}", "}}")
    return text.replace("[", "\\[").replace("]", "\\]")


def _location(subject: str) -> dict[str, Any]:
    """Return where a finding is: a file, and what is inside of it, or a kernel, which is no file."""
    package, inside, path = subject.partition(": /")
    name = escape_controls(subject, keep="")
    if inside:
        logical = {"fullyQualifiedName": name, "name": escape_controls(f"/{path}", keep=""), "kind": "module"}
        return {"physicalLocation": _file(package), "logicalLocations": [logical]}
    if ".ko" in subject or "/" in subject:
        return {"physicalLocation": _file(subject)}
    return {"logicalLocations": [{"fullyQualifiedName": name, "name": name, "kind": "resource"}]}


def _file(path: str) -> dict[str, Any]:
    """Return a file as a URI reference (RFC 3986): a first part with a colon would be a scheme."""
    uri = quote(path.encode("utf-8", "surrogateescape"), safe=_SAFE)
    return {"artifactLocation": {"uri": f"file://{uri}" if uri.startswith("/") else uri}}

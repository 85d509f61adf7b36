"""Headers of patches as Debian writes them (DEP-3), from mails of git format-patch or whatever precedes a diff.

All of it is somebody else's text: it is parsed, never believed to be a patch.
"""

from __future__ import annotations

import email.header
import email.message
import email.parser
import email.utils
import re
import time
from dataclasses import dataclass
from pathlib import PurePosixPath

from pkgkmod.sources.patches import Patch
from pkgkmod.templates import deb_text

_DIFF_STARTS = re.compile(rb"^(?:diff --git |--- \S|Index: )", re.MULTILINE)
_MAIL_STARTS = re.compile(r"From (?P<commit>[0-9a-f]{40}(?:[0-9a-f]{24})?) ")
_FIELDS = re.compile(
    r"(?:Description|Subject|Origin|Bug(?:-\w+)?|Forwarded|Author|From|Reviewed-by|Acked-by|Last-Update|Applied-Upstream):",
    re.IGNORECASE,
)
_TAG = re.compile(r"^\s*(?:\[[^\]]*\]\s*)+")
# As the stable kernels' maintainers name the commit of the main line.
_UPSTREAM = re.compile(
    r"^\[? ?(?:commit (?P<a>[0-9a-f]{12,64}) upstream\.?|Upstream commit (?P<b>[0-9a-f]{12,64}))",
    re.MULTILINE | re.IGNORECASE,
)
_PICKED = re.compile(r"^\(cherry picked from commit (?P<a>[0-9a-f]{12,64})\)", re.MULTILINE)
_IN_BODY_FROM = re.compile(r"\AFrom: (?P<who>[^\n]+)\n+")
# GNU patch takes indented diffs, and dashes as mail readers quote them (RFC 934): in a text they are no patch.
_LOOKS_LIKE_A_PATCH = re.compile(r"(?:[ \tX]|- )*(?:---|\+\+\+|\*\*\*|@@|diff --git\b|Index:|Prereq:)")
_LONGEST = 200  # lines of a description


@dataclass(frozen=True)
class _Told:
    """What is known about a patch; empty where it does not say."""

    subject: str = ""
    body: str = ""
    author: str = ""
    commit: str = ""
    date: str = ""


def patch_header(patch: Patch) -> str:
    """Return the DEP-3 header of a patch, up to the line of dashes that ends it."""
    head = _DIFF_STARTS.split(patch.content, maxsplit=1)[0].decode("utf-8", "replace").replace("\r\n", "\n")
    told = _from_mail(head) if _MAIL_STARTS.match(head) or _has_mail_headers(head) else _from_text(head)
    subject = _one_line(told.subject) or _one_line(PurePosixPath(patch.name).stem) or "Patch of the project"
    fields = {"Description": "\n".join(filter(None, (subject, _body(told.body)))), "Author": _one_line(told.author)}
    fields |= _origin(told, patch)
    fields["Last-Update"] = told.date
    return "".join(f"{name}: {value}\n" for name, value in fields.items() if value) + "---\n"


def _has_mail_headers(head: str) -> bool:
    return bool(re.match(r"(?:[A-Za-z0-9-]+:[^\n]*\n(?:[ \t][^\n]*\n)*)*Subject:", head)) and "\nDate:" in f"\n{head}"


def _from_mail(head: str) -> _Told:
    """Read what git format-patch wrote: a line of mbox, headers, the message, and a line of dashes."""
    found = _MAIL_STARTS.match(head)
    mail = email.parser.Parser().parsestr(head.partition("\n")[2] if found else head)
    body = str(mail.get_payload())
    message = re.split(r"^---\s*$", body, maxsplit=1, flags=re.MULTILINE)[0].strip() + "\n"
    author = _decoded(mail, "From")
    if inside := _IN_BODY_FROM.match(message):
        author, message = inside["who"], message[inside.end() :]
    commit = found["commit"] if found and set(found["commit"]) != {"0"} else ""
    return _Told(_TAG.sub("", _decoded(mail, "Subject")), message, author, commit, _day(_decoded(mail, "Date")))


def _from_text(head: str) -> _Told:
    """Read DEP-3 headers that are there already, or a text that is none."""
    lines = re.split(r"^---\s*$", head, maxsplit=1, flags=re.MULTILINE)[0].strip().splitlines()
    if not lines or not _FIELDS.match(lines[0]):
        return _Told(lines[0] if lines else "", "\n".join(lines[1:]))
    message = email.parser.Parser().parsestr("\n".join(lines) + "\n")
    first, _, rest = str(message["Description"] or message["Subject"] or "").partition("\n")
    body = "\n".join("" if line.strip() == "." else line.strip() for line in rest.splitlines())
    more = str(message.get_payload()).strip()
    day = str(message["Last-Update"] or "").strip()
    author = str(message["Author"] or message["From"] or "")
    origin = str(message["Origin"] or "")
    commit = re.search(r"\bcommit[: ]\s*(?P<id>[0-9a-f]{12,64})\b", origin)
    return _Told(
        _TAG.sub("", first),
        "\n\n".join(filter(None, (body, f"Origin: {origin}" if origin and not commit else "", more))),
        author,
        commit["id"] if commit else "",
        day if re.fullmatch(r"\d{4}-\d\d-\d\d", day) else "",
    )


def _decoded(mail: email.message.Message, name: str) -> str:
    raw = str(mail[name] or "")
    try:
        return str(email.header.make_header(email.header.decode_header(raw)))
    except (LookupError, ValueError, UnicodeError):  # an encoding that nobody knows
        return raw


def _day(date: str) -> str:
    """Return the day of a mail's date, in its own zone; empty if it is none."""
    parsed = email.utils.parsedate(date)
    try:
        return time.strftime("%Y-%m-%d", parsed) if parsed else ""
    except ValueError:
        return ""


def _origin(told: _Told, patch: Patch) -> dict[str, str]:
    """Return where a patch is from: the main line's commit where the message names it, or that of the mail."""
    if found := _UPSTREAM.search(told.body):
        return {"Origin": f"backport, commit:{found['a'] or found['b']}", "Forwarded": "not-needed"}
    if found := _PICKED.search(told.body):
        return {"Origin": f"backport, commit:{found['a']}", "Forwarded": "not-needed"}
    if told.commit:
        return {"Origin": f"other, commit:{told.commit}"}
    return {"Origin": f"other, the project's {_one_line(patch.name)}"}


def _body(text: str) -> str:
    """Return a message as the continuation lines of a field, none of which a program takes for a part of a patch."""
    lines = text.strip().splitlines()
    cut = lines[:_LONGEST] + ["[...]"] * (len(lines) > _LONGEST)
    shown = ["".join(c if c.isprintable() else " " for c in line.expandtabs()) for line in cut]
    # An empty line parts subject and text.
    quoted = "\n".join(f"| {line}" if _LOOKS_LIKE_A_PATCH.match(line) else line for line in ["", *shown])
    return " .\n" + deb_text(quoted) if quoted.strip() else ""


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]

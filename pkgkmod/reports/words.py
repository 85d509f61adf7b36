"""The words and marks of a report: one for each answer, so that colour is never the only sign."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pkgkmod.model.finding import Finding, Severity
from pkgkmod.model.prediction import Ending
from pkgkmod.progress import human_size
from pkgkmod.reports.facts import Cell, KernelRow

Tone = Literal["bad", "warn", "good", "none"]
TONES: tuple[Tone, ...] = ("bad", "warn", "good", "none")
"""The most important one first."""
GLYPHS: dict[Tone, str] = {"bad": "✗", "warn": "!", "good": "✓", "none": "·"}
SEVERITIES: dict[Severity, Tone] = {"error": "bad", "warning": "warn", "note": "none"}

_ENDINGS: dict[Ending, tuple[Tone, str]] = {
    "loaded": ("good", "loaded"),
    "no device": ("good", "loaded, no device"),
    "refused": ("bad", "refused"),
    "oops": ("bad", "crashed"),
    "timeout": ("bad", "hung"),
    "not tried": ("none", "not tried"),
}
_SHORTEST = 120
"""Characters of a name: the kernel's own limits are 55 for modules and 64 for releases."""


@dataclass(frozen=True)
class Mark:
    """An answer about a module in a kernel."""

    question: str
    tone: Tone
    word: str
    glyph: str
    """A character that says the same as the colour."""


def _mark(question: str, tone: Tone, word: str) -> Mark:
    return Mark(question, tone, word, GLYPHS[tone])


def worst(tones: Iterable[Tone]) -> Tone:
    """Return the most important of these; `none` if there is none."""
    return min(tones, key=TONES.index, default="none")


def built(row: KernelRow, name: str, cell: Cell) -> Mark:
    """Say whether the module of that name was built."""
    if cell.built:
        return _mark("built", "warn", "older sources") if row.outdated else _mark("built", "good", "built")
    words: dict[str, tuple[Tone, str]] = {
        "failed": ("bad", "failed"),
        "excluded": ("none", "left out"),
        "foreign": ("none", "not built yet" if row.awaited else "not built"),
        "ok": ("none", "not for it"),
        "farm": ("none", "not for it"),
    }
    if row.state == "farm" and (row.fetched is None or name in row.fetched):
        return _mark("built", "good", "by a farm")
    return _mark("built", *words[row.state])


def checked(cell: Cell) -> Mark:
    """Say what is the worst that was found in its package."""
    for severity, tone in (("error", "bad"), ("warning", "warn")):
        if number := sum(finding.severity == severity for finding in cell.findings):
            return _mark("checked", tone, counted(number, severity))  # type: ignore[arg-type]
    return _mark("checked", "good", "clean") if cell.checked else _mark("checked", "none", "not checked")


def predicted(row: KernelRow, cell: Cell) -> Mark:
    """Say what the kernel will do with it; that one takes no modules of another kernel is no fault."""
    if cell.prediction is None:
        return _mark("predicted", "none", "not predicted")
    if cell.prediction.verdict == "refused" and row.state == "foreign":
        return Mark("predicted", "warn", "refused", GLYPHS["bad"])
    verdicts: dict[str, tuple[Tone, str]] = {
        "loads": ("good", "loads"),
        "refused": ("bad", "refused"),
        "unknown": ("none", "not known"),
    }
    return _mark("predicted", *verdicts[cell.prediction.verdict])


def booted(row: KernelRow, cell: Cell) -> Mark:
    """Say what came of it in the kernel that was booted."""
    if cell.boot is None:
        return _mark("booted", "none", "not booted")
    tone, word = _ENDINGS[cell.boot.ending]
    if row.boot_outdated:
        return _mark("booted", "warn" if tone == "good" else tone, f"{word}, before the last build")
    return _mark("booted", tone, word)


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings, errors first, in a settled order."""
    order = list(SEVERITIES)
    return sorted(findings, key=lambda one: (order.index(one.severity), one.code, one.subject, one.text))


# --- numbers and names ------------------------------------------------------------------------------


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 kernel, 2 kernels."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


size_text = human_size


def time_text(seconds: float) -> str:
    """Return a time, in seconds since 1970, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def date_text(seconds: float) -> str:
    """Return the day of a time, in seconds since 1970."""
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def span_text(seconds: float) -> str:
    """Return how long something took."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


def short_name(name: str) -> str:
    """Return a name that does not take a page for itself; those of real modules and kernels stay whole."""
    return name if len(name) <= _SHORTEST else name[: _SHORTEST - 1] + "…"


def place_text(*parts: str) -> str:
    """Return what a result is of: TARGET/KERNEL; empty if it is of everything."""
    return "/".join(part for part in parts if part not in ("", "_"))

"""A report as one HTML page that needs nothing besides itself: no server, no network, no script to be read."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pkgkmod import data
from pkgkmod.model.finding import Finding
from pkgkmod.reports import words
from pkgkmod.reports.facts import Dependencies, Facts, Failure, Found, Timing
from pkgkmod.reports.matrix import Matrix, matrix_of
from pkgkmod.reports.svg import Drawing, drawn
from pkgkmod.reports.words import SEVERITIES, Tone, counted, place_text, short_name
from pkgkmod.templates import render_page

_RISKS = 10
"""Symbols that are named."""


def page_of(facts: Facts) -> str:
    """Return the page; the same facts make the same bytes."""
    style, script = _text("page.css"), _text("page.js")
    matrix = matrix_of(facts)
    state, tone = _state(facts, matrix)
    return render_page(
        "page.html",
        {
            "facts": facts,
            "style": style,
            "script": script,
            "policy": _policy(style, script),
            "state": state,
            "tone": tone,
            "tiles": _tiles(facts, matrix),
            "matrix": matrix,
            "failures": _alike(facts.failures),
            "risks": (facts.risks or ())[:_RISKS],
            "findings": _grouped(facts.findings, matrix),
            "stages": _by_stage(facts.timings),
            "kernels": _by_kernel(facts),
            "drawing": _drawing(facts.dependencies),
            "kinds": {node.name: node for node in facts.dependencies.nodes} if facts.dependencies else {},
            "w": words,
        },
    )


def _text(name: str) -> str:
    return files(data).joinpath("report", name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Return what a browser may do with the page: apply this style and run this script, and nothing else."""
    style_sum, script_sum = (base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in (style, script))
    return (
        f"default-src 'none'; style-src 'sha256-{style_sum}'; script-src 'sha256-{script_sum}'; base-uri 'none'; "
        "form-action 'none'"
    )


# --- the head ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """A number at the top of the page."""

    title: str
    text: str
    more: str
    tone: Tone
    goes_to: str
    """Section with the details."""


def _state(facts: Facts, matrix: Matrix) -> tuple[str, Tone]:
    """Return what is to be said of all of it, in a few words: the worst."""
    severities = Counter(one.finding.severity for one in facts.findings)
    dead = sum(row.row.boot is not None and bool(row.row.boot.failure) for row in matrix.rows)
    worse = [
        (len(facts.failures), "step", "failed"),
        (dead, "kernel", "did not boot"),
        (_count(matrix, "booted", "bad"), "module", "did not load"),
        (severities["error"], "error", "found"),
        (_count(matrix, "predicted", "bad"), "module", "would be refused"),
    ]
    for number, noun, text in worse:
        if number:
            return f"{counted(number, noun)} {text}", "bad"
    if awaited := sum(row.row.awaited for row in matrix.rows):
        return f"{counted(awaited, 'kernel')} not built yet", "warn"
    if severities["warning"]:
        return f"made, with {counted(severities['warning'], 'warning')}", "warn"
    if _count(matrix, "built", "warn"):
        return "made, in part of older sources", "warn"
    return ("all made", "good") if matrix.rows else ("nothing built yet", "none")


def _count(matrix: Matrix, question: str, tone: Tone) -> int:
    """Return how many modules have such a mark, of the kernels that were built for."""
    cells = (cell for row in matrix.rows if row.row.state != "foreign" for cell in row.cells)
    return sum((mark.question, mark.tone) == (question, tone) for cell in cells for mark in cell.marks)


def _tiles(facts: Facts, matrix: Matrix) -> list[Tile]:
    states = Counter(row.state for row in facts.rows)
    made = states["ok"] + states["farm"]
    wanted = made + states["failed"] + sum(row.awaited for row in facts.rows)
    left_out = f"{states['excluded']} left out" if states["excluded"] else ""
    tone: Tone = "bad" if states["failed"] else "none" if not wanted else "good" if made == wanted else "warn"
    packages = [file for file in facts.files if file.kind.endswith((", binary", ", debuginfo"))]
    disks = sum(file.kind.startswith("driver disk") for file in facts.files)
    signed = "signed" if packages and all(file.signed for file in packages) else ""
    more = [signed, counted(disks, "driver disk") if disks else ""]
    tiles = [
        Tile("Kernels", f"{made} of {wanted}", left_out or "built", tone, "matrix"),
        Tile("Modules", str(len(facts.modules)), "", "none", "matrix"),
        Tile("Packages", str(len(packages)), ", ".join(filter(None, more)), "none", "files"),
        _found_tile(facts),
    ]
    if facts.predicted:
        tiles.append(_answers("Predicted", matrix, "predicted", "load", "refused"))
    if "booted" in matrix.questions:
        tiles.append(_answers("Booted", matrix, "booted", "loaded", "did not"))
    return tiles


def _found_tile(facts: Facts) -> Tile:
    if not facts.checked:
        return Tile("Checks", "none", "not checked", "none", "findings")
    counts = Counter(one.finding.severity for one in facts.findings)
    notes = counted(counts["note"], "note") if counts["note"] else ""
    if counts["error"]:
        return Tile(
            "Checks", counted(counts["error"], "error"), counted(counts["warning"], "warning"), "bad", "findings"
        )
    if counts["warning"]:
        return Tile("Checks", counted(counts["warning"], "warning"), notes, "warn", "findings")
    return Tile("Checks", "clean", notes, "good", "findings")


def _answers(title: str, matrix: Matrix, question: str, good: str, bad: str) -> Tile:
    """Return a tile that counts what became of the modules, of the kernels that were built for."""
    goods, bads = (_count(matrix, question, tone) for tone in ("good", "bad"))
    if not goods and not bads:
        return Tile(title, "nothing", "not known", "none", "matrix")
    tone: Tone = "bad" if bads else "good"
    return Tile(title, f"{goods:,} {good}", f"{bads:,} {bad}" if bads else "", tone, "matrix")


# --- failures ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FailureView:
    """A failure, and all that failed in the same way."""

    failure: Failure
    """The first one."""
    places: tuple[str, ...]


def _alike(failures: Iterable[Failure]) -> list[FailureView]:
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        groups.setdefault((failure.stage, failure.error or place_text(failure.target, failure.kernel)), []).append(
            failure
        )
    return [
        FailureView(ones[0], tuple(short_name(place_text(one.target, one.kernel)) for one in ones))
        for ones in groups.values()
    ]


# --- findings ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FindingView:
    """A finding, and all that it is about."""

    finding: Finding
    tone: Tone
    places: tuple[tuple[str, str], ...]
    """What it is about, with the anchor of the details or nothing."""


def _grouped(found: Iterable[Found], matrix: Matrix) -> list[FindingView]:
    """Return findings, errors first; what was found at several places is told once."""
    anchors = {(cell.name, row.row.release): cell.id for row in matrix.rows for cell in row.cells}
    groups: dict[tuple[str, str, str, str], list[Found]] = {}
    for one in found:
        finding = one.finding
        groups.setdefault((finding.severity, finding.code, finding.text, finding.cure), []).append(one)
    order = list(SEVERITIES)
    firsts = sorted(groups.values(), key=lambda group: _sort_key(group, order))
    return [
        FindingView(
            group[0].finding,
            SEVERITIES[group[0].finding.severity],
            tuple(dict.fromkeys((_place(one), anchors.get((one.module, one.kernel), "")) for one in group)),
        )
        for group in firsts
    ]


def _place(found: Found) -> str:
    return f"{found.module} for {found.kernel}" if found.module else found.finding.subject


def _sort_key(group: list[Found], order: list[Any]) -> tuple[int, str, int, str]:
    finding = group[0].finding
    return order.index(finding.severity), finding.code, -len(group), finding.text


# --- times ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TimeView:
    """A bar of a chart."""

    name: str
    more: str
    seconds: float
    share: float
    """Per cent of the longest one."""


def _by_stage(timings: Iterable[Timing]) -> list[TimeView]:
    sums: dict[str, list[float]] = {}
    for timing in timings:
        sums.setdefault(timing.stage, []).append(timing.seconds)
    rows = [(stage, counted(len(ones), "run"), sum(ones)) for stage, ones in sums.items()]
    return _bars(sorted(rows, key=lambda row: (-row[2], row[0])))


def _by_kernel(facts: Facts) -> list[TimeView]:
    rows = [
        (place_text(timing.target, short_name(timing.kernel)), timing.stage, timing.seconds)
        for timing in facts.timings
        if timing.kernel != "_"
    ]
    rows += [(short_name(row.release), "emulated boot", row.boot.seconds) for row in facts.rows if row.boot]
    rows = [row for row in rows if row[1] != "boot"]
    return _bars(sorted(rows, key=lambda row: (-row[2], row[0], row[1])))


def _bars(rows: list[tuple[str, str, float]]) -> list[TimeView]:
    longest = max((seconds for _, _, seconds in rows), default=0) or 1
    return [TimeView(name, more, seconds, round(100 * seconds / longest, 1)) for name, more, seconds in rows]


# --- dependencies -----------------------------------------------------------------------------------


def _drawing(dependencies: Dependencies | None) -> Drawing | None:
    if dependencies is None or not dependencies.edges:
        return None
    return drawn([node.name for node in dependencies.nodes], dependencies.edges)

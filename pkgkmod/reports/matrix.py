"""The matrix of kernels and modules, and the details behind each of its cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pkgkmod.model.finding import Finding
from pkgkmod.model.prediction import Prediction
from pkgkmod.reports.facts import Cell, Facts, KernelRow
from pkgkmod.reports.words import TONES, Mark, Tone, booted, built, by_severity, checked, predicted, short_name, worst

_FEW = 6
"""Modules up to which the cells have words besides their marks."""
_TROUBLES = 6
"""Symbols that are named of a module that is refused."""


@dataclass(frozen=True)
class CellView:
    """A cell: its marks, and what stands behind them."""

    id: str
    """Anchor of its details."""
    name: str
    """The module's, whole."""
    marks: tuple[Mark, ...]
    cell: Cell
    findings: tuple[Finding, ...]
    troubles: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def module(self) -> str:
        """The module's name, as long as it should be."""
        return short_name(self.name)

    @property
    def tone(self) -> Tone:
        """The most important one."""
        return worst(mark.tone for mark in self.marks)

    @property
    def answers(self) -> tuple[Mark, ...]:
        """The marks without those that say nothing; the first one if all say nothing."""
        return tuple(mark for mark in self.marks if mark.tone != "none") or self.marks[:1]

    @property
    def rank(self) -> int:
        """Number to sort by."""
        return TONES.index(self.tone)

    @property
    def label(self) -> str:
        """All marks in words."""
        return ", ".join(mark.word for mark in self.marks)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing behind it."""
        cell = self.cell
        return not (cell.built or cell.findings or cell.prediction or cell.boot)


@dataclass(frozen=True)
class RowView:
    """A kernel with its cells."""

    id: str
    row: KernelRow
    name: str
    note: str
    cells: tuple[CellView, ...]

    @property
    def tone(self) -> Tone:
        """The most important one of its cells; bad if the kernel did not come up."""
        failed = self.row.boot is not None and bool(self.row.boot.failure)
        return "bad" if failed else worst(cell.tone for cell in self.cells)

    @property
    def summary(self) -> str:
        """What is to be said of its modules, in a few words."""
        if self.row.boot and self.row.boot.failure:
            return "did not boot"
        if self.row.state in ("failed", "excluded"):
            return "does not build" if self.row.state == "failed" else "left out"
        number = sum(cell.tone == self.tone for cell in self.cells)
        if self.tone == "none":
            return "nothing known"
        if self.tone == "good" and number == len(self.cells):
            return "all as it should be"
        if self.row.state == "foreign" and self.tone == "warn":
            return f"{number} of {len(self.cells)} would be refused"
        words = {"bad": "not as it should be", "warn": "with a warning", "good": "as it should be"}
        return f"{number} of {len(self.cells)} {words[self.tone]}"


@dataclass(frozen=True)
class Matrix:
    """Rows of kernels, newest first, and columns of modules."""

    columns: tuple[str, ...]
    questions: tuple[str, ...]
    """What the marks of each cell say, in their order."""
    rows: tuple[RowView, ...]

    @property
    def is_dense(self) -> bool:
        """Whether there is only room for marks, not for words."""
        return len(self.columns) > _FEW


def matrix_of(facts: Facts) -> Matrix:
    """Return the matrix; questions that nobody asked have no mark in it."""
    questions = ["built"]
    questions += ["checked"] if facts.checked else []
    questions += ["predicted"] if facts.predicted else []
    questions += ["booted"] if any(row.boot for row in facts.rows) else []
    rows = tuple(_row(number, row, facts, questions) for number, row in enumerate(facts.rows, 1))
    return Matrix(tuple(short_name(name) for name in facts.modules), tuple(questions), rows)


def _row(number: int, row: KernelRow, facts: Facts, questions: Sequence[str]) -> RowView:
    cells = tuple(
        _cell(f"k{number}m{column}", name, row, facts.cells.get((row.key, name), Cell()), questions)
        for column, name in enumerate(facts.modules, 1)
    )
    name = short_name(row.release) + ("" if row.label == "_" else f" ({short_name(row.label)})")
    return RowView(f"k{number}", row, name, _note(row, cells), cells)


def _note(row: KernelRow, cells: Sequence[CellView]) -> str:
    if row.state == "foreign":
        sources = sorted({view.cell.prediction.built_for for view in cells if view.cell.prediction})
        notes = ["not built yet"] if row.awaited else []
        notes += [f"modules of {', '.join(map(short_name, sources))}"] if sources else []
        return "; ".join(notes) or "nothing known"
    if row.state == "farm":
        return "built by a farm"
    if row.state == "excluded":
        return f"left out: {row.reason}" if row.reason else "left out"
    if row.state == "failed":
        return "does not build"
    return "built of older sources" if row.outdated else ""


def _cell(id: str, name: str, row: KernelRow, cell: Cell, questions: Sequence[str]) -> CellView:
    marks = (built(row, name, cell), checked(cell), predicted(row, cell), booted(row, cell))
    prediction = cell.prediction
    return CellView(
        id=id,
        name=name,
        marks=tuple(mark for mark in marks if mark.question in questions),
        cell=cell,
        findings=tuple(by_severity(cell.findings)),
        troubles=_troubles(prediction) if prediction else (),
        reasons=prediction.reasons if prediction else (),
    )


def _troubles(prediction: Prediction) -> tuple[str, ...]:
    texts = [f"{one.symbol}: {one.text}" for one in prediction.troubles[:_TROUBLES]]
    more = len(prediction.troubles) - _TROUBLES
    return (*texts, f"and {more} more symbols") if more > 0 else tuple(texts)

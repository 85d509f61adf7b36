"""What came of a plan's steps, and how failures are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pkgkmod.engine.plan import Key, Step
from pkgkmod.errors import ExitCode, PartialError, PkgkmodError
from pkgkmod.plugins import KernelUnit
from pkgkmod.workspace import Result

Outcome = Literal["done", "skipped", "kept", "reused", "failed", "excluded"]


@dataclass
class Run:
    """What has come of each step so far."""

    steps: dict[Key, Step] = field(default_factory=dict)
    results: dict[Key, Result] = field(default_factory=dict)
    tokens: dict[Key, str] = field(default_factory=dict)
    outcomes: dict[Key, Outcome] = field(default_factory=dict)
    errors: dict[Key, PkgkmodError] = field(default_factory=dict)
    absent: dict[str, PkgkmodError] = field(default_factory=dict)
    """What is wrong with the kernels that could not be had, by release."""

    @property
    def failed_kernels(self) -> frozenset[tuple[str, str]]:
        """Labels of the sources, and releases of the kernels, for which no modules could be had."""
        units = [self.steps[key].unit for key, outcome in self.outcomes.items() if outcome in ("failed", "excluded")]
        return frozenset(unit.key for unit in units if isinstance(unit, KernelUnit))

    @property
    def made(self) -> list[Key]:
        """The steps that are there for their own sake, not for another step, and succeeded."""
        needed = {key for step in self.steps.values() for _, key in step.needs}
        return [key for key in self.results if key not in needed]

    @property
    def failure(self) -> PkgkmodError | None:
        """What to raise in the end: the step's own error if nothing was made, PartialError if something was.

        If checks failed and nothing else did, that is said.
        """
        if not self.errors and not self.absent:
            return None
        errors = [*self.absent.values(), *self.errors.values()]
        kinds = {error.exit_code for error in errors}
        # What fails a check was made, as the rest was: it is not to be shipped, and nothing is missing.
        if len(kinds) == 1 and (not self.made or kinds == {ExitCode.CHECK}):
            return errors[0] if len(errors) == 1 else _together(errors[0], self)
        return PartialError(
            _count(self) + ("; the others stand" if self.made else ""),
            details=_listing(self),
            hint="correct what is named above and run the same command again: only what failed is done again",
        )


def _count(run: Run) -> str:
    kernels = {run.steps[key].unit.key for key in run.errors if isinstance(run.steps[key].unit, KernelUnit)}
    failed = [f"{len(run.errors)} of {len(run.outcomes)} steps failed"] if run.errors else []
    if run.absent:
        failed.append(f"{len(run.absent)} kernel{'s' if len(run.absent) > 1 else ''} could not be had")
    elif len(kernels) > 1:
        failed[0] += f", for {len(kernels)} kernels"
    return " and ".join(failed)


def _together(first: PkgkmodError, run: Run) -> PkgkmodError:
    return type(first)(first.brief, details=_listing(run), hint=first.hint, log=first.log)


def _listing(run: Run) -> str:
    lines = []
    for release, error in run.absent.items():
        lines += [f"kernel {release}: {error.brief}", *([f"    {error.hint}"] if error.hint else [])]
    for key, error in run.errors.items():
        lines.append(f"{run.steps[key].title}: {error.brief}")
        lines += [f"    {line}" for line in error.details.splitlines()[:6]]
        if error.log:
            lines.append(f"    log: {error.log}")
    return "\n".join(lines)

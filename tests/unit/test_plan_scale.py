"""Which steps need which, found without a look at all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from pkgkmod.engine import execute, plan
from pkgkmod.engine.plan import Selection, Step, StepsOfStage, concerns, make_steps
from pkgkmod.model.job import Job
from pkgkmod.plugins import JobUnit, KernelUnit, ProjectUnit, SourceUnit, Unit
from tests.fixtures.packaging import make_job

BASE = Path("/p")


def jobs(count: int) -> list[Job]:
    return [make_job("el9", (f"5.14.0-{number}.el9.x86_64",)) for number in range(count)]


def units() -> list[list[Unit]]:
    """Return units of each kind: sources, kernels, jobs of one kernel and of several, and the project."""
    some = jobs(5)
    project = some[0].project
    together = make_job("fedora", tuple(job.kernels[0].uname_r for job in reversed(some[1:4])), project)
    sources: list[Unit] = [SourceUnit(project, BASE, label) for label in ("_", "other")]
    kernels: list[Unit] = [KernelUnit(project, BASE, job.kernels[0], label) for label in ("_", "other") for job in some]
    of_jobs: list[Unit] = [JobUnit(job.project, BASE, job) for job in (*some, together)]
    return [sources, kernels, of_jobs, [ProjectUnit(project, BASE, tuple(some))]]


@pytest.mark.parametrize("made", range(4))
@pytest.mark.parametrize("takers", range(4))
def test_the_steps_for_a_unit_are_those_that_concern_it_in_their_order(made: int, takers: int) -> None:
    steps = [Step(cast(Any, None), unit, ()) for unit in units()[made]]
    of_stage = StepsOfStage()
    for step in steps:
        of_stage.add(step)
    for taker in units()[takers]:
        assert of_stage.for_unit(taker) == [step for step in steps if concerns(step.unit, taker)]


def test_a_plan_for_twice_the_kernels_takes_twice_the_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(made: Unit, taker: Unit) -> bool:
        calls[-1] += 1
        return concerns(made, taker)

    monkeypatch.setattr(plan, "concerns", counted)
    for count in (50, 100):
        calls.append(0)
        found = jobs(count)
        stages = ("build_rpm", "check", "sbom")
        steps = {step.key: step for step in make_steps(Selection(found[0].project, BASE, tuple(found), stages))}
        awaited = execute._awaited(steps)
        assert all({need for _, need in step.needs} <= set(awaited[key]) for key, step in steps.items())
    assert 0 < calls[1] <= 2 * calls[0]

"""Carrying out a plan: a failed kernel fails that kernel, and the others finish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pkgkmod.engine.plan import Action, Decision, Key, Selection, Step, decide, make_plan
from pkgkmod.errors import PartialError, PkgkmodError, SourcesChangedError
from pkgkmod.plugins import JobUnit, KernelUnit, Work
from pkgkmod.progress import Progress
from pkgkmod.workspace import LOG_FILE, Result, Workspace

Outcome = Literal["done", "skipped", "kept", "failed", "excluded"]
_OUTCOMES: Mapping[Action, Outcome] = {"RUN": "done", "SKIP": "skipped", "KEEP": "kept"}


@dataclass
class Run:
    """What has come of each step so far."""

    steps: dict[Key, Step] = field(default_factory=dict)
    results: dict[Key, Result] = field(default_factory=dict)
    tokens: dict[Key, str] = field(default_factory=dict)
    outcomes: dict[Key, Outcome] = field(default_factory=dict)
    errors: dict[Key, PkgkmodError] = field(default_factory=dict)

    @property
    def failed_kernels(self) -> frozenset[str]:
        """Releases of the kernels for which no modules could be had."""
        return frozenset(key[2] for key in self.errors if isinstance(self.steps[key].unit, KernelUnit))

    @property
    def made(self) -> list[Key]:
        """The steps that are there for their own sake, not for another step, and succeeded."""
        needed = {key for step in self.steps.values() for _, key in step.needs}
        return [key for key in self.results if key not in needed]

    @property
    def failure(self) -> PkgkmodError | None:
        """What to raise in the end: the step's own error if nothing was made, PartialError if something was."""
        if not self.errors:
            return None
        errors = list(self.errors.values())
        if not self.made and len({error.exit_code for error in errors}) == 1:
            return errors[0] if len(errors) == 1 else _together(errors[0], self)
        return PartialError(
            f"{len(errors)} of {len(self.outcomes)} steps failed" + ("; the others stand" if self.made else ""),
            details=_listing(self),
            hint="correct what is named above and run the same command again: only what failed is done again",
        )


def execute(selection: Selection, workspace: Workspace, progress: Progress) -> Run:
    """Make what is asked for, and return what came of each step; failures are in `Run.failure`."""
    with workspace.locked(progress):
        run = Run()
        for planned in make_plan(selection, workspace):
            _take_step(planned, selection, workspace, progress, run)
    return run


def _take_step(planned: Decision, selection: Selection, workspace: Workspace, progress: Progress, run: Run) -> None:
    key = planned.step.key
    run.steps[key] = planned.step
    step = _without_failed(planned.step, run)
    if step is None:
        run.outcomes[key] = "excluded"
        progress.info(f"left out: {planned.step.title}: what it needs failed")
        return
    try:
        inputs = {run.steps[need].title: run.tokens[need] for _, need in step.needs}
        decision = decide(step, inputs, workspace, forced=step.stage.name in selection.force)
        if decision.action == "KEEP":
            _tell_kept(decision, progress)
        run.results[key] = decision.result or _run_stage(decision, run, workspace, progress)
    except PkgkmodError as error:
        run.outcomes[key] = "failed"
        run.errors[key] = error
        progress.event("failed", stage=key[0], target=key[1], kernel=key[2], reason=error.brief)
        return
    run.tokens[key] = decision.token
    run.outcomes[key] = _OUTCOMES[decision.action]
    if decision.action == "SKIP":
        progress.info(f"SKIP {step.title}: {decision.reason}")


def _tell_kept(decision: Decision, progress: Progress) -> None:
    """Say that an edited result is used; raise SourcesChangedError where the project does not want that."""
    assert decision.result
    step, folder = decision.step, decision.result.folder
    level = step.stage.on_edit(step.unit.project)
    if level == "fail":
        raise SourcesChangedError(
            f"{step.title}: {decision.reason}",
            details=f"the files lie in {folder}",
            hint=f"make a patch of the edits, then `pkgkmod {step.stage.name} --force`; the edits are kept aside",
        )
    if level == "warn":
        progress.warning(f"{step.title}: {decision.reason}; used as it is: {folder}")


def _without_failed(step: Step, run: Run) -> Step | None:
    """Return the step without the kernels that failed; None if nothing is left of it."""
    needs = tuple((kind, key) for kind, key in step.needs if key in run.results)
    unit = step.unit
    if isinstance(unit, JobUnit):
        kernels = tuple(k for k in unit.job.kernels if k.uname_r not in run.failed_kernels)
        if not kernels:
            return None
        unit = replace(unit, job=unit.job.with_kernels(kernels))
    if {kind for kind, _ in needs} != {kind for kind, _ in step.needs}:
        return None
    return replace(step, needs=needs, unit=unit)


def _run_stage(decision: Decision, run: Run, workspace: Workspace, progress: Progress) -> Result:
    """Run a stage and save what it made; a failure is saved, too, with its log."""
    step = decision.step
    inputs: dict[str, tuple[Result, ...]] = {}
    for kind, key in step.needs:
        inputs[kind] = (*inputs.get(kind, ()), run.results[key])
    facts: Mapping[str, object] = {
        "key": step.key,
        "fingerprint": decision.fingerprint,
        "ingredients": decision.ingredients,
        "inputs": decision.inputs,
    }
    with workspace.draft() as draft, progress.step(step.title):
        work = Work(step.unit, inputs, draft, workspace, progress)
        try:
            artifact = step.stage.run(work)
        except PkgkmodError as error:
            if error.log:
                error.log = workspace.place(*step.key, decision.fingerprint) / LOG_FILE
            workspace.save(draft, **facts, state="failed", reason=error.brief)  # type: ignore[arg-type]
            raise
        return workspace.save(draft, **facts, state="ok", artifact=artifact.model_dump())  # type: ignore[arg-type]


def _together(first: PkgkmodError, run: Run) -> PkgkmodError:
    return type(first)(first.brief, details=_listing(run), hint=first.hint, log=first.log)


def _listing(run: Run) -> str:
    lines = []
    for key, error in run.errors.items():
        lines.append(f"{run.steps[key].title}: {error.brief}")
        lines += [f"    {line}" for line in error.details.splitlines()[:6]]
        if error.log:
            lines.append(f"    log: {error.log}")
    return "\n".join(lines)

"""The plan: which stages run for which kernels and targets, which are skipped, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pkgkmod.errors import PkgkmodError, PluginError, UsageError
from pkgkmod.model.job import Job
from pkgkmod.model.project import Project, Target
from pkgkmod.plugins import (
    STAGES,
    JobUnit,
    KernelUnit,
    ProjectUnit,
    SourceUnit,
    Stage,
    Unit,
    load,
    registered,
)
from pkgkmod.resultcache import finished_before
from pkgkmod.workspace import Result, Workspace, digest

Action = Literal["RUN", "SKIP", "KEEP", "REUSE"]
Key = tuple[str, str, str]  # stage, target, kernel
_OF_NAMES = ("prepare_sources", "generate_spec", "generate_debian", "build_source")
"""Stages for which kernels are names."""


@dataclass(frozen=True)
class Step:
    """A stage for one unit, and the steps whose results it takes, by kind of artifact."""

    stage: Stage[Any]
    unit: Unit
    needs: tuple[tuple[str, Key], ...]

    @property
    def key(self) -> Key:
        """Where the result is filed."""
        return (self.stage.name, *self.unit.key)

    @property
    def title(self) -> str:
        """How the step is called in plans and progress: STAGE [TARGET/KERNEL]."""
        where = "/".join(part for part in self.unit.key if part != "_")
        return f"{self.stage.name} {where}".rstrip()

    @property
    def cell(self) -> tuple[str, str]:
        """Row and column of the step in a table: what it is about, and the stage."""
        target, kernel = self.unit.key
        return (kernel if kernel != "_" else target if target != "_" else "", self.stage.name)


@dataclass(frozen=True)
class Decision:
    """What is to be done about a step. `token` stands for its result in the fingerprints of others."""

    step: Step
    action: Action
    reason: str
    fingerprint: str
    ingredients: Mapping[str, Any]
    inputs: Mapping[str, str]
    token: str
    result: Result | None


@dataclass(frozen=True)
class Selection:
    """What is asked for: the project, its jobs, and the stages that are wanted."""

    project: Project
    base: Path
    jobs: tuple[Job, ...]
    stages: tuple[str, ...]
    force: tuple[str, ...] = ()
    """Stages that run although nothing changed."""
    targets: tuple[Target, ...] = ()
    """The targets that were chosen; all of the project's if there are none."""
    absent: Mapping[str, PkgkmodError] = field(default_factory=dict)
    """What is wrong with the kernels that could not be had, by release."""
    excluded: Mapping[str, str] = field(default_factory=dict)
    """Why the driver is not for some of the kernels that are asked for, by release."""
    fail_fast: bool = False
    """Start nothing more once something failed."""


def default_stages() -> tuple[str, ...]:
    """Return the stages that `build` runs, those of third parties included."""
    return tuple(name for name in registered(STAGES) if load(STAGES, name).in_build)


def make_steps(selection: Selection) -> tuple[Step, ...]:
    """Return the wanted steps and all they need, in an order in which they can run."""
    stages = _chain(selection)
    steps: dict[Key, Step] = {}
    made: dict[str, StepsOfStage] = {}
    for stage in stages:
        own = made.setdefault(stage.produces, StepsOfStage())
        for unit in _units(stage, selection):
            if stage.applies(unit):
                step = Step(stage, unit, tuple(_needs(stage, unit, selection.project, made)))
                steps[step.key] = step
                own.add(step)
    missing = [name for name in selection.stages if not any(step.stage.name == name for step in steps.values())]
    if missing and len(missing) == len(selection.stages):
        raise UsageError(
            f"there is nothing to do for {', '.join(missing)}",
            hint="no target of the project makes such packages, or its file turns this off; `pkgkmod distros` shows "
            "which distribution makes which",
        )
    return _without_idle(steps, selection.stages)


def _without_idle(steps: Mapping[Key, Step], wanted: Collection[str]) -> tuple[Step, ...]:
    """Return the steps of the wanted stages and what they need.

    A stage may be there for the sake of one that has nothing to do, as compiling for the packages of no target, where
    the others are made in a root.
    """
    needed: set[Key] = set()
    for key, step in reversed(list(steps.items())):
        if key in needed or step.stage.name in wanted:
            needed.add(key)
            needed.update(need for _, need in step.needs)
    return tuple(step for key, step in steps.items() if key in needed)


def _chain(selection: Selection) -> list[Stage[Any]]:
    """Return the wanted stages and those that make what they consume, producers first."""
    stages: dict[str, Stage[Any]] = {name: load(STAGES, name) for name in registered(STAGES)}
    makers = {stage.produces: stage for stage in stages.values()}
    ordered: list[Stage[Any]] = []
    under_way: list[str] = []

    def visit(stage: Stage[Any]) -> None:
        if stage in ordered:
            return
        if stage.name in under_way:
            raise PluginError(f"stages need each other: {' > '.join([*under_way, stage.name])}")
        under_way.append(stage.name)
        for kind in stage.consumes(selection.project):
            if kind not in makers:
                raise PluginError(f"no stage makes '{kind}', which the stage '{stage.name}' needs")
            visit(makers[kind])
        under_way.pop()
        ordered.append(stage)

    for name in selection.stages:
        visit(stages[name] if name in stages else load(STAGES, name))
    return ordered


def _units(stage: Stage[Any], selection: Selection) -> Iterator[Unit]:
    project, base = selection.project, selection.base
    if stage.scope == "source":
        targets = [job.target for job in selection.jobs] or selection.targets or project.target
        labels = {target.source_label: project.for_target(target) for target in targets} or {"_": project}
        yield from (SourceUnit(own, base, label) for label, own in labels.items())
    elif stage.scope == "kernel":
        units = {
            (job.source_label, kernel.uname_r): KernelUnit(job.project, base, kernel, job.source_label)
            for job in selection.jobs
            for kernel in job.kernels
        }
        yield from units.values()
    elif stage.scope == "job":
        yield from (JobUnit(job.project, base, job) for job in selection.jobs)
    else:
        yield ProjectUnit(project, base, selection.jobs)


def _needs(
    stage: Stage[Any], unit: Unit, project: Project, made: Mapping[str, StepsOfStage]
) -> Iterator[tuple[str, Key]]:
    for kind in stage.consumes(project):
        if kind in made:
            yield from ((kind, step.key) for step in made[kind].for_unit(unit))


class StepsOfStage:
    """The steps of one stage. Those for a unit are found without a look at all, which may be hundreds."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, str], tuple[int, Step]] = {}

    def add(self, step: Step) -> None:
        """Add a step; they are given in the same order."""
        self._steps[step.unit.key] = (len(self._steps), step)

    def for_unit(self, taker: Unit) -> list[Step]:
        """Return the steps whose results are inputs of a unit."""
        first = next((step.unit for _, step in self._steps.values()), None)
        keys: list[tuple[str, str]]
        if isinstance(taker, JobUnit) and isinstance(first, KernelUnit):
            keys = [(taker.job.source_label, kernel.uname_r) for kernel in taker.job.kernels]
        elif isinstance(taker, KernelUnit | JobUnit) and type(taker) is type(first):
            keys = [taker.key]
        else:
            keys = list(self._steps)
        found = sorted((self._steps[key] for key in keys if key in self._steps), key=lambda one: one[0])
        return [step for _, step in found if concerns(step.unit, taker)]


def concerns(made: Unit, taker: Unit) -> bool:
    """Tell whether what was made for one unit is an input of another."""
    if isinstance(made, JobUnit) and isinstance(taker, JobUnit):
        return made.key == taker.key
    if isinstance(made, SourceUnit | KernelUnit):
        label = taker.label if isinstance(taker, SourceUnit | KernelUnit) else _label_of(taker)
        if label not in (None, made.label):
            return False
    if isinstance(made, KernelUnit) and isinstance(taker, KernelUnit):
        return made.kernel.uname_r == taker.kernel.uname_r
    if isinstance(made, KernelUnit) and isinstance(taker, JobUnit):
        return made.kernel in taker.job.kernels
    return True


def _label_of(unit: Unit) -> str | None:
    return unit.job.source_label if isinstance(unit, JobUnit) else None


def decide(
    step: Step, inputs: Mapping[str, str], workspace: Workspace, *, forced: bool = False, reuse: bool = True
) -> Decision:
    """Decide whether a step has to run; `inputs` maps the title of each needed step to its token.

    `reuse` allows results that were made of the same inputs in another project, or before this workspace.
    """
    ingredients = {"version": step.stage.version, "unit": step.unit.key, **step.stage.ingredients(step.unit)}
    fingerprint = digest({"stage": step.stage.name, "ingredients": ingredients, "inputs": dict(inputs)})
    found = workspace.find(*step.key, fingerprint)
    action: Action = "RUN"
    token = fingerprint
    if forced:
        reason = "asked for"
    elif found and found.state == "ok":
        changed = found.changed_files()
        if not changed:
            action, reason = "SKIP", "unchanged"
        elif step.stage.on_edit(step.unit.project):
            action, reason = "KEEP", f"edited by hand: {_listed(changed)}"
            token = digest([fingerprint, found.content_digest()])
        else:
            reason = f"damaged: {_listed(changed)}"
    else:
        reason = "failed before" if found else _what_changed(workspace.newest(*step.key), ingredients, inputs)
    # An import from git is as quick as a copy.
    if action == "RUN" and not forced and reuse and not isinstance(step.unit, SourceUnit):
        found = finished_before(step.stage.name, fingerprint)
        if found:
            action, reason = "REUSE", "made of the same inputs before"
    return Decision(step, action, reason, fingerprint, ingredients, inputs, token, found if action != "RUN" else None)


def _what_changed(before: Result | None, ingredients: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    if before is None or before.state == "excluded":
        return "not done yet"
    changed = [
        name
        for old, new in ((before.ingredients, ingredients), (before.inputs, inputs))
        for name in {**old, **new}
        if digest(old.get(name)) != digest(new.get(name))
    ]
    return f"changed: {_listed(changed)}" if changed else "not done yet"


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def make_plan(selection: Selection, workspace: Workspace) -> tuple[Decision, ...]:
    """Return the decision for each step, taking for granted that what runs will succeed. Touches nothing."""
    decisions: dict[Key, Decision] = {}
    for step in make_steps(selection):
        inputs = {decisions[key].step.title: decisions[key].token for _, key in step.needs}
        forced = step.stage.name in selection.force
        reuse = selection.project.build.reuse
        decisions[step.key] = decide(step, inputs, workspace, forced=forced, reuse=reuse)
    return tuple(decisions.values())


def needs_jobs(stages: Sequence[str], project: Project) -> bool:
    """Tell whether the wanted stages, or those they need, are about kernels or packages."""
    selection = Selection(project, Path(), (), tuple(stages))
    return any(stage.scope != "source" for stage in _chain(selection))


def needs_kernels(stages: Sequence[str], project: Project) -> bool:
    """Tell whether kernels have to be here for the wanted stages: a recipe only names them.

    The limit [only] config is asked of their build trees.
    """
    selection = Selection(project, Path(), (), tuple(stages))
    return bool(project.only.config) or any(stage.name not in _OF_NAMES for stage in _chain(selection))

"""Carrying out a plan: a failed kernel fails that kernel, and the others finish."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from heapq import heappop, heappush
from queue import Empty, SimpleQueue

from pkgkmod import resultcache
from pkgkmod.command import allow_all, stop_all
from pkgkmod.engine.outcome import Outcome, Run
from pkgkmod.engine.plan import Action, Decision, Key, Selection, Step, StepsOfStage, decide, make_steps
from pkgkmod.errors import PkgkmodError, SourcesChangedError
from pkgkmod.jobserver import JobServer, is_memory_short, sensible_jobs
from pkgkmod.kernels.store import Store
from pkgkmod.plugins import JobUnit, KernelUnit, SourceUnit, Work
from pkgkmod.progress import Progress
from pkgkmod.workspace import LOG_FILE, Result, Workspace, digest

_OUTCOMES: Mapping[Action, Outcome] = {"RUN": "done", "SKIP": "skipped", "KEEP": "kept", "REUSE": "reused"}
_PATIENCE = 0.2
"""Seconds to wait for the end of a step before looking again."""


def execute(selection: Selection, workspace: Workspace, progress: Progress) -> Run:
    """Make what is asked for, and return what came of each step; failures are in `Run.failure`.

    Steps run side by side within one budget of jobs. On Ctrl-C all programs are killed; what was finished stays.
    """
    if selection.fail_fast and selection.absent:
        raise next(iter(selection.absent.values()))
    with workspace.locked(progress), Store().in_use():
        steps = {step.key: step for step in make_steps(selection)}
        execution = _Execution(selection, workspace, progress, steps)
        try:
            execution.finish()
        except BaseException:
            stop_all()
            raise
        finally:
            execution.close()
            allow_all()
    return execution.run


class _Execution:
    """The steps that are still to be taken, those under way, and what came of the others."""

    def __init__(self, selection: Selection, workspace: Workspace, progress: Progress, steps: dict[Key, Step]) -> None:
        self.selection = selection
        self.workspace = workspace
        self.progress = progress
        self.run = Run(absent=dict(selection.absent))
        self.place = {key: number for number, key in enumerate(steps)}
        awaited = _awaited(steps)
        self.missing = {key: len(needs) for key, needs in awaited.items()}
        """How many steps must be settled before each may begin."""
        self.takers: dict[Key, list[Key]] = {key: [] for key in steps}
        for key, needs in awaited.items():
            for need in needs:
                self.takers[need].append(key)
        self.open = [(self.place[key], key) for key, count in self.missing.items() if not count]
        """Steps that wait for nothing, and were not looked at yet; a heap, in the order of the plan."""
        self.ready: dict[Key, Decision] = {}
        self.under_way: set[Key] = set()
        self.begun: set[str] = set()
        """The series of kernels of which one was started."""
        self.ended: SimpleQueue[tuple[Decision, Result | BaseException]] = SimpleQueue()
        self.budget = JobServer(sensible_jobs(selection.project.build.jobs))
        # Programs take a job each. One more worker makes ready and puts away what others compile meanwhile.
        self.most = self.budget.jobs + 1 if self.budget.jobs > 1 else 1
        self.workers = ThreadPoolExecutor(self.most)
        self.steps = steps
        skipped = {release: (release, "build_modules") for release in selection.excluded}
        progress.matrix([*skipped.values(), *(step.cell for step in steps.values())])
        for release, why in selection.excluded.items():
            progress.cell(skipped[release], "excluded")
            progress.event("excluded", stage="build_modules", target="_", kernel=release, reason=why)
            progress.info(f"kernel {release} is skipped: {why}")
            _save_excluded(workspace, release, why)

    @cached_property
    def urgency(self) -> Mapping[Key, float]:
        """How much hangs on each step; not asked for where nothing runs."""
        return urgencies(self.steps, self.workspace)

    def close(self) -> None:
        """Wait until all workers are done, and give the budget up."""
        self.workers.shutdown(cancel_futures=True)
        self.budget.close()

    def finish(self) -> None:
        """Take all steps."""
        self._look_for_ready()
        while self.ready or self.under_way:
            if self.under_way and (not self.ready or len(self.under_way) >= self.most or is_memory_short()):
                self._take_in(block=True)
            else:
                self._start(max(self.ready, key=self._rank))
            while self._take_in(block=False):
                pass
        # In the order of the plan, whatever was quicker.
        run = self.run
        run.results = {key: run.results[key] for key in self.steps if key in run.results}
        run.errors = {key: run.errors[key] for key in self.steps if key in run.errors}

    def _look_for_ready(self) -> None:
        """Decide about the steps whose inputs are settled; those that need no run are settled at once."""
        while self.open:
            _, key = heappop(self.open)
            self._settle(self.steps[key])

    def _settle(self, step: Step) -> None:
        """Note what comes of a step for which nothing has to run; otherwise it becomes ready to be started."""
        key, run = step.key, self.run
        run.steps[key] = step
        reduced = _without_failed(step, run)
        if reduced is None or (run.errors and self.selection.fail_fast):
            self._note(key, "excluded")
            why = "what it needs failed" if reduced is None else "another step failed"
            self.progress.event("excluded", stage=key[0], target=key[1], kernel=key[2], reason=why)
            return
        try:
            inputs = {run.steps[need].title: run.tokens[need] for _, need in reduced.needs}
            forced = reduced.stage.name in self.selection.force
            decision = decide(reduced, inputs, self.workspace, forced=forced, reuse=self.selection.project.build.reuse)
            if decision.action == "KEEP":
                _tell_kept(decision, self.progress)
            result = decision.result
            if decision.action == "REUSE" and result:
                result = resultcache.take(result, self.workspace, key)
        except PkgkmodError as error:
            self._fail(key, error)
            return
        if result is None:
            self.ready[key] = replace(decision, action="RUN")
        else:
            self._succeed(decision, result)

    def _rank(self, key: Key) -> tuple[bool, float, int]:
        """Return a step's rank among those that are ready; the highest is the next.

        A kernel of each series comes first: kbuild asks the compiler much the same for all of a series, and the others
        find the answers when they begin. Of what is alike, the newest kernel comes first: it has the most headers, and
        types for BTF.
        """
        series = _series(self.steps[key])
        return bool(series) and series not in self.begun, self.urgency[key], self.place[key]

    def _start(self, key: Key) -> None:
        decision = self.ready.pop(key)
        self.under_way.add(key)
        self.begun.add(_series(decision.step))
        self.progress.cell(decision.step.cell, "running")
        # The results of steps that are under way are not needed by it, so a copy of the inputs is all it sees.
        inputs: dict[str, tuple[Result, ...]] = {}
        for kind, need in decision.step.needs:
            inputs[kind] = (*inputs.get(kind, ()), self.run.results[need])
        self.workers.submit(self._work, decision, inputs)

    def _work(self, decision: Decision, inputs: Mapping[str, tuple[Result, ...]]) -> None:
        """Run a stage, in a thread of its own."""
        try:
            ended: Result | BaseException = run_step(decision, inputs, self.workspace, self.progress, self.budget)
        except BaseException as error:
            ended = error
        self.ended.put((decision, ended))

    def _take_in(self, *, block: bool) -> bool:
        """Note how a step ended, if one has; what it made room for becomes ready."""
        try:
            decision, ended = self.ended.get(block, _PATIENCE)
        except Empty:
            return False
        key = decision.step.key
        self.under_way.discard(key)
        if isinstance(ended, PkgkmodError):
            self._fail(key, ended)
        elif isinstance(ended, BaseException):
            raise ended
        else:
            self._succeed(decision, ended)
        self._look_for_ready()
        return True

    def _fail(self, key: Key, error: PkgkmodError) -> None:
        self.run.errors[key] = error
        self._note(key, "failed")
        self.progress.event("failed", stage=key[0], target=key[1], kernel=key[2], reason=error.brief)
        if self.selection.fail_fast:
            for other in list(self.ready):
                del self.ready[other]
                self._note(other, "excluded")

    def _succeed(self, decision: Decision, result: Result) -> None:
        key = decision.step.key
        self.run.results[key] = result
        self.run.tokens[key] = decision.token
        self._note(key, _OUTCOMES[decision.action])

    def _note(self, key: Key, outcome: Outcome) -> None:
        self.run.outcomes[key] = outcome
        for taker in self.takers[key]:
            self.missing[taker] -= 1
            if not self.missing[taker]:
                heappush(self.open, (self.place[taker], taker))
        step = self.run.steps[key]
        self.progress.cell(step.cell, outcome)
        if outcome in ("skipped", "reused"):
            self.progress.event(outcome, stage=key[0], target=key[1], kernel=key[2])


def _series(step: Step) -> str:
    """Return the series of the kernel that a step is for; nothing if it is for several or none."""
    return step.unit.kernel.release.series if isinstance(step.unit, KernelUnit) else ""


def _save_excluded(workspace: Workspace, release: str, why: str) -> None:
    """Make it a result that the driver is not for a kernel, so that it is known afterwards, too."""
    key = ("build_modules", "_", release)
    before = workspace.newest(*key)
    if before and (before.state, before.reason) == ("excluded", why):
        return
    facts = {"excluded": why}
    with workspace.draft() as draft:
        workspace.save(
            draft, key=key, fingerprint=digest(facts), ingredients=facts, inputs={}, state="excluded", reason=why
        )


def _awaited(steps: Mapping[Key, Step]) -> dict[Key, tuple[Key, ...]]:
    """Return, for each step, those that must be settled before it may begin.

    These are those that it takes something from; and for a package, the compiles of all its kernels: a recipe
    that names a kernel without modules would be of no use.
    """
    compiles: dict[str, StepsOfStage] = {}
    for step in steps.values():
        if isinstance(step.unit, KernelUnit):
            compiles.setdefault(step.stage.name, StepsOfStage()).add(step)
    awaited = {}
    for key, step in steps.items():
        needs = [need for _, need in step.needs]
        if isinstance(step.unit, JobUnit):
            needs += [one.key for stage in compiles.values() for one in stage.for_unit(step.unit)]
        awaited[key] = tuple(dict.fromkeys(needs))
    return awaited


def urgencies(steps: Mapping[Key, Step], workspace: Workspace) -> dict[Key, float]:
    """Return, for each step, how many seconds of work hang on it, itself included: the longest chain goes first.

    What was done before is taken to last as long as it did then.
    """
    seconds = {key: _expected_seconds(step, workspace) for key, step in steps.items()}
    urgency = dict(seconds)
    for key in reversed(list(steps)):  # takers come behind what they take
        for _, need in steps[key].needs:
            urgency[need] = max(urgency[need], seconds[need] + urgency[key])
    return urgency


def _expected_seconds(step: Step, workspace: Workspace) -> float:
    if (before := workspace.newest(*step.key)) and before.state != "excluded":
        return before.seconds
    if isinstance(step.unit, KernelUnit):
        return 20.0
    return 0.3 * len(step.unit.job.kernels) if isinstance(step.unit, JobUnit) else 1.0


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
    if isinstance(unit, JobUnit) and run.errors:
        label, failed = unit.job.source_label, run.failed_kernels
        kernels = tuple(k for k in unit.job.kernels if (label, k.uname_r) not in failed)
        if not kernels:
            return None
        unit = replace(unit, job=unit.job.with_kernels(kernels))
    if {kind for kind, _ in needs} != {kind for kind, _ in step.needs}:
        return None
    return replace(step, needs=needs, unit=unit)


def run_step(
    decision: Decision,
    inputs: Mapping[str, tuple[Result, ...]],
    workspace: Workspace,
    progress: Progress,
    budget: JobServer | None = None,
) -> Result:
    """Run a stage and save what it made; a failure is saved, too, with its log."""
    step = decision.step
    facts: Mapping[str, object] = {
        "key": step.key,
        "fingerprint": decision.fingerprint,
        "ingredients": decision.ingredients,
        "inputs": decision.inputs,
    }
    with workspace.draft() as draft, progress.step(step.title):
        work = Work(step.unit, inputs, draft, workspace, progress, budget)
        try:
            artifact = step.stage.run(work)
        except PkgkmodError as error:
            if error.log:
                error.log = workspace.place(*step.key, decision.fingerprint) / LOG_FILE
            workspace.save(draft, **facts, state="failed", reason=error.brief)  # type: ignore[arg-type]
            raise
        result = workspace.save(draft, **facts, state="ok", artifact=artifact.model_dump(mode="json"))  # type: ignore[arg-type]
        if step.unit.project.build.reuse and not isinstance(step.unit, SourceUnit):
            resultcache.remember(result)
        return result

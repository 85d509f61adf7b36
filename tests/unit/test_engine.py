"""The engine, with small stages of the test's own: plan, skip, keep, fail, and leave out."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pkgkmod import resultcache
from pkgkmod.engine import plan as planning
from pkgkmod.engine.execute import execute, urgencies
from pkgkmod.engine.plan import Selection, make_plan
from pkgkmod.errors import CompileError, KernelError, PartialError, PluginError, SourcesChangedError, UsageError
from pkgkmod.model.artifacts import Artifact
from pkgkmod.model.job import Job
from pkgkmod.model.kernel import Kernel, KernelRelease
from pkgkmod.model.project import Build, Project, ProjectInfo, Target
from pkgkmod.plugins import JobUnit, KernelUnit, ProjectUnit, SourceUnit
from pkgkmod.progress import Progress
from pkgkmod.workspace import Workspace

KERNELS = ("6.1.0-55-amd64", "6.1.0-56-amd64")


class Made(Artifact):
    """What the test's stages make."""

    text: str


class SmallStage:
    """A stage that writes down what it was given; `broken` names kernels for which it fails."""

    version = 1
    summary = "A stage of the test's."
    in_build = True
    options = ()

    def __init__(self, name, scope, takes=(), edit=None):
        self.name, self.scope, self.takes, self.edit = name, scope, takes, edit
        self.produces = f"{name} result"
        self.facts = {}
        self.broken = set()
        self.runs = []

    def consumes(self, project):
        return tuple(f"{name} result" for name in self.takes)

    def applies(self, unit):
        return True

    def on_edit(self, project):
        return self.edit

    def ingredients(self, unit):
        kernels = [k.uname_r for k in unit.job.kernels] if isinstance(unit, JobUnit) else []
        return {"facts": dict(self.facts), "kernels": kernels}

    def run(self, work):
        unit = work.unit
        label = {SourceUnit: "", KernelUnit: "", JobUnit: "", ProjectUnit: ""}[type(unit)]
        if isinstance(unit, KernelUnit):
            label = unit.kernel.uname_r
        elif isinstance(unit, JobUnit):
            label = "+".join(k.uname_r for k in unit.job.kernels)
        self.runs.append(label)
        if label in self.broken:
            work.draft.log.write_text("the whole story\n")
            raise CompileError(f"no luck with {label}", log=work.draft.log)
        (work.folder / "file").write_text(f"{self.name} {label} {self.facts}")
        return Made(text=label)


@pytest.fixture
def house(tmp_path, monkeypatch):
    stages = {
        stage.name: stage
        for stage in (
            SmallStage("sources", "source", edit="warn"),
            SmallStage("modules", "kernel", ["sources"]),
            SmallStage("packages", "job", ["modules", "sources"]),
            SmallStage("disk", "project", ["packages"]),
        )
    }
    monkeypatch.setattr(planning, "registered", lambda group: stages)
    monkeypatch.setattr(planning, "load", lambda group, name: stages[name])
    kernels = [Kernel(KernelRelease(k), "x86_64", tmp_path, "test", k, None) for k in KERNELS]
    project = Project(
        project=ProjectInfo(name="foo"),
        target=(Target(distro="one"), Target(distro="all")),
        build=Build(reuse=False),
    )
    jobs = [Job(project, project.target[0], SimpleNamespace(grouping="base"), (kernel,)) for kernel in kernels]
    jobs.append(Job(project, project.target[1], SimpleNamespace(grouping="all"), tuple(kernels)))
    return SimpleNamespace(
        stages=stages,
        workspace=Workspace(tmp_path),
        selection=Selection(project, tmp_path, tuple(jobs), tuple(stages)),
    )


def run(house, **changes):
    done = execute(replace(house.selection, **changes), house.workspace, Progress())
    if done.failure:
        raise done.failure
    return done


def plan(house):
    return {d.step.title: (d.action, d.reason) for d in make_plan(house.selection, house.workspace)}


def test_everything_runs_once_in_order_and_then_nothing(house):
    assert {action for action, _ in plan(house).values()} == {"RUN"}
    assert not house.workspace.results.exists(), "a plan touches nothing"
    run(house)
    assert sorted(house.stages["modules"].runs) == list(KERNELS)
    assert sorted(house.stages["packages"].runs) == sorted([*KERNELS, "+".join(KERNELS)])
    assert set(plan(house).values()) == {("SKIP", "unchanged")}
    run(house)
    assert [len(stage.runs) for stage in house.stages.values()] == [1, 2, 3, 1]


@pytest.fixture
def reusing(house):
    house.selection = replace(
        house.selection, project=house.selection.project.model_copy(update={"build": Build(reuse=True)})
    )
    jobs = tuple(replace(job, project=house.selection.project) for job in house.selection.jobs)
    house.selection = replace(house.selection, jobs=jobs)
    return house


def test_what_was_made_once_is_reused_after_the_workspace_is_gone_and_in_other_projects(reusing, tmp_path):
    run(reusing)
    before = {stage.name: len(stage.runs) for stage in reusing.stages.values()}
    reusing.workspace = Workspace(tmp_path / "elsewhere")
    planned = plan(reusing)
    assert planned["sources"] == ("RUN", "not done yet"), "sources are imported anew"
    assert planned[f"modules {KERNELS[0]}"] == ("REUSE", "made of the same inputs before")
    done = run(reusing)
    assert {name: len(stage.runs) for name, stage in reusing.stages.items()} == {**before, "sources": 2}
    assert set(done.outcomes.values()) == {"done", "reused"}
    assert all(Workspace.read(result.folder) for result in done.results.values())
    assert set(plan(reusing).values()) == {("SKIP", "unchanged")}
    # A kept result that was damaged is thrown away, and its stage runs again.
    kept = resultcache.finished_before("modules", done.results[("modules", "_", KERNELS[0])].fingerprint)
    (kept.folder / "file").write_text("garbage")
    reusing.workspace = Workspace(tmp_path / "somewhere else")
    run(reusing)
    assert len(reusing.stages["modules"].runs) == before["modules"] + 1
    assert (reusing.workspace.newest("modules", "_", KERNELS[0]).folder / "file").read_text() != "garbage"


def test_a_damaged_result_is_taken_from_those_that_are_kept(reusing):
    run(reusing)
    damaged = reusing.workspace.newest("modules", "_", KERNELS[1])
    (damaged.folder / "file").write_text("garbage")
    assert plan(reusing)[f"modules {KERNELS[1]}"][0] == "REUSE"
    run(reusing)
    assert (damaged.folder / "file").read_text().startswith("modules")
    assert len(reusing.stages["modules"].runs) == 2


def test_a_change_reaches_all_that_depends_on_it_and_is_named(house):
    run(house)
    house.stages["modules"].facts["compiler"] = "newer"
    planned = plan(house)
    assert planned["sources"] == ("SKIP", "unchanged")
    assert planned[f"modules {KERNELS[0]}"] == ("RUN", "changed: facts")
    assert planned["packages all"][0] == "RUN"
    assert f"modules {KERNELS[0]}" in planned["packages all"][1]
    assert planned["disk"][0] == "RUN"


def test_only_the_wanted_stages_and_what_they_need_run(house):
    run(house, stages=("modules",))
    assert [len(stage.runs) for stage in house.stages.values()] == [1, 2, 0, 0]


def test_a_damaged_result_is_made_anew(house):
    run(house)
    damaged = house.workspace.newest("modules", "_", KERNELS[1])
    (damaged.folder / "file").write_text("garbage")
    assert plan(house)[f"modules {KERNELS[1]}"] == ("RUN", "damaged: file")
    run(house)
    assert (damaged.folder / "file").read_text().startswith("modules")


def test_an_edited_result_is_used_and_what_follows_is_made_of_it(house):
    run(house)
    (house.workspace.newest("sources", "_", "_").folder / "file").write_text("edited")
    planned = plan(house)
    assert planned["sources"] == ("KEEP", "edited by hand: file")
    assert planned[f"modules {KERNELS[0]}"] == ("RUN", "changed: sources")
    run(house)
    assert len(house.stages["sources"].runs) == 1
    assert len(house.stages["modules"].runs) == 4
    house.stages["sources"].edit = "fail"
    with pytest.raises(SourcesChangedError, match="edited by hand"):
        run(house)


def test_a_failed_kernel_fails_that_kernel_and_the_others_finish(house):
    house.stages["modules"].broken = {KERNELS[0]}
    with pytest.raises(PartialError) as caught:
        run(house)
    assert f"no luck with {KERNELS[0]}" in caught.value.details
    assert house.stages["packages"].runs == [KERNELS[1], KERNELS[1]], "one job without kernels, one with fewer"
    assert len(house.stages["disk"].runs) == 1
    failed = house.workspace.newest("modules", "_", KERNELS[0])
    assert (failed.state, failed.reason) == ("failed", f"no luck with {KERNELS[0]}")
    assert (failed.folder / "log.txt").read_text() == "the whole story\n"
    assert str(failed.folder / "log.txt") in caught.value.details
    house.stages["modules"].broken = set()
    assert plan(house)[f"modules {KERNELS[0]}"] == ("RUN", "failed before")
    run(house)
    assert sorted(house.stages["packages"].runs[2:]) == [KERNELS[0], "+".join(KERNELS)]


def test_where_nothing_can_be_made_the_first_error_is_told(house):
    house.stages["modules"].broken = set(KERNELS)
    with pytest.raises(CompileError) as caught:
        run(house)
    assert all(kernel in caught.value.details for kernel in KERNELS)
    assert house.stages["packages"].runs == []


def test_forced_stages_run_again(house):
    run(house)
    run(house, stages=("packages",), force=("packages",))
    assert [len(stage.runs) for stage in house.stages.values()] == [1, 2, 6, 1]


def test_stages_that_need_each_other_are_refused(house):
    house.stages["sources"].takes = ("disk",)
    with pytest.raises(PluginError, match="need each other"):
        plan(house)
    house.stages["sources"].takes = ("nobody",)
    with pytest.raises(PluginError, match="no stage makes"):
        plan(house)


def test_nothing_to_do_is_said(house):
    house.stages["disk"].applies = lambda unit: False
    with pytest.raises(UsageError, match="nothing to do for disk"):
        run(house, stages=("disk",))


def test_what_takes_longest_goes_first(house):
    steps = {step.key: step for step in planning.make_steps(house.selection)}
    run(house)
    slow, quick = (house.workspace.newest("modules", "_", kernel) for kernel in (KERNELS[1], KERNELS[0]))
    (slow.folder / "result.json").write_text(slow.model_copy(update={"seconds": 50.0}).model_dump_json())
    urgency = urgencies(steps, house.workspace)
    first, second = (("modules", "_", kernel) for kernel in (KERNELS[1], KERNELS[0]))
    assert urgency[first] >= 50 > urgency[second]
    assert urgency[("sources", "_", "_")] >= urgency[first], "everything hangs on it"
    assert urgency[("disk", "_", "_")] <= urgency[second]
    assert quick.seconds < 50


def test_a_kernel_of_each_series_goes_first_and_then_the_newest(house, tmp_path):
    releases = ("6.1.0-55-amd64", "6.1.0-56-amd64", "6.12.115-amd64", "6.12.117-amd64", "6.12.117-rt-amd64")
    kernels = tuple(Kernel(KernelRelease(one), "x86_64", tmp_path, "test", one, None) for one in releases)
    project = house.selection.project.model_copy(update={"build": Build(reuse=False, jobs=1)})
    job = Job(project, project.target[1], SimpleNamespace(grouping="all"), kernels)
    house.selection = replace(house.selection, project=project, jobs=(job,))
    run(house)
    newest, second = "6.12.117-rt-amd64", "6.1.0-56-amd64"
    rest = ["6.12.117-amd64", "6.12.115-amd64", "6.1.0-55-amd64"]
    assert house.stages["modules"].runs == [newest, second, *rest]


def test_fail_fast_starts_nothing_more(house):
    house.stages["modules"].broken = set(KERNELS)
    house.selection = replace(
        house.selection,
        project=house.selection.project.model_copy(update={"build": Build(reuse=False, jobs=1)}),
        fail_fast=True,
    )
    with pytest.raises(CompileError):
        run(house)
    assert len(house.stages["modules"].runs) == 1
    done = execute(house.selection, house.workspace, Progress())
    assert sorted(done.outcomes.values()).count("excluded") == len(done.outcomes) - 2


def test_kernels_that_could_not_be_had_are_told_with_what_to_do(house):
    lost = KernelError("it is gone", hint="look elsewhere")
    house.selection = replace(house.selection, absent={"9.9.9-lost": lost})
    with pytest.raises(PartialError) as caught:
        run(house)
    assert "kernel 9.9.9-lost: it is gone\n    look elsewhere" in caught.value.details
    house.selection = replace(house.selection, fail_fast=True)
    with pytest.raises(KernelError, match="it is gone"):
        run(house)


def test_stages_run_side_by_side_within_the_budget(house):
    at_once, lock, most = [0], threading.Lock(), [0]
    modules = house.stages["modules"]
    plain = modules.run

    def slowly(work):
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.2)
        with lock:
            at_once[0] -= 1
        return plain(work)

    modules.run = slowly
    house.selection = replace(
        house.selection, project=house.selection.project.model_copy(update={"build": Build(reuse=False, jobs=2)})
    )
    run(house)
    assert most == [2]
    most[0] = 0
    house.selection = replace(
        house.selection, project=house.selection.project.model_copy(update={"build": Build(reuse=False, jobs=1)})
    )
    run(house, force=("modules",))
    assert most == [1]

"""Submissions: the journal, waiting and what is made of a farm's answers; the farm is a stand-in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pkgkmod.engine.fetch import fetch
from pkgkmod.engine.submit import Journal, Wanted, ask, failure, send, wait
from pkgkmod.errors import CompileError, FarmError, PartialError, TimeLimitError
from pkgkmod.farms import Item, SourcePackage
from pkgkmod.model.artifacts import Recipe
from pkgkmod.model.submission import FarmBuild, FarmFile, Submission
from pkgkmod.progress import Progress
from pkgkmod.workspace import Workspace
from tests.fixtures.packaging import make_job

QUIET = Progress()


def outage() -> FarmError:
    error = FarmError("the farm does not answer")
    error.passing = True
    return error


class StandIn:
    """A farm that says what it is told to say, one answer for each question."""

    interval = 2.0

    def __init__(self, answers: Sequence[str | Exception] = (), files: Sequence[FarmFile] = ()) -> None:
        self.answers, self.made, self.sent, self.log_text = list(answers), tuple(files), [], ""
        self.arrived: Mapping[str, Any] | None = None

    def find(self, items: Sequence[Item]) -> list[Mapping[str, Any]] | None:
        return None if self.arrived is None else [self.arrived]

    def send(self, items: Sequence[Item]) -> list[Mapping[str, Any]]:
        ((request, _),) = items
        self.sent.append(request)
        return [{"number": len(self.sent)}]

    def builds(self, ticket: Mapping[str, Any]) -> tuple[FarmBuild, ...]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return (FarmBuild(id="1", title="x86_64", state=answer),)  # type: ignore[arg-type]

    def log(self, ticket: Mapping[str, Any], build: FarmBuild, destination: Path) -> bool:
        destination.write_text(self.log_text)
        return bool(self.log_text)

    def files(self, ticket: Mapping[str, Any]) -> tuple[FarmFile, ...]:
        return self.made

    def fetch(self, file: FarmFile, destination: Path) -> None:
        destination.write_bytes(b"no package")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(Workspace(tmp_path), "farm")


def item(tmp_path: Path, request: str = "r1") -> Wanted:
    (tmp_path / "x.src.rpm").write_bytes(b"")
    recipe = Recipe(
        format="rpm", name="x", version="1-1", archive="x.tar", kernels=("6.1.0-1-amd64",), source_date_epoch=1
    )
    job = make_job("el9", ("5.14.0-1.el9.x86_64",))
    return Wanted(SourcePackage(job, recipe, tmp_path, (tmp_path / "x.src.rpm",)), request, "build")


def sent(journal: Journal, farm: StandIn, tmp_path: Path) -> list[tuple[str, str]]:
    one = item(tmp_path)
    send([one], farm, journal, QUIET, again=False)
    return [one.key]


def test_what_was_sent_is_sent_again_only_when_it_changed_or_failed(journal, tmp_path):
    farm = StandIn(["failed"])
    assert send([item(tmp_path)], farm, journal, QUIET, again=False) == 1
    assert send([item(tmp_path)], farm, journal, QUIET, again=True) == 0  # not known to have failed
    ask(farm, journal)
    assert send([item(tmp_path)], farm, journal, QUIET, again=False) == 0
    assert send([item(tmp_path)], farm, journal, QUIET, again=True) == 1
    assert send([item(tmp_path, "r2")], farm, journal, QUIET, again=False) == 1
    assert farm.sent == ["r1", "r1", "r2"]


@pytest.mark.parametrize("arrived", [None, {"number": 5}])
def test_after_a_kill_the_farm_is_asked_whether_it_arrived(journal, tmp_path, arrived):
    farm = StandIn(["building"])
    farm.send = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt())  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        send([item(tmp_path)], farm, journal, QUIET, again=False)
    assert [one.state for one in journal.all()] == ["sending"]
    again = StandIn(["building"])
    again.arrived = arrived
    assert send([item(tmp_path)], again, journal, QUIET, again=False) == (0 if arrived else 1)
    assert [one.ticket for one in journal.all()] == [arrived or {"number": 1}]


def test_a_farm_is_asked_less_often_while_nothing_changes_and_more_often_again_when_something_does(journal, tmp_path):
    pauses: list[float] = []
    farm = StandIn(["waiting"] * 20 + ["building", "building", "succeeded"])
    wait(farm, journal, QUIET, keys=sent(journal, farm, tmp_path), sleep=pauses.append)
    assert all(later < 60 * 1.1 + 1 for later in pauses)
    assert max(pauses[12:19]) > 50 and pauses[0] < 2.3
    assert pauses[20] < 2.3  # building is news


def test_an_outage_is_waited_for_and_another_error_is_not(journal, tmp_path):
    pauses: list[float] = []
    farm = StandIn([outage()] * 12 + ["succeeded"])
    keys = sent(journal, farm, tmp_path)
    wait(farm, journal, QUIET, keys=keys, sleep=pauses.append)
    assert len(pauses) == 12 and 250 < max(pauses) < 331
    journal.put(journal.all()[0].model_copy(update={"builds": ()}))
    with pytest.raises(FarmError, match="not allowed"):
        wait(StandIn([FarmError("not allowed")]), journal, QUIET, keys=keys, sleep=pauses.append)


def test_waiting_has_a_limit_that_ends_nothing_at_the_farm(journal, tmp_path):
    farm = StandIn(["building"])
    with pytest.raises(TimeLimitError, match="not done within 1 s"):
        wait(farm, journal, QUIET, keys=sent(journal, farm, tmp_path), time_limit=1, sleep=lambda _: None)


def test_failures_have_the_first_compiler_error(journal, tmp_path):
    farm = StandIn(["failed"])
    sent(journal, farm, tmp_path)
    farm.log_text = "gcc\na.c:1:2: error: no such thing\n"
    (one,) = ask(farm, journal)
    error = failure([one], farm, journal)
    assert isinstance(error, CompileError) and error.details == "a.c:1:2: error: no such thing"
    assert error.log and error.log.read_text() == farm.log_text
    both = failure([one, one], farm, journal)
    assert isinstance(both, PartialError) and both.details.count("no such thing") == 2
    assert failure([], farm, journal) is None


@pytest.mark.parametrize("name", ["../x.rpm", "a b.rpm", "/etc/passwd", "", ".x.rpm", "x\n.rpm"])
def test_a_farm_decides_over_no_path(journal, tmp_path, name):
    farm = StandIn(["succeeded"], [FarmFile(name=name, place="")])
    sent(journal, farm, tmp_path)
    with pytest.raises(FarmError, match="has made a package called"):
        fetch(ask(farm, journal), farm, journal, Workspace(tmp_path), QUIET)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"size": 11}, "10 bytes in place of 11"),
        ({"digest": "md5:" + "0" * 32}, "is not the file"),
        ({}, "no package that can be read"),
    ],
)
def test_what_is_fetched_is_what_the_farm_says_and_a_package(journal, tmp_path, said, message):
    farm = StandIn(["succeeded"], [FarmFile(name="x.rpm", place="", **said)])
    sent(journal, farm, tmp_path)
    with pytest.raises(FarmError, match=message):
        fetch(ask(farm, journal), farm, journal, Workspace(tmp_path), QUIET)
    assert not list(tmp_path.glob("results/submit/*/*/*"))


@pytest.mark.parametrize("text", ["{", "[1]", '[{"target": "x"}]', "\xff"])
def test_a_journal_that_cannot_be_read_is_not_taken_for_an_empty_one(journal, text):
    journal.folder.mkdir(parents=True)
    (journal.folder / "submissions.json").write_text(text, encoding="latin-1")
    with pytest.raises(FarmError, match="cannot be read"):
        journal.all()


def test_a_submission_ends_when_all_of_its_builds_do():
    facts = {"target": "el9", "kernel": "_", "package": "x", "format": "rpm", "kernels": (), "source_date_epoch": 0}
    one = Submission(**facts, request="r", state="sent")
    assert not one.has_ended
    builds = [FarmBuild(id=state, title=state, state=state) for state in ("succeeded", "building")]  # type: ignore[arg-type]
    assert not one.model_copy(update={"builds": tuple(builds)}).has_ended
    assert one.model_copy(update={"builds": tuple(builds[:1])}).has_ended

"""Submissions: the journal, waiting and what is made of a farm's answers; the farm is a stand-in."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pkgkmod.engine.fetch import fetch
from pkgkmod.engine.journal import Journal
from pkgkmod.engine.submit import Wanted, ask, failure, send, wait
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
        self.checked: list[str] = []

    def find(self, items: Sequence[Item]) -> list[Mapping[str, Any]] | None:
        return None if self.arrived is None else [self.arrived]

    def check(self, items: Sequence[Item]) -> None:
        self.checked = [request for request, _ in items]

    def send(self, items: Sequence[Item]) -> list[Mapping[str, Any]]:
        ((request, _),) = items
        self.sent.append(request)
        return [{"number": len(self.sent)}]

    def builds(self, tickets: Sequence[Mapping[str, Any]]) -> list[tuple[FarmBuild, ...] | FarmError]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return [(FarmBuild(id="1", title="x86_64", state=answer),) for _ in tickets]  # type: ignore[arg-type]

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


def submission(kernel: str, state: str = "", *, reason: str = "", number: int = 1) -> Submission:
    facts = {"target": "el9", "kernel": kernel, "package": f"x-{kernel}", "format": "rpm", "kernels": ()}
    builds = [{"id": "1", "title": "x86_64", "state": state, "reason": reason}] if state else []
    rest = {"source_date_epoch": 0, "request": "r", "state": "sent", "ticket": {"number": number}, "builds": builds}
    return Submission.model_validate({**facts, **rest})


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


class Hundreds(StandIn):
    """A farm that keeps what it is given, and answers for each as `say` does; it can be killed while it takes one."""

    def __init__(self, say: Mapping[int, str | FarmError] = {}, killed_at: int = 0) -> None:
        super().__init__()
        self.say, self.killed_at, self.asked = say, killed_at, []

    def find(self, items: Sequence[Item]) -> list[Mapping[str, Any]] | None:
        ((request, _),) = items
        return [{"number": self.sent.index(request) + 1}] if request in self.sent else None

    def send(self, items: Sequence[Item]) -> list[Mapping[str, Any]]:
        tickets = super().send(items)
        time.sleep(0)  # another run's turn
        if len(self.sent) == self.killed_at:
            raise KeyboardInterrupt
        return tickets

    def builds(self, tickets: Sequence[Mapping[str, Any]]) -> list[tuple[FarmBuild, ...] | FarmError]:
        self.asked.append([ticket["number"] for ticket in tickets])
        answers = [self.say.get(number, "succeeded") for number in self.asked[-1]]
        return [
            one if isinstance(one, FarmError) else (FarmBuild.model_validate({"id": "1", "title": "x", "state": one}),)
            for one in answers
        ]


def items(tmp_path: Path, count: int) -> list[Wanted]:
    first = item(tmp_path)
    jobs = [make_job("el9", (f"5.14.0-{number}.el9.x86_64",)) for number in range(count)]
    return [replace(first, package=replace(first.package, job=job), request=f"r{n}") for n, job in enumerate(jobs)]


@pytest.mark.parametrize("killed_at", [1, 57, 100])
def test_a_hundred_are_gone_on_with_after_a_kill_and_each_is_sent_once(journal, tmp_path, killed_at):
    farm, wanted = Hundreds(killed_at=killed_at), items(tmp_path, 100)
    with pytest.raises(KeyboardInterrupt):
        send(wanted, farm, journal, QUIET, again=False)
    assert [one.state for one in journal.all()].count("sending") == 1
    assert send(wanted, farm, journal, QUIET, again=False) == 100 - killed_at
    assert farm.checked == [one.request for one in wanted][0 if killed_at == 100 else killed_at :]
    assert farm.sent == [one.request for one in wanted]
    assert {one.request: one.ticket for one in journal.all()} == {f"r{n}": {"number": n + 1} for n in range(100)}


def test_of_two_runs_at_once_each_source_package_is_sent_by_one(journal, tmp_path):
    farm, wanted = Hundreds(), items(tmp_path, 50)
    with ThreadPoolExecutor(2) as runs:
        counts = list(runs.map(lambda _: send(wanted, farm, journal, QUIET, again=False), range(2)))
    assert sorted(counts) == [0, 50]
    assert sorted(farm.sent) == sorted(one.request for one in wanted)


def test_of_hundreds_it_is_said_how_many_were_sent_and_where_it_failed(journal, tmp_path, monkeypatch):
    lines: list[str] = []
    for name in ("info", "warning", "started"):
        monkeypatch.setattr(QUIET, name, lines.append)
    farm, wanted = Hundreds(), items(tmp_path, 50)
    send(wanted[:40], farm, journal, QUIET, again=False)
    monkeypatch.setattr(farm, "send", lambda _: (_ for _ in ()).throw(FarmError("no")))
    with pytest.raises(FarmError, match="no"):
        send(wanted, farm, journal, QUIET, again=False)
    assert lines == [
        "Sending 40 source packages",
        "40 of 50 source packages were sent before",
        "Sending x.src.rpm",
    ]
    lines.clear()
    changed = [replace(one, request=f"new {one.request}") for one in wanted]
    with pytest.raises(FarmError, match="no"):
        send(changed, farm, journal, QUIET, again=False)
    assert lines == ["Sending 50 source packages", "x.src.rpm could not be sent; 0 were sent before it"]


def test_all_that_have_not_ended_are_asked_about_at_once(journal, tmp_path):
    farm = Hundreds({2: "building", 3: "waiting"})
    send(items(tmp_path, 4), farm, journal, QUIET, again=False)
    assert [one.builds[0].state for one in ask(farm, journal)] == ["succeeded", "building", "waiting", "succeeded"]
    ask(farm, journal)
    assert [one.kernel for one in ask(farm, journal, [("el9", "5.14.0-1.el9.x86_64")])] == ["5.14.0-1.el9.x86_64"]
    assert farm.asked == [[1, 2, 3, 4], [2, 3], [2]]


def test_very_many_are_asked_about_in_parts_and_what_was_answered_stands(journal):
    for number in range(501):
        journal.put(submission(f"6.1.0-{number:03}-amd64", number=number))

    class Leaves(Hundreds):
        def builds(self, tickets: Sequence[Mapping[str, Any]]) -> list[tuple[FarmBuild, ...] | FarmError]:
            if self.asked:
                raise outage()
            return super().builds(tickets)

    with pytest.raises(FarmError, match="does not answer"):
        ask(Leaves(), journal)
    assert [one.kernel for one in journal.all() if not one.has_ended] == ["6.1.0-500-amd64"]


def test_what_a_farm_knows_nothing_of_any_more_was_cancelled_there_and_can_be_sent_again(journal, tmp_path):
    farm, wanted = Hundreds({2: FarmError("knows no task 2"), 3: outage()}), items(tmp_path, 3)
    send(wanted, farm, journal, QUIET, again=False)
    one, gone, later = ask(farm, journal)
    assert one.has_ended and not later.builds
    assert [(build.state, build.reason) for build in gone.failed] == [("cancelled", "knows no task 2")]
    assert send(wanted, farm, journal, QUIET, again=True) == 1
    assert farm.sent[3:] == ["r1"]


def test_of_nothing_that_a_farm_can_tell_it_is_asked_again(journal, tmp_path):
    farm = Hundreds({1: outage(), 2: outage()})
    send(items(tmp_path, 2), farm, journal, QUIET, again=False)
    with pytest.raises(FarmError, match="does not answer") as caught:
        ask(farm, journal)
    assert caught.value.passing


def test_hundreds_are_not_asked_about_all_the_time(journal):
    for number in range(100, 500):
        journal.put(submission(f"6.1.0-{number}-amd64", number=number))
    farm, pauses = Hundreds(dict.fromkeys(range(100, 499), "building")), []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        farm.say = dict.fromkeys(range(100, 120), "building") if len(pauses) == 1 else {}

    wait(farm, journal, QUIET, keys=[one.key for one in journal.all()], sleep=pause)
    # 399 are left, then 20: five in a second.
    assert 0.9 * 79.8 <= pauses[0] <= 1.1 * 79.8 and 0.9 * 4 <= pauses[1] <= 1.1 * 4
    assert len(pauses) == 2


def test_of_hundreds_of_changes_it_is_said_how_many_are_done(journal, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(QUIET, "info", lines.append)
    for number in range(100):
        journal.put(submission(f"6.1.0-{number}-amd64", number=number))
    farm = Hundreds({**dict.fromkeys(range(10), "failed"), **dict.fromkeys(range(50, 99), "building")})
    wait(farm, journal, QUIET, keys=[one.key for one in journal.all()], sleep=lambda _: farm.say.clear())
    assert lines == ["51 of 100 done, 10 of them failed", "100 of 100 done, 10 of them failed"]
    assert [one.kernel for one in journal.all()] == [f"6.1.0-{number}-amd64" for number in range(100)]


def test_what_another_run_has_sent_meanwhile_is_not_written_over(journal):
    before = submission("6.1.0-1-amd64")
    journal.put(before)
    now = before.model_copy(update={"request": "other", "ticket": {"number": 2}})
    journal.put(now)
    assert journal.update(before, builds=()) == now
    assert journal.update(before, fetched="x") == now and journal.all() == [now]
    assert journal.update(now, fetched="x").fetched == "x" and journal.all()[0].fetched == "x"


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
    pauses: list[float] = []
    with pytest.raises(TimeLimitError, match="not done within 1 s"):
        wait(farm, journal, QUIET, keys=sent(journal, farm, tmp_path), time_limit=1, sleep=pauses.append)
    assert len(pauses) == 1 and pauses[0] <= 1
    farm.answers = ["building", "succeeded"]
    wait(farm, journal, QUIET, keys=[("el9", "_")], time_limit=1, sleep=pauses.append)  # in the last moment


def test_failures_have_the_first_compiler_error(journal, tmp_path):
    farm = StandIn(["failed"])
    sent(journal, farm, tmp_path)
    farm.log_text = "gcc\na.c:1:2: error: no such thing\n"
    (one,) = ask(farm, journal)
    error = failure([one], farm, journal)
    assert isinstance(error, CompileError) and error.details == "a.c:1:2: error: no such thing"
    assert error.log and error.log.read_text() == farm.log_text
    farm.log_text = "asked for once only"
    assert failure([one], farm, journal).details == error.details  # type: ignore[union-attr]
    assert failure([], farm, journal) is None


def test_what_is_the_same_for_hundreds_is_told_once(journal):
    same = [submission(f"6.1.0-{number}-amd64", "failed", reason="a.c:1: error") for number in range(300)]
    others = [submission(f"6.12.{number}-amd64", "failed", reason=f"b.c:{number}: error") for number in range(30)]
    error = failure([*same, *others], StandIn(), journal)
    assert isinstance(error, PartialError) and error.brief == "330 of 330 builds failed"
    assert error.details.splitlines()[:3] == [
        "el9/6.1.0-0-amd64 was not built for x86_64",
        "    a.c:1: error",
        f"    the same for {', '.join(f'el9/6.1.0-{number}-amd64 (x86_64)' for number in (1, 2, 3))} and 296 more",
    ]
    assert error.details.splitlines()[-1] == "and 11 more; `pkgkmod submit status -v` lists all"
    assert len(error.details.splitlines()) == 3 + 19 * 2 + 1


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
    place = journal.folder / "submissions/el9/_.json"
    place.parent.mkdir(parents=True)
    place.write_text(text, encoding="latin-1")
    with pytest.raises(FarmError, match="cannot be read"):
        journal.all()


def test_a_submission_ends_when_all_of_its_builds_do():
    facts = {"target": "el9", "kernel": "_", "package": "x", "format": "rpm", "kernels": (), "source_date_epoch": 0}
    one = Submission(**facts, request="r", state="sent")
    assert not one.has_ended
    builds = [FarmBuild(id=state, title=state, state=state) for state in ("succeeded", "building")]  # type: ignore[arg-type]
    assert not one.model_copy(update={"builds": tuple(builds)}).has_ended
    assert one.model_copy(update={"builds": tuple(builds[:1])}).has_ended

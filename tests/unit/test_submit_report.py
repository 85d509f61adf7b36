"""What `submit status` shows of few submissions, and of hundreds."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from pkgkmod.cli.submit_report import print_status
from pkgkmod.model.submission import Submission


def submission(number: int, *states: str, target: str = "el9", **more: object) -> Submission:
    facts = {"target": target, "kernel": f"6.1.0-{number}-amd64", "package": f"kmod-x-{number}.src.rpm"}
    builds = [{"id": str(n), "title": f"arch{n}", "state": state} for n, state in enumerate(states)]
    rest = {"format": "rpm", "kernels": (), "source_date_epoch": 0, "request": "r", "state": "sent"}
    return Submission.model_validate({**facts, **rest, "builds": builds, **more})


def shown(capsys: pytest.CaptureFixture[str], found: Sequence[Submission], *, verbose: bool = False) -> list[str]:
    print_status(found, json_lines=False, verbose=verbose)
    return capsys.readouterr().out.splitlines()


def hundreds(states: Sequence[str], *, target: str = "el9") -> list[Submission]:
    return [submission(number, states[number % len(states)], target=target) for number in range(200)]


def test_of_few_each_build_is_shown(capsys):
    lines = shown(capsys, [submission(1, "succeeded", "failed"), submission(2), submission(3, state="sending")])
    assert [line.split()[1:] for line in lines] == [
        ["PACKAGE", "BUILD", "STATE"],
        ["kmod-x-1.src.rpm", "arch0", "succeeded"],
        ["kmod-x-1.src.rpm", "arch1", "failed"],
        ["kmod-x-2.src.rpm", "sent"],
        ["kmod-x-3.src.rpm", "may", "not", "have", "arrived"],
        ["arch1:", "failed"],
    ]


def test_of_hundreds_it_is_shown_how_many_stand_how_and_those_that_failed(capsys):
    found = [*hundreds(["succeeded", "building"]), *hundreds(["waiting"], target="el10")]
    found += [submission(500, "succeeded", "failed"), submission(501, "building", "succeeded", fetched="f")]
    found += [submission(502, state="sending")]
    lines = shown(capsys, found)
    assert [line.split() for line in lines[:3]] == [
        ["TARGET", "MAY", "NOT", "HAVE", "ARRIVED", "FAILED", "BUILDING", "WAITING", "SUCCEEDED", "FETCHED"],
        ["el9", "1", "1", "101", "100", "1"],
        ["el10", "200"],
    ]
    assert lines[3:] == [
        "",
        "el9/6.1.0-500-amd64 arch1: failed",
        "el9/6.1.0-502-amd64: may not have arrived",
        "",
        "`pkgkmod submit status -v` shows all 403",
    ]
    assert all(len(line) <= 80 for line in lines)
    assert len(shown(capsys, found, verbose=True)) == 1 + 400 + 4 + 1 + 1


def test_of_hundreds_of_failures_the_first_are_shown(capsys):
    lines = shown(capsys, hundreds(["failed"]))
    assert len(lines) == 2 + 1 + 20 + 2
    assert lines[-1] == "180 failures more; `pkgkmod submit status -v` shows all 200"


def test_programs_are_told_of_all(capsys):
    print_status(hundreds(["failed"]), json_lines=True, verbose=False)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["submission"] * 200

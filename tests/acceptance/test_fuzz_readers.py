"""Whatever is done to a module, its readers answer or raise ModuleError, soon and with little memory."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures import fuzzing
from tests.fixtures.archive_modules import archive_driver
from tests.fixtures.foreignmodules import MACHINES, NEWER, foreign_modules
from tests.fixtures.fuzzing import FOUND, Inputs, Outcome, fuzz, inputs_of, keep

SEED = 20240301


def inputs(kernel: str, seed: int) -> Inputs:
    """Make inputs of small modules for all machines, signed and unsigned, with CRCs and without."""
    files = [*archive_driver("acpi-call-dkms", kernel).modules, *archive_driver("jool-dkms", kernel).modules]
    for machine in MACHINES:
        files += foreign_modules(machine)[:4]
    return inputs_of([*files, *foreign_modules("amd64", NEWER)[:4]], seed, limit=80_000)


def check(outcome: Outcome, folder: Path) -> None:
    """Fail if anything was found, and say where it is."""
    told = [f"input {one.number}: {one.what}" for one in outcome.failures]
    kept = keep(outcome.failures, folder)
    assert not told, f"{told}\nkept in {kept}; those that are to be tried always belong into {FOUND}"


def test_changed_modules_for_two_minutes(kernel: str, tmp_path: Path) -> None:
    outcome = fuzz(inputs(kernel, SEED), count=20_000, seconds=120, say=print)
    check(outcome, tmp_path)
    # It went on behind the first checks, and all kinds of damage were met.
    assert outcome.answers["read"] > outcome.inputs / 10
    assert len(outcome.answers) > 15, outcome.answers


@pytest.mark.slow
def test_a_million_changed_modules_or_an_hour(kernel: str, tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    check(fuzz(inputs(kernel, seed), count=1_000_000, seconds=3600, jobs=os.cpu_count() or 1, say=print), tmp_path)


def hang(content: bytes) -> str:
    while True:
        pass


def take_memory(content: bytes) -> str:
    return str(len(bytearray(2 * fuzzing.MEMORY)))


def crash(content: bytes) -> str:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(content: bytes) -> str:
    raise KeyError(content)


@pytest.mark.parametrize(
    ("reader", "what"),
    [(hang, "more than"), (take_memory, "MemoryError"), (crash, "the process ended with -9"), (fail, "KeyError")],
)
def test_what_is_looked_for_would_be_found(
    reader: Callable[[bytes], str], what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Inputs, "make", lambda self, number: (reader if number == 1 else len_of, b"%d" % number))
    monkeypatch.setattr(fuzzing, "SECONDS", 0.2)
    outcome = fuzz(Inputs(1, (), b""), count=5, seconds=60, say=print)
    (failure,) = outcome.failures
    assert failure.number == 1 and what in failure.what
    assert outcome.answers["1"] >= 3, outcome  # what came right before a crash is not told
    assert [file.read_bytes() for file in keep(outcome.failures, tmp_path)] == [b"1"]


def len_of(content: bytes) -> str:
    return str(len(content))


def test_the_same_seed_makes_the_same_inputs(kernel: str) -> None:
    one, other, third = (inputs(kernel, seed) for seed in (5, 5, 6))
    assert [one.make(number) for number in range(50)] == [other.make(number) for number in range(50)]
    assert one.make(0) != third.make(0)

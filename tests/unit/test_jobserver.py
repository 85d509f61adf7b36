"""The common budget of jobs: shared with real makes, and whole again after they were killed."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pkgkmod import jobserver
from pkgkmod.jobserver import JobServer, Stopped, is_memory_short, sensible_jobs
from tests.fixtures.machine import need

# Each target writes down when it began and ended.
MAKEFILE = "all: a b c d\na b c d:\n\t@echo begin $@ >> log; sleep 0.2; echo end $@ >> log\n"


@pytest.fixture
def budget():
    server = JobServer(2)
    yield server
    server.close()


def start(budget, folder):
    folder.mkdir()
    (folder / "Makefile").write_text(MAKEFILE)
    environment = {**os.environ, "MAKEFLAGS": budget.makeflags}
    return subprocess.Popen(["make", "all"], cwd=folder, env=environment, pass_fds=budget.descriptors)


def most_at_once(*logs: Path) -> int:
    events = [line.split()[0] for log in logs for line in log.read_text().splitlines()]
    running = most = 0
    for event in events:
        running += 1 if event == "begin" else -1
        most = max(most, running)
    return most


def test_a_job_is_taken_and_given_back(budget):
    assert budget.take(0)
    assert budget.take(0)
    started = time.monotonic()
    assert not budget.take(0.05)
    assert time.monotonic() - started >= 0.04
    budget.give_back()
    assert budget.take(0)
    budget.give_back()
    budget.give_back()


def test_a_make_uses_what_is_free_and_no_more(budget, tmp_path):
    need("make")
    assert budget.take(0)
    make = start(budget, tmp_path / "one")
    assert make.wait() == 0
    assert most_at_once(tmp_path / "one/log") == 2, "its own job, and the one that was free"
    assert budget.take(0), "it put back what it took"
    second = start(budget, tmp_path / "two")
    assert second.wait() == 0
    assert most_at_once(tmp_path / "two/log") == 1, "nothing was free"


def test_what_killed_makes_took_is_replaced_when_nobody_runs(budget, tmp_path):
    need("make")
    assert budget.take(0)
    make = start(budget, tmp_path / "one")
    while not (tmp_path / "one/log").exists() or (tmp_path / "one/log").read_text().count("begin") < 2:
        time.sleep(0.01)
    make.send_signal(signal.SIGKILL)
    make.wait()
    budget.give_back()
    assert budget.take(0)
    assert budget.take(0), "the job that the dead make held is there again"
    assert not budget.take(0), "and no more than there were"


def test_a_program_that_cannot_share_gets_what_is_free(budget):
    with budget.with_spare() as jobs:
        assert jobs == 2
        assert not budget.take(0)
        with budget.job():
            pass  # the same thread goes on with the job that it holds
        assert not budget.take(0)
    assert budget.take(0)
    with budget.with_spare() as jobs:
        assert jobs == 1
    budget.give_back()


def test_nobody_waits_for_a_job_when_all_is_stopped(budget):
    assert budget.take(0)
    assert budget.take(0)
    with pytest.raises(Stopped), budget.job(lambda: True):
        pytest.fail("there was none")


def test_as_many_jobs_as_processors_if_the_memory_allows_it(monkeypatch):
    assert sensible_jobs(7) == 7
    monkeypatch.setattr(jobserver.os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(jobserver, "available_memory", lambda: 3 * 1024**3)
    assert sensible_jobs(0) == 6
    assert not is_memory_short()
    monkeypatch.setattr(jobserver, "available_memory", lambda: 1024**2)
    assert sensible_jobs(0) == 1
    assert is_memory_short()
    monkeypatch.setattr(jobserver, "available_memory", lambda: None)
    assert sensible_jobs(0) == 16


def test_the_memory_of_this_machine_is_known():
    free = jobserver.available_memory()
    assert free is None or 0 < free < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert shutil.which("make") is None or sensible_jobs(0) >= 1

"""Hundreds of source packages given to Koji by its real client library; the hub is a stand-in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from pkgkmod.engine.journal import Journal
from pkgkmod.workspace import Workspace
from tests.fixtures.kojihub import profile, running_hub
from tests.fixtures.machine import CHECKOUT, need

COUNT = 200


def test_hundreds_are_sent_to_a_stub_hub_once_each_by_a_run_that_is_killed_and_two_that_go_on(tmp_path: Path) -> None:
    need("openssl")
    with running_hub(tmp_path) as hub:
        hub.outputs = {"x86_64": []}
        profile(tmp_path / "home", hub, tmp_path)

        def start() -> subprocess.Popen[str]:
            argv = [sys.executable, "-m", "tests.fixtures.hundreds", str(tmp_path), str(COUNT)]
            env = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONPATH": str(CHECKOUT)}
            return subprocess.Popen(argv, cwd=CHECKOUT, env=env, stdout=subprocess.PIPE, text=True)

        first: list[subprocess.Popen[str]] = []
        hub.after_build = lambda: first[0].kill() if len(hub.builds) == 70 else None
        first.append(start())
        assert first[0].wait(120) == -signal.SIGKILL
        states = Counter(one.state for one in Journal(Workspace(tmp_path), "koji").all())
        assert states == {"sent": 69, "sending": 1}

        two = [start(), start()]
        told = [process.communicate(timeout=120)[0] for process in two]
        assert [process.returncode for process in two] == [0, 0]
        assert sorted(int(text) for text in told) == [0, COUNT - 70]
        assert len({task.request[0] for task in hub.builds}) == len(hub.builds) == COUNT

    submissions = Journal(Workspace(tmp_path), "koji").all()
    assert len(submissions) == COUNT and all(one.has_ended and not one.failed for one in submissions)
    # Each has the task that was started with its own source package.
    assert {one.package: str(hub.tasks[one.ticket["task"]].request[0]).rpartition("/")[2] for one in submissions} == {
        name: name for name in (f"kmod-x-1-{number}.src.rpm" for number in range(COUNT))
    }

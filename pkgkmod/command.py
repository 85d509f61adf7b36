"""The one door to other programs.

Argument lists only, an environment of its own, output streamed to a log, a time limit, and on request
a sandbox.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pkgkmod.data import package_of_tool
from pkgkmod.errors import DiskFullError, TimeLimitError, ToolError
from pkgkmod.jobserver import JobServer, Stopped
from pkgkmod.programs import clean_environment
from pkgkmod.progress import Progress
from pkgkmod.sandbox import Sandbox, ownership, sandboxed

_TAIL = 40  # lines of output kept for messages
_PATIENCE = 10.0  # seconds for a program that cannot be killed


@dataclass(frozen=True)
class Command:
    """A program to run: what, where, with which variables on top of the clean ones."""

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    sandbox: Sandbox | None = None
    time_limit: float | None = None
    """Seconds; None is no limit."""
    makes: bool = False
    """True if it is, or starts, a make that takes part in the common budget of jobs."""
    user: str = ""
    """Who runs it, where the caller is root; the caller if empty."""
    isolates: bool = False
    """True if it needs no sandbox: it isolates what it runs by itself, or runs nothing of the sources."""


@dataclass(frozen=True)
class Completed:
    """How a program ended; `tail` holds its last lines."""

    command: Command
    returncode: int
    tail: tuple[str, ...]
    log: Path

    @property
    def ok(self) -> bool:
        """True if the program reported success."""
        return self.returncode == 0


class Interrupted(Stopped):
    """All programs are being stopped: nothing may be saved of what they made."""


_running: set[subprocess.Popen[bytes]] = set()
_stopping = threading.Event()


def stop_all() -> None:
    """Kill every running program, and let no other start: `run` raises Interrupted in all threads."""
    _stopping.set()
    for process in tuple(_running):
        _kill(process)


def is_stopping() -> bool:
    """Tell whether `stop_all` was called."""
    return _stopping.is_set()


def allow_all() -> None:
    """Let programs start again after `stop_all`."""
    _stopping.clear()


def run(command: Command, *, log: Path, progress: Progress, jobs: JobServer | None = None) -> Completed:
    """Run a program to its end, streaming what it writes to `log`; raise on time-out and on a full disk only.

    On Ctrl-C, or any other exception here, the program and all its children are killed first. `jobs` is the
    budget that a make shares with others.
    """
    argv = list(command.argv)
    if command.sandbox:
        argv = sandboxed(argv, command.cwd, command.sandbox)
    progress.command(argv if progress.verbose else command.argv, log)
    environment = {**clean_environment(command.cwd), **command.env}
    shared: tuple[int, ...] = ()
    if jobs and command.makes:
        environment["MAKEFLAGS"] = jobs.makeflags
        shared = jobs.descriptors
    tail: deque[str] = deque(maxlen=_TAIL)
    with log.open("ab") as sink, ownership(command.sandbox):
        process = _start(argv, command.cwd, environment, shared, command.user)
        assert process.stdout
        reader = threading.Thread(target=_pump, args=(process.stdout, sink, tail, progress), daemon=True)
        reader.start()
        try:
            returncode = _wait(process, command.time_limit)
        except subprocess.TimeoutExpired:
            raise TimeLimitError(
                f"'{command.argv[0]}' ran longer than {command.time_limit:.0f} s and was stopped",
                details="\n".join(tail),
                hint="raise build.time_limit in the project file if it needs longer",
                log=log,
            ) from None
        finally:
            _end(process)
            reader.join(timeout=10)
    if _stopping.is_set():
        raise Interrupted
    if returncode and (any("No space left on device" in line for line in tail) or _is_full(command.cwd, log.parent)):
        raise DiskFullError(
            f"no space left on the disk while running '{command.argv[0]}'",
            hint=f"free some space where {command.cwd} and {log.parent} lie, then run the same command again",
            log=log,
        )
    return Completed(command, returncode, tuple(tail), log)


def _is_full(*folders: Path) -> bool:
    """Tell whether a disk has less than 1 MiB left: not every program says so (kbuild's fixdep does not)."""
    return any(shutil.disk_usage(folder).free < 1024 * 1024 for folder in folders)


def _start(
    argv: list[str], cwd: Path, environment: dict[str, str], shared: tuple[int, ...], user: str
) -> subprocess.Popen[bytes]:
    who = pwd.getpwnam(user) if user else None
    if _stopping.is_set():
        raise Interrupted
    try:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=shared,
            umask=0o022,  # what is made must not depend on who calls
            user=who.pw_uid if who else None,
            group=who.pw_gid if who else None,
            extra_groups=() if who else None,
        )
    except FileNotFoundError:
        raise ToolError(f"the program '{argv[0]}' is not installed", hint=package_of_tool(argv[0])) from None
    _running.add(process)
    if _stopping.is_set():  # `stop_all` may have looked just before
        _kill(process)
    return process


def _wait(process: subprocess.Popen[bytes], seconds: float | None) -> int:
    """Wait for a program's end; raise TimeoutExpired after `seconds`.

    Popen.wait looks only every 50 ms if it has a time limit, which is as long as a small rpmbuild takes.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:  # Linux before 5.3, or a sandbox that forbids it
        return process.wait(timeout=seconds)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(None if seconds is None else seconds * 1000):
            raise subprocess.TimeoutExpired(process.args, seconds or 0)
    finally:
        os.close(descriptor)
    return process.wait()


def _pump(source: IO[bytes], sink: IO[bytes], tail: deque[str], progress: Progress) -> None:
    for raw in source:
        try:
            sink.write(raw)
            sink.flush()
        except OSError:
            pass  # a full disk: the program will notice, too, and its end is what counts
        line = raw.decode("utf-8", "replace").rstrip("\n")
        tail.append(line)
        progress.output(line)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the program's session; bubblewrap takes its whole process namespace with it."""
    killed = _kill(process)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=None if killed else _PATIENCE)
    _running.discard(process)


def _kill(process: subprocess.Popen[bytes]) -> bool:
    """Kill a program and its children; False if it has root's rights, which its caller has not, as mock.

    Such a program gets SIGPIPE when it writes and nobody is left to read, and ends by that.
    """
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    return True

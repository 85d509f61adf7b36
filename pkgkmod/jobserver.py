"""One budget of parallel jobs for all programs: GNU make's jobserver.

A pipe holds a byte for each job that may still be started. Every make takes one before it starts a further
job and puts it back afterwards; we take one before we start a program. So two processors are full with
two makes of one job each, or with one make of two, and never oversubscribed (make's manual, "POSIX Jobserver
Interaction").
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LEAST_MEMORY = 512 * 1024 * 1024
"""Bytes that a job may need: cc1 with the kernel's headers takes 100 to 200 MB, pahole and links more."""
_PATIENCE = 0.2
"""Seconds to wait for a job before asking whether to go on."""


class Stopped(BaseException):
    """Nobody waits for the job any more."""


class JobServer:
    """A budget of `jobs` parallel jobs; to be closed at the end."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._reader, self._writer = os.pipe()
        # Opened once more, for us only: the makes share the other one, and must not get O_NONBLOCK with it.
        self._own = os.open(f"/proc/self/fd/{self._reader}", os.O_RDONLY | os.O_NONBLOCK)
        self._lock = threading.Lock()
        self._held = threading.local()
        self._running = 0
        os.write(self._writer, b"+" * jobs)

    @property
    def descriptors(self) -> tuple[int, int]:
        """The pipe's ends, which a make inherits."""
        return self._reader, self._writer

    @property
    def makeflags(self) -> str:
        """Value of MAKEFLAGS that lets a make take part."""
        # make 4.3 and 4.4 read this form; 4.4's named pipe would be out of reach in a sandbox.
        return f" -j{self.jobs} --jobserver-auth={self._reader},{self._writer}"

    def take(self, timeout: float) -> bool:
        """Take a job out of the budget, waiting up to `timeout` seconds; return False if there is none."""
        if not select.select([self._own], [], [], timeout)[0]:
            return False
        with self._lock:
            try:
                os.read(self._own, 1)
            except BlockingIOError:  # a make was quicker
                return False
            self._running += 1
        return True

    def give_back(self) -> None:
        """Put a job back; when nobody runs any more, what killed makes took with them is replaced."""
        with self._lock:
            os.write(self._writer, b"+")
            self._running -= 1
            if self._running == 0 and (lost := self.jobs - _pending(self._reader)) > 0:
                os.write(self._writer, b"+" * lost)

    @contextmanager
    def job(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Hold a job, waiting for one; a thread that holds one already goes on with it.

        Raise Stopped if `stopped` says that there is nothing to wait for any more.
        """
        if getattr(self._held, "job", False):
            yield
            return
        while not self.take(_PATIENCE):
            if stopped():
                raise Stopped
        self._held.job = True
        try:
            yield
        finally:
            self._held.job = False
            self.give_back()

    @contextmanager
    def with_spare(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[int]:
        """Hold a job and all that are free now, for programs that cannot share the budget; return how many."""
        spare = 0
        with self.job(stopped):
            try:
                while self.take(0):
                    spare += 1
                yield 1 + spare
            finally:
                for _ in range(spare):
                    self.give_back()

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._own)
        os.close(self._reader)
        os.close(self._writer)


def _pending(descriptor: int) -> int:
    """Return how many bytes wait in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]


def available_memory() -> int | None:
    """Return the bytes of memory that can be used without swapping; None where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    return min(free, _group_memory(free))


def _group_memory(otherwise: int) -> int:
    """Return what the control group's limit leaves: a container may have less than the machine."""
    try:
        group = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text(encoding="ascii").rpartition(":")[2].strip(
            "/\n"
        )
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        return otherwise if limit == "max" else max(int(limit) - used, 0)
    except (OSError, ValueError):
        return otherwise


def sensible_jobs(wanted: int) -> int:
    """Return how many jobs to run: `wanted`, or one for each processor (0) as far as the memory goes."""
    if wanted:
        return wanted
    processors = len(os.sched_getaffinity(0))
    memory = available_memory()
    return processors if memory is None else max(1, min(processors, memory // _LEAST_MEMORY))


def is_memory_short() -> bool:
    """Tell whether another program had better wait for a running one to end."""
    memory = available_memory()
    return memory is not None and memory < _LEAST_MEMORY

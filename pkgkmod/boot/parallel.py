"""Several kernels booted side by side, as far as processors and memory go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from pkgkmod.command import allow_all, stop_all
from pkgkmod.jobserver import available_memory, sensible_jobs

_MEMORY = 640 * 1024 * 1024
"""Bytes that a machine takes, QEMU's own included: three quarters of it where the kernel has few modules."""

T = TypeVar("T")
U = TypeVar("U")


def workers(wanted: int, memory: int) -> int:
    """Return how many machines may run at a time: `wanted`, or one for each processor (0), if there is memory.

    `memory` is what each was given, in MiB; 0: what is usual.
    """
    free = available_memory()
    fitting = free // (_MEMORY if not memory else (memory + 128) << 20) if free is not None else 1
    return max(1, min(sensible_jobs(wanted), fitting))


def side_by_side(do: Callable[[T], U], items: Sequence[T], most: int) -> Iterator[tuple[T, U]]:
    """Do something for each item, up to `most` at a time, and yield what came of them in their order.

    On Ctrl-C, or any other exception, all programs are killed first.
    """
    pool = ThreadPoolExecutor(most)
    futures: list[Future[U]] = []
    try:
        futures = [pool.submit(do, item) for item in items]
        for item, future in zip(items, futures, strict=True):
            yield item, future.result()
    except BaseException:
        stop_all()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        allow_all()

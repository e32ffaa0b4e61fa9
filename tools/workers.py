"""Worker processes that play seeds and scenarios, and end with whoever started them, however that ends."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from threading import Thread
from time import sleep

LOOK_S = 0.5


def pool(jobs: int | None, *, tasks_per_child: int | None = None) -> ProcessPoolExecutor:
    """A pool of fresh interpreters, one per core unless told otherwise."""
    return ProcessPoolExecutor(
        jobs or os.cpu_count() or 1,
        mp_context=get_context("spawn"),
        initializer=end_with,
        initargs=(os.getpid(),),
        max_tasks_per_child=tasks_per_child,
    )


def end_with(parent: int) -> None:
    """Have this process end once it is no longer a child of `parent`: a pool's worker would wait for work for ever when its
    pool was killed, for the worker itself holds the other end of its pipe."""
    Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        sleep(LOOK_S)
    os._exit(1)

"""Processes that are all work and no imports, to be killed by SIGKILL at any moment of it."""

import multiprocessing
import signal
import time
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

import pytest


def server_of(*modules: str) -> ForkServerContext:
    """Forks processes that have modules imported: in milliseconds, and with one thread each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        first = context.Process(target=int)
        first.start()
        first.join()
    return context


def run_and_kill(process: BaseProcess, after: float | None) -> float:
    """Run a process, to its good end or for so many seconds; return how long it ran."""
    start = time.perf_counter()
    process.start()
    process.join(after)
    if after is not None:
        process.kill()
        process.join()
    assert process.exitcode in ({0} if after is None else {0, -signal.SIGKILL})
    return time.perf_counter() - start

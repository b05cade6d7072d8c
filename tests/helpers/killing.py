"""Processes that are all work and no imports, to be killed by SIGKILL at any moment of it."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

import pytest
import zarr.storage._local as zarr_local


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


def killed_at(write: int, part: float, action: Callable[[], object]) -> bool:
    """Do something in a child killed at one of zarr's writes of files; return whether it was."""
    child = os.fork()
    if not child:
        try:
            signal.alarm(120)  # in case it hangs
            left = write
            put = zarr_local._put

            def fatal(path, value, exclusive=False):
                nonlocal left
                left -= 1
                if left < 0:
                    content = value.to_bytes()
                    path.parent.mkdir(parents=True, exist_ok=True)
                    partial = path.with_suffix(".0123abcd.partial")
                    partial.write_bytes(content[: int(len(content) * part)])
                    os.kill(os.getpid(), signal.SIGKILL)
                return put(path, value, exclusive)

            zarr_local._put = fatal
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        return False
    assert os.WTERMSIG(status) == signal.SIGKILL, "it hung"
    return True

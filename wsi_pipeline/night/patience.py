"""Calls that may hang, as reads of a network drive do, made in threads that can be left behind."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import TypeVar

_Result = TypeVar("_Result")

LOOK_EVERY_S = 1.0


def elsewhere(call: Callable[[], _Result], *, daemon: bool = True) -> Future[_Result]:
    """Call in a thread of its own, so that whoever waits for it can be interrupted.

    Args:
        call: what to call.
        daemon: whether this process may end before it is through.

    """
    future: Future[_Result] = Future()

    def answer() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            future.set_exception(error)

    threading.Thread(target=answer, name="elsewhere", daemon=daemon).start()
    return future


def patiently(call: Callable[[Callable[[], None]], _Result], stall_s: float) -> _Result:
    """Call, and wait for the result as long as there is progress.

    Args:
        call: what to call; it is given what tells that something has moved.
        stall_s: it is left behind when nothing has moved for so long.

    Raises:
        TimeoutError: if it was; beside whatever the call raises.

    """
    moved_at = time.monotonic()

    def moved() -> None:
        nonlocal moved_at
        moved_at = time.monotonic()

    future = elsewhere(lambda: call(moved))
    while not wait_for([future], min(LOOK_EVERY_S, stall_s)).done:
        if time.monotonic() - moved_at > stall_s:
            raise TimeoutError(f"nothing moved for {stall_s:g} s")
    return future.result()

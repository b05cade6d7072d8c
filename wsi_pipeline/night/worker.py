"""`python -m wsi_pipeline.night.worker FD SLOT`: keeps the model and scores slide after slide.

Such processes are started, watched and replaced by `night.crew`; FD is their end of its
pipe, and SLOT the lock file that one of them holds while it uses the model. All that is worth
keeping is in the slide's store at any time, so that one may end at any moment: and it does, at
once, when the other end of the pipe is closed.
"""

import faulthandler
import logging
import os
import pickle
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # loading the libraries takes seconds, in which the night may end
    from wsi_pipeline.night.outcome import Outcome
    from wsi_pipeline.night.worker_protocol import Event, Job, OnEvent, Setup
    from wsi_pipeline.outputs.summary import SlideSummary
    from wsi_pipeline.scoring.scorer import Scorer

PROGRESS_EVERY_S = 1.0


def main() -> None:
    """Score what the crew asks for, until it closes its end."""
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    pipe: Connection[Any, Any] = Connection(int(sys.argv[1]))
    asked: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, asked), name="listening", daemon=True).start()
    speaking = threading.Lock()

    def tell(event: "Event") -> None:
        with speaking:
            pipe.send(event)

    work(lambda: pickle.loads(asked.get()), tell)  # noqa: S301 - from the night


def _listen(pipe: "Connection[Any, Any]", asked: queue.SimpleQueue[bytes]) -> None:
    """Take what is asked; when nobody is left to ask, end at once: stores survive that."""
    try:
        while True:
            asked.put(pipe.recv_bytes())
    finally:
        os._exit(0)


def work(asked: Callable[[], Any], tell: "OnEvent") -> None:
    """Load the model and do one job after another.

    Args:
        asked: waits for the `Setup`, and then for each `Job`.
        tell: takes the events.

    """
    from wsi_pipeline.errors import BundleError, WsiError
    from wsi_pipeline.model.bundle import ModelBundle
    from wsi_pipeline.night.worker_protocol import Ended, Ready, Unusable
    from wsi_pipeline.scoring.scorer import start_engine

    # They log every oddity of a damaged file that an error of ours then names.
    for library in ("tifffile", "pydicom"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    setup: Setup = asked()
    try:
        bundle = replace(ModelBundle.load(setup.bundle), source=setup.source)
        if bundle.digest != setup.digest:
            raise BundleError(
                f"{setup.bundle}: this is no longer the model that the night began with "
                f"({setup.digest[:12]}), but another one ({bundle.digest[:12]}). Put a new model "
                f"into a folder of its own, and leave those in use as they are."
            )
        engine = start_engine(bundle, setup.config)
    except (WsiError, OSError) as error:
        tell(Unusable(reason=str(error)))
        return
    tell(Ready())
    while True:
        tell(Ended(outcome=score(asked(), setup, engine, tell)))


def score(job: "Job", setup: "Setup", engine: "Scorer", tell: "OnEvent") -> "Outcome":
    """Score one slide; whatever becomes of it is an outcome."""
    import filelock

    from wsi_pipeline.night import outcome
    from wsi_pipeline.night.worker_protocol import Model, Progress
    from wsi_pipeline.outputs.estimate import Estimate
    from wsi_pipeline.scoring import estimate, pipeline

    start, busy_before = time.perf_counter(), engine.busy_s
    held: list[float] = []
    due = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal due
        if done == total or time.monotonic() >= due:
            tell(Progress(done=done, total=total))
            due = time.monotonic() + PROGRESS_EVERY_S

    @contextmanager
    def model_slot() -> Iterator[None]:
        tell(Model(step="wanted"))
        # A lock of the operating system: a dead process holds none.
        with filelock.FileLock(sys.argv[2]):
            tell(Model(step="taken"))
            held.append(time.time())
            try:
                yield
            finally:
                held.append(time.time())
        tell(Model(step="released"))

    config = setup.config.of_slide(job.said.mpp, job.said.allow_upsampling)
    if job.precision is None:
        score_one: Callable[..., SlideSummary | Estimate] = pipeline.score_slide
    else:
        score_one = partial(estimate.estimate_slide, precision=job.precision)
    try:
        found = score_one(
            job.slide, setup.out, engine, config, progress=progress, model_slot=model_slot
        )
        if isinstance(found, Estimate):
            ended = outcome.of_estimate(job.slide, found)
        else:
            ended = outcome.of_summary(job.slide, found)
    # One slide's fault, whatever it is, must not end the process that scores the next.
    except Exception as error:  # noqa: BLE001
        ended = outcome.of_error(job.slide, error)
    return ended.model_copy(
        update={
            "slide_digest": ended.slide_digest or job.slide.digest,
            "seconds": time.perf_counter() - start,
            "model_s": engine.busy_s - busy_before,
            "model_from": held[0] if held else None,
            "model_until": held[-1] if held else None,
        }
    )


if __name__ == "__main__":
    main()

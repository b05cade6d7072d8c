"""`python -m wsi_pipeline.worker`: a process that keeps the model and scores slide after slide.

Slides come from other people's machines, and the libraries that decode them are written in C. What
brings such a library down, hangs it or fills the memory shall cost one slide and not the night: so
slides are scored by processes like this one, which a supervisor (`wsi_pipeline.supervise`) watches
and replaces. All that is worth keeping is in the slide's store at any time.
"""

import faulthandler
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import filelock
from pydantic import BaseModel

from wsi_pipeline import outcome, pipeline
from wsi_pipeline.bundle import ModelBundle
from wsi_pipeline.config import ScoreConfig
from wsi_pipeline.errors import WsiError
from wsi_pipeline.messages import Ended, Job, Model, Progress, Ready, Setup, Unusable
from wsi_pipeline.outcome import Outcome
from wsi_pipeline.pipeline import Engine

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 1.0


def main() -> None:
    """Score what the supervisor asks for, until it closes its end."""
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # It logs every oddity of a damaged file that an error of ours then names.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    answers = _own_answers()
    asked = _asked()
    setup = Setup.model_validate_json(next(asked))
    try:
        config = ScoreConfig.model_validate(setup.config)
        engine = pipeline.start_engine(ModelBundle.load(setup.bundle), config)
    except WsiError as error:
        _say(answers, Unusable(reason=str(error)))
        return
    _say(answers, Ready())
    for line in asked:
        job = Job.model_validate_json(line)
        _say(answers, Ended(outcome=score(job, setup, engine, config, answers)))


def score(job: Job, setup: Setup, engine: Engine, config: ScoreConfig, answers: IO[str]) -> Outcome:
    """Score one slide; whatever becomes of it is an outcome."""
    start, busy_before = time.perf_counter(), engine.busy_s
    held: list[float] = []
    due = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal due
        if done == total or time.monotonic() >= due:
            _say(answers, Progress(done=done, total=total))
            due = time.monotonic() + PROGRESS_EVERY_S

    @contextmanager
    def model_slot() -> Iterator[None]:
        _say(answers, Model(step="wanted"))
        # A lock of the operating system: a dead process holds none.
        with filelock.FileLock(setup.slot):
            _say(answers, Model(step="taken"))
            held.append(time.time())
            try:
                yield
            finally:
                held.append(time.time())
        _say(answers, Model(step="released"))

    try:
        summary = pipeline.score_slide(
            job.location,
            setup.out,
            engine,
            config,
            progress,
            filing=job.filing,
            model_slot=model_slot,
        )
        ended = outcome.of_summary(job.filing, summary)
    # One slide's fault, whatever it is, must not end the process that scores the next.
    except Exception as error:  # noqa: BLE001
        ended = outcome.of_error(job.filing, job.location, error)
    return ended.model_copy(
        update={
            "slide_digest": ended.slide_digest or job.filing.digest,
            "seconds": time.perf_counter() - start,
            "model_s": engine.busy_s - busy_before,
            "model_from": held[0] if held else None,
            "model_until": held[-1] if held else None,
        }
    )


def _own_answers() -> IO[str]:
    """Keep standard output for answers; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _asked() -> Iterator[str]:
    """Give the supervisor's lines; when it is gone, end at once: stores survive that."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, name="listening", daemon=True).start()
    while True:
        yield lines.get()


def _say(answers: IO[str], message: BaseModel) -> None:
    answers.write(message.model_dump_json() + "\n")
    answers.flush()


if __name__ == "__main__":
    main()

"""What a worker process does: keep the model, and score slide after slide."""

import logging
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
from wsi_pipeline.pipeline import Scorer

PROGRESS_EVERY_S = 1.0


def work(asked: Iterator[str], answers: IO[str]) -> None:
    """Load the model and answer one job after another.

    Args:
        asked: lines of JSON; the first is a `Setup`, each other one a `Job`.
        answers: takes lines of JSON, see `wsi_pipeline.messages`.

    """
    # It logs every oddity of a damaged file that an error of ours then names.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
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


def score(job: Job, setup: Setup, engine: Scorer, config: ScoreConfig, answers: IO[str]) -> Outcome:
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


def _say(answers: IO[str], message: BaseModel) -> None:
    answers.write(message.model_dump_json() + "\n")
    answers.flush()

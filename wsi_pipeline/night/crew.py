"""A crew of worker processes: each scores one slide at a time, and none can take the others down.

Slides come from other people's machines, and the libraries that decode them are written in C. What
brings such a library down, hangs it or fills the memory shall cost one slide and not the night: so
slides are scored by processes of `night.worker`, which are watched here and replaced. With
two of them, one reads the next slide into its store while the other has the model.

What the two sides say is in `night.worker_protocol`, and how such a process is started and ended in
`night.worker_process`.
"""

import logging
import queue
import signal
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from wsi_pipeline.errors import ModelUnavailableError
from wsi_pipeline.night.config import CrewConfig
from wsi_pipeline.night.outcome import Outcome, Retry
from wsi_pipeline.night.worker_process import WorkerProcess, how_it_ended
from wsi_pipeline.night.worker_protocol import Ended, Job, Model, OnEvent, Ready, Setup, Unusable
from wsi_pipeline.slide.redaction import without_name

log = logging.getLogger(__name__)

WATCH_EVERY_S = 1.0
LOADED_WITHIN_S = 1800.0
"""A large model on a slow drive, exported for the first time, takes minutes."""
TRIES_TO_START = 2
"""A process that dies while it loads may have been in the way of another one's memory."""
ENDED_BY_OTHERS = {-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}
"""What services and people end processes with: no fault of the slide's."""


class Crew:
    """Workers, borrowed one by one by the threads that wait for their slides.

    Example::

        with Crew(setup, config) as crew:
            outcome = crew.score(job, on_event)       # from as many threads as there are workers

    """

    def __init__(self, setup: Setup, config: CrewConfig) -> None:
        """Start nothing yet: a night without new slides loads no model."""
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()
        self._slots = [
            tempfile.NamedTemporaryFile(prefix="wsi-model-", suffix=".lock")  # noqa: SIM115
            for _ in config.devices or (None,)
        ]
        setups = [setup.on(device) for device in config.devices] or [setup]
        # In turns, so that few slides go to as many devices as there are.
        self._workers = [
            Worker(own, Path(slot.name), config)
            for _ in range(config.slides_at_once)
            for own, slot in zip(setups, self._slots, strict=True)
        ]
        for worker in reversed(self._workers):
            self._idle.put(worker)

    def score(self, job: Job, on_event: OnEvent = lambda _event: None) -> Outcome:
        """Score a slide; waits for a worker, and then for the slide. Whatever happens is told.

        Raises:
            ModelUnavailableError: if no worker can load the model, or the crew was closed.

        """
        worker = self._idle.get()
        try:
            return worker.score(job, on_event)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End all workers, busy ones too, for good."""
        for worker in self._workers:
            worker.close()
        for slot in self._slots:
            slot.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Worker:
    """One worker process at a time, started at need and replaced when it dies."""

    def __init__(self, setup: Setup, slot: Path, config: CrewConfig) -> None:
        self._setup = setup
        self._slot = slot
        self._config = config
        self._lock = threading.Lock()
        self._closed = False
        self._process: WorkerProcess | None = None

    def score(self, job: Job, on_event: OnEvent) -> Outcome:
        """Score a slide; a worker that dies, hangs or swells is one outcome more.

        Raises:
            ModelUnavailableError: if no process can load the model, or this was closed.

        """
        start = time.perf_counter()
        process = self._started()
        try:
            ended = self._follow(process, job, on_event)
        except BaseException:
            process.stop()  # or it would answer the next job with this one's outcome
            raise
        return ended if ended.seconds else _timed(ended, time.perf_counter() - start)

    def close(self) -> None:
        """End the process, whatever it does, and start no other."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.stop()

    def _started(self) -> WorkerProcess:
        """Return a process that has loaded the model."""
        if self._process is not None and self._process.runs:
            return self._process
        for _ in range(TRIES_TO_START):
            with self._lock:
                if self._closed:
                    raise ModelUnavailableError("The night was ended.")
                if self._process is not None:
                    self._process.stop()
                try:
                    process = self._process = WorkerProcess(self._setup, self._slot)
                except OSError as error:
                    raise ModelUnavailableError(
                        f"No process that scores can be started ({error.strerror}). Check the "
                        f"machine's memory, its disk for temporary files and its limits."
                    ) from error
            try:
                first = process.events.get(timeout=LOADED_WITHIN_S)
            except queue.Empty:
                process.stop()
                raise ModelUnavailableError(
                    f"{self._setup.bundle}: the model was not loaded within "
                    f"{LOADED_WITHIN_S:.0f} s. Check the drive that it lies on."
                ) from None
            if isinstance(first, Ready):
                return process
            code, words = process.stop()
            if isinstance(first, Unusable):
                raise ModelUnavailableError(first.reason)
            log.warning("A process died while it loaded the model (%s)", how_it_ended(code))
        raise ModelUnavailableError(
            f"The processes that score slides die while they load the model "
            f"({how_it_ended(code)}). Check that there is memory enough. {words}".rstrip()
        )

    def _follow(self, process: WorkerProcess, job: Job, on_event: OnEvent) -> Outcome:
        waits_for_model = False
        moved = time.monotonic()
        process.tell(job)
        while True:
            try:
                event = process.events.get(timeout=WATCH_EVERY_S)
            except queue.Empty:
                if not waits_for_model and time.monotonic() - moved > self._config.stall_s:
                    why = f"nothing moved for {self._config.stall_s:.0f} s"
                    return _given_up(process, job, "Stalled", why)
            else:
                moved = time.monotonic()
                if event is None:
                    return _died(process, job)
                if isinstance(event, Model):
                    waits_for_model = event.step == "wanted"
                on_event(event)
                if isinstance(event, Ended):
                    return event.outcome
            if process.memory_bytes() > self._config.memory_bytes:
                gib = self._config.memory_bytes / (1 << 30)
                return _given_up(process, job, "OutOfMemory", f"it took more than {gib:.1f} GiB")


def _died(process: WorkerProcess, job: Job) -> Outcome:
    process.wait()
    code, words = process.stop()
    return _broken(
        job,
        "WorkerEnded" if code in ENDED_BY_OTHERS else "WorkerDied",
        f"the process that scored it died ({how_it_ended(code)}). If it does so again, the file is "
        f"damaged in a way that the library which reads it does not survive, or the memory "
        f"is too small: copy or scan the slide again",
        retry="now",
        trace=words,
    )


def _given_up(process: WorkerProcess, job: Job, kind: str, why: str) -> Outcome:
    _, words = process.stop()
    return _broken(
        job,
        kind,
        f"it was given up, since {why}. The file is probably damaged: copy or scan it again, "
        f"or raise the limit under `crew` in the configuration",
        retry="never",
        trace=words,
    )


def _broken(job: Job, kind: str, why: str, *, retry: Retry, trace: str) -> Outcome:
    return Outcome(
        name=job.slide.name,
        folder=job.slide.folder,
        slide_digest=job.slide.digest,
        status="failed",
        kind=kind,
        reason=f"{job.slide.name}: {why}.",
        traceback=without_name(trace, job.slide) or None,
        retry=retry,
    )


def _timed(outcome: Outcome, seconds: float) -> Outcome:
    return outcome.model_copy(update={"seconds": seconds})

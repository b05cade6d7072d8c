"""A crew of worker processes: each scores one slide at a time, and none can take the others down.

With two of them, one reads the next slide into its store while the other has the model.
"""

import logging
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Self

import psutil
from pydantic import BaseModel, ConfigDict, Field

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.messages import EVENT, Ended, Event, Job, Model, Setup, Unusable
from wsi_pipeline.naming import without_name
from wsi_pipeline.outcome import Outcome, Retry

log = logging.getLogger(__name__)

WATCH_EVERY_S = 1.0
LAST_WORDS_BYTES = 16_000
GIVEN_UP_AFTER_S = 10.0
KILLED = {-signal.SIGKILL, -signal.SIGTERM}
"""By a person, or by a kernel that is short of memory: no fault of the model."""


class CrewConfig(BaseModel):
    """How many slides are worked on at once, and what one of them may cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slides_at_once: int = Field(default=2, ge=1)
    """The model takes one slide at a time; the others are read meanwhile."""
    stall_s: float = Field(default=1800.0, gt=0)
    """A slide on which nothing moves for so long is given up."""
    memory_gib: float | None = Field(default=None, gt=0)
    """A slide that takes more is given up; None is an equal share of 90 % of the machine's."""
    retries: int = Field(default=2, ge=0)
    """Times that a slide is tried again in a night if its file was away or its worker died."""
    retry_after_s: float = Field(default=60.0, ge=0)
    """Pause before that, after all others."""

    @property
    def memory_bytes(self) -> float:
        """What one worker may take."""
        if self.memory_gib is not None:
            return self.memory_gib * (1 << 30)
        return 0.9 * float(psutil.virtual_memory().total) / self.slides_at_once


class Crew:
    """Workers, borrowed one by one by the threads that wait for their slides.

    Example::

        with Crew(setup, config) as crew:
            outcome = crew.score(job, on_event)       # from as many threads as there are workers

    """

    def __init__(self, setup: Setup, config: CrewConfig) -> None:
        """Start nothing yet: a night without new slides loads no model."""
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()
        self._workers = [Worker(setup, config) for _ in range(config.slides_at_once)]
        for worker in self._workers:
            self._idle.put(worker)

    def score(self, job: Job, on_event: Callable[[Event], None] = lambda _event: None) -> Outcome:
        """Score a slide; waits for a worker, and then for the slide. Whatever happens is told.

        Raises:
            ConfigError: if the model cannot be used, and so no slide can be scored.

        """
        worker = self._idle.get()
        try:
            return worker.score(job, on_event)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End all workers, busy ones too."""
        for worker in self._workers:
            worker.stop()

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
    """One worker process, started at need and replaced when it dies."""

    def __init__(self, setup: Setup, config: CrewConfig) -> None:
        self._setup = setup
        self._config = config
        self._process: subprocess.Popen[str] | None = None
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._words: IO[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it has loaded the model.

        Raises:
            ConfigError: if it cannot.
            BrokenPipeError: if it was killed.

        """
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "wsi_pipeline.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            encoding="utf-8",
        )
        self._events = queue.SimpleQueue()
        threading.Thread(
            target=_listen, args=(self._process, self._events), name="worker", daemon=True
        ).start()
        self._tell(self._setup)
        first = self._events.get()
        if isinstance(first, Unusable):
            self.stop()
            raise ConfigError(first.reason)
        if first is None:
            if self._process.wait(GIVEN_UP_AFTER_S) in KILLED:
                raise BrokenPipeError
            words = self._last_words()
            self.stop()
            raise ConfigError(f"The process that scores slides does not start: {words}")

    def score(self, job: Job, on_event: Callable[[Event], None]) -> Outcome:
        """Score a slide; a worker that dies, hangs or swells is one outcome more."""
        start = time.perf_counter()
        try:
            self.start()
            self._tell(job)
            ended = self._follow(job, on_event)
        except BrokenPipeError:
            ended = self._died(job)
        return ended if ended.seconds else _timed(ended, time.perf_counter() - start)

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        log.debug("a worker died before it had read all that it was told")
            self._process = None
        if self._words is not None:
            self._words.close()
            self._words = None

    def _follow(self, job: Job, on_event: Callable[[Event], None]) -> Outcome:
        waits_for_model = False
        moved = time.monotonic()
        while True:
            try:
                event = self._events.get(timeout=WATCH_EVERY_S)
            except queue.Empty:
                if not waits_for_model and time.monotonic() - moved > self._config.stall_s:
                    return self._given_up(
                        job, "Stalled", f"nothing moved for {self._config.stall_s:.0f} s"
                    )
            else:
                moved = time.monotonic()
                if event is None:
                    return self._died(job)
                if isinstance(event, Model):
                    waits_for_model = event.step == "wanted"
                on_event(event)
                if isinstance(event, Ended):
                    return event.outcome
            if self._memory_bytes() > self._config.memory_bytes:
                gib = self._config.memory_bytes / (1 << 30)
                return self._given_up(job, "OutOfMemory", f"it took more than {gib:.1f} GiB")

    def _memory_bytes(self) -> int:
        try:
            return int(psutil.Process(self._pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return 0

    @property
    def _pid(self) -> int:
        return -1 if self._process is None else self._process.pid

    def _tell(self, message: BaseModel) -> None:
        if self._process is None or self._process.stdin is None:
            raise BrokenPipeError
        self._process.stdin.write(message.model_dump_json() + "\n")
        self._process.stdin.flush()

    def _died(self, job: Job) -> Outcome:
        code = None if self._process is None else self._process.wait(GIVEN_UP_AFTER_S)
        words = self._last_words()
        self.stop()
        return _broken(
            job,
            "WorkerDied",
            f"the process that scored it died ({_how(code)}). If it does so again, the file is "
            f"damaged in a way that the library which reads it does not survive, or the memory "
            f"is too small: copy or scan the slide again",
            retry="now",
            trace=words,
        )

    def _given_up(self, job: Job, kind: str, why: str) -> Outcome:
        words = self._last_words()
        self.stop()
        return _broken(
            job,
            kind,
            f"it was given up, since {why}. The file is probably damaged: copy or scan it again, "
            f"or raise the limit under `crew` in the configuration",
            retry="never",
            trace=words,
        )

    def _last_words(self) -> str:
        """Return the end of what the process wrote to its standard error."""
        if self._words is None:
            return ""
        size = self._words.seek(0, 2)
        self._words.seek(max(0, size - LAST_WORDS_BYTES))
        return self._words.read().decode(errors="replace").strip()


def _listen(process: subprocess.Popen[str], events: queue.SimpleQueue[Event | None]) -> None:
    if process.stdout is not None:
        try:
            for line in process.stdout:
                events.put(EVENT.validate_json(line))
        except ValueError as error:  # the pipe was closed, or a line was cut off by the end
            log.debug("a worker fell silent: %s", error)
    events.put(None)


def _how(code: int | None) -> str:
    if code is None:
        return "it did not start"
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _broken(job: Job, kind: str, why: str, *, retry: Retry, trace: str) -> Outcome:
    return Outcome(
        name=job.filing.name,
        folder=job.filing.folder,
        slide_digest=job.filing.digest,
        status="failed",
        kind=kind,
        reason=f"{job.filing.name}: {why}.",
        traceback=without_name(trace, job.location, job.filing) or None,
        retry=retry,
    )


def _timed(outcome: Outcome, seconds: float) -> Outcome:
    return outcome.model_copy(update={"seconds": seconds})

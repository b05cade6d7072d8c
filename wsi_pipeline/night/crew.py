"""A crew of worker processes: each scores one slide at a time, and none can take the others down.

Slides come from other people's machines, and the libraries that decode them are written in C. What
brings such a library down, hangs it or fills the memory shall cost one slide and not the night: so
slides are scored by processes of `night.worker`, which are watched here and replaced. With
two of them, one reads the next slide into its store while the other has the model.

The two sides talk over a pipe of `multiprocessing`: `Setup` once and then `Job` after `Job` one
way, events the other, of which `Ready` or `Unusable` is the first and `Ended` the last of each job.
The processes are not those of `multiprocessing`, each of which would run the caller's main module
again: all of Prefect, where the night is a flow run.
"""

import logging
import multiprocessing
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import psutil

from wsi_pipeline.errors import ModelUnavailableError
from wsi_pipeline.night.config import CrewConfig
from wsi_pipeline.night.outcome import Outcome, Retry
from wsi_pipeline.night.slide_table import SlideRow
from wsi_pipeline.slide.files import SlideFile
from wsi_pipeline.slide.redaction import without_name

if TYPE_CHECKING:
    from wsi_pipeline.scoring.config import ScoreConfig

log = logging.getLogger(__name__)

WATCH_EVERY_S = 1.0
LOADED_WITHIN_S = 1800.0
"""A large model on a slow drive, exported for the first time, takes minutes."""
LAST_WORDS_BYTES = 16_000
GIVEN_UP_AFTER_S = 10.0
TRIES_TO_START = 2
"""A process that dies while it loads may have been in the way of another one's memory."""
ENDED_BY_OTHERS = {-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}
"""What services and people end processes with: no fault of the slide's."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What holds for all slides of a night."""

    out: Path
    bundle: Path
    """The folder of the model, and not a link that may lead elsewhere meanwhile."""
    source: str
    """Where the other machines of a cluster find it."""
    digest: str
    """Of the model: a night has one, whatever comes to lie in its folder."""
    config: "ScoreConfig"


@dataclass(frozen=True, slots=True)
class Job:
    """A slide to be scored."""

    slide: SlideFile
    said: SlideRow = field(default_factory=SlideRow)
    """What the inbox's table says of it."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """The model cannot be used; no slide can be scored with it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Tiles done, of how many."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Model:
    """What the worker has of the model: it waits for it, uses it, or has let go of it."""

    step: Literal["wanted", "taken", "released"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How the job ended."""

    outcome: Outcome


Event = Ready | Unusable | Progress | Model | Ended
OnEvent = Callable[[Event], None]


class Crew:
    """Workers, borrowed one by one by the threads that wait for their slides.

    Example::

        with Crew(setup, config) as crew:
            outcome = crew.score(job, on_event)       # from as many threads as there are workers

    """

    def __init__(self, setup: Setup, config: CrewConfig) -> None:
        """Start nothing yet: a night without new slides loads no model."""
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()
        self._slot = tempfile.NamedTemporaryFile(prefix="wsi-model-", suffix=".lock")  # noqa: SIM115
        slot = Path(self._slot.name)
        self._workers = [Worker(setup, slot, config) for _ in range(config.slides_at_once)]
        for worker in self._workers:
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
        self._slot.close()

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
        self._process: _Process | None = None

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

    def _started(self) -> "_Process":
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
                    process = self._process = _Process(self._setup, self._slot)
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
            log.warning("A process died while it loaded the model (%s)", _how(code))
        raise ModelUnavailableError(
            f"The processes that score slides die while they load the model ({_how(code)}). "
            f"Check that there is memory enough. {words}".rstrip()
        )

    def _follow(self, process: "_Process", job: Job, on_event: OnEvent) -> Outcome:
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


class _Process:
    """A process of `wsi_pipeline.night.worker`, what it says, and its last words."""

    def __init__(self, setup: Setup, slot: Path) -> None:
        self.events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        """What it tells; None once it is dead."""
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`
        self._lock = threading.Lock()
        self._stopped: tuple[int | None, str] | None = None
        self._pipe, its_end = multiprocessing.Pipe()
        with its_end:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [
                    sys.executable,
                    "-m",
                    "wsi_pipeline.night.worker",
                    str(its_end.fileno()),
                    str(slot),
                ],
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                pass_fds=[its_end.fileno()],
                # Ctrl-C is for the night, which then ends its workers.
                process_group=0,
            )
        threading.Thread(
            target=_listen, args=(self._pipe, self.events), name="listening", daemon=True
        ).start()
        self.tell(setup)

    @property
    def runs(self) -> bool:
        return self._stopped is None and self._process.poll() is None

    def tell(self, message: Setup | Job) -> None:
        try:
            self._pipe.send(message)
        except OSError as error:
            log.debug("a worker died before it was told (%s)", error)  # `events` tells so too

    def memory_bytes(self) -> int:
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def wait(self) -> None:
        """Give it time to die by itself, so that its exit code tells how."""
        try:
            self._process.wait(GIVEN_UP_AFTER_S)
        except subprocess.TimeoutExpired:
            log.debug("a worker has closed its pipe, and lives")

    def stop(self) -> tuple[int | None, str]:
        """End it, whatever it does; return its exit code and the last that it printed."""
        with self._lock:
            if self._stopped is None:
                self._process.kill()
                self.wait()
                size = self._words.seek(0, 2)
                self._words.seek(max(0, size - LAST_WORDS_BYTES))
                words = self._words.read().decode(errors="replace").strip()
                self._words.close()
                self._stopped = self._process.poll(), words
            return self._stopped


def _listen(
    pipe: "Connection[Setup | Job, Event]", events: queue.SimpleQueue[Event | None]
) -> None:
    """Pass on what a worker says: whoever watches it must not wait for half a message."""
    try:
        with pipe:
            while True:
                events.put(pipe.recv())
    except (EOFError, OSError) as error:
        log.debug("a worker fell silent: %s", error)
    finally:
        events.put(None)


def _died(process: _Process, job: Job) -> Outcome:
    process.wait()
    code, words = process.stop()
    return _broken(
        job,
        "WorkerEnded" if code in ENDED_BY_OTHERS else "WorkerDied",
        f"the process that scored it died ({_how(code)}). If it does so again, the file is "
        f"damaged in a way that the library which reads it does not survive, or the memory "
        f"is too small: copy or scan the slide again",
        retry="now",
        trace=words,
    )


def _given_up(process: _Process, job: Job, kind: str, why: str) -> Outcome:
    _, words = process.stop()
    return _broken(
        job,
        kind,
        f"it was given up, since {why}. The file is probably damaged: copy or scan it again, "
        f"or raise the limit under `crew` in the configuration",
        retry="never",
        trace=words,
    )


def _how(code: int | None) -> str:
    if code is None:
        return "it cannot be ended"
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


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

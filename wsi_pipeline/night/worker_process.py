"""One process of `wsi_pipeline.night.worker`, seen from the crew: what it says and how it ends.

It is not a process of `multiprocessing`, which would run the caller's main module again: all of
Prefect, where the night is a flow run.
"""

import logging
import multiprocessing
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from wsi_pipeline.night.worker_protocol import Event, Job, Setup

log = logging.getLogger(__name__)

LAST_WORDS_BYTES = 16_000
GIVEN_UP_AFTER_S = 10.0


class WorkerProcess:
    """A process of `wsi_pipeline.night.worker`, what it says, and its last words.

    Args:
        setup: what the process is told first.
        slot: the lock file that a process holds while it uses the model.

    Attributes:
        events: what it tells; None once it is dead.

    Raises:
        OSError: if no process can be started.

    """

    def __init__(self, setup: Setup, slot: Path) -> None:
        self.events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
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
        """Whether the process lives, and was not stopped."""
        return self._stopped is None and self._process.poll() is None

    def tell(self, message: Setup | Job) -> None:
        """Tell it what to do; if it is dead, `events` says so."""
        try:
            self._pipe.send(message)
        except OSError as error:
            log.debug("a worker died before it was told (%s)", error)  # `events` tells so too

    def memory_bytes(self) -> int:
        """Return the memory that it holds now; 0 once it is dead."""
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


def how_it_ended(code: int | None) -> str:
    """Return an exit code in words; None is a process that cannot be ended."""
    if code is None:
        return "it cannot be ended"
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"

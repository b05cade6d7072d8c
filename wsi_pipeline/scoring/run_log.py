"""The log of one slide's run: a file beside its outputs, with the time of each stage."""

import logging
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsi_pipeline.errors import WsiError
from wsi_pipeline.shown import ShownFormatter

log = logging.getLogger(__name__)


class _LogFile(logging.FileHandler):
    """A log that stops no run, and fills no screen, when its disk is full or gone.

    What the run itself writes fails next, and says so once.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append all that this package logs meanwhile to a file, at level INFO and above.

    What ends the block early is noted there too: in a line if it is an error of ours, which says
    all there is to say, and else with its traceback.
    """
    package = logging.getLogger("wsi_pipeline")
    handler = _LogFile(path, encoding="utf-8")
    handler.setLevel(logging.INFO)
    handler.setFormatter(ShownFormatter("%(asctime)s %(levelname)-7s %(message)s"))
    level = package.level
    if package.getEffectiveLevel() > logging.INFO:
        package.setLevel(logging.INFO)
    package.addHandler(handler)
    try:
        yield
    except Exception as error:
        trace = None if isinstance(error, WsiError) else sys.exc_info()
        # To the file alone: on the screen it is for the caller to show.
        handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, "%s", (error,), trace))
        raise
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Log how long a stage took and the process's peak memory after it."""
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    log.info("%-20s %8.2f s, peak memory %.2f GiB", name, seconds, peak_memory_gib())


def peak_memory_gib() -> float:
    """Return the most memory that this process ever held, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 30) if sys.platform == "darwin" else peak / (1 << 20)

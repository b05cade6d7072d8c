"""The log of one slide's run: a file beside its outputs, with the time of each stage."""

import logging
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append all that this package logs meanwhile to a file, at level INFO and above."""
    package = logging.getLogger("wsi_pipeline")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    level = package.level
    if package.getEffectiveLevel() > logging.INFO:
        package.setLevel(logging.INFO)
    package.addHandler(handler)
    try:
        yield
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

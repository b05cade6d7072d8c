"""What the packages log, shown in the log of the flow run that uses them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run

from wsi_pipeline.shown import ShownFormatter

_PACKAGES = ("training", "wsi_pipeline")


@contextmanager
def run_log() -> Iterator[None]:
    """Send what training and the library log meanwhile to the flow run's own log.

    Prefect's handler by itself would lose the records of the threads that read a slide, since it
    tells the run from the thread's context.
    """
    run_id = flow_run.get_id()

    def belongs(record: logging.LogRecord) -> bool:
        record.flow_run_id = run_id
        return True

    handler = APILogHandler(logging.INFO)
    handler.addFilter(belongs)
    handler.setFormatter(ShownFormatter())
    packages = [logging.getLogger(name) for name in _PACKAGES]
    levels = [package.level for package in packages]
    for package in packages:
        package.addHandler(handler)
        package.setLevel(logging.INFO)
    try:
        yield
    finally:
        for package, level in zip(packages, levels, strict=True):
            package.removeHandler(handler)
            package.setLevel(level)

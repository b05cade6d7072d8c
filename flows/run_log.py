"""What the packages log, shown in the log of the flow run that uses them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from prefect.exceptions import FailedRun
from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler
from prefect.runtime import flow_run

from wsi_pipeline.errors import WsiError
from wsi_pipeline.shown import ShownFormatter

_PACKAGES = ("training", "wsi_pipeline")

_PREFECTS = ("prefect.engine", "prefect.flow_runs", "prefect.task_runs")


def _is_news(record: logging.LogRecord) -> bool:
    """Keep out what Prefect makes of a state that a flow or a task returns.

    It logs a failed task as an exception that there is none of ("NoneType: None"), and a failed
    flow with a traceback of its own engine; what went wrong is in the state's message before that.
    """
    kind = record.exc_info[0] if record.exc_info else None
    if kind is None:
        record.exc_info = None
        return True
    is_a_state = issubclass(kind, FailedRun | WsiError)
    return not (is_a_state and "exited with unexpected exception" in record.getMessage())


def _outlive_readers() -> None:
    """Let the run go on when the worker that reads its output dies: rich would end the process."""
    for name in ("", "prefect", *_PREFECTS):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                be_quiet = partial(setattr, handler.console, "quiet", True)  # noqa: FBT003
                handler.console.on_broken_pipe = be_quiet  # type: ignore[method-assign]


@contextmanager
def run_log() -> Iterator[None]:
    """Send what training and the library log meanwhile to the flow run's own log.

    Prefect's handler by itself would lose the records of the threads that read a slide, since it
    tells the run from the thread's context.
    """
    for name in _PREFECTS:
        logging.getLogger(name).addFilter(_is_news)  # for good: Prefect speaks after the flow's end
    _outlive_readers()  # for good too
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

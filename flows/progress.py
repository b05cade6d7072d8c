"""What a flow run shows of itself while it goes on, however slow the server is to hear of it."""

import functools
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import ParamSpec, Self, cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from flows.report import artifact_key

PROGRESS_EVERY_S = 5.0
"""Seconds between two updates, so that the server has other things to do."""

HEARD_WITHIN_S = 20.0
"""How long the end of a run waits for a server to hear of the last progress."""

_Given = ParamSpec("_Given")


def unless_away(tell: Callable[_Given, None]) -> Callable[_Given, None]:
    """Let a server that is away cost what it would be told, and not the work."""

    @functools.wraps(tell)
    def told(*args: _Given.args, **kwargs: _Given.kwargs) -> None:
        try:
            tell(*args, **kwargs)
        except (httpx.HTTPError, PrefectException) as error:
            get_run_logger().warning("This could not be shown (%s): %s", tell.__name__, error)

    return told


class ProgressArtifact:
    """Shows how far a flow run is, from a thread of its own: who works must not wait for it."""

    def __init__(self, name: str, description: str) -> None:
        """Create the artifact of what has this name, within a flow run."""
        made = create_progress_artifact(
            0.0, key=artifact_key("progress", name), description=description
        )
        self._artifact = cast("UUID", made)  # a coroutine only where there is an event loop
        self._news: SimpleQueue[tuple[float, str] | None] = SimpleQueue()
        # The context tells the flow run and the server.
        self._teller = Thread(target=copy_context().run, args=(self._tell,), daemon=True)
        self._teller.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the last progress to be shown, though not for long."""
        self._news.put(None)
        self._teller.join(HEARD_WITHIN_S)

    def show(self, percent: float, description: str) -> None:
        """Show how much is done, of 100, and of what; returns at once."""
        self._news.put((percent, description))

    def _tell(self) -> None:
        is_over = False
        while not is_over:
            news = [self._news.get()]
            while not self._news.empty():
                news.append(self._news.get())
            is_over = None in news
            for percent, description in [each for each in news if each is not None][-1:]:
                self._update(percent, description)

    @unless_away
    def _update(self, percent: float, description: str) -> None:
        update_progress_artifact(self._artifact, percent, description=description)

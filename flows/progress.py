"""How far a flow run is, shown as an artifact while it goes on."""

from typing import cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from flows.report import artifact_key

PROGRESS_EVERY_S = 5.0
"""Seconds between two updates, so that the server has other things to do."""


class ProgressArtifact:
    """Shows how far a flow run is; a server that is away does not stop the work."""

    def __init__(self, name: str, description: str) -> None:
        """Create the artifact of what has this name, within a flow run."""
        made = create_progress_artifact(
            0.0, key=artifact_key("progress", name), description=description
        )
        self._artifact = cast("UUID", made)  # a coroutine only where there is an event loop

    def show(self, percent: float, description: str) -> None:
        """Show how much is done, of 100, and of what."""
        try:
            update_progress_artifact(self._artifact, percent, description=description)
        except (httpx.HTTPError, PrefectException) as error:
            get_run_logger().warning("The progress could not be shown: %s", error)

"""Serve the flows from this machine to a Prefect server.

Like this::

    prefect server start                                  # once; listens on 127.0.0.1 alone
    python -m flows.serve
    prefect deployment run score-slide/score-slide -p slide=… -p out=…

The server is the one that Prefect's own settings name (PREFECT_API_URL), else the local one. No
port is opened here: runs are polled for.
"""

import sys

from prefect import serve
from prefect.client.orchestration import get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.types.entrypoint import EntrypointType

from flows.score_slide import score_slide

LOCAL_API = "http://127.0.0.1:4200/api"


def main() -> None:
    """Register the deployments and run what is asked of them, until interrupted."""
    url = PREFECT_API_URL.value() or LOCAL_API
    with temporary_settings({PREFECT_API_URL: url}):
        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
        if problem is not None:
            sys.exit(
                f"error: no Prefect server answers at {url} ({problem}). Start one with "
                "`prefect server start`, or name yours in PREFECT_API_URL."
            )
        # By its module, a run finds the flow from any folder. One slide fills the machine: more
        # wait their turn.
        serve(
            RunnerDeployment.from_flow(
                score_slide, name="score-slide", entrypoint_type=EntrypointType.MODULE_PATH
            ),
            limit=1,
        )


if __name__ == "__main__":
    main()

"""Serve the flows from this machine to a Prefect server.

Like this::

    prefect server start                                  # once; listens on 127.0.0.1 alone
    python -m flows.serve
    prefect deployment run score-slide/score-slide -p slide=… -p out=…
    prefect deployment run train-seg/train-seg -p config=… -p data=…
    prefect deployment run train-reg/train-reg -p config=… -p data=… -p init=…
    prefect deployment run train-and-promote/train-and-promote -p config=… -p held_out=… -p seg=…

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
from flows.train import train_and_promote, train_reg, train_seg

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
        # One slide or training fills the machine: more wait their turn.
        serve(*deployments(), limit=1)


def deployments() -> list[RunnerDeployment]:
    """Return a deployment for each flow, of the flow's own name."""
    # By its module, a run finds its flow from any folder.
    return [
        RunnerDeployment.from_flow(flow, name=flow.name, entrypoint_type=EntrypointType.MODULE_PATH)
        for flow in (score_slide, train_seg, train_reg, train_and_promote)
    ]


if __name__ == "__main__":
    main()

"""Serve the flows from this machine to a Prefect server.

Like this::

    prefect server start                                  # once; listens on 127.0.0.1 alone
    python -m flows.serve --inbox /slides/inbox --out /results --cron "0 1 * * *" \
        --time-zone Europe/Berlin                         # the night; all of it can be left out
    prefect deployment run score-slide/score-slide -p slide=… -p out=…
    prefect deployment run score-cohort/score-cohort -p inbox=… -p out=…
    prefect deployment run train-seg/train-seg -p config=… -p data=…
    prefect deployment run train-reg/train-reg -p config=… -p data=… -p init=…
    prefect deployment run train-and-promote/train-and-promote -p config=… -p held_out=… -p seg=…

The server is the one that Prefect's own settings name (PREFECT_API_URL), else the local one. No
port is opened here: runs are polled for.

One run at a time fills the machine, and the others wait their turn: so a training of days holds up
the night. Where both shall share the GPU, serve ``--only scoring`` and ``--only training`` as two
processes, each with one run at a time. For more machines there is ``prefect.yaml``.
"""

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer
from prefect import Flow, serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.types.entrypoint import EntrypointType

from flows.score_cohort import score_cohort
from flows.score_slide import score_slide
from flows.train import train_and_promote, train_reg, train_seg

LOCAL_API = "http://127.0.0.1:4200/api"


class Kind(StrEnum):
    """Which flows a process serves."""

    SCORING = "scoring"
    TRAINING = "training"


FLOWS: dict[Kind, tuple[Flow[..., Any], ...]] = {
    Kind.SCORING: (score_slide, score_cohort),
    Kind.TRAINING: (train_seg, train_reg, train_and_promote),
}


def main(
    cron: Annotated[
        str | None, typer.Option(help="When the nights begin, as in '0 1 * * *': every day at one.")
    ] = None,
    time_zone: Annotated[
        str, typer.Option(help="Of --cron, as in Europe/Berlin; it keeps to summer time.")
    ] = "UTC",
    inbox: Annotated[
        str | None, typer.Option(help="Folder or fsspec URL that the nights take slides from.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder that the nights write to.", file_okay=False)
    ] = None,
    bundle: Annotated[
        str | None, typer.Option(help="Model bundle of the nights; the demonstration if left out.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of the nights.", exists=True, dir_okay=False)
    ] = None,
    notify: Annotated[
        str | None,
        typer.Option(help="Notification block, as type/name, that is told of nights that fail."),
    ] = None,
    only: Annotated[
        Kind | None, typer.Option(help="Serve these flows alone; all if left out.")
    ] = None,
) -> None:
    """Register the deployments and run what is asked of them, until interrupted."""
    nights = {
        "inbox": inbox,
        "out": None if out is None else str(out),
        "bundle": bundle,
        "config": None if config is None else str(config),
        "notify": notify,
    }
    if cron is not None and (inbox is None or out is None):
        raise typer.BadParameter("needs --inbox and --out.", param_hint="--cron")
    try:
        schedule = None if cron is None else CronSchedule(cron=cron, timezone=time_zone)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--cron, --time-zone") from error
    url = PREFECT_API_URL.value() or LOCAL_API
    with temporary_settings({PREFECT_API_URL: url}):
        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
        if problem is not None:
            sys.exit(
                f"error: no Prefect server answers at {url} ({problem}). Start one with "
                "`prefect server start`, or name yours in PREFECT_API_URL."
            )
        # A schedule that is paused when this ends would stay so if it never comes back properly.
        serve(*deployments(only, nights, schedule), limit=1, pause_on_shutdown=False)


def deployments(
    only: Kind | None = None,
    nights: Mapping[str, object] = MappingProxyType({}),
    schedule: CronSchedule | None = None,
) -> list[RunnerDeployment]:
    """Return a deployment for each flow, of the flow's own name.

    Args:
        only: the flows; all if None.
        nights: parameters of score-cohort; what is None is left to the flow.
        schedule: of score-cohort; what was set in Prefect's UI stays if None.

    """
    given = {name: value for name, value in nights.items() if value is not None}
    return [
        # By its module, a run finds its flow from any folder.
        RunnerDeployment.from_flow(
            flow,
            name=flow.name,
            entrypoint_type=EntrypointType.MODULE_PATH,
            parameters=given if flow is score_cohort else None,
            schedules=[schedule] if flow is score_cohort and schedule is not None else None,
        )
        for kind in ([only] if only else Kind)
        for flow in FLOWS[kind]
    ]


if __name__ == "__main__":
    typer.run(main)

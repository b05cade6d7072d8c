"""Serve the flows from this machine to a Prefect server.

Like this::

    export PREFECT_API_URL=http://127.0.0.1:4200/api PREFECT_SERVER_ANALYTICS_ENABLED=false
    prefect server start                                  # once; listens on 127.0.0.1 alone
    python -m flows.serve --inbox /slides/inbox --out /results --cron "0 1 * * *" \
        --time-zone Europe/Berlin                         # the night; all of it can be left out
    prefect deployment run score-slide/score-slide -p slide=… -p out=…
    prefect deployment run score-cohort/score-cohort -p inbox=… -p out=…
    prefect deployment run train-seg/train-seg -p config=… -p data=…
    prefect deployment run train-reg/train-reg -p config=… -p data=… -p init=…
    prefect deployment run train-and-promote/train-and-promote -p config=… -p held_out=… -p seg=…

The server is the one that Prefect's own settings name (PREFECT_API_URL), else the local one. No
port is opened here: runs are polled for. It says when the next night begins, which is when the
server has scheduled it, and ends if the server schedules none.

One run at a time fills the machine, and the others wait their turn: so a training of days holds up
the night. Where both shall share the GPU, serve ``--only scoring`` and ``--only training`` as two
processes, each with one run at a time. For more machines there is ``prefect.yaml``.
"""

import asyncio
import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import typer
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterNextScheduledStartTime,
)
from prefect.client.schemas.schedules import CronSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.types.entrypoint import EntrypointType

from flows.score_cohort import score_cohort
from flows.score_slide import score_slide
from flows.train import train_and_promote, train_reg, train_seg
from wsi_pipeline.files import is_url

LOCAL_API = "http://127.0.0.1:4200/api"

ANSWERS_WITHIN_S = 30.0
"""A server that is started together with this process takes some seconds."""

SCHEDULES_WITHIN_S = 150.0
"""Prefect's scheduler looks at new schedules every 5 seconds, and at all of them every 60."""

SLUG = "nightly"
"""Of the schedule, as in prefect.yaml: by it, the server knows the schedule again."""


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
    results_url: Annotated[
        str | None,
        typer.Option(help="Address at which others find what is in --out, for links: https://…"),
    ] = None,
    only: Annotated[
        Kind | None, typer.Option(help="Serve these flows alone; all if left out.")
    ] = None,
) -> None:
    """Register the deployments and run what is asked of them, until interrupted."""
    # Whoever types a relative path means it from here, and not from where a run will be.
    nights = {
        "inbox": inbox if inbox is None or is_url(inbox) else str(Path(inbox).absolute()),
        "out": None if out is None else str(out.absolute()),
        "bundle": str(Path(bundle).absolute()) if bundle and Path(bundle).is_dir() else bundle,
        "config": None if config is None else str(config.absolute()),
        "notify": notify,
        "results_url": results_url,
    }
    if results_url is not None and not re.match("https?://.", results_url):
        raise typer.BadParameter("is no http address.", param_hint="--results-url")
    if cron is not None and (inbox is None or out is None or only is Kind.TRAINING):
        raise typer.BadParameter(
            "needs --inbox and --out, and scoring to be served.", param_hint="--cron"
        )
    try:
        schedule = None if cron is None else CronSchedule(cron=cron, timezone=time_zone)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--cron, --time-zone") from error
    url = PREFECT_API_URL.value() or LOCAL_API
    with temporary_settings({PREFECT_API_URL: url}):
        with get_client(sync_client=True) as client:
            _await_server(client, url)
            # A schedule paused when this ends would stay so if it never comes back properly.
            runner = Runner(limit=1, pause_on_shutdown=False)
            served = {
                each.name: cast("UUID", runner.add_deployment(each))
                for each in deployments(only, nights, schedule)
            }
            typer.echo(f"Serving {', '.join(served)} to {url}.")
            if (night := served.get(score_cohort.name)) is not None:
                typer.echo(next_night(client, night))
        asyncio.run(runner.start())


def _await_server(client: SyncPrefectClient, url: str) -> None:
    deadline = time.monotonic() + ANSWERS_WITHIN_S
    while (problem := client.api_healthcheck()) is not None:
        if time.monotonic() >= deadline:
            sys.exit(
                f"error: no Prefect server answers at {url} ({problem}). Start one with "
                "`prefect server start`, or name yours in PREFECT_API_URL."
            )
        time.sleep(0.5)


def next_night(client: SyncPrefectClient, deployment: UUID) -> str:
    """Return in words when the next night begins, once the server has scheduled it.

    Raises:
        SystemExit: if the server schedules none, though there is a schedule.

    """
    known = client.read_deployment(deployment)
    if not known.schedules:
        return "No nights are scheduled: there is no --cron. Runs begin when they are asked for."
    active = [each.schedule for each in known.schedules if each.active]
    if known.paused or not active:
        return "The nights are PAUSED in Prefect: none begins until somebody resumes them there."
    deadline = time.monotonic() + SCHEDULES_WITHIN_S
    while (begins := _first_scheduled(client, deployment)) is None:
        if time.monotonic() >= deadline:
            sys.exit(
                f"error: the server at {client.api_url} has scheduled no night within "
                f"{SCHEDULES_WITHIN_S:.0f} s, so none would ever begin. Its scheduler is switched "
                "off (--no-services, PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED) or fails, as with "
                "SQLAlchemy 2.1: see the server's log, install the server with our "
                "constraints.txt, and start it again."
            )
        time.sleep(0.5)
    zone = getattr(active[0], "timezone", None) or "UTC"
    local = begins.astimezone(ZoneInfo(zone))
    return f"The next night begins on {local:%A, %Y-%m-%d at %H:%M %Z} ({zone})."


def _first_scheduled(client: SyncPrefectClient, deployment: UUID) -> datetime | None:
    now = datetime.now(UTC)
    runs = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
        flow_run_filter=FlowRunFilter(
            next_scheduled_start_time=FlowRunFilterNextScheduledStartTime(after_=now)
        ),
        sort=FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC,
    )
    return next((run.next_scheduled_start_time for run in runs if run.auto_scheduled), None)


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
            schedules=[DeploymentScheduleCreate(schedule=schedule, slug=SLUG)]
            if flow is score_cohort and schedule is not None
            else None,
        )
        for kind in ([only] if only else Kind)
        for flow in FLOWS[kind]
    ]


if __name__ == "__main__":
    typer.run(main)

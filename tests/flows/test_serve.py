"""What one machine serves."""

import pytest
import typer

pytest.importorskip("prefect")

from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner

from flows.serve import Kind, deployments, main

NAMES = {
    Kind.SCORING: {"score-slide", "score-cohort"},
    Kind.TRAINING: {"train-seg", "train-reg", "train-and-promote"},
}


@pytest.mark.parametrize("only", [None, *Kind])
def test_flows_are_served_under_their_names(only: Kind | None) -> None:
    wanted = set().union(*NAMES.values()) if only is None else NAMES[only]
    served = [f"{each.flow_name}/{each.name}" for each in deployments(only)]
    assert sorted(served) == sorted(f"{name}/{name}" for name in wanted)


def test_the_night_has_its_schedule_and_parameters_and_no_other_flow_has() -> None:
    schedule = CronSchedule(cron="0 1 * * *", timezone="Europe/Berlin")
    nights = {"inbox": "s3://slides", "out": "/results", "bundle": None}
    for deployment in deployments(nights=nights, schedule=schedule):
        if deployment.name == "score-cohort":
            assert deployment.parameters == {"inbox": "s3://slides", "out": "/results"}
            assert [each.schedule for each in deployment.schedules or []] == [schedule]
        else:
            assert not deployment.parameters
            assert not deployment.schedules


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--cron", "0 1 * * *"], 2, "needs --inbox and --out"),
        (["--cron", "one o'clock", "--inbox", "i", "--out", "o"], 2, "cron"),
        (["--cron", "0 1 * * *", "--time-zone", "Mars/Olympus", "--inbox", "i", "--out", "o"], 2,
         "Mars/Olympus"),
        ([], 1, "no Prefect server answers at http://127.0.0.1:9/api"),
    ],
)  # fmt: skip
def test_what_could_not_begin_is_refused_at_once(options: list[str], code: int, said: str) -> None:
    app = typer.Typer()
    app.command()(main)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        done = CliRunner(env={"COLUMNS": "200"}).invoke(app, options)
    assert done.exit_code == code
    assert said in done.output

"""What one machine serves."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement

pytest.importorskip("prefect")

from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner

from flows import serve
from flows.serve import Kind, deployments, main
from tests.helpers.prefect_site import Site

ROOT = Path(__file__).parents[2]

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
        (["--cron", "0 1 * * *", "--inbox", "i", "--out", "o", "--only", "training"], 2,
         "scoring to be served"),
        (["--cron", "one o'clock", "--inbox", "i", "--out", "o"], 2, "cron"),
        (["--cron", "0 1 * * *", "--time-zone", "Mars/Olympus", "--inbox", "i", "--out", "o"], 2,
         "Mars/Olympus"),
        ([], 1, "no Prefect server answers at http://127.0.0.1:9/api"),
    ],
)  # fmt: skip
def test_what_could_not_begin_is_refused_at_once(
    options: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "ANSWERS_WITHIN_S", 0.0)
    assert said in _serve("http://127.0.0.1:9/api", options, code)


def test_a_server_that_schedules_nothing_is_told_of_loudly(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without its scheduler, it would take a schedule, and no night would come."""
    site = make_site(PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED="false")
    site.start_server()
    monkeypatch.setattr(serve, "SCHEDULES_WITHIN_S", 2.0)
    monkeypatch.chdir(tmp_path)
    nights = ["--cron", "* * * * *", "--inbox", "in", "--out", "out"]

    said = _serve(site.env["PREFECT_API_URL"], nights, 1)

    (line,) = (line for line in said.splitlines() if line.startswith("error:"))
    for cause_or_remedy in ("scheduled no night", "scheduler is switched off", "constraints.txt"):
        assert cause_or_remedy in line
    deployment = site.api.get("/deployments/name/score-cohort/score-cohort").json()
    # Relative paths are those of the shell that they were typed into.
    assert deployment["parameters"] == {"inbox": f"{tmp_path}/in", "out": f"{tmp_path}/out"}
    (schedule,) = deployment["schedules"]
    path = f"/deployments/{deployment['id']}/schedules/{schedule['id']}"
    site.api.patch(path, json={"active": False}).raise_for_status()
    # Who has paused the nights knows it, and other runs are served.
    monkeypatch.setattr(serve.Runner, "start", _nothing)
    assert "The nights are PAUSED" in _serve(site.env["PREFECT_API_URL"], nights, 0)


def test_sqlalchemy_stays_below_the_version_that_stops_the_scheduler() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (bound,) = (
        needed.specifier
        for needed in map(Requirement, project["optional-dependencies"]["flows"])
        if needed.name == "sqlalchemy"
    )
    assert not bound.contains("2.1.0")
    assert not bound.contains("2.1.0b1", prereleases=True)
    pinned = re.search(r"(?im)^sqlalchemy==(.+)$", (ROOT / "constraints.txt").read_text())
    assert pinned
    assert bound.contains(pinned[1])


async def _nothing(_: object) -> None:
    pass


def _serve(url: str, options: list[str], code: int) -> str:
    """Run `flows.serve` in this process; return what it said."""
    app = typer.Typer()
    app.command()(main)
    with temporary_settings({PREFECT_API_URL: url}):
        done = CliRunner(env={"COLUMNS": "200"}).invoke(app, options)
    assert done.exit_code == code, done.output
    return done.output

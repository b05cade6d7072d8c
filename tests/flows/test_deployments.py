"""The deployments of `prefect.yaml`: real servers, a real worker of a process pool, real deaths."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("prefect")

from tests.helpers.prefect_site import Daemon, Site, wait_until
from training.synthetic import Patch

ROOT = Path(__file__).parents[2]
NIGHT = "score-cohort/score-cohort"
SCORING = {"score-slide", "score-cohort"}
TRAINING = {"train-seg", "train-reg", "train-and-promote"}

POOL = ("work-pool", "create", "wsi", "--type", "process", "--overwrite")

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.fixture
def deploy(tmp_path: Path) -> Callable[..., None]:
    """Deploy as docs/nightly.md says, to the folders work, inbox and results of the test."""

    def do(site: Site, *options: str | Path) -> None:
        for folder in ("work", "inbox"):
            (tmp_path / folder).mkdir()
        site.env |= {
            "WSI_WORK": str(tmp_path / "work"),
            "WSI_INBOX": str(tmp_path / "inbox"),
            "WSI_OUT": str(tmp_path / "results"),
            "WSI_TIME_ZONE": "Europe/Berlin",
        }
        site.prefect(*POOL)
        site.prefect("deploy", "--all", *options, folder=ROOT)

    return do


def test_all_is_deployed_and_nothing_without_its_folders(
    make_site: Callable[..., Site], deploy: Callable[..., None], tmp_path: Path
) -> None:
    site = make_site()
    site.start_server()
    site.prefect(*POOL)
    with pytest.raises(AssertionError, match=r"WSI_WORK:\s+is\s+not\s+set"):
        site.prefect("deploy", "--all", folder=ROOT)
    deploy(site)

    deployments = _deployments(site)

    assert set(deployments) == SCORING | TRAINING
    for name, deployment in deployments.items():
        assert deployment["pull_steps"] == []
        assert deployment["job_variables"] == {"working_dir": str(tmp_path / "work")}
        assert deployment["work_queue_name"] == ("scoring" if name in SCORING else "training")
        assert bool(deployment["schedules"]) == (name == "score-cohort")
    night = deployments["score-cohort"]
    assert night["parameters"] == {
        "inbox": str(tmp_path / "inbox"),
        "out": str(tmp_path / "results"),
    }
    (schedule,) = night["schedules"]
    assert schedule["schedule"]["cron"] == "0 1 * * *"
    assert schedule["schedule"]["timezone"] == "Europe/Berlin"
    assert night["global_concurrency_limit"]["limit"] == 1
    assert night["concurrency_options"]["collision_strategy"] == "ENQUEUE"

    site.prefect("deploy", "--all", folder=ROOT)  # as in an upgrade
    again = _deployments(site)
    assert {each["id"] for each in again.values()} == {each["id"] for each in deployments.values()}
    assert len(again["score-cohort"]["schedules"]) == 1


@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_a_worker_scores_slides_on_demand_and_every_night(
    database: str,
    make_site: Callable[..., Site],
    deploy: Callable[..., None],
    request: pytest.FixtureRequest,
    tiny_bundle: Path,
    config: Path,
    section: Patch,
    make_slide: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """With the server killed and started again once the run is known."""
    settings = request.getfixturevalue("postgres") if database == "PostgreSQL" else {}
    site = make_site(**settings)
    server = site.start_server()
    deploy(site, "--prefect-file", _every_minute(tmp_path, bundle=tiny_bundle, config=config))
    make_slide(section.rgb[::-1].copy(), downsamples=(4,), name="inbox/by night.tif")
    slide = make_slide(section.rgb, downsamples=(4,), name="case 07.tif")
    run_id = site.ask_for_run(
        "score-slide/score-slide", slide=slide, out="scores", bundle=tiny_bundle, config=config
    )
    server.kill()
    site.start_server()
    _scoring(site)

    state = site.end(run_id)

    assert (state["type"], state["name"]) == ("COMPLETED", "Completed"), state
    # Relative paths are seen from the working folder that was deployed.
    summary = tmp_path / "work" / "scores" / "case 07" / "summary.json"
    assert json.loads(summary.read_text())["status"] == "scored"

    # The server's own scheduler makes nights; it is as busy on a new server as on an old one.
    begun = {"COMPLETED", "FAILED", "CRASHED", "RUNNING"}
    night = wait_until(
        lambda: [each for each in site.runs_of(NIGHT) if each["state_type"] in begun],
        "a night begins",
        server.log,
    )[0]
    assert night["auto_scheduled"]
    state = site.end(night["id"])
    assert (state["type"], state["name"]) == ("COMPLETED", "Completed"), state
    summary = tmp_path / "results" / "by night" / "summary.json"
    assert json.loads(summary.read_text())["status"] == "scored"
    in_folder = (site.home / "prefect.db").exists()
    assert in_folder == (database == "SQLite")


def test_a_night_that_died_with_its_machine_does_not_hold_up_the_next(
    make_site: Callable[..., Site],
    deploy: Callable[..., None],
    tiny_bundle: Path,
    config: Path,
    section: Patch,
    make_slide: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Machine and server lose their power together, with the settings of deploy/systemd."""
    lease_storage = "prefect.server.concurrency.lease_storage.filesystem"
    site = make_site(
        PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=lease_storage,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30",
    )
    server = site.start_server()
    deploy(site)
    _automate(site, tmp_path, name="wsi: a run is dead", within=75)
    parameters = {"bundle": tiny_bundle, "config": config}
    make_slide(section.rgb, downsamples=(4,), name="inbox/one.tif")

    worker = _scoring(site)
    dead = site.ask_for_run(NIGHT, **parameters)
    site.until(dead, "RUNNING")
    wait_until(lambda: _heartbeats(site, dead), "there is a heartbeat", worker.log)
    assert site.state(dead)["type"] == "RUNNING"
    worker.kill()
    server.kill()
    site.start_server()
    _scoring(site)
    next_night = site.ask_for_run(NIGHT, **parameters)
    site.until(next_night, "AwaitingConcurrencySlot")
    assert site.state(dead)["type"] == "RUNNING", "nobody has told the server"

    state = site.end(next_night, deadline_s=300)

    assert (state["type"], state["name"]) == ("COMPLETED", "Completed"), state
    assert site.state(dead)["type"] == "CRASHED"
    assert "No heartbeat" in site.state(dead)["message"]


def _scoring(site: Site) -> Daemon:
    return site.start_worker("wsi", "--work-queue", "scoring", "--limit", "1")


def _every_minute(folder: Path, **parameters: Path) -> Path:
    """Write a copy of prefect.yaml with a night in every minute, and parameters of it."""
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    (night,) = (each for each in content["deployments"] if each["name"] == "score-cohort")
    night["schedules"][0]["cron"] = "* * * * *"
    night["parameters"] |= {name: str(value) for name, value in parameters.items()}
    copy = folder / "prefect.yaml"
    copy.write_text(yaml.safe_dump(content))
    return copy


def _deployments(site: Site) -> dict[str, dict[str, Any]]:
    found = site.api.post("/deployments/filter", json={}).raise_for_status().json()
    return {deployment["name"]: deployment for deployment in found}


def _automate(site: Site, folder: Path, *, name: str, within: int) -> None:
    """Create one of the automations, quicker than it comes, and without its notice."""
    content = yaml.safe_load((ROOT / "deploy" / "automations.yaml").read_text())
    (automation,) = (each for each in content["automations"] if each["name"] == name)
    automation["trigger"]["within"] = within
    automation["actions"] = automation["actions"][:1]
    file = folder / "automation.yaml"
    file.write_text(yaml.safe_dump(automation))
    site.prefect("automation", "create", "--from-file", file)


def _heartbeats(site: Site, run_id: str) -> int:
    asked = {
        "filter": {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run_id}"]},
        }
    }
    return int(site.api.post("/events/filter", json=asked).raise_for_status().json()["total"])

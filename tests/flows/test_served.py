"""What `flows.serve` serves, run by a real Prefect server, runner and Prefect's own command.

The schedule is that of every minute, which the tests before the last one use.
"""

import base64
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from tests.helpers.made import config_of_tiny, write_slide
from tests.helpers.prefect_site import Daemon, Site, wait_until
from training.synthetic import Patch

pytest.importorskip("prefect")

DEPLOYMENT = "score-slide/score-slide"
NIGHT = "score-cohort/score-cohort"


@dataclass(frozen=True)
class Nights:
    """Where the nights take slides from and what they write to, and who serves them."""

    inbox: Path
    out: Path
    serving: Daemon


@pytest.fixture(scope="module")
def nights(
    site: Site, tiny_bundle: Path, section: Patch, tmp_path_factory: pytest.TempPathFactory
) -> Nights:
    """`flows.serve` on the site, with a slide in the inbox of its nights."""
    folder = tmp_path_factory.mktemp("nights")
    (folder / "inbox").mkdir()
    write_slide(folder / "inbox" / "by night.tif", section.rgb, downsamples=(4,))
    write_slide(folder / "inbox" / "glass.tif", np.full((1200, 1600, 3), 243, np.uint8))
    config = folder / "score.yaml"
    at_once = {"inbox": {"quiet_s": 0, "look_again_s": 0}}
    config.write_text(yaml.safe_dump(config_of_tiny().model_dump(mode="json") | at_once))
    serving = site.serve(
        "--cron", "* * * * *", "--time-zone", "Asia/Kolkata", "--inbox", str(folder / "inbox"),
        "--out", str(folder / "results"), "--bundle", str(tiny_bundle), "--config", str(config),
        "--results-url", "https://results.example/wsi/",
    )  # fmt: skip
    return Nights(folder / "inbox", folder / "results", serving)


@pytest.fixture(scope="module")
def served(site: Site, nights: Nights) -> Site:
    """The site on which the nights are served."""
    return site


def test_a_slide_is_scored_and_shown(
    served: Site,
    tiny_bundle: Path,
    config: Path,
    section: Patch,
    make_slide: Callable[..., Path],
    tmp_path: Path,
) -> None:
    slide = make_slide(section.rgb, downsamples=(4,), name="Case_07 HE.tif")
    out = tmp_path / "results"

    run_id = served.ask_for_run(DEPLOYMENT, slide=slide, out=out, bundle=tiny_bundle, config=config)
    state = served.end(run_id)

    log = served.log_of(run_id)
    assert (state["type"], state["name"]) == ("COMPLETED", "Completed"), (state, log)
    folder = out / "Case_07 HE"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "scored"
    assert summary["tiles"]["scored"] >= 50
    mean = f"{100 * summary['cellularity']['mean']:.1f} %"
    assert mean in state["message"]
    with Image.open(folder / "overlay.png") as overlay:
        shape = overlay.width / overlay.height

    digest = "[0-9a-f]{8}"
    artifacts = served.artifacts(run_id)
    assert set(artifacts) == {"markdown", "image", "progress"}
    assert artifacts["progress"]["data"] == 100
    assert re.fullmatch(f"progress-case-07-he-{digest}", artifacts["progress"]["key"])
    assert re.fullmatch(f"overlay-case-07-he-{digest}", artifacts["image"]["key"])
    kind, encoded = artifacts["image"]["data"].split(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as shown:
        assert shown.format == "JPEG"
        assert shown.width / shown.height == pytest.approx(shape, rel=0.01)
    page = artifacts["markdown"]["data"]
    assert f"| Mean cellularity of all tissue | {mean} |" in page
    assert "tumour bed" in page
    for needed in (
        f"{summary['tissue_area_mm2']:.2f} mm²",
        summary["provenance"]["slide"]["digest"],
        summary["provenance"]["bundle"]["digest"],
        summary["provenance"]["config_digest"],
        "| overlay.tif |",
    ):
        assert needed in page
    for threshold, fraction in summary["cellularity"]["area_fraction_at_least"].items():
        line = f"| Area at or above {float(threshold):.0%} | {100 * fraction:.1f} % |"
        assert line.replace("%", " %", 1) in page

    assert "Scoring Case_07 HE with tiny" in log
    assert re.search(r"\d+ of \d+ tiles hold tissue", log)
    assert "tiles/s" in log


def test_what_is_no_slide_fails_with_file_cause_and_remedy(
    served: Site,
    tiny_bundle: Path,
    config: Path,
    tmp_path: Path,
) -> None:
    slide = tmp_path / "minutes.svs"
    slide.write_text("Minutes of the meeting\n" * 1000)

    run_id = served.ask_for_run(
        DEPLOYMENT, slide=slide, out=tmp_path / "results", bundle=tiny_bundle, config=config
    )
    state = served.end(run_id)

    assert (state["type"], state["name"]) == ("FAILED", "Failed")
    message = state["message"]
    assert message.startswith(str(slide))
    assert "not a slide" in message
    assert re.search(r"\. (Copy|Export|Give|Convert|Check) ", message), "there is no remedy"
    assert len(message.splitlines()) == 1
    log = served.log_of(run_id)
    assert f"Finished in state Failed({message!r})" in log
    assert "Traceback" not in log


def test_a_slide_without_tissue_is_refused(
    served: Site,
    tiny_bundle: Path,
    config: Path,
    make_slide: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Called from Python, in this process: quicker, and the other way to run it."""
    from prefect.events.worker import EventsWorker
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    from flows.score_slide import score_slide

    slide = make_slide(np.full((1200, 1600, 3), 243, np.uint8), name="glass.tif")
    ours = {
        PREFECT_API_URL: served.env["PREFECT_API_URL"],
        PREFECT_HOME: Path(served.env["PREFECT_HOME"]),
    }
    with temporary_settings(ours):
        state = score_slide(
            str(slide), tmp_path / "results", str(tiny_bundle), config=config, return_state=True
        )
        # Else what flows of later tests emit goes to this server, which is gone by then.
        EventsWorker.drain_all()

    run_id = str(state.state_details.flow_run_id)
    known = served.end(run_id)
    assert (known["type"], known["name"]) == ("COMPLETED", "Refused"), known
    summary = json.loads((tmp_path / "results" / "glass" / "summary.json").read_text())
    assert known["message"] == summary["reason"]
    artifacts = served.artifacts(run_id)
    assert artifacts["image"]["key"] == "tissue-glass"
    page = artifacts["markdown"]["data"].replace("\\", "")
    assert f"Not scored. {summary['reason']}" in page


def listening(root: psutil.Process) -> set[str]:
    """Addresses at which a process or a descendant accepts connections, UDP too."""
    return {
        f"{connection.laddr.ip}:{connection.laddr.port}"
        for process in (root, *root.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status in {psutil.CONN_LISTEN, psutil.CONN_NONE} and connection.laddr
    }


def test_what_runs_listens_on_loopback_alone(served: Site) -> None:
    at = {}
    for process in psutil.Process().children(recursive=True):
        command = " ".join(process.cmdline())
        if "prefect server start" in command or "flows.serve" in command:
            at.setdefault("flows.serve" if "flows.serve" in command else "server", process)
    port = served.env["PREFECT_SERVER_API_PORT"]
    assert listening(at["server"]) == {f"127.0.0.1:{port}"}
    # Prefect's runner has a channel to its runs, which ask for entry with a token.
    assert {address.rpartition(":")[0] for address in listening(at["flows.serve"])} <= {"127.0.0.1"}


def test_the_schedule_fires_and_the_slide_is_scored(served: Site, nights: Nights) -> None:
    """By the server's own scheduler: nobody has asked for this run."""
    said = nights.serving.log.read_text()
    announced = re.search(
        r"The next night begins on \w+day, (\S+ at \S+) IST \(Asia/Kolkata\)", said
    )
    assert announced, said

    def begun() -> dict[str, Any] | None:
        known = served.runs_of(NIGHT)
        return known[0] if known and known[0]["state_type"] != "SCHEDULED" else None

    run_id = wait_until(begun, "the night begins", nights.serving.log)["id"]
    state = served.end(run_id)
    run = served.api.get(f"/flow_runs/{run_id}").raise_for_status().json()
    deployment = served.api.get(f"/deployments/name/{NIGHT}").raise_for_status().json()
    served.api.post(f"/deployments/{deployment['id']}/pause_deployment").raise_for_status()

    assert (state["type"], state["name"]) == ("COMPLETED", "Completed"), state
    assert run["auto_scheduled"]
    assert run["created_by"]["type"] == "SCHEDULE"
    due = datetime.fromisoformat(run["expected_start_time"])
    started = datetime.fromisoformat(run["start_time"])
    assert (due.second, due.microsecond) == (0, 0)
    local = due.astimezone(ZoneInfo("Asia/Kolkata"))
    assert started > due - timedelta(seconds=15)
    assert announced[1] == f"{local:%Y-%m-%d at %H:%M}"
    summary = json.loads((nights.out / "by night" / "summary.json").read_text())
    assert summary["status"] == "scored"

    assert run["name"] == f"night {started.astimezone():%Y-%m-%d}: 1 scored, 1 refused"
    # A refusal is no failure, in colour or in words.
    asked = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    ends = {("by night.tif", "COMPLETED", "Scored"), ("glass.tif", "COMPLETED", "Refused")}
    wait_until(
        lambda: {
            (each["name"], each["state_type"], each["state_name"])
            for each in served.api.post("/task_runs/filter", json=asked).json()
        } == ends,
        "the slides are shown as they ended",
    )  # fmt: skip
    log = served.log_of(run["id"])
    assert "NoneType" not in log
    assert "Traceback" not in log
    page = served.artifacts(run["id"])["markdown"]["data"]
    mean = f"{100 * summary['cellularity']['mean']:.1f} %"
    (row,) = (line for line in page.splitlines() if "[by night\\.tif]" in line)
    assert row.startswith("| ![](data:image/jpeg;base64,")
    assert f"(https://results.example/wsi/by%20night/) | scored | {mean}" in row
    report = min(nights.out.glob("nights/*/index.html"))  # another night may have begun meanwhile
    assert f"(https://results.example/wsi/nights/{report.parent.name}/index.html)" in page

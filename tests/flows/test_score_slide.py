"""The deployment, run by a real Prefect server, a real runner and Prefect's own command."""

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from training.synthetic import Patch
from wsi_pipeline.config import ScoreConfig

pytest.importorskip("prefect")

DEADLINE_S = 120.0
"""For one thing to happen on a busy machine; each takes a few seconds on an idle one."""

DEPLOYMENT = "/deployments/name/score-slide/score-slide"


@pytest.fixture(scope="module")
def prefect_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose Prefect keeps to a folder of the test, a free port and this machine."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    inherited = {name: value for name, value in os.environ.items() if "PREFECT" not in name}
    return inherited | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home}/prefect.db",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",
        "PREFECT_CLI_COLORS": "false",
        "NO_PROXY": "127.0.0.1",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def api(prefect_env: dict[str, str]) -> Iterator[httpx.Client]:
    """The plain HTTP interface of a server on which the deployment is served."""
    home = Path(prefect_env["PREFECT_HOME"])
    with (
        _process(["prefect", "server", "start"], prefect_env, home / "server.log") as server,
        httpx.Client(base_url=prefect_env["PREFECT_API_URL"], trust_env=False) as client,
    ):

        def answers() -> bool:
            assert server.poll() is None, (home / "server.log").read_text()
            try:
                return client.get("/health").is_success
            except httpx.TransportError:
                return False

        _wait_until(answers, "the server answers", home / "server.log")
        with _process(["flows.serve"], prefect_env, home / "serve.log") as serving:

            def is_served() -> bool:
                assert serving.poll() is None, (home / "serve.log").read_text()
                return client.get(DEPLOYMENT).is_success

            _wait_until(is_served, "the deployment is there", home / "serve.log")
            yield client


@pytest.fixture
def config(tiny_config: ScoreConfig, tmp_path: Path) -> Path:
    """The file of a configuration that fits the tiny model."""
    path = tmp_path / "score.yaml"
    path.write_text(yaml.safe_dump(tiny_config.model_dump(mode="json")))
    return path


def test_a_slide_is_scored_and_shown(
    api: httpx.Client,
    prefect_env: dict[str, str],
    tiny_bundle: Path,
    config: Path,
    section: Patch,
    make_slide: Callable[..., Path],
    tmp_path: Path,
) -> None:
    slide = make_slide(section.rgb, downsamples=(4,), name="Case_07 HE.tif")
    out = tmp_path / "results"

    run_id = _ask_for_run(prefect_env, slide=slide, out=out, bundle=tiny_bundle, config=config)
    state = _end(api, prefect_env, run_id)

    log = _log(api, run_id)
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
    artifacts = _artifacts(api, run_id)
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
        f"[overlay.tif]({(folder / 'overlay.tif').as_uri()})",
    ):
        assert needed in page
    for threshold, fraction in summary["cellularity"]["area_fraction_at_least"].items():
        line = f"| Area at or above {float(threshold):.0%} | {100 * fraction:.1f} % |"
        assert line.replace("%", " %", 1) in page

    assert "Scoring Case_07 HE with tiny" in log
    assert re.search(r"\d+ of \d+ tiles hold tissue", log)
    assert "tiles/s" in log


def test_what_is_no_slide_fails_with_file_cause_and_remedy(
    api: httpx.Client,
    prefect_env: dict[str, str],
    tiny_bundle: Path,
    config: Path,
    tmp_path: Path,
) -> None:
    slide = tmp_path / "minutes.svs"
    slide.write_text("Minutes of the meeting\n" * 1000)

    run_id = _ask_for_run(
        prefect_env, slide=slide, out=tmp_path / "results", bundle=tiny_bundle, config=config
    )
    state = _end(api, prefect_env, run_id)

    assert (state["type"], state["name"]) == ("FAILED", "Failed")
    message = state["message"]
    assert message.startswith(str(slide))
    assert "not a slide" in message
    assert re.search(r"\. (Copy|Export|Give|Convert|Check) ", message), "there is no remedy"
    assert len(message.splitlines()) == 1
    assert f"Finished in state Failed({message!r})" in _log(api, run_id)


def test_a_slide_without_tissue_is_refused(
    api: httpx.Client,
    prefect_env: dict[str, str],
    tiny_bundle: Path,
    config: Path,
    make_slide: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Called from Python, in this process: quicker, and the other way to run it."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    from flows.score_slide import score_slide

    slide = make_slide(np.full((1200, 1600, 3), 243, np.uint8), name="glass.tif")
    ours = {
        PREFECT_API_URL: prefect_env["PREFECT_API_URL"],
        PREFECT_HOME: Path(prefect_env["PREFECT_HOME"]),
    }
    with temporary_settings(ours):
        state = score_slide(
            str(slide), tmp_path / "results", str(tiny_bundle), config=config, return_state=True
        )

    run_id = str(state.state_details.flow_run_id)
    known = _end(api, prefect_env, run_id)
    assert (known["type"], known["name"]) == ("FAILED", "Refused"), known
    summary = json.loads((tmp_path / "results" / "glass" / "summary.json").read_text())
    assert known["message"] == summary["reason"]
    artifacts = _artifacts(api, run_id)
    assert artifacts["image"]["key"] == "tissue-glass"
    assert f"Not scored. {summary['reason']}" in artifacts["markdown"]["data"]


def _ask_for_run(env: dict[str, str], **parameters: Path) -> str:
    """Ask for a run as the README says; return its id."""
    command = [sys.executable, "-m", "prefect", "deployment", "run", "score-slide/score-slide"]
    for name, value in parameters.items():
        command += ["-p", f"{name}={value}"]
    asked = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert asked.returncode == 0, asked.stdout + asked.stderr
    found = re.search(r"UUID: ([0-9a-f-]{36})", asked.stdout)
    assert found, asked.stdout
    return found[1]


def _end(api: httpx.Client, env: dict[str, str], run_id: str) -> dict[str, Any]:
    """Return the state in which a run ends."""

    def final() -> dict[str, Any] | None:
        state: dict[str, Any] = api.get(f"/flow_runs/{run_id}").raise_for_status().json()["state"]
        return state if state["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} else None

    return _wait_until(final, "the run ends", Path(env["PREFECT_HOME"]) / "serve.log")


def _artifacts(api: httpx.Client, run_id: str) -> dict[str, dict[str, Any]]:
    """Return a run's artifacts by their type."""
    asked = {"artifacts": {"flow_run_id": {"any_": [run_id]}}}
    found = api.post("/artifacts/filter", json=asked).raise_for_status().json()
    by_type = {artifact["type"]: artifact for artifact in found}
    assert len(by_type) == len(found)
    return by_type


def _log(api: httpx.Client, run_id: str) -> str:
    """Return a run's log, once its last line is there."""
    asked = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC"}

    def whole() -> str | None:
        lines = api.post("/logs/filter", json=asked).raise_for_status().json()
        text = "\n".join(line["message"] for line in lines)
        return text if "Finished in state" in text else None

    return _wait_until(whole, "the log is complete")


def _wait_until(happens: Callable[[], Any], what: str, log: Path | None = None) -> Any:
    """Ask again and again until the answer is true, and return it."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if answer := happens():
            return answer
        time.sleep(0.1)
    pytest.fail(f"waited {DEADLINE_S:.0f} s until {what}\n{log.read_text() if log else ''}")


@contextmanager
def _process(
    module: list[str], env: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module in a process group of its own; end it and all its descendants."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            env=env,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        descendants: list[psutil.Process] = []
        try:
            yield process
        finally:
            if process.poll() is None:
                descendants = psutil.Process(process.pid).children(recursive=True)
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(10)
            for left in psutil.wait_procs(descendants, timeout=2)[1]:
                left.kill()

"""The README's shell blocks as they stand, in a shell in which nothing is set."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from filelock import FileLock

pytest.importorskip("prefect")

from tests.helpers.made import write_slide
from tests.helpers.prefect_site import DEADLINE_S, wait_until
from training.synthetic import generate_region
from wsi_pipeline.model.bundle import DEMO_BUNDLE

ROOT = Path(__file__).parents[2]
API = "http://127.0.0.1:4200/api"

BLOCKS = re.findall(
    r"^```sh *(.*)\n((?:.*\n)+?)```$", (ROOT / "README.md").read_text(), re.MULTILINE
)

NOT_RUN = {
    "make demo": "installs=PyPI",
    "python -m training.data check": "data=BreastPathQ",
    "python -m training.evaluate": "data=BreastPathQ",
    "printf 'data: {kind: breastpathq": "data=BreastPathQ",
    "python -m training.seg": "takes=hours",
    "nice -n 19 python -m training.seg": "takes=hours",
}
"""What a block that cannot run here begins with, and how the README marks it."""


SERVICE = ("prefect server start", "prefect deployment run score-slide")


def block(begin: str) -> str:
    """The one block that runs and has a line with this beginning."""
    (found,) = (
        text for mark, text in BLOCKS if not mark and re.search(f"^{begin}", text, re.MULTILINE)
    )
    return str(found)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README calls a slide, an inbox and so on; also the user's home."""
    folder = tmp_path_factory.mktemp("readme")
    for number, name in enumerate(("slide.svs", "more.tiff", "folder/a.tif", "inbox/b.tif")):
        (folder / name).parent.mkdir(exist_ok=True)
        write_slide(folder / name, generate_region(number, 1024).rgb, downsamples=(4,))
    shutil.copytree(DEMO_BUNDLE, folder / "my-model")
    return folder


def started(text: str, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Begin a block in a shell of its own."""
    programs = Path(sys.executable).parent
    with log.open("wb") as file:
        return subprocess.Popen(
            ["/bin/bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            # What `source .venv/bin/activate` does, and nothing else.
            env={"HOME": str(folder), "PATH": f"{programs}:{os.defpath}", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run(text: str, folder: Path) -> str:
    """Run a block to its end; return what it said."""
    log = folder / "block.log"
    assert started(text, folder, log).wait(2 * DEADLINE_S) == 0, log.read_text()
    return log.read_text()


def test_every_block_runs_here_or_says_why_not() -> None:
    marked = {text: mark for mark, text in BLOCKS if mark}
    assert len(marked) == len(NOT_RUN)
    for begin, why in NOT_RUN.items():
        assert [mark for text, mark in marked.items() if text.startswith(begin)] == [why]
    run_here = [block(each) for each in ("wsi inspect", "wsi cohort inbox/ .*hand", *SERVICE)]
    assert len(set(run_here)) == len(BLOCKS) - len(marked)


def test_slides_are_scored(shell: Path) -> None:
    said = run(block("wsi inspect"), shell)
    assert "1024" in said
    for name in ("slide", "more", "a"):
        assert (shell / "results" / name / "summary.json").exists(), said


@pytest.fixture
def port_4200() -> Iterator[None]:
    """The README's own port, for one test at a time."""
    with FileLock(Path(tempfile.gettempdir()) / "wsi-tests-port-4200.lock", timeout=DEADLINE_S):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", 4200))
            except OSError:
                pytest.skip("something else listens on port 4200, which the README uses")
        yield


def test_the_service_says_when_the_night_is_and_scores_what_is_asked_for(
    shell: Path, port_4200: None
) -> None:
    begin, ask = map(block, SERVICE)
    log = shell / "service.log"
    service = started(begin, shell, log)

    def announced() -> bool:
        assert service.poll() is None, log.read_text()
        return "The next night begins on" in log.read_text()

    try:
        wait_until(announced, "the next night is known", log, shell / "prefect-server.log")
        run(ask, shell)
        with httpx.Client(base_url=API, trust_env=False) as api:
            (asked,) = (
                each for each in api.post("/flow_runs/filter", json={}).json()
                if each["state_type"] != "SCHEDULED"
            )  # fmt: skip
            settings = api.get("/admin/settings").raise_for_status().json()
    finally:
        members = psutil.Process(service.pid).children(recursive=True)
        os.killpg(service.pid, signal.SIGTERM)
        for left in psutil.wait_procs(members, timeout=20)[1]:
            left.kill()
        service.wait(10)
    assert asked["state_name"] == "Completed"
    assert settings["server"]["analytics_enabled"] is False
    assert " 01:00 CE" in log.read_text()


def test_a_night_by_hand_takes_what_has_come_to_rest(shell: Path) -> None:
    """Last, since that takes a minute."""
    time.sleep(max(0.0, (shell / "inbox" / "b.tif").stat().st_ctime + 61 - time.time()))
    said = run(block("wsi cohort inbox/ .*hand"), shell)
    assert (shell / "results" / "b" / "summary.json").exists(), said

"""The blocks of code in all pages as they stand, in a shell in which nothing is set."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest
import shapely
from filelock import FileLock

pytest.importorskip("prefect")

from tests.helpers.made import write_slide
from tests.helpers.pages import PAGES, ROOT
from tests.helpers.prefect_site import DEADLINE_S, wait_until
from training.synthetic import generate_region
from wsi_pipeline.bed.outline import Bed, write_bed
from wsi_pipeline.geometry import Size
from wsi_pipeline.model.bundle import BUNDLED_MODEL

API = "http://127.0.0.1:4200/api"


class Block(NamedTuple):
    """A block of code that claims to run."""

    page: str
    language: str
    mark: str
    """Why it cannot run here; empty where it can."""
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0]}"


BLOCKS = [
    Block(str(page.relative_to(ROOT)), *found)
    for page in PAGES
    for found in re.findall(
        r"^```(sh|python)\b *(.*)\n((?:.*\n)+?)```$", page.read_text("utf-8"), re.MULTILINE
    )
]

NOT_RUN = {
    ("README.md", "installs=PyPI"): 1,
    ("README.md", "data=BreastPathQ"): 1,
    ("CONTRIBUTING.md", "installs=PyPI"): 2,
    ("docs/bad-slides.md", "takes=minutes"): 2,
    ("docs/benchmark.md", "takes=minutes"): 1,
    ("docs/nightly.md", "needs=root"): 12,
    ("docs/nightly.md", "needs=Slack"): 1,
    ("docs/other-programs.md", "needs=PACS"): 1,
    ("docs/results.md", "takes=minutes"): 1,
    ("docs/scaling.md", "needs=cluster"): 1,
    ("docs/scoring.md", "needs=hub"): 1,
    ("docs/security.md", "needs=PyPI"): 1,
    ("docs/training.md", "data=BreastPathQ"): 3,
    ("docs/training.md", "takes=hours"): 2,
}
"""How many blocks of a page cannot run here, by the mark that says why."""

SCORE, NIGHT = "wsi inspect slide.svs .*source", "wsi cohort inbox/ .*hand"
SERVE, ASK = "prefect server start", "prefect deployment run score-slide"


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages call a slide, an inbox and so on; also the user's home."""
    folder = tmp_path_factory.mktemp("readme")
    for number, name in enumerate(("slide.svs", "more.tiff", "folder/a.tif", "inbox/b.tif")):
        (folder / name).parent.mkdir(exist_ok=True)
        write_slide(folder / name, generate_region(number, 1024).rgb, downsamples=(4,))
    shutil.copytree(BUNDLED_MODEL, folder / "my-model")
    shutil.copy(ROOT / "configs" / "case.yaml", folder)
    bed = shapely.MultiPolygon([shapely.box(100, 100, 800, 900)])
    write_bed(
        folder / "bed.geojson", Bed(bed, "drawn"), slide="slide.svs", l0_size=Size(1024, 1024)
    )
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


def block(begin: str) -> str:
    """Return the one shell block of the README that runs and has a line with this beginning."""
    (found,) = (
        each.text
        for each in BLOCKS
        if each.page == "README.md" and not each.mark
        if re.search(f"^{begin}", each.text, re.MULTILINE)
    )
    return found


OTHERS = [
    each
    for each in BLOCKS
    if not each.mark and each.language == "sh"
    if each.text not in map(block, (SCORE, NIGHT, SERVE, ASK))
]


def test_what_does_not_run_here_says_why() -> None:
    assert Counter((each.page, each.mark) for each in BLOCKS if each.mark) == NOT_RUN


def test_slides_are_scored(shell: Path) -> None:
    said = run(block(SCORE), shell)
    assert "1024" in said
    for name in ("slide", "more", "a"):
        assert (shell / "results" / name / "summary.json").exists(), said


@pytest.mark.parametrize("each", OTHERS, ids=str)
def test_other_shell_blocks(each: Block, shell: Path) -> None:
    """They work with what the README's blocks have made."""
    run(each.text, shell)


PYTHON = [each for each in BLOCKS if not each.mark and each.language == "python"]


@pytest.mark.parametrize("page", sorted({each.page for each in PYTHON}))
def test_python_blocks(page: str, shell: Path) -> None:
    """A page's blocks are one script."""
    script = shell / "page.py"
    script.write_text("\n".join(each.text for each in PYTHON if each.page == page))
    run(f"python {script.name}", shell)


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
    begin, ask = block(SERVE), block(ASK)
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
    said = run(block(NIGHT), shell)
    assert (shell / "results" / "b" / "summary.json").exists(), said

"""Nights over a mixed inbox, by a real Prefect server and worker, each of which can be killed."""

import csv
import logging
import random
import re
import shutil
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import numpy as np
import psutil

from tests.helpers.made import config_of_tiny, write_slide
from tests.helpers.outputs import MIDDLE, assert_same, assert_whole, committed, stage_of
from tests.helpers.prefect_site import FINAL, Daemon, Site, wait_until, with_patience
from tests.helpers.real_slides import SLIDES
from training.synthetic import generate_region
from wsi_pipeline.night.config import CrewConfig, InboxConfig, NightConfig
from wsi_pipeline.night.plan import Cohort
from wsi_pipeline.night.report import NightReport
from wsi_pipeline.night.report_folder import NIGHTS
from wsi_pipeline.night.run import NightRun
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_place import STORE_NAME

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
NIGHT = "score-cohort/score-cohort"
POOL = "wsi"
BUSY = 503

SITE = {
    # As in deploy/systemd: slots outlive the server, and its clients bear with its absence.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    "PREFECT_CLIENT_MAX_RETRIES": "8",
}

REAL = SLIDES / "monusac-a9k0-1.svs"

GOOD = ("large.tif", "real.svs", "small.tif", "upside down.tif")
STAGES: dict[str, Callable[[list[str]], bool]] = {
    "start": lambda stages: set(stages) == {"before the store"},
    "tiling": lambda stages: "half tiled" in stages,
    "scoring": lambda stages: "half scored" in stages,
    "outputs": lambda stages: "outputs" in stages,
    "end": lambda stages: set(stages) == {"finished"},
    "between slides": lambda _stages: True,
}
"""Where a night is, given how far each good slide has come; the first that fits."""

ENDS = {
    **dict.fromkeys(GOOD, ("scored", "")),
    "small_again.tif": ("left", "duplicate"),
    "letter.svs": ("failed", "SlideError"),
    "half.tif": ("failed", "SlideError"),
    "no size.tif": ("refused", "MppError"),
    "glass.tif": ("refused", "TissueError"),
    "arriving.tif": ("left", "copying"),
}
"""What is in the inbox, and how it ends in a night that nothing happens to."""

LATER = {
    "scored": {("scored", ""), ("left", "done")},
    "refused": {("refused", "MppError"), ("refused", "TissueError"), ("left", "done")}
    | {("left", "failed before")},
    "failed": {("failed", "SlideError"), ("left", "failed before")},
}
"""How it may end in the last of several nights, by how it ends in a single one."""

SCORING = "wsi_pipeline.night.worker"
OURS = "PREFECT__FLOW_RUN_ID"

QUIET_S = 4.0

ORPHANS_END_WITHIN_S = 20.0


class Inbox:
    """A mixed inbox, with a slide that somebody copies into it all the while.

    Where real slides are not at hand, a made one stands in for the one among them.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        small, large = generate_region(1, 1024).rgb, generate_region(2, 1024).rgb
        write_slide(folder / "small.tif", small, downsamples=(4,))
        shutil.copy(folder / "small.tif", folder / "small_again.tif")
        write_slide(folder / "upside down.tif", np.ascontiguousarray(small[::-1]))
        write_slide(folder / "large.tif", np.hstack([large, small]), downsamples=(4,))
        if REAL.is_file():
            shutil.copy(REAL, folder / "real.svs")
            (folder / "real.svs").chmod(0o644)
        else:
            write_slide(folder / "real.svs", np.ascontiguousarray(small[:, ::-1]))
        whole = write_slide(folder / "half.tif", large, downsamples=(4,)).read_bytes()
        (folder / "half.tif").write_bytes(whole[: len(whole) // 2])
        write_slide(folder / "no size.tif", small, mpp=None)
        write_slide(folder / "glass.tif", np.full((1024, 1024, 3), 243, np.uint8))
        (folder / "letter.svs").write_text("Dear colleague\n" * 1000)
        self._copied = np.ascontiguousarray(large[:, ::-1])
        time.sleep(QUIET_S)

    def copying(self) -> "Copying":
        """Begin to copy one more slide."""
        source = write_slide(self.folder.parent / "arriving.tif", self._copied)
        return Copying(source, self.folder / "arriving.tif")


class Copying:
    """A copy that takes its time: it goes on until it is told to come to its end."""

    def __init__(self, source: Path, target: Path) -> None:
        self._content = source.read_bytes()
        self._target = target
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._copy, daemon=True)

    def __enter__(self) -> Self:
        self._target.write_bytes(self._content[: len(self._content) // 2])
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._hurry.set()
        self._thread.join()

    def finish(self) -> None:
        """Copy the rest, and leave it alone for as long as the nights want."""
        self.__exit__()
        time.sleep(QUIET_S)

    def _copy(self) -> None:
        with self._target.open("ab", buffering=0) as file:
            for at in range(len(self._content) // 2, len(self._content), 16):
                file.write(self._content[at : at + 16])
                self._hurry.wait(0.2)


def night_config(**engine: object) -> NightConfig:
    """Return a configuration that fits the tiny bundle and a worker that is killed often."""
    config = config_of_tiny()
    return config.model_copy(
        update={
            "engine": config.engine.model_copy(update=engine),
            "inbox": InboxConfig(quiet_s=QUIET_S, look_again_s=0.5),
            "crew": CrewConfig(slides_at_once=2, retries=3, retry_after_s=0),
        }
    )


def a_night(inbox: Path, out: Path, bundle: Path, config: NightConfig) -> NightReport:
    """Score an inbox in one go, without Prefect and undisturbed."""
    with NightRun(Cohort.prepare(str(inbox), out, str(bundle), config)) as night:
        for outcome in night:
            log.info("%s: %s", outcome.name, outcome.status)
    return night.report


class Nights:
    """A site with the deployments of `prefect.yaml`, and all that can be killed there."""

    def __init__(self, site: Site, folder: Path, **parameters: object) -> None:
        self.site = site
        self.inbox, self.out = folder / "inbox", folder / "results"
        self._parameters = parameters
        (folder / "work").mkdir()
        site.env |= SITE | {
            "WSI_WORK": str(folder / "work"),
            "WSI_INBOX": str(self.inbox),
            "WSI_OUT": str(self.out),
            "WSI_TIME_ZONE": "Europe/Berlin",
        }
        self.server = site.start_server()
        site.prefect("work-pool", "create", POOL, "--type", "process")
        site.prefect("deploy", "--all", folder=ROOT)
        self.worker = self.start_worker()
        self._began: dict[str, Daemon] = {}

    def start_worker(self) -> Daemon:
        return self.site.start_worker(POOL, "--work-queue", "scoring", "--limit", "2")

    def ask(self, deployment: str = NIGHT, **parameters: object) -> str:
        """Ask for a run now, as Prefect's UI does; return its id."""
        given = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in (self._parameters | parameters).items()
        }
        known = self.site.api.get(f"/deployments/name/{deployment}").raise_for_status().json()
        asked = {
            "parameters": known["parameters"] | given,
            "state": {"type": "SCHEDULED"},
            "idempotency_key": str(uuid4()),
        }

        def answer() -> dict[str, Any] | None:
            found = self.site.api.post(f"/deployments/{known['id']}/create_flow_run", json=asked)
            # Its database may be busy: SQLite has one writer at a time.
            return None if found.status_code == BUSY else found.raise_for_status().json()

        run: dict[str, Any] = wait_until(answer, "a run is asked for")
        return str(run["id"])

    def processes(self, run_id: str) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """Return the processes of a run: its own, and those that score for it."""
        own, scoring = [], []
        for process in psutil.process_iter():
            try:
                if process.environ().get(OURS) == run_id:
                    (scoring if SCORING in process.cmdline() else own).append(process)
                    self._began.setdefault(run_id, self.worker)
            except psutil.Error:
                continue
        return own, scoring

    def cancel(self, run_id: str) -> None:
        """Cancel a run, as Prefect's UI does."""
        asked = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        self.site.api.post(f"/flow_runs/{run_id}/set_state", json=asked).raise_for_status()

    # --- what can be killed; each says whether it was there ---

    def kill_flow_run(self, run_id: str) -> bool:
        """Kill the run's own process; those that score for it must end by themselves."""
        own, scoring = self.processes(run_id)
        for process in own:
            with_patience(process.kill)
        alive = psutil.wait_procs(scoring, timeout=ORPHANS_END_WITHIN_S)[1]
        assert not alive, f"{alive} outlive the night"
        return bool(own)

    def kill_all_of_the_run(self, run_id: str) -> bool:
        """Kill the run's process and all it has started, at once."""
        own, scoring = self.processes(run_id)
        for process in [*own, *scoring]:
            with_patience(process.kill)
        psutil.wait_procs([*own, *scoring], timeout=10)
        return bool(own)

    def kill_scoring(self, run_id: str, choose: Callable[[list[Any]], Any] = random.choice) -> bool:
        """Kill one process that scores."""
        _, scoring = self.processes(run_id)
        if scoring:
            with_patience(choose(scoring).kill)
        return bool(scoring)

    def kill_worker(self, run_id: str) -> bool:
        """Kill Prefect's worker; the run that it has started lives on."""
        self.processes(run_id)  # whose run it is
        self.worker.kill_alone()
        return True

    def kill_server(self, _run_id: str) -> bool:
        """Kill Prefect's server, with the process that it has started."""
        self.server.kill()
        return True

    def mend(self) -> None:
        """Start again what does not run, as systemd does."""
        if not self.server.runs:
            self.server = self.site.start_server()
        if not self.worker.runs:
            self.worker = self.start_worker()

    def bury(self, run_id: str, killed: datetime) -> str:
        """See to it that a run that was killed counts as ended; return the name of its state.

        It may have told how it ended and been killed before its process was gone.

        Prefect's worker says so of the runs that it has started itself. If that worker is dead too,
        an automation of deploy/automations.yaml does, after a quarter of an hour; here, at once.
        """
        if self._began.get(run_id) is not self.worker:
            state: dict[str, Any] = {"type": "CRASHED", "message": "No heartbeat"}
            asked = {"state": state, "force": True}
            self.site.api.post(f"/flow_runs/{run_id}/set_state", json=asked).raise_for_status()
        state = self.site.end(run_id)
        ended = datetime.fromisoformat(state["timestamp"])
        assert state["type"] == "CRASHED" or ended <= killed, (state, killed)
        return str(state["name"])

    def ended(self, run_id: str) -> bool:
        return self.site.state(run_id)["type"] in FINAL

    # --- what came of it ---

    def folders(self) -> list[Path]:
        """The folders of slides that have any."""
        if not self.out.exists():
            return []
        return sorted(
            path for path in self.out.iterdir() if path.is_dir() and path.name != "nights"
        )

    def committed(self) -> dict[Path, int]:
        return {key: at for each in self.folders() for key, at in committed(each).items()}

    def stage(self) -> str:
        """Say how far the slides have come that are at work."""
        stages = [stage_of(self.out / Path(name).stem)[0] for name in GOOD]
        return next(name for name, found in STAGES.items() if found(stages))

    def tiles_under_way(self) -> int:
        """Tiles of the shards that may be with the model: one of each slide that is at work."""
        count = 0
        for name in GOOD:
            folder = self.out / Path(name).stem
            if stage_of(folder)[0] in MIDDLE:
                count += TileStore(folder / STORE_NAME).shards[0].stop
        return count

    def traces(self) -> set[tuple[Path, int]]:
        """What changes as the work goes on."""
        found = set()
        for folder in self.folders():
            for path in (*folder.iterdir(), *folder.glob(f"{STORE_NAME}/state/c/*")):
                try:
                    found.add((path, path.stat().st_mtime_ns))
                except FileNotFoundError:
                    continue
        return found

    def gave_up(self) -> bool:
        """Whether the last night left a slide to the next, its process having died so often."""
        return any(row["kind"] == "WorkerDied" for row in self.table().values())

    def table(self) -> dict[str, dict[str, str]]:
        """The rows of the last night's table by the slides' names."""
        last = max((self.out / NIGHTS).iterdir(), key=lambda path: path.stat().st_mtime_ns)
        with (last / "slides.csv").open(encoding="utf-8-sig", newline="") as file:
            rows = {row["slide"]: row for row in csv.DictReader(file)}
        assert (last / "index.html").is_file()
        return rows

    def assert_in_order(self, whole: Path, before: dict[Path, int]) -> dict[Path, int]:
        """Check what is there now against an undisturbed night's; return what is committed."""
        for name in GOOD:
            if (self.out / Path(name).stem).exists():
                assert_whole(self.out / Path(name).stem, whole / Path(name).stem)
        now = self.committed()
        # The pixels' folder of a store goes away with the slide's end, committed scores never.
        again = {path for path, at in before.items() if now.get(path, at) != at}
        assert not again, f"written again after they were committed: {sorted(again)}"
        missing = {path for path in before if not path.exists()}
        assert not missing, f"were committed and are gone: {sorted(missing)}"
        return now

    def assert_complete(self, whole: Path) -> None:
        """Check all results and the last night's table against an undisturbed night's."""
        for name in GOOD:
            folder = self.out / Path(name).stem
            assert_same(folder, whole / folder.name)
            assert_counts_add_up(folder)
        left = [path for path in self.out.rglob("*") if path.name.startswith(".partial-")]
        assert not left, left
        assert {path.name for path in self.folders()} == {
            path.name for path in whole.iterdir() if path.is_dir() and path.name != NIGHTS
        }
        table = self.table()
        assert set(table) == set(ENDS)
        for name, (status, kind) in ENDS.items():
            end = table[name]["status"], table[name]["kind"]
            assert end in LATER.get(status, {(status, kind)}), (name, table[name])
            assert table[name]["reason"] or status == "scored", table[name]


def assert_counts_add_up(folder: Path) -> None:
    """Check by its log that each tile of a slide was committed by one run alone."""
    log = (folder / "run.log").read_text()
    said = re.findall(r"(\d+) tiles (had been scored by|scored,)", log)
    ends = [number for number, (_, what) in enumerate(said) if what == "scored,"]
    last = ends[0]
    before = int(said[last - 1][0]) if last else 0
    assert before + int(said[last][0]) == TileStore(folder / STORE_NAME).n_scored, log
    # Runs that were killed after the last tile left nothing to score.
    assert not any(int(said[end][0]) for end in ends[1:]), log

"""Nights with a real server and a real worker: a mixed inbox, and things killed in between."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("prefect")

from tests.helpers.nights import ENDS, Copying, Inbox, Nights, a_night, night_config
from tests.helpers.prefect_site import DEADLINE_S, Site, wait_until

INCOMPLETE = ("FAILED", "Incomplete")
COMPLETED = ("COMPLETED", "Completed")


@pytest.fixture
def arriving(tmp_path: Path) -> Iterator[Copying]:
    """A mixed inbox, and the slide that is being copied into it."""
    inbox = Inbox(tmp_path / "inbox")
    with inbox.copying() as copying:
        yield copying


@pytest.fixture
def whole(
    arriving: Copying, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """What a night leaves behind that nothing happens to."""
    folder = tmp_path / "whole"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    a_night(tmp_path / "inbox", folder, tiny_bundle, night_config())
    return folder


@pytest.fixture
def nights(
    arriving: Copying, make_site: Callable[..., Site], tmp_path: Path, tiny_bundle: Path
) -> Nights:
    """The site, deployed and at rest."""
    file = tmp_path / "score.yaml"
    file.write_text(yaml.safe_dump(night_config().model_dump(mode="json")))
    return Nights(make_site(), tmp_path, bundle=tiny_bundle, config=file)


def test_a_night_goes_on_where_others_were_cancelled_and_killed(
    nights: Nights, whole: Path
) -> None:
    cancelled = nights.ask()
    _work_goes_on(nights, cancelled)
    nights.cancel(cancelled)
    assert nights.site.end(cancelled)["name"] == "Cancelled"
    assert nights.processes(cancelled) == ([], [])
    ends = {name: row["kind"] for name, row in nights.table().items()}
    assert set(ends) == set(ENDS)
    assert "ended" in ends.values()
    assert not set(ends.values()) & {"WorkerDied", "Stalled", "ModelUnavailableError"}
    nights.assert_in_order(whole, {})

    killed = nights.ask()
    _work_goes_on(nights, killed)
    assert nights.kill_scoring(killed)
    _work_goes_on(nights, killed)
    seen = nights.assert_in_order(whole, {})
    assert nights.kill_flow_run(killed)
    assert seen
    assert nights.bury(killed, datetime.now(UTC)) == "Crashed"

    night = nights.ask()

    # What the killed night found to be no slide has its note already.
    assert _end(nights, night) in {COMPLETED, INCOMPLETE}
    nights.assert_in_order(whole, seen)
    nights.assert_complete(whole)
    _assert_shown(nights, night)


@pytest.mark.long
@pytest.mark.timeout(1800)  # five nights; ten minutes of them on a busy machine
def test_nights_in_which_everything_is_killed(
    nights: Nights, arriving: Copying, whole: Path, tmp_path: Path
) -> None:
    first = nights.ask()
    _work_goes_on(nights, first)
    assert nights.kill_worker(first)
    nights.mend()
    assert nights.kill_server(first)
    seen = nights.assert_in_order(whole, {})
    nights.mend()
    # Both its worker and the server died: it goes on, and says itself how it has ended.
    assert _end(nights, first) == INCOMPLETE
    seen = nights.assert_in_order(whole, seen)
    nights.assert_complete(whole)
    _assert_shown(nights, first)

    # The slide has arrived. Of two nights at once, one works, and then the other finds nothing.
    arriving.finish()
    both = [nights.ask(), nights.ask()]
    waiting = wait_until(
        lambda: [run for run in both if _name(nights, run) == "AwaitingConcurrencySlot"],
        "one of two nights waits",
    )
    (working,) = set(both) - set(waiting)
    assert _end(nights, working) == COMPLETED
    table = nights.table()
    assert (table["arriving.tif"]["status"], table["arriving.tif"]["kind"]) == ("scored", "")
    others = {name: (row["status"], row["kind"]) for name, row in table.items()}
    del others["arriving.tif"]
    assert {status for status, _ in others.values()} == {"left"}
    assert {kind for _, kind in others.values()} == {"done", "duplicate", "failed before"}
    for run in waiting:
        assert _end(nights, run) == COMPLETED
    assert {row["status"] for row in nights.table().values()} == {"left"}
    nights.assert_in_order(whole, seen)

    # One slide alone, with what it lacked.
    alone = nights.ask(
        "score-slide/score-slide",
        slide=tmp_path / "inbox" / "no size.tif",
        out=nights.out,
        mpp=0.5,
    )
    assert _end(nights, alone) == COMPLETED
    summary = json.loads((nights.out / "no size" / "summary.json").read_text())
    assert summary["status"] == "scored"
    nights.assert_in_order(whole, seen)


def _work_goes_on(nights: Nights, run_id: str) -> None:
    """Wait until more is committed than there is now."""
    before = nights.committed()
    wait_until(
        lambda: nights.committed().keys() - before.keys() or nights.ended(run_id),
        "work goes on",
        nights.worker.log,
    )
    assert not nights.ended(run_id), nights.site.state(run_id)


def _name(nights: Nights, run_id: str) -> str | None:
    name: str | None = nights.site.state(run_id)["name"]
    return name


def _end(nights: Nights, run_id: str) -> tuple[str, str]:
    state: dict[str, Any] = nights.site.end(run_id, deadline_s=3 * DEADLINE_S)
    assert state["type"] != "CRASHED", f"{state['message']}\n{nights.site.said(run_id)}"
    return state["type"], state["name"]


def _assert_shown(nights: Nights, run_id: str) -> None:
    """Check a night's artifacts and its slides' task runs against its own table."""
    artifacts = nights.site.artifacts(run_id)
    assert set(artifacts) == {"table", "markdown", "progress"}
    table = nights.table()
    shown = {row["slide"]: row["outcome"] for row in json.loads(artifacts["table"]["data"])}
    assert shown == {name: row["status"] for name, row in table.items()}
    assert set(shown) == set(ENDS)
    assert artifacts["progress"]["data"] == 100
    log = nights.site.log_of(run_id)
    assert "NoneType: None" not in log
    assert "Engine execution exited" not in log, "an incomplete night is no fault of the engine"
    asked = {"flow_runs": {"id": {"any_": [run_id]}}}

    def ends() -> dict[str, str] | None:
        runs = nights.site.api.post("/task_runs/filter", json=asked).raise_for_status().json()
        found = {run["name"]: run["state"]["name"] for run in runs if run["state"]}
        wanted = {
            name: row["status"].capitalize()
            for name, row in table.items()
            if row["status"] != "left" and row["folder"] and name in found
        }
        # Task runs reach the server's database as events, some time after the run's end.
        return found if wanted and found == wanted else None

    assert wait_until(ends, "all slides are shown as they ended", deadline_s=30)

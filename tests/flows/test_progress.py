"""Progress that nobody hears of; `test_served.py` and `test_nightly.py` look at what is heard."""

import logging
import threading
import time
from typing import Any
from uuid import uuid4

import httpx
import pytest

pytest.importorskip("prefect")

from flows import progress
from flows.progress import ProgressArtifact


def test_who_works_waits_for_no_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[float] = []
    asked = threading.Event()

    def slowly(_artifact: object, percent: float, **_: Any) -> None:
        asked.set()
        time.sleep(1)
        heard.append(percent)
        if percent < 100:
            raise httpx.ConnectError("nobody there")

    monkeypatch.setattr(progress, "create_progress_artifact", lambda *_, **__: uuid4())
    monkeypatch.setattr(progress, "update_progress_artifact", slowly)
    monkeypatch.setattr(progress, "get_run_logger", lambda: logging.getLogger("run"))

    with ProgressArtifact("a", "Scoring a") as artifact:
        artifact.show(0, "tiles")
        assert asked.wait(10)
        began = time.monotonic()
        for percent in range(1, 101):
            artifact.show(percent, "tiles")
        assert time.monotonic() - began < 0.9

    assert heard[0] == 0
    assert heard[-1] == 100, "the last word is heard, whatever became of those before"
    assert len(heard) <= 3, "what is out of date is not told"
    assert "nobody there" in caplog.text


def test_the_end_does_not_wait_long_for_a_server_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "create_progress_artifact", lambda *_, **__: uuid4())
    monkeypatch.setattr(progress, "update_progress_artifact", lambda *_, **__: time.sleep(5))
    monkeypatch.setattr(progress, "HEARD_WITHIN_S", 0.1)
    began = time.monotonic()
    with ProgressArtifact("a", "Scoring a") as artifact:
        artifact.show(50, "tiles")
    assert time.monotonic() - began < 2

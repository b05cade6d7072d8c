"""Notices, by a block on a real Prefect server, to a real receiver on this machine."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prefect")

from prefect import State, flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.states import Completed, Failed

from flows.notices import INCOMPLETE, tell_of_failure
from tests.helpers.prefect_site import Site, wait_until
from wsi_pipeline.errors import SlideError

TOKEN = "xoxb-not-for-logs"
COUNTS = "96 slides scored, 1 refused, 3 failed, 0 left alone."
PATIENT = "Jane_Doe_1961.svs"


class Receiver:
    """Takes notices, with an answer of one's choice."""

    def __init__(self, status: int) -> None:
        notices: list[dict[str, Any]] = []
        self.notices = notices

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                notices.append(
                    {"path": self.path, "auth": self.headers["Authorization"]} | json.loads(content)
                )
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Keep still."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hooks/" + "{{token}}"


@contextmanager
def receiver(status: int = 200) -> Iterator[Receiver]:
    it = Receiver(status)
    thread = threading.Thread(target=it.server.serve_forever)
    thread.start()
    try:
        yield it
    finally:
        it.server.shutdown()
        thread.join()
        it.server.server_close()


@pytest.fixture
def here(site: Site) -> Iterator[None]:
    """Let the flows and blocks of this process report to the site."""
    ours = {PREFECT_API_URL: site.env["PREFECT_API_URL"], PREFECT_HOME: Path(site.home)}
    with temporary_settings(ours):
        yield


@pytest.fixture
def webhook(here: None) -> Callable[[str], str]:
    """Save a block that sends to an address; return what `notify` calls it."""

    def save(url: str) -> str:
        CustomWebhookNotificationBlock(
            name="nights",
            url=url,
            json_data={"subject": "{{subject}}", "body": "{{body}}"},
            headers={"Authorization": "Bearer {{token}}"},
            secrets={"token": TOKEN},
        ).save("nights", overwrite=True)
        return "custom-webhook/nights"

    return save


@flow(name="night", on_failure=[tell_of_failure], persist_result=False)
def night(how: str, notify: str | None = None) -> State[None]:
    match how:
        case "well":
            return Completed(message=COUNTS)
        case "refused by ours":
            error = SlideError(f"{PATIENT} is not a slide. Check the file.")
            return Failed(message=str(error), data=error)
        case "by surprise":
            raise OSError(f"no space left: {PATIENT}")
    return Failed(name=INCOMPLETE, message=COUNTS)


def test_a_failed_night_is_told_with_its_counts_and_where_to_read_on(
    site: Site, webhook: Callable[[str], str]
) -> None:
    with receiver() as told:
        block = webhook(told.url)
        state = night("badly", block, return_state=True)
        assert told.notices == [
            {
                "path": f"/hooks/{TOKEN}",
                "auth": f"Bearer {TOKEN}",
                "subject": "night: Incomplete",
                "body": f"{COUNTS}\n{_page(site, state)}",
            }
        ]
        night("well", block)
        night("badly", return_state=True)
        assert len(told.notices) == 1, "only bad ends are told, and only whom the run names"
    assert f"A notice was sent by the block {block}" in _log(site, state)


@pytest.mark.parametrize("how", ["refused by ours", "by surprise"])
def test_an_errors_words_stay_here_since_they_name_files(
    site: Site, webhook: Callable[[str], str], how: str
) -> None:
    with receiver() as told:
        state = night(how, webhook(told.url), return_state=True)
    (notice,) = told.notices
    assert notice["body"] == _page(site, state)
    assert PATIENT in (state.message or "")


def test_a_notice_that_fails_changes_nothing_and_gives_no_secret_away(
    site: Site, webhook: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    with receiver(status=403) as told:
        refused = webhook(told.url)
        states = [night("badly", refused, return_state=True)]
    assert len(told.notices) == 1
    nobody_there = webhook(told.url)
    SlackWebhook(url=told.url.replace("{{token}}", TOKEN)).save("gone", overwrite=True)
    Secret(value=TOKEN).save("no-notifier", overwrite=True)
    states += [
        night("badly", block, return_state=True)
        for block in (nobody_there, "slack-webhook/gone", "secret/no-notifier", "none/none", "none")
    ]
    for state in states:
        assert (state.type, state.message) == ("FAILED", COUNTS)
        log = _log(site, state)
        assert "No notice was sent" in log
        assert TOKEN not in log
    assert TOKEN not in "".join(capfd.readouterr())


def _page(site: Site, state: State[Any]) -> str:
    root = site.env["PREFECT_API_URL"].removesuffix("/api")
    return f"{root}/runs/flow-run/{state.state_details.flow_run_id}"


def _log(site: Site, state: State[Any]) -> str:
    """A run's log, once it says what came of the notice."""
    asked = {"logs": {"flow_run_id": {"any_": [str(state.state_details.flow_run_id)]}}}

    def said() -> str | None:
        lines = site.api.post("/logs/filter", json=asked).raise_for_status().json()
        text = "\n".join(line["message"] for line in lines)
        return text if "otice was sent" in text else None

    return str(wait_until(said, "the log tells of the notice"))

"""Names, cards and messages made to steer terminals, fake logs or run in spreadsheets.

In real processes, on a terminal that has but ASCII.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.made import config_of_tiny, write_slide

NAME = "[red]=cmd|' `C calc`'!A0;=1+1\u202egnp\x1b]0;owned\x07\n2026-11-26 INFO <b>µ"
STEERING = ("\x1b", "\x07", "\u202e", "\r")


@pytest.fixture(scope="module")
def night(tmp_path_factory, tiny_bundle, section):
    """Score a slide and a damaged one; then take both for a night. Gives each run, and `out`."""
    root = tmp_path_factory.mktemp("names")
    inbox, out, bundle = root / "inbox", root / "out", root / "bundle"
    inbox.mkdir()
    write_slide(inbox / f"{NAME}.tif", section.rgb[:512, :512])
    (inbox / f"{NAME} damaged.tif").write_bytes(b"II*\0 this is none")
    shutil.copytree(tiny_bundle, bundle)
    card = json.loads((bundle / "card.json").read_text())
    card |= {"name": "[bold]=x\u202e", "trained_on": "[/]Nothing\u202e", "demonstration": True}
    (bundle / "card.json").write_text(json.dumps(card))
    config = root / "score.yaml"
    settings = config_of_tiny().model_dump(mode="json", include={"grid", "engine", "workers"})
    settings["engine"]["runtime"] = "torch"  # a card of its own is a graph of its own to export
    quick = {"quiet_s": 0, "look_again_s": 0}
    config.write_text(
        yaml.safe_dump({**settings, "inbox": quick, "crew": {"slides_at_once": 1, "retries": 0}})
    )

    def run(*arguments: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-c", "from wsi_pipeline.cli import main; main()", "-v",
             *map(str, arguments), "--out", out, "--config", config, "--bundle", bundle],
            env=os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "400"},
            capture_output=True, check=False, timeout=300,
        )  # fmt: skip

    return run("score", *sorted(inbox.iterdir())), run("cohort", inbox), out


def test_terminals_show_them_as_they_are_and_in_ascii(night):
    scored, cohort, _ = night
    for run in (scored, cohort):
        said = (run.stdout + run.stderr).decode("ascii")
        assert run.returncode == 1, said
        assert "Traceback" not in said
        assert not [letter for letter in STEERING if letter in said]
        assert not [line for line in said.splitlines() if line.startswith("2026-11-26 INFO")]
        assert (
            "[red]=cmd|' `C calc`'!A0;=1+1?gnp?]0;owned? 2026-11-26 INFO <b>u damaged.tif" in said
        )
        assert "[bold]=x?" in said
    assert "[/]Nothing?" in scored.stderr.decode("ascii")


def test_logs_pages_and_tables_show_them_as_they_are(night):
    _, _, out = night
    logs = [path.read_text("utf-8") for path in out.glob("*/run.log")]
    (page,) = (path.read_text("utf-8") for path in out.glob("nights/*/index.html"))
    (table,) = (path.read_text("utf-8-sig") for path in out.glob("nights/*/slides.csv"))
    assert len(logs) == 2
    for text in (*logs, page, table):
        assert not [letter for letter in STEERING if letter in text.replace("\r\n", "\n")]
    for line in "".join(logs).splitlines():
        assert line[24:].startswith(("INFO", "ERROR")), line
    assert "<b>µ" not in page
    for separator in ",;":
        rows = csv.reader(table.splitlines(), delimiter=separator)
        assert not [cell for row in rows for cell in row if cell.lstrip().startswith(tuple("=+-@"))]
    assert not [path for path in Path(out).rglob("*") if not path.name.isprintable()]

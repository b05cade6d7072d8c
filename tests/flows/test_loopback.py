"""What listens, listens on this machine alone; `test_served.py` looks at what runs."""

from pathlib import Path

import pytest

pytest.importorskip("prefect")

from prefect.settings import PREFECT_RUNNER_SERVER_ENABLE, PREFECT_SERVER_API_HOST

ROOT = Path(__file__).parents[2]


def test_without_a_setting_loopback_is_what_prefect_takes() -> None:
    assert PREFECT_SERVER_API_HOST.default() == "127.0.0.1"
    assert PREFECT_RUNNER_SERVER_ENABLE.default() is False


def test_nothing_that_we_hand_out_listens_elsewhere() -> None:
    handed_out = [ROOT / name for name in ("Makefile", "Dockerfile", "prefect.yaml", "README.md")]
    handed_out += [path for folder in ("deploy", "docs") for path in (ROOT / folder).rglob("*.*")]
    for path in handed_out:
        if path.suffix not in {".csv", ".jpg", ".png", ".tif"}:
            # The document of security names it as what not to do.
            assert "0.0.0.0" not in path.read_text() or path.name == "security.md", path

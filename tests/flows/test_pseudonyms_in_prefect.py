"""With `names: digest`, no file's name gets into Prefect's database either."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.made import config_of_tiny
from tests.integration.test_pseudonyms import QUICK, WHO, lay_out

NIGHT = """
from pathlib import Path
from flows.score_cohort import score_cohort
state = score_cohort("in", Path("out"), {bundle!r}, config=Path("score.yaml"), return_state=True)
print(state.name)
"""


@pytest.mark.long
def test_no_record_of_a_night_names_a_file(tmp_path, tiny_bundle, section):
    lay_out(tmp_path / "in", section.rgb[:512, :512])
    settings = config_of_tiny().model_dump(mode="json", include={"grid", "engine", "workers"})
    (tmp_path / "score.yaml").write_text(yaml.safe_dump(settings | QUICK))
    home = tmp_path / "prefect"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    ended = subprocess.run(
        [sys.executable, "-c", NIGHT.format(bundle=str(tiny_bundle))],
        cwd=tmp_path, capture_output=True, check=False, timeout=580,
        env=env | {
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "200",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PYTHONPATH": str(Path.cwd()),
        },
    )  # fmt: skip
    words = ended.stdout + ended.stderr
    assert b"Incomplete" in ended.stdout, words.decode(errors="replace")[-3000:]
    assert WHO.encode().lower() not in words.lower()
    database = b"".join(path.read_bytes() for path in home.glob("prefect.db*"))
    assert database.count(b"slide-") > 10
    assert WHO.encode().lower() not in database.lower()

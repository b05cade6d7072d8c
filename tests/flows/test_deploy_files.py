"""What of deploy/ and the image can be checked without systemd, a Docker engine or a cluster."""

import configparser
import fnmatch
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

pytest.importorskip("prefect")

from prefect.events.schemas.automations import AutomationCore

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))

SOMEWHERE = "1d5ff3a0-0000-4000-8000-000000000000"


def copied() -> list[str]:
    """The sources of the Dockerfile's COPY lines."""
    lines = re.findall(r"^COPY (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def test_the_image_gets_what_it_copies_and_the_package_builds_of_it(tmp_path: Path) -> None:
    shown = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert {source.rstrip("/") for source in copied()} == shown
    for source in copied():
        if (ROOT / source).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, tmp_path / source, ignore=ignore)
        else:
            shutil.copy(ROOT / source, tmp_path / source)
    wheels = tmp_path / "wheels"
    subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
            "--wheel-dir", str(wheels), str(tmp_path),
        ],
        check=True,
        timeout=120,
    )  # fmt: skip
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for needed in ("flows/score_cohort.py", "wsi_pipeline/demo_bundle/model.safetensors"):
        assert needed in names


def test_the_image_runs_as_nobody_in_particular_and_names_no_registry() -> None:
    text = (ROOT / "Dockerfile").read_text()
    (base,) = re.findall(r"^FROM (.+)$", text, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+-slim", base)
    assert not re.search(r"https?://|--(extra-)?index-url|--trusted-host", text)
    uid = re.search(r"^USER (\d+):\1$", text, re.MULTILINE)
    assert uid, "Kubernetes' runAsNonRoot wants a number"
    for kind in ("docker", "kubernetes"):
        assert uid[1] in (DEPLOY / f"{kind}-job-template.json").read_text()


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_job_template_uses_the_variables_that_it_declares(kind: str) -> None:
    template = json.loads((DEPLOY / f"{kind}-job-template.json").read_text())
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])
    # Secrets come from the environment of the worker, or from blocks.
    assert not re.search(r"password|secret|token(?!\")", json.dumps(template), re.IGNORECASE)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_are_hardened_and_come_back(unit: Path) -> None:
    parser = configparser.RawConfigParser(strict=False, comment_prefixes="#", delimiters="=")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    service = parser["Service"]
    assert service["User"] not in ("root", "0")
    assert service["Restart"] == "always"
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert "EnvironmentFile" in service
    text = unit.read_text()
    assert not re.search(r"PASSWORD|AUTH_STRING|0\.0\.0\.0", text)
    # Runs of these flows are known by these modules and commands.
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is needed: on Debian, `apt-get install systemd`")
    for unit in UNITS:
        here = unit.read_text().replace("/opt/wsi/.venv/bin", str(Path(sys.executable).parent))
        (tmp_path / unit.name).write_text(here)
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, tmp_path.glob("*.service"))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_automations_are_such_and_hear_of_ends_by_any_name() -> None:
    text = (DEPLOY / "automations.yaml").read_text().replace("NOTICE_BLOCK_ID", SOMEWHERE)
    automations = [
        AutomationCore.model_validate(each) for each in yaml.safe_load(text)["automations"]
    ]
    assert len({automation.name for automation in automations}) == len(automations)
    (dead,) = (each for each in automations if each.name == "wsi: a run is dead")
    for event in ("heartbeat", "Completed", "Refused", "Incomplete", "Kept"):
        wanted = dead.trigger.model_dump()["expect"]
        assert any(fnmatch.fnmatch(f"prefect.flow-run.{event}", each) for each in wanted)

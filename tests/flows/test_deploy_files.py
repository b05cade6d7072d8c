"""What of deploy/ and the image can be checked without systemd, a Docker engine or a cluster."""

import configparser
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("prefect")

import prefect
from prefect.events.schemas.automations import AutomationCore
from prefect.server.schemas.core import WorkPool
from prefect.utilities.schema_tools.validation import is_valid_schema, validate
from prefect.utilities.templating import apply_values

from tests.helpers.confined import confined
from tests.helpers.made import write_slide
from tests.helpers.prefect_site import Site
from training.synthetic import generate_region

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
HEALTH = "prefect-server-health.service"

# What the server's pages know of each kind of worker.
WORKERS = (
    Path(prefect.__file__).parent
    / "server/api/collections_data/views/aggregate-worker-metadata.json"
)

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
    for needed in (
        "flows/score_cohort.py",
        "wsi_pipeline/model/cellularity_breast/model.safetensors",
    ):
        assert needed in names


def test_the_image_runs_as_nobody_in_particular_and_names_no_registry() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^FROM (.+)$", text, re.MULTILINE) == ["${BASE}"]
    assert re.search(r"^ARG BASE=python:3\.\d+\.\d+-slim-\w+$", text, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", text, re.MULTILINE)
    assert not re.search(r"https?://|--(extra-)?index-url|--trusted-host", text)
    uid = re.search(r"^USER (\d+):\1$", text, re.MULTILINE)
    assert uid, "Kubernetes' runAsNonRoot wants a number"
    for kind in ("docker", "kubernetes"):
        assert uid[1] in (DEPLOY / f"{kind}-job-template.json").read_text()


def template(kind: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DEPLOY / f"{kind}-job-template.json").read_text())
    return content


def rendered(kind: str) -> dict[str, Any]:
    """The job of a run, with all that can be set as it comes."""
    found = template(kind)
    values = {
        name: known["default"]
        for name, known in found["variables"]["properties"].items()
        if "default" in known
    }
    return dict(apply_values(found["job_configuration"], values))


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_job_template_is_one_that_prefect_takes(kind: str) -> None:
    found = template(kind)
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(found["job_configuration"])))
    assert used == set(found["variables"]["properties"])
    # Secrets come from the environment of the worker, or from blocks.
    assert not re.search(r"password|secret|token(?!\")", json.dumps(found), re.IGNORECASE)
    # As Prefect's server and client check a pool's template and a run's variables.
    variables = found["variables"]
    is_valid_schema(variables)  # raises
    WorkPool(name="wsi", type=kind, base_job_template=found)
    defaults = {
        name: each["default"] for name, each in variables["properties"].items() if "default" in each
    }
    assert not validate(defaults, variables, raise_on_error=False)
    # What else its own template of this kind can say, ours says in the same words.
    known = json.loads(WORKERS.read_text())[f"prefect-{kind}"][kind]
    theirs = known["default_base_job_configuration"]["variables"]["properties"]
    for name in variables["properties"].keys() & theirs.keys():
        shapes = [
            {each["type"] for each in one.get("anyOf", [one])}
            for one in (variables["properties"][name], theirs[name])
        ]
        assert shapes[0] <= shapes[1] | {"null"}, name


def test_a_docker_container_is_confined() -> None:
    containers = pytest.importorskip("docker.models.containers")  # it comes with Prefect
    job = rendered("docker")
    assert job["mem_limit"] == job["memswap_limit"] == "32g"
    args = containers._create_container_args(
        {"image": "i", "version": "1.44", **job["container_create_kwargs"]}
    )
    assert args["user"] == "10001:10001"
    host = args["host_config"]
    assert host["ReadonlyRootfs"]
    assert list(host["Tmpfs"]) == ["/tmp"]
    assert host["CapDrop"] == ["ALL"]
    # And not seccomp=unconfined: Docker's own filter holds.
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["PidsLimit"] > 0


def test_a_kubernetes_pod_is_confined_by_the_restricted_standard() -> None:
    pod = rendered("kubernetes")["job_manifest"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"] == "32Gi"
    # Not the server: a run goes on without it, and must not be killed for it.
    assert container["livenessProbe"]["exec"]["command"][-1] == "test -r /inbox && test -w /results"
    mounts = {each["name"]: each for each in container["volumeMounts"]}
    assert mounts["inbox"]["readOnly"]
    assert {each["name"] for each in pod["volumes"]} == mounts.keys()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_are_hardened_and_come_back(unit: Path) -> None:
    parser = configparser.RawConfigParser(strict=False, comment_prefixes="#", delimiters="=")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    service = parser["Service"]
    assert service["NoNewPrivileges"] == "yes"
    assert service["CapabilityBoundingSet"] == ""
    assert service["ProtectSystem"] == "strict"
    assert service["SystemCallArchitectures"] == "native"
    assert "MemoryMax" in service
    text = unit.read_text()
    assert "SystemCallFilter=@system-service\n" in text
    assert not re.search(r"PASSWORD|AUTH_STRING|0\.0\.0\.0", text)
    if unit.name == HEALTH:  # restarts the server, and so is root's, and lasts for a moment
        return
    assert service["User"] not in ("root", "0")
    assert service["Restart"] == "always"
    assert "EnvironmentFile" in service
    if service["User"] == "wsi":
        # By systemd's default, a slide's process that is killed for memory ends the night.
        assert service["OOMPolicy"] == "continue"
    else:
        assert "/api/health" in service["ExecStartPost"]
    # Runs of these flows are known by these modules and commands.
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()


@pytest.mark.long
def test_a_night_needs_no_more_than_the_confinement_leaves_it(tmp_path: Path) -> None:
    """Read-only root, no privileges, @system-service: by the kernel, without systemd or Docker."""
    if os.getuid() != 0 or not all(map(shutil.which, ("systemd-analyze", "unshare", "setpriv"))):
        pytest.skip("root is needed, and Debian's systemd and util-linux")
    (tmp_path / "inbox").mkdir()
    write_slide(tmp_path / "inbox" / "a.tif", generate_region(0, 1024).rgb, downsamples=(4,))
    (tmp_path / "score.yaml").write_text("inbox: {quiet_s: 0, look_again_s: 0}")

    done = confined(
        tmp_path, "wsi", "cohort", "inbox", "--out", "results", "--config", "score.yaml"
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "results" / "a" / "summary.json").exists(), done.stdout + done.stderr
    refused = confined(tmp_path, "touch", "/root/by-a-reader-of-slides")
    assert "Read-only file system" in refused.stderr
    refused = confined(tmp_path, "unshare", "--mount", "true")
    assert "Operation not permitted" in refused.stderr


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is needed: on Debian, `apt-get install systemd`")
    for unit in sorted((DEPLOY / "systemd").iterdir()):
        here = unit.read_text().replace("/opt/wsi/.venv/bin", str(Path(sys.executable).parent))
        (tmp_path / unit.name).write_text(here)
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_automations_are_such_and_hear_of_ends_by_any_name(site: Site) -> None:
    """On a server on which nothing was set up, those that act are created as they stand."""
    acting, telling = (DEPLOY / name for name in ("automations.yaml", "notices.yaml"))
    assert "NOTICE_BLOCK_ID" not in acting.read_text()
    site.prefect("automation", "create", "--from-file", acting)
    created = site.api.post("/automations/filter", json={}).raise_for_status().json()
    for each in created:  # they would act on the other tests' runs
        site.api.delete(f"/automations/{each['id']}").raise_for_status()
    files = [acting.read_text(), telling.read_text().replace("NOTICE_BLOCK_ID", SOMEWHERE)]
    known = [
        [AutomationCore.model_validate(each) for each in yaml.safe_load(text)["automations"]]
        for text in files
    ]
    assert {each["name"] for each in created} == {each.name for each in known[0]}
    assert not {each.name for each in known[0]} & {each.name for each in known[1]}
    for each in known[1]:
        assert [action.type for action in each.actions] == ["send-notification"]
    (dead,) = (each for each in known[0] if each.name == "wsi: a run is dead")
    for event in ("heartbeat", "Completed", "Refused", "Incomplete", "Kept"):
        wanted = dead.trigger.model_dump()["expect"]
        assert any(fnmatch.fnmatch(f"prefect.flow-run.{event}", each) for each in wanted)

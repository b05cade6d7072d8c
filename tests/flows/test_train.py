"""Training by a real Prefect server: what a run leaves behind, and which bundle is then in use."""

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("prefect")

from prefect import State, flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.settings import (
    PREFECT_HOME,
    PREFECT_LOGGING_TO_API_BATCH_INTERVAL,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    temporary_settings,
)
from prefect.testing.utilities import prefect_test_harness

import flows.train
from flows.serve import deployments
from flows.train import (
    best,
    headline,
    latest,
    recorded,
    train_and_promote,
    train_reg,
    train_seg,
    training_progress,
)
from training.agreement import agreement, compare
from training.promote import bundle_in_use, put_in_use
from wsi_pipeline.model.bundle import BUNDLED_MODEL, ModelBundle

CONFIGS = Path(__file__).parents[2] / "configs"
PATCHES = {"train": 48, "validation": 16}
EPOCHS = 2

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncPrefectClient]:
    """A server of the tests' own, to which the flows of this process report."""
    ours = {
        PREFECT_HOME: tmp_path_factory.mktemp("prefect"),
        PREFECT_SERVER_ANALYTICS_ENABLED: False,
        PREFECT_LOGGING_TO_API_BATCH_INTERVAL: 0.2,
    }
    with (
        temporary_settings(ours),
        prefect_test_harness(server_startup_timeout=300),
        get_client(sync_client=True) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke configurations, with less to learn and patches of their own."""
    folder = tmp_path_factory.mktemp("training")
    for name in ("seg", "reg"):
        content = yaml.safe_load((CONFIGS / f"{name}-smoke.yaml").read_text())
        content["data"] |= PATCHES | {"cache": str(folder / "patches")}
        content["fit"] |= {"epochs": EPOCHS, "validate_every": 1}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
        held_out = {"data": content["data"] | {"seed": 1}, "part": "validation"}
    (folder / "held-out.yaml").write_text(yaml.safe_dump(held_out))
    return folder


@pytest.fixture(scope="module")
def trained(api: SyncPrefectClient, workplace: Path) -> tuple[State[Path], State[Path]]:
    """Stage 1 and then stage 2, each a flow run."""
    runs = workplace / "runs"
    first = train_seg(workplace / "seg.yaml", run=runs / "seg", return_state=True)
    second = train_reg(
        workplace / "reg.yaml", run=runs / "reg", init=str(runs / "seg"), return_state=True
    )
    return first, second


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.evaluate.agreement", partial(agreement, resamples=20))
    monkeypatch.setattr("training.evaluate.compare", partial(compare, resamples=20))


def test_both_stages_train_and_show_what_came_of_it(
    api: SyncPrefectClient, workplace: Path, trained: tuple[State[Path], State[Path]]
) -> None:
    for stage, state in zip(("seg", "reg"), trained, strict=True):
        assert (state.type, state.name) == ("COMPLETED", "Completed"), state
        run = workplace / "runs" / stage
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        artifacts = _artifacts(api, state)
        assert artifacts["progress"].data == 100
        page = artifacts["markdown"].data
        assert f"| loss | {lines[-1]['loss']:.4f} | {min(e['loss'] for e in lines):.4f} |" in page
        metric = "mean_iou" if stage == "seg" else "pk"
        top = max(line[metric] for line in lines)
        assert f"| {metric} | {lines[-1][metric]:.4f} | {top:.4f} |" in page
        assert run.as_uri() in page
        log = _log(api, state)
        assert all(f"epoch {epoch}: learning_rate" in log for epoch in (1, EPOCHS))
    bundle = ModelBundle.load(workplace / "runs" / "reg" / "bundle")
    assert f"({(workplace / 'runs' / 'reg' / 'bundle').as_uri()})" in page
    assert f"`{bundle.digest}`" in page


def test_a_run_that_cannot_begin_fails_with_the_commands_message(
    api: SyncPrefectClient, workplace: Path, tmp_path: Path
) -> None:
    config = tmp_path / "seg.yaml"
    config.write_text("gama: 1\n")
    state = train_seg(config, run=tmp_path / "run", return_state=True)
    assert (state.type, state.name) == ("FAILED", "Failed")
    assert state.message
    assert state.message.startswith(f"{config}: gama: ")
    assert len(state.message.splitlines()) == 1

    state = train_reg(
        workplace / "reg.yaml", run=tmp_path / "run", init=str(tmp_path / "none"), return_state=True
    )
    assert state.is_failed()
    assert "checkpoint.pt does not exist; give the folder of a finished" in (state.message or "")

    state = train_and_promote(
        workplace / "reg.yaml", config, run=tmp_path / "run", return_state=True
    )
    assert state.is_failed()
    assert (state.message or "").startswith(f"{config}: ")


def test_progress_shows_while_a_run_goes_on(
    api: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.train, "PROGRESS_EVERY_S", 0.05)
    seen: dict[str, Any] = {}

    @flow(name="slow", persist_result=False)
    def slow() -> None:
        from prefect.runtime import flow_run

        with training_progress(tmp_path, epochs=4):
            with (tmp_path / "metrics.jsonl").open("w") as file:
                file.write('{"epoch": 1, "loss": 0.75}\n{"epoch": 2, "lo')
            deadline = time.monotonic() + DEADLINE_S
            while seen.get("data") != 25 and time.monotonic() < deadline:
                (artifact,) = _artifacts_of(api, flow_run.get_id()).values()
                seen.update(data=artifact.data, description=artifact.description)
                time.sleep(0.05)

    slow()
    assert seen == {"data": 25, "description": "Epoch 1: loss 0.75"}


@pytest.mark.usefixtures("few_resamples", "trained")
def test_a_better_bundle_is_promoted_and_one_that_is_not_is_kept_out(
    api: SyncPrefectClient, workplace: Path, tmp_path: Path
) -> None:
    """The runs are there already: they are gone on with, and have nothing left to do."""
    runs, models = workplace / "runs", tmp_path / "models"
    before = (runs / "seg" / "checkpoint.pt").stat().st_mtime_ns
    bundle = ModelBundle.load(runs / "reg" / "bundle")
    hopeless = _all_ones(bundle)
    put_in_use(hopeless, models)
    asked = partial(
        train_and_promote,
        workplace / "reg.yaml",
        workplace / "held-out.yaml",
        workplace / "seg.yaml",
        run=runs,
        models=models,
        return_state=True,
    )

    state = asked()

    assert (state.type, state.name) == ("COMPLETED", "Promoted"), state
    assert "its L1 is lower" in (state.message or "")
    assert _digest_in_use(models) == bundle.digest
    assert (models / hopeless.digest / "model.safetensors").is_file()
    page = _artifacts(api, state)["markdown"].data
    assert f"> Promoted: {state.message}" in page
    assert bundle.digest in page
    assert hopeless.digest in page
    assert (runs / "seg" / "checkpoint.pt").stat().st_mtime_ns == before

    demo = ModelBundle.load(BUNDLED_MODEL)
    put_in_use(demo, models)
    state = asked()
    assert (state.type, state.name) == ("COMPLETED", "Kept"), state
    assert _digest_in_use(models) == demo.digest
    assert "> Kept what was in use: its L1 is" in _artifacts(api, state)["markdown"].data
    decisions = (models / "promotions.jsonl").read_text().splitlines()
    assert [json.loads(line)["promoted"] for line in decisions] == [True, False]


def test_pictures_that_training_sees_decide_nothing(
    api: SyncPrefectClient, workplace: Path, tmp_path: Path
) -> None:
    held_out = yaml.safe_load((workplace / "held-out.yaml").read_text())
    held_out["data"]["seed"] = 0
    (tmp_path / "seen.yaml").write_text(yaml.safe_dump(held_out))
    state = train_and_promote(
        workplace / "reg.yaml", tmp_path / "seen.yaml", run=tmp_path / "run", return_state=True
    )
    assert state.is_failed()
    assert "16 of 16 held-out pictures" in (state.message or "")
    assert not (tmp_path / "run").exists()


def test_all_flows_are_served_under_their_names() -> None:
    served = {f"{deployment.flow_name}/{deployment.name}" for deployment in deployments()}
    names = ("score-slide", "score-cohort", "train-seg", "train-reg", "train-and-promote")
    assert served == {f"{name}/{name}" for name in names}


def test_best_and_latest_take_what_there_is(tmp_path: Path) -> None:
    assert headline(recorded(tmp_path)) == "No epoch is done yet."
    epochs = [
        {"epoch": 1, "loss": 3.0, "pk": 0.6, "l1": 0.4},
        {"epoch": 2, "loss": 1.0},
        {"epoch": 3, "loss": 2.0, "pk": 0.5, "l1": 0.2},
        {"epoch": 4, "loss": 1.0},
    ]
    assert latest(epochs) == {"epoch": 4, "loss": 1.0, "pk": 0.5, "l1": 0.2}
    assert [best(epochs, name) for name in ("loss", "pk", "l1")] == [(1.0, 2), (0.6, 1), (0.2, 3)]
    assert headline(epochs) == "Epoch 4: loss 1, pk 0.5, l1 0.2"


def _all_ones(bundle: ModelBundle) -> ModelBundle:
    """Make a model of the same form that takes everything for cancer."""
    network = bundle.network()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.fill_(10)
    return ModelBundle.of(network, bundle.card.model_copy(update={"version": "hopeless"}))


def _digest_in_use(models: Path) -> str | None:
    bundle = bundle_in_use(models)
    return None if bundle is None else bundle.digest


def _artifacts(api: SyncPrefectClient, state: State[Any]) -> dict[str, Any]:
    return _artifacts_of(api, state.state_details.flow_run_id)


def _artifacts_of(api: SyncPrefectClient, run_id: Any) -> dict[str, Any]:
    """Return a run's artifacts by their type."""
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    found = api.read_artifacts(artifact_filter=of_run)
    by_type = {str(artifact.type): artifact for artifact in found}
    assert len(by_type) == len(found)
    return by_type


def _log(api: SyncPrefectClient, state: State[Any]) -> str:
    """Return a run's log, once its last line is there."""
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        text = "\n".join(line.message for line in api.read_logs(of_run, limit=200))
        if "Finished in state" in text:
            return text
        time.sleep(0.1)
    pytest.fail(f"the log is not complete after {DEADLINE_S:.0f} s:\n{text}")

"""The training loop on a tiny network, each of its choices against PyTorch's own or by hand."""

import copy
import json
import logging
import math
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from training import fit as module
from training.data.crchisto import CrcHistoData
from training.data.views import EpochOrder
from training.fit import fit
from training.pace import Pace
from training.run import config_of, open_run, run_folder, trained_weights
from training.schedule import FitConfig, rate_factor
from training.seg import SegConfig
from training.state import State, moving_average
from wsi_pipeline.errors import ConfigError, TrainingError

PICTURES, BATCH = 12, 4
STEPS = PICTURES // BATCH


def test_a_run_is_named_after_its_configuration():
    config = Path("configs/seg-smoke.yaml")
    assert run_folder(None, config) == Path("runs/seg-smoke")
    assert run_folder(Path("elsewhere"), config) == Path("elsewhere")


class TinyStage:
    """A convolution with batch norm and dropout learns the mean of its pixels' red."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.2), nn.Conv2d(4, 1, 1)
        )
        self.optimiser = torch.optim.Adam(self.network.parameters(), 0.01)
        self.validated: list[nn.Module] = []
        self.dtypes: set[torch.dtype] = set()

    def training_mode(self) -> None:
        self.network.train()

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        pixels, _, score = batch
        out = network(pixels.permute(0, 3, 1, 2) / 255.0)
        self.dtypes.add(out.dtype)
        return nn.functional.l1_loss(out.float().mean((1, 2, 3)), score)

    def validate(self, network, batches, device) -> dict[str, float]:
        assert not network.training
        assert not torch.is_grad_enabled()
        self.validated.append(network)
        losses = [self.loss(network, [part.to(device) for part in batch]) for batch in batches]
        return {"l1": float(torch.stack(losses).mean())}


def loaders() -> tuple[tuple[DataLoader, EpochOrder], DataLoader]:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (PICTURES, 8, 8, 3), dtype=np.uint8))
    score = pixels[..., 0].float().mean((1, 2)) / 255
    views = TensorDataset(pixels, torch.zeros(PICTURES, 8, 8, dtype=torch.int64), score)

    class Turned(TensorDataset):
        def __getitem__(self, view):
            return views[view % PICTURES]

    order = EpochOrder(PICTURES, seed=0)
    return (
        (DataLoader(Turned(*views.tensors), BATCH, sampler=order), order),
        DataLoader(views, PICTURES),
    )


def config(**settings) -> FitConfig:
    return FitConfig(**{"epochs": 4, "batch": BATCH, "device": "cpu", **settings})


def run(folder: Path, stage: TinyStage | None = None, **settings) -> dict[str, Tensor]:
    folder.mkdir(exist_ok=True)
    fit(folder, config(**settings), stage or TinyStage(), *loaders())
    return trained_weights(folder)


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=0, msg=name)


# The learning rate


def test_the_step_schedule_is_pytorchs_step_schedule(tmp_path):
    settings = config(epochs=7, decay_every=2, decay=0.3)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    theirs = torch.optim.lr_scheduler.StepLR(optimiser, 2, 0.3)
    for epoch in range(7):
        for step in range(epoch * STEPS, (epoch + 1) * STEPS):
            assert rate_factor(settings, STEPS, step) == pytest.approx(theirs.get_last_lr()[0])
        optimiser.step()
        theirs.step()


def test_the_cosine_schedule_is_pytorchs_cosine_schedule_step_by_step():
    settings = config(epochs=5, schedule="cosine")
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 5 * STEPS)
    for step in range(5 * STEPS):
        assert rate_factor(settings, STEPS, step) == pytest.approx(theirs.get_last_lr()[0])
        optimiser.step()
        theirs.step()


def test_warmup_rises_evenly_to_the_schedules_rate():
    settings = config(epochs=100, warmup=4)
    rates = [rate_factor(settings, STEPS, step) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = config(epochs=100, warmup=4, schedule="cosine")
    assert rate_factor(cosine, STEPS, 50) == (1 + math.cos(math.pi * 50 / 300)) / 2


def test_the_one_cycle_schedule_is_pytorchs():
    settings = config(epochs=7, schedule="onecycle")
    optimiser = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], 0.01)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 0.01, total_steps=7 * STEPS, cycle_momentum=False
    )
    for step in range(7 * STEPS):
        ours = 0.01 * rate_factor(settings, STEPS, step)
        assert ours == pytest.approx(theirs.get_last_lr()[0])
        optimiser.step()
        if step < 7 * STEPS - 1:
            theirs.step()
    with pytest.raises(ValidationError, match="warmup of its own"):
        config(schedule="onecycle", warmup=3)


def test_without_decay_the_rate_stays(tmp_path):
    run(tmp_path / "run")
    assert [line["learning_rate"] for line in lines(tmp_path / "run")] == [0.01] * 4


def test_a_cosine_schedule_has_no_decays():
    with pytest.raises(ValidationError, match="decay_every belongs to the step schedule"):
        config(schedule="cosine", decay_every=3)


# Averaged weights


def test_the_average_is_exponential_with_a_rising_decay():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    average = moving_average(network, decay=0.5)
    expected = None
    for n in range(12):
        network(torch.randn(4, 3, 2, 2))
        with torch.no_grad():
            network[0].weight.add_(torch.randn_like(network[0].weight))
        average.update_parameters(network)
        now = [network[0].weight.detach().clone(), network[1].running_mean.clone()]
        by = min(0.5, (1 + n) / (10 + n))
        expected = (
            now
            if expected is None
            else [by * e + (1 - by) * x for e, x in zip(expected, now, strict=True)]
        )
    torch.testing.assert_close(average.module[0].weight.detach(), expected[0])
    torch.testing.assert_close(average.module[1].running_mean, expected[1])


def test_the_average_is_what_is_validated_and_left_behind(tmp_path):
    stage, plain = TinyStage(), TinyStage()
    averaged = run(tmp_path / "average", stage, average=0.9)
    last = run(tmp_path / "plain", plain)
    assert stage.validated[0] is not stage.network
    assert plain.validated[0] is plain.network
    assert_equal(dict(stage.network.state_dict()), averaged)
    assert not torch.equal(averaged["0.weight"], last["0.weight"])
    # What it averages is trained as if nothing was averaged.
    saved = torch.load(tmp_path / "average" / "checkpoint.pt", weights_only=True)
    assert_equal(saved["network"], last)


# Resuming


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"schedule": "cosine", "warmup": 5},
        {"average": 0.9, "decay_every": 1},
        {"precision": "bfloat16"},
        {"checkpoint_every": 3},
        {"validate_every": 3},
    ],
    ids=str,
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path, settings, monkeypatch):
    settings = {"epochs": 5, **settings}
    whole = run(tmp_path / "whole", **settings)

    class Killed(TinyStage):
        steps = 0

        def loss(self, network, batch):
            Killed.steps += 1
            if Killed.steps in (2, 9, 19):
                raise KeyboardInterrupt
            return super().loss(network, batch)

    torch.rand(7)  # whatever else draws random numbers in between
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", Killed(), **settings)
    assert_equal(run(tmp_path / "broken", **settings), whole)
    assert lines(tmp_path / "broken") == lines(tmp_path / "whole")


def test_a_run_goes_on_from_within_an_epoch(tmp_path, monkeypatch):
    """What is saved by the clock between two steps is gone on from between these two steps."""
    whole = run(tmp_path / "whole", average=0.9)
    seen = []

    class Killed(TinyStage):
        def loss(self, network, batch):
            seen.extend([batch] * network.training)
            if len(seen) == STEPS + 3:
                raise KeyboardInterrupt
            return super().loss(network, batch)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", Killed(), average=0.9, checkpoint_minutes=1e-9)
    saved = torch.load(tmp_path / "broken" / "checkpoint.pt", weights_only=True)
    assert (saved["epoch"], saved["step"]) == (1, 2)
    stage = TinyStage()
    losses = []
    original = stage.loss
    stage.loss = lambda *both: losses.append(both) or original(*both)
    assert_equal(run(tmp_path / "broken", stage, average=0.9), whole)
    validations = 3
    assert len(losses) == 2 * STEPS + 1 + validations
    assert lines(tmp_path / "broken") == lines(tmp_path / "whole")


@pytest.mark.parametrize(("by", "best"), [("mean_iou", 2), ("l1", 3)])
def test_the_best_weights_are_the_result(tmp_path, by, best):
    """Also of a run that is interrupted after them."""
    figures = {"mean_iou": [0.3, 0.7, 0.5, 0.6, math.nan], "l1": [0.3, 0.2, 0.1, 0.1, 0.4]}[by]

    class Judged(TinyStage):
        def __init__(self, kill_at=99):
            super().__init__()
            self.kept, self.kill_at = [], kill_at

        def loss(self, network, batch):
            self.kill_at -= network.training
            if not self.kill_at:
                raise KeyboardInterrupt
            return super().loss(network, batch)

        def validate(self, network, batches, device):
            self.kept.append({k: v.clone() for k, v in network.state_dict().items()})
            return {by: figures[len(lines(tmp_path / "run"))]}

    stage = Judged()
    result = run(tmp_path / "run", stage, epochs=5, best_by=by)
    assert_equal(result, stage.kept[best - 1])
    assert_equal(dict(stage.network.state_dict()), result)
    (tmp_path / "run").rename(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", Judged(kill_at=4 * STEPS), epochs=5, best_by=by)
    assert_equal(run(tmp_path / "run", Judged(), epochs=5, best_by=by), result)
    with pytest.raises(ConfigError, match=r"tells no pk.*Correct `best_by`"):
        run(tmp_path / "other", epochs=5, best_by="pk")


def test_other_data_does_not_continue_a_run(tmp_path):
    run(tmp_path / "run", epochs=1)
    path = tmp_path / "run" / "checkpoint.pt"
    torch.save({**torch.load(path, weights_only=True), "pictures": 99}, path)
    with pytest.raises(ConfigError, match=r"began with 99 pictures.*there are 12 now"):
        run(tmp_path / "run", epochs=2)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"checkpoint\.pt is damaged"):
        run(tmp_path / "run", epochs=2)


def test_where_and_how_a_run_goes_on_is_no_other_configuration(tmp_path):
    before = SegConfig(data=CrcHistoData(kind="crchisto", root="/a"), fit=config(workers=2))
    open_run(tmp_path, before)
    moved = before.data.model_copy(update={"root": Path("/b")})
    now = before.model_copy(update={"data": moved, "fit": config(checkpoint_minutes=1)})
    open_run(tmp_path, now)
    assert config_of(tmp_path)["data"]["root"] == "/a"
    other = now.model_copy(update={"gamma": 2.0, "fit": config(epochs=9)})
    with pytest.raises(ConfigError, match=r"gamma was 1.0 and is 2.0; fit.epochs was 4 and is 9"):
        open_run(tmp_path, other)
    # What a run did not know of yet has its default.
    old = {k: v for k, v in config_of(tmp_path).items() if k != "optimiser"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    open_run(tmp_path, now)
    (tmp_path / "config.yaml").write_text("gama: 1")
    with pytest.raises(ConfigError, match="another configuration, or damaged"):
        open_run(tmp_path, now)


def test_a_run_killed_between_its_two_files_repeats_the_epoch(tmp_path):
    whole = run(tmp_path / "whole", epochs=3)
    run(tmp_path / "broken", epochs=2)
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
    assert_equal(run(tmp_path / "broken", epochs=3), whole)
    assert lines(tmp_path / "broken") == lines(tmp_path / "whole")


def test_a_finished_run_stays_as_it_is(tmp_path):
    once = run(tmp_path / "run", average=0.9)
    before = lines(tmp_path / "run")
    stage = TinyStage()
    assert_equal(run(tmp_path / "run", stage, average=0.9), once)
    assert_equal(dict(stage.network.state_dict()), once)
    assert lines(tmp_path / "run") == before


def test_checkpoints_and_validations_come_as_often_as_told_and_at_the_end(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        State, "save", lambda self, run, at, save=State.save: (
            saved.append(at.epoch), save(self, run, at)
        )
    )  # fmt: skip
    run(tmp_path / "run", epochs=5, checkpoint_every=2, validate_every=3)
    assert saved == [2, 4, 5]
    assert [line["epoch"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4, 5]
    assert [line["epoch"] for line in lines(tmp_path / "run") if "l1" in line] == [3, 5]


# How steps are taken


def test_the_loop_takes_the_steps_that_one_takes_by_hand(tmp_path):
    ours = run(tmp_path / "run", epochs=2)

    stage = TinyStage()
    (batches, order), _ = loaders()
    losses = []
    for epoch in range(2):
        order.epoch = epoch
        stage.network.train()
        for step, batch in enumerate(batches, 1):
            module._seed(0, epoch, step)
            loss = stage.loss(stage.network, batch)
            stage.optimiser.zero_grad()
            loss.backward()
            stage.optimiser.step()
            losses.append(loss.item())
    for name, tensor in stage.network.state_dict().items():
        torch.testing.assert_close(ours[name], tensor, msg=name)
    means = [np.mean(losses[:STEPS]), np.mean(losses[STEPS:])]
    assert [line["loss"] for line in lines(tmp_path / "run")] == pytest.approx(means)


def test_each_step_draws_other_random_numbers():
    drawn = set()
    for seed, epoch, step in np.ndindex(2, 2, 2):
        module._seed(seed, epoch, step)
        drawn.add(float(torch.rand(())))
    assert len(drawn) == 8


def test_gradients_are_clipped_to_a_norm(tmp_path):
    torch.manual_seed(0)
    before = TinyStage().network[0].weight.detach().clone()

    class Steep(TinyStage):
        def __init__(self):
            super().__init__()
            self.optimiser = torch.optim.SGD(self.network.parameters(), 1.0)

        def loss(self, network, batch):
            return 1e6 * super().loss(network, batch)

    stage = Steep()
    run(tmp_path / "run", stage, epochs=1, clip=1e-3)
    assert (stage.network[0].weight - before).norm() <= STEPS * 1.001e-3


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    class Diverging(TinyStage):
        taken = 0

        def loss(self, network, batch):
            self.taken += network.training
            return super().loss(network, batch) * (math.nan if self.taken == STEPS + 2 else 1)

    with pytest.raises(TrainingError, match=r"step 2 of epoch 2: the training diverged.*clip"):
        run(tmp_path / "run", Diverging())
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert saved["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in saved["network"].values())
    with pytest.raises(ConfigError, match="not finished: it has done 1 of 4 epochs"):
        trained_weights(tmp_path / "run")


def test_bfloat16_is_of_the_layers_and_not_of_the_weights(tmp_path):
    stage = TinyStage()
    half = run(tmp_path / "half", stage, precision="bfloat16")
    assert stage.dtypes == {torch.bfloat16}
    assert all(t.dtype in (torch.float32, torch.int64) for t in half.values())
    whole = run(tmp_path / "whole")
    assert not torch.equal(half["0.weight"], whole["0.weight"])
    torch.testing.assert_close(half["0.weight"], whole["0.weight"], rtol=0, atol=0.03)


def test_a_compiled_run_leaves_the_same_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiled = run(tmp_path / "compiled", epochs=2, compile=True)
    plain = run(tmp_path / "plain", epochs=2)
    assert compiled.keys() == plain.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, msg=name)


# What is written


def test_tensorboard_shows_what_the_lines_say(tmp_path):
    run(tmp_path / "run", epochs=2)
    run(tmp_path / "run", epochs=4)
    shown = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for name in ("loss", "l1", "learning_rate"):
        events = shown.Scalars(name)
        assert [event.step for event in events] == [1, 2, 3, 4]
        assert [event.value for event in events] == pytest.approx(
            [line[name] for line in lines(tmp_path / "run")]
        )


def test_the_environment_names_versions_and_no_places(tmp_path, caplog):
    run(tmp_path / "run", epochs=1)
    path = tmp_path / "run" / "environment.json"
    environment = json.loads(path.read_text())
    assert environment["torch"] == version("torch")
    assert environment["threads"] == torch.get_num_threads()
    assert environment["processes"] == 1
    assert "/" not in path.read_text()

    earlier = copy.deepcopy(environment) | {"torch": "1.0"}
    path.write_text(json.dumps(earlier))
    run(tmp_path / "run", epochs=2)
    assert "the run began with torch 1.0" in caplog.text
    assert json.loads(path.read_text()) == environment


def test_nothing_is_drawn_where_no_terminal_is(tmp_path, capfd):
    run(tmp_path / "run", epochs=1)
    assert capfd.readouterr() == ("", "")


def test_a_forecast_after_20_steps_and_a_line_a_minute(caplog):
    caplog.set_level(logging.INFO)
    now = 0.0
    pace = Pace(1000, 100, lines=True, clock=lambda: now)
    for step in range(1, 200):
        now += 30 if step <= 3 else 2
        pace.step(lambda step=step: f"step {step}")
    told = [record.getMessage() for record in caplog.records]
    # 880 steps at two seconds each, the slow first ones left out.
    assert told[0].startswith("0.50 steps/s: the 880 that are left take about 29 min, until ")
    assert told[1] == "step 50, 0.50 steps/s, 28 min to go"
    assert len(told) == 1 + (199 - 20) // 30
    caplog.clear()
    quiet = Pace(1000, 0, lines=False, clock=lambda: now)
    for _ in range(100):
        now += 9
        quiet.step(pytest.fail)
    assert len(caplog.records) == 1
    assert "2 h 27 min" in caplog.text
    for _ in range(100):
        now += 1
        quiet.step(pytest.fail)
    assert "1.00 steps/s: the 800 that are left take about 13 min" in caplog.text

"""The training loop on a tiny network, each of its choices against PyTorch's own or by hand."""

import copy
import json
import math
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from training import fit as module
from training.data.views import EpochOrder
from training.fit import (
    FitConfig,
    fit,
    moving_average,
    rate_factor,
    run_folder,
    trained_weights,
)

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
        module._State, "save", lambda self, run, epoch, save=module._State.save: (
            saved.append(epoch), save(self, run, epoch)
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
        module._seed(0, epoch)
        stage.network.train()
        for batch in batches:
            loss = stage.loss(stage.network, batch)
            stage.optimiser.zero_grad()
            loss.backward()
            stage.optimiser.step()
            losses.append(loss.item())
    for name, tensor in stage.network.state_dict().items():
        torch.testing.assert_close(ours[name], tensor, msg=name)
    means = [np.mean(losses[:STEPS]), np.mean(losses[STEPS:])]
    assert [line["loss"] for line in lines(tmp_path / "run")] == pytest.approx(means)


def test_each_epoch_draws_other_random_numbers():
    drawn = set()
    for seed in (0, 1):
        for epoch in (0, 1):
            module._seed(seed, epoch)
            drawn.add(float(torch.rand(())))
    assert len(drawn) == 4


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

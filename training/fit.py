"""The one training loop, and what a run leaves behind.

A run is a folder: ``config.yaml`` (resolved), ``metrics.jsonl`` (a line per epoch) and
``checkpoint.pt`` (network, optimiser, schedule and epoch). The same command on the same folder goes
on where the last whole epoch ended, and reaches the weights it would have reached uninterrupted.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training.augment import AugmentConfig
from training.data import (
    Batch,
    EpochOrder,
    GeneratedData,
    training_loader,
    validation_loader,
)
from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.errors import ConfigError

log = logging.getLogger(__name__)

CONFIG_NAME = "config.yaml"
METRICS_NAME = "metrics.jsonl"
CHECKPOINT_NAME = "checkpoint.pt"

VALIDATION_BATCH = 4
"""Whole patches at a time; no figure depends on it."""

Metrics = dict[str, float]


class FitConfig(BaseModel):
    """How long and in what steps to learn. The learning rate belongs to the stage's optimiser."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(gt=0, description="passes over the training set")
    batch: int = Field(gt=0, description="patches per step")
    decay_every: int = Field(gt=0, description="epochs between decays of the learning rate")
    decay: float = Field(default=0.1, gt=0, le=1, description="factor of each decay")
    validate_every: int = Field(default=1, gt=0, description="epochs between validations")
    seed: int = 0
    workers: int = Field(default=0, ge=0, description="processes that load patches; 0 is none")
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Stage(Protocol):
    """What the loop needs to know of a stage of the method."""

    @property
    def network(self) -> nn.Module: ...  # noqa: D102

    @property
    def optimiser(self) -> torch.optim.Optimizer: ...  # noqa: D102

    def training_mode(self) -> None:
        """Put the network into training mode, less what is frozen."""

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch that is on the network's device."""

    def validate(self, batches: DataLoader[Any], device: torch.device) -> Metrics:
        """Judge the network, in evaluation mode, over a whole set."""


def open_run(run: Path, config: BaseModel) -> None:
    """Make a run's folder and save its configuration there, or see that it is the same.

    Raises:
        ConfigError: If the folder holds a run with another configuration.

    """
    run.mkdir(parents=True, exist_ok=True)
    resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    path = run / CONFIG_NAME
    if path.exists() and path.read_text(encoding="utf-8") != resolved:
        raise ConfigError(
            f"{path} is of a run with another configuration; "
            "choose another folder with --run, or delete that one."
        )
    with atomic_path(path) as partial:
        partial.write_text(resolved, encoding="utf-8")


def trained_weights(run: Path) -> dict[str, Tensor]:
    """Read the network's weights from a run's checkpoint.

    Raises:
        ConfigError: If there is none.

    """
    path = run / CHECKPOINT_NAME
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; give the folder of a finished training run.")
    weights: dict[str, Tensor] = _load(path, torch.device("cpu"))["network"]
    return weights


def choose_device(wish: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device to train on: the GPU, if there is one, unless told otherwise."""
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wish)


def open_data(
    data: GeneratedData, augment: AugmentConfig, config: FitConfig
) -> tuple[tuple[DataLoader[Any], EpochOrder], DataLoader[Any]]:
    """Return a stage's training batches, with the order that an epoch sets, and validation."""
    training = training_loader(
        data, augment, batch=config.batch, seed=config.seed, workers=config.workers
    )
    return training, validation_loader(data, batch=VALIDATION_BATCH)


def fit(
    run: Path,
    config: FitConfig,
    stage: Stage,
    training: tuple[DataLoader[Any], EpochOrder],
    validation: DataLoader[Any],
) -> None:
    """Train a stage's network to the end of the configured epochs, from its last checkpoint on."""
    device = choose_device(config.device)
    stage.network.to(device)
    stage.network.to(memory_format=torch.channels_last)
    schedule = torch.optim.lr_scheduler.StepLR(stage.optimiser, config.decay_every, config.decay)
    state = _State(stage, schedule, run, device)
    first = state.resume()
    batches, order = training
    with Progress() as progress:
        epochs = progress.add_task("epochs", total=config.epochs, completed=first)
        steps = progress.add_task("steps", total=len(batches))
        for epoch in range(first, config.epochs):
            order.epoch = epoch
            stage.training_mode()
            progress.reset(steps)
            total = torch.zeros((), device=device)
            for batch in batches:
                loss = stage.loss(to_device(batch, device))
                stage.optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                stage.optimiser.step()
                total += loss.detach()
                progress.advance(steps)
            metrics = {
                "learning_rate": float(schedule.get_last_lr()[0]),
                "loss": float(total) / len(batches),
            }
            schedule.step()
            if (epoch + 1) % config.validate_every == 0:
                metrics |= evaluate(stage.network, lambda: stage.validate(validation, device))
            state.save(epoch + 1, metrics)
            progress.advance(epochs)
            log.info("epoch %d: %s", epoch + 1, _words(metrics))


def evaluate(network: nn.Module, judge: Callable[[], Metrics]) -> Metrics:
    """Judge a network in evaluation mode, without gradients."""
    network.eval()
    with torch.no_grad():
        return judge()


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch to a device."""
    pixels, mask, score = (part.to(device, non_blocking=True) for part in batch)
    return pixels, mask, score


@dataclass
class _State:
    """What a run's checkpoint holds, and how it gets there and back."""

    stage: Stage
    schedule: torch.optim.lr_scheduler.LRScheduler
    run: Path
    device: torch.device

    def resume(self) -> int:
        """Go back to the last checkpoint, if any; return how many epochs are done."""
        path = self.run / CHECKPOINT_NAME
        if not path.exists():
            (self.run / METRICS_NAME).unlink(missing_ok=True)
            return 0
        saved = _load(path, self.device)
        self.stage.network.load_state_dict(saved["network"])
        self.stage.optimiser.load_state_dict(saved["optimiser"])
        self.schedule.load_state_dict(saved["schedule"])
        torch.set_rng_state(saved["random"].cpu())
        # A kill between the two files leaves a line too many, of the epoch that is done again.
        done = int(saved["epoch"])
        lines = (self.run / METRICS_NAME).read_text(encoding="utf-8").splitlines(keepends=True)
        with atomic_path(self.run / METRICS_NAME) as partial:
            partial.write_text("".join(lines[:done]), encoding="utf-8")
        log.info("going on after epoch %d", done)
        return done

    def save(self, epoch: int, metrics: Metrics) -> None:
        with (self.run / METRICS_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, **metrics}) + "\n")
        with atomic_path(self.run / CHECKPOINT_NAME) as partial:
            torch.save(
                {
                    "epoch": epoch,
                    "network": self.stage.network.state_dict(),
                    "optimiser": self.stage.optimiser.state_dict(),
                    "schedule": self.schedule.state_dict(),
                    "random": torch.get_rng_state(),
                },
                partial,
            )


def _load(path: Path, device: torch.device) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return saved


def _words(metrics: Metrics) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())

"""The one training loop, and what a run leaves behind.

A run is a folder: ``config.yaml`` (resolved), ``environment.json`` (versions and device),
``metrics.jsonl`` (a line per epoch; the same for TensorBoard in ``tensorboard``) and
``checkpoint.pt`` (weights, optimiser, schedule and epoch). The same command on the same folder goes
on from the last checkpoint, and reaches the weights it would have reached uninterrupted.
"""

import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeVar

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from training import distributed
from training.data.views import Batch, EpochOrder
from training.record import Metrics, Record, save_environment
from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.errors import ConfigError

__all__ = [
    "FitConfig",
    "Metrics",
    "Stage",
    "choose_device",
    "evaluate",
    "fit",
    "open_run",
    "to_device",
    "trained_weights",
]

log = logging.getLogger(__name__)

CONFIG_NAME = "config.yaml"
CHECKPOINT_NAME = "checkpoint.pt"


Result = TypeVar("Result")


class FitConfig(BaseModel):
    """How long and in what steps to learn. The learning rate belongs to the stage's optimiser."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(gt=0, description="passes over the training set")
    batch: int = Field(gt=0, description="patches per step, of all processes together")
    schedule: Literal["step", "cosine"] = Field(
        default="step", description="how the learning rate falls: now and then, or ever to zero"
    )
    decay_every: int | None = Field(
        default=None, gt=0, description="epochs between decays of a step schedule; null is never"
    )
    decay: float = Field(default=0.1, gt=0, le=1, description="factor of each decay")
    warmup: int = Field(default=0, ge=0, description="steps in which the learning rate rises")
    average: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay per step of a moving average of the weights, which is then the result",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the network's layers; losses are float32 in any case"
    )
    compile: bool = Field(default=False, description="compile the steps: worth it on GPUs")
    validate_every: int = Field(default=1, gt=0, description="epochs between validations")
    checkpoint_every: int = Field(default=1, gt=0, description="epochs between checkpoints")
    seed: int = 0
    workers: int = Field(default=0, ge=0, description="processes that load patches; 0 is none")
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _decay_is_of_the_step_schedule(self) -> Self:
        if self.schedule == "cosine" and self.decay_every is not None:
            raise ValueError("decay_every belongs to the step schedule; leave it out with cosine")
        return self


class Stage(Protocol):
    """What the loop needs to know of a stage of the method."""

    @property
    def network(self) -> nn.Module: ...  # noqa: D102

    @property
    def optimiser(self) -> torch.optim.Optimizer: ...  # noqa: D102

    def training_mode(self) -> None:
        """Put the network into training mode, less what is frozen."""

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of a batch that is on the network's device.

        The network given is the stage's own, maybe compiled or shared with other processes.
        """

    def validate(
        self, network: nn.Module, batches: DataLoader[Any], device: torch.device
    ) -> Metrics:
        """Judge a network like the stage's own, in evaluation mode, over a whole set."""


def run_folder(given: Path | None, config: Path) -> Path:
    """Return the folder of a run: the given one, or runs/<name of the configuration's file>."""
    return given or Path("runs") / config.stem


def open_run(run: Path, config: BaseModel) -> None:
    """Make a run's folder and save its configuration there, or see that it is the same.

    Raises:
        ConfigError: If the folder holds a run with another configuration.

    """
    run.mkdir(parents=True, exist_ok=True)
    resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    path = run / CONFIG_NAME
    if not path.exists():
        with atomic_path(path) as partial_path:
            partial_path.write_text(resolved, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != resolved:
        raise ConfigError(
            f"{path} is of a run with another configuration; "
            "choose another folder with --run, or delete that one."
        )


def trained_weights(run: Path) -> dict[str, Tensor]:
    """Read the weights that a run has arrived at, averaged ones if it averages, on the CPU.

    Raises:
        ConfigError: If there are none.

    """
    path = run / CHECKPOINT_NAME
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; give the folder of a finished training run.")
    saved = _load(path)
    network: dict[str, Tensor] = saved["network"]
    averaged: dict[str, Tensor] = saved.get("average", {})
    return {name: averaged.get(f"module.{name}", tensor) for name, tensor in network.items()}


def choose_device(wish: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device to train on: this process's GPU, if there is one, unless told otherwise."""
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda", distributed.local_gpu()) if wish == "cuda" else torch.device("cpu")


def fit(
    run: Path,
    config: FitConfig,
    stage: Stage,
    training: tuple[DataLoader[Any], EpochOrder],
    validation: DataLoader[Any],
) -> None:
    """Train a stage's network to the end of the configured epochs, from its last checkpoint on.

    Under ``torchrun`` all processes step together, and the first alone validates and writes.
    """
    device = choose_device(config.device)
    stage.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    stepping = distributed.shared(stage.network, device)
    if config.compile:
        stepping = torch.compile(stepping)  # type: ignore[assignment]
    autocast = torch.autocast(device.type, torch.bfloat16, config.precision == "bfloat16")
    batches, order = training
    state = _State.initial(stage, config, len(batches))
    first = state.resume(run)
    writes = distributed.is_first()
    if writes:
        save_environment(run, device, distributed.world())
    with (
        Record(run, first) if writes else nullcontext() as record,
        _progress(shown=writes) as progress,
    ):
        epochs = progress.add_task("epochs", total=config.epochs, completed=first)
        steps = progress.add_task("steps", total=len(batches))
        for epoch in range(first, config.epochs):
            order.epoch = epoch
            _seed(config.seed, epoch)
            rate = state.schedule.get_last_lr()[0]
            stage.training_mode()
            progress.reset(steps)
            total = torch.zeros((), device=device)
            for batch in batches:
                with autocast:
                    loss = stage.loss(stepping, to_device(batch, device))
                state.step(loss)
                total += loss.detach()
                progress.advance(steps)
            metrics = {
                "learning_rate": float(rate),
                "loss": float(distributed.mean(total / len(batches))),
            }
            if record is not None:
                if _due(epoch, config.validate_every, config.epochs):
                    with autocast:
                        metrics |= evaluate(
                            state.result, lambda: stage.validate(state.result, validation, device)
                        )
                record.add(epoch + 1, metrics)
                if _due(epoch, config.checkpoint_every, config.epochs):
                    state.save(run, epoch + 1)
            progress.advance(epochs)
    stage.network.load_state_dict(state.result.state_dict())


def evaluate(network: nn.Module, judge: Callable[[], Result]) -> Result:
    """Judge a network in evaluation mode, without gradients."""
    network.eval()
    with torch.no_grad():
        return judge()


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch to a device."""
    pixels, mask, score = (part.to(device, non_blocking=True) for part in batch)
    return pixels, mask, score


def rate_factor(config: FitConfig, steps: int, step: int) -> float:
    """Return a step's learning rate over the initial one.

    Args:
        config: its warmup, its schedule and that schedule's length.
        steps: steps of an epoch.
        step: number of the step since the run began, from 0.

    """
    warmth = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.schedule == "cosine":
        return warmth * (1 + math.cos(math.pi * step / (config.epochs * steps))) / 2
    decays = step // (config.decay_every * steps) if config.decay_every else 0
    return warmth * config.decay**decays


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of weights and batch statistics.

    Its decay rises over the first steps, so that a short run's result holds little of where it
    began: (1 + n) / (10 + n) after n steps, as in TensorFlow's moving average.
    """

    def mix(average: PARAM_LIST, now: PARAM_LIST, count: Tensor | int) -> None:
        by = min(decay, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(by)(average, now, count)  # type: ignore[no-untyped-call]

    return AveragedModel(network, multi_avg_fn=mix, use_buffers=True)


@dataclass
class _State:
    """What changes with each step, and how it gets into a checkpoint and back."""

    network: nn.Module
    average: AveragedModel | None
    optimiser: torch.optim.Optimizer
    schedule: LambdaLR

    @classmethod
    def initial(cls, stage: Stage, config: FitConfig, steps: int) -> Self:
        return cls(
            stage.network,
            None if config.average is None else moving_average(stage.network, config.average),
            stage.optimiser,
            LambdaLR(stage.optimiser, partial(rate_factor, config, steps)),
        )

    @property
    def result(self) -> nn.Module:
        """The network to judge and to export."""
        return self.network if self.average is None else self.average.module

    def step(self, loss: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.network)

    def resume(self, run: Path) -> int:
        """Go back to the last checkpoint, if any; return how many epochs are done."""
        path = run / CHECKPOINT_NAME
        if not path.exists():
            return 0
        saved = _load(path)
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        log.info("going on after epoch %d", saved["epoch"])
        return int(saved["epoch"])

    def save(self, run: Path, epoch: int) -> None:
        states = {name: part.state_dict() for name, part in self._parts().items()}
        with atomic_path(run / CHECKPOINT_NAME) as partial_path:
            torch.save({"epoch": epoch, **states}, partial_path)

    def _parts(self) -> dict[str, Any]:
        parts = {
            "network": self.network,
            "average": self.average,
            "optimiser": self.optimiser,
            "schedule": self.schedule,
        }
        return {name: part for name, part in parts.items() if part is not None}


def _load(path: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return saved


def _due(epoch: int, every: int, epochs: int) -> bool:
    return (epoch + 1) % every == 0 or epoch + 1 == epochs


def _seed(seed: int, epoch: int) -> None:
    """Give each process and epoch its own random numbers, whatever was drawn before."""
    source = np.random.SeedSequence((seed, epoch, distributed.rank()))
    torch.manual_seed(int(source.generate_state(1)[0]))


def _progress(*, shown: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, disable=not (shown and console.is_terminal))

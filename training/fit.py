"""The one training loop, and what a run leaves behind.

A run is a folder: ``config.yaml`` (resolved), ``environment.json`` (versions and device),
``metrics.jsonl`` (a line per epoch; the same for TensorBoard in ``tensorboard``),
``checkpoint.pt`` (weights, optimiser, schedule, epoch and step) and, if the best is to be kept,
``best.pt``. The same command on the same folder goes on from the last checkpoint, and reaches the
weights it would have reached uninterrupted.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training import distributed
from training.data.views import Batch, EpochOrder
from training.pace import Pace
from training.record import Metrics, Record, save_environment
from training.schedule import FitConfig
from training.state import Position, State
from wsi_pipeline.errors import ConfigError, TrainingError

__all__ = [
    "FitConfig",
    "Metrics",
    "Stage",
    "choose_device",
    "evaluate",
    "fit",
    "to_device",
]

# On a GPU a loss is a number only when all before it is done: it is not asked after every step.
_CHECK_EVERY_ON_GPU = 50

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Batches(Protocol):
    """An epoch's batches, whatever they come from."""

    @property
    def batch_size(self) -> int | None: ...

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


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


@runtime_checkable
class Drawing(Protocol):
    """A stage whose predictions can be looked at."""

    def draw(self, network: nn.Module, batches: DataLoader[Any], device: torch.device) -> Tensor:
        """Return pictures, their truth and what is predicted in one, uint8 [3, H, W]."""


def choose_device(wish: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device to train on: this process's GPU, if there is one, unless told otherwise."""
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda", distributed.local_gpu()) if wish == "cuda" else torch.device("cpu")


def fit(
    run: Path,
    config: FitConfig,
    stage: Stage,
    training: tuple[Batches, EpochOrder],
    validation: DataLoader[Any],
) -> None:
    """Train a stage's network to the end of the configured epochs, from its last checkpoint on.

    Under ``torchrun`` all processes step together, and the first alone validates and writes.
    """
    device = choose_device(config.device)
    if config.best_by is not None and not len(validation):
        raise ConfigError(
            "Nobody is held back who could tell which weights are best; set `best_by: null` in the "
            "configuration's `fit`, or hold a fold back."
        )
    stage.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    stepping = distributed.shared(stage.network, device)
    if config.compile:
        stepping = torch.compile(stepping)  # type: ignore[assignment]
    batches, order = training
    state = State.initial(stage.network, stage.optimiser, config, len(batches))
    at = state.resume(run, order.count)
    writes = distributed.is_first()
    if writes:
        save_environment(run, device, distributed.world())
    with (
        Record(run, at.epoch) if writes else nullcontext() as record,
        _progress(shown=writes) as progress,
    ):
        epochs = progress.add_task("epochs", total=config.epochs, completed=at.epoch)
        steps = progress.add_task("steps", total=len(batches))
        done = at.epoch * len(batches) + at.step
        if writes:
            log.info(
                "learning from %d pictures, %d steps an epoch, judged by %d",
                *(order.count, len(batches), len(validation)),
            )
        pace = Pace(config.epochs * len(batches), done, lines=writes and progress.disable)
        saved = time.monotonic()
        for epoch in range(at.epoch, config.epochs):
            begin = at.step if epoch == at.epoch else 0
            order.epoch, order.start = epoch, begin * (batches.batch_size or 1)
            rate = state.schedule.get_last_lr()[0]
            stage.training_mode()
            progress.reset(steps, completed=begin)
            total = torch.full((), at.loss if begin else 0.0, dtype=torch.float64, device=device)
            _seed(config.seed, epoch, begin)
            for step, batch in enumerate(batches, begin + 1):
                _seed(config.seed, epoch, step)
                total += state.step(_losses(stage, stepping, batch, device, config))
                if device.type == "cpu" or step % _CHECK_EVERY_ON_GPU == 0:
                    _require_number(total, epoch, step)
                progress.advance(steps)
                pace.step(partial(_place, epoch, step, len(batches), total, config))
                late = time.monotonic() - saved > 60 * config.checkpoint_minutes
                # The first process knows the sum of its own losses alone.
                if late and distributed.world() == 1 and step < len(batches):
                    _require_number(total, epoch, step)
                    state.save(run, Position(epoch, step, float(total)))
                    saved = time.monotonic()
            _require_number(total, epoch, len(batches))
            metrics = {
                "learning_rate": float(rate),
                "loss": float(distributed.mean(total / len(batches))),
            }
            if record is not None:
                if len(validation) and _due(epoch, config.validate_every, config.epochs):
                    with _autocast(device, config):
                        metrics |= evaluate(
                            state.result, lambda: stage.validate(state.result, validation, device)
                        )
                        if isinstance(stage, Drawing):
                            draw = partial(stage.draw, state.result, validation, device)
                            record.draw(epoch + 1, evaluate(state.result, draw))
                    state.keep_best(run, epoch + 1, metrics)
                record.add(epoch + 1, metrics)
                if _due(epoch, config.checkpoint_every, config.epochs):
                    state.save(run, Position(epoch + 1))
                    saved = time.monotonic()
            progress.advance(epochs)
    best = state.best_weights(run) if writes else None
    stage.network.load_state_dict(best or state.result.state_dict())


def evaluate(network: nn.Module, judge: Callable[[], Result]) -> Result:
    """Judge a network in evaluation mode, without gradients."""
    network.eval()
    with torch.no_grad():
        return judge()


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch to a device."""
    return tuple(part.to(device, non_blocking=True) for part in batch)


def _autocast(device: torch.device, config: FitConfig) -> torch.autocast:
    on_gpu = config.precision == "auto" and device.type == "cuda"
    return torch.autocast(device.type, torch.bfloat16, on_gpu or config.precision == "bfloat16")


def _losses(
    stage: Stage, network: nn.Module, batch: Batch, device: torch.device, config: FitConfig
) -> Iterator[Tensor]:
    """Yield the loss of each part that a batch is taken in, scaled so that they add up."""
    parts = [part.chunk(config.parts) for part in to_device(batch, device)]
    for part in zip(*parts, strict=True):
        with _autocast(device, config):
            loss = stage.loss(network, part)
        yield loss * (len(part[0]) / len(batch[0])) if config.parts > 1 else loss


def _due(epoch: int, every: int, epochs: int) -> bool:
    return (epoch + 1) % every == 0 or epoch + 1 == epochs


def _require_number(total: Tensor, epoch: int, step: int) -> None:
    if not math.isfinite(float(total)):
        raise TrainingError(
            f"The loss is no number any more in step {step} of epoch {epoch + 1}: the training "
            "diverged. Lower the learning rate, or add `warmup` or `clip` to `fit`, and start anew "
            "with another --run; the last checkpoint is from before."
        )


def _place(epoch: int, step: int, steps: int, total: Tensor, config: FitConfig) -> str:
    loss = float(total) / step
    return f"epoch {epoch + 1} of {config.epochs}, step {step} of {steps}: loss {loss:.4g}"


def _seed(seed: int, epoch: int, step: int) -> None:
    """Give each process and step its own random numbers, whatever was drawn before."""
    source = np.random.SeedSequence((seed, epoch, step, distributed.rank()))
    torch.manual_seed(int(source.generate_state(1)[0]))


def _progress(*, shown: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, disable=not (shown and console.is_terminal))

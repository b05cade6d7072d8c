"""What changes with each step of a training, and how it gets into a checkpoint and back."""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn

from training.record import Metrics
from training.run import BEST_NAME, CHECKPOINT_NAME, load_checkpoint
from training.schedule import FitConfig, rate_factor
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.files import atomic_path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """How far a run is."""

    epoch: int = 0
    """Epochs that are done."""
    step: int = 0
    """Steps of the next one that are done too."""
    loss: float = 0.0
    """Sum of those steps' losses."""


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of weights and batch statistics.

    Its decay rises over the first steps, so that a short run's result holds little of where it
    began: (1 + n) / (10 + n) after n steps, as in TensorFlow's moving average.
    """

    def mix(average: PARAM_LIST, now: PARAM_LIST, count: Tensor | int) -> None:
        if not now[0].is_floating_point():  # counters of batches, which nothing reads
            torch._foreach_copy_(average, now)
            return
        # Its own counter, and not the copy on the weights' device: a GPU would be waited for.
        done = int(averaged.n_averaged)
        by = min(decay, (1 + done) / (10 + done))
        get_ema_multi_avg_fn(by)(average, now, count)  # type: ignore[no-untyped-call]

    averaged = AveragedModel(network, multi_avg_fn=mix, use_buffers=True)
    return averaged


@dataclass
class State:
    """What changes with each step, and how it gets into a checkpoint and back."""

    network: nn.Module
    average: AveragedModel | None
    optimiser: torch.optim.Optimizer
    schedule: LambdaLR
    config: FitConfig
    pictures: int = 0
    best: float | None = None

    @classmethod
    def initial(
        cls, network: nn.Module, optimiser: torch.optim.Optimizer, config: FitConfig, steps: int
    ) -> Self:
        """Return the state before the first step; ``steps`` are those of an epoch."""
        return cls(
            network,
            None if config.average is None else moving_average(network, config.average),
            optimiser,
            LambdaLR(optimiser, partial(rate_factor, config, steps)),
            config,
        )

    @property
    def result(self) -> nn.Module:
        """The network to judge and to export."""
        return self.network if self.average is None else self.average.module

    def step(self, losses: Iterable[Tensor]) -> Tensor:
        """Take a step downhill; return the sum of the losses, which are taken one by one."""
        self.optimiser.zero_grad(set_to_none=True)
        taken = []
        for loss in losses:
            loss.backward()  # type: ignore[no-untyped-call]
            taken.append(loss.detach())
        if self.config.clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimiser.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return torch.stack(taken).sum()

    def resume(self, run: Path, pictures: int) -> Position:
        """Go back to the last checkpoint, if any; return how far it is.

        Raises:
            ConfigError: If the run began with another number of pictures.

        """
        self.pictures = pictures
        path = run / CHECKPOINT_NAME
        if not path.exists():
            return Position()
        saved = load_checkpoint(path)
        if saved.get("pictures", pictures) != pictures:
            raise ConfigError(
                f"{run} began with {saved['pictures']} pictures to learn from, and there are "
                f"{pictures} now: give it the same data, or another folder with --run."
            )
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        if (run / BEST_NAME).exists():
            self.best = load_checkpoint(run / BEST_NAME)["value"]
        at = Position(saved["epoch"], saved.get("step", 0), saved.get("loss", 0.0))
        log.info("going on after %d epochs and %d steps", at.epoch, at.step)
        return at

    def save(self, run: Path, at: Position) -> None:
        """Write a checkpoint, in place of the last."""
        states = {name: part.state_dict() for name, part in self._parts().items()}
        more = {"epochs": self.config.epochs, "pictures": self.pictures}
        with atomic_path(run / CHECKPOINT_NAME) as partial_path:
            torch.save({**vars(at), **more, **states}, partial_path)

    def keep_best(self, run: Path, epoch: int, metrics: Metrics) -> None:
        """Save the weights if no earlier ones had as good a figure."""
        if (name := self.config.best_by) is None:
            return
        if name not in metrics:
            raise ConfigError(
                f"The validation tells no {name}, by which the best weights are to be kept; it "
                f"tells {', '.join(metrics)}. Correct `best_by`."
            )
        value = -metrics[name] if name == "l1" else metrics[name]
        if math.isnan(value) or (self.best is not None and value <= self.best):
            return
        self.best = value
        weights = self.result.state_dict()
        with atomic_path(run / BEST_NAME) as partial_path:
            torch.save({"epoch": epoch, "value": value, "weights": weights}, partial_path)

    def best_weights(self, run: Path) -> dict[str, Tensor] | None:
        """Return the weights that were kept as the best, if any were."""
        path = run / BEST_NAME
        if self.config.best_by is None or not path.exists():
            return None
        weights: dict[str, Tensor] = load_checkpoint(path)["weights"]
        return weights

    def _parts(self) -> dict[str, Any]:
        parts = {
            "network": self.network,
            "average": self.average,
            "optimiser": self.optimiser,
            "schedule": self.schedule,
        }
        return {name: part for name, part in parts.items() if part is not None}

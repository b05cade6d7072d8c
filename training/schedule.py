"""How long and in what steps a stage learns."""

import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# As PyTorch's one-cycle schedule has them: the share of the steps in which the rate rises, what it
# rises from and what it falls to.
_RISE, _CYCLE_START, _CYCLE_END = 0.3, 1 / 25, 1 / 25e4


class FitConfig(BaseModel):
    """How long and in what steps to learn. The learning rate belongs to the stage's optimiser."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(gt=0, description="passes over the training set")
    batch: int = Field(gt=0, description="patches per step, of all processes together")
    parts: int = Field(
        default=1,
        gt=0,
        description="parts that a batch is taken in, one by one, where memory is short: gradients "
        "add up, and batch norms see a part",
    )
    schedule: Literal["step", "cosine", "onecycle"] = Field(
        default="step",
        description="how the learning rate falls: now and then, ever to zero, or after a long rise",
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
    clip: float | None = Field(
        default=None, gt=0, description="largest norm of a step's gradient; null is none"
    )
    best_by: Literal["mean_iou", "pk", "l1"] | None = Field(
        default=None,
        description="figure of the validation whose best weights are the result; null is the last",
    )
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        default="float32",
        description="of the network's layers; losses are float32 in any case. auto is bfloat16 on "
        "a GPU and float32 elsewhere",
    )
    compile: bool = Field(default=False, description="compile the steps: worth it on GPUs")
    validate_every: int = Field(default=1, gt=0, description="epochs between validations")
    checkpoint_every: int = Field(default=1, gt=0, description="epochs between checkpoints")
    checkpoint_minutes: float = Field(
        default=10, gt=0, description="minutes between checkpoints within an epoch"
    )
    seed: int = 0
    workers: int = Field(default=0, ge=0, description="processes that load patches; 0 is none")
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _decay_is_of_the_step_schedule(self) -> Self:
        if self.schedule != "step" and self.decay_every is not None:
            raise ValueError(
                f"decay_every belongs to the step schedule; leave it out with {self.schedule}"
            )
        if self.schedule == "onecycle" and self.warmup:
            raise ValueError("the one-cycle schedule has a warmup of its own; leave warmup out")
        return self


def rate_factor(config: FitConfig, steps: int, step: int) -> float:
    """Return a step's learning rate over the initial one.

    Args:
        config: its warmup, its schedule and that schedule's length.
        steps: steps of an epoch.
        step: number of the step since the run began, from 0.

    """
    warmth = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.schedule == "onecycle":
        return _one_cycle(step, config.epochs * steps)
    if config.schedule == "cosine":
        return warmth * (1 + math.cos(math.pi * step / (config.epochs * steps))) / 2
    decays = step // (config.decay_every * steps) if config.decay_every else 0
    return warmth * config.decay**decays


def _one_cycle(step: int, total: int) -> float:
    top, last = _RISE * total - 1, total - 1
    if step <= top:
        return _between(_CYCLE_START, 1, step / top)
    return _between(1, _CYCLE_END, min(1.0, (step - top) / (last - top)))


def _between(start: float, end: float, share: float) -> float:
    """Go from one value to another along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

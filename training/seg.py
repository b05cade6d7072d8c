"""Stage 1: a DeepLabv3+ learns the classes of nuclei.

``python -m training.seg --config configs/seg-demo.yaml``
"""

import logging
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training.augment import AugmentConfig, Shrunk
from training.command import command
from training.data import Data
from training.data.generated import GeneratedData
from training.data.resident import Resident, batches
from training.data.views import Batch
from training.distributed import first_process_first, processes
from training.fit import FitConfig, Metrics, choose_device, fit, to_device
from training.losses import centre_loss, focal_loss, tumour_near_loss
from training.metrics import confusion_matrix, mean_iou, pixel_accuracy
from training.pretrained import imagenet_weights
from training.run import open_run
from training.start import Start
from wsi_pipeline.errors import ConfigError, WsiError
from wsi_pipeline.model.architecture import CLASSES, Architecture, LogitStride, Upsampling
from wsi_pipeline.model.network import SegmentationNetwork

log = logging.getLogger(__name__)

# Black, green, blue and red as in the paper's figure 2, and grey for what nobody judged.
_COLOURS = np.full((256, 3), 128, np.uint8)
_COLOURS[: len(CLASSES)] = (0, 0, 0), (0, 200, 0), (40, 90, 255), (235, 30, 30)
_DRAWN, _DRAWN_PX = 4, 512

_HEADS = ("finer.", "deeplab.segmentation_head.")

_ARCHITECTURE = Architecture.model_fields


class SegConfig(BaseModel):
    """Stage 1 as the paper trains it, unless a file says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Data = GeneratedData()
    backbone: str = "resnet101"
    mean: tuple[float, float, float] = _ARCHITECTURE["mean"].default
    std: tuple[float, float, float] = _ARCHITECTURE["std"].default
    upsampling: Upsampling = _ARCHITECTURE["upsampling"].default
    logit_stride: LogitStride = _ARCHITECTURE["logit_stride"].default
    imagenet: str | None = Field(
        default="timm", description="source of ImageNet weights (see training.pretrained)"
    )
    shrink: Shrunk = 1
    augment: AugmentConfig = AugmentConfig(scale=(0.8, 1.2), crop=256, turns="flips")
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(default=0.0, ge=0, description="of weights, not of biases or norms")
    gamma: float = Field(default=1.0, ge=0, description="exponent of the focal loss")
    balance: float = Field(
        default=1.0,
        ge=0,
        description="power of the class weights: 1 is the paper's equation 1, 0 is none",
    )
    tumour_near: float = Field(
        default=0.0,
        ge=0,
        description="weight of the loss where all that is known is that a tumour is near",
    )
    flips_at_test: bool = Field(
        default=False, description="validate by the mean over the picture and its mirror images"
    )
    centres: float = Field(
        default=0.0,
        ge=0,
        description="weight of the loss of where the middles of nuclei are; 0 is a network that "
        "does not tell",
    )
    resident: Resident = False
    fit: FitConfig = FitConfig(epochs=7000, batch=50, decay_every=3000)

    @model_validator(mode="after")
    def _centres_need_views_that_know_them(self) -> Self:
        if self.centres and not (self.resident and self.logit_stride == 2):
            raise ValueError("centres are learnt with `resident: true` and `logit_stride: 2`")
        return self


class SegStage:
    """What the training loop needs to know of stage 1."""

    def __init__(self, config: SegConfig) -> None:
        self.network = SegmentationNetwork(
            config.backbone,
            CLASSES,
            config.mean,
            config.std,
            upsampling=config.upsampling,
            logit_stride=config.logit_stride,
            centres=config.centres > 0,
        )
        if config.imagenet is not None:
            self.network.load_backbone(imagenet_weights(config.backbone, config.imagenet))
        self.config = config
        self.optimiser = _optimiser(self.network, config)

    def training_mode(self) -> None:
        """Train everything."""
        self.network.train()

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the focal loss over the batch's pixels, and what else is asked of them."""
        pixels, mask, _, *nearness = batch
        if self.config.centres:
            both = network(pixels, with_centres=True)
            logits, centres = both[:, :-1], both[:, -1]
        else:
            logits = network(pixels)
        loss = focal_loss(logits, mask, self.config.gamma, balance=self.config.balance)
        if self.config.tumour_near:
            loss = loss + self.config.tumour_near * tumour_near_loss(logits, mask)
        if self.config.centres:
            loss = loss + self.config.centres * centre_loss(centres, nearness[0], mask)
        return loss

    def validate(
        self, network: nn.Module, batches: DataLoader[Any], device: torch.device
    ) -> Metrics:
        """Return the mean IoU and each class's pixel accuracy over the whole set."""
        flips = self.config.flips_at_test
        return segmentation_metrics(confusion_over(network, batches, device, flips=flips))

    def draw(self, network: nn.Module, batches: DataLoader[Any], device: torch.device) -> Tensor:
        """Lay pictures, their truth and what is predicted side by side, uint8 [3, H, W]."""
        rows = []
        for batch in islice(batches, _DRAWN):
            pixels, mask, _ = to_device(batch, device)
            predicted = network(pixels).argmax(1)
            coloured = [_COLOURS[part[0].cpu().numpy()] for part in (mask, predicted)]
            row = np.hstack(
                [part[:_DRAWN_PX, :_DRAWN_PX] for part in (pixels[0].cpu().numpy(), *coloured)]
            )
            margin = ((0, _DRAWN_PX - row.shape[0]), (0, 3 * _DRAWN_PX - row.shape[1]), (0, 0))
            rows.append(np.pad(row, margin))
        return torch.from_numpy(np.vstack(rows)).permute(2, 0, 1)


def _optimiser(network: nn.Module, config: SegConfig) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    if config.weight_decay:
        weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
        groups = [{"params": weights, "weight_decay": config.weight_decay}, {"params": others}]
    if config.optimiser == "adamw":
        return torch.optim.AdamW(groups, config.learning_rate, weight_decay=0)
    return torch.optim.SGD(groups, config.learning_rate, config.momentum)


def confusion_over(
    network: nn.Module, batches: DataLoader[Any], device: torch.device, *, flips: bool = False
) -> NDArray[np.int64]:
    """Count a whole set's judged pixels by true and predicted class, int64 [classes, classes]."""
    confusion = np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64)
    for batch in batches:
        pixels, mask, _ = to_device(batch, device)
        predicted = (mean_of_flips(network, pixels) if flips else network(pixels)).argmax(1)
        confusion += confusion_matrix(mask.cpu().numpy(), predicted.cpu().numpy(), len(CLASSES))
    return confusion


def mean_of_flips(network: nn.Module, pixels: Tensor, *, centres: bool = False) -> Tensor:
    """Return class probabilities over a batch and its mirror images, [B, classes, H, W].

    With centres there is one channel more: how near a pixel is to the middle of a nucleus.
    """
    total = torch.zeros(())
    for axes in ((), (1,), (2,), (1, 2)):
        if centres:
            both = network(pixels.flip(axes), with_centres=True).float()
            parts = [F.softmax(both[:, :-1], dim=1), torch.sigmoid(both[:, -1:])]
            probability = torch.cat(parts, dim=1)
        else:
            probability = F.softmax(network(pixels.flip(axes)).float(), dim=1)
        total = total.to(probability) + probability.flip([axis + 1 for axis in axes])
    return total / 4


def segmentation_metrics(confusion: NDArray[np.int64]) -> Metrics:
    """Name the figures of a confusion matrix; classes that never occur are left out."""
    accuracies = zip(CLASSES, pixel_accuracy(confusion), strict=True)
    found = {f"pixel_accuracy_{name}": float(a) for name, a in accuracies if np.isfinite(a)}
    return {"mean_iou": mean_iou(confusion), **found}


def train_segmentation(
    config: SegConfig, run: Path, init: str | Path | None = None
) -> SegmentationNetwork:
    """Train stage 1 in a run's folder, from its last checkpoint on, and return its network.

    Args:
        config: what to do.
        run: folder of the run.
        init: a finished run of stage 1, or a bundle, to start from.

    """
    with first_process_first():
        open_run(run, config)
        training, validation = batches(
            config.data.nuclei("train"),
            config.data.nuclei("validation"),
            config,
            choose_device(config.fit.device),
        )
    torch.manual_seed(config.fit.seed)
    stage = SegStage(config if init is None else config.model_copy(update={"imagenet": None}))
    if init is not None:
        _initialise(stage.network, Start.of(init), config)
    fit(run, config.fit, stage, training, validation)
    return stage.network


def _initialise(network: SegmentationNetwork, start: Start, config: SegConfig) -> None:
    """Take over trained weights; a head of another stride stays fresh.

    Raises:
        ConfigError: If there are none or they are of another network.

    """
    start.require_normalised_alike(config.mean, config.std)
    weights = start.segmentation()
    own = network.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}
    missing = [k for k in own if k not in fitting and not k.startswith(_HEADS)]
    if missing:
        raise ConfigError(
            f"{start.source} is of another network: {missing[0]} and {len(missing) - 1} more are "
            "missing or of another shape. Give a run or a bundle with the same backbone."
        )
    network.load_state_dict(fitting, strict=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the segmentation network (stage 1)."""
    try:
        chosen = command(
            SegConfig,
            arguments,
            prog="python -m training.seg",
            about=main.__doc__,
            init="finished run of stage 1, or a bundle, to start from",
        )
        with processes(chosen.config.fit.device):
            train_segmentation(chosen.config, chosen.run, chosen.init)
    except WsiError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()

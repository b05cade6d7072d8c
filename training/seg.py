"""Stage 1: a DeepLabv3+ learns the classes of nuclei.

``python -m training.seg --config configs/seg-demo.yaml``
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training.augment import AugmentConfig, Shrunk
from training.data import Data, under
from training.data.generated import GeneratedData
from training.data.views import Batch, training_batches, validation_batches
from training.distributed import first_process_first, processes
from training.fit import FitConfig, Metrics, fit, open_run, run_folder, to_device
from training.losses import focal_loss
from training.metrics import confusion_matrix, mean_iou, pixel_accuracy
from training.pretrained import imagenet_weights
from wsi_pipeline.architecture import CLASSES, Architecture
from wsi_pipeline.errors import WsiError
from wsi_pipeline.network import SegmentationNetwork
from wsi_pipeline.validation import load_yaml

log = logging.getLogger(__name__)

_ARCHITECTURE = Architecture.model_fields


class SegConfig(BaseModel):
    """Stage 1 as the paper trains it, unless a file says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Data = GeneratedData()
    backbone: str = "resnet101"
    mean: tuple[float, float, float] = _ARCHITECTURE["mean"].default
    std: tuple[float, float, float] = _ARCHITECTURE["std"].default
    imagenet: str | None = Field(
        default="timm", description="source of ImageNet weights (see training.pretrained)"
    )
    shrink: Shrunk = 1
    augment: AugmentConfig = AugmentConfig(scale=(0.8, 1.2), crop=256, turns="flips")
    learning_rate: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    gamma: float = Field(default=1.0, ge=0, description="exponent of the focal loss")
    balance: float = Field(
        default=1.0,
        ge=0,
        description="power of the class weights: 1 is the paper's equation 1, 0 is none",
    )
    fit: FitConfig = FitConfig(epochs=7000, batch=50, decay_every=3000)


class SegStage:
    """What the training loop needs to know of stage 1."""

    def __init__(self, config: SegConfig) -> None:
        self.network = SegmentationNetwork(config.backbone, CLASSES, config.mean, config.std)
        if config.imagenet is not None:
            self.network.load_backbone(imagenet_weights(config.backbone, config.imagenet))
        self.optimiser = torch.optim.SGD(
            self.network.parameters(), config.learning_rate, config.momentum
        )
        self.gamma = config.gamma
        self.balance = config.balance

    def training_mode(self) -> None:
        """Train everything."""
        self.network.train()

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the focal loss over the batch's pixels."""
        pixels, mask, _ = batch
        return focal_loss(network(pixels), mask, self.gamma, balance=self.balance)

    def validate(
        self, network: nn.Module, batches: DataLoader[Any], device: torch.device
    ) -> Metrics:
        """Return the mean IoU and each class's pixel accuracy over the whole set."""
        return segmentation_metrics(confusion_over(network, batches, device))


def confusion_over(
    network: nn.Module, batches: DataLoader[Any], device: torch.device
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Count a whole set's judged pixels by true and predicted class, int64 [classes, classes]."""
    confusion = np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64)
    for batch in batches:
        pixels, mask, _ = to_device(batch, device)
        predicted = network(pixels).argmax(1)
        confusion += confusion_matrix(mask.cpu().numpy(), predicted.cpu().numpy(), len(CLASSES))
    return confusion


def segmentation_metrics(confusion: np.ndarray[Any, np.dtype[np.int64]]) -> Metrics:
    """Name the figures of a confusion matrix; classes that never occur are left out."""
    accuracies = zip(CLASSES, pixel_accuracy(confusion), strict=True)
    found = {f"pixel_accuracy_{name}": float(a) for name, a in accuracies if np.isfinite(a)}
    return {"mean_iou": mean_iou(confusion), **found}


def train_segmentation(config: SegConfig, run: Path) -> SegmentationNetwork:
    """Train stage 1 in a run's folder, from its last checkpoint on, and return its network."""
    with first_process_first():
        open_run(run, config)
        training = training_batches(
            config.data.nuclei("train"),
            config.augment,
            batch=config.fit.batch,
            seed=config.fit.seed,
            workers=config.fit.workers,
            shrink=config.shrink,
        )
        validation = validation_batches(config.data.nuclei("validation"), config.shrink)
    torch.manual_seed(config.fit.seed)
    stage = SegStage(config)
    fit(run, config.fit, stage, training, validation)
    return stage.network


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the segmentation network (stage 1)."""
    parser = argparse.ArgumentParser(prog="python -m training.seg", description=main.__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML file")
    parser.add_argument(
        "--data", type=Path, default=Path(), help="folder that the data's root is relative to"
    )
    parser.add_argument("--run", type=Path, help="folder of the run; runs/<name of the config>")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        config = load_yaml(chosen.config, SegConfig)
        config = config.model_copy(update={"data": under(config.data, chosen.data)})
        with processes(config.fit.device):
            train_segmentation(config, run_folder(chosen.run, chosen.config))
    except WsiError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()

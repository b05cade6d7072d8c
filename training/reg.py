"""Stage 2: the whole network learns cellularity, guided by the encoder of stage 1.

``python -m training.reg --config configs/reg-demo.yaml --init runs/seg-demo``
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training.augment import AugmentConfig, Shrunk
from training.command import command
from training.data import Data, cellularity
from training.data.breastpathq import ChallengePart
from training.data.generated import GeneratedData
from training.data.picture import PICTURE_MPP, Pictures, of_nuclei, unpack, windows
from training.data.resident import Resident, batches
from training.data.views import Batch
from training.distributed import first_process_first, is_first, processes
from training.fit import (
    FitConfig,
    Metrics,
    choose_device,
    evaluate,
    fit,
    to_device,
)
from training.losses import focal_loss
from training.metrics import confusion_matrix, mean_absolute_error, prediction_probability
from training.pretrained import imagenet_weights
from training.run import open_run
from training.seg import segmentation_metrics
from training.start import Start
from wsi_pipeline.errors import ConfigError, WsiError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.model.architecture import CLASSES, REGRESSION_STRIDE, Architecture
from wsi_pipeline.model.bundle import ModelBundle, ModelCard
from wsi_pipeline.model.network import GuidedRegressionNetwork, RegressionNetwork, build_network

log = logging.getLogger(__name__)

BUNDLE_NAME = "bundle"

# Of the loss that a guide is held to, as the configurations of stage 1 have them.
_GAMMA, _BALANCE = 1.0, 0.5

_LOOKED_AT = 256
"""How many pictures the median is taken of, at most."""


class CardConfig(BaseModel):
    """What only a person can say of a model; the rest of its card is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    stored_as: Literal["float32", "float16"] = "float32"
    trained_on: str
    licence: str
    intended_use: str
    limitations: str
    demonstration: bool = False


class RegConfig(BaseModel):
    """Stage 2 as the paper trains it, unless a file says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Data = GeneratedData()
    architecture: Architecture = Architecture(
        regression_backbone="resnet101", segmentation_backbone="resnet101"
    )
    imagenet: str | None = Field(
        default=None,
        description="source of ImageNet weights for the regression backbone (see "
        "training.pretrained); null is the paper's Kaiming normal",
    )
    shrink: Shrunk = 1
    augment: AugmentConfig = AugmentConfig(
        turns="flips and rotations", brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05
    )
    window: int | None = Field(
        default=None,
        gt=0,
        multiple_of=REGRESSION_STRIDE,
        description="side of the squares that unjudged pictures are validated by; null is whole",
    )
    learning_rate: float = Field(default=0.003, gt=0)
    guide_rate: float = Field(
        default=1.0, ge=0, description="learning rate of the guide over that of the rest; 0 freezes"
    )
    segmentation_loss: float = Field(
        default=0.0,
        ge=0,
        description="weight of stage 1's loss, so that a guide that learns forgets no nuclei",
    )
    zero_gamma: bool = Field(
        default=True,
        description="start residual blocks of fresh weights as identities; with scales of 1 short "
        "runs stall near a constant",
    )
    bias_at_median: bool = Field(
        default=True, description="start the score at the median of the training set"
    )
    resident: Resident = False
    fit: FitConfig = FitConfig(epochs=900, batch=64, decay_every=300)
    card: CardConfig


class RegStage:
    """What the training loop needs to know of stage 2."""

    def __init__(self, network: RegressionNetwork, config: RegConfig) -> None:
        self.network = network
        self.frozen = config.guide_rate == 0
        self.segmentation_loss = config.segmentation_loss
        guide = [p for name, p in network.named_parameters() if name.startswith("segmentation.")]
        others = [
            p for name, p in network.named_parameters() if not name.startswith("segmentation.")
        ]
        groups: list[dict[str, Any]] = [{"params": others}]
        if self.frozen:
            for parameter in guide:
                parameter.requires_grad = False
        elif guide:
            groups.append({"params": guide, "lr": config.learning_rate * config.guide_rate})
        self.optimiser = torch.optim.Adam(groups, config.learning_rate)

    def training_mode(self) -> None:
        """Train everything but a frozen guide, whose batch statistics stay as stage 1 left them."""
        self.network.train()
        if self.frozen and isinstance(self.network, GuidedRegressionNetwork):
            self.network.segmentation.eval()

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the mean absolute error of the scores, and what the guide is held to."""
        pixels, mask, score, *_ = batch
        if not (self.segmentation_loss and isinstance(self.network, GuidedRegressionNetwork)):
            return F.l1_loss(network(pixels, with_segmentation=False).score, score)
        prediction = network(pixels)
        logits = self.network.segmentation.upsample(prediction.logits)
        loss = F.l1_loss(prediction.score, score)
        return loss + self.segmentation_loss * focal_loss(logits, mask, _GAMMA, balance=_BALANCE)

    def validate(
        self, network: nn.Module, batches: DataLoader[Any], device: torch.device
    ) -> Metrics:
        """Judge scores, and what the guide still knows of nuclei, over the whole set."""
        return regression_metrics(network, batches, device)


def regression_metrics(
    network: nn.Module, batches: DataLoader[Any], device: torch.device
) -> Metrics:
    """Return PK and L1 of the scores and, for a guided network, the figures of its segmentation.

    Among these are PK and L1 of the cellularity that is derived from the segmented nuclei as it is
    from labelled ones: what a regression must be better than.
    """
    truth, scores, ratios = [], [], []
    confusion = np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64)
    for batch in batches:
        pixels, mask, score = to_device(batch, device)
        prediction = network(pixels)
        truth.append(score.cpu().numpy())
        scores.append(prediction.score.cpu().numpy())
        if isinstance(network, GuidedRegressionNetwork) and prediction.logits is not None:
            classes = network.segmentation.upsample(prediction.logits).argmax(1)
            confusion += confusion_matrix(mask.cpu().numpy(), classes.cpu().numpy(), len(CLASSES))
            seen = zip(pixels.cpu().numpy(), classes.cpu().numpy().astype(np.uint8), strict=True)
            ratios += [unpack(of_nuclei(rgb, nuclei)).cellularity for rgb, nuclei in seen]
    judged = np.concatenate(truth)
    metrics = _agreement("", judged, np.concatenate(scores))
    if ratios:
        metrics |= _agreement("ratio_", judged, np.array(ratios))
    return metrics | segmentation_metrics(confusion) if confusion.any() else metrics


def _agreement(prefix: str, truth: NDArray[np.floating], scores: NDArray[np.floating]) -> Metrics:
    return {
        f"{prefix}pk": prediction_probability(truth, scores),
        f"{prefix}l1": mean_absolute_error(truth, scores),
    }


def train_regression(config: RegConfig, run: Path, init: str | Path | None) -> ModelBundle:
    """Train stage 2 in a run's folder, from its last checkpoint on, and export the bundle there.

    Args:
        config: what to do.
        run: folder of the run.
        init: what to start from: a run of stage 1 for its segmentation network, or a run of stage 2
            or a bundle to train its whole network further.

    """
    with first_process_first():
        open_run(run, config)
        pictures = config.data.cellularity("train")
        device = choose_device(config.fit.device)
        training, validation = batches(pictures, judged_pictures(config), config, device)
    torch.manual_seed(config.fit.seed)
    network = build_network(config.architecture)
    if config.imagenet is not None:
        name = config.architecture.regression_backbone
        network.regression.load_backbone(imagenet_weights(name, config.imagenet))
    elif config.zero_gamma:
        start_as_identities(network.regression)
    if config.bias_at_median and not config.architecture.area_ratio:
        nn.init.constant_(network.head.bias, median_logit(pictures))
    if init is not None:
        _initialise(network, Start.of(init))
    stage = RegStage(network, config)
    fit(run, config.fit, stage, training, validation)
    bundle = export(network, config, validation)
    if is_first():
        bundle.save(run / BUNDLE_NAME)
    return bundle


def start_as_identities(backbone: nn.Module) -> None:
    """Set the last scale of every residual block to 0, so that it passes on what it gets."""
    for block in backbone.modules():
        if callable(start := getattr(block, "zero_init_last", None)):  # timm's ResNets
            start()
        elif getattr(block, "has_skip", False):  # timm's EfficientNets
            *_, last = (part for part in block.modules() if isinstance(part, nn.BatchNorm2d))
            nn.init.zeros_(last.weight)


def median_logit(pictures: Pictures) -> float:
    """Return the logit of the median cellularity of a set, or of some of it if it is large."""
    chosen = np.linspace(0, len(pictures) - 1, min(len(pictures), _LOOKED_AT)).round().astype(int)
    median = np.median([pictures[int(i)].cellularity for i in chosen]).clip(0.02, 0.98)
    return float(np.log(median / (1 - median)))


def judged_pictures(config: RegConfig, part: ChallengePart = "validation") -> Pictures:
    """Return what a run is judged by: whole pictures or, if they are to be cut, their windows."""
    pictures = cellularity(config.data, part)
    return pictures if config.window is None else windows(pictures, config.window)


def export(
    network: RegressionNetwork, config: RegConfig, validation: DataLoader[Any]
) -> ModelBundle:
    """Make a bundle whose card holds the figures of the very weights it stores."""
    card = ModelCard(
        architecture=config.architecture,
        mpp=Mpp(PICTURE_MPP * config.shrink),
        tile_px=ModelCard.model_fields["tile_px"].default // config.shrink,  # of the same tissue
        **config.card.model_dump(),
    )
    if not len(validation):
        return ModelBundle.of(network, card)
    stored = ModelBundle.of(network, card).network()
    device = choose_device(config.fit.device)
    stored.to(device)
    metrics = evaluate(stored, lambda: regression_metrics(stored, validation, device))
    return ModelBundle.of(network, card.model_copy(update={"metrics": metrics}))


def _initialise(network: RegressionNetwork, start: Start) -> None:
    ours = network.architecture
    start.require_normalised_alike(ours.mean, ours.std)
    if start.is_of_stage_2:
        try:
            network.load_state_dict(start.weights)
        except RuntimeError as error:
            raise ConfigError(f"{start.source} is of another network: {error}") from error
    elif isinstance(network, GuidedRegressionNetwork):
        if start.upsampling != ours.upsampling:
            raise ConfigError(
                f"{start.source} was trained with upsampling {start.upsampling}, and here it is "
                f"{ours.upsampling}: its outlines would be shifted. Set the same."
            )
        network.load_segmentation(start.weights)
    else:
        raise ConfigError(
            f"{start.source} is a run of stage 1, which a plain regression has no use for."
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the segmentation guided regression network (stage 2) and export its bundle."""
    try:
        chosen = command(
            RegConfig,
            arguments,
            prog="python -m training.reg",
            about=main.__doc__,
            init="finished run, usually of stage 1, or a bundle to start from",
        )
        with processes(chosen.config.fit.device):
            bundle = train_regression(chosen.config, chosen.run, chosen.init)
    except WsiError as error:
        raise SystemExit(str(error)) from error
    log.info("bundle %s: %s", bundle.digest, chosen.run / BUNDLE_NAME)


if __name__ == "__main__":
    main()

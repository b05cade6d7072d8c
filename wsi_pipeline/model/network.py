"""The segmentation guided regression network of Wang, Yu and Wang, and its plain baseline.

A DeepLabv3+ learns nucleus classes. Its *encoder* (backbone at output stride 16, then atrous
spatial pyramid pooling) guides a classification backbone that regresses cellularity. For a patch
of 512×512 pixels::

    pixels ─ normalise ─┬─ segmentation encoder ──── 32×32×256 ─┬─── decoder ─ logits 128×128×4
                        └─ stem, stages 1 and 2 ──── 32×32×C ───┤
                                     concatenate ─ 3×3 ─ 1×1 ─ 32×32×C
                                     stages 3 and 4 ──────────── 8×8×D
                                     average, linear, sigmoid ── score

The first residual stage of the regression backbone strides by 2 instead of 1, so that stage 2 ends
at stride 16, where the guidance is, and the last stage at stride 64.

Every network here takes RGB pixels as uint8 [B, H, W, 3], as the store holds them, and normalises
them itself: nothing outside the graph knows a mean or a deviation, so training and inference cannot
differ in them. Nothing is ever downloaded: pretrained weights come as explicit state dicts.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.architecture import (
    CLASSES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    REGRESSION_STRIDE,
    SEGMENTATION_STRIDE,
    Architecture,
    LogitStride,
    Upsampling,
)
from wsi_pipeline.model.backbones import RegressionBackbone, require_segmentation_backbone
from wsi_pipeline.model.cell_area import CellArea, area_of_cells
from wsi_pipeline.model.finer_head import GUIDANCE_CHANNELS, FinerHead
from wsi_pipeline.model.layers import convolution, initialise

# DeepLabv3+ pairs output stride 16 with these rates and this dropout; the library's own defaults
# (12, 24, 36) belong to stride 8 and would reach beyond the 16×16 map of a 256-pixel training crop.
_ATROUS_RATES = (6, 12, 18)
_ASPP_DROPOUT = 0.1

# Beyond these a share of pixels says no more than "none" or "all".
_SMALLEST_SHARE = 1e-3

# A float32 sigmoid reaches 1 at 17: short of it every score is inside (0, 1).
_LARGEST_LOGIT = 16.0


class Prediction(NamedTuple):
    """What a network says of a batch of patches."""

    score: Tensor
    """Cellularity in (0, 1), float32 [B]."""
    logits: Tensor | None
    """Class logits at stride 4 or 2, [B, classes, H/4, W/4]; None if unwanted or not to be had."""
    areas: Tensor | None = None
    """Shares of malignant cells and of tissue in squares of 16 µm, [B, 2, H/32, W/32]; None if
    unwanted, or without such classes."""


class EncoderFeatures(NamedTuple):
    """What the segmentation encoder hands to its decoder and to the regression."""

    fine: Tensor
    """Backbone features at stride 2, for logits at that stride alone."""
    detail: Tensor
    """Backbone features at stride 4, for the decoder alone."""
    guidance: Tensor
    """The encoder's output at stride 16, [B, 256, H/16, W/16]."""


class Normalise(nn.Module):
    """Pixels as they are stored to the image that a backbone takes.

    The constants are the architecture's and stay out of the state dict, so that no checkpoint can
    contradict the card.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, mean: tuple[float, float, float], std: tuple[float, float, float], stride: int
    ) -> None:
        super().__init__()
        self.stride = stride
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", 255 * torch.tensor(mean).reshape(shape), persistent=False)
        self.register_buffer(
            "scale", 1 / (255 * torch.tensor(std).reshape(shape)), persistent=False
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Turn uint8 [B, H, W, 3] into float [B, 3, H, W].

        The result has the strides of ``torch.channels_last``, which costs no copy and is the faster
        layout for convolutions.

        Raises:
            ConfigError: If the pixels are not such a batch, or a side is no multiple of the
                network's stride.

        """
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
            raise ConfigError(
                "The network takes RGB pixels as uint8 [B, H, W, 3], not "
                f"{str(pixels.dtype).removeprefix('torch.')} {list(pixels.shape)}; "
                "it normalises them itself."
            )
        height, width = pixels.shape[1:3]
        if height % self.stride or width % self.stride or not height or not width:
            raise ConfigError(
                f"The network takes patches with sides that are multiples of {self.stride} pixels, "
                f"not {width}×{height}; choose such a tile size, for instance 512."
            )
        return (pixels.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) * self.scale


class SegmentationNetwork(nn.Module):
    """DeepLabv3+ on a timm backbone at output stride 16, unpretrained."""

    def __init__(
        self,
        backbone: str,
        classes: tuple[str, ...] = CLASSES,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        *,
        upsampling: Upsampling = "corners",
        logit_stride: LogitStride = 4,
        centres: bool = False,
    ) -> None:
        super().__init__()
        if centres and logit_stride != 2:
            raise ConfigError("Middles of nuclei are told at stride 2; set `logit_stride: 2`.")
        require_segmentation_backbone(backbone)
        self.normalise = Normalise(mean, std, SEGMENTATION_STRIDE)
        self.deeplab: Any = smp.DeepLabV3Plus(
            encoder_name=f"tu-{backbone}",
            encoder_weights=None,
            encoder_output_stride=SEGMENTATION_STRIDE,
            decoder_channels=GUIDANCE_CHANNELS,
            decoder_atrous_rates=_ATROUS_RATES,
            decoder_aspp_dropout=_ASPP_DROPOUT,
            classes=len(classes),
        )
        self.logit_stride = logit_stride
        self.align_corners = upsampling == "corners"
        if not self.align_corners:
            self.deeplab.decoder.up = nn.Upsample(scale_factor=4, mode="bilinear")
        if logit_stride == 2:
            self.deeplab.segmentation_head = nn.Identity()
            fine = self.deeplab.encoder.out_channels[1]
            self.finer = FinerHead(
                fine, len(classes), align_corners=self.align_corners, centres=centres
            )

    def encode(self, image: Tensor) -> EncoderFeatures:
        """Run the encoder (backbone and atrous pyramid) on a normalised image [B, 3, H, W]."""
        features = self.deeplab.encoder(image)
        guidance = self.deeplab.decoder.aspp(features[-1])
        return EncoderFeatures(features[1], features[2], guidance)

    def decode(self, features: EncoderFeatures) -> Tensor:
        """Return class logits at stride 4, [B, classes, H/4, W/4], or at stride 2."""
        decoded = self._decoded(features)
        logits: Tensor
        if self.logit_stride == 2:
            logits = self.finer.classify(self.finer(decoded, features.fine))
        else:
            # The head's first layer is its 1×1 convolution; what is behind it, upsample() does.
            logits = self.deeplab.segmentation_head[0](decoded)
        return logits

    def _decoded(self, features: EncoderFeatures) -> Tensor:
        decoder = self.deeplab.decoder
        detail = decoder.block1(features.detail)
        joined = torch.cat([decoder.up(features.guidance), detail], dim=1)
        decoded: Tensor = decoder.block2(joined)
        return decoded

    def upsample(self, logits: Tensor) -> Tensor:
        """Bring class logits to full size, [B, classes, H, W]."""
        corners = self.align_corners or None
        return F.interpolate(
            logits, scale_factor=self.logit_stride, mode="bilinear", align_corners=corners
        )

    def forward(self, pixels: Tensor, *, with_centres: bool = False) -> Tensor:
        """Return class logits at full size, [B, classes, H, W], for uint8 pixels [B, H, W, 3].

        With centres there is one channel more, if the network has them: the logit of how near a
        pixel is to the middle of a nucleus.
        """
        encoded = self.encode(self.normalise(pixels))
        if not with_centres:
            return self.upsample(self.decode(encoded))
        features = self.finer(self._decoded(encoded), encoded.fine)
        both = [self.finer.classify(features), self.finer.centres(features)]
        return self.upsample(torch.cat(both, dim=1))

    def load_backbone(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a timm state dict of the backbone's name, as pretrained on ImageNet.

        What lies behind the backbone's last stage, such as the classifier, is left out.

        Raises:
            ConfigError: If a tensor is missing or has another shape.

        """
        backbone = self.deeplab.encoder.model
        own = backbone.state_dict()
        wrong = [
            name
            for name, tensor in own.items()
            if name not in state_dict or state_dict[name].shape != tensor.shape
        ]
        # Older checkpoints lack the batch counters, which nothing here reads.
        wrong = [name for name in wrong if not name.endswith("num_batches_tracked")]
        if wrong:
            raise ConfigError(
                f"The pretrained weights do not fit the segmentation backbone: {wrong[0]} and "
                f"{len(wrong) - 1} more are missing or of another shape; "
                "take weights of the very timm network that the configuration names."
            )
        backbone.load_state_dict({k: v for k, v in state_dict.items() if k in own}, strict=False)


def class_fractions(logits: Tensor) -> Tensor:
    """Return the share of each class among a tile's pixels, float32 [B, classes]."""
    winner = logits.argmax(1)
    shares = [(winner == label).float().mean((1, 2)) for label in range(logits.shape[1])]
    return torch.stack(shares, dim=1)


def graph_outputs(prediction: Prediction) -> tuple[Tensor, ...]:
    """Return what scoring takes of a prediction, in the order in which graphs give it.

    Scores [B], then class fractions [B, classes], then areas, as far as there are any.
    """
    score, logits, areas = prediction
    if logits is None:
        return (score.float(),)
    fractions = class_fractions(logits)
    return (score.float(), fractions) if areas is None else (score.float(), fractions, areas)


class RegressionNetwork(nn.Module):
    """The plain regression of cellularity: the baseline that knows no segmentation."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.normalise = Normalise(architecture.mean, architecture.std, REGRESSION_STRIDE)
        self.regression = RegressionBackbone(architecture.regression_backbone)
        self.head = nn.Linear(self.regression.out_channels, 1)
        initialise(self.head)

    def forward(self, pixels: Tensor, *, with_segmentation: bool = True) -> Prediction:  # noqa: ARG002
        """Score uint8 pixels [B, H, W, 3]; there are never logits."""
        return Prediction(self._score(self.regression(self.normalise(pixels))), None)

    def _score(
        self, features: Tensor, start: Tensor | float = 0.0, tissue: Tensor | None = None
    ) -> Tensor:
        """Score pooled features; ``start`` is the logit that they correct.

        Where tissue [B, h, w] is known features are pooled over it alone, so that glass beside it
        says nothing.
        """
        # A product and a sum, the linear layer by another name: autocast takes a matrix product to
        # half precision, which has no two scores closer than 0.004 near 1.
        if tissue is None:
            pooled = features.float().mean(dim=(2, 3))
        else:
            share = F.avg_pool2d(tissue[:, None], tissue.shape[-1] // features.shape[-1])
            pooled = (features.float() * share).sum(dim=(2, 3))
            pooled = pooled / share.sum(dim=(2, 3)).clamp_min(_SMALLEST_SHARE)
        logit = (pooled * self.head.weight.float()).sum(dim=1) + self.head.bias.float()
        logit = logit + start
        return torch.sigmoid(logit.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT))


class GuidedRegressionNetwork(RegressionNetwork):
    """The segmentation guided regression of cellularity."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        if architecture.segmentation_backbone is None:
            raise ConfigError("A guided network needs a segmentation_backbone.")
        self.segmentation = SegmentationNetwork(
            architecture.segmentation_backbone,
            architecture.classes,
            architecture.mean,
            architecture.std,
            upsampling=architecture.upsampling,
            logit_stride=architecture.logit_stride,
            centres=architecture.centres,
        )
        self.regression.require_guidable()
        channels = self.regression.guided_channels
        self.fuse = nn.Sequential(
            *convolution(GUIDANCE_CHANNELS + channels, GUIDANCE_CHANNELS, kernel=3),
            *convolution(GUIDANCE_CHANNELS, channels, kernel=1),
        )
        initialise(self.fuse)
        self.ratio: nn.Linear | None = None
        self.of_cells = architecture.area_ratio and architecture.area_of == "cells"
        self.tells_areas = architecture.tells_areas
        if self.tells_areas:
            self.malignant = architecture.classes.index("malignant")
            self.background = architecture.classes.index("background")
        if architecture.area_ratio:
            if not self.tells_areas:
                raise ConfigError(
                    "A network that corrects the area ratio needs the classes malignant and "
                    "background."
                )
            # It starts as the ratio itself, uncorrected.
            self.ratio = nn.Linear(1, 1)
            nn.init.ones_(self.ratio.weight)
            nn.init.zeros_(self.ratio.bias)
            nn.init.zeros_(self.head.weight)

    def forward(self, pixels: Tensor, *, with_segmentation: bool = True) -> Prediction:
        """Score uint8 pixels [B, H, W, 3] and segment them, running the encoder once.

        Without segmentation the logits are None, and the decoder is not run unless the score
        corrects the area ratio.
        """
        image = self.normalise(pixels)
        encoded = self.segmentation.encode(image)
        joined = torch.cat([encoded.guidance, self.regression.early(image)], dim=1)
        features = self.regression.late(self.fuse(joined))
        if self.ratio is None and not with_segmentation:
            return Prediction(self._score(features), None)
        logits = self.segmentation.decode(encoded)
        areas = None
        if self.tells_areas and (with_segmentation or self.of_cells):
            areas = self._areas(logits, pixels)
        if self.ratio is None:
            score = self._score(features)
        elif self.of_cells and areas is not None:
            score = self._score(features, self._start(self.ratio, areas.ratio()), areas.tissue)
        else:
            share = F.softmax(logits.float(), dim=1)[:, self.malignant].mean(dim=(1, 2))
            score = self._score(features, self._start(self.ratio, share))
        if not with_segmentation:
            return Prediction(score, None)
        squares = None if areas is None else areas.squares(self.segmentation.logit_stride)
        return Prediction(score, logits, squares)

    def _areas(self, logits: Tensor, pixels: Tensor) -> CellArea:
        probability = F.softmax(logits.float(), dim=1)
        malignant = probability[:, self.malignant]
        others = 1 - malignant - probability[:, self.background]
        return area_of_cells(malignant, others, pixels, self.segmentation.logit_stride)

    @staticmethod
    def _start(line: nn.Linear, ratio: Tensor) -> Tensor:
        """Return the logit that an area ratio stands for, which the features correct."""
        ratio = ratio.clamp(_SMALLEST_SHARE, 1 - _SMALLEST_SHARE)
        logit = torch.log(ratio / (1 - ratio))
        return logit * line.weight.float().squeeze() + line.bias.float()

    def load_segmentation(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load the weights of a SegmentationNetwork of the same backbone: the first stage's result.

        Raises:
            ConfigError: If the weights are of another network.

        """
        try:
            self.segmentation.load_state_dict(state_dict, strict=True)
        except RuntimeError as error:
            raise ConfigError(
                "The segmentation weights are of another network than the configuration's "
                f"segmentation_backbone and classes: {error}"
            ) from error


def build_network(architecture: Architecture) -> RegressionNetwork:
    """Build the network with fresh weights, in training mode.

    Raises:
        ConfigError: If a backbone is unknown or does not fit.

    """
    if architecture.segmentation_backbone is None:
        return RegressionNetwork(architecture)
    return GuidedRegressionNetwork(architecture)

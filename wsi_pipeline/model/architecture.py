"""What a network is, in words and numbers: what a model's card says, and `network.py` builds.

Apart from the building, since most of what asks for classes or strides never builds a network, and
the libraries that do take seconds to import.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

CLASSES: Final = ("background", "lymphocyte", "normal", "malignant")
"""What the segmentation tells apart, in the order of its channels."""

SEGMENTATION_STRIDE: Final = 16
REGRESSION_STRIDE: Final = 64
"""Sides of patches are multiples of it."""

SQUARE_PX: Final = 32
"""Side of the squares that areas of cells are told of, 16 µm at 0.5 µm/px: a cell or two."""

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
"""Of red, green and blue in 0..1, as pretrained backbones had them."""

Upsampling = Literal["corners", "half-pixel"]
"""How a coarse map is brought to full size: between the centres of its corner pixels, as the
DeepLabv3+ of the library does, which shifts it by up to 1.5 px at the edges; or pixel over pixels,
which shifts nothing."""

LogitStride = Literal[4, 2]
"""Stride of the class logits: that of DeepLabv3+, or of a head that goes one step further."""

_Mean = Annotated[float, Field(ge=-10, le=10)]
_Deviation = Annotated[float, Field(ge=1e-3, le=1e3)]
"""Of what lies within 0..1: far from it, and no pixel would be told from another."""


class Architecture(BaseModel):
    """All that is needed to build a network that scores patches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    regression_backbone: str
    """A timm network of the ResNet, SENet or EfficientNet families, such as ``resnet101``; for the
    plain regression also ``nasnetalarge`` or ``pnasnet5large``."""
    segmentation_backbone: str | None = None
    """A timm network of the ResNet or EfficientNet families; None is the plain regression."""
    classes: tuple[str, ...] = Field(default=CLASSES, min_length=2, max_length=64)
    """Names of the segmentation's channels."""
    mean: tuple[_Mean, _Mean, _Mean] = IMAGENET_MEAN
    """What the graph subtracts from red, green and blue in 0..1."""
    std: tuple[_Deviation, _Deviation, _Deviation] = IMAGENET_STD
    """What the graph then divides red, green and blue by."""
    upsampling: Upsampling = "corners"
    logit_stride: LogitStride = 4
    area_ratio: bool = False
    """Whether the score is learnt as a correction to the share of malignant pixels."""
    area_of: Literal["nuclei", "cells"] = "nuclei"
    """What that share is of: malignant nuclei among all pixels or, at 0.5 µm/px, what lies within
    3 µm of one and nearer to no other nucleus, among the pixels of tissue."""
    centres: bool = False
    """Whether the segmentation also tells where the middles of nuclei are, at stride 2."""

    @property
    def tells_areas(self) -> bool:
        """Whether its segmentation tells malignant cells from others, and from none."""
        labelled = {"background", "malignant"} <= set(self.classes)
        return self.segmentation_backbone is not None and labelled

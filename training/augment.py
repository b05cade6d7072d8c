"""Random views of a patch, drawn from a NumPy generator so that each is reproducible.

A *sample* is uint8 [H, W, 4]: red, green, blue and the truth as ``training.data.picture`` packs it.
Geometry moves all four channels together; colour touches the first three.
"""

from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from skimage.color import hed_from_rgb, rgb_from_hed

TINT = 0.15
"""A tint's optical density over that of a dye's full change."""

FOCUS_PX = 1.5
"""Deviation of the blur that a picture out of focus is mixed with, px."""

_DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)

Sample = NDArray[np.uint8]

Shrink = Literal[1, 2, 4, 8]
"""How many pixels of a picture, each way, are averaged to one that the network sees."""

Shrunk = Annotated[
    Shrink,
    Field(
        description="the network sees pictures at so many times their 0.5 µm/px; all other sizes "
        "in this file are of pictures",
    ),
]
"""It, as a stage's configuration has it."""


class AugmentConfig(BaseModel):
    """What is done to a sample on its way into a batch; the defaults leave it alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: tuple[float, float] = Field(default=(1.0, 1.0), description="range of the zoom")
    crop: int | None = Field(default=None, gt=0, description="side of a random window, px")
    turns: Literal["none", "flips", "flips and rotations", "any"] = Field(
        default="none", description="rotations are by right angles; any is by any angle"
    )
    stain: float = Field(
        default=0.0, ge=0, lt=1, description="factor of each dye within 1 ± this, in HED space"
    )
    focus: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share within ± this by which a sample is blurred, or sharpened",
    )
    glass: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of views part of which is bare glass, as at the edge of a section or of "
        "the scan; with `resident: true`",
    )
    unsure_edges: bool = Field(
        default=False, description="let pixels at an outline be of either side of it"
    )
    brightness: float = Field(default=0.0, ge=0, le=1, description="factor within 1 ± this")
    contrast: float = Field(default=0.0, ge=0, le=1, description="factor within 1 ± this")
    saturation: float = Field(default=0.0, ge=0, le=1, description="factor within 1 ± this")
    hue: float = Field(default=0.0, ge=0, le=0.5, description="shift within ± this share of a turn")


def augment(rng: np.random.Generator, sample: Sample, config: AugmentConfig) -> Sample:
    """Return a random view of a sample: zoomed, cropped, turned, stained and recoloured in turn."""
    factor = rng.uniform(*config.scale)
    if config.turns == "any":
        sample = rotate(sample, rng.uniform(0, 360))
    if factor != 1:
        sample = zoom(sample, factor)
    if config.crop is not None:
        sample = random_crop(rng, sample, config.crop)
    if config.turns != "none":
        sample = sample[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    if config.turns == "flips and rotations":
        sample = np.rot90(sample, int(rng.integers(4)))
    if config.focus:
        sample = refocus(sample, rng.uniform(-1, 1) * config.focus)
    if config.stain:
        sample = random_stain(rng, sample, config.stain)
    return random_colour(rng, np.ascontiguousarray(sample), config)


def random_stain(rng: np.random.Generator, sample: Sample, strength: float) -> Sample:
    """Stain a sample more or less with each dye, and tint it a little with each.

    Haematoxylin, eosin and a rest are told apart as Ruifrok and Johnston do. All of it is linear in
    optical density: one small matrix for every pixel.
    """
    factors = rng.uniform(1 - strength, 1 + strength, 3)
    tint = rng.uniform(-strength, strength, 3) * TINT
    mix = hed_from_rgb @ np.diag(factors) @ rgb_from_hed
    affine = np.column_stack([mix.T, tint @ rgb_from_hed]).astype(np.float32)
    density = cv2.transform(_DENSITY[sample[..., :3]], affine)
    rgb = (256 * np.exp(-density) - 1).clip(0, 255).round().astype(np.uint8)
    return np.dstack([rgb, sample[..., 3:]])


def rotate(sample: Sample, degrees: float) -> Sample:
    """Turn a sample about its middle; its corners are mirrored in."""
    height, width = sample.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    size = (width, height)
    turned = cv2.warpAffine(sample, matrix, size, borderMode=cv2.BORDER_REFLECT)
    turned[..., 3] = cv2.warpAffine(
        np.ascontiguousarray(sample[..., 3]),
        matrix,
        size,
        flags=cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_REFLECT,
    )
    return np.asarray(turned, dtype=np.uint8)


def refocus(sample: Sample, share: float) -> Sample:
    """Blur a sample's colours by so much of a Gaussian of ``FOCUS_PX``, or sharpen them if < 0."""
    rgb = np.ascontiguousarray(sample[..., :3])
    soft = cv2.GaussianBlur(rgb, (0, 0), FOCUS_PX, borderType=cv2.BORDER_REFLECT)
    mixed = cv2.addWeighted(rgb, 1 - share, soft, share, 0)
    return np.dstack([mixed, sample[..., 3:]])


def zoom(sample: Sample, factor: float) -> Sample:
    """Resize a sample: its colours smoothly, its truth by the nearest pixel."""
    height, width = (round(side * factor) for side in sample.shape[:2])
    smooth = cv2.resize(sample, (width, height), interpolation=cv2.INTER_LINEAR)
    truth = np.ascontiguousarray(sample[..., 3])
    smooth[..., 3] = cv2.resize(truth, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(smooth, dtype=np.uint8)


def shrunk(sample: Sample, by: Shrink) -> Sample:
    """Average a sample's colours, as slides are read for coarser models; thin out its truth."""
    if by == 1:
        return sample
    height, width = (side // by for side in sample.shape[:2])
    small = cv2.resize(sample, (width, height), interpolation=cv2.INTER_AREA)
    small[..., 3] = sample[by // 2 :: by, by // 2 :: by, 3]
    return np.asarray(small, dtype=np.uint8)


def random_crop(rng: np.random.Generator, sample: Sample, side: int) -> Sample:
    """Cut a random square window; a sample that is too small is mirrored at its edges first."""
    height, width = sample.shape[:2]
    below, right = max(0, side - height), max(0, side - width)
    if below or right:
        sample = np.pad(sample, ((0, below), (0, right), (0, 0)), mode="symmetric")
    y = rng.integers(sample.shape[0] - side + 1)
    x = rng.integers(sample.shape[1] - side + 1)
    return sample[y : y + side, x : x + side]


def random_colour(rng: np.random.Generator, sample: Sample, config: AugmentConfig) -> Sample:
    """Shift brightness, contrast, saturation and hue as torchvision does, but ten times as fast."""
    if not (config.brightness or config.contrast or config.saturation or config.hue):
        return sample
    rgb = np.ascontiguousarray(sample[..., :3])
    rgb = _blended(rgb, np.zeros(3), 1 + rng.uniform(-1, 1) * config.brightness)
    grey = np.full(3, cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).mean())
    rgb = _blended(rgb, grey, 1 + rng.uniform(-1, 1) * config.contrast)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None]
    rgb = _blended(rgb, grey, 1 + rng.uniform(-1, 1) * config.saturation)
    if config.hue:
        hsv = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + 360 * rng.uniform(-1, 1) * config.hue) % 360
        rgb = (255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)).round().astype(np.uint8)
    return np.dstack([rgb, sample[..., 3:]])


def _blended(
    rgb: NDArray[np.uint8], with_: NDArray[np.generic], factor: float
) -> NDArray[np.uint8]:
    """Move colours away from others, or towards them if the factor is less than 1."""
    mixed = np.float32(factor) * rgb + np.float32(1 - factor) * with_.astype(np.float32)
    return np.clip(mixed, 0, 255).astype(np.uint8)

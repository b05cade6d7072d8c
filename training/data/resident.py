"""Views drawn where the network is: all pictures lie in the device's memory, and batches with them.

What ``training.data.views`` does picture by picture in processes of its own is done here for a
batch at once, which a GPU does in a millisecond or two. The views are others than those of the
loader, and as reproducible: a batch follows from the seed and from its first view's number.
"""

from collections.abc import Iterator
from typing import Annotated, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from skimage.color import hed_from_rgb, rgb_from_hed
from torch import Tensor
from torch.utils.data import DataLoader

from training import distributed
from training.augment import FOCUS_PX, TINT, AugmentConfig, Shrink
from training.data.picture import (
    NUMBER_OF_BYTE,
    PICTURE_MPP,
    TISSUE_BIT,
    TUMOUR_BIT,
    Picture,
    Pictures,
    all_read,
)
from training.data.truth import EVERYTHING, NUMBER_OF, POSSIBLE
from training.data.views import Batch, EpochOrder, training_batches, validation_batches
from training.schedule import FitConfig
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.architecture import CLASSES

Resident = Annotated[
    bool,
    Field(
        description="all pictures lie in the device's memory, and views are drawn there, which "
        "keeps a GPU busy; views are crops, and of stain, focus and geometry"
    ),
]
"""It, as a stage's configuration has it."""

MIDDLE_UM = 1.25
"""Deviation of the hill at the middle of each nucleus."""

_UNMARKED = 255
"""Nobody marked the middles of this picture's nuclei."""

_BLUR_REACH = 4

_GLASS = int(POSSIBLE[CLASSES.index("background")])
"""The truth of bare glass: background, and no tissue."""

_GLASS_LEVELS = 215, 255
_WAVE_PX = 20


class ResidentViews:
    """Batches of random views, drawn on a device that holds all pictures.

    Each batch is pixels uint8 [B, S, S, 3], truth int64 [B, S, S], derived cellularity float32 [B]
    and nearness to the middle of a nucleus float32 [B, S, S], NaN where nobody marked middles.
    """

    def __init__(
        self,
        pictures: Pictures,
        config: AugmentConfig,
        order: EpochOrder,
        *,
        batch: int,
        seed: int,
        device: torch.device,
    ) -> None:
        """Lay the pictures out on the device; one that is there several times takes room once.

        Raises:
            ConfigError: If views of the configuration cannot be drawn so.

        """
        if config.crop is None:
            raise ConfigError("Views on the device are of one size; set `crop` in `augment`.")
        if config.brightness or config.contrast or config.saturation or config.hue:
            raise ConfigError(
                "Views on the device vary stain and focus; leave brightness, contrast, saturation "
                "and hue out of `augment`, or set `resident: false`."
            )
        self.batch_size = batch
        self._config, self._order, self._seed, self._device = config, order, seed, device
        self._side: int = config.crop
        place: dict[int, int] = {}
        rows = [place.setdefault(id(picture), len(place)) for picture in pictures]
        distinct = {place[id(picture)]: picture for picture in pictures}
        if any(picture.scores for picture in distinct.values()):
            raise ConfigError(
                "A judged score is of its whole patch, and views on the device are parts of one; "
                "set `resident: false`."
            )
        self._rows = np.array(rows)
        shapes = np.array([distinct[i].sample.shape[:2] for i in range(len(distinct))])
        self._shapes = shapes
        areas = shapes.prod(axis=1)
        starts = np.concatenate([[0], np.cumsum(areas)[:-1]])
        self._starts = torch.from_numpy(starts).to(device)
        self._sides = torch.from_numpy(shapes).to(device)
        self._pixels = torch.empty((int(areas.sum()), 4), dtype=torch.uint8, device=device)
        self._middles = torch.empty(int(areas.sum()), dtype=torch.uint8, device=device)
        for i, (start, area) in enumerate(zip(starts.tolist(), areas.tolist(), strict=True)):
            sample = np.ascontiguousarray(distinct[i].sample).reshape(-1, 4)
            self._pixels[start : start + area] = torch.from_numpy(sample).to(device)
            middles = torch.from_numpy(middles_of(distinct[i])).flatten()
            self._middles[start : start + area] = middles.to(device)
        self._number_of = torch.from_numpy(NUMBER_OF_BYTE.astype(np.int64)).to(device)
        density = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
        self._density = torch.from_numpy(density).to(device)

    def __len__(self) -> int:
        """Return how many batches an epoch has."""
        return -(-len(self._order) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        views = list(self._order)
        for first in range(0, len(views), self.batch_size):
            yield self._drawn(views[first : first + self.batch_size])

    @torch.no_grad()
    def _drawn(self, views: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rng = np.random.default_rng((self._seed, views[0]))
        pictures = self._rows[np.array(views) % len(self._rows)]
        middle, matrix = _placed(rng, self._shapes[pictures], self._side, self._config)
        chosen = self._to_device(pictures)
        rgb, truth, middles = self._sampled(
            chosen, self._to_device(middle.astype(np.float32)), self._to_device(matrix)
        )
        if self._config.stain:
            rgb = self._stained(rgb, rng)
        if self._config.focus:
            share = rng.uniform(-1, 1, len(views)) * self._config.focus
            rgb = _refocused(rgb, self._to_device(share.astype(np.float32)))
        if self._config.glass:
            bare, colour = self._bare(rng, len(views))
            rgb = torch.where(bare[..., None], colour, rgb)
            truth, middles = truth.masked_fill(bare, _GLASS), middles.masked_fill(bare, 0)
        pixels = rgb.clamp(0, 255).round().to(torch.uint8)
        byte = truth.long()
        tumour, tissue = ((byte & bit > 0).sum((1, 2)) for bit in (TUMOUR_BIT, TISSUE_BIT))
        mask = self._number_of[byte]
        if self._config.unsure_edges:
            mask = _unsure_at_edges(mask)
        near = torch.where(middles == _UNMARKED, torch.nan, middles.float() / (_UNMARKED - 1))
        return pixels, mask, tumour / tissue.clamp_min(1), near

    def _sampled(
        self, pictures: Tensor, middle: Tensor, matrix: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cut squares out: colours between pixels, truth and middles of the nearest pixel."""
        steps = torch.arange(self._side, device=self._device) - (self._side - 1) / 2
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij"))
        # Centres of pixels, of which pixel i's is at i.
        place = torch.einsum("bij,jhw->bihw", matrix, grid) + middle[:, :, None, None]
        below = place.floor()
        part = place - below
        y, x = below.long().unbind(1)
        across, down = part[:, 1, ..., None], part[:, 0, ..., None]
        corners = [
            self._pixels[self._index(pictures, y + dy, x + dx)][..., :3].float()
            for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1))
        ]
        upper = torch.lerp(corners[0], corners[1], across)
        lower = torch.lerp(corners[2], corners[3], across)
        nearest = self._index(pictures, *place.round().long().unbind(1))
        rgb = torch.lerp(upper, lower, down)
        return rgb, self._pixels[nearest][..., 3], self._middles[nearest]

    def _index(self, pictures: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Return where pixels of pictures lie; what is outside is mirrored in."""
        height, width = self._sides[pictures].unbind(1)
        start = self._starts[pictures]
        row = _mirrored(y, height[:, None, None])
        column = _mirrored(x, width[:, None, None])
        return start[:, None, None] + row * width[:, None, None] + column

    def _stained(self, rgb: Tensor, rng: np.random.Generator) -> Tensor:
        """Stain and tint each view by itself, as ``training.augment.random_stain`` does."""
        strength, count = self._config.stain, len(rgb)
        factors = rng.uniform(1 - strength, 1 + strength, (count, 3))
        tint = rng.uniform(-strength, strength, (count, 3)) * TINT
        mix = np.einsum("ij,bj,jk->bik", hed_from_rgb, factors, rgb_from_hed)
        density = -torch.log((rgb + 1) / 256)
        changed = torch.einsum(
            "bhwi,bik->bhwk", density, self._to_device(mix.astype(np.float32))
        ) + self._to_device((tint @ rgb_from_hed).astype(np.float32)).reshape(count, 1, 1, 3)
        return (256 * torch.exp(-changed) - 1).clamp(0, 255)

    def _bare(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Lay bare glass over one side of some views; return where [B, S, S], and its colour.

        Half of the edges are wavy and lie any way, as a section's; half are straight and white, as
        what is beyond the edge of a scan.
        """
        scan = rng.random(count) < 0.5
        angle = np.where(scan, rng.integers(4, size=count) * np.pi / 2, rng.uniform(0, 7, count))
        height = np.where(scan, 0, rng.uniform(0, _WAVE_PX, count))
        length = rng.uniform(_WAVE_PX, 4 * _WAVE_PX, count)
        reach = np.where(rng.random(count) < self._config.glass, rng.uniform(-0.4, 0.4, count), 9)
        colour = np.where(scan[:, None], 255, rng.uniform(*_GLASS_LEVELS, (count, 3)))
        parts = (np.cos(angle), np.sin(angle), height, length, reach * self._side)
        cos, sin, height_, length_, reach_ = self._to_device(np.array(parts, np.float32)).reshape(
            5, -1, 1, 1
        )
        steps = torch.arange(self._side, device=self._device) - (self._side - 1) / 2
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        wave = height_ * torch.sin((x * sin - y * cos) / length_)
        beyond = x * cos + y * sin > reach_ + wave
        return beyond, self._to_device(colour.astype(np.float32)).reshape(count, 1, 1, 3)

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


def resident_batches(
    pictures: Pictures,
    config: AugmentConfig,
    *,
    batch: int,
    seed: int,
    workers: int,
    device: torch.device,
) -> tuple[ResidentViews, EpochOrder]:
    """Return batches of random views drawn on a device, and the order whose epoch decides which.

    Args:
        pictures: all of them; they are read once, now.
        config: of the views.
        batch: views of a batch.
        seed: of the order and of the views.
        workers: processes that read pictures.
        device: holds the pictures and draws the views.

    Raises:
        ConfigError: If several processes share the run, or the views cannot be drawn so.

    """
    if distributed.world() > 1:
        raise ConfigError(
            "Views on the device are those of one process; set `resident: false` for several."
        )
    order = EpochOrder(len(pictures), seed, batch=batch)
    at_hand = all_read(pictures, workers)
    views = ResidentViews(at_hand, config, order, batch=batch, seed=seed, device=device)
    return views, order


class Learning(Protocol):
    """What a stage's configuration says of its batches."""

    @property
    def augment(self) -> AugmentConfig: ...  # noqa: D102
    @property
    def shrink(self) -> Shrink: ...  # noqa: D102
    @property
    def resident(self) -> bool: ...  # noqa: D102
    @property
    def fit(self) -> FitConfig: ...  # noqa: D102


def batches(
    train: Pictures, validation: Pictures, config: Learning, device: torch.device
) -> tuple[tuple[DataLoader[Batch] | ResidentViews, EpochOrder], DataLoader[Batch]]:
    """Return the batches that a stage learns from, with their order, and those that judge it.

    Raises:
        ConfigError: If they cannot be drawn as the configuration asks.

    """
    fit = config.fit
    if not config.resident:
        if config.augment.glass:
            raise ConfigError("Glass is laid over views on the device; set `resident: true`.")
        learnt = training_batches(
            train,
            config.augment,
            batch=fit.batch,
            seed=fit.seed,
            workers=fit.workers,
            shrink=config.shrink,
        )
        return learnt, validation_batches(validation, config.shrink)
    if config.shrink != 1:
        raise ConfigError("Views on the device are not shrunk; set `resident: false`.")
    drawn = resident_batches(
        train,
        config.augment,
        batch=fit.batch,
        seed=fit.seed,
        workers=fit.workers,
        device=device,
    )
    return drawn, validation_batches(all_read(validation, fit.workers))


def middles_of(picture: Picture) -> NDArray[np.uint8]:
    """Draw a hill at the middle of each nucleus, from 0 to 254 in the middle, [H, W].

    All of it is 255 where not all middles are marked.
    """
    shape = picture.sample.shape[:2]
    if picture.points is None:
        return np.full(shape, _UNMARKED, dtype=np.uint8)
    elsewhere = np.ones(shape, dtype=np.uint8)
    column, row = picture.points.astype(int).T
    elsewhere[row, column] = 0
    if not len(row):
        return np.zeros(shape, dtype=np.uint8)
    distance = cv2.distanceTransform(elsewhere, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    hills = np.exp(-0.5 * (distance * PICTURE_MPP / MIDDLE_UM) ** 2)
    return np.asarray((hills * (_UNMARKED - 1)).round(), dtype=np.uint8)


def _placed(
    rng: np.random.Generator, shapes: NDArray[np.int64], side: int, config: AugmentConfig
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Draw where views lie: the middle of each in its picture (y, x), and which way it is laid.

    Returns:
        Middles ``[B, 2]``, by the centres of pixels, and matrices ``[B, 2, 2]`` from a view's
        pixels to the picture's.

    """
    count = len(shapes)
    factor = rng.uniform(*config.scale, count)
    half = np.minimum(side / factor[:, None], shapes) / 2
    middle = half + rng.uniform(size=(count, 2)) * (shapes - 2 * half) - 0.5
    mirror = np.ones((count, 2))
    angle = np.zeros(count)
    if config.turns != "none":
        mirror = rng.choice((-1.0, 1.0), (count, 2))
    if config.turns == "flips and rotations":
        angle = rng.integers(4, size=count) * np.pi / 2
    elif config.turns == "any":
        angle = rng.uniform(0, 2 * np.pi, count)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1)
    matrix = turn.reshape(count, 2, 2) * mirror[:, None] / factor[:, None, None]
    return middle, matrix.astype(np.float32)


def _mirrored(place: Tensor, side: Tensor) -> Tensor:
    """Bring indices into a picture as if it were mirrored at its edges, again and again."""
    wrapped = place.remainder(2 * side)
    return torch.minimum(wrapped, 2 * side - 1 - wrapped)


def _refocused(rgb: Tensor, share: Tensor) -> Tensor:
    """Blur or sharpen each view as ``training.augment.refocus`` does; [B, S, S, 3]."""
    reach = torch.arange(-_BLUR_REACH, _BLUR_REACH + 1, device=rgb.device)
    weights = torch.exp(-0.5 * (reach / FOCUS_PX) ** 2)
    weights = (weights / weights.sum()).to(rgb)
    image = F.pad(rgb.permute(0, 3, 1, 2), (_BLUR_REACH,) * 4, mode="reflect")
    down, across = weights.reshape(1, 1, -1, 1), weights.reshape(1, 1, 1, -1)
    planes = image.flatten(0, 1)[:, None]
    soft = F.conv2d(F.conv2d(planes, down), across).reshape(len(rgb), 3, *rgb.shape[1:3])
    return torch.lerp(rgb, soft.permute(0, 2, 3, 1), share[:, None, None, None])


def _unsure_at_edges(mask: Tensor) -> Tensor:
    """Do as ``training.data.truth.unsure_at_edges``, for a batch."""
    possible = torch.from_numpy(POSSIBLE.astype(np.int64)).to(mask.device)
    numbers = torch.from_numpy(NUMBER_OF.astype(np.int64)).to(mask.device)
    own = possible[mask]
    known = torch.where(own == EVERYTHING, 0, own)
    either = known.clone()
    either[:, 1:] |= known[:, :-1]
    either[:, :-1] |= known[:, 1:]
    either[:, :, 1:] |= known[:, :, :-1]
    either[:, :, :-1] |= known[:, :, 1:]
    return torch.where(own == EVERYTHING, mask, numbers[either])

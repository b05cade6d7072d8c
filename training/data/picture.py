"""A labelled picture: pixels, what is known of each pixel, and perhaps a judged score.

The truth of a pixel travels in one byte beside its colour: which nucleus classes it may be of (see
``training.data.truth``), and whether it is of a malignant cell, of the section, and near a tumour.
So it can be cropped and turned with the picture, and the derived cellularity of any window remains
exact.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from typing import overload

import cv2
import numpy as np
from numpy.typing import NDArray

from training.augment import Sample
from training.data.truth import EVERYTHING, IGNORED, NUMBER_OF, POSSIBLE, TUMOUR_NEAR
from training.synthetic import Patch
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.model.architecture import CLASSES

PICTURE_MPP = Mpp(0.5)
"""µm/px of all labelled pictures: what the network takes."""

PACKING = 2
"""Which way the truth byte is laid out: part of the names of files that hold packed pictures."""

CYTOPLASM_UM = 3.0
"""How far a malignant cell reaches beyond its nucleus, where only nuclei are labelled."""

_CLASS_BITS, TUMOUR_BIT, TISSUE_BIT, _NEAR_BIT = 0b0_1111, 0b1_0000, 0b10_0000, 0b100_0000
"""Of the truth byte."""
_MALIGNANT = CLASSES.index("malignant")

# Glass is brighter than this in its darkest channel, at a scale at which cells have no holes.
_GLASS_ABOVE = 215
_GLASS_SIGMA_UM = 2.0


def _numbers_of_bytes() -> NDArray[np.uint8]:
    byte = np.arange(256)
    near = (byte & _NEAR_BIT) > 0
    return np.where(near, np.uint8(TUMOUR_NEAR), NUMBER_OF[byte & _CLASS_BITS])


NUMBER_OF_BYTE = _numbers_of_bytes()
"""``[256]``: the number of what is known of a pixel, by its truth byte."""


@dataclass(frozen=True)
class Picture:
    """A picture at 0.5 µm/px with what is known of it."""

    name: str
    """What messages and tables call it."""
    group: str
    """Patient, slide or source image: what neither a split nor a bootstrap may tear apart."""
    sample: Sample = field(repr=False)
    """uint8 [H, W, 4]: red, green, blue and the truth byte."""
    scores: tuple[float, ...] = ()
    """Cellularity in 0..1 as each rater judged it; none where it is derived from the truth byte."""
    points: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)
    """(x, y) of the middle of every nucleus, in px, [N, 2]; None where not all are marked."""

    @property
    def cellularity(self) -> float:
        """The raters' mean or, where nobody judged, the derived cellularity."""
        return float(np.mean(self.scores)) if self.scores else unpack(self.sample).cellularity


def pixels_digest(picture: Picture) -> bytes:
    """Tell a picture by its pixels alone, whatever it is called and whatever is known of it."""
    rgb = picture.sample[..., :3]
    return hashlib.sha256(repr(rgb.shape).encode() + rgb.tobytes()).digest()


Pictures = Sequence[Picture]
"""A set of pictures; most sets read a picture when it is asked for."""


class LazyPictures(Sequence[Picture]):
    """Pictures that are made or read when they are asked for, each time anew.

    What reads them is sent to the processes that load batches: no closure, then, and little data.
    """

    def __init__(self, count: int, read: Callable[[int], Picture]) -> None:
        self._count = count
        self._read = read

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> Pictures: ...
    def __getitem__(self, index: int | slice) -> Picture | Pictures:
        if isinstance(index, slice):
            chosen = range(self._count)[index]
            return LazyPictures(len(chosen), partial(_at, self, chosen))
        return self._read(range(self._count)[index])


class Joined(LazyPictures):
    """Pictures of several sets, set by set, those of some sets several times."""

    def __init__(self, parts: Sequence[Pictures], times: Sequence[int] | None = None) -> None:
        self.parts = tuple(parts)
        self.rows = tuple(
            (k, i)
            for k, part in enumerate(self.parts)
            for i in list(range(len(part))) * (times[k] if times else 1)
        )
        """Of each picture the number of its set and its own in that."""
        super().__init__(len(self.rows), partial(_of_part, self.parts, self.rows))


def _of_part(parts: Sequence[Pictures], rows: Sequence[tuple[int, int]], i: int) -> Picture:
    part, row = rows[i]
    return parts[part][row]


def all_read(pictures: Pictures, workers: int) -> tuple[Picture, ...]:
    """Read every picture, by several processes if there are any; what is there twice, once."""
    if isinstance(pictures, Joined):
        parts = [all_read(part, workers) for part in pictures.parts]
        return tuple(parts[part][row] for part, row in pictures.rows)
    if workers < 2 or not isinstance(pictures, LazyPictures):
        return tuple(pictures)
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        return tuple(pool.map(pictures.__getitem__, range(len(pictures)), chunksize=4))


def _at(pictures: Pictures, indices: Sequence[int], i: int) -> Picture:
    return pictures[indices[i]]


def pack(patch: Patch) -> Sample:
    """Join the pixels and the truth of a patch in one array, uint8 [H, W, 4]."""
    truth = POSSIBLE[patch.mask]
    truth |= (patch.mask == TUMOUR_NEAR) * np.uint8(_NEAR_BIT)
    truth |= patch.tumour * np.uint8(TUMOUR_BIT)
    truth |= patch.tissue * np.uint8(TISSUE_BIT)
    return np.dstack([patch.rgb, truth])


def unpack(sample: Sample) -> Patch:
    """Undo ``pack``."""
    truth = sample[..., 3]
    return Patch(
        rgb=sample[..., :3],
        mask=NUMBER_OF_BYTE[truth],
        tumour=(truth & TUMOUR_BIT) > 0,
        tissue=(truth & TISSUE_BIT) > 0,
    )


def of_nuclei(rgb: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Sample:
    """Pack a picture at 0.5 µm/px of which the nuclei are known, and nothing else.

    A malignant cell is taken to be what lies within ``CYTOPLASM_UM`` of a malignant nucleus and
    nearer to it than to any other; glass is told by its brightness. The cellularity that follows
    from this is called *derived*: it is not a pathologist's.

    Args:
        rgb: uint8 [H, W, 3]
        mask: class ids, uint8 [H, W]

    """
    to_malignant = _distance_to(mask == _MALIGNANT)
    to_other = _distance_to((mask != 0) & (mask != _MALIGNANT))
    tumour = (to_malignant <= CYTOPLASM_UM / PICTURE_MPP) & (to_malignant < to_other)
    return _of_tumour(rgb, mask, tumour)


def of_cells(rgb: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Sample:
    """Pack a picture at 0.5 µm/px of which whole cells are known: so is where the tumour is.

    Args:
        rgb: uint8 [H, W, 3]
        mask: class ids of cells, uint8 [H, W]

    """
    return _of_tumour(rgb, mask, mask == _MALIGNANT)


def _of_tumour(
    rgb: NDArray[np.uint8], mask: NDArray[np.uint8], tumour: NDArray[np.bool_]
) -> Sample:
    tissue = ~is_glass(rgb) | tumour
    return pack(Patch(rgb=rgb, mask=mask, tumour=tumour, tissue=tissue))


def is_glass(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell glass, and what is as empty, by its brightness, bool [H, W]."""
    darkest = np.ascontiguousarray(rgb.min(axis=2))
    smooth = cv2.GaussianBlur(darkest, (0, 0), _GLASS_SIGMA_UM / PICTURE_MPP)
    return np.asarray(smooth >= _GLASS_ABOVE)


def of_score(rgb: NDArray[np.uint8]) -> Sample:
    """Pack a picture of which no pixel is known: somebody judged it as a whole."""
    nowhere = np.zeros(rgb.shape[:2], dtype=np.bool_)
    mask = np.full(rgb.shape[:2], IGNORED, dtype=np.uint8)
    return pack(Patch(rgb=rgb, mask=mask, tumour=nowhere, tissue=~nowhere))


def padded(pictures: Pictures, multiple: int) -> Pictures:
    """Mirror pictures at their lower and right edges until their sides suit a network's stride.

    What is added is not judged.
    """
    return LazyPictures(len(pictures), partial(_padded, pictures, multiple))


def _padded(pictures: Pictures, multiple: int, i: int) -> Picture:
    picture = pictures[i]
    height, width = picture.sample.shape[:2]
    below, right = -height % multiple, -width % multiple
    if not (below or right):
        return picture
    sample = np.pad(picture.sample, ((0, below), (0, right), (0, 0)), mode="symmetric")
    sample[height:, :, 3] = EVERYTHING
    sample[:, width:, 3] = EVERYTHING
    return replace(picture, sample=sample)


def windows(pictures: Pictures, size: int) -> Pictures:
    """Cut pictures into squares with their exact derived cellularity.

    The squares of a picture reach from edge to edge, as few and as evenly placed as cover it; those
    of a picture whose sides are no multiple of ``size`` overlap a little. A picture that somebody
    judged as a whole is left whole.

    Args:
        pictures: the set, every picture at least ``size`` wide and high.
        size: side of a square in px.

    Raises:
        ConfigError: If a picture is smaller than a square.

    """
    places = [(i, y, x) for i, picture in enumerate(pictures) for y, x in _places(picture, size)]

    return LazyPictures(len(places), partial(_window, pictures, places, size))


def _window(
    pictures: Pictures, places: Sequence[tuple[int, int, int]], size: int, k: int
) -> Picture:
    i, y, x = places[k]
    picture = pictures[i]
    if picture.scores:
        return picture
    window = picture.sample[y : y + size, x : x + size]
    return replace(picture, name=f"{picture.name} ({x}, {y})", sample=window, points=None)


def _places(picture: Picture, size: int) -> Iterator[tuple[int, int]]:
    if picture.scores:
        yield 0, 0
        return
    height, width = picture.sample.shape[:2]
    if min(height, width) < size:
        raise ConfigError(
            f"{picture.name} is {width}×{height} px at 0.5 µm/px, smaller than a window of {size} "
            "px; choose a smaller window."
        )
    for y in np.linspace(0, height - size, -(-height // size)).round().astype(int):
        for x in np.linspace(0, width - size, -(-width // size)).round().astype(int):
            yield int(y), int(x)


def _distance_to(where: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return each pixel's distance in px to the nearest true one; infinite if there is none."""
    if not where.any():
        return np.full(where.shape, np.inf, dtype=np.float32)
    distance = cv2.distanceTransform((~where).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance, dtype=np.float32)

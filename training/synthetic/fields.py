"""Random and derived fields, ``[size, size]``: what every other module draws with."""

import cv2
import numpy as np
from numpy.typing import NDArray

FloatField = NDArray[np.float32]


BoolField = NDArray[np.bool_]


def noise(
    rng: np.random.Generator, size: int, scale: float, stretch: float = 1.0, angle: float = 0.0
) -> FloatField:
    """Smooth noise of mean 0 and deviation 1, its features ``scale`` px wide.

    ``stretch`` makes them that much longer along ``angle`` (radians from the x axis).
    """
    if scale >= 12 and size >= 256:  # smooth enough to be drawn small
        small = noise(rng, -(-size // 4), scale / 4, stretch, angle)
        enlarged = cv2.resize(small, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        return np.asarray(enlarged[:size, :size], dtype=np.float32)
    reach = 1.5 * size
    coarse = rng.standard_normal(
        (int(reach / scale) + 5, int(reach / (scale * stretch)) + 5), dtype=np.float32
    )
    cos, sin, middle = np.cos(angle), np.sin(angle), size / 2
    along = np.array([cos, sin]) / (scale * stretch)
    across = np.array([-sin, cos]) / scale
    rows, columns = coarse.shape
    jitter = rng.uniform(-0.5, 0.5, 2)
    to_coarse = np.array(
        [
            [*along, columns / 2 + jitter[0] - along.sum() * middle],
            [*across, rows / 2 + jitter[1] - across.sum() * middle],
        ]
    )
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    fine = cv2.warpAffine(
        coarse, to_coarse, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT
    )
    sample = fine[::4, ::4]
    return np.asarray((fine - sample.mean()) / (sample.std() + 1e-6), dtype=np.float32)


def above(values: FloatField, share: float) -> BoolField:
    """Mark the ``share`` of the pixels with the highest values."""
    return np.asarray(values > np.quantile(values[::4, ::4], 1 - np.clip(share, 0, 1)))


def warp(rng: np.random.Generator, picture: FloatField, scale: float, reach: float) -> FloatField:
    """Move pixels about by smooth random steps of about ``reach`` px."""
    size = picture.shape[0]
    grid = np.arange(size, dtype=np.float32)
    x = grid[None, :] + reach * noise(rng, size, scale)
    y = grid[:, None] + reach * noise(rng, size, scale)
    return np.asarray(cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


def blur(picture: FloatField, sigma: float) -> FloatField:
    """Blur; hardly at all where ``sigma`` is 0 or less."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), max(0.05, sigma)), dtype=np.float32)


def distance_to(where: BoolField) -> FloatField:
    """Distance of each pixel to the nearest marked one, px (very large where none is marked)."""
    return np.asarray(cv2.distanceTransform((~where).astype(np.uint8), cv2.DIST_L2, 3))


def edges(labels: NDArray[np.int32]) -> BoolField:
    """Mark pixels whose label differs from that of the pixel above or to the left."""
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    return edges


def values_at(values: FloatField, places: NDArray[np.float32]) -> FloatField:
    """Read a field at some places."""
    columns, rows = places.astype(int).T
    return np.asarray(values[rows, columns])


def slope_at(distance: FloatField, places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Direction (radians) of steepest ascent of a distance map at some places."""
    smooth = blur(distance, 3)
    columns, rows = places.astype(int).T
    size = distance.shape[0]
    right, left = np.minimum(columns + 2, size - 1), np.maximum(columns - 2, 0)
    down, up = np.minimum(rows + 2, size - 1), np.maximum(rows - 2, 0)
    dx = smooth[rows, right] - smooth[rows, left]
    dy = smooth[down, columns] - smooth[up, columns]
    return np.asarray(np.arctan2(dy, dx), dtype=np.float32)

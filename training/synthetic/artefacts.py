"""What lies on a slide and is not tissue, and what the scanner failed to see sharply."""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic.fields import BoolField, FloatField, blur, distance_to, noise, warp
from training.synthetic.layout import Artefact, Layout, Tissue, blob

_INKS = np.array([
    [1.5, 1.2, 0.3],  # blue
    [1.3, 0.5, 0.9],  # green
    [1.2, 1.2, 1.2],  # black
    [0.1, 0.4, 1.6],  # yellow
    [0.2, 1.4, 1.0],  # red
])  # fmt: skip
"""optical densities of marker and margin inks, RGB"""


def apply_artefact(
    rng: np.random.Generator, layout: Layout, artefact: Artefact, rgb: FloatField
) -> tuple[FloatField, BoolField]:
    """Lay an artefact over a picture, 0..1; also mark what nobody could see through it."""
    hidden = np.zeros(layout.tissue.shape, dtype=bool)
    if artefact == "ink":
        return _ink(rng, layout, rgb)
    if artefact == "fold":
        return _fold(rng, layout, rgb), hidden
    if artefact == "dust":
        return _dust(rng, rgb)
    return _out_of_focus(rng, rgb), hidden


def _ink(rng: np.random.Generator, layout: Layout, rgb: FloatField) -> tuple[FloatField, BoolField]:
    """Ink of a margin along the section's edge, or the stroke of a marker across glass."""
    size = layout.size
    colour = _INKS[rng.integers(len(_INKS))] * rng.uniform(0.4, 1.4) + rng.uniform(0, 0.15, 3)
    glass = layout.tissue == Tissue.GLASS
    if glass.any() and not glass.all() and rng.random() < 0.6:
        width = rng.uniform(3, 25) * np.clip(1 + 0.5 * noise(rng, size, 40), 0.1, None)
        away = np.where(glass, distance_to(~glass), distance_to(glass))
        cover = np.clip(1.5 - away / width, 0, 1) * np.clip(1 + 0.5 * noise(rng, size, 5), 0, 2)
    else:
        stroke = noise(rng, size, rng.uniform(100, 250), rng.uniform(2, 6), rng.uniform(0, np.pi))
        edge = 6 * (stroke - rng.uniform(-0.5, 1.2))
        cover = np.clip(edge, 0, 1) * np.clip(1 + 0.2 * noise(rng, size, 30), 0, None)
    density = cover[..., None] * colour
    return np.asarray(rgb * np.exp(-density), dtype=np.float32), np.asarray(density.mean(-1) > 0.8)


def _fold(rng: np.random.Generator, layout: Layout, rgb: FloatField) -> FloatField:
    """Lay the section double along a band, where it is twice as dark."""
    size = layout.size
    band = noise(rng, size, rng.uniform(150, 300), rng.uniform(3, 6), rng.uniform(0, np.pi))
    band = np.abs(warp(rng, band, 90, 12))
    doubled = np.clip(4 * (rng.uniform(0.08, 0.35) - band) + 0.5, 0, 1)
    doubled = blur((doubled * (layout.tissue != Tissue.GLASS)).astype(np.float32), 1.5)
    shift = tuple(rng.integers(-40, 41, 2).tolist())
    other = blur(np.roll(rgb, shift, (0, 1)), rng.uniform(1.0, 3.0))
    under = np.clip(other / 0.93, 0.02, 1)
    return np.asarray(rgb * under ** doubled[..., None], dtype=np.float32)


def _dust(rng: np.random.Generator, rgb: FloatField) -> tuple[FloatField, BoolField]:
    """Grains, fibres of lint, and a bubble under the cover glass."""
    size = rgb.shape[0]
    hidden = np.zeros((size, size), dtype=np.uint8)
    layer = rgb.copy()
    for _ in range(rng.integers(5, 60)):
        outline = np.round(blob(rng, rng.uniform(0, size, 2), rng.uniform(1.5, 14)) * 8)
        tone = rng.uniform(0.03, 0.5) * np.array([1.0, rng.uniform(0.8, 1), rng.uniform(0.6, 1)])
        cv2.fillPoly(layer, [outline.astype(np.int32)], tone.tolist(), shift=3)
        cv2.fillPoly(hidden, [outline.astype(np.int32)], 1, shift=3)
    for _ in range(rng.integers(0, 4)):
        path = _curl(rng, size)
        tone = (rng.uniform(0.1, 0.75) * rng.uniform(0.6, 1.0, 3)).tolist()
        width = int(rng.integers(1, 7))
        cv2.polylines(layer, [path], isClosed=False, color=tone, thickness=width)
        cv2.polylines(hidden, [path], isClosed=False, color=1, thickness=width)
    if rng.random() < 0.4:
        outline = np.round(blob(rng, rng.uniform(0, size, 2), rng.uniform(30, 160)) * 8)
        ring = np.zeros((size, size), dtype=np.uint8)
        cv2.polylines(ring, [outline.astype(np.int32)], True, 1, int(rng.integers(2, 9)), shift=3)  # noqa: FBT003
        layer[ring > 0] *= rng.uniform(0.1, 0.6)
        hidden |= ring
    soft = rng.uniform(0.5, 2.0)  # it seldom lies in the plane of focus
    cover = blur(hidden.astype(np.float32), soft)[..., None]
    mixed = rgb + cover * (blur(layer, soft) - rgb)
    return np.asarray(mixed, dtype=np.float32), np.asarray(cover[..., 0] > 0.6)


def _curl(rng: np.random.Generator, size: int) -> NDArray[np.int32]:
    """Path of a fibre, [V, 1, 2]."""
    turns = np.cumsum(rng.normal(0, 0.25, 60)) + rng.uniform(0, 2 * np.pi)
    steps = rng.uniform(2, 9) * np.stack([np.cos(turns), np.sin(turns)], 1)
    path = rng.uniform(0, size, 2) + np.cumsum(steps, 0)
    return np.asarray(np.round(path), dtype=np.int32)[:, None]


def _out_of_focus(rng: np.random.Generator, rgb: FloatField) -> FloatField:
    """Blur all of the picture or a part of it, by 1 to 3 µm."""
    size = rgb.shape[0]
    soft = blur(rgb, rng.uniform(2.0, 6.0))
    if rng.random() < 0.4:
        return soft
    part = np.clip(0.5 + 2 * noise(rng, size, rng.uniform(100, 250)), 0, 1)[..., None]
    return np.asarray(rgb + part * (soft - rgb), dtype=np.float32)

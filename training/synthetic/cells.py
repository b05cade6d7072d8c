"""Nuclei drawn one over the other, and the malignant cells around them."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic.fields import BoolField, FloatField, distance_to, edges, noise
from training.synthetic.nuclei import Look, Nuclei, deviations, thin
from training.synthetic.patch import MALIGNANT


@dataclass(frozen=True)
class Cells:
    """The nuclei of a picture, drawn."""

    mask: NDArray[np.uint8]
    """class per pixel"""
    haematoxylin: FloatField
    """of the nuclei alone, over the patch's usual nuclear density"""
    tumour: BoolField
    """malignant cells, nucleus and cytoplasm"""
    borders: BoolField
    """where two malignant cells touch"""


def _outlines(
    rng: np.random.Generator,
    centre: NDArray[np.float32],
    angle: NDArray[np.float32],
    look: Look,
) -> NDArray[np.int32]:
    """Outlines ``[N, V, 2]`` in eighths of a pixel."""
    count, corners = len(centre), 18
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)[None]
    swell = np.ones((count, corners))
    for k in (2, 3, 4):
        amplitude = rng.normal(0, look.unevenness / np.sqrt(k), (count, 1))
        swell += amplitude * np.cos(k * turn + rng.uniform(0, 2 * np.pi, (count, 1)))
    length = look.length * np.exp(rng.normal(0, look.length_spread, (count, 1)))
    short = length * rng.uniform(*look.slenderness, (count, 1))
    x, y = length / 2 * swell * np.cos(turn), short / 2 * swell * np.sin(turn)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    points = np.stack([x * cos - y * sin, x * sin + y * cos], -1) + centre[:, None]
    return np.asarray(np.round(points * 8), dtype=np.int32)


def draw_cells(
    rng: np.random.Generator, nuclei: Nuclei, room: BoolField, cytoplasm: float
) -> Cells:
    """Draw nuclei one over the other, and give malignant ones ``cytoplasm`` px inside ``room``."""
    size = room.shape[0]
    ahead, below = np.zeros((2, size, size), dtype=np.int32)
    outlines = [
        _outlines(rng, c, a, k)
        for c, a, k in zip(nuclei.centre, nuclei.angle, nuclei.look, strict=True)
    ]
    stacked = np.concatenate(outlines) if outlines else np.zeros((0, 18, 2), dtype=np.int32)
    order = rng.permutation(len(stacked))
    for i in order:
        cv2.fillPoly(ahead, [stacked[i]], int(i) + 1, shift=3)
    for i in order[::-1]:
        cv2.fillPoly(below, [stacked[i]], int(i) + 1, shift=3)
    ids, overlap = ahead, ahead != below
    counts = [len(centre) for centre in nuclei.centre]

    def of_each(value: Callable[[Look], float]) -> FloatField:
        return np.concatenate([[0.0], np.repeat([value(k) for k in nuclei.look], counts)]).astype(
            np.float32
        )

    density = of_each(lambda k: k.density)
    density *= np.exp(of_each(lambda k: k.density_spread) * deviations(rng, 1, len(density)))
    mask = of_each(lambda k: k.class_id).astype(np.uint8)[ids]

    inside = ids > 0
    edge = edges(ids)
    depth = distance_to(~inside | edge)
    middle = 1 - np.exp(-depth / 1.6)
    clumps = 0.6 * noise(rng, size, 2.2) + 0.6 * noise(rng, size, 4.5)
    haematoxylin = density[ids] * (
        (1 + of_each(lambda k: k.chromatin)[ids] * clumps)
        * (1 - of_each(lambda k: k.vesicular)[ids] * middle)
    )
    haematoxylin[overlap] *= rng.uniform(1, 1.35)  # light passes both nuclei
    haematoxylin[edge & inside] *= rng.uniform(0.65, 1.05)
    _add_nucleoli(rng, haematoxylin, nuclei, inside)

    malignant = mask == MALIGNANT
    tumour, borders = malignant, np.zeros_like(malignant)
    if malignant.any():
        distance, nearest = cv2.distanceTransformWithLabels(
            (~(malignant & ~edge)).astype(np.uint8), cv2.DIST_L2, 5
        )
        others = inside & ~malignant
        tumour = malignant | (room & (distance <= cytoplasm) & ~others)
        borders = edges(nearest) & tumour & ~inside
    return Cells(mask, np.maximum(haematoxylin, 0), tumour, borders)


def _add_nucleoli(
    rng: np.random.Generator, haematoxylin: FloatField, nuclei: Nuclei, inside: BoolField
) -> None:
    dots = np.zeros(inside.shape, dtype=np.uint8)
    for look, centre in zip(nuclei.look, nuclei.centre, strict=True):
        for _ in range(int(np.ceil(look.nucleoli))):
            chosen = thin(rng, centre, look.nucleoli / np.ceil(look.nucleoli))
            moved = chosen + rng.normal(0, look.length * 0.1, chosen.shape)
            for x, y in np.round(moved * 8).astype(int):
                cv2.circle(dots, (int(x), int(y)), int(rng.uniform(8, 18)), 1, -1, shift=3)
    haematoxylin[(dots > 0) & inside] += 0.35

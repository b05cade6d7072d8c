"""BreCaHAD: breast cancer at 40x in which some nuclei have a box and a class.

Its layout: ``Case_N-M.jpg`` (RGB) and ``cells.csv`` (``image,class,x,y,width,height``, the centre
and the sides of each box in pixels). A case is a patient.

Many nuclei have no box. So what has none and looks like a nucleus, or like a part of one, is not
judged; a nucleus that is not of the tumour may be a lymphocyte or any other.

Aksac et al., BMC Research Notes 12 (2019). CC BY 4.0, figshare 7379186.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.generated import Part
from training.data.labels import Report, read_rgb, read_table, refuse, reported, rescaled
from training.data.patients import PatientSplit, require_found
from training.data.picture import PICTURE_MPP, LazyPictures, Picture, Pictures, of_nuclei
from training.data.truth import BENIGN_NUCLEUS, IGNORED, one_of
from training.data.unmarked import stained, unmarked_nuclei
from wsi_pipeline.errors import ConfigError

NUMBER_OF_CLASS: dict[str, int | None] = {
    "Tumor_nuclei": one_of("malignant"),
    "Mitosis": one_of("malignant"),
    "Non_tumor_nuclei": BENIGN_NUCLEUS,
    "Apoptosis": IGNORED,
    "Tubule": None,
    "Non_tubule": None,
}
"""What is known of the pixels of a box of each class; boxes of a structure say nothing of any."""

# Not stated; by the size of the nuclei.
MPP = 0.24

# Lower than where every nucleus is marked, since pale ones are left out as well.
_LIKENESS = 0.35

_NAME = re.compile(r"(Case_\d+)-\d+\.jpg")
_COLUMNS = ("image", "class", "x", "y", "width", "height")


class BrecahadData(PatientSplit):
    """The set, split by case."""

    kind: Literal["brecahad"]

    def nuclei(self, part: Part) -> Pictures:
        """Return the images with what is known of their pixels.

        Raises:
            ConfigError: If a file is missing or malformed; on reading a picture, if its image is
                damaged or does not hold its boxes.

        """
        return pictures([i for i in find_images(self.root) if self.is_in(part, i.patient)])


@dataclass(frozen=True)
class Box:
    """A nucleus as it is marked; lengths in pixels of the image."""

    number: int
    """What is known of its pixels."""
    centre: tuple[float, float]
    sides: tuple[float, float]


@dataclass(frozen=True)
class BoxedImage:
    """An image and the boxes of its nuclei."""

    image: Path
    boxes: tuple[Box, ...]

    @property
    def patient(self) -> str:
        """The patient, by the name of the case."""
        return f"brecahad {self.image.name.split('-')[0]}"


def find_images(root: Path, report: Report = refuse) -> list[BoxedImage]:
    """List the images by name, with their boxes; their pixels are not read."""
    table = root / "cells.csv"
    images = {path.name for path in root.glob("*.jpg")}
    boxes: dict[str, list[Box]] = defaultdict(list)
    with reported(report):
        for place, row in read_table(table, _COLUMNS, report):
            with reported(report):
                if row["image"] not in images:
                    raise ConfigError(
                        f"{place}, is of {root / row['image']}, which is missing; add it or remove "
                        "its rows."
                    )
                if box := _box(place, row):
                    boxes[row["image"]].append(box)
    found = []
    for name in sorted(images):
        if not _NAME.fullmatch(name):
            report(f"{root / name} has no name of an image; call it 'Case_10-03.jpg' or remove it.")
        elif not boxes[name]:
            report(f"{root / name} has no box in {table}; add its nuclei or remove it.")
        else:
            found.append(BoxedImage(root / name, tuple(boxes[name])))
    require_found(found, root, "Case_N-M.jpg")
    return found


def pictures(images: list[BoxedImage]) -> Pictures:
    """Return images with what is known of their pixels."""
    return LazyPictures(len(images), partial(_read, images))


def _box(place: str, row: dict[str, str]) -> Box | None:
    if row["class"] not in NUMBER_OF_CLASS:
        raise ConfigError(
            f"{place}, has a box of class '{row['class']}'; known are "
            f"{', '.join(NUMBER_OF_CLASS)}. Correct the class."
        )
    try:
        x, y, width, height = (float(row[name]) for name in _COLUMNS[2:])
    except ValueError as error:
        raise ConfigError(
            f"{place}, has a box of {','.join(row[name] for name in _COLUMNS[2:])}; give its "
            "centre and sides in pixels of the image."
        ) from error
    number = NUMBER_OF_CLASS[row["class"]]
    return None if number is None else Box(number, (x, y), (width, height))


def _read(images: list[BoxedImage], i: int) -> Picture:
    return _marked(images[i])


@cache
def _marked(boxed: BoxedImage) -> Picture:
    whole = read_rgb(boxed.image)
    height, width = whole.shape[:2]
    for box in boxed.boxes:
        if not (0 <= box.centre[0] <= width and 0 <= box.centre[1] <= height):
            raise ConfigError(
                f"{boxed.image} is {width}×{height} px, and cells.csv puts a box of it at "
                f"{box.centre[0]:g},{box.centre[1]:g}: does the row belong to this image?"
            )
    rgb = rescaled(whole, MPP)
    mask = np.zeros(rgb.shape[:2], np.uint8)
    for box in boxed.boxes:
        _fill(mask, box, MPP / PICTURE_MPP)
    marked = np.where(mask == IGNORED, np.uint8(0), mask)
    # A slender nucleus lies across its box, and leaves most of it to the stroma.
    mask[(mask == BENIGN_NUCLEUS) & ~stained(rgb, marked > 0)] = IGNORED
    mask[unmarked_nuclei(rgb, marked, _LIKENESS) & (mask == 0)] = IGNORED
    return Picture(name=boxed.image.name, group=boxed.patient, sample=of_nuclei(rgb, mask))


def _fill(mask: NDArray[np.uint8], box: Box, scale: float) -> None:
    """Fill the ellipse in a box: what a nucleus of that box mostly is."""
    bits = 4
    x, y = (round((c * scale - 0.5) * 2**bits) for c in box.centre)
    across, down = (round(side * scale / 2 * 2**bits) for side in box.sides)
    cv2.ellipse(mask, (x, y), (across, down), 0, 0, 360, box.number, cv2.FILLED, cv2.LINE_8, bits)

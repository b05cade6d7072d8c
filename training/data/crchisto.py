"""CRCHistoPhenotypes: real colon tissue at 20x in which nuclei are points with a class.

Its layout: ``train/imgN.png`` (RGB) with ``train/imgN.csv`` (``x,y,class``), and ``validation/``
likewise. Sirinukunwattana et al., IEEE Transactions on Medical Imaging 35 (2016).

Many images are marked in part only: the annotators stopped half way, or left out what they were
unsure of. To learn that those nuclei are background would be wrong, so in the training part
whatever is stained like the marked nuclei, and is none of them, is not judged.
"""

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from training.data.generated import Part
from training.data.labels import Report, read_rgb, read_table, refuse, reported, within
from training.data.picture import (
    LazyPictures,
    Picture,
    Pictures,
    of_nuclei,
    unpack,
)
from training.data.truth import IGNORED
from training.data.unmarked import unmarked_nuclei
from training.ground_truth import Nuclei, nucleus_mask, outline_nuclei
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.architecture import CLASSES

CLASS_OF_NAME = {
    name: CLASSES.index(ours)
    for name, ours in {
        "epithelial": "malignant",
        "inflammatory": "lymphocyte",
        "fibroblast": "normal",
        "others": "normal",
    }.items()
}
"""What each class of the set counts as here.

All slides are of adenocarcinoma, but the set does not tell healthy from malignant epithelium: some
of what counts as malignant is healthy.
"""

MOST_UNJUDGED = 0.05
"""Share of the tissue that may go unjudged for cellularity to be derived nonetheless."""

# Published at 0.55 µm/px; the network works at 0.5.
_ENLARGEMENT = 1.1


class CrcHistoData(BaseModel):
    """The set in two folders, split by image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["crchisto"]
    root: Path = Field(description="folder that holds `train` and `validation`")

    def nuclei(self, part: Part) -> Pictures:
        """Return the images with the masks that a watershed finds around their nuclei.

        In training, what looks like an unmarked nucleus is not judged; in validation everything is.

        Raises:
            ConfigError: If a file is missing or malformed; on reading a picture, if its image is
                damaged or does not hold its points.

        """
        return pictures(find_images(self.root, part), part)

    def cellularity(self, part: Part) -> Pictures:
        """Return the images whose cellularity can be derived: those marked well, in training.

        This reads every image of the training part.
        """
        images = find_images(self.root, part)
        if part == "train":
            images = [image for image in images if _unjudged(image) <= MOST_UNJUDGED]
        return pictures(images, part)


@dataclass(frozen=True)
class LabelledImage:
    """An image and the table of its nuclei."""

    image: Path
    table: Path


def find_images(root: Path, part: Part, report: Report = refuse) -> list[LabelledImage]:
    """List a part's images by name; their tables are read, their pixels are not."""
    folder = root / part
    images = {path.stem: path for path in folder.glob("*.png")}
    tables = {path.stem: path for path in folder.glob("*.csv")}
    if not images:
        report(f"{folder} holds no *.png; give the folder that holds 'train' and 'validation'.")
    for name in sorted(images.keys() - tables.keys()):
        report(f"{images[name]} has no table beside it; add {name}.csv or remove the image.")
    for name in sorted(tables.keys() - images.keys()):
        report(f"{tables[name]} has no image beside it; add {name}.png or remove the table.")
    found = []
    for name in sorted(images.keys() & tables.keys()):
        with reported(report):
            read_points(tables[name])
            found.append(LabelledImage(images[name], tables[name]))
    return found


def pictures(images: list[LabelledImage], part: Part) -> Pictures:
    """Return images with the masks that a watershed finds around their nuclei."""
    return LazyPictures(len(images), partial(_read, images, part))


def read_points(path: Path) -> Nuclei:
    """Read the nuclei of a table, in pixels of the image at 0.55 µm/px.

    A table without rows is of an image without nuclei: some show glass or blood alone.

    Raises:
        ConfigError: If the table is missing or malformed, or names an unknown class.

    """
    points: list[tuple[float, float]] = []
    classes: list[int] = []
    for place, row in read_table(path, ("x", "y", "class")):
        try:
            points.append((float(row["x"]), float(row["y"])))
        except ValueError as error:
            raise ConfigError(
                f"{place}, has a nucleus at {row['x']},{row['y']}; x and y are pixels of the image."
            ) from error
        if row["class"] not in CLASS_OF_NAME:
            raise ConfigError(
                f"{place}, has a nucleus of class '{row['class']}'; known are "
                f"{', '.join(CLASS_OF_NAME)}. Correct the class."
            )
        classes.append(CLASS_OF_NAME[row["class"]])
    xy = np.array(points, np.float64).reshape(-1, 2)
    return Nuclei(xy=xy, classes=np.array(classes, np.uint8))


def read_image(labelled: LabelledImage) -> tuple[NDArray[np.uint8], Nuclei]:
    """Read an image at 0.5 µm/px, uint8 [H, W, 3], and its nuclei in pixels of it."""
    small = read_rgb(labelled.image)
    nuclei = within(labelled.table, read_points(labelled.table), small)
    height, width = (round(side * _ENLARGEMENT) for side in small.shape[:2])
    rgb = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    # The tables count pixels from 1, at their centres: so the points lie on their nuclei, which
    # they miss by one pixel otherwise.
    xy = (nuclei.xy - 0.5).clip(0) * (width / small.shape[1], height / small.shape[0])
    return rgb, Nuclei(xy=xy, classes=nuclei.classes)


def _unjudged(labelled: LabelledImage) -> float:
    """Return which share of the tissue is not judged."""
    patch = unpack(_outlined(labelled, "train").sample)
    return float((patch.mask == IGNORED).sum() / max(1, patch.tissue.sum()))


def _read(images: list[LabelledImage], part: Part, i: int) -> Picture:
    return _outlined(images[i], part)


# The watershed takes longer than a training step, and the whole set fits in memory.
@cache
def _outlined(labelled: LabelledImage, part: Part) -> Picture:
    rgb, nuclei = read_image(labelled)
    mask = nucleus_mask(outline_nuclei(rgb, nuclei), nuclei)
    if part == "train":
        mask[unmarked_nuclei(rgb, mask)] = IGNORED
    name = labelled.image.name
    group = f"crchisto {labelled.image.stem}"
    return Picture(name=name, group=group, sample=of_nuclei(rgb, mask))

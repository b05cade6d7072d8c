"""CoNSeP: real colon tissue at 40x of which every nucleus is outlined and classed.

Its layout: ``train_N.png`` (RGB), ``train_N_inst.png`` (16 bit, a number per nucleus) and
``train_N_type.png`` (8 bit, a class per pixel). Graham et al., HoVer-Net, Medical Image Analysis
58 (2019).
"""

from functools import cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.data.generated import Part
from training.data.picture import Picture, Pictures, of_nuclei
from training.ground_truth import Nuclei, nucleus_mask, outline_nuclei
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.architecture import CLASSES

TYPES = {
    "other": "normal",
    "inflammatory": "lymphocyte",
    "healthy epithelial": "normal",
    "dysplastic/malignant epithelial": "malignant",
    "fibroblast": "normal",
    "muscle": "normal",
    "endothelial": "normal",
}
"""What each class of the set counts as here, in the order of its numbers from 1 on."""

_CLASS_OF_TYPE = np.array([0, *(CLASSES.index(name) for name in TYPES.values())], dtype=np.uint8)

# Published at 0.25 µm/px; the network works at 0.5.
_REDUCTION = 2


class ConsepData(BaseModel):
    """CoNSeP by folds over its images: image n is judged in fold ``n % folds``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["consep"]
    root: Path
    fold: int = Field(default=0, ge=0, description="which fold is held back; the rest is learnt")
    folds: int = Field(default=3, ge=2)
    truth: Literal["outlines", "watershed"] = Field(
        default="outlines",
        description="masks to learn from; those to judge by are always the true outlines",
    )

    @model_validator(mode="after")
    def _fold_exists(self) -> "ConsepData":
        if self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} is none of {self.folds} folds, counted from 0")
        return self

    def nuclei(self, part: Part) -> Pictures:
        """Return the images of a part with the masks of their nuclei."""
        numbers = image_numbers(self.root)
        held_back = [n for n in numbers if n % self.folds == self.fold]
        if part == "validation":
            return [_picture(self.root, n, "outlines") for n in held_back]
        return [_picture(self.root, n, self.truth) for n in numbers if n not in held_back]

    def cellularity(self, part: Part) -> Pictures:
        """Return the same images: their cellularity is derived from the masks."""
        return self.nuclei(part)


def image_numbers(root: Path) -> list[int]:
    """Return the numbers of the images in a folder.

    Raises:
        ConfigError: If there is none.

    """
    names = (path.stem.removeprefix("train_") for path in root.glob("train_*.png"))
    numbers = sorted(int(name) for name in names if name.isdecimal())
    if not numbers:
        raise ConfigError(f"{root} holds no train_N.png; give the folder of the CoNSeP images.")
    return numbers


def read_image(root: Path, number: int) -> NDArray[np.uint8]:
    """Read an image at 0.5 µm/px, uint8 [H, W, 3] RGB."""
    bgr = _read(root / f"train_{number}.png", cv2.IMREAD_COLOR)
    size = (bgr.shape[1] // _REDUCTION, bgr.shape[0] // _REDUCTION)
    rgb = cv2.cvtColor(cv2.resize(bgr, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
    return np.asarray(rgb, dtype=np.uint8)


def read_types(root: Path, number: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Read which nucleus and which class of ours is at each pixel, both [H, W] at 0.25 µm/px.

    Raises:
        ConfigError: If a map is missing, of another size, or of an unknown class.

    """
    instances = _read(root / f"train_{number}_inst.png", cv2.IMREAD_UNCHANGED)
    path = root / f"train_{number}_type.png"
    types = _read(path, cv2.IMREAD_UNCHANGED)
    if types.shape != instances.shape or types.ndim != 2:
        raise ConfigError(
            f"{path} is {types.shape} and its instance map {instances.shape}; both must be "
            "single-channel maps of the image's size. Download the set again."
        )
    if types.max(initial=0) >= len(_CLASS_OF_TYPE):
        raise ConfigError(
            f"{path} holds class {types.max()}; CoNSeP's classes are 0 to "
            f"{len(_CLASS_OF_TYPE) - 1}. Download the set again."
        )
    return instances.astype(np.int32), _CLASS_OF_TYPE[types]


def read_nuclei(root: Path, number: int) -> Nuclei:
    """Read the nuclei as points at 0.5 µm/px: each instance's centroid and class."""
    return centres(*read_types(root, number), finer=_REDUCTION)


def centres(instances: NDArray[np.int32], classes: NDArray[np.uint8], finer: int) -> Nuclei:
    """Return each instance's centroid and most frequent class.

    Args:
        instances: a number per nucleus, [H, W]; 0 is none.
        classes: class ids, [H, W].
        finer: how many of these pixels go into one of those that the points are counted in.

    """
    rows, columns = np.nonzero((instances > 0) & (classes > 0))
    ids, where = np.unique(instances[rows, columns], return_inverse=True)
    area = np.bincount(where)
    x, y = ((np.bincount(where, at) / area + 0.5) / finer for at in (columns, rows))
    votes = np.zeros((len(ids), len(CLASSES)), dtype=np.int64)
    np.add.at(votes, (where, classes[rows, columns]), 1)
    return Nuclei(xy=np.column_stack([x, y]), classes=votes.argmax(1).astype(np.uint8))


def outline_mask(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring a class map to 0.5 µm/px: each pixel gets the class that covers most of it."""
    size = (classes.shape[1] // _REDUCTION, classes.shape[0] // _REDUCTION)
    share = [
        cv2.resize((classes == c).astype(np.float32), size, interpolation=cv2.INTER_AREA)
        for c in range(len(CLASSES))
    ]
    return np.asarray(np.argmax(share, axis=0), dtype=np.uint8)


@cache
def _picture(root: Path, number: int, truth: Literal["outlines", "watershed"]) -> Picture:
    rgb = read_image(root, number)
    classes = read_types(root, number)[1]
    mask = outline_mask(classes)
    if rgb.shape[:2] != mask.shape:
        raise ConfigError(
            f"{root / f'train_{number}.png'} is {_REDUCTION * rgb.shape[1]}×"
            f"{_REDUCTION * rgb.shape[0]} px and its maps {classes.shape[1]}×{classes.shape[0]}; "
            "they belong to different images. Download the set again."
        )
    if truth == "watershed":
        nuclei = read_nuclei(root, number)
        mask = nucleus_mask(outline_nuclei(rgb, nuclei), nuclei)
    name = f"train_{number}"
    return Picture(name=name, group=f"consep {number}", sample=of_nuclei(rgb, mask))


def _read(path: Path, flag: int) -> NDArray[np.uint8]:
    if not path.is_file():
        raise ConfigError(f"{path} is missing; the image cannot be used without it.")
    pixels = cv2.imread(str(path), flag)
    if pixels is None:
        raise ConfigError(f"{path} is not a readable PNG; download the set again.")
    return np.asarray(pixels)

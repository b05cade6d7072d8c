"""TNBC: breast cancer at 40x of which all nuclei are outlined, and none is classed.

Its layout: ``N.png`` (RGB, 0.25 µm/px) and ``N_nuclei.png`` (black and white). The patient of an
image is not known, so the set is learnt from as a whole or not at all.

Naylor et al., IEEE Transactions on Medical Imaging 38 (2019). CC BY 4.0, zenodo 1175282.
"""

from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from training.data.generated import Part
from training.data.labels import Report, read_mask, read_rgb, refuse, rescaled, rescaled_mask
from training.data.patients import PatientSplit, require_found
from training.data.picture import LazyPictures, Picture, Pictures, of_nuclei
from training.data.truth import NUCLEUS

MPP = 0.25

_MASK = "_nuclei"


class TnbcData(PatientSplit):
    """The set; it is never split."""

    kind: Literal["tnbc"]

    def nuclei(self, part: Part) -> Pictures:
        """Return the images with their nuclei, of which the class is unknown: all to learn from.

        Raises:
            ConfigError: If a file is missing; on reading a picture, if its image or mask is damaged
                or they do not go together.

        """
        return pictures(find_images(self.root) if part == "train" else [])


def find_images(root: Path, report: Report = refuse) -> list[Path]:
    """List the images that have a mask, by number."""
    paths = [path for path in root.glob("*.png") if path.stem.isdecimal()]
    found = []
    for path in sorted(paths, key=lambda path: int(path.stem)):
        if not _mask_of(path).is_file():
            report(f"{path} has no mask beside it; add {_mask_of(path).name} or remove the image.")
        else:
            found.append(path)
    require_found(found, root, "N.png with N_nuclei.png")
    return found


def pictures(images: list[Path]) -> Pictures:
    """Return images with their nuclei, of which the class is unknown."""
    return LazyPictures(len(images), partial(_read, images))


def _mask_of(image: Path) -> Path:
    return image.with_name(f"{image.stem}{_MASK}.png")


def _read(images: list[Path], i: int) -> Picture:
    return _outlined(images[i])


@cache
def _outlined(path: Path) -> Picture:
    rgb = read_rgb(path)
    nuclei = rescaled_mask(read_mask(_mask_of(path), rgb), MPP)
    mask = np.where(nuclei, np.uint8(NUCLEUS), np.uint8(0))
    group = "tnbc, patient unknown"
    return Picture(path.name, group=group, sample=of_nuclei(rescaled(rgb, MPP), mask))

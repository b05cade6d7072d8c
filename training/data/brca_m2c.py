"""BRCA-M2C: real breast cancers at 20x in which every nucleus is a point with a class.

Its layout: ``images/NAME.png`` (RGB, 0.5 µm/px), ``labels/NAME_gt_class_coords.txt`` (rows
``y x class``) and lists of names, ``brca_ds_train.txt``, ``brca_ds_val.txt`` and perhaps
``brca_ds_test.txt``. Two patients are in both of the first lists, so the split here is by patient
and not by list. Whoever is in the list of the test is in no part: its figures are published.

Abousamra et al., Multi-Class Cell Detection Using Spatial Context Representation, ICCV 2021.
BSD-3-Clause, github.com/TopoXLab/Dataset-BRCA-M2C.
"""

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from training.data.generated import Part
from training.data.labels import Report, read_rgb, refuse, reported, within
from training.data.patients import PatientSplit, require_found, tcga_patient
from training.data.picture import LazyPictures, Picture, Pictures, is_glass, of_cells, of_nuclei
from training.data.truth import IGNORED
from training.data.unmarked import unmarked_nuclei
from training.ground_truth import Nuclei, grown_to_cells, nucleus_mask, outline_nuclei
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.architecture import CLASSES

CLASS_OF_NUMBER = {
    "1": CLASSES.index("lymphocyte"),
    "2": CLASSES.index("malignant"),
    "3": CLASSES.index("normal"),
}
"""What each class of the set counts as here: 2 is tumour or epithelium, nearly all of it tumour,
and 3 is stroma and vessels."""

Truth = Literal["nuclei", "cells"]

_LISTS = ("brca_ds_train.txt", "brca_ds_val.txt")
_TEST_LIST = "brca_ds_test.txt"
_LABELS = "_gt_class_coords.txt"


class BrcaM2cData(PatientSplit):
    """The set, split by patient."""

    kind: Literal["brca-m2c"]
    truth: Truth = Field(
        default="nuclei",
        description="outlines of nuclei, or of cells with the mean areas of the paper's",
    )

    def nuclei(self, part: Part) -> Pictures:
        """Return the fields with the masks that a watershed finds around their nuclei.

        In training, what looks like an unmarked nucleus is not judged; in validation everything is.

        Raises:
            ConfigError: If a file is missing or malformed; on reading a picture, if its image is
                damaged or does not hold its points.

        """
        return pictures(self.fields(part), part, self.truth)

    def fields(self, part: Part) -> list["LabelledField"]:
        """List the fields of a part."""
        return [field for field in find_fields(self.root) if self.is_in(part, field.patient)]

    def cellularity(self, part: Part) -> Pictures:
        """Return the same fields: their cellularity is derived from the masks."""
        return self.nuclei(part)


@dataclass(frozen=True)
class LabelledField:
    """An image and the points of its nuclei."""

    image: Path
    points: Path
    patient: str


def find_fields(root: Path, report: Report = refuse) -> list[LabelledField]:
    """List the fields of the published training and validation by name; points alone are read."""
    listed = [name for path in _LISTS for name in _listed(root / path)]
    require_found(listed, root, f"names in {' and '.join(_LISTS)}")
    test = {tcga_patient(name) for name in _listed(root / _TEST_LIST)}
    fields = []
    for name in sorted(set(listed)):
        with reported(report):
            patient = tcga_patient(name)
            image = root / "images" / name
            if not image.is_file():
                raise ConfigError(f"{image} is missing, and a list names it; clone the set again.")
            points = root / "labels" / f"{image.stem}{_LABELS}"
            read_points(points)
            if patient not in test:
                fields.append(LabelledField(image, points, patient))
    return fields


def pictures(fields: list[LabelledField], part: Part, truth: Truth = "nuclei") -> Pictures:
    """Return fields with the masks that a watershed finds around their nuclei."""
    return LazyPictures(len(fields), partial(_read, fields, part, truth))


def read_points(path: Path) -> Nuclei:
    """Read the nuclei of a file, in pixels of its image.

    Raises:
        ConfigError: If the file is missing or malformed, or names an unknown class.

    """
    if not path.is_file():
        raise ConfigError(
            f"{path} is missing; clone the set again, or remove its image from the list."
        )
    xy: list[tuple[float, float]] = []
    classes: list[int] = []
    for i, line in enumerate(_lines(path), 1):
        try:
            y, x, number = line.split()
            # Pixels are counted from 0, and a pixel's centre is half a pixel beyond.
            xy.append((float(x) + 0.5, float(y) + 0.5))
        except ValueError as error:
            raise ConfigError(
                f"{path}, line {i}, is '{line}'; a nucleus is 'y x class', in pixels of the image."
            ) from error
        if number not in CLASS_OF_NUMBER:
            raise ConfigError(
                f"{path}, line {i}, has a nucleus of class '{number}'; known are 1 (lymphocyte), "
                "2 (tumour or epithelium) and 3 (stroma). Correct the class."
            )
        classes.append(CLASS_OF_NUMBER[number])
    return Nuclei(xy=np.array(xy, np.float64).reshape(-1, 2), classes=np.array(classes, np.uint8))


def read_field(labelled: LabelledField) -> tuple[NDArray[np.uint8], Nuclei]:
    """Read an image, uint8 [H, W, 3], and its nuclei."""
    rgb = read_rgb(labelled.image)
    return rgb, within(labelled.points, read_points(labelled.points), rgb)


def _listed(path: Path) -> list[str]:
    return [line for line in _lines(path) if line] if path.is_file() else []


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text ({error}); clone the set again.") from error


def _read(fields: list[LabelledField], part: Part, truth: Truth, i: int) -> Picture:
    return _outlined(fields[i], part, truth)


# The watershed takes longer than a training step, and the whole set fits in memory.
@cache
def _outlined(labelled: LabelledField, part: Part, truth: Truth) -> Picture:
    rgb, nuclei = read_field(labelled)
    outlines = outline_nuclei(rgb, nuclei)
    mask = nucleus_mask(outlines, nuclei)
    unmarked = unmarked_nuclei(rgb, mask)
    if truth == "cells":
        cells = nucleus_mask(grown_to_cells(outlines, nuclei), nuclei)
        mask = np.where((mask == 0) & ~is_glass(rgb), cells, mask)
    if part == "train":
        mask[unmarked] = IGNORED
    sample = of_cells(rgb, mask) if truth == "cells" else of_nuclei(rgb, mask)
    name = labelled.image.name
    return Picture(name=name, group=labelled.patient, sample=sample, points=nuclei.xy)

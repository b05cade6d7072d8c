"""Camelyon16: patches of lymph nodes at 40x, with and without metastases of breast cancer.

Its layout: ``tumor/SLIDE_X_Y.png`` and ``normal/SLIDE_X_Y.png``. All that is known is that of a
patch: one has a tumour somewhere, the other has none. A slide is a patient.

Litjens et al., GigaScience 7 (2018). CC0, github.com/DIDSR/DeepLearningCamelyon_II.
"""

import re
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from training.data.generated import Part
from training.data.labels import Report, read_rgb, refuse, rescaled
from training.data.patients import PatientSplit, require_found
from training.data.picture import LazyPictures, Picture, Pictures, of_nuclei
from training.data.truth import NO_TUMOUR, TUMOUR_NEAR

# Not stated; by the size of the nuclei.
MPP = 0.24

_NUMBER_OF_FOLDER = {"tumor": TUMOUR_NEAR, "normal": NO_TUMOUR}

_NAME = re.compile(r"(?P<slide>[a-z]+_\d+)_\d+_\d+\.png")


class Camelyon16Data(PatientSplit):
    """The set, split by slide."""

    kind: Literal["camelyon16"]

    def nuclei(self, part: Part) -> Pictures:
        """Return the patches with what is known of all their pixels alike.

        Raises:
            ConfigError: If a folder is missing; on reading a picture, if it is damaged.

        """
        return pictures([p for p in find_patches(self.root) if self.is_in(part, p.patient)])

    def cellularity(self, part: Part) -> Pictures:
        """Return the patches without a tumour, whose cellularity is 0."""
        patches = find_patches(self.root)
        return pictures([p for p in patches if self.is_in(part, p.patient) and not p.has_tumour])


@dataclass(frozen=True)
class ClassedPatch:
    """A patch and whether there is a tumour in it."""

    image: Path
    slide: str

    @property
    def has_tumour(self) -> bool:
        """Whether a tumour is somewhere in the patch."""
        return self.image.parent.name == "tumor"

    @property
    def patient(self) -> str:
        """The patient, by the name of the slide."""
        return f"camelyon16 {self.slide}"


def find_patches(root: Path, report: Report = refuse) -> list[ClassedPatch]:
    """List the patches by name, those with a tumour first."""
    found = []
    for folder in _NUMBER_OF_FOLDER:
        images = sorted((root / folder).glob("*.png"))
        if not images:
            report(f"{root / folder} holds no *.png; give the folder that holds both.")
        for image in images:
            if name := _NAME.fullmatch(image.name):
                found.append(ClassedPatch(image, name["slide"]))
            else:
                report(
                    f"{image} has no name of a patch; call it 'tumor_001_69916_134313.png', after "
                    "its slide and place, or remove it."
                )
    require_found(found, root, "patches in 'tumor' and 'normal'")
    return found


def pictures(patches: list[ClassedPatch]) -> Pictures:
    """Return patches with what is known of all their pixels alike."""
    return LazyPictures(len(patches), partial(_read, patches))


def _read(patches: list[ClassedPatch], i: int) -> Picture:
    return _labelled(patches[i])


@cache
def _labelled(patch: ClassedPatch) -> Picture:
    rgb = rescaled(read_rgb(patch.image), MPP)
    number = _NUMBER_OF_FOLDER[patch.image.parent.name]
    mask = np.full(rgb.shape[:2], number, dtype=np.uint8)
    name = f"{patch.image.parent.name}/{patch.image.name}"
    return Picture(name, group=patch.patient, sample=of_nuclei(rgb, mask))

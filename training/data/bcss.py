"""BCSS: regions of breast cancers in which tissue that is mostly tumour is outlined.

Its layout: ``TCGA-A2-A0D2-DX1.png`` (RGB, 0.5 µm/px) and ``…_mostly_tumour.png`` (black and white).
The outlines are of tissue: inside are cells of the tumour and others between them, of which none is
known; outside is no tumour. At the outline itself, which was drawn by hand, nothing is known.

Amgad et al., Bioinformatics 35 (2019). CC0, github.com/PathologyDataScience/BCSS.
"""

from functools import cache, partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.generated import Part
from training.data.labels import Report, read_mask, read_rgb, refuse, reported
from training.data.patients import PatientSplit, require_found, tcga_patient
from training.data.picture import PICTURE_MPP, LazyPictures, Picture, Pictures, of_nuclei
from training.data.truth import IGNORED, NO_TUMOUR, TUMOUR_NEAR
from wsi_pipeline.errors import ConfigError

OUTLINE_UM = 8.0
"""How far from the drawn outline tissue counts as neither inside nor outside."""

_MASK = "_mostly_tumour"


class BcssData(PatientSplit):
    """The set, split by patient."""

    kind: Literal["bcss"]

    def nuclei(self, part: Part) -> Pictures:
        """Return the regions with where the tumour is and where it is not.

        Raises:
            ConfigError: If a file is missing; on reading a picture, if its image or mask is damaged
                or they do not go together.

        """
        regions = find_regions(self.root)
        return pictures([r for r in regions if self.is_in(part, tcga_patient(r.name))])


def find_regions(root: Path, report: Report = refuse) -> list[Path]:
    """List the regions that have an outline, by name."""
    found = []
    for path in sorted(root.glob("*.png")):
        if path.stem.endswith(_MASK):
            continue
        with reported(report):
            tcga_patient(path.name)
            if not _mask_of(path).is_file():
                raise ConfigError(
                    f"{path} has no outline beside it; add {_mask_of(path).name} or remove the "
                    "image."
                )
            found.append(path)
    require_found(found, root, "TCGA-….png with …_mostly_tumour.png")
    return found


def pictures(regions: list[Path]) -> Pictures:
    """Return regions with where the tumour is and where it is not."""
    return LazyPictures(len(regions), partial(_read, regions))


def read_region(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Read a region, uint8 [H, W, 3], and which of its tissue is mostly tumour, bool [H, W]."""
    rgb = read_rgb(path)
    return rgb, read_mask(_mask_of(path), rgb)


def _mask_of(image: Path) -> Path:
    return image.with_name(f"{image.stem}{_MASK}.png")


def _read(regions: list[Path], i: int) -> Picture:
    return _outlined(regions[i])


@cache
def _outlined(path: Path) -> Picture:
    rgb, tumour = read_region(path)
    inside = tumour.astype(np.uint8)
    to_outline = cv2.distanceTransform(inside, cv2.DIST_L2, 5) + cv2.distanceTransform(
        1 - inside, cv2.DIST_L2, 5
    )
    mask = np.where(tumour, np.uint8(TUMOUR_NEAR), np.uint8(NO_TUMOUR))
    mask[to_outline * PICTURE_MPP <= OUTLINE_UM] = IGNORED
    return Picture(path.name, group=tcga_patient(path.name), sample=of_nuclei(rgb, mask))

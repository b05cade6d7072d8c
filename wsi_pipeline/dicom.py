"""What DICOM files say of the levels that they hold, read without their pixels."""

import logging
from collections.abc import Sequence

from pydicom import Dataset
from pydicom.filereader import read_partial

from wsi_pipeline.geometry import Size
from wsi_pipeline.pyramid import Described
from wsi_pipeline.slide_files import open_binary

log = logging.getLogger(__name__)

SHARED_FUNCTIONAL_GROUPS = 0x5200_9229
"""The pixel's size is in here; what follows is one element for each of 100 000 tiles."""


def described_levels(files: Sequence[str]) -> list[Described]:
    """Read the size, the tiles and the pixel spacing of the pictures in a series of files.

    A file that cannot be read so is left out: what opens it says what is wrong with it.
    """
    found = []
    for location in files:
        try:
            with open_binary(location) as file:
                found.append(_described(read_partial(file, _is_beyond)))
        # A damaged header raises from struct and zlib as well as pydicom's own errors.
        except Exception as error:  # noqa: BLE001
            log.debug("%s: no level: %s", location, error)
    return found


def _is_beyond(tag: int, _vr: str | None, _length: int) -> bool:
    return tag > SHARED_FUNCTIONAL_GROUPS


def _described(header: Dataset) -> Described:
    measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    _row_mm, column_mm = measures.PixelSpacing
    return Described(
        size=Size(int(header.TotalPixelMatrixColumns), int(header.TotalPixelMatrixRows)),
        tile=Size(int(header.Columns), int(header.Rows)),
        scale=float(column_mm),
    )

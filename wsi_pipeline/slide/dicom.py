"""What DICOM files say of the levels that they hold, and why a series may not be read."""

import logging
from collections.abc import Sequence

from pydicom import Dataset

from wsi_pipeline.errors import SlideError
from wsi_pipeline.geometry import Size
from wsi_pipeline.slide.files import SLIDE_MODALITY, read_dicom
from wsi_pipeline.slide.pyramid import Described

log = logging.getLogger(__name__)

SHARED_FUNCTIONAL_GROUPS = 0x5200_9229
"""The pixel's size is in here; what follows is one element for each of 100 000 tiles."""
PER_FRAME_FUNCTIONAL_GROUPS = 0x5200_9230

HEADER_BYTES = 1 << 23
"""Of which colour profiles take the most."""

_FAULTS = (
    ("FocalPlanes", "it holds several focal planes, which are not supported. Export one of them"),
    (
        "unexpected image",
        (
            "its series holds several pictures of one size, such as focal planes or stains, which "
            "are not supported. Export one of them"
        ),
    ),
    (
        "transfer syntax",
        (
            "its pixels are compressed in a way that is not supported. Export it with tiles in "
            "JPEG or JPEG 2000"
        ),
    ),
    (
        "No pyramid levels",
        (
            "its series holds no level of a slide, such as a label alone. Copy all files of the "
            "series into one folder, and name that"
        ),
    ),
    ("SamplesPerPixel", "its pixels are not RGB. Export it as RGB"),
    ("PhotometricInterpretation", "its pixels are not RGB. Export it as RGB"),
    ("photometric interpretation", "its pixels are not RGB. Export it as RGB"),
    (
        "PlanarConfiguration",
        "each of its colours is stored in a plane of its own. Export it as RGB, pixel by pixel",
    ),
    (
        "concatenation",
        (
            "a level of it is split over several files, and some are missing. Copy all files of "
            "the series into one folder"
        ),
    ),
    ("Bits", "its pixels have not 8 bits a channel. Export it as 8-bit RGB"),
)
"""By what OpenSlide says of a series."""


def fault_of_dicom(modality: str, said: str) -> str:
    """Tell why a DICOM file is not read as a slide, and what to do about it.

    Args:
        modality: of its header.
        said: by the readers.

    """
    if modality != SLIDE_MODALITY:
        return f"this is no slide, but DICOM of modality {modality}. Check that it is one"
    known = next((fault for word, fault in _FAULTS if word in said), None)
    return known or (
        "it is a DICOM slide of a kind that is not supported, or one of its files is damaged. "
        "Export it anew, or copy it again"
    )


def require_placed_frames(files: Sequence[str]) -> None:
    """Raise if a level says that its frames are sparse, but not where each lies.

    OpenSlide's library follows a pointer to nowhere there, and takes its process with it.

    Raises:
        SlideError: if there is such a file.

    """
    for location in files:
        seen: list[int] = []
        try:
            header = read_dicom(location, SHARED_FUNCTIONAL_GROUPS, HEADER_BYTES, seen)
        # A damaged header raises from struct and zlib as well as pydicom's own errors.
        except Exception as error:  # noqa: BLE001
            log.debug("%s: no header: %s", location, error)
            continue
        sparse = header.get("DimensionOrganizationType") == "TILED_SPARSE"
        if sparse and PER_FRAME_FUNCTIONAL_GROUPS not in seen:
            raise SlideError(
                f"{location}: its frames are sparse (TILED_SPARSE), but it does not say where each "
                f"lies. Export it anew, as TILED_FULL."
            )


MAX_ELEMENT_BYTES = 1 << 26
"""Colour profiles and lookup tables have far less: what has more was made to fill the memory."""

UNDEFINED_LENGTH = 0xFFFF_FFFF
"""Of sequences, which end with a mark."""


def described_levels(files: Sequence[str]) -> list[Described]:
    """Read the size, the tiles and the pixel spacing of the pictures in a series of files.

    A file that cannot be read so is left out: what opens it says what is wrong with it.
    """
    found = []
    for location in files:
        try:
            found.append(_described(read_dicom(location, SHARED_FUNCTIONAL_GROUPS, HEADER_BYTES)))
        # A damaged header raises from struct and zlib as well as pydicom's own errors.
        except Exception as error:  # noqa: BLE001
            log.debug("%s: no level: %s", location, error)
    return found


def _described(header: Dataset) -> Described:
    measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    _row_mm, column_mm = measures.PixelSpacing
    return Described(
        size=Size(int(header.TotalPixelMatrixColumns), int(header.TotalPixelMatrixRows)),
        tile=Size(int(header.Columns), int(header.Rows)),
        scale=float(column_mm),
    )

"""DICOM files: of which slide they are, which levels they hold, and why they may not be read.

All files of one series are one slide. Headers are read up to the elements that are wanted, within a
bound: the process that plans a night reads those of every file in an inbox.
"""

import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, config
from pydicom.filereader import read_partial

from wsi_pipeline.errors import SlideError
from wsi_pipeline.files import open_binary
from wsi_pipeline.geometry import Size
from wsi_pipeline.slide.pyramid import Described

log = logging.getLogger(__name__)

# An odd value is a warning on the terminal otherwise, whether anybody wants the value or not.
config.settings.reading_validation_mode = config.IGNORE

_DICOM_SUFFIX = re.compile(r"(?i:\.dcm)?|\.[0-9]+")
"""Names that are UIDs end in a number behind a point."""

DICOM_HEADER_BYTES = 1 << 18
"""The series is among a DICOM file's first elements: more of a file is not read to find it."""

_DEFLATED = b"1.2.840.10008.1.2.1.99"
"""The transfer syntax in which a small header may unpack to any size; no slide is stored so."""

SERIES_INSTANCE_UID = 0x0020_000E

SLIDE_MODALITY = "SM"
"""Slide microscopy; annotations, segmentations and reports of slides have others."""

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


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """What decides to which slide a DICOM file belongs: all files of one series are one slide."""

    series: str
    modality: str


def may_be_dicom(name: str) -> bool:
    """Tell by its name whether a file may be DICOM: archives export it without a suffix too."""
    return bool(_DICOM_SUFFIX.fullmatch(Path(name).suffix))


def dicom_header(location: str) -> DicomHeader | None:
    """Read to which series a DICOM file belongs; None if the file is no DICOM file or damaged.

    It decodes nothing else, and what it reads has a bound: the process that plans a night calls it.
    """
    try:
        header = read_dicom(location, SERIES_INSTANCE_UID, DICOM_HEADER_BYTES)
        return DicomHeader(
            str(header.SeriesInstanceUID), str(header.get("Modality", SLIDE_MODALITY))
        )
    # A damaged header raises from struct and zlib as well as pydicom's own errors.
    except Exception as error:  # noqa: BLE001
        log.debug("%s: no DICOM header: %s", location, error)
        return None


def read_dicom(
    location: str, last_tag: int, at_most: int, seen: list[int] | None = None
) -> Dataset:
    """Read the elements of a DICOM file up to a tag, within its first bytes.

    Args:
        location: a path or URL.
        last_tag: the last element that is wanted.
        at_most: bytes.
        seen: takes all tags that are met, with the one behind the last.

    Raises:
        ValueError: if its header is compressed, for which nothing has a bound.
        Exception: whatever the library raises for what is no DICOM, or damaged.

    """
    with open_binary(location) as file:
        beginning = file.read(at_most)
    if _DEFLATED in beginning[:DICOM_HEADER_BYTES]:
        raise ValueError("the header is compressed")

    def is_beyond(tag: int, _vr: str | None, _length: int) -> bool:
        if seen is not None:
            seen.append(int(tag))
        return tag > last_tag

    return read_partial(io.BytesIO(beginning), is_beyond)


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

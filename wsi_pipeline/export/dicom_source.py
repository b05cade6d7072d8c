"""What a result's DICOM objects say of the slide: its own headers, or what is known of another.

A slide that is DICOM gives its patient, study, specimen and frame of reference. Of any other one
nothing is known but its name and its pixels: what must be there is empty, UIDs follow from digests,
and the frame of reference is the picture's own, from the corner of its level 0.
"""

import datetime as dt
import uuid
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, VLWholeSlideMicroscopyImageStorage
from pydicom.valuerep import DA, TM

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.facts import SlideFacts
from wsi_pipeline.scoring.filing import Names, pseudonym
from wsi_pipeline.slide.dicom import PER_FRAME_FUNCTIONAL_GROUPS
from wsi_pipeline.slide.files import content_digest, files_of

DICOM = "dicom"
"""What readers call the vendor of a slide in DICOM."""

_NAMESPACE = uuid.UUID("2b1f3f0c-5d0c-5b6a-9b51-6d6c3a3a7b10")


@dataclass(frozen=True, eq=False)
class Source:
    """The slide that a result's objects refer to.

    Attributes:
        header: of its level 0, without its pixels; see the module for a slide that is no DICOM.
        is_dicom: whether the archive has it, so that objects may refer to it.

    """

    header: Dataset
    is_dicom: bool

    @property
    def axes(self) -> NDArray[np.float64]:
        """Directions of the slide's rows and columns in its frame of reference, [2, 3]."""
        return np.array(self.header.ImageOrientationSlide, np.float64).reshape(2, 3)

    @property
    def l0_mm(self) -> float:
        """Side of a pixel of level 0 by the slide's own word, whatever it was scored with."""
        measures = self.header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        return float(measures.PixelSpacing[0])

    @property
    def dated(self) -> tuple[date, dt.time]:
        """When the slide says that it was made; the first day of 1900 where it does not.

        A result has no time of its own, and one that another run gives must be the same object.
        """
        day = self.header.get("ContentDate") or self.header.get("StudyDate")
        hour = self.header.get("ContentTime") or self.header.get("StudyTime")
        try:
            return DA(day or "19000101"), TM(hour or "000000")
        except ValueError:
            return DA("19000101"), TM("000000")

    def position_mm(self, l0_xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where a point of level 0 lies in the frame of reference, in mm, [3].

        Args:
            l0_xy: float64 [2], from the outer corner of level 0's first pixel. DICOM gives the
                place of that pixel's middle.

        """
        origin = self.header.TotalPixelMatrixOriginSequence[0]
        corner = np.array(
            [
                float(origin.XOffsetInSlideCoordinateSystem),
                float(origin.YOffsetInSlideCoordinateSystem),
                float(origin.get("ZOffsetInSlideCoordinateSystem", 0) or 0),
            ]
        )
        return np.asarray(corner + (l0_xy - 0.5) * self.l0_mm @ self.axes)


def uid_of(*parts: str) -> UID:
    """Return the UID of what is known by these parts; the same ones give the same."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(parts)).int}")


def source_of(slide: SlideFacts, location: str | None, names: Names) -> Source:
    """Return what is known of the slide of a result.

    Args:
        slide: as the result has it.
        location: of its files, which a slide that is DICOM needs.
        names: what outputs may call it; under "digest" nothing of its patient is looked at.

    Raises:
        ConfigError: if a DICOM slide is not named, or it is another.

    """
    # Under a pseudonym nothing of the patient may leave, whatever the slide says.
    hidden = names == "digest" or slide.name == pseudonym(slide.digest)
    if slide.vendor != DICOM or hidden:
        return Source(_unknown(slide), is_dicom=False)
    if location is None:
        raise ConfigError(
            f"{slide.name}: the slide is DICOM, and its result belongs to its patient and study. "
            "Name its file or folder with --slide."
        )
    files = files_of(location)
    if content_digest(files) != slide.digest:
        raise ConfigError(f"{location}: this is not the slide that was scored ({slide.name}).")
    return Source(_level_0(files, slide), is_dicom=True)


def _level_0(files: list[str], slide: SlideFacts) -> Dataset:
    for file in files:
        try:
            header = dcmread(Path(file), stop_before_pixels=True)
        except (InvalidDicomError, OSError):
            continue
        header.pop(PER_FRAME_FUNCTIONAL_GROUPS, None)
        size = header.get("TotalPixelMatrixColumns"), header.get("TotalPixelMatrixRows")
        if size == (slide.width_px, slide.height_px):
            _fill(header)
            return header
    raise ConfigError(
        f"{slide.name}: none of its files says that it is the slide's largest level, so that its "
        "result cannot refer to it. Convert the slide anew."
    )


def _unknown(slide: SlideFacts) -> Dataset:
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    header.SOPInstanceUID = uid_of(slide.digest, "image")
    header.SeriesInstanceUID = uid_of(slide.digest, "slide")
    header.StudyInstanceUID = uid_of(slide.digest, "study")
    header.FrameOfReferenceUID = uid_of(slide.digest, "frame of reference")
    header.Modality = "SM"
    header.TotalPixelMatrixColumns, header.TotalPixelMatrixRows = slide.width_px, slide.height_px
    header.Rows, header.Columns, header.NumberOfFrames = 1, 1, 1
    header.DimensionOrganizationType = "TILED_FULL"
    header.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    measures = Dataset()
    measures.PixelSpacing = [f"{slide.mpp / 1000:.10g}"] * 2
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    header.SharedFunctionalGroupsSequence = [shared]
    _fill(header)
    return header


def _fill(header: Dataset) -> None:
    """Give a header the elements that an object has to have: empty, or the picture's own frame."""
    for name in (
        "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
        "StudyDate", "StudyTime", "ReferringPhysicianName",
    ):  # fmt: skip
        if name not in header:
            setattr(header, name, None)
    if "PositionReferenceIndicator" not in header:
        header.PositionReferenceIndicator = None
    if "ImageOrientationSlide" not in header:
        header.ImageOrientationSlide = [1, 0, 0, 0, 1, 0]
    if "TotalPixelMatrixOriginSequence" not in header:
        measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        half_mm = float(measures.PixelSpacing[0]) / 2
        origin = Dataset()
        origin.XOffsetInSlideCoordinateSystem = f"{half_mm:.10g}"
        origin.YOffsetInSlideCoordinateSystem = f"{half_mm:.10g}"
        origin.ZOffsetInSlideCoordinateSystem = "0"
        header.TotalPixelMatrixOriginSequence = [origin]

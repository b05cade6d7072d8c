"""The terms of the DICOM objects: codes, who made them, and when."""

from datetime import datetime
from importlib.metadata import version

from highdicom.sr import CodedConcept
from pydicom import Dataset

from wsi_pipeline.outputs.summary import SlideSummary

SCHEME = "99WSIP"
"""A private coding scheme: no public one has cellularity, or any part of it."""

PROCEDURE = CodedConcept("cellularity-of-slide", SCHEME, "Measurement of a slide's cellularity")
CELLULARITY = CodedConcept("cellularity", SCHEME, "Cellularity: share that is cancer")
LOW = CodedConcept("cellularity-low", SCHEME, "Cellularity, lower bound of 90 % interval")
HIGH = CodedConcept("cellularity-high", SCHEME, "Cellularity, upper bound of 90 % interval")
COVERAGE = CodedConcept("coverage", SCHEME, "Share of the area that was read and scored")
TISSUE = CodedConcept("tissue", SCHEME, "All tissue of the slide")
DRAWN_BED = CodedConcept("bed-drawn", SCHEME, "Tumour bed, drawn by a person")
PROPOSED_BED = CodedConcept("bed-proposed", SCHEME, "Tumour bed, proposed by the map")

MAKER, MODEL_NAME = "wsi-pipeline", "wsi-pipeline"
SERIAL = "software"
"""A serial number has to be there, and software has none."""


def versions(summary: SlideSummary) -> str:
    """Return which software made a result, and which wrote the object."""
    made, wrote = summary.provenance.software["wsi-pipeline"], version("wsi-pipeline")
    return made if made == wrote else f"{made}, written by {wrote}"


def settle(dataset: Dataset, written: datetime) -> None:
    """Have an object say that it was made when its result was written, and not now."""
    dataset.InstanceCreationDate = f"{written:%Y%m%d}"
    dataset.InstanceCreationTime = f"{written:%H%M%S}"
    dataset.TimezoneOffsetFromUTC = "+0000"
    dataset.pop("ContributingEquipmentSequence", None)
    if dataset.Modality != "SR" and "SpecimenDescriptionSequence" not in dataset:
        dataset.Laterality = None  # of the breast: it has to be there, and nobody knows it

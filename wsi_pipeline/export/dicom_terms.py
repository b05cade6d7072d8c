"""The terms of the DICOM objects: codes, who made them, and when."""

from importlib.metadata import version
from typing import Literal

from highdicom.sr import CodedConcept
from pydicom import Dataset

from wsi_pipeline.outputs.summary import SlideSummary

SCHEME = "99WSIP"
"""A private coding scheme: no public one has cellularity, or any part of it."""

PROCEDURE = CodedConcept("cellularity-of-slide", SCHEME, "Measurement of a slide's cellularity")
CELLULARITY = CodedConcept("cellularity", SCHEME, "Cellularity: share that is cancer")
COVERAGE = CodedConcept("coverage", SCHEME, "Share of the area that was read and scored")
TISSUE = CodedConcept("tissue", SCHEME, "All tissue of the slide")
DRAWN_BED = CodedConcept("bed-drawn", SCHEME, "Tumour bed, drawn by a person")
PROPOSED_BED = CodedConcept("bed-proposed", SCHEME, "Tumour bed, proposed by the map")
HOLE = CodedConcept("bed-hole", SCHEME, "Hole in the tumour bed")
BURDEN = CodedConcept("rcb", SCHEME, "Residual cancer burden of the case (Symmans 2007)")
BURDEN_INDEX = CodedConcept("rcb-index", SCHEME, "Residual cancer burden, index")
BURDEN_LOW = CodedConcept("rcb-low-95", SCHEME, "Residual cancer burden, lower bound of 95 %")
BURDEN_HIGH = CodedConcept("rcb-high-95", SCHEME, "Residual cancer burden, upper bound of 95 %")
BURDEN_CLASS = CodedConcept("rcb-class", SCHEME, "Residual cancer burden, class")

MAKER, MODEL_NAME = "wsi-pipeline", "wsi-pipeline"
SERIAL = "software"
"""A serial number has to be there, and software has none."""


def versions(summary: SlideSummary) -> str:
    """Return which software made a result, and which wrote the object."""
    made, wrote = summary.provenance.software["wsi-pipeline"], version("wsi-pipeline")
    return made if made == wrote else f"{made}, written by {wrote}"


def bound(which: Literal["low", "high"], per_cent: int) -> CodedConcept:
    """Return the term of an end of an interval of the cellularity, which holds it so often."""
    end = {"low": "lower", "high": "upper"}[which]
    meaning = f"Cellularity, {end} bound of {per_cent} % interval"
    return CodedConcept(f"cellularity-{which}-{per_cent}", SCHEME, meaning)


def settle(dataset: Dataset) -> None:
    """Take out what a library has put into an object from the clock, and of itself."""
    for name in ("InstanceCreationDate", "InstanceCreationTime", "ContributingEquipmentSequence"):
        dataset.pop(name, None)
    if dataset.Modality != "SR" and "SpecimenDescriptionSequence" not in dataset:
        dataset.Laterality = None  # of the breast: it has to be there, and nobody knows it

"""A result as DICOM: the map as a Parametric Map, the figures as a structured report (TID 1500).

::

    FOLDER/dicom/
        cellularity.dcm     the finest map, in %, tiled, where it lies on the slide
        colours.dcm         its palette, a presentation state
        report.dcm          the slide's and its bed's figures, in coded terms

UIDs follow from digests, and dates are the slide's: the same result gives the same bytes, on
whatever machine and day. Nothing is said of a patient that the slide does not say
itself, and nothing at all under a pseudonym (`names: digest`).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import Dataset

from wsi_pipeline.bed.outline import outline_of
from wsi_pipeline.errors import ConfigError, OutputError
from wsi_pipeline.export import finished
from wsi_pipeline.export.dicom_source import source_of
from wsi_pipeline.files import atomic_path
from wsi_pipeline.outputs.cellularity_tiff import read_cellularity
from wsi_pipeline.scoring.filing import Names, pseudonym

if TYPE_CHECKING:
    from wsi_pipeline.export.dicom_report import CaseBurden

FOLDER = "dicom"
MAP, COLOURS, REPORT = "cellularity.dcm", "colours.dcm", "report.dcm"


def write_dicom(
    folder: Path,
    location: str | None = None,
    names: Names = "file",
    burden: "CaseBurden | None" = None,
) -> list[Path]:
    """Write a finished result as DICOM.

    Args:
        folder: the slide's.
        location: the slide's file or folder, which a slide that is DICOM needs.
        names: what outputs may call the slide.
        burden: of the slide's case.

    Returns:
        the paths of the files.

    Raises:
        ResultError: if there is no scored result, or its map is not what it was.
        ConfigError: if the slide is missing or another, or the extra is.
        OutputError: if the folder cannot be written.

    """
    try:
        from wsi_pipeline.export.dicom_map import colours_of, parametric_map
        from wsi_pipeline.export.dicom_report import structured_report
    except ImportError as error:
        raise ConfigError(
            f"DICOM needs a package that is not installed ({error.name}). Run: "
            'pip install "wsi-pipeline[dicom]"'
        ) from error
    summary = finished.scored_summary(folder)
    slide, palette = summary.provenance.slide, summary.provenance.config.overlay.palette
    source = source_of(slide, location, names)
    called = pseudonym(slide.digest) if names == "digest" else slide.name
    name = finished.FINE_MAP if finished.FINE_MAP in summary.outputs else finished.MAP
    scores = read_cellularity(finished.own_file(folder, summary, name))
    digest = summary.outputs[name].digest
    bed = None
    if finished.BED in summary.outputs:
        bed = outline_of(finished.own_file(folder, summary, finished.BED))
    made = parametric_map(scores, source, summary, digest, called)
    objects = {
        MAP: made,
        COLOURS: colours_of(made, palette),
        REPORT: structured_report(made, source, summary, bed, burden),
    }
    return [_write(folder / FOLDER / file, dataset) for file, dataset in objects.items()]


def _write(path: Path, dataset: Dataset) -> Path:
    try:
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as partial:
            dataset.save_as(partial, enforce_file_format=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}).") from error
    return path

"""The map as a tiled Parametric Map (PS3.3 A.75): per cent as float32, with palette and window."""

import numpy as np
from highdicom import (
    PaletteColorLUT,
    PaletteColorLUTTransformation,
    PixelMeasuresSequence,
    PlaneOrientationSequence,
    PlanePositionSequence,
    VOILUTTransformation,
)
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.pr import PseudoColorSoftcopyPresentationState
from pydicom import Dataset
from pydicom.sr.codedict import codes

from wsi_pipeline.export.dicom_source import Source, uid_of
from wsi_pipeline.export.dicom_terms import CELLULARITY, MAKER, MODEL_NAME, SERIAL, settle, versions
from wsi_pipeline.outputs.colours import Palette, colours
from wsi_pipeline.outputs.score_map import ScoreMap
from wsi_pipeline.outputs.summary import SlideSummary

TILE = 256
NOT_SCORED = -1.0
"""Where nothing was scored; the padding value of the file, and below its window."""


def parametric_map(
    scores: ScoreMap, source: Source, summary: SlideSummary, digest: str, name: str
) -> Dataset:
    """Return a score map as DICOM.

    Args:
        scores: the map.
        source: the slide.
        summary: of its result.
        digest: of the map's file.
        name: what the slide may be called.

    """
    slide, made = summary.provenance.slide, summary.provenance
    cell_mm = scores.l0_cell * source.l0_mm
    day, hour = source.dated
    per_cent = np.nan_to_num(100 * scores.cellularity, nan=NOT_SCORED).astype(np.float32)
    middle = np.array(scores.l0_origin, np.float64) + scores.l0_cell / 2
    x, y, z = source.position_mm(middle)
    key = (slide.digest, made.config_digest, made.scoring_digest)
    found = ParametricMap(
        source_images=[source.header],
        pixel_array=per_cent,
        series_instance_uid=uid_of(*key, "map"),
        series_number=1001,
        sop_instance_uid=uid_of(*key, "map", digest, name, str(source.header.get("PatientID"))),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MODEL_NAME,
        software_versions=versions(summary),
        device_serial_number=SERIAL,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(
                lut_label="CELLULARITY",
                lut_explanation="Share of the tissue that is cancer",
                unit=codes.UCUM.Percent,
                value_range=(0.0, 100.0),
                slope=1.0,
                intercept=0.0,
                quantity_definition=CELLULARITY,
            )
        ],
        voi_lut_transformations=[
            VOILUTTransformation(
                window_center=50.0, window_width=100.0, voi_lut_function="LINEAR_EXACT"
            )
        ],
        pixel_measures=PixelMeasuresSequence([cell_mm, cell_mm], slice_thickness=None),
        plane_orientation=PlaneOrientationSequence("SLIDE", list(source.axes.ravel())),
        plane_positions=[PlanePositionSequence("SLIDE", (float(x), float(y), float(z)), (1, 1))],
        content_label="CELLULARITY",
        content_description="Share of the tissue that is cancer, in %",
        dimension_organization_type="TILED_SPARSE",
        tile_pixel_array=True,
        tile_size=(TILE, TILE),
        series_description=f"Cellularity of {name}"[:64],
        content_date=day,
        content_time=hour,
    )
    found.FloatPixelPaddingValue = found.FloatPixelPaddingRangeLimit = NOT_SCORED
    dimensions = uid_of(found.SOPInstanceUID, "dimensions")
    for item in (*found.DimensionOrganizationSequence, *found.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions  # which would be drawn anew each time
    settle(found)
    if not source.is_dicom:
        _refer_to_nothing(found)
    return found


def colours_of(scores_map: Dataset, palette: Palette) -> Dataset:
    """Return the palette of a map, as a presentation state.

    Float pixels take no palette of their own: what viewers would do with it is not defined.
    """
    red, green, blue = 257 * colours(palette).T.astype(np.uint16)
    found = PseudoColorSoftcopyPresentationState(
        referenced_images=[scores_map],
        series_instance_uid=uid_of(scores_map.SeriesInstanceUID, "colours"),
        series_number=1002,
        sop_instance_uid=uid_of(scores_map.SOPInstanceUID, "colours", palette),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MODEL_NAME,
        software_versions=scores_map.SoftwareVersions,
        device_serial_number=SERIAL,
        content_label="CELLULARITY",
        content_description="Colours of the cellularity",
        palette_color_lut_transformation=PaletteColorLUTTransformation(
            PaletteColorLUT(0, red, "red"),
            PaletteColorLUT(0, green, "green"),
            PaletteColorLUT(0, blue, "blue"),
        ),
    )
    found.PresentationCreationDate = scores_map.ContentDate
    found.PresentationCreationTime = scores_map.ContentTime
    settle(found)
    return found


def _refer_to_nothing(found: Dataset) -> None:
    """Take out the references to the slide: no archive has it."""
    for name in ("SourceImageSequence", "ReferencedSeriesSequence", "ReferencedInstanceSequence"):
        found.pop(name, None)
    for groups in (*found.SharedFunctionalGroupsSequence, *found.PerFrameFunctionalGroupsSequence):
        groups.pop("DerivationImageSequence", None)

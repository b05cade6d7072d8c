"""The figures as a structured report of measurements (PS3.16 TID 1500), in coded terms."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import shapely
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    GraphicTypeValues3D,
    ImageRegion3D,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TrackingIdentifier,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes

from wsi_pipeline.digests import digest_of
from wsi_pipeline.export.dicom_source import Source, uid_of
from wsi_pipeline.export.dicom_terms import (
    BURDEN,
    BURDEN_CLASS,
    BURDEN_HIGH,
    BURDEN_INDEX,
    BURDEN_LOW,
    CELLULARITY,
    COVERAGE,
    DRAWN_BED,
    HOLE,
    MAKER,
    MODEL_NAME,
    PROCEDURE,
    PROPOSED_BED,
    SCHEME,
    SERIAL,
    TISSUE,
    bound,
    settle,
    versions,
)
from wsi_pipeline.outputs.interval import Interval
from wsi_pipeline.outputs.summary import BedFigures, SlideSummary

Group = MeasurementsAndQualitativeEvaluations | PlanarROIMeasurementsAndQualitativeEvaluations


@dataclass(frozen=True, slots=True)
class CaseBurden:
    """The residual cancer burden of the case that a slide belongs to.

    Attributes:
        index: of the burden.
        rcb_class: such as "RCB-II".
        interval: 95 %, of the index; None where it is not known.

    """

    index: float
    rcb_class: str
    interval: tuple[float, float] | None


def structured_report(
    scores_map: Dataset,
    source: Source,
    summary: SlideSummary,
    bed: shapely.MultiPolygon | None = None,
    burden: CaseBurden | None = None,
) -> Dataset:
    """Return a result's figures as DICOM.

    Args:
        scores_map: its map, as DICOM, which the report refers to.
        source: the slide, which it refers to where that is DICOM.
        summary: the figures.
        bed: the outline of the tumour bed that they speak of, in level-0 pixels.
        burden: of the slide's case, where it is known.

    """
    slide, made = summary.provenance.slide, summary.provenance
    key = (slide.digest, made.config_digest, made.scoring_digest)
    figures = digest_of(
        {
            "summary": summary.model_dump(mode="json"),
            "bed": None if bed is None else bed.wkt,
            "burden": None if burden is None else asdict(burden),
        }
    )
    groups: list[Group] = list(_groups(summary, scores_map, key))
    if bed is not None and summary.bed is not None:
        groups += _outlines(bed, summary, source, key)
    if burden is not None:
        groups.append(_burden(burden, key))
    evidence = [scores_map, *([source.header] if source.is_dicom else [])]
    content = MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=ObserverContext(
                observer_type=codes.DCM.Device,
                observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                    uid=uid_of("wsi-pipeline", made.software["wsi-pipeline"]),
                    name=MAKER,
                    manufacturer_name=MAKER,
                    model_name=MODEL_NAME,
                    serial_number=SERIAL,
                ),
            )
        ),
        procedure_reported=PROCEDURE,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    found = Comprehensive3DSR(
        evidence=evidence,
        content=content,
        series_instance_uid=uid_of(*key, "report"),
        series_number=1003,
        sop_instance_uid=uid_of(*key, "report", figures, scores_map.SOPInstanceUID),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MODEL_NAME,
        software_versions=versions(summary),
        device_serial_number=SERIAL,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description=scores_map.SeriesDescription,
        content_date=scores_map.ContentDate,
        content_time=scores_map.ContentTime,
    )
    settle(found)
    return found


def _groups(
    summary: SlideSummary, scores_map: Dataset, key: tuple[str, ...]
) -> Iterator[MeasurementsAndQualitativeEvaluations]:
    """Give the measurements of all tissue, and those of the bed where there is one."""
    algorithm = _algorithm(summary)
    image = SourceImageForMeasurementGroup(scores_map.SOPClassUID, scores_map.SOPInstanceUID)

    def group(
        name: str, what: CodedConcept, measurements: list[Measurement]
    ) -> MeasurementsAndQualitativeEvaluations:
        return MeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(uid_of(*key, name), name),
            finding_type=what,
            algorithm_id=algorithm,
            measurements=measurements,
            source_images=[image],
        )

    cellularity = summary.cellularity
    assert cellularity is not None  # noqa: S101 - the caller refuses what has none
    yield group(
        "tissue",
        TISSUE,
        [
            *_cellularity(
                cellularity.mean, cellularity.mean_90_interval or cellularity.mean_95_interval
            ),
            _area(summary.tissue_area_mm2),
            _per_cent(COVERAGE, summary.coverage),
        ],
    )
    if summary.bed is not None:
        drawn = summary.bed.source == "drawn"
        yield group("bed", DRAWN_BED if drawn else PROPOSED_BED, list(_of_bed(summary.bed)))


def _outlines(
    bed: shapely.MultiPolygon, summary: SlideSummary, source: Source, key: tuple[str, ...]
) -> Iterator[Group]:
    """Give each part of the bed where it lies on the glass, with its area, and each hole in it."""
    drawn = summary.bed is not None and summary.bed.source == "drawn"
    mm2_of_px = (summary.provenance.slide.mpp / 1000) ** 2
    for number, part in enumerate(bed.geoms, start=1):
        rings = [(part.exterior, DRAWN_BED if drawn else PROPOSED_BED, "")]
        rings += [(ring, HOLE, f", hole {n}") for n, ring in enumerate(part.interiors, start=1)]
        for ring, what, of in rings:
            name = f"bed, part {number}{of}"
            points = shapely.get_coordinates(ring)
            yield PlanarROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=TrackingIdentifier(uid_of(*key, name), name),
                referenced_region=ImageRegion3D(
                    GraphicTypeValues3D.POLYGON,
                    np.array([source.position_mm(point) for point in points]),
                    source.header.FrameOfReferenceUID,
                ),
                finding_type=what,
                measurements=[_area(round(shapely.Polygon(ring).area * mm2_of_px, 6))],
            )


def _burden(burden: CaseBurden, key: tuple[str, ...]) -> Group:
    """Give the burden of the case: of all of its slides and of what was entered, not of this one.

    Its class is one of ours, since no public scheme has it.
    """
    ends = () if burden.interval is None else burden.interval
    figures = [(BURDEN_INDEX, burden.index), *zip((BURDEN_LOW, BURDEN_HIGH), ends, strict=False)]
    its_class = CodedConcept(burden.rcb_class.lower(), SCHEME, burden.rcb_class)
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid_of(*key, "case"), "case"),
        finding_type=BURDEN,
        measurements=[
            Measurement(what, round(value, 4), codes.UCUM.NoUnits) for what, value in figures
        ],
        qualitative_evaluations=[QualitativeEvaluation(BURDEN_CLASS, its_class)],
    )


def _of_bed(bed: BedFigures) -> Iterator[Measurement]:
    if bed.cellularity is not None:
        yield from _cellularity(bed.cellularity, bed.interval)
    yield _area(bed.area_mm2)
    yield Measurement(codes.SCT.Length, bed.longest_mm, codes.UCUM.Millimeter)
    yield Measurement(codes.SCT.Width, bed.across_mm, codes.UCUM.Millimeter)
    yield _per_cent(COVERAGE, bed.coverage)


def _cellularity(mean: float, interval: Interval | None) -> Iterator[Measurement]:
    yield _per_cent(CELLULARITY, mean, codes.SCT.Mean)
    if interval is not None:
        level = round(100 * interval.level)
        yield _per_cent(bound("low", level), interval.low)
        yield _per_cent(bound("high", level), interval.high)


def _per_cent(
    name: CodedConcept, share: float, derivation: CodedConcept | None = None
) -> Measurement:
    return Measurement(name, round(100 * share, 4), codes.UCUM.Percent, derivation=derivation)


def _area(area_mm2: float) -> Measurement:
    return Measurement(codes.SCT.Area, area_mm2, codes.UCUM.SquareMillimeter)


def _algorithm(summary: SlideSummary) -> AlgorithmIdentification:
    bundle = summary.provenance.bundle
    kind = "a demonstration model" if bundle.demonstration else "a research model"
    flags = ", ".join(summary.quality.flags) or "none"
    return AlgorithmIdentification(
        name=bundle.name,
        version=bundle.version,
        parameters=[
            f"digest of the model: {bundle.digest}",
            f"digest of the settings: {summary.provenance.config_digest}",
            f"{kind}; research use only",
            f"flags of the slide: {flags}",
        ],
    )

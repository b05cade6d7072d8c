"""Whole slides as DICOM series, made on the spot: a file for each level, as scanners do it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

WHOLE_SLIDE = UID("1.2.840.10008.5.1.4.1.1.77.1.6")


def write_level(
    path: Path,
    rgb: NDArray[np.uint8],
    *,
    spacing_mm: float | str,
    series: str,
    frame_of_reference: str,
    instance: int = 1,
    tile: int = 64,
    label: bool = False,
    focal_planes: int = 1,
) -> Path:
    """Write one level, uncompressed; the tiles at its edges are filled up with black.

    Args:
        path: of the file.
        rgb: uint8 [rows, columns, 3].
        spacing_mm: of its pixels; a text is written as it is.
        series: UID of the series, which all levels share.
        frame_of_reference: UID, likewise.
        instance: number of the file in the series.
        tile: side of the frames.
        label: whether it is the slide's label instead.
        focal_planes: how many it says it has.

    """
    rows, columns = rgb.shape[:2]
    if label:
        kind, tile_rows, tile_columns = "LABEL", rows, columns
    else:
        kind, tile_rows, tile_columns = "VOLUME", tile, tile
    padded = np.pad(rgb, ((0, -rows % tile_rows), (0, -columns % tile_columns), (0, 0)))
    frames = (
        padded.reshape(padded.shape[0] // tile_rows, tile_rows, -1, tile_columns, 3)
        .swapaxes(1, 2)
        .reshape(-1, tile_rows, tile_columns, 3)
    )
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = WHOLE_SLIDE
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = WHOLE_SLIDE
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.ImageType = [
        "ORIGINAL" if instance == 1 else "DERIVED",
        "PRIMARY",
        kind,
        "NONE" if instance == 1 else "RESAMPLED",
    ]
    dataset.Modality = "SM"
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = series
    dataset.FrameOfReferenceUID = frame_of_reference
    dataset.InstanceNumber = instance
    dataset.SamplesPerPixel = 3
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.NumberOfFrames = len(frames) * focal_planes
    dataset.Rows, dataset.Columns = tile_rows, tile_columns
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    dataset.DimensionOrganizationType = "TILED_FULL"
    dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows = columns, rows
    dataset.TotalPixelMatrixFocalPlanes = focal_planes
    measures = Dataset()
    if isinstance(spacing_mm, str):
        measures.add_new(0x0028_0030, "LO", f"{spacing_mm}\\{spacing_mm}")
        measures[0x0028_0030].VR = "DS"
    else:
        measures.PixelSpacing = [f"{spacing_mm:.10g}", f"{spacing_mm:.10g}"]
    measures.SliceThickness = "0.001"
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.add_new(0x7FE0_0010, "OB", np.concatenate([frames] * focal_planes).tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_dicom_slide(
    folder: Path,
    rgb: NDArray[np.uint8],
    levels: dict[int, NDArray[np.uint8]],
    *,
    mpp: float = 0.5,
    suffix: str = ".dcm",
    names: str = "{}",
    series: str | None = None,
    label: NDArray[np.uint8] | None = None,
) -> list[Path]:
    """Write a series: level 0, the levels below by their scales, and a label; return its files."""
    shared = {"series": series or generate_uid(), "frame_of_reference": generate_uid()}
    paths = [
        write_level(
            folder / f"{names.format(number)}{suffix}",
            pixels,
            spacing_mm=mpp / 1000 * scale,
            instance=number,
            **shared,
        )
        for number, (scale, pixels) in enumerate({1: rgb, **levels}.items(), 1)
    ]
    if label is not None:
        number = len(paths) + 1
        path = folder / f"{names.format(number)}{suffix}"
        paths.append(
            write_level(path, label, spacing_mm=0.05, instance=number, label=True, **shared)
        )
    return paths

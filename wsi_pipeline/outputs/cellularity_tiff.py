"""``cellularity.ome.tiff``: the score map as a scalar image for measurement and for viewers.

A tiled, pyramidal OME-TIFF of one float32 channel: one pixel is one cell of the score map, NaN
where nothing was scored. The pixel size, and the place of the map's corner in the frame of the
slide's level 0, are in µm, so the map lies over the slide in any viewer that honours them.
Reduced resolutions are in SubIFDs, as Bio-Formats (and so QuPath) expects them; each of their
pixels is the mean of the scored cells under it, computed from the full map and not from means.

Deflate without a predictor: Bio-Formats does not read TIFF's floating-point predictor.
"""

import hashlib
import uuid
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree  # only for the name of its error

import numpy as np
import tifffile

from wsi_pipeline.errors import StoreError
from wsi_pipeline.files import atomic_path
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.outputs.score_map import ScoreMap

_SMALLEST_LEVEL = 4  # cells on the long side: even the map of a biopsy is a pyramid
_LARGEST_TILE = 256

# What the libraries raise on a missing, damaged or foreign file; the codecs' errors are
# RuntimeErrors.
_UNREADABLE = (
    OSError,
    KeyError,
    TypeError,
    ValueError,
    RuntimeError,
    ElementTree.ParseError,
    tifffile.TiffFileError,
)


def write_cellularity(path: Path, score_map: ScoreMap) -> None:
    """Write the score map to ``path`` as OME-TIFF; the same map gives the same bytes."""
    longest = max(score_map.cellularity.shape)
    reductions = 0
    while longest > _SMALLEST_LEVEL * 2**reductions:
        reductions += 1
    with (
        atomic_path(path) as partial,
        tifffile.TiffWriter(partial, ome=True) as tiff,
    ):
        tiff.write(
            **_image(score_map),
            subifds=reductions,
            metadata=_ome_metadata(score_map),
            software="wsi-pipeline",
        )
        for reduction in range(1, reductions + 1):
            tiff.write(
                **_image(score_map.coarsened(2**reduction)),
                subfiletype=tifffile.FILETYPE.REDUCEDIMAGE,
                metadata=None,
                software=False,
            )


def read_cellularity(path: Path | BinaryIO) -> ScoreMap:
    """Read a score map that :func:`write_cellularity` wrote, from its path or its bytes.

    Raises:
        StoreError: the file is missing, damaged, or was not written by this program.

    """
    try:
        with tifffile.TiffFile(path) as tiff:
            ome = tifffile.xml2dict(tiff.ome_metadata or "<empty/>")
            entries = ome["OME"]["StructuredAnnotations"]["MapAnnotation"]["Value"]["M"]
            frame = {entry["K"]: float(entry["value"]) for entry in entries}
            return ScoreMap(
                cellularity=np.asarray(tiff.series[0].asarray(), np.float32),
                l0_origin=(frame["l0_origin_x"], frame["l0_origin_y"]),
                l0_cell=frame["l0_cell"],
                mpp=Mpp(frame["l0_mpp"]),
            )
    except _UNREADABLE as error:
        raise StoreError(
            f"{path} is not a readable cellularity map ({type(error).__name__}: {error}). "
            "Write it again with `wsi heatmap`."
        ) from error


def _image(score_map: ScoreMap) -> dict[str, Any]:
    """Return the arguments of ``TiffWriter.write`` that every resolution has."""
    cells_per_cm = 1e4 / score_map.cell_um
    tile = min(_LARGEST_TILE, -(-max(score_map.cellularity.shape) // 16) * 16)
    return {
        "data": score_map.cellularity,
        "tile": (tile, tile),
        "photometric": "minisblack",
        "compression": "zlib",
        "resolution": (cells_per_cm, cells_per_cm),
        "resolutionunit": "CENTIMETER",
    }


def _ome_metadata(score_map: ScoreMap) -> dict[str, Any]:
    """Return pixel size and place, in µm for viewers and in level-0 pixels for reading back."""
    x, y = score_map.l0_origin
    cell_um = round(score_map.cell_um, 6)
    frame = {
        "l0_origin_x": repr(float(x)),
        "l0_origin_y": repr(float(y)),
        "l0_cell": repr(float(score_map.l0_cell)),
        "l0_mpp": repr(float(score_map.mpp)),
    }
    content = hashlib.sha256(score_map.cellularity.tobytes() + repr(frame).encode())
    return {
        "axes": "YX",
        "Creator": "wsi-pipeline",
        # tifffile would draw a random one, and no two runs would give the same file.
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, content.hexdigest())),
        "Name": "cellularity",
        "Channel": {"Name": ["Cellularity (0 to 1)"]},
        "PhysicalSizeX": cell_um,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": cell_um,
        "PhysicalSizeYUnit": "µm",
        "Plane": {
            "PositionX": [round(x * score_map.mpp, 6)],
            "PositionXUnit": ["µm"],
            "PositionY": [round(y * score_map.mpp, 6)],
            "PositionYUnit": ["µm"],
        },
        "MapAnnotation": {"Namespace": "wsi-pipeline/frame", **frame},
    }

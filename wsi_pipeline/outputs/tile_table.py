"""The Parquet file of a slide's tiles.

Columns of ``tiles.parquet`` (a missing value is a null, never NaN):

==================== ======= ====================================================================
``l0_x_px``          int64   left edge, level-0 pixels from the file's (0, 0), as QuPath counts
``l0_y_px``          int64   upper edge, likewise
``map_column``       int32   column of the tile's corner cell in ``cellularity.ome.tiff``
``map_row``          int32   row of that cell
``tissue_fraction``  float32 share of the whole tile's area that is tissue, 0 to 1
``inside_fraction``  float32 share of the tile that lies on the slide, 0 to 1 (less: padded)
``blur``             float32 sharpness measure of :func:`wsi_pipeline.tiles.tissue.blur_score`
``pen_fraction``     float32 share of the tile under pen ink, 0 to 1
``cellularity``      float32 the score, 0 to 1; null where the tile was not scored
``cellularity_low``  float32 lower end of the score's 90 % interval (`model.score_error`); null
                             where its model's errors were not measured
``cellularity_high`` float32 upper end of it
``cellularity_std``  float32 standard deviation over views; null unless several were scored
``fraction_<class>`` float32 share of the tile that the network gave to each class; may be null
==================== ======= ====================================================================
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsi_pipeline.files import atomic_path
from wsi_pipeline.tile_data import TileTable

_METADATA_KEY = b"wsi_pipeline"
_CLASS_PREFIX = "fraction_"


Ends = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Lower and upper ends of intervals."""


def write_parquet(
    path: Path,
    table: TileTable,
    *,
    classes: Sequence[str],
    metadata: Mapping[str, Any],
    interval: Ends | None = None,
) -> None:
    """Write the tiles to ``path``; the same table and metadata give the same bytes.

    Args:
        path: the file to write.
        table: the tiles.
        classes: names of the columns of ``table.class_fraction``.
        metadata: JSON-ready provenance, stored in the file's key-value metadata.
        interval: ends of the scores' 90 % intervals, each [N]; None if they are not known.

    """
    unknown = np.full(len(table), np.nan, np.float32)
    low, high = (unknown, unknown) if interval is None else interval
    columns: list[tuple[str, NDArray[Any], str]] = [
        ("l0_x_px", table.l0_xy[:, 0], "left edge, level-0 pixels from the file's (0, 0)"),
        ("l0_y_px", table.l0_xy[:, 1], "upper edge, level-0 pixels from the file's (0, 0)"),
        ("map_column", table.m_xy[:, 0], "column of the tile's corner cell in the score map"),
        ("map_row", table.m_xy[:, 1], "row of the tile's corner cell in the score map"),
        ("tissue_fraction", table.tissue, "share of the tile that is tissue, 0 to 1"),
        ("inside_fraction", table.inside, "share of the tile that lies on the slide, 0 to 1"),
        ("blur", table.blur, "sharpness measure of the tile"),
        ("pen_fraction", table.pen, "share of the tile under pen ink, 0 to 1"),
        ("cellularity", table.cellularity, "score, 0 to 1; null: not scored"),
        ("cellularity_low", low, "lower end of the score's 90 % interval"),
        ("cellularity_high", high, "upper end of the score's 90 % interval"),
        ("cellularity_std", table.cellularity_std, "standard deviation over views"),
    ]
    columns += [
        (f"{_CLASS_PREFIX}{name}", table.class_fraction[:, index], f"share of {name}, 0 to 1")
        for index, name in enumerate(classes)
    ]
    schema = pa.schema(
        [
            pa.field(name, pa.from_numpy_dtype(values.dtype), metadata={"description": description})
            for name, values, description in columns
        ],
        metadata={_METADATA_KEY: json.dumps(metadata, sort_keys=True, allow_nan=False)},
    )
    arrays = [
        pa.array(
            values, mask=np.isnan(values) if np.issubdtype(values.dtype, np.floating) else None
        )
        for _, values, _ in columns
    ]
    with atomic_path(path) as partial:
        pq.write_table(pa.table(arrays, schema=schema), partial, compression="zstd")


def read_parquet(path: Path) -> tuple[TileTable, dict[str, Any]]:
    """Return the tiles and the provenance that :func:`write_parquet` stored in ``path``."""
    stored = pq.read_table(path)

    def column(name: str) -> NDArray[Any]:
        # Nulls of a float column become NaN.
        values: NDArray[Any] = stored[name].to_numpy()
        return values

    class_columns = [name for name in stored.column_names if name.startswith(_CLASS_PREFIX)]
    table = TileTable(
        l0_xy=np.column_stack([column("l0_x_px"), column("l0_y_px")]),
        m_xy=np.column_stack([column("map_column"), column("map_row")]),
        tissue=column("tissue_fraction"),
        inside=column("inside_fraction"),
        blur=column("blur"),
        pen=column("pen_fraction"),
        cellularity=column("cellularity"),
        cellularity_std=column("cellularity_std"),
        class_fraction=np.column_stack(
            [np.zeros((len(stored), 0), np.float32), *map(column, class_columns)]
        ),
    )
    return table, metadata_of(stored)


def metadata_of(stored: pa.Table) -> dict[str, Any]:
    """Return the provenance that :func:`write_parquet` stored with a table.

    Raises:
        KeyError, ValueError: if there is none, or it is damaged.

    """
    metadata: dict[str, Any] = json.loads((stored.schema.metadata or {})[_METADATA_KEY])
    return metadata

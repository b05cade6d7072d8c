import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from wsi_pipeline.outputs.tile_table import read_parquet, write_parquet
from wsi_pipeline.tile_data import TileTable

CLASSES = ("background", "lymphocyte", "normal", "malignant")


def random_table(count: int, seed: int = 0) -> TileTable:
    rng = np.random.default_rng(seed)

    def fraction(*shape):
        return rng.random((count, *shape), dtype=np.float32)

    cellularity = fraction()
    cellularity[rng.random(count) < 0.3] = np.nan
    return TileTable(
        l0_xy=rng.integers(0, 200_000, (count, 2)),
        m_xy=rng.integers(0, 300, (count, 2), dtype=np.int32),
        tissue=fraction(),
        inside=fraction(),
        blur=fraction() * 100,
        pen=fraction(),
        cellularity=cellularity,
        cellularity_std=np.full(count, np.nan, np.float32),
        class_fraction=fraction(4),
    )


@pytest.mark.parametrize("count", [0, 1, 500])
def test_what_is_written_is_read_back(tmp_path, count):
    table = random_table(count)
    metadata = {"slide": {"name": "a.svs"}, "mpp": 0.25}
    write_parquet(tmp_path / "tiles.parquet", table, classes=CLASSES, metadata=metadata)
    again, stored_metadata = read_parquet(tmp_path / "tiles.parquet")
    assert stored_metadata == metadata
    for name in TileTable.__dataclass_fields__:
        expected, actual = getattr(table, name), getattr(again, name)
        assert actual.dtype == expected.dtype, name
        np.testing.assert_array_equal(actual, expected, err_msg=name)


def test_unscored_tiles_are_nulls_that_other_readers_skip(tmp_path):
    table = random_table(200)
    write_parquet(tmp_path / "tiles.parquet", table, classes=CLASSES, metadata={})
    column = pq.read_table(tmp_path / "tiles.parquet")["cellularity"]
    assert column.null_count == np.isnan(table.cellularity).sum() > 0
    import pyarrow.compute as pc

    assert pc.mean(column).as_py() == pytest.approx(np.nanmean(table.cellularity), rel=1e-5)


def test_file_describes_itself(tmp_path):
    write_parquet(tmp_path / "t.parquet", random_table(3), classes=CLASSES, metadata={"a": 1})
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert schema.names[-4:] == [f"fraction_{name}" for name in CLASSES]
    assert all(field.metadata[b"description"] for field in schema)
    assert json.loads(schema.metadata[b"wsi_pipeline"]) == {"a": 1}


def test_same_table_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_parquet(
            tmp_path / name,
            random_table(50),
            classes=CLASSES,
            metadata={"b": 1, "a": 2} if name == "one" else {"a": 2, "b": 1},
        )
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


def test_weight_is_the_share_of_tissue():
    table = random_table(20)
    np.testing.assert_array_equal(table.weight, np.float64(table.tissue))
    np.testing.assert_array_equal(table.scored, ~np.isnan(table.cellularity))
    assert len(table) == 20

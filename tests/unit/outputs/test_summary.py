import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tests.helpers.made import settings_of
from wsi_pipeline.engine.execution import Execution
from wsi_pipeline.facts import BundleFacts, SlideFacts
from wsi_pipeline.outputs.interval import block_bootstrap, block_side_um, spatial_blocks
from wsi_pipeline.outputs.provenance import Provenance
from wsi_pipeline.outputs.summary import HISTOGRAM_BINS, SlideSummary, summarise, write_summary
from wsi_pipeline.slide.mpp import POWER
from wsi_pipeline.tile_data import TileTable

PROVENANCE = Provenance(
    slide=SlideFacts(
        name="a.svs",
        size_bytes=10,
        digest="d0" * 16,
        vendor="aperio",
        backend="tiffslide",
        width_px=1000,
        height_px=800,
        mpp=0.25,
        mpp_source="aperio.MPP",
    ),
    bundle=BundleFacts(name="demo", version="1", digest="d1" * 32, demonstration=False),
    config=settings_of(),
    config_digest="d2" * 32,
    tiling_digest="ab" * 32,
    scoring_digest="cd" * 32,
    execution=Execution(device="cpu", runtime="torch", precision="float32"),
    software={"torch": "2.11"},
)


def table(cellularity, tissue=None, m_xy=None, **columns) -> TileTable:
    cellularity = np.array(cellularity, np.float32)
    count = len(cellularity)
    if m_xy is None:
        m_xy = np.column_stack([np.arange(count) % 20, np.arange(count) // 20])
    plain = {
        "l0_xy": np.zeros((count, 2), np.int64),
        "m_xy": np.array(m_xy, np.int32),
        "tissue": np.ones(count, np.float32) if tissue is None else np.array(tissue, np.float32),
        "inside": np.ones(count, np.float32),
        "blur": np.zeros(count, np.float32),
        "pen": np.zeros(count, np.float32),
        "cellularity": cellularity,
        "cellularity_std": np.full(count, np.nan, np.float32),
        "class_fraction": np.zeros((count, 4), np.float32),
    }
    return TileTable(**{**plain, **columns})


def summary_of(tiles: TileTable, **changes) -> SlideSummary:
    settings = {
        "provenance": PROVENANCE,
        "tissue_area_mm2": 12.5,
        "grid_tiles": 2 * len(tiles),
        "unreadable_tiles": 0,
        "cell_um": 256.0,
        "blurred": np.zeros(len(tiles), np.bool_),
        "upsampled": False,
        "min_coverage": 0.9,
    }
    return summarise(tiles, **{**settings, **changes})


def random_table(count=400, seed=0) -> TileTable:
    rng = np.random.default_rng(seed)
    # Twentieths of a tile, so that the brute force can repeat each tile a whole number of times.
    return table(rng.beta(0.6, 2, count), rng.integers(2, 21, count) / 20)


def test_figures_equal_those_of_tissue_laid_out_piece_by_piece():
    tiles = random_table()
    repeats = np.rint(tiles.tissue * 20).astype(int)
    pieces = np.repeat(tiles.cellularity.astype(np.float64), repeats)
    figures = summary_of(tiles).cellularity
    assert figures.mean == pytest.approx(pieces.mean(), abs=1e-6)
    in_order = np.sort(pieces)
    for q, value in {"0.5": figures.median, **figures.quantiles}.items():
        assert value == pytest.approx(in_order[int(np.ceil(float(q) * len(pieces))) - 1], abs=1e-6)
    assert list(figures.quantiles) == ["0.05", "0.25", "0.75", "0.95"]
    assert figures.area_fraction_at_least == {
        "0.1": pytest.approx((pieces >= 0.1).mean(), abs=1e-6),
        "0.3": pytest.approx((pieces >= 0.3).mean(), abs=1e-6),
        "0.7": pytest.approx((pieces >= 0.7).mean(), abs=1e-6),
    }
    expected, _ = np.histogram(pieces, np.linspace(0, 1, HISTOGRAM_BINS + 1))
    np.testing.assert_allclose(figures.histogram.fractions, expected / len(pieces), atol=1e-6)
    assert sum(figures.histogram.fractions) == pytest.approx(1, abs=1e-5)
    assert len(figures.histogram.edges) == len(figures.histogram.fractions) + 1


def test_thresholds_include_their_own_value():
    figures = summary_of(table([0.1, 0.3, 0.7, 0.0])).cellularity
    assert figures.area_fraction_at_least == {"0.1": 0.75, "0.3": 0.5, "0.7": 0.25}


def test_mean_says_that_it_is_not_the_tumour_bed_average():
    assert "not the average over the tumour bed" in summary_of(random_table()).cellularity.mean_is


def test_coverage_counts_tissue_and_not_tiles():
    tiles = table([0.5, 0.5, np.nan], tissue=[1.0, 0.8, 0.2])
    summary = summary_of(tiles, unreadable_tiles=1)
    assert summary.status == "scored"
    assert summary.reason is None
    assert summary.coverage == pytest.approx(0.9)
    assert summary.tiles.model_dump() == {
        "grid": 6,
        "tissue": 3,
        "scored": 2,
        "unreadable": 1,
        "padded": 0,
    }
    assert summary.cellularity.mean == 0.5
    assert summary.quality.flags == ("not all tissue scored",)


@pytest.mark.parametrize("cellularity", [[0.5, np.nan, np.nan], [np.nan], []])
def test_too_little_coverage_is_refused_without_figures(cellularity):
    summary = summary_of(table(cellularity))
    assert summary.status == "refused"
    assert summary.cellularity is None
    assert "copy or scan" in summary.reason
    assert summary.coverage == pytest.approx(1 / 3 if len(cellularity) == 3 else 0, abs=1e-6)


def test_nothing_scored_is_refused_even_if_no_coverage_is_asked_for():
    assert summary_of(table([np.nan]), min_coverage=0.0).status == "refused"
    assert summary_of(table([0.2, np.nan]), min_coverage=0.0).status == "scored"


def test_quality_flags():
    tiles = table(
        [0.5] * 4,
        tissue=[1, 1, 1, 0.5],
        pen=np.float32([0.4, 0.0, np.nan, 0.6]),
        inside=np.float32([1, 1, 0.4, 1]),
    )
    demo = PROVENANCE.model_copy(
        update={"bundle": PROVENANCE.bundle.model_copy(update={"demonstration": True})}
    )
    summary = summary_of(
        tiles, blurred=np.array([0, 0, 0, 1], bool), upsampled=True, provenance=demo
    )
    assert summary.tiles.padded == 1
    assert summary.quality.blurred_fraction == pytest.approx(0.5 / 3.5, abs=1e-6)
    assert summary.quality.pen_fraction == pytest.approx((0.4 + 0.3) / 2.5, abs=1e-6)
    assert summary.quality.flags == (
        "out of focus",
        "pen marks",
        "enlarged to the model's resolution",
        "demonstration model",
    )
    assert summary_of(table([0.5] * 4)).quality.flags == ()
    slide = PROVENANCE.slide.model_copy(update={"mpp_source": POWER})
    nominal = PROVENANCE.model_copy(update={"slide": slide})
    (flag,) = summary_of(table([0.5] * 4), provenance=nominal).quality.flags
    assert flag == "pixel size assumed from the objective"
    (flag,) = summary_of(table([0.5] * 4), tissue_area_mm2=0.9).quality.flags
    assert flag == "a few fields only"


@pytest.mark.parametrize("tiles", [random_table(), table([np.nan, 0.1])], ids=["scored", "refused"])
def test_json_is_strict_deterministic_and_read_back(tmp_path, tiles):
    for name in ("one", "two"):
        write_summary(tmp_path / name, summary_of(tiles))
    text = (tmp_path / "one").read_text(encoding="utf-8")
    assert text == (tmp_path / "two").read_text(encoding="utf-8")

    def refuse_constant(name):
        raise AssertionError(f"{name} is not JSON")

    content = json.loads(text, parse_constant=refuse_constant)
    assert content["provenance"]["slide"]["mpp_source"] == "aperio.MPP"
    assert content["provenance"]["config"]["grid"]["stride_px"] == 512
    assert SlideSummary.model_validate_json(text) == summary_of(tiles)


def test_small_tissue_has_a_mean_but_no_interval():
    figures = summary_of(table([0.2, 0.4, 0.6])).cellularity
    assert figures.mean == pytest.approx(0.4, abs=1e-6)
    assert figures.mean_95_interval is None


def test_interval_of_a_section_holds_its_mean_and_names_its_method():
    rng = np.random.default_rng(0)
    m_xy = np.argwhere(np.ones((40, 40)))
    figures = summary_of(table(rng.beta(1, 3, 1600), m_xy=m_xy)).cellularity
    interval = figures.mean_95_interval
    assert interval.low < figures.mean < interval.high
    # 105 mm² in 12 blocks: sides of 2.96 mm, 4 × 4 of them with those at the border.
    assert "16 blocks of 3.1 mm" in interval.method
    assert "error of the model is not in it" in interval.method


@pytest.mark.parametrize(("area_mm2", "side_um"), [(1, 2000), (48, 2000), (300, 5000)])
def test_blocks_grow_with_the_section(area_mm2, side_um):
    assert block_side_um(area_mm2 * 1e6) == pytest.approx(side_um)


def test_blocks_are_squares_of_neighbours():
    m_xy = np.argwhere(np.ones((25, 17))).astype(np.int32)
    blocks = spatial_blocks(m_xy, 8)
    squares = {}
    for (column, row), block in zip(m_xy, blocks, strict=True):
        squares.setdefault((column // 8, row // 8), set()).add(block)
    assert all(len(numbers) == 1 for numbers in squares.values())
    assert len({number for numbers in squares.values() for number in numbers}) == len(squares) == 12
    assert spatial_blocks(np.zeros((0, 2), np.int32), 8).shape == (0,)


def test_bootstrap_equals_drawing_blocks_one_by_one():
    rng = np.random.default_rng(1)
    block = np.repeat(np.arange(10, 25), rng.integers(1, 30, 15))
    values, weights = rng.random(len(block)), rng.uniform(0.1, 1, len(block))
    means = []
    for _ in range(4000):
        drawn = np.concatenate(
            [np.flatnonzero(block == number) for number in rng.integers(10, 25, 15)]
        )
        means.append(np.average(values[drawn], weights=weights[drawn]))
    # Tails of Student's t with 14 degrees of freedom, from tables: 2.1448 × √(15 / 14) = 2.2201
    # standard deviations, beyond which lie 1.3204 % of the normal distribution.
    expected = np.percentile(means, [1.3204, 100 - 1.3204])
    actual = block_bootstrap(values, weights, block)
    np.testing.assert_allclose(actual, expected, atol=0.15 * np.std(means))
    assert block_bootstrap(values, weights, block) == actual
    assert block_bootstrap(values[block < 15], weights[block < 15], block[block < 15]) is None


def test_blocks_cover_the_truth_where_single_tiles_do_not():
    """Sections cut from a field whose mean is known, alike over half a millimetre."""
    rng = np.random.default_rng(0)
    side, m_side, trials = 32, 8, 200
    m_xy = np.argwhere(np.ones((side, side))).astype(np.int32)
    weights = np.ones(len(m_xy))
    by_block = by_tile = 0
    for _ in range(trials):
        field = gaussian_filter(rng.standard_normal((128, 128)), 1, mode="wrap")[:side, :side]
        # The mean of Φ of a centred normal variable is a half.
        values = (field > 0).astype(float).ravel()
        for blocks, draws in [(spatial_blocks(m_xy, m_side), 1000), (np.arange(len(m_xy)), 100)]:
            low, high = block_bootstrap(values, weights, blocks, draws=draws)
            if draws == 1000:
                by_block += low <= 0.5 <= high
            else:
                by_tile += low <= 0.5 <= high
    assert 0.85 <= by_block / trials <= 0.99
    assert by_tile / trials < 0.65

import matplotlib as mpl
import numpy as np
from PIL import Image

from wsi_pipeline.outputs.colours import (
    SHOWN_FROM,
    TISSUE_RGB,
    colourise,
    over_tissue,
    write_legend,
)

YELLOW, BLUE = (253, 231, 37), (59, 82, 139)  # viridis at its end and at a quarter, as published


def test_colours_are_the_published_map_on_a_fixed_scale():
    np.testing.assert_array_equal(colourise(np.float32([0, 1])), [BLUE, YELLOW])
    values = np.linspace(0, 1, 256, dtype=np.float32)
    expected = np.rint(mpl.colormaps["viridis"](0.25 + 0.75 * values)[:, :3] * 255)
    assert np.abs(colourise(values) - expected).max() <= 1
    # Not stretched to the data at hand: a map without high values has no yellow.
    np.testing.assert_array_equal(colourise(np.float32([0.1, 0.2])), colourise(values)[[26, 51]])


def test_colours_of_what_is_out_of_range_or_missing():
    colours = colourise(np.float32([[-0.1, 1.1], [np.nan, 0.5]]))
    assert colours.dtype == np.uint8
    np.testing.assert_array_equal(colours[0], [BLUE, YELLOW])
    np.testing.assert_array_equal(colours[1, 0], [0, 0, 0])


def test_lightness_rises_steadily_with_the_score():
    linear = (colourise(np.linspace(0, 1, 11, dtype=np.float32)) / 255.0) ** 2.2
    lightness = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()


def test_legend_runs_from_yellow_above_to_nothing_below(tmp_path):
    for name in ("one.png", "two.png"):
        write_legend(tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as legend:
        assert not legend.info.keys() & {"Software", "Creation Time"}
        pixels = np.asarray(legend.convert("RGB"), int)
    bar = pixels[:, 24]
    yellow = np.flatnonzero(np.abs(bar - YELLOW).max(1) <= 3)
    faintest = np.flatnonzero(np.abs(bar - colourise(np.float32(SHOWN_FROM))).max(1) <= 3)
    assert yellow.max() < 0.1 * len(bar)
    # The bar is nine tenths of the picture, and its lowest twentieth is white.
    assert 0.88 * len(bar) < faintest.max() < 0.92 * len(bar)
    assert (bar[int(0.92 * len(bar)) : int(0.945 * len(bar))] > 250).all()


def test_other_scales_can_be_had_by_name():
    for name in ("viridis", "cividis", "plasma"):
        expected = np.rint(np.array(mpl.colormaps[name](1.0)[:3]) * 255)
        np.testing.assert_array_equal(colourise(1.0, name), expected)


def test_the_legend_shows_what_a_colour_becomes_over_tissue():
    np.testing.assert_array_equal(over_tissue(1.0)[255], YELLOW)
    expected = 0.45 * np.array(YELLOW) + 0.55 * np.array(TISSUE_RGB)
    np.testing.assert_allclose(over_tissue(0.45)[255], expected, atol=0.5)

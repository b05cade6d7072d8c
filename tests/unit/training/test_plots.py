import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from training import plots
from training.metrics import mean_absolute_error, prediction_probability
from training.plots import calibration_plot, confusion_plot, scatter_plot


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    truth = np.round(rng.random(60) * 20) / 20
    return truth, (0.1 + 0.8 * truth + rng.normal(0, 0.05, 60)).clip(0, 1)


@pytest.fixture
def figure(monkeypatch):
    """Give the figure that was drawn last."""
    drawn = []

    class Kept(plots.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            drawn.append(self)

    monkeypatch.setattr(plots, "Figure", Kept)
    return lambda: drawn[-1]


CONFUSION = np.array([[90, 10, 0], [25, 75, 0], [0, 0, 0]])

DRAW = {
    "scatter": lambda data, path: scatter_plot(*data, path),
    "calibration": lambda data, path: calibration_plot(*data, path),
    "confusion": lambda data, path: confusion_plot(CONFUSION, ("a", "b", "c"), path),
}


@pytest.mark.parametrize("kind", DRAW)
def test_the_same_figures_give_the_same_bytes(kind, data, tmp_path):
    for name in ("one.png", "two.png"):
        DRAW[kind](data, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as picture:
        assert set(picture.info) == {"dpi"}
        picture.verify()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_no_backend_is_chosen_for_the_caller(data, tmp_path):
    before = dict(mpl.rcParams)
    scatter_plot(*data, tmp_path / "plot.png")
    assert dict(mpl.rcParams) == before


def test_a_scatter_plot_shows_every_patch_where_it_is(data, figure, tmp_path):
    truth, prediction = data
    scatter_plot(truth, prediction, tmp_path / "plot.png")
    (axes,) = figure().axes
    (points,) = axes.collections
    np.testing.assert_allclose(points.get_offsets(), np.column_stack([truth, prediction]))
    pk, l1 = prediction_probability(*data), mean_absolute_error(*data)
    assert axes.get_title() == f"PK {pk:.3f}   L1 {l1:.3f}   60 patches"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Cellularity, truth", "Cellularity, model")
    low, high = axes.get_xlim()
    assert low <= 0
    assert high >= 1
    assert axes.get_ylim() == (low, high)


def test_a_scatter_plot_shows_by_how_much_raters_differ(data, figure, tmp_path):
    truth, prediction = data
    raters = np.column_stack([truth, (truth + 0.1).clip(0, 1)])
    scatter_plot(raters, prediction, tmp_path / "plot.png")
    lines, points = figure().axes[0].collections
    np.testing.assert_allclose(points.get_offsets()[:, 0], raters.mean(1))
    ends = np.array([segment[:, 0] for segment in lines.get_segments()])
    np.testing.assert_allclose(ends, raters)


def test_a_calibration_plot_shows_means_and_counts(figure, tmp_path):
    truth = [0.1, 0.2, 0.6, 0.8, 0.8]
    prediction = [0.12, 0.18, 0.91, 0.93, 0.95]
    calibration_plot(truth, prediction, tmp_path / "plot.png", groups=[1, 2, 3, 3, 3])
    above, below = figure().axes
    marks = above.lines[-1].get_xydata()
    np.testing.assert_allclose(marks, [[0.15, 0.15], [0.93, 2.2 / 3]])
    assert [text.get_text() for text in above.texts] == ["2", "3"]
    heights = sum(bar.get_height() for bar in below.containers[0])
    assert heights == 5
    (intervals,) = above.collections
    first, second = intervals.get_segments()
    np.testing.assert_allclose(first, [[0.15, 0.1], [0.15, 0.2]])
    assert not len(second)  # of a single group


def test_a_calibration_plot_counts_a_patch_once_however_many_judged_it(data, figure, tmp_path):
    truth, prediction = data
    calibration_plot(np.column_stack([truth, truth]), prediction, tmp_path / "plot.png")
    steps = figure().axes[1].patches[-1].get_xy()
    assert steps[:, 1].max() == pytest.approx(
        np.histogram(truth, np.arange(-0.025, 1.05, 0.05))[0].max()
    )


def test_a_confusion_plot_gives_shares_of_the_true_class(figure, tmp_path):
    confusion_plot(CONFUSION, ("a", "b", "c"), tmp_path / "plot.png")
    (axes,) = figure().axes
    shown = [text.get_text() for text in axes.texts]
    assert shown == ["90.0", "10.0", "0.0", "25.0", "75.0", "0.0", "–", "–", "–"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]


# Not every warning: another test's file, closed by the garbage collector meanwhile, is not ours.
@pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")
@pytest.mark.parametrize("draw", [scatter_plot, calibration_plot])
def test_a_single_patch_can_be_drawn(draw, tmp_path):
    draw([0.3], [0.4], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training.data.picture import (
    CYTOPLASM_UM,
    LazyPictures,
    Picture,
    of_nuclei,
    of_score,
    pack,
    padded,
    unpack,
    windows,
)
from training.data.truth import (
    BENIGN_NUCLEUS,
    IGNORED,
    NO_TUMOUR,
    NUCLEUS,
    TUMOUR_NEAR,
    one_of,
    unsure_at_edges,
)
from training.synthetic import Patch
from wsi_pipeline.errors import ConfigError

MALIGNANT = 3
MALIGNANT_OR_1 = one_of("malignant", "lymphocyte")
NUMBERS = [0, 1, 2, 3, IGNORED, TUMOUR_NEAR, NUCLEUS, BENIGN_NUCLEUS, NO_TUMOUR]


def random_picture(seed, height, width, scores=()):
    rng = np.random.default_rng(seed)
    patch = Patch(
        rgb=rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        mask=rng.choice([0, 1, 2, 3, IGNORED], (height, width)).astype(np.uint8),
        tumour=rng.random((height, width)) < 0.4,
        tissue=rng.random((height, width)) < 0.8,
    )
    return Picture(name=f"p{seed}", group=f"g{seed}", sample=pack(patch), scores=scores)


sides = st.integers(1, 20)


@given(
    mask=arrays(np.uint8, (5, 7), elements=st.sampled_from(NUMBERS)),
    tumour=arrays(np.bool_, (5, 7)),
    tissue=arrays(np.bool_, (5, 7)),
)
def test_unpacking_undoes_packing(mask, tumour, tissue):
    rgb = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    back = unpack(pack(Patch(rgb=rgb, mask=mask, tumour=tumour, tissue=tissue)))
    np.testing.assert_array_equal(back.rgb, rgb)
    np.testing.assert_array_equal(back.mask, mask)
    np.testing.assert_array_equal(back.tumour, tumour)
    np.testing.assert_array_equal(back.tissue, tissue)


def test_a_malignant_cell_reaches_beyond_its_nucleus_but_not_into_its_neighbours():
    mask = np.zeros((60, 60), np.uint8)
    mask[30, 30] = MALIGNANT
    mask[30, 38] = 1
    patch = unpack(of_nuclei(np.full((60, 60, 3), 120, np.uint8), mask))
    rows, columns = np.mgrid[:60, :60]
    to_malignant = np.hypot(rows - 30, columns - 30)
    to_other = np.hypot(rows - 30, columns - 38)
    expected = (to_malignant <= CYTOPLASM_UM / 0.5) & (to_malignant < to_other)
    np.testing.assert_array_equal(patch.tumour, expected)
    assert patch.tissue.all()
    np.testing.assert_array_equal(patch.mask, mask)


def test_glass_is_no_tissue():
    rgb = np.full((100, 200, 3), 150, np.uint8)
    rgb[:, 100:] = 245
    tissue = unpack(of_nuclei(rgb, np.zeros((100, 200), np.uint8))).tissue
    assert tissue[:, :90].all()
    assert not tissue[:, 110:].any()


def test_of_a_judged_picture_no_pixel_is_known_but_its_score_is():
    rgb = np.zeros((8, 8, 3), np.uint8)
    picture = Picture(name="a", group="a", sample=of_score(rgb), scores=(0.2, 0.4))
    assert (unpack(picture.sample).mask == IGNORED).all()
    assert picture.cellularity == pytest.approx(0.3)


def test_derived_cellularity_is_tumour_over_tissue():
    picture = random_picture(3, 31, 17)
    patch = unpack(picture.sample)
    assert picture.cellularity == patch.tumour.sum() / patch.tissue.sum()


@given(height=sides, width=sides, multiple=st.integers(1, 16))
def test_padding_adds_nothing_that_is_judged(height, width, multiple):
    picture = random_picture(1, height, width)
    [whole] = padded([picture], multiple)
    assert whole.sample.shape[0] % multiple == whole.sample.shape[1] % multiple == 0
    np.testing.assert_array_equal(whole.sample[:height, :width], picture.sample)
    added = np.ones(whole.sample.shape[:2], bool)
    added[:height, :width] = False
    patch = unpack(whole.sample)
    assert (patch.mask[added] == IGNORED).all()
    assert whole.cellularity == picture.cellularity


@given(height=sides, width=sides, size=st.integers(1, 20))
def test_windows_cover_a_picture_from_edge_to_edge(height, width, size):
    if size > min(height, width):
        with pytest.raises(ConfigError, match="smaller than a window"):
            windows([random_picture(2, height, width)], size)
        return
    sample = np.zeros((height, width, 4), np.uint8)
    sample[..., 0], sample[..., 1] = np.mgrid[:height, :width]
    cut = windows([Picture(name="a", group="a", sample=sample)], size)
    assert len(cut) == -(-height // size) * -(-width // size)
    seen = np.zeros((height, width), bool)
    for window in cut:
        assert window.sample.shape == (size, size, 4)
        assert window.group == "a"
        seen[window.sample[..., 0], window.sample[..., 1]] = True
    assert seen.all()


def test_a_judged_picture_is_never_cut():
    picture = random_picture(4, 40, 40, scores=(0.5,))
    assert list(windows([picture], 16)) == [picture]


def test_lazy_pictures_are_a_sequence():
    pictures = LazyPictures(5, lambda i: random_picture(i, 2, 2))
    assert [p.name for p in pictures] == ["p0", "p1", "p2", "p3", "p4"]
    assert pictures[-1].name == "p4"
    assert [p.name for p in pictures[1:4:2]] == ["p1", "p3"]
    with pytest.raises(IndexError):
        pictures[5]


def test_a_pixel_at_an_edge_may_be_of_either_side():
    mask = np.array([[0, 0, 3, 3], [0, 0, 3, 1], [IGNORED, 2, 2, 1]], np.uint8)
    expected = [
        [0, one_of("background", "malignant"), one_of("background", "malignant"), MALIGNANT_OR_1],
        [0, one_of("background", "normal", "malignant"), IGNORED, MALIGNANT_OR_1],
        [IGNORED, one_of("background", "normal"), NUCLEUS, BENIGN_NUCLEUS],
    ]
    np.testing.assert_array_equal(unsure_at_edges(mask), expected)

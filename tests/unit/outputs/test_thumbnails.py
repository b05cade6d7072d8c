from types import SimpleNamespace

import numpy as np
from PIL import Image

from wsi_pipeline.geometry import Box, Mpp
from wsi_pipeline.outputs.thumbnails import picture_mpp, write_tissue_pictures


def test_picture_is_never_finer_than_the_slide():
    small = SimpleNamespace(l0_bounds=Box(0, 0, 1307, 1153), mpp=Mpp(0.19448))
    assert picture_mpp(small) == 0.19448


class WhiteSlide(SimpleNamespace):
    mpp = Mpp(0.5)
    l0_bounds = Box(0, 0, 3200, 1600)

    def thumbnail(self, mpp):
        width, height = round(3200 * 0.5 / mpp), round(1600 * 0.5 / mpp)
        return np.full((height, width, 3), 255, np.uint8)


def test_tissue_is_outlined_on_the_thumbnail_and_kept_as_a_mask(tmp_path):
    mask = np.zeros((100, 200), np.bool_)
    mask[20:60, 50:150] = True
    write_tissue_pictures(tmp_path, WhiteSlide(), mask)
    with Image.open(tmp_path / "tissue.png") as kept:
        np.testing.assert_array_equal(np.asarray(kept) == 255, mask)
    with Image.open(tmp_path / "thumbnail.png") as thumbnail:
        assert thumbnail.size == (1600, 800)
    with Image.open(tmp_path / "tissue-outline.png") as outline:
        drawn = (np.asarray(outline) != 255).any(2)
    assert drawn[160, 800]
    assert not drawn[320, 800]
    assert not drawn[700, 800]

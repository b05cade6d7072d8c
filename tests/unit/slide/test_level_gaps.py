"""What a lower level lacks is looked for in a finer one, by thumbnails and tiles alike."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from tests.helpers.made import write_slide
from wsi_pipeline.geometry import Box, Mpp, Size
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.tissue import TissueConfig, tissue_of

TILE = 64


def lower(path: Path) -> list[tifffile.TiffPage]:
    with tifffile.TiffFile(path) as tiff:
        return list(tiff.pages)[1:]


def zero(path: Path) -> None:
    """The tiles of all lower levels are zeros, as after a copy that was interrupted."""
    with path.open("r+b") as file:
        for page in lower(path):
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                file.seek(offset)
                file.write(bytes(count))


def leave_out(path: Path) -> None:
    """Half of the tiles of all lower levels are not there, as in sparse files."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in list(tiff.pages)[1:]:
            kept = len(page.databytecounts) // 2
            for tag in (324, 325):
                values = page.tags[tag].value
                page.tags[tag].overwrite((*values[:kept], *(0 for _ in values[kept:])))


def blacken(path: Path, value: int = 0) -> None:
    """The lower levels were never written but for their colour."""
    with tifffile.TiffFile(path) as tiff:
        whole = tiff.pages.first.asarray()
    rewritten(path, whole, value)


def rewritten(path: Path, whole: NDArray[np.uint8], value: int) -> None:
    with tifffile.TiffWriter(path) as tiff:
        for downsample in (1, 4, 16):
            level = whole if downsample == 1 else np.full(
                (whole.shape[0] // downsample, whole.shape[1] // downsample, 3), value, np.uint8
            )  # fmt: skip
            density = 1e4 / (0.5 * downsample)
            tiff.write(
                level, tile=(TILE, TILE), photometric="rgb", compression="jpeg",
                compressionargs={"level": 90}, resolution=(density, density),
                resolutionunit="CENTIMETER", subfiletype=int(downsample > 1), metadata=None,
            )  # fmt: skip


def whiten(path: Path) -> None:
    blacken(path, 255)


@pytest.mark.parametrize("backend", ["tiffslide", "openslide"])
@pytest.mark.parametrize("fault", [zero, leave_out, blacken, whiten])
def test_what_lower_levels_lack_comes_from_a_finer_one(
    tmp_path, tissue_like, fault: Callable[[Path], None], backend
):
    rng = np.random.default_rng(0)
    rgb = rng.normal(242, 2, (2048, 1536, 3)).clip(0, 255).astype(np.uint8)
    rgb[512:1900, 300:1200] = tissue_like(1388, 900)
    options = {"downsamples": (4, 16), "compression": "jpeg", "tile": TILE}
    sound = write_slide(tmp_path / "sound.tif", rgb, **options)
    faulty = write_slide(tmp_path / "faulty.tif", rgb, **options)
    fault(faulty)
    box, size = Box(0, 0, 1536, 2048), Size(384, 512)
    with Slide.open(sound, backend=backend) as whole, Slide.open(faulty, backend=backend) as slide:
        assert slide.view_for(4).level == 1
        assert np.abs(slide.read(box, size).astype(int) - whole.read(box, size)).mean() < 4
        mask, expected = (tissue_of(each, TissueConfig()) for each in (slide, whole))
        assert slide.unreadable == []
    assert np.mean(mask == expected) > 0.95


def test_what_is_blank_throughout_is_believed_and_sound_slides_are_read_as_they_were(
    tmp_path, tissue_like
):
    rgb = np.full((1024, 1024, 3), 255, np.uint8)
    rgb[:512, :512] = tissue_like(512, 512)
    path = write_slide(tmp_path / "slide.tif", rgb, downsamples=(4,), tile=TILE)
    with Slide.open(path) as slide:
        found, view = slide.read(Box(0, 0, 1024, 1024), Size(256, 256)), slide.view_for(4)
        np.testing.assert_array_equal(
            found, slide._reader.read(view.level, Box(0, 0, 256, 256), view.shrink)
        )
        assert slide.thumbnail(Mpp(8.0)).shape == (64, 64, 3)

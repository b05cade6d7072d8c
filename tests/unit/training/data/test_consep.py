import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from skimage.measure import regionprops

from training.data import Data, folds_of, under
from training.data.consep import (
    ConsepData,
    image_numbers,
    outline_mask,
    read_image,
    read_nuclei,
    read_types,
)
from training.data.picture import unpack
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.architecture import CLASSES

SIDE = 60


@pytest.fixture
def root(tmp_path):
    """Four images of 60 px at 0.25 µm/px, each with three nuclei."""
    for number in range(1, 5):
        rng = np.random.default_rng(number)
        instances = np.zeros((SIDE, SIDE), np.uint16)
        types = np.zeros((SIDE, SIDE), np.uint8)
        for i, (row, column, kind) in enumerate([(5, 6, 2), (20, 30, 4), (40, 11, 3)]):
            instances[row : row + 9, column : column + 7 + i] = 700 * (i + 1)
            types[row : row + 9, column : column + 7 + i] = kind
        image = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        write(tmp_path / f"train_{number}.png", image)
        write(tmp_path / f"train_{number}_inst.png", instances)
        write(tmp_path / f"train_{number}_type.png", types)
    return tmp_path


def write(path: Path, pixels):
    assert cv2.imwrite(os.fspath(path), pixels)


def test_centroids_are_those_that_scikit_image_finds_at_half_the_size(root):
    nuclei = read_nuclei(root, 1)
    instances, _ = read_types(root, 1)
    # scikit-image counts a pixel's centre as a whole number, Nuclei as half past it.
    expected = [
        ((r.centroid[1] + 0.5) / 2, (r.centroid[0] + 0.5) / 2) for r in regionprops(instances)
    ]
    np.testing.assert_allclose(nuclei.xy, expected)
    assert [CLASSES[c] for c in nuclei.classes] == ["lymphocyte", "malignant", "normal"]


def test_images_are_brought_to_half_a_micrometre_with_red_first(root):
    bgr = cv2.imread(os.fspath(root / "train_2.png"))
    rgb = read_image(root, 2)
    assert rgb.shape == (SIDE // 2, SIDE // 2, 3)
    blocks = bgr[..., ::-1].reshape(SIDE // 2, 2, SIDE // 2, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(rgb, blocks, atol=1)


def test_a_pixel_gets_the_class_that_covers_most_of_it():
    classes = np.array([[0, 0, 3, 3], [0, 3, 3, 3], [1, 1, 0, 2], [1, 1, 2, 2]], np.uint8)
    np.testing.assert_array_equal(outline_mask(classes), [[0, 3], [1, 2]])


def test_folds_share_the_images_out(root):
    numbers = image_numbers(root)
    assert numbers == [1, 2, 3, 4]
    held_back = []
    for data in folds_of(ConsepData(kind="consep", root=root, folds=3)):
        train = {p.group for p in data.nuclei("train")}
        validation = {p.group for p in data.nuclei("validation")}
        assert not train & validation
        assert len(train | validation) == 4
        held_back += validation
    assert sorted(held_back) == [f"consep {n}" for n in numbers]


def test_watershed_masks_teach_but_do_not_judge(root):
    outlines = ConsepData(kind="consep", root=root)
    watershed = outlines.model_copy(update={"truth": "watershed"})

    def masks(data, part):
        return np.stack([unpack(p.sample).mask for p in data.nuclei(part)])

    assert (masks(outlines, "train") != masks(watershed, "train")).any()
    np.testing.assert_array_equal(masks(outlines, "validation"), masks(watershed, "validation"))


def test_a_fold_beyond_the_last_is_refused(root):
    with pytest.raises(ValidationError, match="fold 3 is none of 3"):
        ConsepData(kind="consep", root=root, fold=3)


@pytest.mark.parametrize(
    ("name", "pixels", "cause"),
    [
        ("train_1_inst.png", None, "train_1_inst.png is missing"),
        ("train_1_type.png", np.zeros((9, 9), np.uint8), r"train_1_type.png is \(9, 9\)"),
        ("train_1_type.png", np.full((SIDE, SIDE), 9, np.uint8), "class 9"),
        (
            "train_1.png",
            np.zeros((80, 80, 3), np.uint8),
            r"train_1.png is 80×80 px and its maps 60",
        ),
        ("train_1.png", b"no png", "train_1.png is not a readable PNG"),
    ],
)
def test_a_fault_is_named(root, name, pixels, cause):
    path = root / name
    if pixels is None:
        path.unlink()
    elif isinstance(pixels, bytes):
        path.write_bytes(pixels)
    else:
        write(path, pixels)
    with pytest.raises(ConfigError, match=cause):
        ConsepData(kind="consep", root=root, fold=0).nuclei("train")


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(ConfigError, match="holds no train_N"):
        image_numbers(tmp_path)


def test_sources_are_told_by_kind_and_moved_together():
    parts = [
        {"kind": "consep", "root": "a"},
        {"kind": "generated"},
        {"kind": "crchisto", "root": "/b"},
    ]
    data = TypeAdapter(Data).validate_python({"kind": "joined", "parts": parts})
    moved = under(data, Path("/data"))
    assert [getattr(part, "root", None) for part in moved.parts] == [
        Path("/data/a"),
        None,
        Path("/b"),
    ]

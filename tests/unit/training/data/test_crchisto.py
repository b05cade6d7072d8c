import pickle

import cv2
import numpy as np
import pytest
from PIL import Image

from training.data.crchisto import (
    CrcHistoData,
    LabelledImage,
    find_images,
    pictures,
    read_image,
    read_points,
)
from training.data.picture import unpack
from training.data.truth import IGNORED
from wsi_pipeline.errors import ConfigError

LYMPHOCYTE, NORMAL, MALIGNANT = 1, 2, 3


def data_of(root):
    return CrcHistoData(kind="crchisto", root=root)


def test_images_and_points_come_at_half_a_micrometre(crchisto_root):
    picture, _ = data_of(crchisto_root).nuclei("train")
    assert picture.name == "img1.png"
    assert picture.group == "crchisto img1"
    assert picture.sample.shape == (88, 110, 4)
    mask = unpack(picture.sample).mask
    assert mask[22, 11] == MALIGNANT
    assert mask[0, 0] == LYMPHOCYTE
    assert mask[87, 109] == NORMAL
    nuclei = read_image(find_images(crchisto_root, "train")[0])[1]
    np.testing.assert_allclose(nuclei.xy, [(11, 22), (0, 0), (109.45, 87.45)], atol=1e-9)
    np.testing.assert_array_equal(nuclei.classes, [MALIGNANT, LYMPHOCYTE, NORMAL])


def test_every_class_is_mapped(crchisto_root):
    path = crchisto_root / "train/img1.csv"
    names = "epithelial", "inflammatory", "fibroblast", "others"
    path.write_text("x,y,class\n" + "".join(f"1,2,{name}\n" for name in names))
    assert read_points(path).classes.tolist() == [MALIGNANT, LYMPHOCYTE, NORMAL, NORMAL]


def test_a_point_stays_on_its_nucleus(tmp_path):
    rgb = np.full((100, 100, 3), 255, np.uint8)
    cv2.circle(rgb, (40, 30), 6, (0, 0, 0), -1)
    Image.fromarray(rgb).save(tmp_path / "img1.png")
    # MATLAB, in which the set was annotated, counts the same pixel as 41, 31.
    (tmp_path / "img1.csv").write_text("x,y,class\n41,31,others\n")
    enlarged, nuclei = read_image(LabelledImage(tmp_path / "img1.png", tmp_path / "img1.csv"))
    darkness = 255 - enlarged[..., 0].astype(float)
    y, x = np.indices(darkness.shape) + 0.5
    centre = (x * darkness).sum() / darkness.sum(), (y * darkness).sum() / darkness.sum()
    np.testing.assert_allclose(nuclei.xy[0], centre, atol=0.05)


def test_an_image_without_nuclei_is_all_background(crchisto_root):
    (crchisto_root / "train/img1.csv").write_text("x,y,class\n")
    assert not unpack(data_of(crchisto_root).nuclei("train")[0].sample).mask.any()


def test_cellularity_is_derived_from_the_same_pictures(crchisto_root):
    data = data_of(crchisto_root)
    pairs = zip(data.nuclei("validation"), data.cellularity("validation"), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one.sample, other.sample)
        assert other.scores == ()
        assert 0 < other.cellularity < 1


def test_pictures_reach_another_process(crchisto_root):
    pictures = data_of(crchisto_root).nuclei("train")
    there = pickle.loads(pickle.dumps(pictures))
    np.testing.assert_array_equal(there[0].sample, pictures[0].sample)


def test_nuclei_that_nobody_marked_are_not_judged_in_training(tmp_path):
    rgb = np.full((200, 200, 3), (240, 200, 225), np.uint8)
    places = [(x, y) for x in range(20, 200, 40) for y in range(20, 200, 40)]
    for place in places:
        cv2.circle(rgb, place, 7, (90, 50, 140), -1)
    rgb = cv2.GaussianBlur(rgb, (0, 0), 1)
    for part in ("train", "validation"):
        (tmp_path / part).mkdir()
        Image.fromarray(rgb).save(tmp_path / part / "img1.png")
        table = "".join(f"{x + 1},{y + 1},epithelial\n" for x, y in places[:5])
        (tmp_path / part / "img1.csv").write_text("x,y,class\n" + table)
    masks = {p: unpack(data_of(tmp_path).nuclei(p)[0].sample).mask for p in ("train", "validation")}
    for i, (x, y) in enumerate(places):
        centre = round(y * 1.1), round(x * 1.1)
        assert masks["train"][centre] == (MALIGNANT if i < 5 else IGNORED)
        assert masks["validation"][centre] == (MALIGNANT if i < 5 else 0)
    share = (masks["train"] == IGNORED).sum() / (masks["train"] == MALIGNANT).sum()
    assert 3 < share < 6
    assert set(np.unique(masks["validation"])) == {0, MALIGNANT}
    # A fifth of the nuclei is marked: their share of the tissue says nothing of cellularity.
    assert len(data_of(tmp_path).cellularity("train")) == 0
    assert len(data_of(tmp_path).cellularity("validation")) == 1


@pytest.mark.slides
def test_images_that_are_marked_throughout_are_told_from_the_others(slides_dir):
    root = slides_dir.parent / "crchisto"
    for path, lowest, highest in (
        *(("validation/img77", 0, 0.05), ("validation/img78", 0, 0.05)),
        *(("train/img64", 0.5, 1), ("train/img38", 0.5, 1)),
    ):
        image = LabelledImage(root / f"{path}.png", root / f"{path}.csv")
        mask = unpack(pictures([image], "train")[0].sample).mask
        assert lowest <= (mask == IGNORED).sum() / (mask > 0).sum() <= highest


def rewritten(old, new):
    def damage(root):
        path = root / "train/img1.csv"
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new))

    return damage


def image(mode):
    return lambda root: Image.new(mode, (100, 80)).save(root / "train/img1.png")


def cut(root):
    path = root / "train/img1.png"
    path.write_bytes(path.read_bytes()[:5000])


MALFORMED = {
    "missing table": (lambda r: (r / "train/img1.csv").unlink(), "train/img1.png", "no table"),
    "missing image": (lambda r: (r / "train/img1.png").unlink(), "train/img1.csv", "no image"),
    "missing part": (lambda r: (r / "train").rename(r / "t"), "crchisto/train", r"no \*.png"),
    "unknown class": (
        rewritten("epithelial", "tumour"),
        "img1.csv, line 2",
        "'tumour'.*epithelial",
    ),
    "missing column": (rewritten("x,y,class", "x,y,type"), "img1.csv", "column class"),
    "no number": (rewritten("10.5,", "left,"), "img1.csv, line 2", "left,20.5"),
    "decimal comma": (rewritten("10.5,20.5", "10,5,20,5"), "img1.csv, line 2", "5 fields.*3"),
    "point outside": (rewritten("100.0,80.0", "100.5,80"), "img1.csv", "1 of 3.*100×80.*100.5,80"),
    "point not finite": (rewritten("10.5,", "nan,"), "img1.csv", "outside.*nan"),
    "grey image": (image("L"), "img1.png", "grey.*RGB"),
    "image with alpha": (image("RGBA"), "img1.png", "transparency.*RGB"),
    "palette image": (image("P"), "img1.png", "palette.*RGB"),
    "truncated image": (cut, "img1.png", "truncated or damaged"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_named_with_its_fault(crchisto_root, case):
    damage, file, fault = MALFORMED[case]
    damage(crchisto_root)
    with pytest.raises(ConfigError, match=f"(?s){fault}") as raised:
        list(data_of(crchisto_root).nuclei("train"))
    assert file in str(raised.value)
    assert str(crchisto_root) in str(raised.value)


@pytest.mark.slides
def test_real_points_lie_on_their_nuclei(slides_dir):
    """The mean picture around inflammatory nuclei, which are round, is centred on the point."""
    mean = np.zeros((25, 25))
    images = find_images(slides_dir.parent / "crchisto", "train")
    assert len(images) == 70
    for labelled in images:
        rgb, nuclei = read_image(labelled)
        darkness = 255 - rgb[..., 0].astype(np.float32)
        for x, y in nuclei.xy[nuclei.classes == LYMPHOCYTE]:
            mean += cv2.getRectSubPix(darkness, (25, 25), (x - 0.5, y - 0.5))
    rows, columns = np.indices(mean.shape) - 12
    weight = np.where(np.hypot(rows, columns) <= 8, mean - np.quantile(mean, 0.5), 0).clip(0)
    offset = (columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()
    np.testing.assert_allclose(offset, 0, atol=0.5)

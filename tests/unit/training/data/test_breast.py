"""The five sets of breast tissue, written small in their published layouts, and read as training
does."""

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from tests.helpers.breast_sets import PATIENTS, save, write_breast_sets
from tests.unit.training.data.test_check import figures, run
from training.data import Data, folds_of, under
from training.data.bcss import OUTLINE_UM
from training.data.brca_m2c import find_fields, read_points
from training.data.patients import fold_of
from training.data.picture import is_glass, unpack
from training.data.truth import BENIGN_NUCLEUS, IGNORED, NO_TUMOUR, NUCLEUS, TUMOUR_NEAR
from training.ground_truth import Nuclei, grown_to_cells, outline_nuclei
from wsi_pipeline.errors import ConfigError

LYMPHOCYTE, NORMAL, MALIGNANT = 1, 2, 3


@pytest.fixture
def root(tmp_path):
    return write_breast_sets(tmp_path)


def data(root, kind="breast", **settings):
    where = {} if kind == "breast" else {"root": kind}
    given = {"kind": kind, "root": ".", **where, **settings}
    return under(TypeAdapter(Data).validate_python(given), root)


def masks(pictures):
    return [unpack(picture.sample).mask for picture in pictures]


def test_a_field_is_outlined_and_what_is_unmarked_is_not_judged(root):
    everything = data(root, "brca-m2c", fold=None)
    mask = masks(everything.nuclei("train"))[0]
    assert [mask[40, 30], mask[60, 100], mask[110, 60]] == [LYMPHOCYTE, MALIGNANT, NORMAL]
    assert mask[115, 120] == IGNORED
    assert mask[10, 140] == 0
    picture = everything.cellularity("train")[0]
    cells = (unpack(picture.sample).tumour.sum(), (mask == MALIGNANT).sum())
    assert picture.cellularity == pytest.approx(cells[0] / mask.size)
    assert cells[0] > 2 * cells[1]  # 3 µm of cytoplasm about a nucleus of 9
    points = read_points(find_fields(root / "brca-m2c")[0].points)
    np.testing.assert_array_equal(points.xy[0], (30.5, 40.5))  # y first, from a pixel's corner


def test_cells_reach_into_tissue_alone_and_into_no_neighbour(root):
    path = root / "brca-m2c" / "images" / f"{PATIENTS[0]}-01Z-00-DX1_1_2_3_4_0.98.png"
    rgb = np.array(Image.open(path))
    rgb[80:, 90:] = 250
    save(path, rgb)
    nuclei, cells = (
        data(root, "brca-m2c", fold=None, truth=truth).nuclei("train")[0]
        for truth in ("nuclei", "cells")
    )
    mask, grown = unpack(nuclei.sample).mask, unpack(cells.sample)
    assert (grown.mask[mask > 0] == mask[mask > 0]).all()
    assert (grown.mask == MALIGNANT).sum() > 2 * (mask == MALIGNANT).sum()
    assert not ((grown.mask > 0) & (mask == 0) & is_glass(rgb)).any()
    np.testing.assert_array_equal(grown.tumour, grown.mask == MALIGNANT)


def test_growing_ends_at_the_reach_or_half_way_to_a_neighbour():
    labels = np.zeros((40, 80), np.int32)
    labels[18:22, 18:22], labels[18:22, 30:34] = 1, 2
    nuclei = Nuclei(np.array([[20.0, 20.0], [32.0, 20.0]]), np.array([LYMPHOCYTE, MALIGNANT]))
    grown = grown_to_cells(labels, nuclei, reach=(2.0, 1.0, 3.0))
    row = grown[20]
    assert np.flatnonzero(row == 1).tolist() == list(range(14, 26))
    assert np.flatnonzero(row == 2).tolist() == list(range(26, 40))
    assert not grown_to_cells(np.zeros_like(labels), nuclei).any()


def test_patients_stay_together_and_nobody_of_the_test_is_learnt_from(root):
    everything = data(root, folds=2, fold=None)
    learnt = {p.group for p in everything.nuclei("train")}
    assert PATIENTS[7] not in learnt
    assert {*PATIENTS[:7], "brecahad Case_10", "tnbc, patient unknown"} < learnt
    assert not everything.nuclei("validation")
    held_back = []
    for fold in folds_of(data(root, folds=3)):
        parts = [{p.group for p in fold.nuclei(part)} for part in ("train", "validation")]
        assert not parts[0] & parts[1]
        held_back += parts[1]
        # Of a patient who is in two sets, too.
        names = [p.name[:12] for p in fold.nuclei("train") if p.group == PATIENTS[1]]
        assert len(names) in (0, 2)
    assert sorted(held_back) == sorted(learnt - {"tnbc, patient unknown"})
    # By the name alone: no other patient moves one.
    assert [fold_of(p, 4) for p in ("TCGA-A2-A0D2", "TCGA-A7-A0DB")] == [0, 2]


def test_a_box_is_a_nucleus_and_what_has_none_is_unknown(root):
    [mask] = masks(data(root, "brecahad", fold=None).nuclei("train"))
    assert mask.shape == (96, 144)
    at = {"tumour": (60, 50), "other": (100, 200), "unmarked": (150, 100), "pink": (20, 280)}
    seen = {name: mask[int(y * 0.48), int(x * 0.48)] for name, (y, x) in at.items()}
    assert seen == {
        "tumour": MALIGNANT,
        "other": BENIGN_NUCLEUS,
        "unmarked": IGNORED,
        "pink": 0,
    }
    assert (mask == MALIGNANT).sum() == pytest.approx(np.pi * (20 * 0.48) ** 2, rel=0.1)


def test_a_nucleus_without_a_class_is_one_of_three(root):
    [mask] = masks(data(root, "tnbc", fold=None).nuclei("train"))
    expected = np.zeros((50, 60), np.uint8)
    expected[10:20, 15:25] = NUCLEUS
    np.testing.assert_array_equal(mask, expected)


def test_an_outline_of_tissue_tells_where_no_tumour_is(root):
    [mask] = masks(data(root, "bcss", fold=None).nuclei("train"))
    near = int(OUTLINE_UM / 0.5)
    assert (mask[:, : 80 - near] == TUMOUR_NEAR).all()
    assert (mask[:, 80 - near + 1 : 80 + near - 1] == IGNORED).all()
    assert (mask[:, 80 + near :] == NO_TUMOUR).all()


def test_a_patch_is_known_as_a_whole(root):
    source = data(root, "camelyon16", fold=None)
    patches = source.nuclei("train")
    known = {p.name.split("/")[0]: set(np.unique(unpack(p.sample).mask)) for p in patches}
    assert known == {"tumor": {TUMOUR_NEAR}, "normal": {NO_TUMOUR}}
    assert [p.cellularity for p in source.cellularity("train")] == [0, 0]
    assert {p.name.split("/")[0] for p in source.cellularity("train")} == {"normal"}


def test_the_mixture_holds_every_set_as_often_as_told(root):
    mixture = data(root, fold=None, times={"bcss": 3})
    names = [p.name for p in mixture.nuclei("train")]
    assert len(names) == 7 + 1 + 1 + 3 + 4
    assert len(mixture.cellularity("train")) == 7 + 2
    with pytest.raises(ValidationError, match="know nuclei and no cells"):
        data(root, truth="cells")
    with pytest.raises(ValidationError, match="fold 5 is none of 5"):
        data(root, fold=5)
    with pytest.raises(ConfigError, match="tnbc holds no cellularity"):
        data(root, "tnbc").cellularity("train")


def rewrite(name, old, new):
    def damage(root):
        [path] = root.glob(name)
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new, 1))

    return damage


def replace(name, pixels):
    return lambda root: save(next(iter(sorted(root.glob(name)))), pixels)


def remove(name):
    return lambda root: next(iter(sorted(root.glob(name)))).unlink()


LABELS = f"brca-m2c/labels/{PATIENTS[0]}*"
TABLE = "brecahad/cells.csv"
MALFORMED = {
    "class": (rewrite(LABELS, "30 1", "30 7"), r"A0D0.*line 1, .*class '7'"),
    "row": (rewrite(LABELS, "40 30 1", "40,30,1"), r"A0D0.*line 1, is '40,30,1'.*y x class"),
    "point": (rewrite(LABELS, "40 30", "40 3000"), "A0D0.*outside of its image"),
    "no labels": (remove(LABELS), "A0D0.*missing"),
    "no image": (remove("brca-m2c/images/*"), r"A0D0.*png is missing, and a list names it"),
    "no patient": (rewrite("brca-m2c/brca_ds_val.txt", "TCGA-A6", "SLIDE"), "begin with a TCGA"),
    "no list": (rewrite("brca-m2c/brca_ds_train.txt", "TCGA", "tcga"), "begin with a TCGA"),
    "box": (rewrite(TABLE, "Tumor_nuclei", "Blob"), r"cells.csv, line 2.*'Blob'.*Tumor_nuclei"),
    "no number": (rewrite(TABLE, "50,60", "left,60"), "cells.csv, line 2.*left,60"),
    "outside": (rewrite(TABLE, "50,60", "5000,60"), "Case_10-03.*300×200.*5000,60"),
    "other image": (rewrite(TABLE, "Case_10-03", "Case_10-04"), "Case_10-04.jpg, which is missing"),
    "no mask": (remove("tnbc/1004_nuclei.png"), "1004.png has no mask|no layout"),
    "grey mask": (replace("tnbc/1004_n*", np.full((100, 120), 9, np.uint8)), "black and white"),
    "other mask": (replace("bcss/*mostly*", np.zeros((9, 9), np.uint8)), "9×9 px.*160×120"),
    "transparent": (
        replace("camelyon16/normal/*", np.zeros((64, 64, 4), np.uint8)), "002_5_6.*transparency",
    ),
    "patch name": (
        lambda root: (root / "camelyon16/tumor/tumor_001_5_6.png").rename(
            root / "camelyon16/tumor/a.png"
        ),
        "a.png has no name of a patch",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_named_with_its_fault(root, case, capsys):
    damage, fault = MALFORMED[case]
    damage(root)
    with pytest.raises(ConfigError, match=f"(?s){fault}") as raised:
        list(data(root, fold=None).nuclei("train"))
    assert str(root) in str(raised.value) or "TCGA" in fault


def test_check_knows_them_all_and_draws_what_is_known(root, capsys, tmp_path):
    sheet = tmp_path / "sheet.png"
    code, out = run(capsys, root, "--contact-sheet", sheet)
    assert code == 0, out
    assert figures(out, "pictures") == ["7", "1", "1", "1", "4"]
    assert figures(out, "cellularity is") == ["derived", *["unknown"] * 4]
    assert figures(out, "lymphocyte nuclei")[0] == "7"
    assert Image.open(sheet).width > 1000
    rewrite(LABELS, "30 1", "30 7")(root)
    code, out = run(capsys, root / "brca-m2c")
    assert code == 1
    assert "class '7'" in out
    assert figures(out, "pictures") == ["6"]


@pytest.mark.slides
def test_real_cells_have_the_mean_areas_of_the_papers(slides_dir):
    fields = find_fields(slides_dir.parent / "brca-m2c")
    assert len(fields) == 90
    assert len({field.patient for field in fields}) == 83
    areas: dict[int, list[int]] = {LYMPHOCYTE: [], NORMAL: [], MALIGNANT: []}
    for field in fields[::9]:
        rgb = np.array(Image.open(field.image))
        nuclei = read_points(field.points)
        cells = grown_to_cells(outline_nuclei(rgb, nuclei), nuclei)
        of_cell = np.bincount(cells.ravel(), minlength=len(nuclei.classes) + 1)[1:]
        for c in areas:
            areas[c] += of_cell[nuclei.classes == c].tolist()
    means = [np.mean(areas[c]) for c in areas]
    np.testing.assert_allclose(means, (281, 187, 820), rtol=0.2)

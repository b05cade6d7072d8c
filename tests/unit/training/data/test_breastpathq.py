import csv
import json
import pickle
from collections import Counter

import numpy as np
import pytest
import tifffile
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training import evaluate
from training.data import cellularity
from training.data.breastpathq import (
    CLASS_OF_DESCRIPTION,
    TABLES,
    BreastPathQData,
    Region,
    find_patches,
    find_regions,
    read_key,
    read_patch,
    read_region,
    split,
)
from training.data.generated import GeneratedData
from training.data.picture import unpack
from training.data.truth import IGNORED
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.architecture import CLASSES

LYMPHOCYTE, NORMAL, MALIGNANT = 1, 2, 3


def data_of(challenge, **settings):
    settings = {"validation_regions": 2} | settings
    return BreastPathQData(kind="breastpathq", root=challenge.root, **settings)


def read_everything(challenge):
    data = data_of(challenge)
    for part in ("train", "validation"):
        list(data.nuclei(part))
    for part in TABLES:
        list(data.cellularity(part))


def test_a_key_gives_its_points_and_classes(challenge):
    nuclei = read_key(challenge.region(29, 1, "key"))
    np.testing.assert_array_equal(nuclei.xy, [(53, 61), (65, 80), (0, 0), (7, 9)])
    np.testing.assert_array_equal(nuclei.classes, [MALIGNANT, MALIGNANT, LYMPHOCYTE, NORMAL])


def test_every_description_of_the_challenge_is_known(challenge):
    expected = {
        "lymphocyte": "TIL-E,TIL-S",
        "normal": "normal,UDH,ADH",
        "malignant": "IDC,ILC,Muc C,DCIS 1,DCIS 2,DCIS 3,MC-E,MC-C,MC-M",
    }
    for name, descriptions in expected.items():
        for description in descriptions.split(","):
            for written in (
                description,
                f" {description.upper()} ",
                description.replace("-", "- "),
            ):
                path = challenge.write_key(29, 1, (written, [(1, 2)]))
                assert CLASSES[read_key(path).classes[0]] == name
    assert len(CLASS_OF_DESCRIPTION) == 14


def test_patches_have_exact_pixels_scores_and_slides(challenge):
    pictures = data_of(challenge).cellularity("train")
    found = [(picture.name, picture.group, picture.scores) for picture in pictures]
    assert found == [
        ("1001_1.tif", "breastpathq 1001", (0.4,)),
        ("1001_2.tif", "breastpathq 1001", (0.0,)),
        ("1002_1.tif", "breastpathq 1002", (1.0,)),
    ]
    pixels = tifffile.imread(challenge.datasets / "train/1002_1.tif")
    np.testing.assert_array_equal(pictures[2].sample[..., :3], pixels)
    assert (unpack(pictures[2].sample).mask == IGNORED).all()
    assert [p.scores for p in data_of(challenge).cellularity("validation")] == [(0.95,), (0.15,)]


def test_each_rater_of_the_test_set_is_kept(challenge):
    (picture,) = data_of(challenge).cellularity("test")
    assert picture.scores == (0.3, 0.5)
    assert picture.cellularity == pytest.approx(0.4)


def test_regions_have_masks_of_their_classes(challenge):
    for part in ("train", "validation"):
        for picture in data_of(challenge).nuclei(part):
            assert picture.sample.shape == (90, 120, 4)
            mask = unpack(picture.sample).mask
            assert mask[61, 53] == mask[80, 65] == MALIGNANT
            assert mask[0, 0] == LYMPHOCYTE
            assert mask[9, 7] == NORMAL
            assert not picture.scores


def test_no_slide_has_regions_on_both_sides(challenge):
    data = data_of(challenge)
    training, validation = (list(data.nuclei(part)) for part in ("train", "validation"))
    assert not {p.group for p in training} & {p.group for p in validation}
    assert len(training) + len(validation) == 6
    assert len(validation) >= 2
    assert training[0].group.startswith("breastpathq cells ")


@given(
    numbers=st.lists(st.integers(1, 30), min_size=2, max_size=200),
    wanted=st.integers(1, 20),
    seed=st.integers(0, 100),
)
def test_a_split_parts_whole_slides_and_holds_back_enough(numbers, wanted, seed):
    regions = [Region(slide, i, None, None) for i, slide in enumerate(numbers)]
    largest = max(Counter(numbers).values())
    try:
        training, validation = split(regions, wanted, seed)
    except ConfigError:
        assert len(regions) - largest < wanted
        return
    assert training
    assert sorted(training + validation, key=lambda r: r.number) == regions
    assert not {r.slide for r in training} & {r.slide for r in validation}
    assert wanted <= len(validation) < wanted + largest
    assert split(regions[::-1], wanted, seed)[1] == validation[::-1]


def test_seeds_hold_back_different_slides(challenge):
    regions = find_regions(challenge.root)
    held_back = [{r.slide for r in split(regions, 1, seed)[1]} for seed in range(20)]
    assert set().union(*held_back) == {29, 30, 31}
    assert held_back == [{r.slide for r in split(regions, 1, seed)[1]} for seed in range(20)]


def test_too_few_slides_leave_nothing_to_learn_from(challenge):
    with pytest.raises(ConfigError, match=r"leaves none to learn from.*validation_regions"):
        data_of(challenge, validation_regions=6).nuclei("train")


def test_a_root_may_be_the_folder_datasets_itself(challenge):
    assert find_regions(challenge.datasets) == find_regions(challenge.root)
    assert len(find_patches(challenge.datasets, "train")) == 3


def test_pictures_reach_another_process(challenge):
    for pictures in (data_of(challenge).nuclei("train"), data_of(challenge).cellularity("train")):
        there = pickle.loads(pickle.dumps(pictures))
        np.testing.assert_array_equal(there[0].sample, pictures[0].sample)


def test_a_point_on_the_far_edge_is_in_the_last_pixel(challenge):
    challenge.write_key(29, 1, ("IDC", [(120, 90)]))
    region = next(r for r in find_regions(challenge.root) if (r.slide, r.number) == (29, 1))
    rgb, nuclei = read_region(region)
    assert nuclei.xy.astype(int).tolist() == [[119, 89]]
    assert rgb.shape == (90, 120, 3)


def replace_line(path, old, new):
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def table(content):
    return lambda c: (c.datasets / "train_labels.csv").write_text(content)


def row(old, new):
    return lambda c: replace_line(c.datasets / "train_labels.csv", old, new)


def key(*groups):
    return lambda c: c.write_key(29, 1, *groups)


def key_text(old, new):
    return lambda c: replace_line(c.region(29, 1, "key"), old, new)


def patch(mode, size=(512, 512)):
    return lambda c: Image.new(mode, size).save(c.datasets / "train/1001_2.tif")


def cut(path):
    return lambda c: (c.datasets / path).write_bytes((c.datasets / path).read_bytes()[:5000])


def bytes_of(path, content):
    return lambda c: (c.datasets / path).write_bytes(content)


def without(path):
    return lambda c: (c.datasets / path).unlink()


def moved(path, target):
    return lambda c: (c.datasets / path).rename(c.datasets / target)


REGION = "cells/29_Region 1_crop.tif"
KEY = "cells/29_Region 1_key.xml"
BOMB = '<!DOCTYPE b [<!ENTITY a "aaaa">]><session>&a;</session>'

MALFORMED = {
    "missing patch": (without("train/1001_2.tif"), "train/1001_2.tif", "line 3, lists.*missing"),
    "patch without row": (row("1001,2,0\n", ""), "train/1001_2.tif", "no row in.*train_labels.csv"),
    "duplicate row": (row("1001,2,0", "1001,1,0"), "train_labels.csv, line 3", "second time"),
    "score above 1": (row("1001,2,0", "1001,2,40"), "train_labels.csv, line 3", "40.*0..1"),
    "score below 0": (row("1001,2,0", "1001,2,-0.1"), "train_labels.csv, line 3", "-0.1.*0..1"),
    "score not a number": (
        row("1001,2,0", "1001,2,n/a"),
        "train_labels.csv, line 3",
        "'n/a'.*no nu",
    ),
    "score NaN": (row("1001,2,0", "1001,2,nan"), "train_labels.csv, line 3", "nan.*0..1"),
    "score empty": (row("1001,2,0", "1001,2,"), "train_labels.csv, line 3", "''.*no number"),
    "decimal comma": (row("1001,1,0.4", "1001,1,0,4"), "train_labels.csv, line 2", "4 fields.*3"),
    "short row": (row("1001,2,0", "1001,2"), "train_labels.csv, line 3", "2 fields.*3"),
    "missing column y": (row("slide,rid,y", "slide,rid,score"), "train_labels.csv", "column y"),
    "missing column rid": (row("slide,rid,y", "slide,region,y"), "train_labels.csv", "column rid"),
    "semicolons": (table("slide;rid;y\n1001;1;0.4\n"), "train_labels.csv", "column.*commas"),
    "empty table": (table(""), "train_labels.csv", "column"),
    "missing table": (without("train_labels.csv"), "train_labels.csv", "missing"),
    "table not text": (
        bytes_of("train_labels.csv", b"PK\xff\xfe"),
        "train_labels.csv",
        "not a CSV",
    ),
    "grey patch": (patch("L"), "train/1001_2.tif", "grey.*RGB"),
    "patch with alpha": (patch("RGBA"), "train/1001_2.tif", "transparency.*RGB"),
    "small patch": (patch("RGB", (512, 500)), "train/1001_2.tif", "512×500 px.*512×512"),
    "cut patch": (cut("train/1001_2.tif"), "train/1001_2.tif", "truncated or damaged"),
    "patch not an image": (bytes_of("train/1001_2.tif", b"<html>"), "1001_2.tif", "not an image"),
    "empty patch": (bytes_of("train/1001_2.tif", b""), "train/1001_2.tif", "not an image"),
    "no patches": (moved("train", "training"), "datasets/train", r"holds no \*.tif"),
    "no cells": (moved("cells", "cell"), "datasets/cells", "no regions"),
    "key without image": (without(REGION), KEY, "no image beside it"),
    "image without key": (without(KEY), REGION, "no key beside it"),
    "misnamed region": (moved(REGION, "cells/29.tif"), "cells/29.tif", "no name of a region"),
    "cut region": (cut(REGION), REGION, "truncated or damaged"),
    "unknown class": (key(("Blob", [(1, 2)])), KEY, "'Blob'; known are TIL-E"),
    "no class": (key_text('description="MC- E"', ""), KEY, "''; known are"),
    "polygon": (key_text('type="point"', 'type="polygon"'), KEY, "type 'polygon'.*'MC- E'"),
    "point right of it": (key(("IDC", [(1, 2), (121, 3)])), KEY, "1 of 2 nuclei.*120×90.*121,3"),
    "point above it": (key(("IDC", [(5, -1)])), KEY, "outside.*5,-1"),
    "point not a number": (key_text("53,61", "53;61"), KEY, "point '53;61'"),
    "point NaN": (key_text("53,61", "nan,61"), KEY, "outside.*nan,61"),
    "three coordinates": (key_text("53,61", "53,61,7"), KEY, "point '53,61,7'"),
    "no nuclei": (key(("IDC", [])), KEY, "marks no nucleus"),
    "cut key": (bytes_of(KEY, b"<session><image>"), KEY, "not proper XML"),
    "entities": (bytes_of(KEY, BOMB.encode()), KEY, "XML"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_named_with_its_fault(challenge, case):
    damage, file, fault = MALFORMED[case]
    damage(challenge)
    with pytest.raises(ConfigError, match=f"(?s){fault}") as raised:
        read_everything(challenge)
    assert file in str(raised.value)
    assert str(challenge.root) in str(raised.value)


def test_the_root_itself_may_be_missing(tmp_path):
    with pytest.raises(ConfigError, match="cells"):
        BreastPathQData(kind="breastpathq", root=tmp_path / "nowhere").nuclei("train")


@pytest.mark.slides
def test_the_real_tables_are_read_right(slides_dir, tmp_path):
    published = slides_dir.parent / "breastpathq"
    found = {}
    for part, rows, slides in (("train", 2394, 63), ("validation", 185, 6)):
        content = (published / TABLES[part]).read_text()
        (tmp_path / TABLES[part]).write_text(content)
        (tmp_path / part).mkdir()
        expected = list(csv.reader(content.splitlines()))[1:]
        for slide, rid, _ in expected:
            (tmp_path / part / f"{slide}_{rid}.tif").touch()
        found[part] = find_patches(tmp_path, part)
        assert len(found[part]) == rows
        assert len({patch.slide for patch in found[part]}) == slides
        assert [patch.scores for patch in found[part]] == [(float(y),) for *_, y in expected]
    assert not {p.slide for p in found["train"]} & {p.slide for p in found["validation"]}


@pytest.mark.slides
def test_a_real_patch_is_read_right(slides_dir):
    path = slides_dir.parent / "breastpathq/99788_1.tif"
    np.testing.assert_array_equal(read_patch(path), tifffile.imread(path))


@pytest.mark.slides
def test_all_real_points_are_read_right(slides_dir, challenge):
    described = {"malignant": "MC- E", "normal": "UDH", "lymphocyte": "TIL-S"}
    with (slides_dir.parent / "breastpathq/cells_points.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    regions = {row["roi"]: [] for row in rows}
    for row in rows:
        regions[row["roi"]].append((int(row["x"]), int(row["y"]), row["class"]))
    assert len(regions) == 154
    for points in regions.values():
        groups = [(described[name], [p[:2] for p in points if p[2] == name]) for name in described]
        nuclei = read_key(challenge.write_key(29, 1, *groups))
        names = [CLASSES[c] for c in nuclei.classes]
        found = zip(nuclei.xy.tolist(), names, strict=True)
        assert sorted((x, y, name) for (x, y), name in found) == sorted(points)


def test_only_the_challenge_has_a_test_part(challenge):
    [picture] = cellularity(data_of(challenge), "test")
    assert picture.scores == (0.3, 0.5)
    with pytest.raises(ConfigError, match="kind generated has no part 'test'"):
        cellularity(GeneratedData(), "test")


def test_the_test_part_is_judged_by_both_raters(challenge, tiny_bundle, tmp_path):
    content = {
        "data": {"kind": "breastpathq", "root": "."},
        "card": dict.fromkeys(
            ("name", "version", "trained_on", "licence", "intended_use", "limitations"), "x"
        ),
    }
    (tmp_path / "reg.yaml").write_text(yaml.safe_dump(content))
    evaluate.main(
        f"--bundle {tiny_bundle} --config {tmp_path / 'reg.yaml'} --data {challenge.root} "
        f"--part test --out {tmp_path / 'out'}".split()
    )
    [row] = csv.DictReader((tmp_path / "out" / "predictions.csv").open())
    assert (float(row["truth_1"]), float(row["truth_2"])) == (0.3, 0.5)
    l1 = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]["l1"]["value"]
    score = float(row["prediction"])
    assert l1 == pytest.approx((abs(score - 0.3) + abs(score - 0.5)) / 2, abs=1e-6)

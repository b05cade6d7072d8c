"""Nuclei found one by one: against every pairing, and by the command on a run of its own."""

import json
from itertools import combinations, permutations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from tests.helpers.breast_sets import write_breast_sets
from tests.unit.training.data.test_breast import root as root
from training import detection, seg
from training.data.brca_m2c import read_points
from training.detection import Counted, count, f1, figures, find_nuclei, matched
from training.ground_truth import Nuclei


def test_touching_nuclei_are_found_one_by_one_with_their_classes():
    rows, columns = np.indices((80, 120)) + 0.5
    places = {1: [(20, 20), (31, 20)], 2: [(60, 60)], 3: [(90, 30), (100, 44)]}
    probability = np.zeros((4, 80, 120), np.float32)
    for c, points in places.items():
        for x, y in points:
            probability[c][np.hypot(rows - y, columns - x) < (6 if c == 1 else 9)] = 0.9
    probability[0] = 1 - probability[1:].sum(0)
    found = find_nuclei(probability)
    expected = [(c, point) for c, points in places.items() for point in points]
    assert len(found.xy) == len(expected)
    for c, point in expected:
        distance = np.hypot(*(found.xy - point).T)
        assert distance.min() < 2
        assert found.classes[distance.argmin()] == c
    nothing = np.zeros_like(probability)
    nothing[0] = 1
    assert find_nuclei(nothing).xy.shape == (0, 2)


def test_points_are_paired_as_well_as_can_be():
    rng = np.random.default_rng(0)
    for _ in range(20):
        ours, theirs = rng.uniform(0, 10, (4, 2)), rng.uniform(0, 10, (5, 2))
        near = cdist(ours, theirs) <= 3
        pairings = [
            list(zip(some, others, strict=True))
            for n in range(5)
            for some in combinations(range(4), n)
            for others in permutations(range(5), n)
        ]
        best = max(len(pairs) for pairs in pairings if all(near[pair] for pair in pairs))
        assert matched(ours, theirs, 3) == best
    assert matched(ours, np.zeros((0, 2)), 3) == 0


def test_a_nucleus_of_the_wrong_class_is_found_and_not_classed():
    xy = np.array([[10.0, 10.0], [50.0, 50.0]])
    marked = Nuclei(xy, np.array([1, 3], np.uint8))
    found = Nuclei(xy + np.array((5.9, 0)), np.array([1, 2], np.uint8))
    counted = count(found, marked)
    assert counted.tolist() == [[2, 2, 2], [1, 1, 1], [0, 1, 0], [0, 0, 1]]
    np.testing.assert_array_equal(f1(counted), [1, 1, 0, 0])
    assert count(Nuclei(xy + np.array((6.1, 0)), found.classes), marked)[0].tolist() == [0, 2, 2]


def test_figures_are_of_all_fields_together_with_intervals_over_patients():
    rng = np.random.default_rng(1)
    fields = [
        Counted(
            f"patient {i // 2}",
            np.column_stack([rng.integers(3, 9, 4), np.full((4, 2), 10)]),
            np.diag(rng.integers(5, 9, 4)) + 1,
            (i / 12, i / 12 + 0.05),
        )
        for i in range(12)
    ]
    told = figures(fields)
    right = np.stack([field.nuclei for field in fields]).sum(0)
    assert told["f1_found"].value == pytest.approx(right[0, 0] / 120)
    assert told["f1_mean"].value == pytest.approx(right[1:, 0].mean() / 120)
    assert told["f1_found"].low < told["f1_found"].value < told["f1_found"].high
    assert told["derived_l1"].value == pytest.approx(0.05)
    assert told["derived_pk"].value == pytest.approx(1)


def test_a_run_on_the_mixture_is_judged_by_its_own_patients(tmp_path):
    """From the five sets' files to the figures: two steps of a real network."""
    (tmp_path / "sets").mkdir()
    root = write_breast_sets(tmp_path / "sets")
    (tmp_path / "seg.yaml").write_text(
        "data: {kind: breast, root: ., folds: 2, fold: 1}\n"
        "backbone: tf_efficientnet_lite0\n"
        "imagenet: null\nupsampling: half-pixel\nlogit_stride: 2\ntumour_near: 0.1\n"
        "augment: {crop: 64, stain: 0.1, unsure_edges: true}\n"
        "fit: {epochs: 1, batch: 6, best_by: mean_iou}\n"
    )
    run, out = tmp_path / "run", tmp_path / "figures.json"
    arguments = ["--config", str(tmp_path / "seg.yaml"), "--data", str(root), "--run", str(run)]
    seg.main(arguments)
    moved = root.rename(tmp_path / "moved")
    detection.main(["--run", str(run), "--data", str(moved), "--out", str(out)])
    told = json.loads(out.read_text())
    # Fields of patients whose fold is 1, and who are in no test.
    assert told["fields"] == told["patients"] > 0
    line = json.loads((run / "metrics.jsonl").read_text())
    assert told["metrics"]["mean_iou"]["value"] is not None
    assert line["mean_iou"] > 0
    points = [len(read_points(p).xy) for p in (moved / "brca-m2c" / "labels").iterdir()]
    assert set(points) == {3}
    (run / "config.yaml").write_text("data: {kind: generated}\n")
    with pytest.raises(SystemExit, match="Nuclei are counted on BRCA-M2C"):
        detection.main(["--run", str(run)])

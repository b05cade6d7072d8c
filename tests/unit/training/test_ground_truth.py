"""Outlines of nuclei round points, on drawn discs whose truth is known."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from training.ground_truth import Nuclei, figure_2, nucleus_mask, outline_nuclei
from training.outline_quality import (
    class_dice,
    dice,
    disc_nuclei,
    match_nuclei,
    panoptic_quality,
)
from wsi_pipeline.errors import ConfigError

PINK, PURPLE = (235, 190, 215), (95, 60, 140)


def nuclei_at(*points, classes=None):
    xy = np.array(points, np.float64).reshape(-1, 2)
    return Nuclei(xy, np.array(classes or [3] * len(xy), np.uint8))


def draw(points, radius, shape=(100, 120)):
    """Purple discs on pink, slightly uneven as any photograph is."""
    rgb = np.full((*shape, 3), PINK, np.uint8)
    for x, y in points:
        centre = (round((x - 0.5) * 16), round((y - 0.5) * 16))
        cv2.circle(rgb, centre, round(radius * 16), PURPLE, -1, cv2.LINE_AA, 4)
    noise = np.random.default_rng(0).normal(0, 3, rgb.shape)
    return (rgb + noise).clip(0, 255).astype(np.uint8)


def discs(points, radius, shape=(100, 120)):
    y, x = np.indices(shape) + 0.5
    labels = np.zeros(shape, np.int32)
    for i, (px, py) in enumerate(points):
        labels[np.hypot(x - px, y - py) <= radius] = i + 1
    return labels


def assert_proper(labels, nuclei):
    """One connected piece for each point, which holds it."""
    height, width = labels.shape
    x, y = np.minimum(nuclei.xy.astype(int), (width - 1, height - 1)).T
    first = {}
    for i, pixel in enumerate(zip(x, y, strict=True)):
        first.setdefault(pixel, i)
    for (column, row), i in first.items():
        assert labels[row, column] == i + 1
        assert ndimage.label(labels == i + 1)[1] == 1
    assert set(np.unique(labels)) - {0} == {i + 1 for i in first.values()}


POINTS = [(30.5, 30.5), (80.5, 40.5), (50.5, 75.5)]


def test_discs_are_found_as_they_were_drawn():
    nuclei = nuclei_at(*POINTS, classes=[1, 2, 3])
    labels = outline_nuclei(draw(POINTS, 7), nuclei)
    assert_proper(labels, nuclei)
    truth = discs(POINTS, 7)
    assert labels.dtype == np.int32
    assert dice(truth, labels) > 0.9
    assert panoptic_quality(truth, labels) > 0.8
    mask = nucleus_mask(labels, nuclei)
    assert mask.dtype == np.uint8
    assert [mask[int(y), int(x)] for x, y in POINTS] == [1, 2, 3]
    assert ((mask > 0) == (labels > 0)).all()


def test_touching_nuclei_are_told_apart_half_way():
    points = [(50.5, 50.5), (62.5, 50.5)]
    nuclei = nuclei_at(*points)
    labels = outline_nuclei(draw(points, 7), nuclei)
    assert_proper(labels, nuclei)
    assert (labels[46:55, 46:56] == 1).all()
    assert (labels[46:55, 58:66] == 2).all()
    areas = np.bincount(labels.ravel())[1:]
    assert areas.min() > 0.9 * areas.max()


def test_a_nucleus_nobody_marked_stays_background():
    nuclei = nuclei_at(POINTS[0])
    labels = outline_nuclei(draw(POINTS, 7), nuclei)
    assert not labels[60:].any()
    assert not labels[:, 60:].any()


def test_permuted_points_give_permuted_labels():
    points = [(30.5, 30.5), (42.5, 31.5), (80.5, 40.5), (50.5, 75.5)]
    rgb = draw(points, 7)
    order = np.array([2, 0, 3, 1])
    nuclei = nuclei_at(*points, classes=[1, 2, 3, 1])
    labels = outline_nuclei(rgb, nuclei)
    permuted = outline_nuclei(rgb, Nuclei(nuclei.xy[order], nuclei.classes[order]))
    back = np.concatenate([[0], order + 1])[permuted]
    # Equal levels of the flood may go to either side of a border.
    assert (back == labels).mean() > 0.999
    assert panoptic_quality(labels, back) > 0.98


@pytest.mark.parametrize("factor", [2, 3])
def test_a_finer_picture_gives_the_same_outlines(factor):
    nuclei = nuclei_at(*POINTS)
    rgb = draw(POINTS, 7)
    size = (rgb.shape[1] * factor, rgb.shape[0] * factor)
    fine = cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR)
    coarse = outline_nuclei(rgb, nuclei, 0.5)
    labels = outline_nuclei(fine, Nuclei(nuclei.xy * factor, nuclei.classes), 0.5 / factor)
    assert panoptic_quality(coarse.repeat(factor, 0).repeat(factor, 1), labels) > 0.9


def test_no_nucleus_is_larger_than_its_class_can_be():
    rgb = np.full((80, 80, 3), PINK, np.uint8)
    rgb[10:70, 10:70] = PURPLE
    for kind, radius in ((1, 4.5), (2, 7.0), (3, 8.0)):
        labels = outline_nuclei(rgb, nuclei_at((40.5, 40.5), classes=[kind]))
        y, x = np.nonzero(labels)
        assert 0 < np.hypot(x - 40, y - 40).max() * 0.5 <= radius


def test_no_points_no_nuclei():
    labels = outline_nuclei(draw([], 7), nuclei_at())
    assert labels.shape == (100, 120)
    assert not labels.any()
    assert not nucleus_mask(labels, nuclei_at()).any()


def test_of_two_points_in_a_pixel_the_first_has_it():
    nuclei = nuclei_at((30.5, 30.5), (30.2, 30.9), classes=[1, 3])
    labels = outline_nuclei(draw(POINTS, 7), nuclei)
    assert_proper(labels, nuclei)
    assert set(np.unique(nucleus_mask(labels, nuclei))) == {0, 1}


@pytest.mark.parametrize("point", [(-1, 5), (5, 100.5), (121, 5), (np.nan, 5)])
def test_a_point_outside_is_named(point):
    with pytest.raises(ConfigError, match=r"Point 1 at .* outside of its picture of 120 × 100 px"):
        outline_nuclei(draw(POINTS, 7), nuclei_at((5, 5), point))


def test_a_point_on_the_far_edge_is_inside():
    nuclei = nuclei_at((120, 100))
    assert_proper(outline_nuclei(draw(POINTS, 7), nuclei), nuclei)


@pytest.mark.parametrize("kind", [0, 4])
def test_a_class_of_no_nucleus_is_named(kind):
    with pytest.raises(ConfigError, match=f"Point 0 has class {kind}.*1 to 3"):
        outline_nuclei(draw(POINTS, 7), nuclei_at((5, 5), classes=[kind]))


@settings(max_examples=60, deadline=None)
@given(
    rgb=arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))),
    places=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 3)), max_size=12),
    mpp=st.sampled_from([0.25, 0.5, 1.0]),
)
def test_any_picture_and_points_give_one_piece_for_each_point(rgb, places, mpp):
    height, width = rgb.shape[:2]
    nuclei = nuclei_at(
        *[(x * width, y * height) for x, y, _ in places], classes=[c for *_, c in places]
    )
    assert_proper(outline_nuclei(rgb, nuclei, mpp), nuclei)


def test_figure_2_shows_picture_points_and_mask_in_the_papers_colours():
    nuclei = nuclei_at(*POINTS, classes=[1, 2, 3])
    labels = outline_nuclei(draw(POINTS, 7), nuclei)
    figure = figure_2(draw(POINTS, 7), nuclei, labels)
    assert figure.dtype == np.uint8
    assert figure.shape == (200, 3 * 240 + 2 * 8, 3)
    mask = figure[:, -240:]
    hue = [int(mask[int(2 * y), int(2 * x)].argmax()) for x, y in POINTS]
    assert hue == [1, 2, 0]  # lymphocyte green, normal blue, malignant red
    assert not mask[0, 0].any()


# --- measures ----------------------------------------------------------------------------------


def brute_force_pq(truth, predicted):
    """Kirillov et al., equation 1, pair by pair."""
    true_ids, ids = ([i for i in np.unique(a) if i] for a in (truth, predicted))
    ious = []
    for t in true_ids:
        for p in ids:
            union = ((truth == t) | (predicted == p)).sum()
            iou = ((truth == t) & (predicted == p)).sum() / union
            if iou > 0.5:
                ious.append(iou)
    tp = len(ious)
    denominator = tp + (len(ids) - tp) / 2 + (len(true_ids) - tp) / 2
    return sum(ious) / denominator if denominator else 1.0


LABELS = arrays(np.int32, (6, 7), elements=st.integers(0, 4))


@given(truth=LABELS, predicted=LABELS)
def test_panoptic_quality_is_that_of_brute_force(truth, predicted):
    assert panoptic_quality(truth, predicted) == pytest.approx(brute_force_pq(truth, predicted))
    assert panoptic_quality(truth, truth) == 1


def test_half_the_union_is_no_match():
    truth, predicted = np.array([[1, 1, 0]]), np.array([[1, 0, 0]])
    assert match_nuclei(truth, predicted).matched == 0
    assert match_nuclei(truth, np.array([[0, 7, 0]])).invented == 1


@given(truth=LABELS, predicted=LABELS)
def test_dice_is_the_f1_of_the_pixels(truth, predicted):
    a, b = truth.ravel() > 0, predicted.ravel() > 0
    tp, wrong = sum(a & b), sum(a ^ b)
    assert dice(truth, predicted) == pytest.approx(
        2 * tp / (2 * tp + wrong) if a.any() or b.any() else 1
    )


def test_dice_of_each_class():
    truth = np.array([1, 1, 2, 0], np.uint8)
    assert class_dice(truth, np.array([1, 0, 2, 2], np.uint8)) == pytest.approx([2 / 3, 2 / 3, 1])


def test_discs_have_their_radius_and_meet_half_way():
    labels = disc_nuclei((60, 60), nuclei_at((20.5, 30.5), (30.5, 30.5)), 4.0)
    assert labels[30, 12] == 1
    assert labels[30, 11] == 0
    assert (labels[30, 13:25] == 1).all()
    assert (labels[30, 26:39] == 2).all()

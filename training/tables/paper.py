"""What the paper reports of its own data, to stand beside what is measured here.

Wang, Yu and Wang, *Segmentation Guided Regression Network for Breast Cancer Cellularity*, on the
images of the BreastPathQ challenge: 8 images to validate the segmentation and 185 patches to
validate the regression. Figures of other data can be compared with these in kind alone.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class SegmentationRow:
    """A row of Tables 1 and 2: accuracies are of a class's own pixels."""

    gamma: float
    mean_iou: float
    background: float
    lymphocyte: float
    normal: float
    malignant: float


@dataclass(frozen=True)
class RegressionRow:
    """A column of Table 6."""

    model: str
    pk: float
    l1: float


TABLE_1_VALIDATION = (
    SegmentationRow(1, 0.6449, 0.9467, 0.6432, 0.9257, 0.8608),
    SegmentationRow(2, 0.6461, 0.9421, 0.5298, 0.9430, 0.8824),
    SegmentationRow(5, 0.6233, 0.9344, 0.6009, 0.9047, 0.8902),
)

TABLE_2_TRAINING = (
    SegmentationRow(1, 0.8438, 0.9625, 0.9663, 0.9725, 0.9681),
    SegmentationRow(2, 0.8254, 0.9588, 0.9631, 0.9743, 0.9674),
    SegmentationRow(5, 0.6310, 0.9017, 0.8044, 0.9322, 0.8449),
)

TABLES_3_TO_5_CONFUSION = {
    1: (
        (1840327, 7883, 17059, 58244),
        (226, 10575, 0, 2),
        (1632, 0, 51512, 0),
        (8483, 51, 0, 258342),
    ),
    2: (
        (1812079, 4916, 26636, 79882),
        (4828, 5723, 0, 252),
        (1890, 0, 50114, 1140),
        (31020, 356, 0, 235500),
    ),
    5: (
        (1797263, 7707, 30056, 88487),
        (4278, 6492, 0, 33),
        (3304, 0, 48079, 1761),
        (28313, 1000, 0, 237563),
    ),
}
"""Validation pixels by gamma: a row per true class, a column per predicted one."""

TABLE_6_REGRESSION = (
    RegressionRow("ResNet101", 0.9229, 0.0779),
    RegressionRow("ResNet152", 0.9206, 0.07231),
    RegressionRow("ResNeXt", 0.9228, 0.0778),
    RegressionRow("SENet", 0.9232, 0.0735),
    RegressionRow("NASNet", 0.9237, 0.0748),
    RegressionRow("Guided", 0.9260, 0.0719),
)

CHALLENGE_CELLULARITY = (0.338, 0.134, 0.132, 0.013, 0.079, 0.111, 0.046, 0.013, 0.035, 0.100)
"""Share of the challenge's 2394 training patches (train_labels.csv) in each tenth of the scale."""

CHALLENGE_MEAN = 0.312
"""Their mean cellularity."""

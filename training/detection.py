"""Nuclei one by one: where a network of stage 1 finds them, beside those that somebody marked.

``python -m training.detection --run runs/seg-breast --data DATA`` judges a run on the patients of
BRCA-M2C that it has not learnt from: nuclei found and classed, pixels classed, and the cellularity
that follows. Intervals are over patients.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.feature
import torch
from numpy.typing import NDArray
from rich.progress import track
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from training.agreement import RESAMPLES, Estimate, agreement, draws, estimate
from training.data import under
from training.data.brca_m2c import BrcaM2cData, pictures, read_field
from training.data.breast import BreastData
from training.data.picture import PICTURE_MPP, Picture, of_nuclei, padded, unpack
from training.fit import choose_device, evaluate
from training.ground_truth import Nuclei
from training.metrics import confusion_matrix, mean_iou
from training.run import CONFIG_NAME, trained_weights
from training.seg import SegConfig, SegStage, mean_of_flips
from wsi_pipeline.errors import ConfigError, WsiError
from wsi_pipeline.files import atomic_path
from wsi_pipeline.model.architecture import CLASSES, SEGMENTATION_STRIDE
from wsi_pipeline.validation import load_yaml

log = logging.getLogger(__name__)

REACH_UM = 3.0
"""How far from its point a nucleus may be found."""

# How likely a peak is to be a nucleus, at the least, how far apart two are and how much their map
# is smoothed, µm: with these, of the nuclei of BRCA-M2C 0.93 (F1) are found in the very masks that
# a watershed made of their points.
_LIKELY = 0.5
_APART_UM = 1.5
_SMOOTH_UM = 1.0

# How near to a middle a peak is, at the least, and how much that map is smoothed.
_NEAR = 0.3
_SMOOTH_CENTRES_UM = 0.5

_peaks: Any = skimage.feature.peak_local_max

# Beyond this far inside, µm, a nucleus has no middle any more.
_DEEP_UM = 4.0


@dataclass(frozen=True)
class Counted:
    """What was found in one field."""

    patient: str
    nuclei: NDArray[np.int64]
    """``[1 + classes, 3]``: nuclei found rightly, found at all and marked: of any class, then of
    each."""
    confusion: NDArray[np.int64]
    """Pixels by true and predicted class."""
    cellularity: tuple[float, float]
    """Derived from the marked nuclei, and from the network's."""


def find_nuclei(probability: NDArray[np.float32]) -> Nuclei:
    """Find the middles of nuclei: peaks of how deep inside one a pixel is and of how surely.

    Args:
        probability: of each class at each pixel at 0.5 µm/px, ``[classes, H, W]``; the first is
            the background.

    Returns:
        Their points, in pixels, and the class that is likeliest about each.

    """
    nucleus = 1 - probability[0]
    inside = (nucleus > _LIKELY).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * PICTURE_MPP
    hills = np.minimum(depth, _DEEP_UM) / _DEEP_UM + nucleus
    smooth = cv2.GaussianBlur(hills.astype(np.float32), (0, 0), _SMOOTH_UM / PICTURE_MPP)
    rows, columns = _peaks(
        smooth, min_distance=round(_APART_UM / PICTURE_MPP), labels=inside, exclude_border=False
    ).T
    return _classed(rows, columns, probability)


def find_centres(nearness: NDArray[np.float32], probability: NDArray[np.float32]) -> Nuclei:
    """Find the middles of nuclei where a network that learnt them sees the nearest to one.

    Args:
        nearness: to the middle of a nucleus, 0 to 1, at 0.5 µm/px, ``[H, W]``.
        probability: of each class, ``[classes, H, W]``; the first is the background.

    Returns:
        Their points, in pixels, and the class that is likeliest about each.

    """
    smooth = cv2.GaussianBlur(nearness, (0, 0), _SMOOTH_CENTRES_UM / PICTURE_MPP)
    rows, columns = _peaks(
        smooth,
        min_distance=round(_APART_UM / PICTURE_MPP),
        threshold_abs=_NEAR,
        exclude_border=False,
    ).T
    return _classed(rows, columns, probability)


def _classed(
    rows: NDArray[np.intp], columns: NDArray[np.intp], probability: NDArray[np.float32]
) -> Nuclei:
    about = [cv2.GaussianBlur(p, (0, 0), 1 / PICTURE_MPP)[rows, columns] for p in probability[1:]]
    classes = 1 + np.argmax(about, axis=0) if len(rows) else np.zeros(0)
    xy = np.column_stack([columns, rows]).astype(np.float64) + 0.5
    return Nuclei(xy, classes.astype(np.uint8))


def matched(found: NDArray[np.float64], marked: NDArray[np.float64], reach: float) -> int:
    """Return how many points can be paired with one of the others each, no farther than ``reach``.

    Of all pairings the one with the most pairs is taken.
    """
    if not (len(found) and len(marked)):
        return 0
    near = cdist(found, marked) <= reach
    rows, columns = linear_sum_assignment(near, maximize=True)
    return int(near[rows, columns].sum())


def count(found: Nuclei, marked: Nuclei) -> NDArray[np.int64]:
    """Count nuclei as in ``Counted.nuclei``; each class is paired by itself."""
    reach = REACH_UM / PICTURE_MPP
    rows = [(matched(found.xy, marked.xy, reach), len(found.xy), len(marked.xy))]
    for c in range(1, len(CLASSES)):
        ours, theirs = found.xy[found.classes == c], marked.xy[marked.classes == c]
        rows.append((matched(ours, theirs, reach), len(ours), len(theirs)))
    return np.array(rows, dtype=np.int64)


def f1(counted: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return F1 of each row of counts: right, found, marked; NaN where there is nothing."""
    right, found, marked = counted.T.astype(np.float64)
    return np.where(found + marked > 0, 2 * right / np.maximum(found + marked, 1), np.nan)


def figures(counted: Sequence[Counted]) -> dict[str, Estimate]:
    """Return F1 of nuclei, mean IoU of pixels, and PK, L1 and Spearman of derived cellularity."""
    nuclei = np.stack([field.nuclei for field in counted])
    confusions = np.stack([field.confusion for field in counted])
    patients = np.array([field.patient for field in counted])
    names = ("f1_found", *(f"f1_{name}" for name in CLASSES[1:]), "f1_mean", "mean_iou")

    def statistic(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        of_all = f1(nuclei[rows].sum(0))
        return np.array([*of_all, of_all[1:].mean(), mean_iou(confusions[rows].sum(0))])

    values = statistic(np.arange(len(counted)))
    columns = draws(statistic, len(names), patients, RESAMPLES, 0).T
    result = {n: estimate(v, c) for n, v, c in zip(names, values, columns, strict=True)}
    truth, derived = np.array([field.cellularity for field in counted]).T
    told = agreement(truth, derived, patients)
    return result | {f"derived_{name}": told[name] for name in ("pk", "l1", "bias", "spearman")}


def judge(
    network: torch.nn.Module, data: BrcaM2cData, device: torch.device, *, centres: bool
) -> list[Counted]:
    """Find the nuclei of the fields that are held back, with four flips.

    Args:
        network: of stage 1.
        data: the set.
        device: of the network.
        centres: whether the network tells where the middles of nuclei are.

    """
    fields = data.fields("validation")
    whole = padded(pictures(fields, "validation", data.truth), SEGMENTATION_STRIDE)
    counted = []
    for field, picture in zip(track(fields, "finding nuclei"), whole, strict=True):
        rgb, marked = read_field(field)
        height, width = rgb.shape[:2]
        pixels = torch.from_numpy(np.ascontiguousarray(picture.sample[None, ..., :3])).to(device)
        told = mean_of_flips(network, pixels, centres=centres)[0, :, :height, :width].cpu().numpy()
        probability = told[: len(CLASSES)]
        classes = probability.argmax(0).astype(np.uint8)
        mask = unpack(picture.sample).mask[:height, :width]
        derived = Picture(field.image.name, field.patient, of_nuclei(rgb, classes)).cellularity
        counted.append(
            Counted(
                patient=field.patient,
                nuclei=count(
                    find_centres(told[-1], probability) if centres else find_nuclei(probability),
                    marked,
                ),
                confusion=confusion_matrix(mask, classes, len(CLASSES)),
                cellularity=(picture.cellularity, derived),
            )
        )
    return counted


def marked_fields(config: SegConfig) -> BrcaM2cData:
    """Return the part of a configuration's data in which every nucleus is a point.

    Raises:
        ConfigError: If there is none.

    """
    data = config.data.parts["brca-m2c"] if isinstance(config.data, BreastData) else config.data
    if not isinstance(data, BrcaM2cData) or data.truth != "nuclei":
        raise ConfigError(
            "Nuclei are counted on BRCA-M2C, with `truth: nuclei`; this run learnt from other "
            "data, or from cells."
        )
    return data


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge a run of stage 1 by nuclei found, on patients that it has not learnt from."""
    parser = argparse.ArgumentParser(prog="python -m training.detection", description=main.__doc__)
    parser.add_argument("--run", type=Path, required=True, help="finished run of stage 1")
    parser.add_argument(
        "--data", type=Path, help="folder that the data lies in; where it was learnt from"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write the figures to")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        config = load_yaml(chosen.run / CONFIG_NAME, SegConfig)
        source = marked_fields(config)
        if chosen.data is not None:
            source = under(source.model_copy(update={"root": Path("brca-m2c")}), chosen.data)  # type: ignore[assignment]
        stage = SegStage(config.model_copy(update={"imagenet": None}))
        stage.network.load_state_dict(trained_weights(chosen.run))
        device = choose_device(config.fit.device)
        stage.network.to(device)
        counted = evaluate(
            stage.network,
            lambda: judge(stage.network, source, device, centres=config.centres > 0),
        )
        told = figures(counted)
    except WsiError as error:
        raise SystemExit(str(error)) from error
    for name, figure in told.items():
        log.info("%s %s", name, figure)
    if chosen.out:
        content: dict[str, Any] = {
            "fields": len(counted),
            "patients": len({field.patient for field in counted}),
            "metrics": {name: figure.record() for name, figure in told.items()},
        }
        with atomic_path(chosen.out) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

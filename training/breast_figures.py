"""What a bundle for breast tissue is worth, in one table: the figures of docs/results.md.

``python -m training.breast_figures --bundle BUNDLE --data DATA --out figures.json``

``DATA`` is the folder that holds the sets by name. Those of the ``breast`` mixture are judged by
the patients of the fold that training held back; CoNSeP, the patch of BreastPathQ and the slide of
healthy skin are for judging alone, and are left out where they are missing. Intervals are over
patients, images or, of a single slide, not given. The network runs as it is, in float32; classes of
pixels and nuclei are the mean over four flips, scores are not.
"""

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from rich.progress import track

from training import detection
from training.agreement import RESAMPLES, Estimate, agreement, draws, estimate
from training.data.bcss import find_regions, read_region
from training.data.brca_m2c import BrcaM2cData
from training.data.camelyon16 import Camelyon16Data
from training.data.consep import ConsepData
from training.data.generated import GeneratedData
from training.data.patients import fold_of, tcga_patient
from training.data.picture import Picture, Pictures, is_glass, of_nuclei, of_score, padded, unpack
from training.fit import choose_device, evaluate
from training.metrics import confusion_matrix, mean_iou
from training.seg import mean_of_flips
from wsi_pipeline.errors import ConfigError, WsiError
from wsi_pipeline.files import atomic_path
from wsi_pipeline.model.architecture import CLASSES, REGRESSION_STRIDE
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.model.network import GuidedRegressionNetwork

log = logging.getLogger(__name__)

WINDOW_PX = 512
"""Side of the squares that regions and slides are scored by."""

_LEAST_TISSUE = 0.1
_LYMPHOID_SHARE = 0.5

Rows = dict[str, Estimate]


@dataclass(frozen=True)
class Seen:
    """What a network says of one picture, beside its truth."""

    group: str
    truth: float
    score: float
    ratio: float
    """Cellularity that is derived from the network's own segmentation."""
    confusion: NDArray[np.int64]


def see(network: GuidedRegressionNetwork, pictures: Pictures, device: torch.device) -> list[Seen]:
    """Score and segment pictures of any size, each whole."""
    seen = []
    whole = padded(pictures, REGRESSION_STRIDE)
    for i in track(range(len(pictures)), "scoring"):
        height, width = pictures[i].sample.shape[:2]
        picture = whole[i]
        rgb = np.ascontiguousarray(picture.sample[..., :3])
        pixels = torch.from_numpy(rgb[None]).to(device)
        score = float(network(pixels, with_segmentation=False).score)
        flips = mean_of_flips(network.segmentation, pixels)[0, :, :height, :width]
        classes = flips.argmax(0).cpu().numpy().astype(np.uint8)
        ratio = Picture("", "", of_nuclei(rgb[:height, :width], classes)).cellularity
        mask = unpack(picture.sample).mask[:height, :width]
        confusion = confusion_matrix(mask, classes, len(CLASSES))
        seen.append(Seen(picture.group, picture.cellularity, score, ratio, confusion))
    return seen


def scores_against_truth(name: str, seen: Sequence[Seen]) -> Rows:
    """Return PK and L1 of scores and of the area ratio, and how much lower the former's L1 is."""
    truth, groups = np.array([s.truth for s in seen]), np.array([s.group for s in seen])
    scores, ratios = np.array([s.score for s in seen]), np.array([s.ratio for s in seen])
    rows: Rows = {}
    for kind, values in (("score", scores), ("ratio", ratios)):
        told = agreement(truth, values, groups)
        rows |= {f"{name}_{kind}_{figure}": told[figure] for figure in ("pk", "l1", "spearman")}
    gain = np.abs(ratios - truth) - np.abs(scores - truth)
    return rows | {f"{name}_l1_gain_over_ratio": _mean(gain, groups)}


def mean_score(name: str, seen: Sequence[Seen]) -> Rows:
    """Return the mean score of pictures in which 0 is right, and that of the area ratio."""
    groups = np.array([s.group for s in seen])
    return {
        f"{name}_score_mean": _mean(np.array([s.score for s in seen]), groups),
        f"{name}_ratio_mean": _mean(np.array([s.ratio for s in seen]), groups),
    }


def segmentation(name: str, seen: Sequence[Seen]) -> Rows:
    """Return the mean IoU of four classes."""
    confusions = np.stack([s.confusion for s in seen])
    groups = np.array([s.group for s in seen])
    resampled = draws(
        lambda rows: np.array([mean_iou(confusions[rows].sum(0))]), 1, groups, RESAMPLES, 0
    )
    return {f"{name}_mean_iou": estimate(mean_iou(confusions.sum(0)), resampled[:, 0])}


def _mean(values: NDArray[np.float64], groups: NDArray[np.generic]) -> Estimate:
    resampled = draws(lambda rows: values[rows].mean(keepdims=True), 1, groups, RESAMPLES, 0)
    return estimate(float(values.mean()), resampled[:, 0])


def tumour_windows(regions: Sequence[Path]) -> Pictures:
    """Cut regions into squares whose score is the share of their tissue that is tumour."""
    found = []
    for path in regions:
        rgb, tumour = read_region(path)
        for y, x, window in _squares(rgb):
            tissue = ~is_glass(window)
            inside = tumour[y : y + WINDOW_PX, x : x + WINDOW_PX] & tissue
            share = float(inside.sum() / tissue.sum())
            name = f"{path.name} ({x}, {y})"
            found.append(Picture(name, tcga_patient(path.name), of_score(window), (share,)))
    return found


def slide_windows(path: Path) -> Pictures:
    """Cut a small slide at 0.5 µm/px without tumour into the squares that hold tissue."""
    rgb = tifffile.imread(path, key=0)
    return [
        Picture(f"{path.name} ({x}, {y})", path.name, of_score(window), (0.0,))
        for y, x, window in _squares(rgb)
    ]


def _squares(rgb: NDArray[np.uint8]) -> list[tuple[int, int, NDArray[np.uint8]]]:
    height, width = rgb.shape[:2]
    places = [
        (y, x)
        for y in range(0, height - WINDOW_PX + 1, WINDOW_PX)
        for x in range(0, width - WINDOW_PX + 1, WINDOW_PX)
    ]
    cut = [(y, x, rgb[y : y + WINDOW_PX, x : x + WINDOW_PX]) for y, x in places]
    return [(y, x, w) for y, x, w in cut if (~is_glass(w)).mean() >= _LEAST_TISSUE]


def lymphoid(seen: Sequence[Seen]) -> list[Seen]:
    """Return the pictures whose nuclei are mostly lymphocytes, and none malignant."""
    chosen = []
    for picture in seen:
        _, lymphocyte, normal, malignant = picture.confusion.sum(1)
        if not malignant and lymphocyte > _LYMPHOID_SHARE * (lymphocyte + normal):
            chosen.append(picture)
    return chosen


def all_figures(
    network: GuidedRegressionNetwork, data: Path, split: dict[str, int], device: torch.device
) -> Rows:
    """Return every figure that the sets in a folder allow, in the table's order."""
    rows: Rows = {}

    def add(name: str, what: Callable[[], Rows]) -> None:
        if not (data / name).exists():
            log.warning("%s is missing: its figures are left out", data / name)
            return
        rows.update(told := what())
        for figure, value in told.items():
            log.info("%s %s", figure, value)

    def brca() -> Rows:
        source = BrcaM2cData(kind="brca-m2c", root=data / "brca-m2c", **split)
        counted = detection.judge(
            network.segmentation, source, device, centres=network.architecture.centres
        )
        told = {f"brca_{name}": value for name, value in detection.figures(counted).items()}
        seen = see(network, source.cellularity("validation"), device)
        return told | scores_against_truth("brca", seen)

    def bcss() -> Rows:
        regions = [
            r
            for r in find_regions(data / "bcss")
            if fold_of(tcga_patient(r.name), split["folds"]) == split["fold"]
        ]
        if not regions:
            return {}
        seen = see(network, tumour_windows(regions), device)
        truth, groups = np.array([s.truth for s in seen]), np.array([s.group for s in seen])
        rows = {}
        for kind in ("score", "ratio"):
            values = np.array([getattr(s, kind) for s in seen])
            rows[f"bcss_{kind}_spearman"] = agreement(truth, values, groups)["spearman"]
        return rows

    def camelyon() -> Rows:
        source = Camelyon16Data(kind="camelyon16", root=data / "camelyon16", **split)
        return mean_score("camelyon_normal", see(network, source.cellularity("validation"), device))

    def consep() -> Rows:
        source = ConsepData(kind="consep", root=data / "consep", fold=0, folds=2)
        pictures = [*source.nuclei("train"), *source.nuclei("validation")]
        seen = see(network, pictures, device)
        few = lymphoid(seen)
        log.info("%d of %d fields of CoNSeP are lymphoid", len(few), len(seen))
        return segmentation("consep", seen) | (mean_score("consep_lymphoid", few) if few else {})

    def patch() -> Rows:
        path = data / "breastpathq" / "99788_1.tif"
        picture = Picture(path.name, "99788", of_score(tifffile.imread(path)), (0.97,))
        [seen] = see(network, [picture], device)
        return {"breastpathq_99788_1_score": Estimate(seen.score, np.nan, np.nan)}

    add("brca-m2c", brca)
    add("bcss", bcss)
    add("camelyon16", camelyon)
    skin = "slides/cmu-1-small-region.svs"
    add(skin, lambda: mean_score("skin", see(network, slide_windows(data / skin), device)))
    add("consep", consep)
    generated = GeneratedData(train=1, validation=128).nuclei("validation")
    add(".", lambda: scores_against_truth("generated", see(network, generated, device)))
    add("breastpathq/99788_1.tif", patch)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge a bundle for breast tissue by every set that there is."""
    parser = argparse.ArgumentParser(
        prog="python -m training.breast_figures", description=main.__doc__
    )
    parser.add_argument("--bundle", required=True, help="folder, or hf://owner/name")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sets")
    parser.add_argument("--fold", type=int, default=0, help="the one that training held back")
    parser.add_argument("--folds", type=int, default=4, help="how many there are")
    parser.add_argument("--out", type=Path, help="JSON file to write the figures to")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        bundle = ModelBundle.load(chosen.bundle)
        network = bundle.network()
        if not isinstance(network, GuidedRegressionNetwork):
            raise ConfigError(f"{chosen.bundle} segments nothing; its nuclei cannot be judged.")
        device = choose_device("auto")
        network.to(device)
        split = {"fold": chosen.fold, "folds": chosen.folds}
        told = evaluate(network, lambda: all_figures(network, chosen.data, split, device))
    except WsiError as error:
        raise SystemExit(str(error)) from error
    if chosen.out:
        content: dict[str, Any] = {
            "model": f"{bundle.card.name} {bundle.card.version}",
            "bundle_digest": bundle.digest,
            **split,
            "metrics": {name: figure.record() for name, figure in told.items()},
        }
        with atomic_path(chosen.out) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

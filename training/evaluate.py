"""How good a bundle is on labelled pictures, and whether it is better than another.

``python -m training.evaluate --bundle runs/reg-demo/bundle --config configs/reg-demo.yaml
--out runs/reg-demo/evaluation``

The bundle runs as it will on slides: loaded from its files, in the pipeline's engine, at the
precision that this machine's scores have.
"""

import argparse
import csv
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from training.agreement import Estimate, agreement, compare
from training.augment import Shrink, shrunk
from training.data import under
from training.data.breastpathq import ChallengePart
from training.data.picture import PICTURE_MPP, Picture, Pictures, unpack
from training.plots import calibration_plot, scatter_plot
from training.reg import RegConfig, judged_pictures
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.engine.torch_engine import TorchEngine
from wsi_pipeline.errors import ConfigError, WsiError
from wsi_pipeline.files import atomic_path
from wsi_pipeline.model.architecture import REGRESSION_STRIDE
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.validation import load_yaml

log = logging.getLogger(__name__)

METRICS_NAME = "metrics.json"
PREDICTIONS_NAME = "predictions.csv"
SCATTER_NAME = "scatter.png"
CALIBRATION_NAME = "calibration.png"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a bundle says of a set of pictures, beside their truth."""

    model: str
    """Name and version."""
    digest: str
    """The bundle's identity."""
    precision: str
    names: tuple[str, ...]
    groups: tuple[str, ...]
    """Patient, slide or source image of each picture."""
    truth: NDArray[np.float64] = field(repr=False)
    """Cellularity by each rater or derived, [N, raters]."""
    prediction: NDArray[np.float32] = field(repr=False)
    """Cellularity by the model, [N]."""

    @cached_property
    def figures(self) -> dict[str, Estimate]:
        """How well the two agree, by the names of ``training.agreement.MEASURES``."""
        return agreement(self.truth, self.prediction, self.groups)


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate is better than the model in use, and by what figures."""

    better: bool
    reason: str
    difference: dict[str, Estimate]
    """The candidate's L1 and PK minus those of the model in use."""


def evaluate_bundle(
    bundle: ModelBundle, pictures: Pictures, config: EngineConfig | None = None
) -> Evaluation:
    """Score pictures as the pipeline would.

    Args:
        bundle: the model.
        pictures: what to score, each whole; sides of any size that the network takes.
        config: how to run the model; by default as the pipeline does.

    Raises:
        BundleError: If the bundle cannot be run, or its scores are no numbers.
        ConfigError: If there are no pictures, the network takes none of that size, pictures cannot
            be shrunk to the model's pixels, or they have different numbers of raters.

    """
    if not pictures:
        raise ConfigError("There are no pictures to evaluate a bundle on; check the data folder.")
    shrink = _shrink_to(bundle)
    engine = TorchEngine(bundle, config or EngineConfig())
    names: list[str] = []
    groups: list[str] = []
    truth: list[tuple[float, ...]] = []
    scores: list[NDArray[np.float32]] = []
    sizes: set[tuple[int, ...]] = set()
    for batch in _batches(pictures, engine.batch_size):
        _require_sides(batch[0], shrink)
        pixels = np.stack([shrunk(picture.sample, shrink)[..., :3] for picture in batch])
        scores.append(engine.predict(pixels).cellularity)
        sizes.add(batch[0].sample.shape[:2])
        names += [picture.name for picture in batch]
        groups += [picture.group for picture in batch]
        truth += [_truth(picture) for picture in batch]
    tile = bundle.card.tile_px * shrink
    if sizes != {(tile, tile)}:
        log.warning("the pictures are not of the %d px that %s is for", tile, bundle.source)
    prediction = np.concatenate(scores)
    for name, scored in zip(names, truth, strict=True):
        if len(scored) != len(truth[0]):
            raise ConfigError(
                f"{name} has {len(scored)} scores and {names[0]} has {len(truth[0])}; evaluate "
                "sets with different numbers of raters one by one."
            )
    return Evaluation(
        model=f"{bundle.card.name} {bundle.card.version}",
        digest=bundle.digest,
        precision=engine.execution.precision,
        names=tuple(names),
        groups=tuple(groups),
        truth=np.array(truth, dtype=np.float64),
        prediction=prediction,
    )


def is_better(candidate: Evaluation, in_use: Evaluation) -> Verdict:
    """Judge whether a bundle should replace the one in use, by the same pictures.

    It should if its L1 is lower beyond chance and its PK is not lower beyond chance: if the 95 %
    interval of the difference in L1 (paired bootstrap over groups) lies below 0, and that of the
    difference in PK does not. Absolute values are what a slide's cellularity is made of, so L1
    decides; a model that comes closer by ranking patches worse is no gain. Where chance cannot be
    told, with a single group or where all truths are equal, nothing is replaced.

    Raises:
        ConfigError: If the two were not evaluated on the same pictures.

    """
    same = candidate.names == in_use.names and candidate.groups == in_use.groups
    if not same or not np.array_equal(candidate.truth, in_use.truth):
        raise ConfigError(
            f"{candidate.model} and {in_use.model} were evaluated on other pictures; "
            "evaluate both on the same set."
        )
    difference = compare(candidate.truth, candidate.prediction, in_use.prediction, candidate.groups)
    l1, pk = difference["l1"], difference["pk"]
    known = not np.isnan([l1.high, pk.high]).any()
    better = known and l1.high < 0 <= pk.high
    if not known:
        cause = "chance cannot be told on so few groups or with equal truths"
    elif l1.value >= 0:
        cause = "its L1 is not lower"
    elif l1.high >= 0:
        cause = "its L1 is lower, but not beyond chance"
    elif not better:
        cause = "its L1 is lower, but so is its PK"
    else:
        cause = "its L1 is lower, and its PK is not"
    reason = f"{cause}: difference in L1 {l1}, in PK {pk}"
    return Verdict(better, reason, difference)


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write figures, every prediction and both plots to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "model": evaluation.model,
        "bundle_digest": evaluation.digest,
        "precision": evaluation.precision,
        "patches": len(evaluation.names),
        "groups": len(set(evaluation.groups)),
        "raters": evaluation.truth.shape[1],
        "metrics": {name: figure.record() for name, figure in evaluation.figures.items()},
    }
    with atomic_path(folder / METRICS_NAME) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    with (
        atomic_path(folder / PREDICTIONS_NAME) as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        raters = range(1, evaluation.truth.shape[1] + 1)
        writer.writerow(["name", "group", *(f"truth_{rater}" for rater in raters), "prediction"])
        rows = zip(
            evaluation.names,
            evaluation.groups,
            evaluation.truth,
            evaluation.prediction,
            strict=True,
        )
        writer.writerows((name, group, *truth, score) for name, group, truth, score in rows)
    scatter_plot(evaluation.truth, evaluation.prediction, folder / SCATTER_NAME)
    calibration_plot(
        evaluation.truth,
        evaluation.prediction,
        folder / CALIBRATION_NAME,
        groups=evaluation.groups,
    )


def _batches(pictures: Pictures, size: int) -> Iterator[list[Picture]]:
    """Yield pictures that follow each other and are of one size, ``size`` of them at most."""
    batch: list[Picture] = []
    for picture in track(pictures, "scoring"):
        if batch and (len(batch) == size or picture.sample.shape != batch[0].sample.shape):
            yield batch
            batch = []
        batch.append(picture)
    yield batch


def _truth(picture: Picture) -> tuple[float, ...]:
    return picture.scores or (unpack(picture.sample).cellularity,)


def _shrink_to(bundle: ModelBundle) -> Shrink:
    choice: tuple[Shrink, ...] = get_args(Shrink)
    for shrink in choice:
        if bundle.card.mpp == PICTURE_MPP * shrink:
            return shrink
    sizes = ", ".join(f"{PICTURE_MPP * shrink:g}" for shrink in choice)
    raise ConfigError(
        f"{bundle.source} is for {bundle.card.mpp} µm/px, and labelled pictures can be had at "
        f"{sizes} µm/px; evaluate a bundle for one of these."
    )


def _require_sides(picture: Picture, shrink: Shrink) -> None:
    height, width = picture.sample.shape[:2]
    multiple = REGRESSION_STRIDE * shrink
    if height % multiple or width % multiple:
        raise ConfigError(
            f"{picture.name} is {width}×{height} px, and the network takes sides that are "
            f"multiples of {multiple}. If its cellularity is derived, set `window` in the "
            "configuration to such a size; if it was judged, resize the picture beforehand."
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure how well a bundle's scores agree with the truth."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=main.__doc__)
    parser.add_argument("--bundle", required=True, help="folder, or hf://owner/name")
    parser.add_argument(
        "--config", type=Path, required=True, help="YAML file of stage 2, for its data and window"
    )
    parser.add_argument(
        "--data", type=Path, default=Path(), help="folder that the data's root is relative to"
    )
    parser.add_argument("--part", choices=get_args(ChallengePart), default="validation")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        config = load_yaml(chosen.config, RegConfig)
        config = config.model_copy(update={"data": under(config.data, chosen.data)})
        pictures = judged_pictures(config, chosen.part)
        evaluation = evaluate_bundle(ModelBundle.load(chosen.bundle), pictures)
        write_evaluation(evaluation, chosen.out)
    except WsiError as error:
        raise SystemExit(str(error)) from error
    for name, figure in evaluation.figures.items():
        log.info("%s %s", name, figure)


if __name__ == "__main__":
    main()

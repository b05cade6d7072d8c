"""The runs behind the tables: each in its own folder, trained if it has no result yet."""

import json
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from training.augment import AugmentConfig
from training.data import Data, folds_of
from training.data.generated import Part
from training.data.picture import Pictures, of_nuclei, unpack
from training.data.views import validation_batches
from training.evaluate import evaluate_bundle
from training.fit import choose_device, evaluate
from training.reg import RegConfig, judged_pictures, train_regression
from training.run import CHECKPOINT_NAME, open_run, trained_weights
from training.seg import SegConfig, SegStage, confusion_over, mean_of_flips, train_segmentation
from training.tables.config import AREA_RATIO, GUIDED, GUIDED_IMAGENET, TablesConfig
from wsi_pipeline.files import atomic_path

RESULT_NAME = "result.json"

Confusion = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class SegmentationResult:
    """A run of stage 1: its pixels counted by true and predicted class."""

    gamma: float
    seed: int
    fold: int
    validation: Confusion
    training: Confusion


@dataclass(frozen=True)
class RegressionResult:
    """A run of stage 2: true and predicted cellularity of each validation patch, [N]."""

    network: str
    seed: int
    fold: int
    truth: Scores
    prediction: Scores
    megapixels: float = 0.0
    """What the network was shown to learn from, in stage 1 and 2 together."""


def run_segmentation(config: TablesConfig, data: Data, folder: Path) -> list[SegmentationResult]:
    """Train stage 1 with each gamma and seed on each fold of a set, and count its pixels."""
    results = []
    for (fold, part), gamma, seed in product(
        enumerate(folds_of(data)), config.gammas, config.seg_seeds
    ):
        run = _segmentation_folder(folder, fold, gamma, seed)
        recipe = _segmentation_recipe(config, part, gamma, seed)
        results.append(SegmentationResult(gamma, seed, fold, *_segment(recipe, run)))
    return results


def run_area_ratio(config: TablesConfig, data: Data, folder: Path) -> list[RegressionResult]:
    """Score the patches of stage 2 by the nuclei that the guides find, with nothing learnt more."""
    results = []
    for (fold, part), seed in product(_regression_folds(config, data), config.seg_seeds):
        guide = _segmentation_folder(folder, fold, config.gamma_of_guide, seed)
        recipe = _segmentation_recipe(config, part, config.gamma_of_guide, seed)
        judged = config.reg.model_copy(update={"data": part})
        run = folder / f"fold{fold}" / f"area-ratio-seed{seed}"
        scored = _derive(recipe, guide, judged, run)
        shown = megapixels(recipe)
        results.append(RegressionResult(AREA_RATIO, seed, fold, *scored, shown))
    return results


def run_regression(config: TablesConfig, data: Data, folder: Path) -> list[RegressionResult]:
    """Train stage 2 with each network and seed on the folds it takes, and score their patches.

    Every network is shown as much: the guided one in stage 1 and 2 together, the others in stage 2
    alone, which goes on for that much longer.
    """
    results = []
    for (fold, part), name, seed in product(
        _regression_folds(config, data), config.rows, config.reg_seeds
    ):
        run = folder / f"fold{fold}" / f"reg-{name.lower().replace(' ', '-')}-seed{seed}"
        recipe = _regression_recipe(config, part, name, seed)
        shown = megapixels(recipe)
        guide = None
        if name == GUIDED:
            gamma, seg_seed = config.gamma_of_guide, config.seg_seeds[0]
            guide = _segmentation_folder(folder, fold, gamma, seg_seed)
            shown += megapixels(_segmentation_recipe(config, part, gamma, seg_seed))
        elif name == GUIDED_IMAGENET:
            guide = folder / f"fold{fold}" / "seg-imagenet"
            _keep_untaught_guide(
                _segmentation_recipe(config, part, config.gamma_of_guide, 0), guide
            )
        scored = _regress(recipe, run, guide)
        results.append(RegressionResult(name, seed, fold, *scored, shown))
    return results


def megapixels(recipe: SegConfig | RegConfig) -> float:
    """Return how many megapixels a stage is shown to learn from."""
    pictures = _pictures_of(recipe)
    views = -(-len(pictures) // recipe.fit.batch) * recipe.fit.batch  # of an epoch, see EpochOrder
    return recipe.fit.epochs * views * _pixels_of_view(pictures, recipe.augment) / 1e6


def _pictures_of(recipe: SegConfig | RegConfig) -> Pictures:
    if isinstance(recipe, SegConfig):
        return recipe.data.nuclei("train")
    return recipe.data.cellularity("train")


def _pixels_of_view(pictures: Pictures, augment: AugmentConfig) -> int:
    if augment.crop is not None:
        return augment.crop**2
    height, width = pictures[0].sample.shape[:2]
    return int(height * width)


def _regression_folds(config: TablesConfig, data: Data) -> list[tuple[int, Data]]:
    return list(enumerate(folds_of(data)[: config.reg_folds]))


def _segmentation_folder(folder: Path, fold: int, gamma: float, seed: int) -> Path:
    return folder / f"fold{fold}" / f"seg-gamma{gamma:g}-seed{seed}"


def _segmentation_recipe(config: TablesConfig, part: Data, gamma: float, seed: int) -> SegConfig:
    fit = config.seg.fit.model_copy(update={"seed": seed})
    return config.seg.model_copy(update={"data": part, "gamma": gamma, "fit": fit})


def _regression_recipe(config: TablesConfig, part: Data, name: str, seed: int) -> RegConfig:
    """Return what a network of Table 6 is trained by: as much as the guided one and its guide."""
    row = config.rows[name]
    changes: dict[str, Any] = {
        "data": part,
        "architecture": row.architecture,
        "imagenet": row.imagenet,
        "fit": config.reg.fit.model_copy(update={"seed": seed}),
    }
    recipe = config.reg.model_copy(update=changes)
    if name == GUIDED:
        return recipe
    longer = 1 + megapixels(
        _segmentation_recipe(config, part, config.gamma_of_guide, seed)
    ) / megapixels(recipe)
    fit = recipe.fit
    longer_fit = {
        "epochs": round(longer * fit.epochs),
        "decay_every": None if fit.decay_every is None else round(longer * fit.decay_every),
    }
    more: dict[str, Any] = {"fit": fit.model_copy(update=longer_fit)}
    if name == GUIDED_IMAGENET and recipe.guide_rate == 0:
        more["guide_rate"] = 1.0  # a frozen guide whose decoder nobody taught would guide nowhere
    return recipe.model_copy(update=more)


def _segment(config: SegConfig, run: Path) -> tuple[Confusion, Confusion]:
    """Return the confusion of the validation and of the training set, training if need be."""
    open_run(run, config)
    result = run / RESULT_NAME
    if not result.exists():
        network = train_segmentation(config, run)
        device = choose_device(config.fit.device)
        counted: dict[str, Confusion] = {}
        for part in get_args(Part):
            batches = validation_batches(config.data.nuclei(part), config.shrink)
            count = partial(confusion_over, network, batches, device, flips=config.flips_at_test)
            counted[part] = evaluate(network, count)
        _save(result, {part: confusion.tolist() for part, confusion in counted.items()})
    saved = json.loads(result.read_text(encoding="utf-8"))
    return np.array(saved["validation"]), np.array(saved["train"])


def _derive(config: SegConfig, guide: Path, judged: RegConfig, run: Path) -> tuple[Scores, Scores]:
    """Return true and derived cellularity of the validation patches."""
    open_run(run, judged)
    result = run / RESULT_NAME
    if not result.exists():
        stage = SegStage(config.model_copy(update={"imagenet": None}))
        stage.network.load_state_dict(trained_weights(guide))
        device = choose_device(config.fit.device)
        stage.network.to(device)
        pictures = judged_pictures(judged)
        derive = partial(_derived, stage.network, config, pictures, device)
        truth = [picture.cellularity for picture in pictures]
        _save(result, {"truth": truth, "prediction": evaluate(stage.network, derive)})
    return _scores(result)


def _derived(
    network: torch.nn.Module, config: SegConfig, pictures: Pictures, device: torch.device
) -> list[float]:
    """Derive cellularity from the nuclei that a network finds, picture by picture."""
    derived = []
    batches = validation_batches(pictures, config.shrink)  # one by one, padded
    for picture, (pixels, _, _) in zip(pictures, batches, strict=True):
        given = pixels.to(device)
        logits = mean_of_flips(network, given) if config.flips_at_test else network(given)
        classes = logits[0].argmax(0).cpu().numpy().astype(np.uint8)
        rgb = picture.sample[..., :3]
        mask = classes.repeat(config.shrink, 0).repeat(config.shrink, 1)
        nuclei = np.ascontiguousarray(mask[: rgb.shape[0], : rgb.shape[1]])
        derived.append(unpack(of_nuclei(rgb, nuclei)).cellularity)
    return derived


def _regress(config: RegConfig, run: Path, guide: Path | None) -> tuple[Scores, Scores]:
    """Return true and predicted cellularity of the validation patches, training if need be."""
    open_run(run, config)
    result = run / RESULT_NAME
    if not result.exists():
        bundle = train_regression(config, run, guide)
        evaluation = evaluate_bundle(bundle, judged_pictures(config))
        truth = evaluation.truth.mean(axis=1)
        _save(result, {"truth": truth.tolist(), "prediction": evaluation.prediction.tolist()})
    return _scores(result)


def _keep_untaught_guide(config: SegConfig, run: Path) -> None:
    """Write the run of a stage 1 that has its ImageNet weights and was taught no step."""
    open_run(run, config)
    if not (run / CHECKPOINT_NAME).exists():
        torch.manual_seed(config.fit.seed)
        network = SegStage(config).network
        with atomic_path(run / CHECKPOINT_NAME) as partial_path:
            torch.save({"epoch": 0, "epochs": 0, "network": network.state_dict()}, partial_path)


def _scores(result: Path) -> tuple[Scores, Scores]:
    saved = json.loads(result.read_text(encoding="utf-8"))
    return np.array(saved["truth"]), np.array(saved["prediction"])


def _save(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as partial_path:
        partial_path.write_text(json.dumps(content) + "\n", encoding="utf-8")

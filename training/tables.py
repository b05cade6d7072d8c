"""Tables 1 to 6 of the paper for any data, the paper's own figures beside them.

``python -m training.tables --config configs/tables.yaml --data ROOT --out tables``

Trains what the tables need, each run in its own folder, and goes on where it was interrupted: a
run that has its result is not trained again. Every figure is measured over whole sets: the pixels
of all folds are counted in one matrix, the patches of all folds are ranked together. Over several
seeds a figure is given as mean ± standard deviation.
"""

import argparse
import csv
import json
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from training import paper
from training.data import Data, folds_of, under
from training.data.generated import Part
from training.data.views import validation_batches
from training.evaluate import evaluate_bundle
from training.fit import choose_device, evaluate
from training.metrics import (
    mean_absolute_error,
    mean_iou,
    pixel_accuracy,
    prediction_probability,
)
from training.reg import RegConfig, judged_pictures, train_regression
from training.run import open_run, run_folder
from training.seg import SegConfig, confusion_over, train_segmentation
from wsi_pipeline.errors import WsiError
from wsi_pipeline.files import atomic_path
from wsi_pipeline.model.architecture import CLASSES, Architecture
from wsi_pipeline.model.network import build_network
from wsi_pipeline.validation import load_yaml

log = logging.getLogger(__name__)

GUIDED = "Guided"
"""The name of the paper's own network in Table 6."""

PAPER_NOTE = "*In italics: the paper's figures, measured on other data (BreastPathQ).*"

RESULT_NAME = "result.json"

Confusion = NDArray[np.int64]
Scores = NDArray[np.float64]


class TablesConfig(BaseModel):
    """What is trained for the tables: two recipes, and what varies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sets: dict[str, Data] = Field(min_length=1, description="data by the name it has in the tables")
    seg: SegConfig = SegConfig()
    reg: RegConfig
    gammas: tuple[float, ...] = Field(default=(1.0, 2.0, 5.0), min_length=1)
    gamma_of_guide: float = Field(default=1.0, description="which stage 1 guides stage 2")
    networks: dict[str, Architecture] = Field(
        description="Table 6: networks by the name they have there; what is not named is not run"
    )
    seg_seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    reg_seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    reg_folds: int | None = Field(
        default=None, gt=0, description="how many of a set's folds stage 2 takes; null is all"
    )

    @field_validator("networks")
    @classmethod
    def _known(cls, networks: dict[str, Architecture]) -> dict[str, Architecture]:
        """See that the guided network has its name, by which it is put beside the paper's."""
        for name, architecture in networks.items():
            if (name == GUIDED) != (architecture.segmentation_backbone is not None):
                raise ValueError(f"{name}: the guided network, and it alone, is called {GUIDED}")
        return networks


@dataclass(frozen=True)
class Table:
    """A table of text, as it is read."""

    name: str
    """What its file is called."""
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    @property
    def markdown(self) -> str:
        """The table in Markdown, under its title."""
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return f"### {self.title}\n\n{table}\n" + (f"\n{self.note}\n" if self.note else "")


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


# ------------------------------------------------------------------------------------------- runs


def run_segmentation(config: TablesConfig, data: Data, folder: Path) -> list[SegmentationResult]:
    """Train stage 1 with each gamma and seed on each fold of a set, and count its pixels."""
    results = []
    for (fold, part), gamma, seed in product(
        enumerate(folds_of(data)), config.gammas, config.seg_seeds
    ):
        run = _segmentation_folder(folder, fold, gamma, seed)
        fit = config.seg.fit.model_copy(update={"seed": seed})
        recipe = config.seg.model_copy(update={"data": part, "gamma": gamma, "fit": fit})
        results.append(SegmentationResult(gamma, seed, fold, *_segment(recipe, run)))
    return results


def run_regression(config: TablesConfig, data: Data, folder: Path) -> list[RegressionResult]:
    """Train stage 2 with each network and seed on the folds it takes, and score their patches."""
    results = []
    for (fold, part), (name, architecture), seed in product(
        enumerate(folds_of(data)[: config.reg_folds]), config.networks.items(), config.reg_seeds
    ):
        run = folder / f"fold{fold}" / f"reg-{name.lower()}-seed{seed}"
        guide = _segmentation_folder(folder, fold, config.gamma_of_guide, config.seg_seeds[0])
        fit = config.reg.fit.model_copy(update={"seed": seed})
        recipe = config.reg.model_copy(
            update={"data": part, "architecture": architecture, "fit": fit}
        )
        scored = _regress(recipe, run, guide if name == GUIDED else None)
        results.append(RegressionResult(name, seed, fold, *scored))
    return results


def _segmentation_folder(folder: Path, fold: int, gamma: float, seed: int) -> Path:
    return folder / f"fold{fold}" / f"seg-gamma{gamma:g}-seed{seed}"


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


def _regress(config: RegConfig, run: Path, guide: Path | None) -> tuple[Scores, Scores]:
    """Return true and predicted cellularity of the validation patches, training if need be."""
    open_run(run, config)
    result = run / RESULT_NAME
    if not result.exists():
        bundle = train_regression(config, run, guide)
        evaluation = evaluate_bundle(bundle, judged_pictures(config))
        truth = evaluation.truth.mean(axis=1)
        _save(result, {"truth": truth.tolist(), "prediction": evaluation.prediction.tolist()})
    saved = json.loads(result.read_text(encoding="utf-8"))
    return np.array(saved["truth"]), np.array(saved["prediction"])


def _save(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(content) + "\n", encoding="utf-8")


# ----------------------------------------------------------------------------------------- tables


def segmentation_table(
    name: str,
    results: Sequence[SegmentationResult],
    part: Literal["validation", "training"],
) -> Table:
    """Make Table 1 (validation) or 2 (training) of a set: mean IoU and accuracies by gamma."""
    rows = []
    for gamma in sorted({result.gamma for result in results}):
        of_gamma = [result for result in results if result.gamma == gamma]
        figures = [
            [mean_iou(confusion), *pixel_accuracy(confusion)]
            for confusion in _pooled(of_gamma, part).values()
        ]
        by_fold = [mean_iou(getattr(result, part)) for result in of_gamma]
        rows.append((f"{gamma:g}", *_spread(figures), f"{min(by_fold):.3f}–{max(by_fold):.3f}"))
    theirs = paper.TABLE_1_VALIDATION if part == "validation" else paper.TABLE_2_TRAINING
    for row in theirs:
        accuracies = (row.background, row.lymphocyte, row.normal, row.malignant)
        cited = [f"*{figure:.3f}*" for figure in (row.mean_iou, *accuracies)]
        rows.append((f"*{row.gamma:g}, paper*", *cited, ""))
    header = ("γ", "mean IoU", *(f"{c} PA" for c in CLASSES), "mean IoU of single runs")
    number = 1 if part == "validation" else 2
    title = f"Table {number}. Segmentation of the {part} set: {name}"
    return Table(f"table{number}-{_slug(name)}", title, header, tuple(rows), PAPER_NOTE)


def confusion_table(name: str, results: Sequence[SegmentationResult], gamma: float) -> Table:
    """Make Table 3, 4 or 5 of a set: validation pixels by true and predicted class, in a gamma."""
    of_gamma = [result for result in results if result.gamma == gamma]
    seed, confusion = next(iter(_pooled(of_gamma, "validation").items()))
    theirs = paper.TABLES_3_TO_5_CONFUSION.get(int(gamma))
    rows = []
    for i, true_class in enumerate(CLASSES):
        cells = [f"{count} ({count / max(1, confusion[i].sum()):.1%})" for count in confusion[i]]
        if theirs is not None:
            cells += [f"*{count} ({count / sum(theirs[i]):.1%})*" for count in theirs[i]]
        rows.append((true_class, *cells))
    header = ("truth", *(f"as {c}" for c in CLASSES))
    if theirs is not None:
        header += tuple(f"*paper: as {c}*" for c in CLASSES)
    number = {1: 3, 2: 4, 5: 5}.get(int(gamma), gamma)
    title = f"Table {number}. Confusion of the validation set, γ = {gamma:g}, seed {seed}: {name}"
    return Table(f"table{number}-{_slug(name)}", title, header, tuple(rows), PAPER_NOTE)


def regression_table(name: str, results: Sequence[RegressionResult]) -> Table:
    """Make Table 6 of a set: PK and L1 of each network."""
    rows = []
    by_name = {row.model: row for row in paper.TABLE_6_REGRESSION}
    for model in dict.fromkeys([*by_name, *(result.network for result in results)]):
        theirs = by_name.get(model)
        cited = (f"*{theirs.pk:.3f}*", f"*{theirs.l1:.3f}*") if theirs else ("", "")
        figures = list(_figures([r for r in results if r.network == model]).values())
        ours = _spread(figures) if figures else ("not run", "")
        rows.append((model, *ours, str(len(figures) or ""), *cited))
    truth = np.concatenate([r.truth for r in _first_runs(results)])
    constant = mean_absolute_error(truth, np.full_like(truth, np.median(truth)))
    rows.append(("the median for every patch", "0.500", f"{constant:.3f}", "", "", ""))
    header = ("model", "PK", "L1", "seeds", "*PK, paper*", "*L1, paper*")
    title = f"Table 6. Regression of the validation set: {name} ({len(truth)} patches)"
    return Table(f"table6-{_slug(name)}", title, header, tuple(rows), PAPER_NOTE)


def guidance_table(name: str, results: Sequence[RegressionResult]) -> Table | None:
    """Tell what guidance changes: the guided network less each plain one, seed by seed."""
    guided = _figures([r for r in results if r.network == GUIDED])
    rows = []
    for model in dict.fromkeys(r.network for r in results if r.network != GUIDED):
        plain = _figures([r for r in results if r.network == model])
        seeds = sorted(guided.keys() & plain.keys())
        changes = [np.subtract(guided[seed], plain[seed]) for seed in seeds]
        if changes:
            wins = sum(pk > 0 for pk, _ in changes), sum(l1 < 0 for _, l1 in changes)
            won = f"{wins[0]} and {wins[1]} of {len(seeds)}"
            rows.append((model, *_spread(changes, sign="+"), won))
    if not rows:
        return None
    header = ("guided less", "ΔPK", "ΔL1", "seeds with a better PK and L1")
    title = f"What guidance changes, paired by seed: {name}"
    return Table(f"guidance-{_slug(name)}", title, header, tuple(rows))


def histogram_table(results: dict[str, Sequence[RegressionResult]]) -> Table:
    """Show how the sets' cellularity is distributed, beside the challenge's training labels."""
    tenths = np.linspace(0, 1, 11)
    rows = []
    for name, of_set in results.items():
        truth = np.concatenate([r.truth for r in _first_runs(of_set)])
        counts, _ = np.histogram(truth, tenths)
        rows.append((name, f"{truth.mean():.2f}", *(f"{n / len(truth):.0%}" for n in counts)))
    theirs = paper.CHALLENGE_CELLULARITY
    shares = (f"*{share:.0%}*" for share in theirs)
    rows.append(("*challenge, train_labels.csv*", f"*{paper.CHALLENGE_MEAN:.2f}*", *shares))
    header = (
        "validation patches of",
        "mean",
        *(f"{low:.1f}–{low + 0.1:.1f}" for low in tenths[:-1]),
    )
    title = "Distribution of cellularity, share of patches by tenths"
    return Table("cellularity", title, header, tuple(rows))


def _pooled(
    results: Iterable[SegmentationResult], part: Literal["validation", "training"]
) -> dict[int, Confusion]:
    """Count the pixels of all folds together, by seed."""
    pooled: dict[int, Confusion] = {}
    for result in results:
        pooled[result.seed] = pooled.get(result.seed, 0) + getattr(result, part)
    return pooled


def _figures(results: Iterable[RegressionResult]) -> dict[int, tuple[float, float]]:
    """Return PK and L1 over the patches of all folds together, by seed."""
    by_seed: dict[int, list[RegressionResult]] = {}
    for result in results:
        by_seed.setdefault(result.seed, []).append(result)
    figures = {}
    for seed, runs in by_seed.items():
        truth = np.concatenate([run.truth for run in runs])
        prediction = np.concatenate([run.prediction for run in runs])
        pk = prediction_probability(truth, prediction)
        figures[seed] = (pk, mean_absolute_error(truth, prediction))
    return figures


def _first_runs(results: Sequence[RegressionResult]) -> list[RegressionResult]:
    """Return one run of each fold: all runs of a fold have the same patches."""
    return list({result.fold: result for result in results}.values())


def _spread(figures: Iterable[ArrayLike], sign: Literal["", "+"] = "") -> tuple[str, ...]:
    """Write each column as its mean and, over several rows, its standard deviation."""
    columns = np.array(list(figures), dtype=float).T
    if columns.shape[1] == 1:
        return tuple(f"{column[0]:{sign}.3f}" for column in columns)
    return tuple(f"{c.mean():{sign}.3f} ± {c.std(ddof=1):.3f}" for c in columns)


def _slug(name: str) -> str:
    return "-".join(re.findall(r"\w+", name.lower()))


# ---------------------------------------------------------------------------------------- command


def make_tables(config: TablesConfig, runs: Path, *, root: Path) -> list[Table]:
    """Train what is not trained yet, and make all tables.

    Args:
        config: what to train.
        runs: folder of the runs.
        root: folder that the sets' roots are relative to.

    """
    for architecture in config.networks.values():
        build_network(architecture)  # so that no typing error shows after days
    tables: list[Table] = []
    regressions: dict[str, Sequence[RegressionResult]] = {}
    for name, configured in config.sets.items():
        data = under(configured, root)
        folder = runs / _slug(name)
        segmentations = run_segmentation(config, data, folder)
        tables += [
            segmentation_table(name, segmentations, "validation"),
            segmentation_table(name, segmentations, "training"),
            *(confusion_table(name, segmentations, gamma) for gamma in config.gammas),
        ]
        regressions[name] = run_regression(config, data, folder)
        tables.append(regression_table(name, regressions[name]))
        if guidance := guidance_table(name, regressions[name]):
            tables.append(guidance)
    return [*tables, histogram_table(regressions)]


def write_tables(tables: Sequence[Table], out: Path) -> None:
    """Write all tables to ``tables.md`` and each to a CSV file of its name."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "tables.md") as partial:
        partial.write_text("\n".join(table.markdown for table in tables), encoding="utf-8")
    for table in tables:
        with (
            atomic_path(out / f"{table.name}.csv") as partial,
            partial.open("w", encoding="utf-8", newline="") as file,
        ):
            csv.writer(file, lineterminator="\n").writerows([table.header, *table.rows])


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what Tables 1 to 6 need, and write them as Markdown and CSV."""
    parser = argparse.ArgumentParser(prog="python -m training.tables", description=main.__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML file")
    parser.add_argument(
        "--data", type=Path, default=Path(), help="folder that the sets' roots are relative to"
    )
    parser.add_argument("--runs", type=Path, help="folder of the runs; runs/<name of the config>")
    parser.add_argument("--out", type=Path, default=Path("tables"), help="folder of the tables")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        config = load_yaml(chosen.config, TablesConfig)
        runs = run_folder(chosen.runs, chosen.config)
        write_tables(make_tables(config, runs, root=chosen.data), chosen.out)
    except WsiError as error:
        raise SystemExit(str(error)) from error
    log.info("tables: %s", chosen.out / "tables.md")


if __name__ == "__main__":
    main()

"""The paper's tables of what the runs found, and what the rows have to do with each other."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from training.metrics import (
    mean_absolute_error,
    mean_iou,
    pixel_accuracy,
    prediction_probability,
)
from training.tables import paper
from training.tables.config import AREA_RATIO, GUIDED, GUIDED_IMAGENET, PLAIN_IMAGENET
from training.tables.runs import Confusion, RegressionResult, SegmentationResult
from training.tables.table import Table
from wsi_pipeline.model.architecture import CLASSES

PAPER_NOTE = "*In italics: the paper's figures, measured on other data (BreastPathQ).*"

BUDGET_NOTE = (
    "Every regression is shown as many megapixels (Mpx), the guided one in stage 1 and 2 together. "
    f"{AREA_RATIO} is the cellularity derived from the nuclei of stage 1, with nothing learnt more."
)


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
    return Table(f"table{number}-{slug(name)}", title, header, tuple(rows), PAPER_NOTE)


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
    return Table(f"table{number}-{slug(name)}", title, header, tuple(rows), PAPER_NOTE)


def regression_table(name: str, results: Sequence[RegressionResult]) -> Table:
    """Make Table 6 of a set: PK and L1 of each network."""
    rows = []
    by_name = {row.model: row for row in paper.TABLE_6_REGRESSION}
    judges = (AREA_RATIO, PLAIN_IMAGENET, GUIDED_IMAGENET)
    for model in dict.fromkeys([*by_name, *judges, *(result.network for result in results)]):
        theirs = by_name.get(model)
        cited = (f"*{theirs.pk:.3f}*", f"*{theirs.l1:.3f}*") if theirs else ("", "")
        runs = [result for result in results if result.network == model]
        figures = list(_figures(runs).values())
        ours = _spread(figures) if figures else ("not run", "")
        shown = f"{np.mean([run.megapixels for run in runs]):.3g}" if runs else ""
        rows.append((model, *ours, str(len(figures) or ""), shown, *cited))
    truth = np.concatenate([r.truth for r in _first_runs(results)])
    constant = mean_absolute_error(truth, np.full_like(truth, np.median(truth)))
    rows.append(("the median for every patch", "0.500", f"{constant:.3f}", "", "", "", ""))
    header = ("model", "PK", "L1", "seeds", "Mpx", "*PK, paper*", "*L1, paper*")
    title = f"Table 6. Regression of the validation set: {name} ({len(truth)} patches)"
    note = f"{PAPER_NOTE} {BUDGET_NOTE}"
    return Table(f"table6-{slug(name)}", title, header, tuple(rows), note)


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
    return Table(f"guidance-{slug(name)}", title, header, tuple(rows))


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


def slug(name: str) -> str:
    """Return a name as a file is called by it."""
    return "-".join(re.findall(r"\w+", name.lower()))

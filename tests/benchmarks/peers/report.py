"""The tables."""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from tests.benchmarks.peers.measure import Cost
from tests.benchmarks.peers.task import L0Corner

NEAR_PX = 8
"""Corners this close are one tile: grids of other software round differently."""


@dataclass(frozen=True)
class Run:
    """One run, or why there is none.

    Attributes:
        name: who ran.
        setting: how.
        slide: which slide, by its name.
        own_tiles: whether on tiles of its own choice.
        cost: what it took.
        scores: by level-0 corner.
        model_s: what the model took of it.
        stages: seconds of each stage, where known.
        failure: why there is nothing.

    """

    name: str
    setting: str
    slide: str
    own_tiles: bool = False
    cost: Cost | None = None
    scores: Mapping[L0Corner, float] | None = None
    model_s: float | None = None
    stages: Mapping[str, float] | None = None
    failure: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return all of it, scores as rows."""
        rows = [[*corner, score] for corner, score in (self.scores or {}).items()]
        return {**asdict(self), "scores": rows}


def machine(cores: Sequence[int]) -> str:
    """Say what it was measured on."""
    model = platform.processor() or "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), model)
    memory = psutil.virtual_memory().total / (1 << 30)
    return (
        f"{model}, {len(cores)} of {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"Python {platform.python_version()}, our torch {torch.__version__}; "
        f"load before: {os.getloadavg()[0]:.1f}"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table, the first two columns to the left; short rows end in blanks."""
    rule = [":---", ":---", *["---:"] * (len(head) - 2)]
    whole = ([*cells, *[""] * (len(head) - len(cells))] for cells in (head, rule, *rows))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in whole)


def speed_table(runs: Sequence[Run], slides: Sequence[str], fastest: str) -> str:
    """Compare all on one list of tiles, at the largest size; the rest comes from both sizes."""
    head = [
        "", "setting", "tiles", "wall s", "s/tile", "× ours", "fixed s", "marginal s/tile",
        "× ours", "model s/tile", "CPU s/tile", "peak GiB", "written MB", "stored MB",
    ]  # fmt: skip
    by_name = {name: _of(runs, name) for name in dict.fromkeys(run.name for run in runs)}
    reference = by_name.get(fastest, [])
    our_tile = _per_tile(_at(reference, slides[-1]))
    our_margin = _line(reference, slides)[1]
    rows = []
    for name, own in by_name.items():
        run = _at(own, slides[-1])
        if run is None or run.cost is None or not run.scores:
            why = next((run.failure for run in own if run.failure), "did not run")
            rows.append([name, _short(why)])
            continue
        cost, count = run.cost, len(run.scores)
        fixed, margin = _line(own, slides)
        rows.append(
            [
                name,
                run.setting,
                str(count),
                f"{cost.wall_s:.1f}",
                _figure(_per_tile(run), 3),
                _ratio(_per_tile(run), our_tile),
                _figure(fixed, 1),
                _figure(margin, 3),
                _ratio(margin, our_margin),
                _figure(None if run.model_s is None else run.model_s / count, 3),
                f"{cost.cpu_s / count:.3f}",
                f"{cost.peak_gib:.2f}",
                f"{cost.written_mb:.1f}",
                f"{cost.stored_mb:.2f}",
            ]
        )
    return table(head, rows)


def own_tiles_table(runs: Sequence[Run], candidates: int) -> str:
    """Show what each takes and needs when it finds the tissue itself."""
    head = ["", "setting", "tiles", "of all", "wall s", "s/tile", "peak GiB"]
    rows = []
    for run in runs:
        if run.cost is None or not run.scores:
            rows.append([run.name, _short(run.failure)])
            continue
        count = len(run.scores)
        rows.append(
            [
                run.name,
                run.setting,
                str(count),
                f"{count / candidates:.0%}",
                f"{run.cost.wall_s:.1f}",
                _figure(_per_tile(run), 3),
                f"{run.cost.peak_gib:.2f}",
            ]
        )
    return table(head, rows)


def agreement_table(runs: Sequence[Run], reference: Run) -> str:
    """Compare everyone's scores with ours, tile by tile."""
    head = ["", "tiles in common", "correlation", "mean difference", "largest"]
    rows = []
    for run in runs:
        if run is reference or not run.scores or not reference.scores:
            continue
        pairs = np.array(common(run.scores, reference.scores))
        if len(pairs) < 2:
            rows.append([run.name, str(len(pairs))])
            continue
        difference = np.abs(pairs[:, 0] - pairs[:, 1])
        correlation = np.corrcoef(pairs.T)[0, 1]
        rows.append(
            [
                run.name,
                f"{len(pairs)} of {len(reference.scores)}",
                f"{correlation:.5f}",
                f"{difference.mean():.5f}",
                f"{difference.max():.5f}",
            ]
        )
    return table(head, rows)


def stages_table(runs: Sequence[Run]) -> str:
    """Show ours stage by stage."""
    staged = [run for run in runs if run.stages]
    names = list(dict.fromkeys(name for run in staged for name in run.stages or {}))
    head = ["", "slide", *(f"{name}, s" for name in names)]
    rows = [
        [run.name, run.slide, *(_figure((run.stages or {}).get(name), 2) for name in names)]
        for run in staged
    ]
    return table(head, rows)


def common(
    theirs: Mapping[L0Corner, float], ours: Mapping[L0Corner, float]
) -> list[tuple[float, float]]:
    """Pair the scores of tiles that lie in the same place."""
    cell = 2 * NEAR_PX
    found = {(x // cell, y // cell): (x, y) for x, y in theirs}
    pairs = []
    for x, y in ours:
        around = ((x // cell + i, y // cell + j) for i in (-1, 0, 1) for j in (-1, 0, 1))
        for corner in (found[near] for near in around if near in found):
            if max(abs(corner[0] - x), abs(corner[1] - y)) <= NEAR_PX:
                pairs.append((theirs[corner], ours[x, y]))
                break
    return pairs


def _of(runs: Sequence[Run], name: str) -> list[Run]:
    return [run for run in runs if run.name == name]


def _at(runs: Sequence[Run], slide: str) -> Run | None:
    return next((run for run in runs if run.slide == slide), None)


def _per_tile(run: Run | None) -> float | None:
    if run is None or run.cost is None or not run.scores:
        return None
    return run.cost.wall_s / len(run.scores)


def _line(runs: Sequence[Run], slides: Sequence[str]) -> tuple[float | None, float | None]:
    """Return what a run costs before its first tile, and what each tile costs, from two sizes."""
    small, large = _at(runs, slides[0]), _at(runs, slides[-1])
    if small is None or large is None or small.cost is None or large.cost is None:
        return None, None
    tiles = len(large.scores or ()) - len(small.scores or ())
    if tiles <= 0:
        return None, None
    margin = (large.cost.wall_s - small.cost.wall_s) / tiles
    return small.cost.wall_s - margin * len(small.scores or ()), margin


def _ratio(theirs: float | None, ours: float | None) -> str:
    return f"{theirs / ours:.2f}" if theirs and ours else ""


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _short(text: str) -> str:
    return f"failed: {text[-300:]}".replace("|", "/")

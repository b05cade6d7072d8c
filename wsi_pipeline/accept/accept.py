"""`wsi accept`: a laboratory's own slides, scored and read, and what follows for its intervals."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from wsi_pipeline.accept.agreement import Agreement, agreement
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.score_error import LEVEL, ScoreError, Widened, conformal_quantile, scale
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.scoring.folder import read_summary
from wsi_pipeline.validation import problems

FEWEST = 10
"""Slides below which no interval of 90 % can be had; thirty are better."""

WANTED = 30


class Reading(BaseModel):
    """A row of the table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    """A scored slide's folder, relative to the table."""
    cellularity_percent: FiniteFloat = Field(ge=0, le=100)
    """As the pathologist reads it: of the outlined bed where there is one, else of all tissue."""


@dataclass(frozen=True)
class Compared:
    """One slide, read twice.

    Attributes:
        slide: its name.
        digest: of its bytes.
        of: "tumour bed" or "all tissue".
        model: cellularity, 0 to 1.
        pathologist: the same.

    """

    slide: str
    digest: str
    of: str
    model: float
    pathologist: float


@dataclass(frozen=True)
class Acceptance:
    """What the comparison gives.

    Attributes:
        model: name and version.
        slides: all that were compared.
        agreement: of both readings.
        errors: how far the model is off here, to be used in place of its bundle's.

    """

    model: str
    slides: tuple[Compared, ...]
    agreement: Agreement
    errors: ScoreError


def accept(table: Path) -> Acceptance:
    """Compare a table of readings with the model's figures.

    Args:
        table: CSV with the columns ``folder`` and ``cellularity_percent``.

    Raises:
        ConfigError: if the table cannot be used, a slide is not scored, slides were scored by
            different models, or there are too few.

    """
    readings = read_table(table)
    summaries = [_summary(table.parent / reading.folder) for reading in readings]
    bundles = {summary.provenance.bundle.digest for summary in summaries}
    if len(bundles) != 1:
        raise ConfigError(f"{table}: the slides were scored by {len(bundles)} models. Take one.")
    compared = tuple(map(_compared, readings, summaries))
    twice = len(compared) - len({slide.digest for slide in compared})
    if twice:
        raise ConfigError(f"{table}: {twice} slides are there twice; each counts once.")
    if len(compared) < FEWEST:
        raise ConfigError(
            f"{table}: {len(compared)} slides are too few to judge by; take {WANTED}, {FEWEST} at "
            f"the least."
        )
    made = summaries[0].provenance
    model = np.array([slide.model for slide in compared])
    read = np.array([slide.pathologist for slide in compared])
    units = np.abs(model - read) / scale(model)
    quantile = conformal_quantile(units)
    before = made.score_error
    return Acceptance(
        model=f"{made.bundle.name} {made.bundle.version}",
        slides=compared,
        agreement=agreement(model, read),
        errors=ScoreError(
            bundle=made.bundle.digest,
            measured_on=f"{len(compared)} slides of this laboratory, read by a pathologist",
            patients=len(compared),
            tiles=len(compared),
            # No tile was read by itself: what holds for slides is the least that holds for tiles.
            tile_quantile=max(quantile, 1e-6, 0.0 if before is None else before.tile_quantile),
            patient_deviation=float(np.sqrt(np.mean(((model - read) / scale(model)) ** 2))),
            widened=Widened(stain=1, focus=1, enlarged=1) if before is None else before.widened,
            stain=None if before is None else before.stain,
        ),
    )


def held_back_coverage(slides: tuple[Compared, ...]) -> float:
    """Return how many slides the interval holds that all the others make."""
    model = np.array([slide.model for slide in slides])
    units = np.abs(model - [slide.pathologist for slide in slides]) / scale(model)
    held = [
        unit <= conformal_quantile(np.delete(units, number), LEVEL)
        for number, unit in enumerate(units)
    ]
    return float(np.mean(held))


def read_table(path: Path) -> list[Reading]:
    """Read the table.

    Raises:
        ConfigError: naming the line.

    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such table.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: this is not a CSV in UTF-8 ({error}).") from error
    readings = []
    for number, row in enumerate(rows, start=2):
        try:
            readings.append(Reading.model_validate(row))
        except ValidationError as error:
            raise ConfigError(
                f"{path}, line {number}: {problems(error)}. The columns are folder and "
                f"cellularity_percent."
            ) from error
    return readings


def _summary(folder: Path) -> SlideSummary:
    summary = read_summary(folder)
    if summary is None or summary.cellularity is None:
        raise ConfigError(f"{folder}: there is no scored slide here. Run `wsi score` first.")
    return summary


def _compared(reading: Reading, summary: SlideSummary) -> Compared:
    slide, bed, figures = summary.provenance.slide, summary.bed, summary.cellularity
    share = reading.cellularity_percent / 100
    if bed is not None and bed.source == "drawn" and bed.cellularity is not None:
        return Compared(slide.name, slide.digest, "tumour bed", bed.cellularity, share)
    mean = 0.0 if figures is None else figures.mean
    return Compared(slide.name, slide.digest, "all tissue", mean, share)

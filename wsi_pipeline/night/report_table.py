"""The table of a night, ``slides.parquet`` and ``slides.csv``, with a row for each slide.

Rows are in the page's order (failed, refused, scored, estimated, left alone), and have these
columns; what is not known is null, in CSV empty:

====================== ======= ====================================================================
``slide``              string  what outputs call the slide: its file's name, or a pseudonym
``folder``             string  its folder below the output folder
``status``             string  as in `night.outcome`
``kind``               string  class of the error, or why it was left alone in a word
``reason``             string  the same in a sentence
``retry``              string  "now", "another night" or "never" (with these bytes and settings)
``cellularity_mean``   float64 weighted by tissue, over all tissue of the slide, 0 to 1
``cellularity_low``    float64 lower end of the mean's 95 % interval
``cellularity_high``   float64 its upper end
``cellularity_90_low`` float64 lower end of its 90 % interval, with the model's error in it
``cellularity_90_high`` float64 its upper end
``cellularity_median`` float64 weighted by tissue
``estimate_mean``      float64 of a slide that is "estimated", and has none of the figures above
``estimate_low``       float64 lower end of its 90 % interval, for what scoring every tile gives
``estimate_high``      float64 its upper end
``bed_source``         string  "drawn" by a person, or "proposed" by the map alone
``bed_cellularity``    float64 share of the tumour bed's area that is cancer, 0 to 1
``bed_low``            float64 lower end of its interval
``bed_high``           float64 its upper end
``bed_mm2``            float64 area of the bed
``bed_longest_mm``     float64 the longest way across it
``bed_across_mm``      float64 its extent at right angles to that
``tissue_mm2``         float64 area of tissue
``coverage``           float64 share of the tissue that was scored, 0 to 1
``tiles_tissue``       int64   tiles that hold tissue
``tiles_scored``       int64   tiles of these that have a score
``tiles_unreadable``   int64   tiles of these that could not be decoded
``blurred_fraction``   float64 share of the tissue that is out of focus
``pen_fraction``       float64 share of the tissue's tiles under pen ink
``flags``              string  what may have harmed the scores, joined by "; "
``mpp``                float64 µm per level-0 pixel
``vendor``             string  the format
``seconds``            float64 from the slide's start to its end in this night
``model_s``            float64 seconds in which the model worked on it in this night
``slide_digest``       string  of the slide's bytes
``bundle``             string  name and version of the model
``bundle_digest``      string  of the model
``config_digest``      string  of what in the configuration decides results
any other              string  a label of the inbox's `slides.csv`, such as case or bed; one that is
                               called like a column above has ``label_`` before it
====================== ======= ====================================================================

The CSV is UTF-8 with a byte order mark, without which Excel misreads names. What a spreadsheet
would run as a formula has an apostrophe before it there, and a text has one line; the
Parquet file holds it as it is.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.files import atomic_path
from wsi_pipeline.night.outcome import Outcome
from wsi_pipeline.shown import spreadsheet_cell

_SCHEMA = pa.schema(
    [
        ("slide", pa.string()),
        ("folder", pa.string()),
        ("status", pa.string()),
        ("kind", pa.string()),
        ("reason", pa.string()),
        ("retry", pa.string()),
        ("cellularity_mean", pa.float64()),
        ("cellularity_low", pa.float64()),
        ("cellularity_high", pa.float64()),
        ("cellularity_90_low", pa.float64()),
        ("cellularity_90_high", pa.float64()),
        ("cellularity_median", pa.float64()),
        ("estimate_mean", pa.float64()),
        ("estimate_low", pa.float64()),
        ("estimate_high", pa.float64()),
        ("bed_source", pa.string()),
        ("bed_cellularity", pa.float64()),
        ("bed_low", pa.float64()),
        ("bed_high", pa.float64()),
        ("bed_mm2", pa.float64()),
        ("bed_longest_mm", pa.float64()),
        ("bed_across_mm", pa.float64()),
        ("tissue_mm2", pa.float64()),
        ("coverage", pa.float64()),
        ("tiles_tissue", pa.int64()),
        ("tiles_scored", pa.int64()),
        ("tiles_unreadable", pa.int64()),
        ("blurred_fraction", pa.float64()),
        ("pen_fraction", pa.float64()),
        ("flags", pa.string()),
        ("mpp", pa.float64()),
        ("vendor", pa.string()),
        ("seconds", pa.float64()),
        ("model_s", pa.float64()),
        ("slide_digest", pa.string()),
        ("bundle", pa.string()),
        ("bundle_digest", pa.string()),
        ("config_digest", pa.string()),
    ]
)


def write_tables(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Write both tables of a night, a row for each outcome, in the order in which they are given.

    Args:
        folder: of the night; it exists.
        outcomes: how the slides ended.

    Raises:
        OSError: if they cannot be written.

    """
    labels = _label_columns(outcomes)
    schema = pa.schema([*_SCHEMA, *((column, pa.string()) for column in labels.values())])
    rows = [
        _row(outcome) | {column: outcome.labels.get(label) for label, column in labels.items()}
        for outcome in outcomes
    ]
    with atomic_path(folder / "slides.parquet") as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial, compression="zstd")
    with (
        atomic_path(folder / "slides.csv") as partial,
        partial.open("w", encoding="utf-8-sig", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(map(_cell, schema.names))
        writer.writerows([_cell(row[name]) for name in schema.names] for row in rows)


def _row(outcome: Outcome) -> dict[str, str | float | None]:
    row: dict[str, str | float | None] = {
        "slide": outcome.name,
        "folder": outcome.folder or None,
        "status": outcome.status,
        "kind": outcome.kind or None,
        "reason": outcome.reason or None,
        "retry": outcome.retry,
        "seconds": round(outcome.seconds, 3),
        "model_s": round(outcome.model_s, 3),
        "slide_digest": outcome.slide_digest,
    }
    summary, estimate = outcome.summary, outcome.estimate
    made = summary or estimate
    if made is not None:
        slide, bundle = made.provenance.slide, made.provenance.bundle
        row |= {
            "mpp": slide.mpp,
            "vendor": slide.vendor,
            "slide_digest": slide.digest,
            "bundle": f"{bundle.name} {bundle.version}",
            "bundle_digest": bundle.digest,
            "config_digest": made.provenance.config_digest,
        }
    if estimate is not None:
        row |= {
            "estimate_mean": estimate.mean,
            "estimate_low": estimate.low,
            "estimate_high": estimate.high,
            "tiles_tissue": estimate.tiles,
            "tiles_scored": estimate.scored,
        }
    if summary is not None:
        row |= {
            "tissue_mm2": summary.tissue_area_mm2,
            "coverage": summary.coverage,
            "tiles_tissue": summary.tiles.tissue,
            "tiles_scored": summary.tiles.scored,
            "tiles_unreadable": summary.tiles.unreadable,
            "blurred_fraction": summary.quality.blurred_fraction,
            "pen_fraction": summary.quality.pen_fraction,
            "flags": "; ".join(summary.quality.flags) or None,
        }
    if summary is not None and summary.cellularity is not None:
        interval, joined = (
            summary.cellularity.mean_95_interval,
            summary.cellularity.mean_90_interval,
        )
        row |= {
            "cellularity_90_low": joined.low if joined else None,
            "cellularity_90_high": joined.high if joined else None,
            "cellularity_mean": summary.cellularity.mean,
            "cellularity_low": interval.low if interval else None,
            "cellularity_high": interval.high if interval else None,
            "cellularity_median": summary.cellularity.median,
        }
    if summary is not None and (bed := summary.bed) is not None:
        row |= {
            "bed_source": bed.source,
            "bed_cellularity": bed.cellularity,
            "bed_low": bed.interval.low if bed.interval else None,
            "bed_high": bed.interval.high if bed.interval else None,
            "bed_mm2": bed.area_mm2,
            "bed_longest_mm": bed.longest_mm,
            "bed_across_mm": bed.across_mm,
        }
    return {name: row.get(name) for name in _SCHEMA.names}


def _label_columns(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Return the columns of what inboxes' tables say of slides, by label."""
    found = dict.fromkeys(label for outcome in outcomes for label in outcome.labels)
    return {label: f"label_{label}" if label in _SCHEMA.names else label for label in found}


def _cell(value: str | float | None) -> str | float | None:
    """Return a value that a spreadsheet takes for what it is."""
    return spreadsheet_cell(value) if isinstance(value, str) else value

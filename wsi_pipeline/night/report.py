"""The report of a night: one page to look at, and one table to go on with.

``nights/2026-11-23T0200Z/`` below the output folder holds ``index.html``, which needs neither a
network nor scripts and is written last, ``slides.parquet`` and ``slides.csv``. Links are relative:
the output folder can be moved as a whole. The tables have a row for each slide, in the page's order
(failed, refused, scored, left alone), and these columns; what is not known is null, in CSV empty:

====================== ======= ====================================================================
``slide``              string  what outputs call the slide: its file's name, or a pseudonym
``folder``             string  its folder below the output folder
``status``             string  "failed", "refused", "scored" or "left"; see `night.outcome`
``kind``               string  class of the error, or why it was left alone in a word
``reason``             string  the same in a sentence
``retry``              string  "now", "another night" or "never" (with these bytes and settings)
``cellularity_mean``   float64 weighted by tissue, over all tissue of the slide, 0 to 1
``cellularity_low``    float64 lower end of the mean's 95 % interval
``cellularity_high``   float64 its upper end
``cellularity_median`` float64 weighted by tissue
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

import base64
import csv
import io
import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import wsi_pipeline
from wsi_pipeline.facts import BundleFacts
from wsi_pipeline.files import atomic_path, open_regular
from wsi_pipeline.night.outcome import Outcome, Status
from wsi_pipeline.scoring.folder import NEXT
from wsi_pipeline.shown import shown_lines, spreadsheet_cell

log = logging.getLogger(__name__)

NIGHTS = "nights"
PAGE = "index.html"

ORDER: tuple[Status, ...] = ("failed", "refused", "scored", "left")
"""What needs a person first."""

LEFT_ORDER = ("failed before", "ended", "in use", "copying", "duplicate", "done")

_OF_TISSUE = ("tissue-outline.png", "thumbnail.png")
_TRIED = tuple(f"{NEXT}/{name}" for name in _OF_TISSUE)
"""Of what came to no result, beside an older one perhaps."""

PICTURES = {
    "scored": ("overlay.png", *_OF_TISSUE),
    "refused": (*_TRIED, *_OF_TISSUE),
    "failed": (*_TRIED, *_OF_TISSUE),
}
"""Of each slide the first of these that is there; slides left alone were shown on another night."""

LINKS = {"overlay.png": "picture", "cellularity.ome.tiff": "heatmap", "tiles.geojson": "GeoJSON"}

THUMBNAIL_PX = 224
"""Long side: twice that shown, for screens with small pixels."""
THUMBNAIL_BYTES = 20_000
LARGEST_PICTURE_PX = 50_000_000
"""Larger pictures would take more memory than they are worth here."""

DEMONSTRATION = "demonstration model"

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
        ("cellularity_median", pa.float64()),
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


@dataclass(frozen=True)
class Night:
    """What became of an inbox.

    Attributes:
        started: when it began, aware of its time zone.
        ended: when all slides had come to their ends, likewise.
        inbox: what to call the inbox.
        outcomes: one for each slide.
        is_whole: False if it was ended before all slides had come to their ends.

    """

    started: datetime
    ended: datetime
    inbox: str
    outcomes: Sequence[Outcome]
    is_whole: bool = True

    def sorted_outcomes(self) -> list[Outcome]:
        """Return the outcomes as the report shows them: what needs a person first, then by name."""

        def place(outcome: Outcome) -> tuple[int, int, str, str]:
            kind = LEFT_ORDER.index(outcome.kind) if outcome.kind in LEFT_ORDER else -1
            return ORDER.index(outcome.status), kind, outcome.name.casefold(), outcome.folder

        return sorted(self.outcomes, key=place)

    def model_idle_share(self) -> float | None:
        """Return how much of the time between the first slide and the last the model had none.

        None if fewer than two slides had it.
        """
        spans = sorted(
            (outcome.model_from, outcome.model_until)
            for outcome in self.outcomes
            if outcome.model_from is not None and outcome.model_until is not None
        )
        if len(spans) < 2:
            return None
        first = until = spans[0][0]
        idle = 0.0
        for start, end in spans:
            idle += max(0.0, start - until)
            until = max(until, end)
        return idle / (until - first) if until > first else None


def write_night(out: Path, night: Night) -> Path:
    """Write the report of a night; return the page.

    Args:
        out: the folder with one folder per slide.
        night: what became of the slides.

    Raises:
        OSError: if it cannot be written.

    """
    folder = _folder(out, night.started)
    outcomes = night.sorted_outcomes()
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
    with (
        atomic_path(folder / PAGE) as partial,
        partial.open("w", encoding="utf-8", newline="\n") as file,
    ):
        # Piece by piece, since every slide brings a picture.
        file.writelines(_page(out, night))
    return folder / PAGE


def _folder(out: Path, started: datetime) -> Path:
    """Make the folder of a night, which no other night has, of the same minute or still at work."""
    nights = next(folder for folder in _numbered(out / NIGHTS) if _is_or_becomes_a_folder(folder))
    name = started.astimezone(UTC).strftime("%Y-%m-%dT%H%MZ")
    for folder in _numbered(nights / name):
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError


def _numbered(path: Path) -> Iterator[Path]:
    return (path.with_name(f"{path.name}-{n}") if n > 1 else path for n in itertools.count(1))


def _is_or_becomes_a_folder(path: Path) -> bool:
    """Tell whether a folder can be had by this name; not where a file has it, or a link."""
    if path.is_symlink():
        return False
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        return False
    return True


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
    summary = outcome.summary
    if summary is not None:
        slide, bundle = summary.provenance.slide, summary.provenance.bundle
        row |= {
            "tissue_mm2": summary.tissue_area_mm2,
            "coverage": summary.coverage,
            "tiles_tissue": summary.tiles.tissue,
            "tiles_scored": summary.tiles.scored,
            "tiles_unreadable": summary.tiles.unreadable,
            "blurred_fraction": summary.quality.blurred_fraction,
            "pen_fraction": summary.quality.pen_fraction,
            "flags": "; ".join(summary.quality.flags) or None,
            "mpp": slide.mpp,
            "vendor": slide.vendor,
            "slide_digest": slide.digest,
            "bundle": f"{bundle.name} {bundle.version}",
            "bundle_digest": bundle.digest,
            "config_digest": summary.provenance.config_digest,
        }
    if summary is not None and summary.cellularity is not None:
        interval = summary.cellularity.mean_95_interval
        row |= {
            "cellularity_mean": summary.cellularity.mean,
            "cellularity_low": interval.low if interval else None,
            "cellularity_high": interval.high if interval else None,
            "cellularity_median": summary.cellularity.median,
        }
    return {name: row.get(name) for name in _SCHEMA.names}


def _label_columns(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Return the columns of what inboxes' tables say of slides, by label."""
    found = dict.fromkeys(label for outcome in outcomes for label in outcome.labels)
    return {label: f"label_{label}" if label in _SCHEMA.names else label for label in found}


def _cell(value: str | float | None) -> str | float | None:
    """Return a value that a spreadsheet takes for what it is."""
    return spreadsheet_cell(value) if isinstance(value, str) else value


def _fit(value: object) -> object:
    """Keep texts on the page from turning its writing; jinja2 keeps them from being markup."""
    return shown_lines(value) if type(value) is str else value


def _page(out: Path, night: Night) -> Iterator[str]:
    """Yield the page's HTML, piece by piece; each slide's picture is read when its row is due."""
    outcomes = night.sorted_outcomes()
    by_status = {
        status: [outcome for outcome in outcomes if outcome.status == status] for status in ORDER
    }
    return _template().generate(
        started=night.started.astimezone(UTC),
        ended=night.ended.astimezone(UTC),
        inbox=night.inbox,
        is_whole=night.is_whole,
        outcomes=outcomes,
        by_status=by_status,
        left=Counter(outcome.kind for outcome in by_status["left"]),
        bundles=_bundles(outcomes),
        idle=night.model_idle_share(),
        version=wsi_pipeline.__version__,
        demonstration=DEMONSTRATION,
        thumbnail=lambda outcome: thumbnail(out, outcome),
        links=lambda outcome: _links(out, outcome),
        href=lambda outcome: _href(out, outcome),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_fit,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "duration": _duration}
    source = resources.files("wsi_pipeline.night").joinpath("night.html").read_text("utf-8")
    return environment.from_string(source)


def _bundles(outcomes: Sequence[Outcome]) -> list[BundleFacts]:
    """Return the models that the shown figures are from."""
    bundles = {
        outcome.summary.provenance.bundle.digest: outcome.summary.provenance.bundle
        for outcome in outcomes
        if outcome.summary is not None
    }
    return sorted(bundles.values(), key=lambda bundle: (bundle.name, bundle.version))


def _href(out: Path, outcome: Outcome) -> str | None:
    """Return the slide's folder as seen from the page; None if there is none."""
    if not outcome.folder or not (out / outcome.folder).is_dir():
        return None
    return f"../../{quote(outcome.folder, safe='')}/"


def _links(out: Path, outcome: Outcome) -> dict[str, str]:
    """Return the outputs worth opening, by what to call them."""
    folder = _href(out, outcome)
    # Beside a slide that gave no figure there may be an older one, from other settings.
    if folder is None or outcome.summary is None or outcome.summary.cellularity is None:
        return {}
    return {
        label: folder + name
        for name, label in LINKS.items()
        if (out / outcome.folder / name).is_file()
    }


def thumbnail(out: Path, outcome: Outcome) -> str | None:
    """Return a small picture of the slide as a data URI; None if there is none."""
    for name in PICTURES.get(outcome.status, ()) if outcome.folder else ():
        try:
            return _small_picture(out / outcome.folder / name)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            log.warning("%s: not shown in the night's table (%s).", name, error)
    return None


def _small_picture(path: Path) -> str:
    """Return a picture as the data URI of a small JPEG."""
    with open_regular(path) as file, Image.open(file) as image:
        if image.width * image.height > LARGEST_PICTURE_PX:
            raise ValueError(f"{image.width} × {image.height} px are too many for a thumbnail")
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX, reducing_gap=None)
    for quality in (82, 60, 30):
        encoded = io.BytesIO()
        small.save(encoded, "JPEG", quality=quality, optimize=True)
        if encoded.tell() <= THUMBNAIL_BYTES:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "<\N{NO-BREAK SPACE}1\N{NO-BREAK SPACE}s"
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f}\N{NO-BREAK SPACE}s"
    if minutes < 90:
        return f"{minutes}\N{NO-BREAK SPACE}min"
    return f"{minutes // 60}\N{NO-BREAK SPACE}h {minutes % 60:02d}\N{NO-BREAK SPACE}min"

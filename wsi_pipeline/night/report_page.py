"""The page of a night, ``index.html``, which needs neither a network nor scripts.

Its links are relative: the output folder can be moved as a whole.
"""

import io
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC
from functools import cache
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

import jinja2
from PIL import Image

from wsi_pipeline.facts import BundleFacts
from wsi_pipeline.files import open_regular
from wsi_pipeline.night.outcome import Outcome
from wsi_pipeline.night.report import ORDER, NightReport
from wsi_pipeline.outputs.estimate import ESTIMATE_PICTURE
from wsi_pipeline.pages import data_uri, html_template
from wsi_pipeline.scoring.folder import NEXT

log = logging.getLogger(__name__)

_OF_TISSUE = ("tissue-outline.png", "thumbnail.png")
_TRIED = tuple(f"{NEXT}/{name}" for name in _OF_TISSUE)
"""Of what came to no result, beside an older one perhaps."""

PICTURES = {
    "scored": ("overlay.png", *_OF_TISSUE),
    "estimated": (ESTIMATE_PICTURE, *_OF_TISSUE),
    "refused": (*_TRIED, *_OF_TISSUE),
    "failed": (*_TRIED, *_OF_TISSUE),
}
"""Of each slide the first of these that is there; slides left alone were shown on another night."""

LINKS = {
    "report.html": "report",
    "overlay.png": "picture",
    "cellularity.ome.tiff": "heatmap",
    "tiles.geojson": "GeoJSON",
}

THUMBNAIL_PX = 224
"""Long side: twice that shown, for screens with small pixels."""
THUMBNAIL_BYTES = 20_000
LARGEST_PICTURE_PX = 50_000_000
"""Larger pictures would take more memory than they are worth here."""

DEMONSTRATION = "demonstration model"


def night_page(out: Path, night: NightReport) -> Iterator[str]:
    """Yield the page's HTML, piece by piece; each slide's picture is read when its row is due.

    Args:
        out: the folder with one folder per slide; the page belongs into a folder of its `nights`.
        night: what became of the slides.

    """
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
        version=version("wsi-pipeline"),
        demonstration=DEMONSTRATION,
        thumbnail=lambda outcome: thumbnail(out, outcome),
        links=lambda outcome: _links(out, outcome),
        href=lambda outcome: _door(out, outcome),
    )


@cache
def _template() -> jinja2.Template:
    return html_template(
        "wsi_pipeline.night", "night.html", {"percent": _percent, "duration": _duration}, lines=True
    )


def _bundles(outcomes: Sequence[Outcome]) -> list[BundleFacts]:
    """Return the models that the shown figures are from."""
    bundles = {
        made.provenance.bundle.digest: made.provenance.bundle
        for outcome in outcomes
        if (made := outcome.summary or outcome.estimate) is not None
    }
    return sorted(bundles.values(), key=lambda bundle: (bundle.name, bundle.version))


def _href(out: Path, outcome: Outcome) -> str | None:
    """Return the slide's folder as seen from the page; None if there is none."""
    if not outcome.folder or not (out / outcome.folder).is_dir():
        return None
    return f"../../{quote(outcome.folder, safe='')}/"


def _door(out: Path, outcome: Outcome) -> str | None:
    """Return what a slide's name leads to: its report, or its folder where there is none."""
    return _links(out, outcome).get("report") or _href(out, outcome)


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
    return data_uri("image/jpeg", encoded.getvalue())


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

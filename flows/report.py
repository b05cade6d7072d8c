"""What a scored slide looks like among Prefect's artifacts: pure functions of its outputs."""

import base64
import io
import re
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from wsi_pipeline import shown
from wsi_pipeline.outputs.summary import Cellularity, SlideSummary

MAX_URI_CHARS = 300_000
"""Longest data URI: artifacts live in the server's database, and its pages load them whole."""

_SIDES_PX = (1024, 768, 512, 256)

FILES = {
    "report.html": "the page for a pathologist: map, tumour bed, figures",
    "cellularity-fine.ome.tiff": "the map in cells of 32 µm",
    "cellularity.ome.tiff": "the score map, for QuPath and other viewers",
    "overlay.tif": "the slide with the map over it, full pyramid",
    "tiles.geojson": "tiles and regions, for QuPath",
    "tiles.parquet": "one row per tile",
    "tissue-outline.png": "what was taken for tissue",
    "summary.json": "all figures of this page and more",
    "run.log": "what was done, and how long it took",
}


def artifact_key(kind: str, name: str) -> str:
    """Return a key that Prefect takes: lowercase letters, digits and single dashes.

    Names that lose more than their case on the way get a digest, so that no two share a key.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    digest = () if slug == name.lower() else (sha256(name.encode()).hexdigest()[:8],)
    return "-".join(filter(None, (kind, slug, *digest)))


def picture_uri(path: Path) -> str:
    """Return a picture as a JPEG in a data URI, as large as fits into `MAX_URI_CHARS`."""
    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
    uri = ""
    for side_px in _SIDES_PX:
        rgb.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
        jpeg = io.BytesIO()
        rgb.save(jpeg, "JPEG", quality=80)
        uri = "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()
        if len(uri) <= MAX_URI_CHARS:
            break
    return uri


def headline(summary: SlideSummary) -> str:
    """Return the outcome in one line."""
    if summary.cellularity is None:
        return f"Not scored. {summary.reason}"
    return (
        f"Cellularity of all tissue {_percent(summary.cellularity.mean)} "
        f"({summary.tiles.scored:,} tiles, {summary.tissue_area_mm2:.1f} mm²)"
    )


def markdown(summary: SlideSummary, folder: Path, results_url: str | None = None) -> str:
    """Return the summary of a slide as a page.

    Args:
        summary: the slide's.
        folder: where its files are, as an absolute path; those that are missing are not listed.
        results_url: address at which others find the folder that this one is in, if there is one.

    """
    quality, provenance = summary.quality, summary.provenance
    slide, bundle = provenance.slide, provenance.bundle
    notes = [headline(summary)]
    if summary.cellularity is not None:
        notes.append(f"The mean is the {summary.cellularity.mean_is}.")
    if bundle.demonstration:
        notes.append("The model is a demonstration: its scores mean nothing.")
    figures = {
        "Tissue": f"{summary.tissue_area_mm2:.2f} mm²",
        "Tiles": f"{summary.tiles.scored:,} scored, {summary.tiles.tissue:,} with tissue, "
        f"{summary.tiles.grid:,} in all; {summary.tiles.unreadable:,} unreadable",
        "Coverage": f"{_percent(summary.coverage)} of the tissue in tiles was scored",
        **_cellularity_rows(summary.cellularity),
        "Quality flags": shown.markdown(", ".join(quality.flags) or "none"),
        "Out of focus": f"{_percent(quality.blurred_fraction)} of the tissue",
        "Pen": f"{_percent(quality.pen_fraction)} of the tissue's tiles",
    }
    origin = {
        "Slide": f"{shown.markdown(slide.name)}, {slide.width_px:,} × {slide.height_px:,} px, "
        f"read with {slide.backend}",
        "Pixel size": f"{slide.mpp:.4g} µm, from the {shown.markdown(slide.mpp_source)}",
        "Slide digest": f"`{slide.digest}`",
        "Model": shown.markdown(f"{bundle.name} {bundle.version}"),
        "Model digest": f"`{bundle.digest}`",
        "Configuration digest": f"`{provenance.config_digest}`",
        "Run with": f"{provenance.execution}, "
        + ", ".join(f"{name} {version}" for name, version in provenance.software.items()),
    }
    address = None if results_url is None else f"{results_url.rstrip('/')}/{quote(folder.name)}"
    files = {
        name if address is None else f"[{name}]({address}/{name})": use
        for name, use in FILES.items()
        if (folder / name).exists()
    }
    return "\n\n".join(
        [
            f"# {shown.markdown(folder.name)}",
            *(f"> {shown.markdown(note)}" for note in notes),
            _table("Figure", "Value", figures),
            "## Provenance",
            _table("", "", origin),
            "## Files",
            f"In {shown.markdown(folder)}:",
            _table("File", "What it is", files),
            "Research use only; not a medical device.",
        ]
    )


def _cellularity_rows(cellularity: Cellularity | None) -> dict[str, str]:
    if cellularity is None:
        return {}
    interval = cellularity.mean_95_interval
    return {
        "Mean cellularity of all tissue": _percent(cellularity.mean),
        "95 % interval of the mean": "the tissue is too small for one"
        if interval is None
        else f"{_percent(interval.low)} to {_percent(interval.high)} ({interval.method})",
        "Median": _percent(cellularity.median),
    } | {
        f"Area at or above {_percent(float(threshold), 0)}": _percent(fraction)
        for threshold, fraction in cellularity.area_fraction_at_least.items()
    }


def _table(left: str, right: str, rows: dict[str, str]) -> str:
    lines = [f"| {left} | {right} |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(lines)


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"

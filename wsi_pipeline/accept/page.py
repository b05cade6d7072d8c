"""The acceptance to read and sign, and the local errors beside it."""

import io
from functools import cache
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.figure import Figure

from wsi_pipeline.accept.accept import WANTED, Acceptance, held_back_coverage
from wsi_pipeline.files import atomic_path
from wsi_pipeline.model.score_error import SCORE_ERROR_NAME
from wsi_pipeline.outputs.words import percent
from wsi_pipeline.pages import data_uri, html_template

PAGE = "acceptance.html"


def write_acceptance(folder: Path, result: Acceptance) -> Path:
    """Write page and errors into a folder, which is made; return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / SCORE_ERROR_NAME) as partial:
        partial.write_text(result.errors.model_dump_json(indent=2) + "\n", encoding="utf-8")
    with atomic_path(folder / PAGE) as partial:
        partial.write_text(acceptance_page(result), encoding="utf-8")
    return folder / PAGE


def acceptance_page(result: Acceptance) -> str:
    """Return the page as HTML, which needs nothing but itself."""
    return _template().render(
        result=result,
        found=result.agreement,
        coverage=held_back_coverage(result.slides),
        wanted=WANTED,
        picture=_picture(result),
    )


def _picture(result: Acceptance) -> str:
    """Draw both readings, and their differences over their means, as a data URI."""
    model = 100 * np.array([slide.model for slide in result.slides])
    read = 100 * np.array([slide.pathologist for slide in result.slides])
    figure = Figure(figsize=(8, 3.6), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    top = max(10.0, model.max(), read.max()) * 1.05
    left.plot([0, top], [0, top], color="#999999", linewidth=1)
    left.plot(read, model, "o", color="#2a788e", alpha=0.8)
    left.set(xlim=(0, top), ylim=(0, top), xlabel="Pathologist (%)", ylabel="Model (%)")
    right.plot((model + read) / 2, model - read, "o", color="#2a788e", alpha=0.8)
    found = result.agreement
    for at, style in ((found.bias, "-"), (found.limits[0], "--"), (found.limits[1], "--")):
        right.axhline(100 * at, color="#1b1b1b", linestyle=style, linewidth=1)
    right.axhline(0, color="#bbbbbb", linewidth=1)
    right.set(xlabel="Mean of both (%)", ylabel="Model less pathologist (points)")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    return data_uri("image/png", drawn.getvalue())


@cache
def _template() -> jinja2.Template:
    return html_template("wsi_pipeline.accept", "acceptance.html", {"percent": percent})

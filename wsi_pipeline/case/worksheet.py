"""A case's worksheet: ``case.json`` for programs, ``worksheet.html`` to read, print and sign."""

import io
from functools import cache
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.figure import Figure
from pydantic import ValidationError

from wsi_pipeline.case.assess import Z_95, CaseResult, burden_of
from wsi_pipeline.case.rcb import MINIMAL_UP_TO, MODERATE_UP_TO, with_cellularity
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.files import atomic_path, read_regular
from wsi_pipeline.outputs.words import percent
from wsi_pipeline.pages import data_uri, html_template

CASE, WORKSHEET = "case.json", "worksheet.html"

_BANDS = ("#e8f3ec", "#fdf3dc", "#f9e1dc")
"""Behind the curve: classes I, II and III."""


def write_case(folder: Path, result: CaseResult) -> Path:
    """Write both files into a folder, which is made; return the worksheet's path."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / WORKSHEET) as partial:
        partial.write_text(worksheet(result), encoding="utf-8")
    with atomic_path(folder / CASE) as partial:
        partial.write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return folder / WORKSHEET


def read_case(folder: Path) -> CaseResult:
    """Read what `write_case` wrote.

    Raises:
        ConfigError: if there is none, or it is of another version.

    """
    path = folder / CASE
    try:
        return CaseResult.model_validate_json(read_regular(path))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}). Name the folder that `wsi case` wrote."
        ) from error
    except ValidationError as error:
        raise ConfigError(
            f"{path}: is damaged or of another version. Run the same `wsi case` again."
        ) from error


def worksheet(result: CaseResult) -> str:
    """Return the worksheet as HTML, which needs nothing but itself."""
    curve = None if result.rcb is None else _curve(result)
    return _template().render(result=result, rcb=result.rcb, curve=curve)


def _curve(result: CaseResult) -> str:
    """Draw the index over the cellularity, all else equal, as a data URI."""
    burden = burden_of(result.terms)
    shares = np.linspace(0, 1, 401)
    indices = [with_cellularity(burden, float(share)).index for share in shares]
    top = max(4.0, *indices) + 0.2
    figure = Figure(figsize=(7, 3.1), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    edges = (0, MINIMAL_UP_TO, MODERATE_UP_TO, top)
    for low, high, colour, name in zip(
        edges, edges[1:], _BANDS, ("RCB-I", "RCB-II", "RCB-III"), strict=False
    ):
        axes.axhspan(low, high, color=colour, linewidth=0)
        axes.text(99, (low + high) / 2, name, ha="right", va="center", color="#555555")
    axes.plot(100 * shares, indices, color="#1b1b1b")
    at = 100 * burden.cellularity
    if result.cellularity_deviation is not None:
        half = 100 * Z_95 * result.cellularity_deviation
        axes.axvspan(max(0, at - half), min(100, at + half), color="#00684a", alpha=0.15)
    axes.axvline(at, color="#00684a")
    axes.plot([at], [burden.index], "o", color="#00684a")
    axes.set(
        xlim=(0, 100), ylim=(0, top), xlabel="Cellularity of the tumour bed (%)", ylabel="RCB index"
    )
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    return data_uri("image/png", drawn.getvalue())


@cache
def _template() -> jinja2.Template:
    return html_template("wsi_pipeline.case", "worksheet.html", {"percent": percent})

"""``report.html``: one slide's figures, maps and bed as a page of one file.

It needs no server and asks no network, which its own policy forbids it. All text comes from files
that others may have written, and the template escapes all of it.
"""

import json
import re
from functools import cache
from importlib import resources
from pathlib import Path

import jinja2
from bokeh.document import Document
from bokeh.plotting import figure
from bokeh.resources import Resources
from markupsafe import Markup

from wsi_pipeline.files import atomic_path
from wsi_pipeline.outputs.colours import OPACITY, SHOWN_FROM
from wsi_pipeline.outputs.summary import LEAST_MM2, SlideSummary
from wsi_pipeline.outputs.words import percent, warnings
from wsi_pipeline.pages import html_template
from wsi_pipeline.report.shown import Shown
from wsi_pipeline.report.viewer import (
    PALETTES,
    STEPS,
    hex_palettes,
    map_data,
    viewer,
)

_BOKEH_ID = re.compile(r'"p\d+"')


def write_report(path: Path, summary: SlideSummary, shown: Shown) -> None:
    """Write the page; the same result gives the same bytes.

    Args:
        path: the file to write.
        summary: all figures.
        shown: what is drawn.

    """
    with atomic_path(path) as partial:
        partial.write_text(page(summary, shown), encoding="utf-8")


def page(summary: SlideSummary, shown: Shown) -> str:
    """Return the page as HTML."""
    inline = Resources(mode="inline", components=["bokeh"], minified=True)
    made = summary.provenance
    about = {
        "maps": map_data(shown.maps) | {"min_coverage": float(made.config.min_coverage)},
        "palettes": hex_palettes(),
        "steps": STEPS,
        "slide": {
            "slide": made.slide.name,
            "width_px": made.slide.width_px,
            "height_px": made.slide.height_px,
        },
        "file": Path(made.slide.name).stem,
    }
    return _template().render(
        summary=summary,
        figure=summary.cellularity,
        bed=summary.bed,
        made=made,
        warnings=warnings(summary),
        served=shown.tiles is not None,
        has_fine=shown.maps.fine is not None,
        cell_um=shown.maps.shown.cell_um,
        opacity=round(100 * OPACITY),
        shown_from=round(100 * SHOWN_FROM),
        palettes=PALETTES,
        least_mm2=LEAST_MM2,
        n_flagged=len(shown.flagged),
        # Markup is what holds no text of others, or none with a "<".
        bokeh=Markup(inline.render_js()),  # noqa: S704
        item=Markup(_for_script(_item(viewer(shown)))),  # noqa: S704
        about=Markup(_for_script(json.dumps(about))),  # noqa: S704
        script=Markup(_source("bed.js") + _source("page.js")),  # noqa: S704
    )


def _item(plot: figure) -> str:
    """Return a figure as JSON for Bokeh's script, the same for the same figure.

    Bokeh numbers all that a process makes; here they are numbered from 1.
    """
    document = Document()
    document.add_root(plot)
    item = {"target_id": "viewer", "root_id": plot.id, "doc": document.to_json(deferred=False)}
    text = json.dumps(item)
    numbers: dict[str, str] = {}
    return _BOKEH_ID.sub(lambda found: numbers.setdefault(found[0], f'"p{len(numbers) + 1}"'), text)


def _for_script(text: str) -> str:
    """Return JSON that ends no script element, whatever texts it holds."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _source(name: str) -> str:
    return resources.files("wsi_pipeline.report").joinpath(name).read_text("utf-8")


@cache
def _template() -> jinja2.Template:
    return html_template("wsi_pipeline.report", "report.html", {"percent": percent})

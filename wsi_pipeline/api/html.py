"""A result as a notebook shows it: a card of HTML that needs no network, script or stylesheet.

All text comes from files that others may have written, and the template escapes all of it.
"""

import base64
import io
from functools import cache
from importlib import resources

import jinja2
from PIL import Image

import wsi_pipeline
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.outputs.words import percent, warnings
from wsi_pipeline.shown import shown

_JPEG_QUALITY = 90


def card(summary: SlideSummary, picture: str | None, no_picture: str | None = None) -> str:
    """Return a result as HTML.

    Args:
        summary: all that it says.
        picture: a data URI.
        no_picture: why there is none.

    """
    return _template().render(
        summary=summary,
        picture=picture,
        no_picture=no_picture,
        warnings=warnings(summary),
        version=wsi_pipeline.__version__,
    )


def picture_uri(picture: Image.Image) -> str:
    """Return a picture in RGB as the data URI of a JPEG."""
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=_JPEG_QUALITY, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"


def _fit(value: object) -> object:
    """Keep texts from turning the writing of the page; jinja2 keeps them from being markup."""
    return shown(value) if type(value) is str else value


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_fit,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    source = resources.files("wsi_pipeline.api").joinpath("result.html").read_text("utf-8")
    return environment.from_string(source)

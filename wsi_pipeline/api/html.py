"""A result as a notebook shows it: a card of HTML that needs no network, script or stylesheet.

All text comes from files that others may have written, and the template escapes all of it.
"""

import io
from functools import cache

import jinja2
from PIL import Image

import wsi_pipeline
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.outputs.words import percent, warnings
from wsi_pipeline.pages import data_uri, html_template

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
    return data_uri("image/jpeg", encoded.getvalue())


@cache
def _template() -> jinja2.Template:
    return html_template("wsi_pipeline.api", "result.html", {"percent": percent})

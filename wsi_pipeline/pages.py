"""What all pages of HTML have in common: one file each, and no text of others that is markup."""

import base64
from collections.abc import Callable, Mapping
from importlib import resources

import jinja2

from wsi_pipeline.shown import shown, shown_lines


def html_template(
    room: str, name: str, filters: Mapping[str, Callable[..., str]], *, lines: bool = False
) -> jinja2.Template:
    """Return a page's template.

    All texts are escaped, and none can turn the direction of the writing: they come from files that
    others may have written.

    Args:
        room: the package that holds it.
        name: of its file.
        filters: of the template's own.
        lines: whether texts keep their line breaks.

    """

    def fit(value: object) -> object:
        if type(value) is not str:
            return value
        return shown_lines(value) if lines else shown(value)

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=fit,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.from_string(resources.files(room).joinpath(name).read_text("utf-8"))


def data_uri(kind: str, content: bytes) -> str:
    """Return a file as a part of a page.

    >>> data_uri("image/png", b"abc")
    'data:image/png;base64,YWJj'
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

"""Where slides lie: paths and fsspec URLs, and what may not stand in a URL."""

import re

from wsi_pipeline.errors import SlideError

# A user or a password. The latter may hold slashes, and then ends the authority early.
_CREDENTIALS = re.compile(r"://(?:[^/?#]*@|(?!\[)[^/?#]*:(?!\d+(?:[/?#]|$)))")
_QUERY = re.compile(r"\bhttps?://[^?#]*\?")


def require_no_secret(location: str) -> None:
    """Refuse a URL that holds a secret, before it gets into a log, a name or a result.

    The message does not repeat it.

    Raises:
        SlideError: if it holds a user or password, or a query, by which signed URLs carry theirs.

    """
    for kind, pattern in (("user name or password", _CREDENTIALS), ("query", _QUERY)):
        if pattern.search(location):
            raise SlideError(
                f"The URL of a slide or an inbox holds a {kind}, which would end up in logs and "
                f"results. Leave it out, and give credentials in the environment or in fsspec's "
                f"configuration."
            )

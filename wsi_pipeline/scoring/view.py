"""`wsi view`: a finished result's page with the slide's own pixels, served to this machine alone.

Whoever is on the machine and knows the address sees the slide: the address holds a token that is
drawn anew each time. Tiles are read as scoring reads them, from the scanned part: a slide's label
and overview picture, which may name a patient, are never opened.
"""

import io
import logging
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image

from wsi_pipeline.errors import ConfigError, SlideError
from wsi_pipeline.outputs.overlay import read_square
from wsi_pipeline.outputs.thumbnails import picture_mpp
from wsi_pipeline.report.page import page
from wsi_pipeline.report.shown import PICTURE_PX, TILE_PX, TileSquare
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.rewrite import open_finished, own_slide
from wsi_pipeline.slide.slide import Slide

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

_TILE = re.compile(r"tiles/(\d{1,2})/(\d{1,7})/(\d{1,7})\.jpg")
_JPEG_QUALITY = 85


@dataclass(frozen=True)
class View:
    """A page that is being served.

    Attributes:
        address: what to open.
        server: answers until it is shut down.

    """

    address: str
    server: ThreadingHTTPServer


@contextmanager
def served(
    folder: Path, location: str | Path, config: ScoreConfig, port: int = 0
) -> Iterator[View]:
    """Make a result's page ready to be served, by `View.server.serve_forever`.

    Args:
        folder: the slide's results.
        location: its file.
        config: for where stores are, and for the fine map.
        port: on the loopback address; 0 takes a free one.

    Raises:
        ConfigError: if there is no result, the file is another slide, or the port is taken.
        WsiError: if something of the result is damaged, or the slide cannot be read.

    """
    found = open_finished(folder, config)
    with own_slide(folder, found.summary, location) as slide:
        square = TileSquare.of(slide.l0_bounds)
        picture = slide.thumbnail(picture_mpp(slide, PICTURE_PX))
        html = page(found.summary, found.shown(picture, square)).encode()
        token = secrets.token_urlsafe(16)
        try:
            server = ThreadingHTTPServer((LOOPBACK, port), _handler(html, slide, square, token))
        except OSError as error:
            raise ConfigError(f"--port {port}: cannot be used ({error.strerror}).") from error
        server.daemon_threads = True
        with server:
            yield View(f"http://{LOOPBACK}:{server.server_address[1]}/{token}/", server)


def tile_jpeg(slide: Slide, square: TileSquare, zoom: int, column: int, row: int) -> bytes | None:
    """Return a tile as a JPEG, white beyond the slide; None if the square has no such tile.

    Raises:
        SlideError: if it cannot be read.

    """
    box = square.l0_box(zoom, column, row)
    if box is None:
        return None
    encoded = io.BytesIO()
    picture = Image.fromarray(read_square(slide, box, TILE_PX))
    picture.save(encoded, "JPEG", quality=_JPEG_QUALITY)
    return encoded.getvalue()


def _handler(
    html: bytes, slide: Slide, square: TileSquare, token: str
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            # A page elsewhere may have its name lead here; it then asks under that name.
            host = self.headers.get("Host", "").rsplit(":", 1)[0]
            head, _, path = self.path.lstrip("/").partition("/")
            if host != LOOPBACK or not secrets.compare_digest(head.encode(), token.encode()):
                self._answer(HTTPStatus.NOT_FOUND, b"", "text/plain")
            elif path == "":
                self._answer(HTTPStatus.OK, html, "text/html; charset=utf-8")
            elif (found := _TILE.fullmatch(path)) is not None:
                self._answer_tile(*map(int, found.groups()))
            else:
                self._answer(HTTPStatus.NOT_FOUND, b"", "text/plain")

        def _answer_tile(self, zoom: int, column: int, row: int) -> None:
            try:
                tile = tile_jpeg(slide, square, zoom, column, row)
            except SlideError as error:
                log.warning("%s", error)
                tile = None
            status = HTTPStatus.OK if tile else HTTPStatus.NOT_FOUND
            self._answer(status, tile or b"", "image/jpeg")

        def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "private, max-age=3600")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("X-Frame-Options", "DENY")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Keep quiet: each tile would be a line."""

    return Handler

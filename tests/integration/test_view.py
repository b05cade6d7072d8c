"""`wsi view`: the page with the slide's own pixels, as a browser on the same machine sees it."""

import io
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

import wsi_pipeline as wsi
from tests.helpers.browser import needs_chromium, visiting
from tests.helpers.real_slides import SAMPLE
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.geometry import Box, Size
from wsi_pipeline.report.shown import TILE_PX, TileSquare
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.view import served
from wsi_pipeline.slide.slide import Slide


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.warns(UserWarning, match="demonstration"):
        return wsi.score(SAMPLE, tmp_path_factory.mktemp("out"), progress=lambda *_: None).folder


@pytest.fixture
def address(folder):
    with served(folder, SAMPLE, ScoreConfig()) as view:
        thread = threading.Thread(target=view.server.serve_forever, daemon=True)
        thread.start()
        yield view.address
        view.server.shutdown()
        thread.join()


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        return answer.read(), answer.headers


def test_tiles_are_the_slides_own_pixels(address):
    with Slide.open(SAMPLE) as slide:
        square = TileSquare.of(slide.l0_bounds)
        for zoom, column, row in ((square.zooms, 3, 2), (square.zooms - 1, 1, 1), (0, 0, 0)):
            body, headers = get(f"{address}tiles/{zoom}/{column}/{row}.jpg")
            assert headers["Content-Type"] == "image/jpeg"
            with Image.open(io.BytesIO(body)) as tile:
                got = np.asarray(tile.convert("RGB"), int)
            expected = slide.read(square.l0_box(zoom, column, row), Size(TILE_PX, TILE_PX))
            assert np.abs(got - expected).mean() < 6


@pytest.mark.parametrize(
    "path", ["tiles/99/0/0.jpg", "tiles/2/9/0.jpg", "../../etc/passwd", "label"]
)
def test_nothing_else_is_served(address, path):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(address + path)


def test_without_its_token_or_under_another_name_nothing_is_served(address):
    root = address.rsplit("/", 2)[0]
    for url, headers in ((f"{root}/", {}), (f"{root}/guess/", {}), (address, {"Host": "evil.com"})):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(url, **headers)


def test_it_listens_on_this_machine_alone_and_draws_a_new_token(folder):
    with served(folder, SAMPLE, ScoreConfig()) as one, served(folder, SAMPLE, ScoreConfig()) as two:
        assert one.server.server_address[0] == "127.0.0.1"
        assert one.address.split("/")[-2] != two.address.split("/")[-2]
        port = one.server.server_address[1]
        with (
            pytest.raises(ConfigError, match=f"--port {port}"),
            served(folder, SAMPLE, ScoreConfig(), port),
        ):
            pass


def test_another_slide_is_refused(folder, make_slide):
    other = make_slide(np.full((600, 600, 3), 230, np.uint8))
    with (
        pytest.raises(ConfigError, match="this is not the slide"),
        served(folder, other, ScoreConfig()),
    ):
        pass


def test_squares_are_cut_from_the_upper_left():
    square = TileSquare.of(Box(100, 50, 3000, 1000))
    assert square == TileSquare(100, 50, 4)
    assert square.l0_box(4, 0, 0) == Box(100, 50, 256, 256)
    assert square.l0_box(0, 0, 0) == Box(100, 50, 4096, 4096)
    assert square.l0_box(3, 1, 2) == Box(612, 1074, 512, 512)
    assert square.l0_box(5, 0, 0) is None
    assert square.l0_box(1, 2, 0) is None


@needs_chromium
def test_a_browser_zooms_to_the_slides_full_resolution(address):
    with visiting() as visit:
        visit.open(address)
        visit.page.wait_for_timeout(500)
        for box in ("fine", "lines"):
            visit.page.uncheck(f"[data-layer={box}]")
        first = {url for url in visit.requests if "/tiles/" in url}
        assert first
        frame = visit.page.locator("#viewer").bounding_box()
        visit.page.mouse.move(frame["x"] + 300, frame["y"] + 300)
        for _ in range(12):
            visit.page.mouse.wheel(0, -300)
            visit.page.wait_for_timeout(60)
        visit.page.wait_for_timeout(800)
        finest = max(
            int(url.split("/tiles/")[1].split("/")[0]) for url in visit.requests if "/tiles/" in url
        )
        with Slide.open(SAMPLE) as slide:
            assert finest == TileSquare.of(slide.l0_bounds).zooms
        assert visit.complaints == []
        assert [url for url in visit.elsewhere if not url.startswith(address)] == []
        shown = np.asarray(Image.open(io.BytesIO(visit.page.locator("#viewer").screenshot())))
        assert shown[100:500, 200:700, :3].std() > 20

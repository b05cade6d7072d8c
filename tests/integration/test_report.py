"""The page of the sample slide, as a pathologist opens it: from disk, in a browser."""

import itertools
import json
import re

import numpy as np
import pytest
import shapely

import wsi_pipeline as wsi
from tests.helpers.browser import address, needs_chromium, visiting
from tests.helpers.real_slides import SAMPLE
from wsi_pipeline.bed.measure import measure
from wsi_pipeline.bed.outline import Bed, read_bed
from wsi_pipeline.geometry import Size
from wsi_pipeline.outputs.maps import make_maps
from wsi_pipeline.outputs.write import read_mask
from wsi_pipeline.tiles.store import TileStore

pytestmark = needs_chromium

VIEW = "Object.values(Bokeh.index).find((view) => view.model.name === 'viewer')"


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    with pytest.warns(UserWarning, match="demonstration"):
        return wsi.score(SAMPLE, tmp_path_factory.mktemp("out"), progress=lambda *_: None)


@pytest.fixture(scope="module")
def maps(result):
    store = TileStore(result.folder / "tiles.zarr")
    return make_maps(store, store.table(), read_mask(result.folder))


@pytest.fixture
def visit(result):
    with visiting() as visit:
        visit.open(address(result.folder / "report.html"))
        yield visit
        assert visit.complaints == []
        assert visit.elsewhere == []


def at(visit, x_mm, y_mm):
    """Where on the screen a place on the slide is."""
    return visit.page.evaluate(
        f"""([x, y]) => {{
            const view = {VIEW}, frame = view.el.getBoundingClientRect();
            return [frame.left + view.frame.x_scale.compute(x),
                    frame.top + view.frame.y_scale.compute(-y)];
        }}""",
        [float(x_mm), float(y_mm)],
    )


def test_it_says_the_figures_of_the_summary(visit, result):
    summary = result.summary
    assert visit.text("#bed-cellularity") == f"{100 * summary.bed.cellularity:.1f} %"
    text = visit.text("body")
    assert f"{100 * summary.cellularity.mean:.1f} %" in text
    assert f"{summary.bed.area_mm2:.2f} mm²" in text
    assert "proposed by the map, drawn by nobody" in text
    assert "a few fields only" in text
    assert "demonstration model" in text
    assert summary.provenance.slide.digest in text
    assert visit.page.title() == "Cellularity of tcga-a2-a0d2.tif"


def test_the_pointer_reads_the_map_that_python_wrote(visit, maps):
    shown = maps.shown
    for row, column in ((4, 4), (9, 13), (16, 20)):
        x = (shown.l0_origin[0] + (column + 0.5) * shown.l0_cell) * shown.mpp / 1000
        y = (shown.l0_origin[1] + (row + 0.5) * shown.l0_cell) * shown.mpp / 1000
        visit.page.mouse.move(*at(visit, x, y))
        share = float(re.match(r"([\d.]+) %", visit.text("#pointer"))[1]) / 100
        assert share == pytest.approx(shown.cellularity[row, column], abs=0.003)


def test_sliders_palette_and_layers_move_the_picture(visit, maps):
    before = visit.page.screenshot()
    visit.page.fill("#opacity", "90")
    visit.page.fill("#threshold", "40")
    visit.page.select_option("#palette", "cividis")
    visit.page.uncheck("[data-layer=lines]")
    visit.page.check("[data-layer=tissue]")
    state = visit.page.evaluate(
        f"""() => {{
            const all = {VIEW}.model.renderers, of = (name) => all.filter((r) => r.name === name);
            const map = of("fine")[0].glyph;
            return [map.global_alpha.value, map.color_mapper.low, map.color_mapper.palette.length,
                    of("lines")[0].visible, of("tissue")[0].visible, of("tiles")[0].visible];
        }}"""
    )
    assert state == [0.9, 101, 256, False, True, False]
    visit.page.wait_for_timeout(200)
    assert visit.page.screenshot() != before
    above = np.nan_to_num(maps.shown.cellularity) >= 0.4
    cell_mm2 = (maps.shown.cell_um / 1000) ** 2
    said = float(re.match(r"([\d.]+) mm²", visit.text("#above"))[1])
    assert said == pytest.approx(maps.tissue[above].sum() * cell_mm2, abs=0.006)


def test_a_drawn_bed_is_measured_at_once_saved_and_read_again(visit, result, maps, tmp_path):
    visit.page.click("#clear")
    assert "No bed is drawn" in visit.text("#bed-card")
    assert visit.page.is_disabled("#save")
    visit.page.click("#draw")
    visit.page.evaluate("document.getElementById('viewer').scrollIntoView()")
    corners = [(0.10, 0.10), (0.70, 0.12), (0.65, 0.50), (0.12, 0.45), (0.10, 0.11)]
    mouse = visit.page.mouse
    mouse.move(*at(visit, *corners[0]))
    mouse.down()
    for start, stop in itertools.pairwise(corners):
        for share in np.linspace(0.2, 1, 5):  # as slowly as a hand
            mouse.move(*at(visit, *(np.array(start) * (1 - share) + np.array(stop) * share)))
            visit.page.wait_for_timeout(40)
    mouse.up()
    visit.page.wait_for_function(
        "document.getElementById('bed-says').textContent.includes('as drawn here')"
    )
    with visit.page.expect_download() as saved:
        visit.page.click("#save")
    path = tmp_path / saved.value.suggested_filename
    assert path.name == "tcga-a2-a0d2-bed.geojson"
    saved.value.save_as(path)
    slide = result.summary.provenance.slide
    bed = read_bed(path, Size(slide.width_px, slide.height_px), slide.name)
    assert bed.area.area * (slide.mpp / 1000) ** 2 == pytest.approx(0.2, abs=0.03)
    expected = measure(bed, maps, min_coverage=0.9)
    shown = float(visit.text("#bed-cellularity").removesuffix(" %")) / 100
    assert shown == pytest.approx(expected.cellularity, abs=0.004)
    area, longest, across = re.search(
        r"([\d.]+) mm², ([\d.]+) × ([\d.]+) mm", visit.text("#bed-says")
    ).groups()
    assert float(area) == pytest.approx(expected.area_mm2, abs=0.006)
    assert float(longest) == pytest.approx(expected.longest_mm, abs=0.06)
    assert float(across) == pytest.approx(expected.across_mm, abs=0.06)


def random_rings(rng, maps):
    """A star with a hole, and a triangle apart from it, in level-0 pixels."""
    bounds = maps.l0_bounds
    middle = np.array([bounds.width * 0.4, bounds.height * 0.5])
    turns = np.sort(rng.uniform(0, 2 * np.pi, 9))
    arms = rng.uniform(300, 520, 9)[:, None]
    star = middle + arms * np.column_stack([np.cos(turns), np.sin(turns)])
    hole = middle + 60 * np.column_stack([np.cos(turns), np.sin(turns)])
    apart = np.array([1500, 80]) + rng.uniform(0, 100, (3, 2))
    return [star, hole, apart]


def test_the_page_measures_as_python_does(visit, maps):
    rng = np.random.default_rng(0)
    state = json.loads(visit.page.inner_text("#about") or visit.page.text_content("#about"))
    assert state["maps"]["rows"] == maps.shown.cellularity.shape[0]
    for _ in range(5):
        rings = random_rings(rng, maps)
        area = shapely.Polygon(rings[0], [rings[1]]) if shapely.Polygon(rings[0]).is_valid else None
        if area is None or not area.is_valid:
            continue
        bed = Bed(shapely.MultiPolygon([area, shapely.Polygon(rings[2])]), "drawn")
        expected = measure(bed, maps, min_coverage=0.9)
        got = visit.page.evaluate(
            """(rings) => {
                const about = JSON.parse(document.getElementById("about").textContent);
                for (const name of ["score", "tissue", "unread"]) about.maps[name] =
                    Uint8Array.from(atob(about.maps[name]), (letter) => letter.charCodeAt(0));
                return [wsiBed.measure(rings, about.maps), wsiBed.geojson(rings, {}),
                        wsiBed.tangled(rings)];
            }""",
            [ring.tolist() for ring in rings],
        )
        measured, geojson, tangled = got
        assert not tangled
        assert measured["cellularity"] == pytest.approx(expected.cellularity, abs=0.003)
        assert measured["area_mm2"] == pytest.approx(expected.area_mm2, abs=1e-4)
        assert measured["longest_mm"] == pytest.approx(expected.longest_mm, abs=1e-3)
        assert measured["across_mm"] == pytest.approx(expected.across_mm, abs=1e-3)
        (feature,) = geojson["features"]
        assert [len(part) for part in feature["geometry"]["coordinates"]] == [2, 1]


def test_an_outline_that_crosses_itself_gets_no_figure(visit):
    visit.page.evaluate(
        f"""() => {{
            const bed = {VIEW}.model.document.get_model_by_name("bed");
            bed.data = {{ xs: [[0.1, 0.5, 0.5, 0.1]], ys: [[-0.1, -0.4, -0.1, -0.4]] }};
        }}"""
    )
    assert "crosses itself" in visit.text("#bed-card")
    assert visit.page.is_disabled("#save")


def test_it_is_printed_on_two_pages(visit, tmp_path):
    pdf = visit.page.pdf(format="A4")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 2

from dataclasses import replace

import pytest

from tests.benchmarks.scaling_model import GPUS, SCENARIOS, Layout, Site, Slides, bottleneck, limits


def test_a_limit_is_what_the_night_has_over_what_a_slide_takes():
    slides = Slides(tiles=640, file_gb=1, read_mb_per_tile=0, decode_s_per_tile=0, driver_s=10)
    site = Site(workers=10, model_tiles_s=64, tasks_s=5, slide_storage_gb_s=2, hours=1)
    found = limits(slides, site, Layout())
    assert found["model"] == 10 * 3600 / 10
    assert found["reading slides"] == 2 * 3600
    assert found["scheduler"] == 5 * 3600 / 10
    assert found["drivers"] == 2 * 3600 / 10
    assert found["PUT requests"] == 3500 * 3600 / (10 * 6 + 30)
    assert bottleneck(found) == ("drivers", 720)


@pytest.mark.parametrize("name", SCENARIOS)
def test_more_of_what_runs_out_helps(name):
    site, layout = SCENARIOS[name]
    _, most = bottleneck(limits(Slides(), site, layout))
    richer = replace(
        site, workers=2 * site.workers, drivers=2 * site.drivers,
        slide_storage_gb_s=2 * site.slide_storage_gb_s, store_gb_s=2 * site.store_gb_s,
    )  # fmt: skip
    assert bottleneck(limits(Slides(), richer, layout))[1] > most


def test_what_the_page_concludes():
    def night(site, layout):
        return bottleneck(limits(Slides(), site, layout))

    assert night(*SCENARIOS["100 CPU workers, whole slides"])[1] > 10_000
    assert night(GPUS, Layout(over_dask=False, on_s3=False))[0] == "reading slides"
    assert night(GPUS, Layout(over_dask=False, keep_pixels=True))[1] > 10_000
    found = limits(Slides(), GPUS, Layout())
    assert found["scheduler"] > 50_000
    assert found["PUT requests"] > 400_000
    assert found["Prefect"] > 50_000

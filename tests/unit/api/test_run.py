"""`wsi.score` does what `wsi score` does, and says so in the library's own errors."""

import os
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import wsi_pipeline as wsi
from tests.helpers.outputs import assert_same
from wsi_pipeline.cli import app
from wsi_pipeline.errors import BundleError, ConfigError, OutputError, ResultError, SlideError
from wsi_pipeline.model.bundle import BUNDLED_MODEL


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_it_gives_what_the_command_gives(slide, finished, tiny_bundle, write_config, tmp_path):
    arguments = ["score", str(slide), "--out", str(tmp_path), "--bundle", str(tiny_bundle)]
    done = CliRunner().invoke(app, [*arguments, "--config", str(write_config())])
    assert done.exit_code == 0, done.output
    assert_same(tmp_path / "block", finished)


def test_a_second_time_there_is_nothing_to_do(slide, own, tiny_bundle, write_config):
    before = (own / "cellularity.ome.tiff").stat().st_mtime_ns
    moved = []
    result = wsi.score(
        str(slide),
        str(own.parent),
        bundle=wsi.load_bundle(tiny_bundle),
        config=str(write_config()),
        progress=lambda done, total: moved.append((done, total)),
    )
    assert moved == []
    assert result.folder == own
    assert result.summary == wsi.open_result(own).summary
    assert (own / "cellularity.ome.tiff").stat().st_mtime_ns == before


def test_progress_is_told_up_to_the_end(slide, tiny_bundle, write_config, tmp_path, capfd):
    moved = []
    result = wsi.score(
        slide,
        tmp_path,
        bundle=tiny_bundle,
        config=write_config(),
        progress=lambda done, total: moved.append((done, total)),
    )
    n_tiles = result.summary.tiles.tissue
    assert moved[0] == (0, n_tiles)
    assert moved[-1] == (n_tiles, n_tiles)
    assert "block.tif" not in capfd.readouterr().err


def test_without_a_progress_of_ones_own_there_is_a_bar(
    slide, tiny_bundle, write_config, tmp_path, capfd
):
    result = wsi.score(slide, tmp_path, bundle=tiny_bundle, config=write_config())
    n_tiles = result.summary.tiles.tissue
    assert f"block.tif: 100%|██████████| {n_tiles}/{n_tiles}" in capfd.readouterr().err


def test_the_sign_for_home_is_understood(slide, own, home, tiny_bundle, write_config, monkeypatch):
    shutil.copytree(own.parent, home / "results")
    shutil.copy(slide, home / "block.tif")
    shutil.copy(slide, home / "~block.tif")
    shutil.copytree(tiny_bundle, home / "tiny")
    shutil.copy(write_config(), home / "score.yaml")
    monkeypatch.chdir(home)
    result = wsi.score(
        "~/block.tif", "~/results", bundle="~/tiny", config="~/score.yaml", progress=print
    )
    assert result.folder == home / "results" / "block"
    assert wsi.open_result("~/results/block").summary == result.summary
    # A file may begin with the sign, too.
    other = wsi.score("~block.tif", "results", bundle="~/tiny", config="score.yaml", progress=print)
    assert other.folder == home / "results" / "~block"
    os.chdir("/")
    assert other.map.shape == result.map.shape  # whatever folder a notebook changes to


def test_a_pseudonym_is_all_that_is_shown(slide, tiny_bundle, write_config, tmp_path, capfd):
    patient = tmp_path / "Doe, Jane 1961-07-01.tif"
    shutil.copy(slide, patient)
    result = wsi.score(
        patient, tmp_path / "out", bundle=tiny_bundle, config=write_config(names="digest")
    )
    pseudonym = f"slide-{result.summary.provenance.slide.digest[:16]}"
    assert result.name == result.folder.name == pseudonym
    title = result.plot().get_title(loc="left")
    html = re.sub(r"base64,[^\"]+", "", result._repr_html_())
    shown = [repr(result), html, title, str(result.map)]
    shown += capfd.readouterr()
    assert all("Doe" not in text and "1961" not in text for text in shown)
    assert pseudonym in title


@pytest.mark.parametrize(
    "name",
    ["$\\frac{1}{0$.tif", "a%sb{}.tif", "<b>bold<b>.tif", "検体 42.tif", "x" * 200 + ".tif"],
)
@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
def test_hostile_names_are_drawn_and_shown(slide, tiny_bundle, write_config, tmp_path, name):
    place = tmp_path / "in" / name
    place.parent.mkdir()
    shutil.copy(slide, place)
    result = wsi.score(
        place, tmp_path / "out", bundle=tiny_bundle, config=write_config(), progress=print
    )
    result.plot().figure.savefig(tmp_path / "plot.png")
    assert "<b>" not in result._repr_html_()
    assert wsi.open_result(result.folder).name == result.name


def test_a_refusal_does_not_borrow_the_figure_of_other_settings(
    slide, own, tiny_bundle, write_config
):
    config = write_config(tissue={"min_texture": 9.0})
    result = wsi.score(slide, own.parent, bundle=tiny_bundle, config=config, progress=print)
    assert result.folder == own
    assert result.summary.status == "refused"
    assert result.summary.cellularity is None
    with pytest.raises(ResultError, match="refused"):
        _ = result.map
    assert "Refused: no figure" in result._repr_html_()
    assert wsi.open_result(own).summary.status == "scored"


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"slide": "gone.svs"}, SlideError, "gone.svs"),
        ({"slide": "."}, ConfigError, "no slides in this folder"),
        ({"out": "file"}, OutputError, "file"),
        ({"bundle": "gone"}, BundleError, "gone"),
        ({"bundle": "hf://nobody"}, BundleError, "hf://nobody is no hub address"),
        ({"config": "gone.yaml"}, ConfigError, "gone.yaml: there is no such configuration file"),
        ({"config": "."}, ConfigError, "cannot be read"),
        ({"config": "file"}, ConfigError, "file: "),
        ({"mpp": -1.0}, ConfigError, "slide.mpp: "),
        ({"workers": 0}, ConfigError, "workers: "),
        ({"device": "abacus"}, ConfigError, "device"),
    ],
)
def test_what_cannot_be_used_is_named(
    slide, tiny_bundle, write_config, tmp_path, monkeypatch, changes, kind, said
):
    (tmp_path / "file").write_text("a text\n")
    monkeypatch.chdir(tmp_path)
    given = {"slide": slide, "out": "out", "bundle": tiny_bundle, "config": write_config()}
    with pytest.raises(kind, match=said) as caught:
        wsi.score(**given | changes, progress=print)
    assert isinstance(caught.value, wsi.WsiError)


def test_who_names_no_bundle_is_told_what_the_demonstration_is(slide, write_config, tmp_path):
    """The tiny tiles are none of its own, so that nothing is scored."""
    with (
        pytest.warns(UserWarning, match="demonstration model.*nothing about a patient") as caught,
        pytest.raises(ConfigError, match="takes tiles of 512 px"),
    ):
        wsi.score(slide, tmp_path, config=write_config(), progress=print)
    assert Path(caught[0].filename) == Path(__file__)  # the caller's line


def test_bundles_are_loaded_from_folders_and_the_demonstration_by_default(tiny_bundle):
    assert wsi.load_bundle(tiny_bundle).card.name == "tiny"
    assert wsi.load_bundle(str(tiny_bundle)).digest == wsi.load_bundle(tiny_bundle).digest
    assert wsi.load_bundle().digest == wsi.load_bundle(BUNDLED_MODEL).digest
    assert wsi.load_bundle().card.demonstration
    with pytest.raises(BundleError, match="nowhere"):
        wsi.load_bundle("nowhere")


def test_an_estimate_comes_first_and_the_result_from_there(
    slide, finished, tiny_bundle, write_config, tmp_path
):
    options = {"bundle": tiny_bundle, "config": write_config(), "progress": lambda *_: None}
    found = wsi.estimate(slide, tmp_path, 0.2, **options)
    assert isinstance(found, wsi.Estimate)
    assert found.scored < found.tiles
    with pytest.raises(ResultError, match="an estimate alone"):
        wsi.open_result(tmp_path / "block")
    result = wsi.score(slide, tmp_path, **options)
    assert_same(tmp_path / "block", finished)
    assert wsi.estimate(slide, tmp_path, 0.2, **options).summary == result.summary
    with pytest.raises(ConfigError, match="between 0 and 1"):
        wsi.estimate(slide, tmp_path, 2, **options)

"""The `wsi` command as its user meets it: what it prints, what it writes, and its exit code."""

import errno
import logging
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import yaml

from wsi_pipeline import cli
from wsi_pipeline.model import bundle
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.scoring import pipeline
from wsi_pipeline.tiles.store import TileStore


@pytest.fixture
def wsi(tmp_path, tiny_bundle, monkeypatch, capsys):
    """Run a command with the small bundle and its configuration.

    Gives the exit code, the output with all white space made one blank (tables wrap), and the
    lines on stderr.
    """
    config = tmp_path / "score.yaml"
    engine = {"device": "cpu", "runtime": "torch", "precision": "float32", "batch_size": 4}
    grid = {"tile_px": 64, "stride_px": 64}
    config.write_text(yaml.safe_dump({"grid": grid, "engine": engine, "workers": 2}))
    common = {
        "score": ["--out", tmp_path / "out", "--config", config, "--bundle", tiny_bundle],
        "inspect": ["--config", config, "--bundle", tiny_bundle],
        "tile": ["--out", tmp_path / "out", "--config", config],
        "heatmap": ["--config", config],
    }

    def run(command, *arguments, replaced=None):
        options = common[command] if replaced is None else replaced
        monkeypatch.setattr(sys, "argv", ["wsi", command, *map(str, (*arguments, *options))])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return exit_.value.code, " ".join(captured.out.split()), captured.err.splitlines()

    run.common = common
    return run


@pytest.fixture
def tissue(section):
    """About 40 tiles."""
    return section.rgb[:512, :512].copy()


def errors_of(lines):
    return [line for line in lines if line.startswith("error: ")]


def test_score_one_slide_and_draw_it_again(wsi, make_slide, tissue, tmp_path):
    slide = make_slide(tissue, name="a.tif")
    code, out, err = wsi("score", slide)
    assert (code, errors_of(err)) == (0, [])
    folder = tmp_path / "out" / "a"
    n_tiles = TileStore(folder / "tiles.zarr").n_scored
    assert f"a scored {n_tiles}" in out
    assert any(f"{n_tiles}/{n_tiles}" in line for line in err)  # the bar

    names = ("cellularity.ome.tiff", "tiles.geojson", "tiles.parquet", "legend.png")
    pictures = ("overlay.tif", "overlay.png")
    before = {name: (folder / name).read_bytes() for name in (*names, *pictures)}
    for name in before:
        (folder / name).unlink()
    code, out, _ = wsi("heatmap", folder)
    assert code == 0
    assert "a.tif written again" in out
    assert {name: (folder / name).read_bytes() for name in names} == {
        name: before[name] for name in names
    }
    assert not (folder / "overlay.tif").exists()
    assert wsi("heatmap", folder, "--slide", slide)[0] == 0
    assert {name: (folder / name).read_bytes() for name in before} == before

    code, out, err = wsi("score", slide)
    assert (code, errors_of(err)) == (0, [])
    assert f"a already scored {n_tiles}" in out
    code, out, err = wsi("verify", folder.parent, replaced=["--deep"])
    assert (code, err) == (0, [])
    assert "1 results, 0 damaged; 0 slides without a result." in out
    (folder / "tiles.parquet").write_bytes(before["tiles.parquet"][:-1])
    (folder / "legend.png").unlink()
    for where in (folder, folder.parent):
        code, out, err = wsi("verify", where, replaced=[])
        assert code == 1
        assert "1 results, 1 damaged" in out
        assert [line.split(": ")[:2] for line in err] == [
            ["damaged", str(folder / name)] for name in ("legend.png", "tiles.parquet")
        ]
        assert all("Run the same `wsi score` or night again" in line for line in err)
    assert wsi("score", slide)[0] == 0
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert wsi("verify", folder, replaced=[])[0] == 0
    code, _, err = wsi("verify", make_slide(tissue, name="b.tif").parent / "none", replaced=[])
    assert code == 1
    assert "no results are here" in errors_of(err)[0]

    other = make_slide(255 - tissue, name="other.tif")
    code, _, err = wsi("heatmap", folder, "--slide", other)
    assert code == 1
    [line] = err
    assert "other.tif: this is not the slide that" in line
    assert "a.tif" in line


def test_a_bad_slide_does_not_stop_the_others(wsi, make_slide, tissue, tmp_path):
    slides = tmp_path / "slides"
    slides.mkdir()
    (slides / "bad.svs").write_text("This is no slide.")
    (slides / "notes.txt").write_text("Nor is this, but it does not say so.")
    for name in ("a.tif", "z.tiff"):
        make_slide(tissue, name=name).rename(slides / name)
    code, out, err = wsi("score", slides)
    assert code == 1
    [line] = errors_of(err)
    assert str(slides / "bad.svs") in line
    for words in ("a scored", "z scored", "bad failed"):
        assert words in out
    for name in ("a", "z"):
        assert (tmp_path / "out" / name / "summary.json").exists()

    (slides / "bad.svs").unlink()
    assert wsi("score", slides)[0] == 0
    assert wsi("score", slides / "a.tif", slides / "z.tiff", slides)[0] == 0  # none of them twice


def test_a_slide_without_tissue_is_not_a_scored_slide(wsi, make_slide, tissue):
    glass = make_slide(0 * tissue + 242, name="glass.tif")
    code, out, err = wsi("score", glass)
    assert code == 1
    assert "refused" in out
    assert errors_of(err) == []


def test_a_missing_pixel_size_can_be_given(wsi, make_slide, tissue):
    slide = make_slide(tissue, mpp=None, name="unknown.tif")
    for command in ("score", "inspect", "tile"):
        code, _, err = wsi(command, slide)
        assert code == 1
        [line] = errors_of(err)
        assert "unknown.tif: the file does not say how large its pixels are" in line
        assert "--mpp" in line
    assert wsi("score", slide, "--mpp", "0.5")[0] == 0
    code, _, err = wsi("score", slide, "--mpp", "500")
    assert code == 1
    assert "the override of 500 µm/px is outside" in errors_of(err)[0]


def test_a_coarse_slide_needs_leave_to_be_enlarged(wsi, make_slide, tissue):
    slide = make_slide(tissue[::2, ::2].copy(), mpp=1.0, name="coarse.tif")
    code, _, err = wsi("score", slide)
    assert code == 1
    [line] = errors_of(err)
    assert "coarse.tif" in line
    assert "--allow-upsampling" in line
    assert wsi("score", slide, "--allow-upsampling")[0] == 0


def test_a_night_by_hand(wsi, make_slide, tissue, tmp_path, tiny_bundle):
    inbox, config = tmp_path / "inbox", tmp_path / "night.yaml"
    inbox.mkdir()
    make_slide(tissue, name="a.tif").rename(inbox / "a.tif")
    (inbox / "letter.svs").write_text("Dear colleague")
    settings = yaml.safe_load((tmp_path / "score.yaml").read_text())
    config.write_text(yaml.safe_dump(settings | {"inbox": {"quiet_s": 0, "look_again_s": 0}}))
    options = ["--out", tmp_path / "out", "--config", config, "--bundle", tiny_bundle]

    code, out, err = wsi("cohort", inbox, replaced=options)
    assert code == 1
    assert [line for line in err if line.startswith("failed ")] == [
        line for line in err if "letter.svs: this is not a slide" in line
    ]
    assert "a.tif scored" in out
    assert (tmp_path / "out" / "a" / "cellularity.ome.tiff").is_file()
    assert list((tmp_path / "out" / "nights").glob("*/index.html"))

    code, out, err = wsi("cohort", inbox, replaced=options)
    assert (code, errors_of(err)) == (0, [])  # what failed for good is known, and no news
    assert "a.tif left" in out


def test_inspect(wsi, make_slide, tissue):
    slide = make_slide(tissue, downsamples=(4,), name="a.tif")
    code, out, err = wsi("inspect", slide)
    assert (code, err) == (0, [])
    for words in (
        "Slide a.tif (generic-tiff, read with tiffslide)",
        "Size 512 × 512 px, 0.3 × 0.3 mm",
        "Pixel size 0.5 µm/px, from the TIFF resolution tags",
        "Levels 512 × 512 (1/1), 128 × 128 (1/4)",
        "Tissue 0.0",
        "of 64 hold tissue",
        "s with tiny (cpu, torch, float32)",
    ):
        assert words in out
    _, out, _ = wsi("inspect", slide, "--mpp", "0.25")
    assert "Pixel size 0.25 µm/px, from the override" in out


def test_tile_then_score(wsi, make_slide, tissue, tmp_path):
    slide = make_slide(tissue, name="a.tif")
    code, out, _ = wsi("tile", slide)
    assert code == 0
    store = TileStore(tmp_path / "out" / "a" / "tiles.zarr")
    assert out.startswith(f"{len(store)} tiles in")
    assert store.n_scored == 0
    code, _, err = wsi("heatmap", tmp_path / "out" / "a")
    assert code == 1
    assert "Run `wsi score` first" in errors_of(err)[0]

    pixels = tmp_path / "out" / "a" / "tiles.zarr" / "rgb" / "c"
    written = {path: path.stat().st_mtime_ns for path in pixels.rglob("0") if path.is_file()}
    assert wsi("score", slide, "--keep-tiles")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert TileStore(store.path).n_scored == len(store)


def test_two_slides_of_one_name_are_refused(wsi, make_slide, tissue, tmp_path):
    paths = [make_slide(tissue, name=name) for name in ("a.tif", "a.svs")]
    code, _, err = wsi("score", *paths)
    assert code == 1
    [line] = err
    assert "a.tif and" in line
    assert "would share the output folder a" in line
    assert not (tmp_path / "out").exists()


def test_what_is_not_there(wsi, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = wsi("score", tmp_path / "empty")
    assert code == 1
    assert "no slides in this folder" in err[0]
    for command in ("score", "inspect", "tile"):
        code, _, err = wsi(command, tmp_path / "missing.svs")
        assert code == 1
        [line] = errors_of(err)
        assert str(tmp_path / "missing.svs") in line
    code, _, err = wsi("heatmap", tmp_path / "missing")
    assert code == 1
    assert "there is no finished result here" in errors_of(err)[0]
    code, _, err = wsi("score", tmp_path, replaced=["--out", tmp_path, "--bundle", tmp_path / "no"])
    assert code == 1
    assert "no" in errors_of(err)[0]


@pytest.mark.parametrize(
    ("content", "named"),
    [("tyssue: {}", "tyssue"), ("grid: {stride: 3}", "grid.stride"), ("a: [", "not YAML")],
)
def test_a_configuration_that_is_not_understood(wsi, tmp_path, content, named):
    config = tmp_path / "bad.yaml"
    config.write_text(content)
    code, _, err = wsi("score", "a.svs", replaced=["--out", tmp_path, "--config", config])
    assert code == 1
    assert err[0].startswith(f"error: {config}: ")
    assert named in err[0]


def test_a_configuration_that_cannot_be_read(wsi, tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    config = tmp_path / "folder.yaml"
    code, _, err = wsi("score", "a.svs", replaced=["--out", tmp_path, "--config", config])
    assert (code, err) == (1, [f"error: {config}: {os.strerror(errno.EISDIR)}."])


def test_a_slide_that_must_not_be_read(wsi, make_slide, tissue, monkeypatch):
    """The tests may run as root, whom no permission stops."""
    secret, public = (make_slide(tissue, name=name) for name in ("a.tif", "b.tif"))
    score_slide = pipeline.score_slide

    def guarded(file, *arguments, **options):
        if file.location == str(secret):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), file.location)
        return score_slide(file, *arguments, **options)

    monkeypatch.setattr(pipeline, "score_slide", guarded)
    code, out, err = wsi("score", secret, public)
    assert code == 1
    assert errors_of(err) == [f"error: {secret}: Permission denied."]
    assert "b scored" in out


def test_out_is_a_file(wsi, make_slide, tissue, tmp_path):
    (tmp_path / "out").write_text("")
    code, out, err = wsi("score", make_slide(tissue, name="a.tif"))
    assert code == 1
    [line] = errors_of(err)
    assert str(tmp_path / "out") in line
    assert "a failed" in out


def test_names_are_shown_as_they_are(wsi, tmp_path):
    """Brackets are markup to the library that colours the lines."""
    (tmp_path / "in[").mkdir()
    slide = tmp_path / "in[" / "bold]x [red].svs"
    slide.write_text("This is no slide.")
    code, out, err = wsi("score", slide)
    assert code == 1
    [line] = errors_of(err)
    assert str(slide) in line
    assert "bold]x [red] failed" in out
    assert any("bold]x [red]" in line for line in err if not line.startswith("error"))


def test_the_demonstration_model_says_what_it_is(
    wsi, make_slide, tissue, tiny_bundle, tmp_path, monkeypatch
):
    tiny = ModelBundle.load(tiny_bundle)
    card = tiny.card.model_copy(update={"demonstration": True})
    ModelBundle.of(tiny.network(), card).save(tmp_path / "demo")
    monkeypatch.setattr(bundle, "BUNDLED_MODEL", tmp_path / "demo")
    without_bundle = wsi.common["score"][:-2]
    slide = make_slide(tissue, name="a.tif")
    code, _, err = wsi("score", slide, replaced=without_bundle)
    assert code == 0
    said = " ".join(" ".join(err).split())
    assert "Using tiny 1, a demonstration: Nothing: its weights are random." in said
    assert "Pass --bundle" in said


@pytest.mark.parametrize("option", [(), ("--verbose",)])
def test_the_log_is_shown_if_wanted(wsi, make_slide, tissue, tmp_path, monkeypatch, capsys, option):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    slide = make_slide(tissue, name="a.tif")
    arguments = ["tile", slide, *wsi.common["tile"]]
    monkeypatch.setattr(sys, "argv", ["wsi", *option, *map(str, arguments)])
    cli.app(standalone_mode=False)
    assert ("hold tissue" in capsys.readouterr().err) == bool(option)
    assert "hold tissue" in (tmp_path / "out" / "a" / "run.log").read_text()


def test_a_wrong_option_is_a_matter_of_usage(wsi):
    code, _, err = wsi("score", "a.svs", "--outt", "b", replaced=[])
    assert code == 2
    assert "--out" in " ".join(err)


def test_the_version(wsi):
    assert wsi("--version", replaced=[])[:2] == (0, version("wsi-pipeline"))


@pytest.mark.parametrize("arguments", [["--help"], ["score", "--help"], ["score"]])
def test_help_and_mistakes_do_not_wait_for_libraries(arguments):
    """Of the pipeline, the command by itself imports what shows errors alone."""
    code = (
        "import sys; from wsi_pipeline import cli\n"
        "try: cli.main()\n"
        "except SystemExit: print(*sorted(sys.modules), sep='\\n')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    imported = ended.stdout.splitlines()
    ours = {name for name in imported if name.startswith("wsi_pipeline")}
    commands = ("bundles", "cases", "machine", "nights", "results", "slides")
    parts = ("app", "options", "screen", *commands)
    shown = ("cli", "errors", "machine", "memory", "shown", *(f"cli.{part}" for part in parts))
    assert ours == {"wsi_pipeline", *(f"wsi_pipeline.{part}" for part in shown)}
    assert not {"numpy", "torch", "zarr"} & set(imported)

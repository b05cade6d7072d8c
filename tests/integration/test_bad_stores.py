"""`wsi score a b` where a's store, left by a killed run, is damaged: both slides are scored."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.outputs import files_of
from wsi_pipeline import cli


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    (path / "x").mkdir(parents=True)


def replace_by_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("not a store")


DAMAGES = {
    "its root is of zeros": ("zarr.json", lambda path: path.write_bytes(bytes(500))),
    "its root is a folder": ("zarr.json", replace_by_folder),
    "its root nests": ("zarr.json", lambda path: path.write_text("[" * 100_000)),
    "it is a file": (".", replace_by_file),
    "the pixels' metadata are gone": ("rgb/zarr.json", Path.unlink),
    "a pixel is not what it was": ("rgb/c/0/0/0/0", flip),
    "the grid is not what it was": ("l0_xy/c/0/0", flip),
}


@pytest.fixture
def score(tmp_path, make_slide, section, tiny_bundle, monkeypatch, capsys):
    """Score two slides into a folder, or tile the first."""
    slides = [
        make_slide(section.rgb[at : at + 256, at : at + 256].copy(), name=f"{name}.tif")
        for name, at in (("a", 256), ("b", 512))
    ]
    config = tmp_path / "score.yaml"
    engine = {"device": "cpu", "runtime": "torch", "precision": "float32", "batch_size": 4}
    grid = {"tile_px": 64, "stride_px": 64}
    config.write_text(yaml.safe_dump({"grid": grid, "engine": engine, "workers": 1}))

    def score(out: Path, command: str = "score") -> None:
        options = ["--out", out, "--config", config]
        options += ["--bundle", tiny_bundle] if command == "score" else []
        which = slides if command == "score" else slides[:1]
        monkeypatch.setattr(sys, "argv", ["wsi", command, *map(str, (*which, *options))])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        told = capsys.readouterr().err
        assert "Traceback" not in told
        assert exit_.value.code == 0, told

    return score


def test_a_bad_store_costs_neither_its_slide_nor_the_next(score, tmp_path):
    score(tmp_path / "tiled", "tile")
    score(tmp_path / "whole")
    whole = {name: files_of(tmp_path / "whole" / name) for name in "ab"}
    for number, (what, (where, damage)) in enumerate(DAMAGES.items()):
        out = shutil.copytree(tmp_path / "tiled", tmp_path / f"{number}")
        damage(out / "a" / "tiles.zarr" / where)
        score(out)
        for name in "ab":
            found = files_of(out / name)
            left = {file for file in found if not file.startswith("tiles-unusable")}
            assert left == set(whole[name]), what
            assert [file for file in left if found[file] != whole[name][file]] == [], what
        set_aside = list((out / "a").glob("tiles-unusable*"))
        assert bool(set_aside) == (where in (".", "zarr.json")), what
        log = (out / "a" / "run.log").read_text()
        assert ("is set aside as tiles-unusable.zarr" in log) == bool(set_aside), what

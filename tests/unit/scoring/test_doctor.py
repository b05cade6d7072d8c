import numpy as np
import pytest

from wsi_pipeline.model.bundle import BUNDLED_MODEL, ModelBundle
from wsi_pipeline.scoring import doctor
from wsi_pipeline.scoring.doctor import LARGEST_ERROR, gpu_ways, machine, sample_tiles, ways


def test_a_machine_says_what_it_has(tmp_path):
    found = {finding.what: finding for finding in machine(tmp_path)}
    assert {"Python", "cores", "memory", "disk here", "openvino", "torch"} <= found.keys()
    assert all(finding.found for finding in found.values())


@pytest.mark.parametrize(
    ("package", "has", "amiss"),
    [("sqlalchemy", "2.1.0", True), ("sqlalchemy", "2.0.44", False), ("fastapi", "0.150.1", True),
     ("fastapi", "0.149", False), ("sqlalchemy", "not installed", False)],
)  # fmt: skip
def test_versions_with_which_nights_never_fired_are_named(
    monkeypatch, tmp_path, package, has, amiss
):
    monkeypatch.setattr(doctor, "_installed", lambda name: has if name == package else "1.0")
    found = [f for f in machine(tmp_path) if f.what == package and f.remedy]
    assert bool(found) == amiss
    if amiss:
        assert f'pip install "{package}<' in found[0].remedy


def test_every_way_to_run_the_model_here_scores_alike_and_one_is_chosen():
    found = ways(ModelBundle.load(BUNDLED_MODEL), "cpu")
    ran = [way for way in found if way.failure is None]
    assert {"cpu, torch, float32", "cpu, openvino, float32"} <= {way.name for way in ran}
    assert ran[0].largest_error == 0
    assert all(way.largest_error <= LARGEST_ERROR for way in ran)
    assert all(way.tiles_per_s > 0 for way in ran)
    assert sum(way.chosen for way in ran) == 1


def test_a_gpu_that_is_not_there_is_a_way_that_fails_with_a_word():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    found = [way for way in ways(ModelBundle.load(BUNDLED_MODEL), "cuda") if "cuda" in way.name]
    assert found
    assert all(way.failure for way in found)
    assert not any(way.chosen for way in found)


def test_every_form_of_torch_scores_alike_or_says_why_it_cannot_run(tiny_bundle):
    """On a CPU, which has them all but for captured graphs; compiling wants a C++ compiler."""
    found = gpu_ways(ModelBundle.load(tiny_bundle), "cpu")
    assert [way.name for way in found] == [
        "eager, float32", "autocast, bfloat16", "compiled, bfloat16",
    ]  # fmt: skip
    eager, autocast, compiled = found
    assert eager.largest_error == 0
    assert autocast.failure is None
    assert 0 < autocast.largest_error <= LARGEST_ERROR
    assert compiled.failure or compiled.largest_error <= LARGEST_ERROR
    assert [way.chosen for way in found] == [False, True, False]


@pytest.mark.gpu
def test_the_captured_graph_is_what_scoring_takes_on_a_gpu():
    found = {way.name: way for way in gpu_ways(ModelBundle.load(BUNDLED_MODEL), "cuda")}
    captured = found["captured graph, bfloat16"]
    assert captured.failure is None
    assert captured.chosen
    assert captured.largest_error <= LARGEST_ERROR


def test_a_form_that_fails_is_a_word_and_not_the_end(tiny_bundle, monkeypatch):
    import torch

    def fails(*_args, **_more):
        raise RuntimeError("no compiler here\nand much more")

    monkeypatch.setattr(torch, "compile", fails)
    found = gpu_ways(ModelBundle.load(tiny_bundle), "cpu")
    assert found[2].failure == "no compiler here"
    assert found[1].chosen


def test_the_sample_is_tissue_in_eight_views():
    tiles = sample_tiles(512)
    assert tiles.shape == (8, 512, 512, 3)
    assert 60 < tiles.mean() < 220
    assert len({tile.tobytes() for tile in tiles}) == 8
    np.testing.assert_array_equal(np.rot90(tiles[0]), tiles[1])

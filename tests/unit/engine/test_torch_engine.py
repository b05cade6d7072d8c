import numpy as np
import pytest
import torch

from tests.helpers.engines import assert_batch_mates_do_not_matter
from wsi_pipeline.engine.base import dihedral_views
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.engine.torch_engine import TorchEngine
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.model.network import class_fractions

TOLERANCE = 1e-5
"""Largest difference that the batch size may make to a float32 score."""


@pytest.fixture(scope="module")
def tiles(section):
    rgb = section.rgb
    corners = [(y, x) for y in range(260, 760, 200) for x in range(260, 760, 200)]
    return np.stack([rgb[y : y + 64, x : x + 64] for y, x in corners[:9]])


def engine_of(bundle, **settings):
    settings = {
        "device": "cpu",
        "runtime": "torch",
        "precision": "float32",
        "batch_size": 4,
        **settings,
    }
    return TorchEngine(ModelBundle.load(bundle), EngineConfig(**settings))


@pytest.fixture(scope="module")
def reference(tiny_bundle, tiles):
    """The network as it is, one tile at a time."""
    network = ModelBundle.load(tiny_bundle).network()
    with torch.inference_mode():
        return np.array([network(torch.from_numpy(tile[None])).score.item() for tile in tiles])


def test_scores_are_in_range_and_differ(reference):
    assert (reference > 0).all()
    assert (reference < 1).all()
    assert reference.std() > 1e-4


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_the_batch_size_does_not_matter(tiny_bundle, tiles, reference, batch_size):
    scores = engine_of(tiny_bundle, batch_size=batch_size).predict(tiles)
    np.testing.assert_allclose(scores.cellularity, reference, atol=TOLERANCE)


def test_batch_mates_do_not_matter_at_all(tiny_bundle, tiles):
    assert_batch_mates_do_not_matter(engine_of(tiny_bundle), engine_of(tiny_bundle), tiles)


def test_bfloat16_is_close_to_the_reference(tiny_bundle, tiles, reference):
    scores = engine_of(tiny_bundle, precision="bfloat16").predict(tiles)
    assert scores.cellularity.dtype == np.float32
    np.testing.assert_allclose(scores.cellularity, reference, atol=0.02)


def test_fractions_are_shares_of_the_tile(tiny_bundle, tiles):
    engine = engine_of(tiny_bundle)
    fraction = engine.predict(tiles).class_fraction
    assert fraction.shape == (len(tiles), 4)
    np.testing.assert_allclose(fraction.sum(1), 1, atol=1e-6)
    network = ModelBundle.load(tiny_bundle).network()
    with torch.inference_mode():
        winner = network(torch.from_numpy(tiles[:1])).logits.argmax(1).numpy()
    expected = [(winner == label).mean() for label in range(4)]
    np.testing.assert_allclose(fraction[0], expected, atol=1e-2)


def test_eight_views_are_averaged(tiny_bundle, tiles):
    one, eight = engine_of(tiny_bundle), engine_of(tiny_bundle, views=8)
    views = [
        np.rot90(flipped, turns) for flipped in (tiles[0], tiles[0][:, ::-1]) for turns in range(4)
    ]
    each = one.predict(np.stack(views)).cellularity
    scores = eight.predict(tiles[:1])
    assert scores.cellularity[0] == pytest.approx(each.mean(), abs=TOLERANCE)
    assert scores.cellularity_std[0] == pytest.approx(each.std(), abs=TOLERANCE)
    assert np.isnan(one.predict(tiles[:1]).cellularity_std).all()


def test_the_views_are_all_symmetries_of_a_square():
    picture = np.arange(16 * 3, dtype=np.uint8).reshape(1, 4, 4, 3)
    views = dihedral_views(picture, 8)
    assert len({tuple(view.flatten().tolist()) for view in views}) == 8
    assert all(sorted(view.ravel()) == sorted(picture.ravel()) for view in views)
    assert len(dihedral_views(picture, 1)) == 1


def test_without_class_fractions_the_decoder_is_not_run(tiny_bundle, tiles, monkeypatch):
    with_them = engine_of(tiny_bundle).predict(tiles)
    engine = engine_of(tiny_bundle, class_fractions=False)
    monkeypatch.setattr("wsi_pipeline.model.network.SegmentationNetwork.decode", None)
    scores = engine.predict(tiles)
    np.testing.assert_array_equal(scores.cellularity, with_them.cellularity)
    assert scores.class_fraction.shape == with_them.class_fraction.shape
    assert np.isnan(scores.class_fraction).all()


def test_class_fractions_count_winners():
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 2, 0, :] = 5.0
    logits[0, 1, 1, 0] = 5.0
    assert class_fractions(logits)[0].tolist() == [0.25, 0.25, 0.5]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.02)])
def test_a_gpu_agrees_with_the_cpu(tiny_bundle, tiles, reference, precision, tolerance):
    engine = engine_of(tiny_bundle, device="cuda", precision=precision, batch_size=16)
    np.testing.assert_allclose(engine.predict(tiles).cellularity, reference, atol=tolerance)

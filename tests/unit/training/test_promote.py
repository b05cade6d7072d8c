"""Which bundle is in use after what, on pictures whose truth is made to fit one of them."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from training.agreement import agreement, compare
from training.data.picture import Picture, of_score
from training.evaluate import evaluate_bundle
from training.promote import (
    HeldOut,
    bundle_in_use,
    promote,
    put_in_use,
    refuse_known,
)
from wsi_pipeline.errors import BundleError, ConfigError
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.validation import load_yaml


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """What is compared here differs by far."""
    monkeypatch.setattr("training.evaluate.agreement", partial(agreement, resamples=20))
    monkeypatch.setattr("training.evaluate.compare", partial(compare, resamples=20))


@pytest.fixture(scope="module")
def one(tiny_bundle):
    return ModelBundle.load(tiny_bundle)


@pytest.fixture(scope="module")
def other(one):
    """A model that scores everything alike."""
    network = one.network()
    with torch.no_grad():
        for parameter in network.regression.parameters():
            parameter.zero_()
    return ModelBundle.of(network, one.card.model_copy(update={"version": "2"}))


def pictures_that_fit(bundle, seed=0):
    """Noise of different colours, judged exactly as a bundle will judge it."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (24, 64, 64, 3)) // rng.integers(1, 6, (24, 1, 1, 3))
    blank = [
        Picture(name=f"{i}.tif", group=f"slide {i // 2}", sample=of_score(rgb), scores=(0.0,))
        for i, rgb in enumerate(noise.astype(np.uint8))
    ]
    scores = evaluate_bundle(bundle, blank).prediction
    return [replace(p, scores=(float(s),)) for p, s in zip(blank, scores, strict=True)]


def digest_in_use(models):
    bundle = bundle_in_use(models)
    return None if bundle is None else bundle.digest


def decisions(models):
    return [json.loads(line) for line in (models / "promotions.jsonl").read_text().splitlines()]


def test_the_better_bundle_comes_into_use_and_the_old_one_stays_at_hand(one, other, tmp_path):
    put_in_use(other, tmp_path)

    decision = promote(one, pictures_that_fit(one), tmp_path)

    assert decision.promoted
    assert digest_in_use(tmp_path) == one.digest
    assert ModelBundle.load(tmp_path / "current").digest == one.digest
    assert ModelBundle.load(tmp_path / other.digest).digest == other.digest
    assert (tmp_path / "current").readlink() == Path(one.digest), "models can be moved as a whole"
    (line,) = decisions(tmp_path)
    assert (line["promoted"], line["pictures"], line["groups"]) == (True, 24, 12)
    assert (line["candidate"]["digest"], line["in_use"]["digest"]) == (one.digest, other.digest)
    assert line["difference"]["l1"]["high"] < 0
    assert line["candidate"]["figures"]["l1"]["value"] == pytest.approx(0, abs=1e-6)

    put_in_use(other, tmp_path)
    assert digest_in_use(tmp_path) == other.digest, "there is a way back"


def test_a_worse_bundle_does_not(one, other, tmp_path):
    put_in_use(one, tmp_path)

    decision = promote(other, pictures_that_fit(one), tmp_path)

    assert not decision.promoted
    assert "its L1 is not lower" in decision.reason
    assert digest_in_use(tmp_path) == one.digest
    assert not (tmp_path / other.digest).exists()
    assert [line["promoted"] for line in decisions(tmp_path)] == [False]


def test_the_first_bundle_must_be_better_than_the_best_constant(one, other, tmp_path):
    fitting = pictures_that_fit(one)
    against = [replace(p, scores=(1 - p.scores[0],)) for p in fitting]

    refused = promote(one, against, tmp_path / "models")
    assert not refused.promoted
    assert refused.reason.startswith("beside the best constant score, its L1 is not lower")
    assert digest_in_use(tmp_path / "models") is None
    assert not promote(other, fitting, tmp_path / "models").promoted, "it is a constant itself"

    assert promote(one, fitting, tmp_path / "models").promoted
    assert digest_in_use(tmp_path / "models") == one.digest
    assert [line["promoted"] for line in decisions(tmp_path / "models")] == [False, False, True]


def test_a_bundle_is_not_promoted_over_itself(one, tmp_path):
    put_in_use(one, tmp_path)
    decision = promote(one, pictures_that_fit(one), tmp_path)
    assert not decision.promoted
    assert decision.reason == "it is the bundle in use already"


@pytest.mark.parametrize("killed_in", ["symlink_to", "replace"])
def test_a_kill_between_copy_and_swap_leaves_the_old_bundle_in_use(one, other, tmp_path, killed_in):
    models = tmp_path / "models"
    put_in_use(one, models)
    other.save(tmp_path / "other")
    script = f"""
import os, signal
from pathlib import Path
from training.promote import put_in_use
from wsi_pipeline.model.bundle import ModelBundle

def die(path, target, **_):
    if "current" in path.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(path, target)

whole, Path.{killed_in} = Path.{killed_in}, die
put_in_use(ModelBundle.load({str(tmp_path / "other")!r}), Path({str(models)!r}))
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert digest_in_use(models) == one.digest
    assert ModelBundle.load(models / other.digest).digest == other.digest, "the copy is whole"
    put_in_use(other, models)
    assert digest_in_use(models) == other.digest
    assert sorted(path.name for path in models.iterdir()) == sorted(
        [one.digest, other.digest, "current"]
    )


def test_a_decision_taken_again_after_a_kill_is_recorded_once(one, other, tmp_path, monkeypatch):
    put_in_use(other, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("training.promote.put_in_use", lambda *_: None)
        promote(one, pictures_that_fit(one), tmp_path)
    assert digest_in_use(tmp_path) == other.digest
    promote(one, pictures_that_fit(one), tmp_path)
    assert digest_in_use(tmp_path) == one.digest
    assert len(decisions(tmp_path)) == 1


def test_what_is_no_link_is_not_replaced(one, tmp_path):
    one.save(tmp_path / "current")
    with pytest.raises(ConfigError, match=r"current is no link.*ln -s"):
        bundle_in_use(tmp_path)


def test_a_link_to_nowhere_is_named(tmp_path):
    (tmp_path / "current").symlink_to("gone")
    with pytest.raises(BundleError, match="gone is no model bundle"):
        bundle_in_use(tmp_path)


def test_pictures_that_training_has_seen_are_refused(one):
    held_out, training = pictures_that_fit(one, seed=1), pictures_that_fit(one, seed=2)
    refuse_known(held_out, [training])
    renamed = replace(held_out[3], name="copy.tif", scores=())
    with pytest.raises(ConfigError, match=r"1 of 24 held-out pictures \(3\.tif, for one\)"):
        refuse_known(held_out, [training, [renamed]])


def test_only_breastpathq_has_a_test_part(tmp_path):
    path = tmp_path / "held-out.yaml"
    path.write_text("{data: {kind: generated}, part: test}")
    with pytest.raises(ConfigError, match=r"held-out\.yaml.*kind generated has no part test"):
        load_yaml(path, HeldOut)
    path.write_text("{data: {kind: breastpathq, root: here}, part: test}")
    assert load_yaml(path, HeldOut).part == "test"

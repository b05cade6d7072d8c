"""A bundle judged as the pipeline runs it, and two bundles against each other."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from training import evaluate
from training.agreement import agreement
from training.data.picture import Picture, of_score, pack, windows
from training.evaluate import Evaluation, evaluate_bundle, is_better, write_evaluation
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.errors import BundleError, ConfigError
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.model.network import build_network

ENGINE = EngineConfig(device="cpu", runtime="torch", precision="float32", batch_size=4)


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return ModelBundle.load(tiny_bundle)


@pytest.fixture(scope="module")
def pictures(section):
    """A picture that nobody judged, cut up."""
    whole = Picture("section", "slide 1", pack(section.window(256, 256, 320)))
    return windows([whole], 64)


@pytest.fixture(scope="module")
def evaluation(bundle, pictures):
    return evaluate_bundle(bundle, pictures, ENGINE)


def test_scores_are_the_networks(bundle, section, evaluation):
    part = section.window(256, 256, 320)
    corners = [(x, y) for y in range(0, 320, 64) for x in range(0, 320, 64)]
    cut = [part.window(x, y, 64) for x, y in corners]
    with torch.no_grad():
        pixels = torch.from_numpy(np.stack([window.rgb for window in cut]))
        expected = bundle.network()(pixels).score
    np.testing.assert_allclose(evaluation.prediction, expected, atol=1e-5)
    np.testing.assert_allclose(evaluation.truth[:, 0], [w.cellularity for w in cut])
    assert evaluation.truth[:, 0].std() > 0.05
    assert evaluation.names[1] == "section (64, 0)"
    assert set(evaluation.groups) == {"slide 1"}
    assert evaluation.digest == bundle.digest


def judged(section, x, size, scores, group="a"):
    rgb = section.window(x, 0, size).rgb
    return Picture(f"patch {x}", group, of_score(rgb), scores)


def test_judged_patches_of_any_size_that_fits_are_scored_whole(bundle, section, caplog):
    sizes = [64, 64, 128, 64, 128, 128]
    scored = [(0.1, 0.2), (0.3, 0.3), (0.5, 0.4), (0.6, 0.7), (0.9, 0.9), (0.2, 0.0)]
    patches = [
        judged(section, 128 * i, size, score)
        for i, (size, score) in enumerate(zip(sizes, scored, strict=True))
    ]
    result = evaluate_bundle(bundle, patches, ENGINE)
    alone = [evaluate_bundle(bundle, [patch], ENGINE).prediction[0] for patch in patches]
    np.testing.assert_allclose(result.prediction, alone, atol=1e-5)
    np.testing.assert_array_equal(result.truth, scored)
    assert "64 px" in caplog.text


def test_a_coarser_model_sees_pictures_shrunk(bundle, section):
    card = bundle.card.model_copy(update={"mpp": 1.0, "tile_px": 64})
    coarse = ModelBundle.of(bundle.network(), card)
    picture = judged(section, 256, 128, (0.5,))
    result = evaluate_bundle(coarse, [picture], ENGINE)
    blocks = picture.sample[..., :3].reshape(64, 2, 64, 2, 3)
    averaged = blocks.mean((1, 3), dtype=np.float64).round().astype(np.uint8)
    with torch.no_grad():
        expected = bundle.network()(torch.from_numpy(averaged[None])).score
    np.testing.assert_allclose(result.prediction, expected, atol=2e-3)  # halves may round down
    with pytest.raises(ConfigError, match=r"192×192 px.*multiples of 128"):
        evaluate_bundle(coarse, [judged(section, 0, 192, (0.5,))], ENGINE)


def test_what_cannot_be_evaluated_is_named(bundle, section, tmp_path):
    with pytest.raises(ConfigError, match=r"patch 0 is 96×96 px.*multiples of 64.*window"):
        evaluate_bundle(bundle, [judged(section, 0, 96, (0.5,))], ENGINE)
    with pytest.raises(ConfigError, match="no pictures"):
        evaluate_bundle(bundle, [], ENGINE)
    mixed = [judged(section, 0, 64, (0.5, 0.6)), judged(section, 64, 64, (0.5,))]
    with pytest.raises(ConfigError, match="patch 64 has 1 scores and patch 0 has 2"):
        evaluate_bundle(bundle, mixed, ENGINE)
    finer = bundle.card.model_copy(update={"mpp": 0.25})
    with pytest.raises(ConfigError, match=r"0\.25 µm/px"):
        evaluate_bundle(
            ModelBundle.of(bundle.network(), finer), [judged(section, 0, 64, (0.5,))], ENGINE
        )


def test_scores_that_are_no_numbers_are_refused(bundle, section):
    network = build_network(bundle.card.architecture)
    torch.nn.init.constant_(network.head.weight, 3e38)
    torch.nn.init.constant_(network.head.bias, -3e38)
    for parameter in network.regression.parameters():
        torch.nn.init.constant_(parameter, 1e30)
    overflowing = ModelBundle.of(network, bundle.card)
    with pytest.raises(BundleError, match="computes infinities or no numbers"):
        evaluate_bundle(overflowing, [judged(section, 0, 64, (0.5,))], ENGINE)


@pytest.fixture
def workplace(tmp_path):
    content = {
        "data": {
            "kind": "generated",
            "train": 1,
            "validation": 6,
            "size": 128,
            "cache": str(tmp_path / "patches"),
        },
        "window": 64,
        "card": dict.fromkeys(
            ("name", "version", "trained_on", "licence", "intended_use", "limitations"), "x"
        ),
    }
    (tmp_path / "reg.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def run(bundle, workplace, out):
    evaluate.main(
        f"--bundle {bundle} --config {workplace / 'reg.yaml'} --out {workplace / out}".split()
    )
    return workplace / out


def test_the_command_writes_figures_predictions_and_plots(tiny_bundle, bundle, workplace):
    out, again = run(tiny_bundle, workplace, "out"), run(tiny_bundle, workplace, "again")
    for path in out.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    assert sorted(path.name for path in out.iterdir()) == [
        "calibration.png",
        "metrics.json",
        "predictions.csv",
        "scatter.png",
    ]
    metrics = json.loads((out / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert metrics["bundle_digest"] == bundle.digest
    assert (metrics["patches"], metrics["groups"], metrics["raters"]) == (24, 6, 1)
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    truth = [float(row["truth_1"]) for row in rows]
    prediction = np.array([row["prediction"] for row in rows], dtype=np.float32)
    figures = agreement(truth, prediction, [row["group"] for row in rows])
    assert metrics["metrics"] == {name: figure.record() for name, figure in figures.items()}
    assert metrics["metrics"]["pk"]["low"] < metrics["metrics"]["pk"]["high"]


def test_what_is_not_known_is_null(evaluation, tmp_path):
    write_evaluation(evaluation, tmp_path)  # all its pictures are of one slide
    metrics = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert metrics["metrics"]["l1"]["value"] > 0
    assert metrics["metrics"]["l1"]["low"] is None


def test_the_command_names_what_is_missing(tiny_bundle, workplace):
    with pytest.raises(SystemExit, match=r"nothing is no model bundle"):
        run(workplace / "nothing", workplace, "out")
    damaged = workplace / "damaged"
    shutil.copytree(tiny_bundle, damaged)
    (damaged / "model.safetensors").unlink()
    with pytest.raises(SystemExit, match=r"model\.safetensors is missing"):
        run(damaged, workplace, "out")


def of_scores(prediction, truth, groups):
    return Evaluation(
        model="a model",
        digest="0" * 64,
        precision="float32",
        names=tuple(f"patch {i}" for i in range(len(truth))),
        groups=tuple(groups),
        truth=np.reshape(truth, (len(truth), -1)),
        prediction=np.asarray(prediction, np.float32),
    )


@pytest.fixture
def study():
    rng = np.random.default_rng(0)
    truth, noise = rng.random(120), rng.normal(0, 0.1, 120)
    groups = [f"patient {i // 6}" for i in range(120)]
    return truth, noise, lambda prediction: of_scores(prediction, truth, groups)


def test_a_model_with_half_the_error_is_better_and_its_rival_is_not(study):
    truth, noise, model = study
    good, bad = model(truth + noise / 2), model(truth + noise)
    verdict = is_better(good, bad)
    assert verdict.better
    assert verdict.difference["l1"].value == pytest.approx(-np.abs(noise).mean() / 2, rel=1e-4)
    assert "L1 is lower, and its PK is not" in verdict.reason
    verdict = is_better(bad, good)
    assert not verdict.better
    assert "L1 is not lower" in verdict.reason


def test_the_model_in_use_is_not_replaced_by_itself(study):
    truth, noise, model = study
    assert not is_better(model(truth + noise), model(truth + noise)).better


def test_chance_is_no_reason(study):
    truth, noise, model = study
    luck = np.random.default_rng(0).normal(0, 0.1, len(truth))
    luck *= 0.98 * np.abs(noise).mean() / np.abs(luck).mean()
    verdict = is_better(model(truth + luck), model(truth + noise))
    assert verdict.difference["l1"].value < 0
    assert not verdict.better
    assert "not beyond chance" in verdict.reason


def test_coming_closer_by_ranking_worse_is_no_gain(study):
    truth, noise, model = study
    # The one ranks perfectly but is far off; the other is near on average.
    verdict = is_better(model(truth + noise), model(truth * 0.1))
    assert verdict.difference["l1"].high < 0
    assert verdict.difference["pk"].high < 0
    assert not verdict.better
    assert "so is its PK" in verdict.reason


def test_a_single_patient_tells_no_better_from_worse():
    truth = np.linspace(0, 1, 20)
    good, bad = (of_scores(truth + e, truth, ["one"] * 20) for e in (0.01, 0.2))
    verdict = is_better(good, bad)
    assert not verdict.better
    assert "few groups" in verdict.reason


def test_equal_truths_tell_no_better_from_worse():
    truth = np.full(20, 0.5)
    good, bad = (of_scores(truth + e, truth, map(str, range(20))) for e in (0.01, 0.2))
    assert not is_better(good, bad).better


def test_only_evaluations_of_the_same_pictures_are_compared(study):
    truth, noise, model = study
    one = model(truth + noise)
    for other in (
        replace(one, names=one.names[::-1]),
        replace(one, groups=one.groups[::-1]),
        replace(one, truth=one.truth / 2),
    ):
        with pytest.raises(ConfigError, match="other pictures"):
            is_better(one, other)

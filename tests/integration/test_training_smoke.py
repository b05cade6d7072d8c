"""Both stages by their real commands on little data: they learn, resume and export."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from training import reg, seg
from training.augment import AugmentConfig
from training.data.picture import Picture, pack, windows
from training.data.views import Views, validation_batches
from training.evaluate import evaluate_bundle
from training.fit import evaluate
from training.reg import RegConfig, regression_metrics, train_regression
from training.run import config_of, trained_weights
from training.seg import SegConfig, train_segmentation
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.model.network import build_network
from wsi_pipeline.outputs.tile_table import read_parquet
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.pipeline import score_slide
from wsi_pipeline.tiles.grid import GridConfig
from wsi_pipeline.validation import load_yaml

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Both smoke configurations, their patches kept apart from those of the checkout."""
    folder = tmp_path_factory.mktemp("training")
    for name in ("seg-smoke.yaml", "reg-smoke.yaml"):
        content = yaml.safe_load((CONFIGS / name).read_text())
        content["data"]["cache"] = str(folder / "patches")
        (folder / name).write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def runs(workplace):
    """Stage 1 and then stage 2, as a user runs them."""
    runs = workplace / "seg", workplace / "reg"
    seg.main(["--config", str(workplace / "seg-smoke.yaml"), "--run", str(runs[0])])
    reg.main(f"--config {workplace / 'reg-smoke.yaml'} --run {runs[1]} --init {runs[0]}".split())
    return runs


def metrics_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", [0, 1])
def test_the_loss_falls(runs, stage):
    losses = [line["loss"] for line in metrics_of(runs[stage])]
    assert losses[-1] < losses[0]


def test_scores_rank_what_was_learnt_better_than_a_constant_does(runs, workplace):
    data = load_yaml(workplace / "reg-smoke.yaml", RegConfig).data
    views = Views(data.cellularity("train"), AugmentConfig(), seed=0)
    network = ModelBundle.load(runs[1] / "bundle").network()
    with torch.no_grad():
        metrics = regression_metrics(network, DataLoader(views, 16), torch.device("cpu"))
    assert metrics["pk"] > 0.5


def test_the_bundle_holds_what_was_measured(runs, workplace):
    bundle = ModelBundle.load(runs[1] / "bundle")
    card = bundle.card
    assert card.demonstration
    assert card.trained_on
    data = load_yaml(workplace / "reg-smoke.yaml", RegConfig).data
    network = bundle.network()
    again = evaluate(
        network,
        lambda: regression_metrics(
            network, validation_batches(data.cellularity("validation")), torch.device("cpu")
        ),
    )
    assert card.metrics == pytest.approx(again, abs=1e-5)


def test_a_model_for_coarser_pixels(workplace, section, tmp_path):
    """Trained on shrunk pictures, it takes the same tissue from fewer pixels."""
    content = yaml.safe_load((workplace / "reg-smoke.yaml").read_text())
    content["data"]["size"] = 128
    content["architecture"]["segmentation_backbone"] = None
    content["fit"] |= {"epochs": 1, "validate_every": 1}
    (tmp_path / "coarse.yaml").write_text(yaml.safe_dump({**content, "shrink": 2}))
    reg.main(["--config", str(tmp_path / "coarse.yaml"), "--run", str(tmp_path / "coarse")])
    small = ModelBundle.load(tmp_path / "coarse" / "bundle")
    assert (small.card.mpp, small.card.tile_px) == (1.0, 256)
    evaluation = evaluate_bundle(
        small, load_yaml(tmp_path / "coarse.yaml", RegConfig).data.cellularity("validation")
    )
    assert np.isfinite(evaluation.prediction).all()
    engine = build_engine(small, EngineConfig(device="cpu", runtime="torch"))
    assert np.isfinite(engine.predict(section.window(0, 0, 256).rgb[None]).cellularity).all()


def test_a_slide_is_scored_as_in_training(runs, workplace, section, make_slide, tmp_path):
    network = build_network(load_yaml(workplace / "reg-smoke.yaml", RegConfig).architecture)
    network.load_state_dict(trained_weights(runs[1]))
    pictures = windows([Picture(name="section", group="section", sample=pack(section))], 512)
    with torch.no_grad():
        network.eval()
        in_training = [
            float(network(pixels).score) for pixels, _, _ in validation_batches(pictures)
        ]

    bundle = ModelBundle.load(runs[1] / "bundle")
    engine = build_engine(bundle, EngineConfig(device="cpu", runtime="torch", precision="float32"))
    slide = make_slide(section.rgb, name="section.tif")
    whole = ScoreConfig(grid=GridConfig(min_tissue=0), engine=engine.config, workers=1)
    score_slide(slide, tmp_path / "out", engine, whole)
    table, _ = read_parquet(tmp_path / "out" / "section" / "tiles.parquet")
    places = [tuple(corner) for corner in table.l0_xy]
    in_pipeline = dict(zip(places, table.cellularity, strict=True))
    corners = [(x, y) for y in (0, 512) for x in (0, 512)]
    assert len(set(in_training)) == len(corners)
    for corner, score in zip(corners, in_training, strict=True):
        # One picture or several at once: torch chooses other kernels by that and by the processor.
        assert in_pipeline[corner] == pytest.approx(score, abs=1e-5), corner


def test_an_interrupted_run_ends_in_the_same_weights(runs, workplace, tmp_path):
    config = load_yaml(workplace / "seg-smoke.yaml", SegConfig)
    short = config.model_copy(update={"fit": config.fit.model_copy(update={"epochs": 2})})
    train_segmentation(short, tmp_path / "whole")
    whole = trained_weights(tmp_path / "whole")

    # Stop before the second epoch is written, as a kill would.
    half = config.model_copy(update={"fit": config.fit.model_copy(update={"epochs": 1})})
    train_segmentation(half, tmp_path / "broken")
    shutil.copy(tmp_path / "whole" / "config.yaml", tmp_path / "broken" / "config.yaml")
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "loss": -1}\n')
    train_segmentation(short, tmp_path / "broken")

    resumed = trained_weights(tmp_path / "broken")
    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():
        np.testing.assert_array_equal(resumed[name], tensor, err_msg=name)
    assert metrics_of(tmp_path / "broken") == metrics_of(tmp_path / "whole")


def test_stage_1_goes_on_from_another_with_a_finer_head(runs, workplace, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    settings = [
        *("fit.epochs=1", "fit.schedule=onecycle", "fit.decay_every=null", "fit.best_by=mean_iou"),
        *("upsampling=half-pixel", "logit_stride=2", "optimiser=adamw", "weight_decay=0.01"),
        *("augment.stain=0.1", "augment.unsure_edges=true", "tumour_near=0.1"),
        *("flips_at_test=true", "learning_rate=0.0001"),
    ]
    arguments = f"--config {workplace / 'seg-smoke.yaml'} --run {tmp_path} --init {runs[0]}".split()
    for setting in settings:
        arguments += ["--set", setting]
    seg.main(arguments)
    assert config_of(tmp_path)["weight_decay"] == 0.01
    before, after = trained_weights(runs[0]), trained_weights(tmp_path)
    name = "deeplab.encoder.model.conv_stem.weight"
    torch.testing.assert_close(after[name], before[name], rtol=0, atol=0.01)
    assert any(name.startswith("finer.") for name in after)
    images = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Images("predictions")
    assert (images[0].height, images[0].width) == (4 * 512, 3 * 512)
    # What it is not given.
    for changed, message in (
        ("mean=[0.4, 0.5, 0.5]", "would see other colours"),
        ("backbone=resnet18", "another network"),
        ("nonsense", "sets no value"),
        ("fit.epochs.more=1", "sets no value"),
        ("fit.epoch=3", "fit.epoch"),
    ):
        with pytest.raises(SystemExit, match=message):
            seg.main([*arguments, "--run", str(tmp_path / message), "--set", changed])


def test_both_stages_start_from_a_bundle(runs, workplace, tmp_path):
    """Its user has a bundle, and no run that it came from."""
    bundle = ModelBundle.load(runs[1] / "bundle").network().state_dict()
    settings = ["--set", "fit.epochs=1", "--set", "learning_rate=1e-9", "--set", "fit.average=null"]
    stages = (
        (seg, "seg-smoke.yaml", lambda name: f"segmentation.{name}"),
        (reg, "reg-smoke.yaml", lambda name: name),
    )
    for stage, config, theirs in stages:
        run = tmp_path / config
        stage.main(
            f"--config {workplace / config} --run {run} --init {runs[1] / 'bundle'}".split()
            + settings
        )
        for name, tensor in trained_weights(run).items():
            if name.endswith("weight"):
                torch.testing.assert_close(tensor, bundle[theirs(name)], rtol=0, atol=1e-6)
    with pytest.raises(SystemExit, match=r"bundle was trained with mean .* see other colours"):
        reg.main(
            f"--config {workplace / 'reg-smoke.yaml'} --run {tmp_path / 'other'} "
            f"--init {runs[1] / 'bundle'} --set architecture.mean=[0.1,0.2,0.3]".split()
        )


@pytest.mark.parametrize(("stage", "key"), [(seg, "mean"), (reg, "architecture.mean")])
def test_a_run_of_stage_2_has_seen_colours_too(runs, workplace, tmp_path, stage, key):
    name = stage.__name__.removeprefix("training.")
    with pytest.raises(SystemExit, match=r"was trained with mean .* see other colours"):
        stage.main(
            f"--config {workplace / f'{name}-smoke.yaml'} --run {tmp_path} --init {runs[1]} "
            f"--set {key}=[0.1,0.2,0.3]".split()
        )


def test_a_guide_is_not_upsampled_otherwise_than_it_was_trained(runs, workplace, tmp_path):
    with pytest.raises(SystemExit, match="trained with upsampling corners, and here it is half-p"):
        reg.main(
            f"--config {workplace / 'reg-smoke.yaml'} --run {tmp_path} --init {runs[0]} "
            "--set architecture.upsampling=half-pixel".split()
        )


def test_an_unfinished_run_is_no_start(runs, workplace, tmp_path):
    shutil.copytree(runs[0], tmp_path / "half")
    path = tmp_path / "half" / "checkpoint.pt"
    torch.save({**torch.load(path, weights_only=True), "epoch": 2}, path)
    for stage, name in ((seg, "seg-smoke.yaml"), (reg, "reg-smoke.yaml")):
        with pytest.raises(SystemExit, match="not finished: it has done 2 of 4 epochs"):
            stage.main(
                f"--config {workplace / name} --run {tmp_path / name} "
                f"--init {tmp_path / 'half'}".split()
            )


def test_another_configuration_does_not_continue_a_run(runs, workplace):
    config = load_yaml(workplace / "seg-smoke.yaml", SegConfig)
    with pytest.raises(ConfigError, match="another configuration"):
        train_segmentation(config.model_copy(update={"gamma": 2.0}), runs[0])


def test_a_frozen_guide_stays_as_stage_1_left_it(runs, workplace, tmp_path):
    config = load_yaml(workplace / "reg-smoke.yaml", RegConfig)
    config = config.model_copy(
        update={"guide_rate": 0.0, "fit": config.fit.model_copy(update={"epochs": 1})}
    )
    train_regression(config, tmp_path / "frozen", runs[0])
    before, after = trained_weights(runs[0]), trained_weights(tmp_path / "frozen")
    for name, tensor in before.items():
        torch.testing.assert_close(after[f"segmentation.{name}"], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("seg*.yaml")))
def test_every_stage_1_configuration_is_valid(name):
    load_yaml(CONFIGS / name, SegConfig)


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("reg*.yaml")))
def test_every_stage_2_configuration_is_valid(name):
    load_yaml(CONFIGS / name, RegConfig)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("gamma: -1", "gamma"),
        ("gama: 1", "gama"),
        ("fit: [", "YAML"),
        (None, "no such configuration"),
    ],
)
def test_a_bad_configuration_is_named(tmp_path, text, cause):
    path = tmp_path / "seg.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit, match=rf"seg\.yaml.*{cause}"):
        seg.main(["--config", str(path), "--run", str(tmp_path / "run")])


def test_training_from_a_run_that_is_not_there_says_so(workplace, tmp_path):
    with pytest.raises(SystemExit, match=r"checkpoint\.pt does not exist"):
        reg.main(
            f"--config {workplace / 'reg-smoke.yaml'} --run {tmp_path / 'run'} "
            f"--init {tmp_path / 'nothing'}".split()
        )


def test_paper_defaults():
    first, second = SegConfig(), load_yaml(CONFIGS / "reg.yaml", RegConfig)
    assert (first.learning_rate, first.fit.batch, first.fit.epochs) == (0.01, 50, 7000)
    assert (first.augment.scale, first.augment.crop) == ((0.8, 1.2), 256)
    assert (second.learning_rate, second.fit.batch, second.fit.epochs) == (0.003, 64, 900)
    assert (second.fit.decay_every, second.fit.decay) == (300, 0.1)


def test_the_papers_configurations_are_the_defaults_written_out():
    how = {"validate_every", "checkpoint_every", "workers"}
    for name, kind, own in (("seg", SegConfig, {"data"}), ("reg", RegConfig, {"data", "card"})):
        written = load_yaml(CONFIGS / f"{name}.yaml", kind)
        default = kind(card=written.card) if name == "reg" else kind()
        assert written.model_dump(exclude={*own, "fit"}) == default.model_dump(
            exclude={*own, "fit"}
        )
        assert written.fit.model_dump(exclude=how) == default.fit.model_dump(exclude=how)

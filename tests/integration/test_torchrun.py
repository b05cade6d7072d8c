"""Two processes under torchrun, connected by Gloo on the CPU, train as one does.

This file is also what torchrun runs: see ``worker``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from training import reg, seg
from training.augment import AugmentConfig
from training.data.generated import GeneratedData
from training.data.views import EpochOrder, training_batches, validation_batches
from training.distributed import convert_sync_batchnorm, first_process_first, processes
from training.fit import FitConfig, fit
from training.run import trained_weights
from wsi_pipeline.model.network import SegmentationNetwork

ROOT = Path(__file__).parents[2]
NAMES = ("linear", "seg", "reg")
FIT = FitConfig(epochs=3, batch=8, device="cpu", average=0.5)


class LinearStage:
    """Without batch norm, whose statistics are of each process alone on CPUs; in double precision,
    so that only the order of a sum tells two processes from one.
    """

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = nn.Conv2d(3, 1, 3).double()
        self.optimiser = torch.optim.SGD(self.network.parameters(), 0.05, 0.9)

    def training_mode(self) -> None:
        self.network.train()

    def loss(self, network, batch) -> Tensor:
        pixels, _, score = batch
        out = network(pixels.permute(0, 3, 1, 2).double() / 255).mean((1, 2, 3))
        return nn.functional.mse_loss(out, score.double())

    def validate(self, network, batches, device) -> dict[str, float]:
        return {"loss": float(torch.stack([self.loss(network, batch) for batch in batches]).mean())}


def fit_linear(run: Path, patches: Path) -> nn.Module:
    data = GeneratedData(train=24, validation=4, size=64, cache=patches)
    stage = LinearStage()
    with first_process_first():
        run.mkdir(exist_ok=True)
        training = training_batches(
            data.cellularity("train"), AugmentConfig(), batch=8, seed=0, workers=0
        )
        validation = validation_batches(data.cellularity("validation"))
    fit(run, FIT, stage, training, validation)
    return stage.network


def worker(folder: Path) -> None:
    """Train three times in this process and its twin, and keep each process's own weights."""
    networks = [fit_linear(folder / "linear", folder / "patches")]
    for stage in (seg.SegStage, reg.RegStage):

        def keeping(self, *arguments, original=stage.__init__) -> None:
            original(self, *arguments)
            networks.append(self.network)

        stage.__init__ = keeping
    seg.main(["--config", str(folder / "seg.yaml"), "--run", str(folder / "seg")])
    init = ["--init", str(folder / "seg")]
    reg.main(["--config", str(folder / "reg.yaml"), "--run", str(folder / "reg"), *init])
    for name, network in zip(NAMES, networks, strict=True):
        torch.save(dict(network.named_parameters()), folder / f"{name}{os.environ['RANK']}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left behind."""
    folder = tmp_path_factory.mktemp("torchrun")
    for name in ("seg", "reg"):
        content = yaml.safe_load((ROOT / "configs" / f"{name}-smoke.yaml").read_text())
        content["data"]["cache"] = str(folder / "patches")
        content["data"] |= {"train": 48, "validation": 8}
        content["fit"] |= {"epochs": 2, "validate_every": 1}
        if name == "reg":
            content["guide_rate"] = 0.1  # not frozen: its decoder has no part in the loss
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    address = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*torchrun, *address, __file__, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


def load(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_both_processes_have_the_same_weights(folder, name):
    ours, theirs = load(folder / f"{name}0.pt"), load(folder / f"{name}1.pt")
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        torch.testing.assert_close(theirs[key], tensor, rtol=0, atol=0, msg=key)


def test_two_processes_take_the_steps_of_one(folder, tmp_path):
    fit_linear(tmp_path, folder / "patches")
    alone, shared = trained_weights(tmp_path), trained_weights(folder / "linear")
    assert alone.keys() == shared.keys()
    for key, tensor in alone.items():
        torch.testing.assert_close(shared[key], tensor, rtol=0, atol=1e-12, msg=key)
    for ours, theirs in zip(metrics(folder / "linear"), metrics(tmp_path), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_a_real_network_learns_as_in_one_process(folder, tmp_path):
    """But for its batch norms, which see half of a batch each."""
    seg.main(["--config", str(folder / "seg.yaml"), "--run", str(tmp_path)])
    for ours, theirs in zip(metrics(folder / "seg"), metrics(tmp_path), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.1)
    assert metrics(folder / "seg")[-1]["loss"] < metrics(folder / "seg")[0]["loss"]


def test_the_first_process_alone_writes(folder):
    for name in ("seg", "reg"):
        assert [line["epoch"] for line in metrics(folder / name)] == [1, 2]
        assert len(list((folder / name / "tensorboard").iterdir())) == 1
        assert json.loads((folder / name / "environment.json").read_text())["processes"] == 2
    assert (folder / "reg" / "bundle").is_dir()


@pytest.mark.parametrize(
    ("count", "batch", "world"), [(24, 8, 2), (23, 4, 2), (7, 4, 2), (31, 6, 3)]
)
def test_the_processes_batches_together_are_those_of_one(count, batch, world):
    def batches(order: EpochOrder, size: int) -> list[set[int]]:
        order.epoch = 3
        views = list(order)
        assert len(views) == len(order)
        whole = range(0, len(views) - size + 1, size)
        return [set(views[start : start + size]) for start in whole]

    alone = batches(EpochOrder(count, 5), batch)
    shares = [batches(EpochOrder(count, 5, r, world), batch // world) for r in range(world)]
    assert [set.union(*share) for share in zip(*shares, strict=True)] == alone


@torch.no_grad()
def test_synchronised_batch_norms_keep_weights_names_and_activations():
    """They are for GPUs alone, but judge on CPUs: the network must be the one that it was."""
    torch.manual_seed(0)
    network = SegmentationNetwork("tf_efficientnet_lite0").eval()
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    before, names = network(pixels), list(network.state_dict())
    parameters = list(network.parameters())
    synchronised = convert_sync_batchnorm(network)
    assert any(isinstance(part, nn.SyncBatchNorm) for part in synchronised.modules())
    assert not any(isinstance(part, nn.BatchNorm2d) for part in synchronised.modules())
    torch.testing.assert_close(synchronised(pixels), before, rtol=0, atol=0)
    assert list(synchronised.state_dict()) == names
    assert all(a is b for a, b in zip(synchronised.parameters(), parameters, strict=True))


if __name__ == "__main__":
    with processes("cpu"):
        worker(Path(sys.argv[1]))

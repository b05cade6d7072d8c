"""Whether the loader keeps up with training: patches per second of each alone, in one run.

python -m tests.benchmarks.loader CONFIG [seconds]

CONFIG is a configuration of stage 1 or 2, whose data, views, batch, device and precision are
measured. The loader is no bottleneck where its rate is above that of the steps; with workers it
also runs beside them.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
import yaml

from training.data.views import Batch, EpochOrder, training_batches
from training.fit import choose_device, to_device
from training.reg import RegConfig, RegStage
from training.seg import SegConfig, SegStage
from wsi_pipeline.model.network import build_network
from wsi_pipeline.validation import load_yaml

WORKERS = (0, 1, 2)


def endless(batches: Iterable[Batch], order: EpochOrder) -> Iterator[Batch]:
    """Epoch after epoch, as training has them."""
    for epoch in count():
        order.epoch = epoch
        yield from batches


def rate(step: Callable[[], int], seconds: float) -> float:
    """Patches per second of a step that says how many it dealt with, warmed up by three."""
    for _ in range(3):
        step()
    start, done = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        done += step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return done / (time.perf_counter() - start)


def main(path: Path, seconds: float) -> None:
    stage_1 = "backbone" in yaml.safe_load(path.read_text(encoding="utf-8"))
    config: SegConfig | RegConfig = load_yaml(path, SegConfig if stage_1 else RegConfig)
    fit = config.fit
    stage: Any
    if isinstance(config, SegConfig):
        stage = SegStage(config.model_copy(update={"imagenet": None}))
        pictures = config.data.nuclei("train")
    else:
        network = build_network(config.architecture)
        stage = RegStage(network, config)
        pictures = config.data.cellularity("train")

    loading: dict[int, float] = {}
    for workers in WORKERS:
        loader = training_batches(
            pictures, config.augment, batch=fit.batch, seed=fit.seed, workers=workers
        )
        batches = endless(*loader)
        first = next(batches)
        loading[workers] = rate(lambda batches=batches: len(next(batches)[0]), seconds)

    device = choose_device(fit.device)
    stage.network.to(device=device, memory_format=torch.channels_last)
    stage.training_mode()
    batch = to_device(first, device)

    def step() -> int:
        with torch.autocast(device.type, torch.bfloat16, fit.precision == "bfloat16"):
            loss = stage.loss(stage.network, batch)
        stage.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        stage.optimiser.step()
        return len(batch[0])

    stepping = rate(step, seconds)
    shape = "×".join(str(side) for side in first[0].shape)
    print(f"{path.name}: batches of {shape}, steps on {device.type} in {fit.precision}\n")
    print(f"{'':22} {'patches/s':>10} {'of the steps':>13}")
    print(f"{'training steps':22} {stepping:10.1f}")
    for workers, loaded in loading.items():
        name = f"loader, {workers} worker{'s' * (workers != 1)}"
        print(f"{name:22} {loaded:10.1f} {loaded / stepping:12.1f}×")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 20)

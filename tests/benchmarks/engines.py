"""Milliseconds a tile of every engine that runs here, and what each costs in accuracy.

python -m tests.benchmarks.engines [--models demo,resnet18,resnet101] [--tiles 8] [--rounds 3]

The demonstration bundle, and guided networks whose two encoders are of one kind, with random
weights. All engines take turns, round after round, and the least of the rounds counts, so that what
else the machine does harms none of them alone. The reference, at 1.00, is torch eager in float32
with one tile at a time. Errors are of scores against it, on tiles of real slides where they are
here, else of generated tissue; those of random weights mean little. int8 is calibrated on the spot,
on other tiles; for random weights whatever the error, since they pass rounding on like noise.
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from tests.benchmarks.eight_bits import CALIBRATED_ON, keep_in_8_bits
from tests.helpers.made import settle
from tests.helpers.real_slides import SLIDES
from training.synthetic import generate_region
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.engine.execution import EngineConfig, choose_precision
from wsi_pipeline.engine.openvino import openvino_is_installed
from wsi_pipeline.errors import BundleError
from wsi_pipeline.model.architecture import Architecture
from wsi_pipeline.model.bundle import BUNDLED_MODEL, ModelBundle, ModelCard
from wsi_pipeline.model.network import build_network
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.sample import sample_tiles
from wsi_pipeline.tiles.grid import GridConfig

RELEVANT_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
)

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def tissue_tiles(card: ModelCard) -> tuple[NDArray[np.uint8], int, str]:
    """Tiles in random order, of how many slides, and what they are."""
    slides = [
        str(SLIDES / name)
        for name in ("cmu-1-small-region.svs", "her2st-b4.tif", "her2st-c3.tif")
        if (SLIDES / name).exists()
    ]
    if slides:
        config = ScoreConfig(grid=GridConfig(allow_upsampling=True))
        tiles = sample_tiles(slides, card, config, count=100, seed=0)
        return tiles, len(slides), f"{len(slides)} real slides"
    side = card.tile_px
    regions = [generate_region(seed, 3 * side).rgb for seed in range(8)]
    tiles = np.stack(
        [
            rgb[y : y + side, x : x + side]
            for rgb in regions
            for y in range(0, 3 * side, side)
            for x in range(0, 3 * side, side)
        ]
    )
    return np.random.default_rng(0).permutation(tiles), len(regions), "generated tissue"


def bundle_of(name: str, folder: Path) -> ModelBundle:
    """The demonstration, or a guided network of random weights; in a folder of its own."""
    bundle = ModelBundle.load(BUNDLED_MODEL)
    if name != "demo":
        torch.manual_seed(0)
        architecture = Architecture(regression_backbone=name, segmentation_backbone=name)
        card = ModelCard(
            name=name,
            version="0",
            architecture=architecture,
            trained_on="Nothing: its weights are random.",
            licence="Apache-2.0",
            intended_use="Timing.",
            limitations="Its scores mean nothing.",
        )
        network = build_network(architecture)
        settle(network, tissue_tiles(bundle.card)[0][-4:])
        bundle = ModelBundle.of(network, card)
    bundle.save(folder)
    return ModelBundle.load(folder)


def plain_torch(bundle: ModelBundle) -> Predict:
    """The reference: the network as it is, one tile at a time."""
    network = bundle.network()

    @torch.inference_mode()
    def predict(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.concatenate([network(torch.from_numpy(t[None])).score.numpy() for t in tiles])

    return predict


def engines(bundle: ModelBundle, *, has_int8: bool) -> Iterator[tuple[str, Predict]]:
    """All engines that run here, by what the table calls them."""
    wanted = {"torch float32, channels last": {"device": "cpu", "runtime": "torch"}}
    if openvino_is_installed():
        on_cpu = {"device": "cpu", "runtime": "openvino"}
        wanted["OpenVINO float32"] = on_cpu
        if choose_precision("cpu") == "bfloat16":
            wanted["OpenVINO bfloat16"] = {**on_cpu, "precision": "bfloat16"}
        if has_int8:
            wanted["OpenVINO int8"] = {**on_cpu, "precision": "int8"}
    if torch.cuda.is_available():
        wanted["CUDA float32"] = {"device": "cuda"}
        wanted["CUDA bfloat16"] = {"device": "cuda", "precision": "bfloat16"}
    for name, settings in wanted.items():
        for segmented in (True, False):
            config = EngineConfig(
                **{"precision": "float32", **settings, "class_fractions": segmented}
            )
            engine = build_engine(bundle, config)
            label = name if segmented else f"{name}, no segmentation"
            yield label, lambda tiles, engine=engine: engine.predict(tiles).cellularity


def timed(
    runs: dict[str, Predict], tiles: NDArray[np.uint8], rounds: int
) -> tuple[dict[str, float], dict[str, NDArray[np.float32]]]:
    """Milliseconds a tile, and the scores."""
    scores = {name: run(tiles) for name, run in runs.items()}  # pays for set-up too
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            # A GPU is to be filled; there, the same tiles come again.
            many = np.resize(tiles, (512, *tiles.shape[1:])) if "CUDA" in name else tiles
            start = time.perf_counter()
            run(many)
            best[name] = min(best[name], (time.perf_counter() - start) / len(many) * 1e3)
    return best, scores


def int8_remark(bundle: ModelBundle, tiles: NDArray[np.uint8], slides: int) -> tuple[bool, str]:
    """Quantise a bundle; say whether it could be, and what it cost."""
    try:
        trained = bundle.card.demonstration
        cost = keep_in_8_bits(bundle, tiles, slides=slides, trained=trained)
    except BundleError as error:
        return False, f"int8 refused: {error}"
    return True, (
        f"int8 with {cost.float32_share:.0%} of the convolutions in float32; on "
        f"{cost.checked_on} other tiles off by {cost.mean_error:.4f} on average"
    )


def gpu_line(bundle: ModelBundle, ms: float) -> str:
    """The share of the measured bfloat16 matrix rate that a tile's operations take."""
    from torch.utils.flop_counter import FlopCounterMode

    network, side = bundle.network(), bundle.card.tile_px
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, side, side, 3, dtype=torch.uint8))
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(50):
        a @ b
    torch.cuda.synchronize()
    ceiling = 50 * 2 * 8192**3 / (time.perf_counter() - start)
    rate = counter.get_total_flops() / (ms / 1e3)
    return (
        f"{torch.cuda.get_device_name()}: {rate / 1e12:.0f} of {ceiling / 1e12:.0f} Tflop/s "
        f"measured by matrix products in bfloat16, {rate / ceiling:.0%}"
    )


def machine() -> str:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in lines.items()}
    flags = [flag for flag in RELEVANT_FLAGS if flag in named.get("flags", "").split()]
    packages = [f"{name} {version(name)}" for name in ("torch", "openvino", "nncf")]
    return (
        f"{named.get('model name', platform.processor())}, {os.cpu_count()} cores "
        f"({', '.join(flags)}), {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} "
        f"at the start; {', '.join(packages)}"
    )


def main(
    models: Annotated[str, typer.Option(help="demo or names of timm, by commas.")] = (
        "demo,resnet18,resnet101"
    ),
    n_tiles: Annotated[int, typer.Option("--tiles", min=1, help="Tiles a round.")] = 8,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Print the table."""
    print(f"{machine()}\n")
    print("| model | engine | ms a tile | times torch | mean error | max error |")
    print("|---|---|---:|---:|---:|---:|")
    remarks = []
    for name in models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            bundle = bundle_of(name, Path(folder) / name)
            tiles, slides, what = tissue_tiles(bundle.card)
            shown, others = tiles[:n_tiles], tiles[n_tiles:][:CALIBRATED_ON]
            has_int8 = False
            if openvino_is_installed():
                has_int8, remark = int8_remark(bundle, others, slides)
                remarks.append(f"{name}: tiles of {what}; {remark}")
            runs = {
                "torch float32": plain_torch(bundle),
                **dict(engines(bundle, has_int8=has_int8)),
            }
            ms, scores = timed(runs, shown, rounds)
        for engine, score in scores.items():
            error = np.abs(score - scores["torch float32"])
            print(
                f"| {name} | {engine} | {ms[engine]:.1f} | {ms['torch float32'] / ms[engine]:.2f} "
                f"| {error.mean():.1e} | {error.max():.1e} |",
                flush=True,
            )
        if "CUDA bfloat16" in ms:
            remarks.append(f"{name}: {gpu_line(bundle, ms['CUDA bfloat16'])}")
    print("\n" + "\n".join(remarks))


if __name__ == "__main__":
    typer.run(main)

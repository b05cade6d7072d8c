"""The forms in which torch can run a model on a device, each timed and held against the first.

`wsi doctor --device cuda` prints them, for the owner of a GPU to see which is worth what there.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_pipeline.engine.execution import EngineConfig, kind_of
from wsi_pipeline.engine.torch_engine import GpuBatches, Outputs, TorchEngine
from wsi_pipeline.model.bundle import ModelBundle

REPEATS = 10


@dataclass(frozen=True, eq=False)
class Form:
    """A form that was tried.

    Attributes:
        name: of it.
        scores: float32 [n]; None if it cannot run.
        tiles_per_s: measured.
        failure: why it cannot run; None if it can.

    """

    name: str
    scores: NDArray[np.float32] | None = None
    tiles_per_s: float = 0.0
    failure: str | None = None


def forms(bundle: ModelBundle, device: str, tiles: NDArray[np.uint8]) -> list[Form]:
    """Run a model in each form that a device might run it in.

    Args:
        bundle: the model.
        device: as torch names it.
        tiles: uint8 [n, side, side, 3], scored as one batch.

    """
    found = []
    for name, make in _makers(bundle, device, tiles):
        try:
            found.append(_tried(name, make(), device))
        # What compilers raise is of many kinds, and none of it shall end the list.
        except Exception as error:  # noqa: BLE001
            lines = str(error).strip().splitlines() or [type(error).__name__]
            found.append(Form(name, failure=lines[0]))
    return found


def _makers(
    bundle: ModelBundle, device: str, tiles: NDArray[np.uint8]
) -> Iterator[tuple[str, Callable[[], Callable[[], Outputs]]]]:
    """Give names of forms, and what makes each of them ready."""

    def engine(precision: str) -> TorchEngine:
        config = {"device": device, "runtime": "torch", "precision": precision}
        return TorchEngine(bundle, EngineConfig(**config, batch_size=len(tiles)))

    def at_once(score: Callable[..., Outputs]) -> Callable[[], Outputs]:
        pixels = torch.from_numpy(tiles).to(device)
        return lambda: score(pixels)

    def compiled() -> Callable[[], Outputs]:
        compile_it: Any = torch.compile
        return at_once(compile_it(engine("bfloat16").score_pixels, mode="reduce-overhead"))

    def captured() -> Callable[[], Outputs]:
        batches = GpuBatches(engine("bfloat16").score_pixels, tiles.shape, torch.device(device))
        if not batches.is_captured:
            raise RuntimeError("the graph cannot be captured, and kernels are launched one by one")
        return lambda: batches.score(tiles)

    yield "eager, float32", lambda: at_once(engine("float32").score_pixels)
    yield "autocast, bfloat16", lambda: at_once(engine("bfloat16").score_pixels)
    yield "compiled, bfloat16", compiled
    if kind_of(device) == "cuda":
        yield "captured graph, bfloat16", captured


@torch.inference_mode()
def _tried(name: str, run: Callable[[], Outputs], device: str) -> Form:
    def finished() -> NDArray[np.float32]:
        return np.asarray(run()[0].float().cpu().numpy(), np.float32)  # which waits for the device

    for _ in range(3):  # compiling and capturing take their time once
        scores = finished()
    start = time.perf_counter()
    for _ in range(REPEATS if kind_of(device) != "cpu" else 1):
        finished()
    seconds = time.perf_counter() - start
    count = len(scores) * (REPEATS if kind_of(device) != "cpu" else 1)
    return Form(name, scores, count / seconds)

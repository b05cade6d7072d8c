"""TIAToolbox's PatchPredictor on a whole slide, in its own environment.

Tiles are given as a mask, the only way that its interface has: both grids start at the slide's
corner and step by one tile, and the mask marks the middle of each tile wanted.
"""

import importlib
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.task import Task, Timed, load

MASK_PX = 64
"""Pixels of the mask to a tile's side."""


def mask_of(task: Task, size_px: tuple[int, int]) -> Any:
    """Mark the middles of the wanted tiles.

    Args:
        task: has the tiles.
        size_px: width and height of the slide at the tiles' resolution.

    """
    numpy: Any = importlib.import_module("numpy")
    scale = MASK_PX / task.tile_px
    mask = numpy.zeros((round(size_px[1] * scale), round(size_px[0] * scale)), numpy.uint8)
    for x, y in task.tiles or ():
        left, top = (round(side * task.slide_mpp / task.mpp * scale) for side in (x, y))
        quarter, three = MASK_PX // 4, MASK_PX * 3 // 4
        # A tile over the slide's border has its middle off it: what lies on it is marked.
        rows = slice(min(top + quarter, mask.shape[0] - 1), top + three)
        columns = slice(min(left + quarter, mask.shape[1] - 1), left + three)
        mask[rows, columns] = 1
    return mask


def main() -> None:
    task = load()
    numpy: Any = importlib.import_module("numpy")
    torch: Any = importlib.import_module("torch")
    engine: Any = importlib.import_module("tiatoolbox.models.engine.patch_predictor")
    io_config: Any = importlib.import_module("tiatoolbox.models.engine.io_config")
    models_abc: Any = importlib.import_module("tiatoolbox.models.models_abc")
    wsireader: Any = importlib.import_module("tiatoolbox.wsicore.wsireader")
    zarr: Any = importlib.import_module("zarr")

    class Cellularity(models_abc.ModelABC):
        """The TorchScript model behind TIAToolbox's interface."""

        def __init__(self) -> None:
            super().__init__()
            self.network = torch.jit.load(task.model)
            self.register_buffer("mean", 255 * torch.tensor(task.mean).reshape(1, 3, 1, 1))
            self.register_buffer("std", 255 * torch.tensor(task.std).reshape(1, 3, 1, 1))

        def forward(self, pixels: Any) -> Any:
            image = pixels.permute(0, 3, 1, 2).float().sub_(self.mean).div_(self.std)
            return torch.sigmoid(self.network(image))

        @staticmethod
        def infer_batch(model: Any, batch_data: Any, *, device: str) -> Any:
            with torch.inference_mode():
                return timed(model, batch_data.to(device)).cpu().numpy()

    timed = Timed(lambda model, batch: model(batch))
    model = Cellularity().eval()
    masks = None
    if task.tiles is not None:
        reader = wsireader.WSIReader.open(task.slide, mpp=(task.slide_mpp, task.slide_mpp))
        size = reader.slide_dimensions(resolution=task.mpp, units="mpp")
        masks = [mask_of(task, (int(size[0]), int(size[1])))]
    resolutions = [{"units": "mpp", "resolution": task.mpp}]
    predictor = engine.PatchPredictor(
        model, batch_size=task.batch, num_workers=task.workers, device="cpu"
    )
    written = predictor.run(
        [Path(task.slide)],
        masks=masks,
        patch_mode=False,
        ioconfig=io_config.IOPatchPredictorConfig(
            input_resolutions=resolutions,
            patch_input_shape=[task.tile_px, task.tile_px],
            stride_shape=[task.tile_px, task.tile_px],
            output_resolutions=[],
        ),
        wsireader_kwargs={"mpp": (task.slide_mpp, task.slide_mpp)},
        return_probabilities=True,
        save_dir=task.results,
        output_type="zarr",
    )
    predictions = zarr.open(next(iter(written.values())), mode="r")
    l0_xy = numpy.rint(predictions["coordinates"][:, :2] * task.mpp / task.slide_mpp).astype(int)
    scores = predictions["probabilities"][:].reshape(-1)
    task.give([(int(x), int(y)) for x, y in l0_xy], map(float, scores), timed.seconds)


if __name__ == "__main__":
    main()

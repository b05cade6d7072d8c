"""What a lab writes on its first day: OpenSlide, a loop, the network run eagerly.

It has no tissue detection; it scores the tiles that it is given.
"""

import cv2
import numpy as np
import openslide
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tests.benchmarks.peers.task import Task, Timed, load
from wsi_pipeline.model.bundle import ModelBundle


class Tiles(Dataset[NDArray[np.uint8]]):
    """Read level 0, resize."""

    def __init__(self, task: Task, corners: tuple[tuple[int, int], ...]) -> None:
        self.task = task
        self.corners = corners
        self.slide: openslide.OpenSlide | None = None

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        # Opened where it is used: handles do not survive the fork of a loading process.
        if self.slide is None:
            self.slide = openslide.OpenSlide(self.task.slide)
        side = self.task.l0_tile
        rgba = self.slide.read_region(self.corners[index], 0, (side, side))
        rgb = np.asarray(rgba.convert("RGB"))
        size = (self.task.tile_px, self.task.tile_px)
        return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def main() -> None:
    task = load()
    corners = task.tiles
    if corners is None:
        raise SystemExit("a plain loop finds no tissue: it needs a list of tiles")
    network = ModelBundle.load(task.bundle).network().to(memory_format=torch.channels_last)

    def score(pixels: Tensor) -> Tensor:
        scores: Tensor = network(pixels, with_segmentation=False).score
        return scores

    timed = Timed(score)
    loader = DataLoader(Tiles(task, corners), batch_size=task.batch, num_workers=task.workers)
    with torch.inference_mode():
        scores = [float(value) for pixels in loader for value in timed(pixels)]
    task.results.mkdir()
    np.save(task.results / "scores.npy", np.asarray(scores, np.float32))
    task.give(corners, scores, timed.seconds)


if __name__ == "__main__":
    main()

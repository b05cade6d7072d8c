"""The area of malignant cells over that of tissue, as far as a network's nuclei tell it."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wsi_pipeline.model.architecture import SQUARE_PX

# What counts as a malignant cell, and as glass, where training derives cellularity from nuclei: so
# far about a nucleus, and brighter than so much in the darkest channel, smoothed so far.
_CYTOPLASM_PX = 6
_GLASS_ABOVE = 215
_GLASS_REACH_PX = 6


class CellArea(NamedTuple):
    """Where malignant cells are, and where tissue is, each pixel from 0 to 1."""

    cells: Tensor
    """float32 [B, H, W]"""
    tissue: Tensor
    """float32 [B, H, W], nowhere less than `cells`."""

    def ratio(self) -> Tensor:
        """Return the area of malignant cells over that of tissue, [B]: the area ratio, but soft."""
        return self.cells.sum(dim=(1, 2)) / self.tissue.sum(dim=(1, 2)).clamp_min(1)

    def squares(self, stride: int) -> Tensor:
        """Return the share of either in each square of 16 µm, [B, 2, rows, columns]."""
        return F.avg_pool2d(torch.stack([self.cells, self.tissue], dim=1), SQUARE_PX // stride)


def area_of_cells(malignant: Tensor, others: Tensor, pixels: Tensor, stride: int) -> CellArea:
    """Return the area of malignant cells, and that of tissue.

    Malignant and other nuclei grow at one pace for 3 µm, and none into another; tissue is what is
    not as bright as glass.

    Args:
        malignant: how likely each pixel is of a malignant nucleus, float32 [B, H, W].
        others: the same of any other nucleus.
        pixels: what was seen, uint8 at 0.5 µm/px, [B, stride · H, stride · W, 3].
        stride: of the maps.

    """
    nuclei = torch.stack([malignant, others], dim=1)
    for _ in range(_CYTOPLASM_PX // stride):
        free = 1 - nuclei.sum(dim=1, keepdim=True).clamp_max(1)
        grown = F.max_pool2d(nuclei, 3, stride=1, padding=1)
        grown = grown / grown.sum(dim=1, keepdim=True).clamp_min(1)
        nuclei = torch.maximum(nuclei, nuclei + free * (grown - nuclei).clamp_min(0))
    darkest = pixels.amin(dim=3).float()[:, None]
    smooth = F.avg_pool2d(
        darkest, 2 * _GLASS_REACH_PX + 1, stride, _GLASS_REACH_PX, count_include_pad=False
    )
    cells = nuclei[:, 0]
    tissue = torch.maximum((smooth[:, 0] < _GLASS_ABOVE).float(), cells)
    return CellArea(cells, tissue)

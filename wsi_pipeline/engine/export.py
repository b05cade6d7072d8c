"""Turns a bundle's network into a graph of OpenVINO, which computes the same in float32."""

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wsi_pipeline.engine.graphs import Graph
from wsi_pipeline.engine.openvino import import_openvino
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.model.network import RegressionNetwork, graph_outputs

if TYPE_CHECKING:
    import openvino

log = logging.getLogger(__name__)


def export(bundle: ModelBundle, *, half: bool = False) -> Graph:
    """Turn a bundle into a graph in float32, its weights kept in half precision if so asked.

    Raises:
        ConfigError: if OpenVINO is not installed.
        BundleError: if the bundle does not hold its network's weights.

    """
    log.info("Exporting %s for OpenVINO; done once", bundle.card.name)
    return Graph.of(_traced(bundle.network(), bundle.card.tile_px), half=half)


def _traced(network: RegressionNetwork, side: int) -> "openvino.Model":
    """Convert a network; takes about as long as scoring ten tiles by torch.

    Args:
        network: in evaluation mode.
        side: of the tiles in pixels.

    Returns:
        a model with inputs and outputs as `wsi_pipeline.engine.graphs` tells.

    """
    pixels = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    program = torch.export.export(
        _Scoring(network).eval(), (pixels,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    model = import_openvino().convert_model(program)
    model.reshape([-1, side, side, 3])
    return model


class _Scoring(nn.Module):
    """A network with outputs as graphs have them."""

    def __init__(self, network: RegressionNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return graph_outputs(self.network(pixels))

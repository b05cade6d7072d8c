"""Makes a bundle's graph in 8 bits, calibrated on tissue, and measures what that costs.

The ranges of all activations are taken from tiles of real slides, by nncf's post-training
quantisation. Weights take 7 bits of 8: the sums of products of CPUs without VNNI overflow at the
eighth, and a bundle has to score alike on all of them.

What rounding costs comes mostly from the first layers, whose errors all others pass on, and in a
guided network from its segmentation, which comes first. So if scores in 8 bits are too far off, a
part of the network, counted from the pixels on, stays in float32: the least that will do. What is
reckoned from the classes' probabilities, areas of cells and the score that corrects their ratio, is
no network and costs no time: it is in float32 always.
"""

import logging
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.engine.float32 import exported
from wsi_pipeline.engine.graphs import Graph
from wsi_pipeline.engine.int8 import Calibration
from wsi_pipeline.engine.openvino import import_openvino
from wsi_pipeline.engine.openvino_engine import OpenVinoEngine
from wsi_pipeline.engine.torch_engine import TorchEngine
from wsi_pipeline.errors import BundleError, ConfigError
from wsi_pipeline.model.bundle import ModelBundle

log = logging.getLogger(__name__)

MAX_MEAN_ERROR: Final = 0.01
"""Mean absolute error of scores beyond which a graph is not kept."""

FLOAT32_SHARES: Final = (0.0, 0.25, 0.5, 0.75)
"""Shares of the convolutions that may stay in float32, the first that will do."""

CHECKED_SHARE: Final = 0.25
"""Of all tiles: those on which the error is measured, and not the ranges."""


def quantise(
    bundle: ModelBundle, tiles: NDArray[np.uint8], *, slides: int, seed: int
) -> tuple[Graph, Calibration]:
    """Quantise a bundle.

    Args:
        bundle: the model.
        tiles: of tissue, uint8 [n, side, side, 3], in random order.
        slides: how many slides they are from, for the record.
        seed: of their choice and order, for the record.

    Raises:
        ConfigError: if nncf is not installed.
        BundleError: if scores in 8 bits are too far from those in float32.

    """
    checked = max(1, round(len(tiles) * CHECKED_SHARE))
    held_back, measured = tiles[:checked], tiles[checked:]
    config = EngineConfig(device="cpu", precision="float32", class_fractions=False)
    expected = TorchEngine(bundle, config).predict(held_back).cellularity
    for share in FLOAT32_SHARES:
        graph = _calibrated(exported(bundle), measured, float32_share=share)
        error = OpenVinoEngine(bundle, config, graph).predict(held_back).cellularity - expected
        mean_error = float(np.abs(error).mean())
        log.info("With %.0f%% in float32, scores are off by %.4f", 100 * share, mean_error)
        if mean_error <= MAX_MEAN_ERROR:
            return graph, Calibration(
                bundle=bundle.digest,
                slides=slides,
                tiles=len(measured),
                seed=seed,
                float32_share=share,
                checked_on=checked,
                mean_error=mean_error,
                max_error=float(np.abs(error).max()),
                bias=float(error.mean()),
                software={package: version(package) for package in ("nncf", "openvino", "torch")},
            )
    raise BundleError(
        f"{bundle.source} loses too much in 8 bits: scores are off by {mean_error:.4f} on average "
        f"even with {share:.0%} of it in float32, and {MAX_MEAN_ERROR} is the most that is kept. "
        f"Give more slides of the kind that it will see, or run it in another precision."
    )


def _calibrated(graph: Graph, tiles: NDArray[np.uint8], *, float32_share: float) -> Graph:
    import_openvino()
    nncf = _import_nncf()
    nncf.set_log_level(logging.WARNING)
    model = graph.model()
    convolutions = [
        operation.get_friendly_name()
        for operation in model.get_ordered_ops()
        if operation.get_type_name() in ("Convolution", "GroupConvolution")
    ]
    kept = convolutions[: round(float32_share * len(convolutions))]
    # The classes' shares are means of masks of 0 and 1. Where a class never fills the pixels that
    # ranges are taken from, its range ends below 1, and its share would be that much too small.
    shares = [
        operation.get_friendly_name()
        for operation in model.get_ordered_ops()
        if operation.get_type_name() == "ReduceMean"
        and operation.input_value(0).get_node().get_type_name() == "Convert"
    ]
    return Graph.of(
        nncf.quantize(
            model,
            nncf.Dataset(tiles, lambda tile: tile[None]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(tiles),
            ignored_scope=nncf.IgnoredScope(names=[*kept, *shares, *_reckoned(model)]),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE
            ),
        )
    )


def _reckoned(model: Any) -> list[str]:  # noqa: ANN401
    """Return the names of all that is computed from probabilities of classes."""
    found = {
        operation.get_friendly_name()
        for operation in model.get_ordered_ops()
        if operation.get_type_name() == "Softmax"
    }
    for operation in model.get_ordered_ops():  # what an operation takes comes before it
        takes = {value.get_source_output().get_node() for value in operation.inputs()}
        if any(node.get_friendly_name() in found for node in takes):
            found.add(operation.get_friendly_name())
    results = {node.get_friendly_name() for node in model.get_results()}
    return sorted(found - results)


def _import_nncf() -> Any:  # noqa: ANN401
    try:
        import nncf
    except ImportError as error:
        raise ConfigError(
            "Quantising needs nncf: `pip install wsi-pipeline[quantise]`. Scoring with the result "
            "does not."
        ) from error
    return nncf

"""What decides a model's scores besides its weights; it belongs to their identity."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Runtime = Literal["torch", "openvino"]
"""The library that runs a model."""

Precision = Literal["float32", "bfloat16", "int8"]


class FirstPass(BaseModel):
    """A small model over all tiles, which keeps those that it is sure of (`wsi_pipeline.coarse`).

    It runs on the device, and by the library and in the precision, of the large one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str
    """The small model's digest."""
    graph: str | None
    """As `Execution.graph`, of the small model."""
    refine_from: float
    refine_to: float
    """The scores between which tiles go on to the large model."""


class Execution(BaseModel):
    """How a model is run: on equal terms, equal tiles get equal scores but for rounding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    """The kind of device: "cpu", "cuda" or "mps"."""
    runtime: Runtime
    precision: Precision
    graph: str | None = None
    """Digest of the graph in 8 bits, which weights and calibration make; None in other precisions,
    whose graphs follow from the bundle."""
    coarse: FirstPass | None = None
    """What scores tiles before it; None if it scores them all."""

    def __str__(self) -> str:
        words = [self.device, self.runtime, self.precision]
        return ", ".join(words if self.coarse is None else [*words, "coarse to fine"])

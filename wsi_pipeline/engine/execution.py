"""What decides a model's scores besides its weights; it belongs to their identity."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from wsi_pipeline.digests import Sha256

Runtime = Literal["torch", "openvino"]
"""The library that runs a model."""

Precision = Literal["float32", "bfloat16", "int8"]


class Execution(BaseModel):
    """How a model is run: on equal terms, equal tiles get equal scores but for rounding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    """The kind of device: "cpu", "cuda" or "mps"."""
    runtime: Runtime
    precision: Precision
    graph: Sha256 | None = None
    """Digest of the graph in 8 bits, which weights and calibration make; None in other precisions,
    whose graphs follow from the bundle."""

    def __str__(self) -> str:
        return f"{self.device}, {self.runtime}, {self.precision}"

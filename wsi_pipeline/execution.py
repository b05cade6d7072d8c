"""What decides a model's scores besides its weights; it belongs to their identity."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Runtime = Literal["torch"]
"""The library that runs a model."""

Precision = Literal["float32", "bfloat16"]


class Execution(BaseModel):
    """How a model is run: on equal terms, equal tiles get equal scores but for rounding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    """The kind of device: "cpu", "cuda" or "mps"."""
    runtime: Runtime
    precision: Precision

    def __str__(self) -> str:
        return f"{self.device}, {self.runtime}, {self.precision}"

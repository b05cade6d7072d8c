"""Graphs of OpenVINO, and the files that they are kept in.

A graph takes uint8 [batch, side, side, 3] and gives scores [batch] and, of a bundle with
segmentation, class fractions [batch, classes] and areas of cells and tissue [batch, 2, side / 32,
side / 32]. It is kept as OpenVINO writes it, ``NAME.xml`` and
``NAME.bin``, beside ``NAME.json``, which says what it is and holds its digest. None of them can run
code.
"""

import json
import os
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from pydantic_core import from_json

from wsi_pipeline.engine.openvino import core, import_openvino
from wsi_pipeline.errors import BundleError
from wsi_pipeline.files import atomic_path
from wsi_pipeline.model.bundle import ModelBundle

if TYPE_CHECKING:
    import openvino

RECORD: Final = ".json"
"""Suffix of the file that says what a graph is; its path stands for the graph's."""

EXPORT_FORMAT: Final = 3
"""Changes with whatever changes what is exported of a bundle."""

Record = dict[str, Any]
"""What is said of a graph, as JSON."""

_XML, _WEIGHTS, _DIGEST = ".xml", ".bin", "graph"


@dataclass(frozen=True)
class Graph:
    """A graph as OpenVINO serialises it."""

    xml: bytes = field(repr=False)
    weights: bytes = field(repr=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over both parts."""
        parts = (sha256(self.xml).digest(), sha256(self.weights).digest())
        return sha256(b"".join(parts)).hexdigest()

    @classmethod
    def of(cls, model: "openvino.Model", *, half: bool = False) -> Self:
        """Serialise a model, with its weights as they are or in half precision."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.xml"
            import_openvino().save_model(model, path, compress_to_fp16=half)
            return cls(path.read_bytes(), path.with_suffix(".bin").read_bytes())

    def model(self) -> "openvino.Model":
        """Make a model of it, for batches of any size."""
        weights = import_openvino().Tensor(np.frombuffer(self.weights, np.uint8))
        return core().read_model(self.xml, weights)


def write_graph(path: Path, graph: Graph, record: Record) -> None:
    """Write a graph's files: first the largest, which a full disk refuses, and the record last.

    Args:
        path: of the record.
        graph: what it speaks of.
        record: what is to be said of it.

    """
    about = json.dumps({**record, _DIGEST: graph.digest}, indent=2)
    contents = {
        _WEIGHTS: graph.weights,
        _XML: graph.xml,
        RECORD: f"{about}\n".encode(),
    }
    for suffix, content in contents.items():
        with atomic_path(path.with_suffix(suffix)) as partial:
            partial.write_bytes(content)


def read_graph(path: Path) -> tuple[Graph, Record]:
    """Read a graph, and its record, by the record's path.

    Raises:
        FileNotFoundError: if there is no record.
        BundleError: if a file is missing or damaged.

    """
    record, digest = read_record(path)
    xml, weights = (path.with_suffix(suffix) for suffix in (_XML, _WEIGHTS))
    for part in (xml, weights):
        if not part.is_file():
            raise damaged(path, f"{part.name} is missing")
    graph = Graph(xml.read_bytes(), weights.read_bytes())
    if graph.digest != digest:
        raise damaged(path, "its digest is another")
    return graph, record


def read_record(path: Path) -> tuple[Record, str]:
    """Read what is said of a graph, and the digest that it ought to have.

    Raises:
        FileNotFoundError: if there is no record.
        BundleError: if it is damaged.

    """
    try:
        record = dict(from_json(path.read_bytes()))
        return record, str(record.pop(_DIGEST))
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, cause: object) -> BundleError:
    """Return the error of a graph that is not what it was when it was written."""
    return BundleError(f"{path} is damaged ({cause}): delete it, and make or copy it again.")


def user_cache(bundle: ModelBundle) -> Path:
    """Return the folder of the user's own cache that is a bundle's, which need not be there.

    Raises:
        OSError: if the user has no home.

    """
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise OSError(f"this user has no home: {error}") from error
    return root / "wsi-pipeline" / bundle.digest[:16]

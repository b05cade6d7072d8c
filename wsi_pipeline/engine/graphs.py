"""Bundles as graphs of OpenVINO: exported once and kept, or quantised to 8 bits.

**Exported.** What torch would compute, in float32. It can be made again at any time, and is kept in
the user's own cache, by the bundle's digest: were it looked for beside the bundle, whoever hands a
bundle on could have another model run under its digest.

**Quantised.** A model of its own, which `wsi quantise` makes and puts beside the bundle. Its digest
belongs to the identity of scores (`Execution.graph`).

A file holds one graph: its XML, its weights, and a record of what it is, as a safetensors file,
which cannot run code. A graph takes uint8 [batch, side, side, 3] and gives scores [batch] and, of a
bundle with segmentation, class fractions [batch, classes].
"""

import json
import logging
import os
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cache, cached_property
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import filelock
import numpy as np
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from wsi_pipeline.errors import BundleError, ConfigError
from wsi_pipeline.files import atomic_path
from wsi_pipeline.model.bundle import ModelBundle

if TYPE_CHECKING:
    import openvino

log = logging.getLogger(__name__)

EXPORT_FORMAT: Final = 2
"""Changes with whatever changes what is exported."""

QUANTISED_NAME = "int8.safetensors"

_RECORD, _XML, _WEIGHTS = "record", "xml", "weights"

Record = dict[str, Any]
"""What a file says of its graph, as JSON."""


class Calibration(BaseModel):
    """How a bundle was quantised, and what it cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str
    """The bundle's digest."""
    slides: int
    tiles: int
    """On which ranges were measured."""
    seed: int
    float32_share: float
    """Share of the convolutions, counted from the pixels on, that had to stay in float32."""
    checked_on: int
    """Other tiles of the same slides, on which the errors were measured."""
    mean_error: float
    """Of scores, absolute, against torch in float32."""
    max_error: float
    bias: float
    """The mean difference to torch in float32."""
    software: dict[str, str]


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
    def of(cls, model: "openvino.Model") -> Self:
        """Serialise a model, with its weights as they are."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.xml"
            import_openvino().save_model(model, path, compress_to_fp16=False)
            return cls(path.read_bytes(), path.with_suffix(".bin").read_bytes())

    def model(self) -> "openvino.Model":
        """Make a model of it, for batches of any size."""
        weights = import_openvino().Tensor(np.frombuffer(self.weights, np.uint8))
        return core().read_model(self.xml, weights)


def openvino_is_installed() -> bool:
    """Say whether graphs can be run here."""
    return find_spec("openvino") is not None


def import_openvino() -> Any:  # noqa: ANN401
    """Import OpenVINO without what reports its use over the network.

    Raises:
        ConfigError: if it is not installed.

    """
    # Its converter and nncf do without, as they do where the package is not installed.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise ConfigError(
            "OpenVINO is not installed: `pip install wsi-pipeline[openvino]`, or set "
            "`engine.runtime: torch`."
        ) from error
    return openvino


@cache
def core() -> Any:  # noqa: ANN401
    """Return OpenVINO's core, one for the life of the process.

    Each core gives its thread another stack for signals. Of two that end in the order in which they
    began, the second puts the first one's stack back, which is gone: the next signal that Python
    handles, a night's cancellation for one, would be a segmentation fault.

    Raises:
        ConfigError: if OpenVINO is not installed.

    """
    return import_openvino().Core()


def exported(bundle: ModelBundle) -> Graph:
    """Return a bundle's graph in float32, from the user's cache or exported anew.

    Raises:
        ConfigError: if OpenVINO is not installed.
        BundleError: if the bundle does not hold its network's weights.

    """
    of = {
        "bundle": bundle.digest,
        "format": EXPORT_FORMAT,
        "openvino": version("openvino"),
        "torch": version("torch"),
    }
    name = sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]
    graph = None
    try:
        path = _user_cache(bundle) / f"float32-{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Processes that start together wait for the first one's graph.
        with filelock.FileLock(path.with_suffix(".lock")):
            graph = _kept(path, of)
            if graph is None:
                graph = export(bundle)
                write_graph(path, graph, of)
    except OSError as error:
        log.warning(
            "The exported model cannot be kept (%s), and is made anew by each process. "
            "Free space, or set XDG_CACHE_HOME to a folder that can be written.",
            error,
        )
    return export(bundle) if graph is None else graph


def export(bundle: ModelBundle) -> Graph:
    """Turn a bundle into a graph in float32.

    Raises:
        ConfigError: if OpenVINO is not installed.
        BundleError: if the bundle does not hold its network's weights.

    """
    # Here, since torch takes seconds to import, and most graphs are found in the cache.
    from wsi_pipeline.engine.tracing import traced

    import_openvino()
    log.info("Exporting %s for OpenVINO; done once", bundle.card.name)
    return Graph.of(traced(bundle.network(), bundle.card.tile_px))


def quantised(bundle: ModelBundle) -> Graph:
    """Return a bundle's graph in 8 bits.

    Raises:
        ConfigError: if the bundle was not quantised.
        BundleError: if the file is damaged, or another bundle's.

    """
    path = _quantised_path(bundle)
    graph, record = read_graph(path)
    _calibration(path, record, bundle)
    return graph


def calibration(bundle: ModelBundle) -> tuple[Calibration, str]:
    """Return how a bundle was quantised, and the digest of its graph in 8 bits.

    Raises:
        ConfigError: if the bundle was not quantised.
        BundleError: if the file is damaged, or another bundle's.

    """
    path = _quantised_path(bundle)
    record, digest = read_record(path)
    return _calibration(path, record, bundle), digest


def keep_quantised(bundle: ModelBundle, graph: Graph, how: Calibration) -> Path:
    """Write a quantised graph beside its bundle, or to the user's cache if that is read-only.

    Returns:
        the file's path; beside it lies what it cost, as JSON.

    """
    folders = _quantised_folders(bundle)
    for folder in folders:
        path = folder / QUANTISED_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_graph(path, graph, how.model_dump())
            with atomic_path(path.with_suffix(".json")) as partial:
                about = {**how.model_dump(), "graph": graph.digest}
                partial.write_text(f"{json.dumps(about, indent=2)}\n", encoding="utf-8")
        except OSError as error:
            if folder == folders[-1]:
                raise
            log.info("%s cannot be written (%s)", folder, error.strerror)
        else:
            break
    return path


def write_graph(path: Path, graph: Graph, record: Record) -> None:
    """Write a graph's file."""
    tensors = {
        _XML: np.frombuffer(graph.xml, np.uint8),
        _WEIGHTS: np.frombuffer(graph.weights, np.uint8),
    }
    content = json.dumps({"digest": graph.digest, "of": record}, sort_keys=True)
    # Not by `save_file`, whose errors do not tell a full disk from a fault of its own.
    packed = safetensors.numpy.save(tensors, {_RECORD: content})
    with atomic_path(path) as partial:
        partial.write_bytes(packed)


def read_graph(path: Path) -> tuple[Graph, Record]:
    """Read a graph's file, and the record in it.

    Raises:
        FileNotFoundError: if there is none.
        BundleError: if it is damaged.

    """
    record, digest = read_record(path)
    try:
        with safe_open(path, framework="numpy") as file:
            graph = Graph(file.get_tensor(_XML).tobytes(), file.get_tensor(_WEIGHTS).tobytes())
    except SafetensorError as error:
        raise _damaged(path, error) from error
    if graph.digest != digest:
        raise _damaged(path, "its digest is another")
    return graph, record


def read_record(path: Path) -> tuple[Record, str]:
    """Read what a graph's file says of itself, and the digest that its graph ought to have.

    Raises:
        FileNotFoundError: if there is none.
        BundleError: if it is damaged.

    """
    try:
        with safe_open(path, framework="numpy") as file:
            content = json.loads(file.metadata()[_RECORD])
        return dict(content["of"]), str(content["digest"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def _kept(path: Path, of: Record) -> Graph | None:
    try:
        graph, record = read_graph(path)
    except FileNotFoundError:
        return None
    except BundleError as error:
        log.warning("%s It is made anew.", error)
        return None
    return graph if record == of else None


def _calibration(path: Path, record: Record, bundle: ModelBundle) -> Calibration:
    try:
        how = Calibration.model_validate(record)
    except ValidationError as error:
        raise _damaged(path, "its record is of another format") from error
    if how.bundle != bundle.digest:
        raise BundleError(
            f"{path} was made of another bundle than {bundle.source} holds now: {_remedy(bundle)}."
        )
    return how


def _quantised_path(bundle: ModelBundle) -> Path:
    for path in (folder / QUANTISED_NAME for folder in _quantised_folders(bundle)):
        if path.is_file():
            return path
    raise ConfigError(
        f"{bundle.source} has no graph in 8 bits, which `engine.precision: int8` asks for: "
        f"{_remedy(bundle)}, or take another precision."
    )


def _remedy(bundle: ModelBundle) -> str:
    return f"make one with `wsi quantise {bundle.source} SLIDES`"


def _quantised_folders(bundle: ModelBundle) -> list[Path]:
    beside = [] if bundle.folder is None else [bundle.folder]
    return [*beside, _user_cache(bundle)]


def _user_cache(bundle: ModelBundle) -> Path:
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise OSError(f"this user has no home: {error}") from error
    return root / "wsi-pipeline" / bundle.digest[:16]


def _damaged(path: Path, cause: object) -> BundleError:
    return BundleError(f"{path} is damaged ({cause}): delete it, and make or copy it again.")

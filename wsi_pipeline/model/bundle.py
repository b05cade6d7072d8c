"""Model bundles: what training exports and all that inference loads.

A bundle is a folder of two files: ``card.json`` says what the model is, and ``model.safetensors``
holds its weights. Neither can run code or have anything fetched; either may be a link, as in the
hub's cache. It lies in a path or on the Hugging Face hub, and its digest, over the bytes of both
files, is its identity wherever results are stored.
"""

import logging
import os
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from pydantic_core import from_json

from wsi_pipeline.digests import Sha256
from wsi_pipeline.errors import BundleError, ConfigError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.memory import enough_memory
from wsi_pipeline.model.architecture import REGRESSION_STRIDE, Architecture
from wsi_pipeline.model.hub import CARD_NAME, WEIGHTS_NAME, HubAddress, fetched
from wsi_pipeline.model.score_error import SCORE_ERROR_NAME, ScoreError
from wsi_pipeline.model.torch_extra import torch_at_hand
from wsi_pipeline.validation import problems

if TYPE_CHECKING:
    from wsi_pipeline.model.network import RegressionNetwork

log = logging.getLogger(__name__)

FORMAT_VERSION: Final = 1

MAX_CARD_BYTES = 1 << 20
MAX_WEIGHTS_BYTES = 1 << 33
"""The largest network that can be built, of two ResNeXt-101 32x48d, has 7 GB of weights."""

BUNDLED_MODEL = Path(__file__).parent / "cellularity_breast"
"""The bundle that comes with the package; its card says what it was trained on."""

# Cards are shown on terminals and in logs: nothing in them may steer the one or fake the other.
Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
Prose = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]+$")]


class ModelCard(BaseModel):
    """What a model is, what it was trained on, and what it is for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    name: Line
    version: Line
    architecture: Architecture
    """Backbones, classes and normalisation."""
    mpp: Mpp = Field(default=Mpp(0.5), gt=0, le=100, allow_inf_nan=False)
    """Micrometres per pixel of the patches that the model takes."""
    tile_px: int = Field(default=512, gt=0, le=8192, multiple_of=REGRESSION_STRIDE)
    """Side of the patches in pixels at ``mpp``."""
    stored_as: Literal["float32", "float16"] = "float32"
    """Precision of convolution and linear weights in the file; they are always run as float32."""
    metrics: dict[Line, FiniteFloat] = {}
    """Figures on held-back data; the names say which."""
    trained_on: Prose
    licence: Line
    intended_use: Prose
    limitations: Prose
    weights_sha256: Sha256 | None = None
    """Digest of the file of weights that the card is written for; None leaves it open."""
    demonstration: bool = False
    """True for a model that shows the software and must not be trusted with tissue."""


@dataclass(frozen=True)
class ModelBundle:
    """A card and the weights it speaks of, as the bytes of their files."""

    card_json: bytes
    weights: bytes = field(repr=False)
    source: str = field(compare=False)
    """Where the bundle came from, for messages."""
    folder: Path | None = field(default=None, compare=False)
    """Where its files lie; None if it was not loaded."""

    @classmethod
    def load(cls, location: str | Path | None = None) -> Self:
        """Read a bundle from a folder, or from ``hf://owner/name[@revision][#digest]``, on the hub.

        None is the bundle that comes with the package.

        Whether the weights fit the card is found out by :meth:`network`.

        Raises:
            BundleError: If there is no bundle, a file of it is missing, or the card is malformed
                or of a newer format, a file is larger than any model's, the weights are not those
                that the card is written for, or the bundle is not the one whose digest is given.

        """
        location = BUNDLED_MODEL if location is None else location
        # A link to the bundle in use may be swapped meanwhile: both files come from one folder.
        pinned = None
        if str(location).startswith("hf:"):
            address = HubAddress.parse(str(location))
            folder, pinned = fetched(address), address.digest
        else:
            folder = Path(location).resolve()
        if not folder.is_dir():
            raise BundleError(
                f"{location} is no model bundle: there is no such folder. Give a folder with "
                f"{CARD_NAME} and {WEIGHTS_NAME}, or hf://owner/name."
            )
        for name in (CARD_NAME, WEIGHTS_NAME):
            if not (folder / name).is_file():
                raise BundleError(
                    f"{location} is no complete model bundle: {name} is missing. "
                    "Copy or export the bundle again."
                )
        bundle = cls(
            card_json=_content(folder / CARD_NAME, MAX_CARD_BYTES),
            weights=_content(folder / WEIGHTS_NAME, MAX_WEIGHTS_BYTES),
            source=str(location),
            folder=folder,
        )
        bundle._require_own_weights()
        if pinned not in (None, bundle.digest):
            raise BundleError(
                f"{location}: the bundle there has another digest, {bundle.digest}. Name the "
                "revision that has yours, or pin this one if you know why it is another."
            )
        log.info("Model %s %s, digest %s", bundle.card.name, bundle.card.version, bundle.digest)
        return bundle

    @classmethod
    def of(cls, network: "RegressionNetwork", card: ModelCard) -> Self:
        """Make a bundle of a trained network.

        Raises:
            BundleError: If the card speaks of another architecture, or a weight is not finite.

        """
        if network.architecture != card.architecture:
            raise BundleError(
                f"The card of {card.name} describes another architecture than the network's: "
                f"{card.architecture!r} instead of {network.architecture!r}."
            )
        # Here, as in `network`: the libraries behind it take seconds to import, and scoring by
        # graphs needs none of them.
        from wsi_pipeline.model.weights import to_bytes

        source = f"{card.name} {card.version}"
        weights = to_bytes(network, source, half=card.stored_as == "float16")
        card = card.model_copy(update={"weights_sha256": sha256(weights).hexdigest()})
        return cls(f"{card.model_dump_json(indent=2)}\n".encode(), weights, source)

    def save(self, folder: Path) -> None:
        """Write the bundle; the folder appears only when it is whole.

        Raises:
            BundleError: If the folder already holds anything but this very bundle.

        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            if _holds(folder, self):
                return
            raise BundleError(
                f"{folder} already holds something else than this bundle; "
                "choose another folder, or delete that one first."
            )
        partial = folder.with_name(f".partial-{folder.name}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, content in ((CARD_NAME, self.card_json), (WEIGHTS_NAME, self.weights)):
            with (partial / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        partial.replace(folder)

    @cached_property
    def card(self) -> ModelCard:
        """The card, validated.

        Raises:
            BundleError: If it is malformed or of a newer format.

        """
        path = f"{self.source}/{CARD_NAME}"
        try:
            content = from_json(self.card_json)
        except ValueError as error:
            raise BundleError(f"{path} is no JSON: {error}. Export the bundle again.") from error
        version = content.get("format_version", 1) if isinstance(content, dict) else 1
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise BundleError(
                f"{path} is of format {version}, and this software reads up to {FORMAT_VERSION}: "
                "update wsi-pipeline."
            )
        try:
            return ModelCard.model_validate(content)
        except ValidationError as error:
            raise BundleError(f"{path} is no valid model card: {problems(error)}.") from error

    @cached_property
    def digest(self) -> str:
        """SHA-256 over both files: the bundle's identity, whatever its folder is called."""
        parts = (sha256(self.card_json).digest(), bytes.fromhex(self.weights_sha256))
        return sha256(b"".join(parts)).hexdigest()

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights' file."""
        return sha256(self.weights).hexdigest()

    @cached_property
    def score_error(self) -> ScoreError | None:
        """How far its scores are off; None if that was not measured, or of another bundle.

        Raises:
            BundleError: if the file is damaged.

        """
        if self.folder is None:
            return None
        path = self.folder / SCORE_ERROR_NAME
        try:
            found = ScoreError.read(path)
        except FileNotFoundError:
            return None
        if found.bundle != self.digest:
            log.warning("%s was measured on another bundle: figures get no interval of it.", path)
            return None
        return found

    def _require_own_weights(self) -> None:
        expected = self.card.weights_sha256
        if expected is not None and expected != self.weights_sha256:
            raise BundleError(
                f"{self.source}/{WEIGHTS_NAME} holds other weights than {CARD_NAME} is written "
                f"for: their SHA-256 begins with {self.weights_sha256[:12]} instead of "
                f"{expected[:12]}. The file is damaged or was exchanged: copy the bundle again."
            )

    def network(self) -> "RegressionNetwork":
        """Build the network in float32 and evaluation mode, on the CPU.

        Raises:
            BundleError: If the architecture cannot be built, or the weights are not its own.
            ConfigError: If torch is not installed.

        """
        with torch_at_hand(f"{self.source}: building its network"):
            from wsi_pipeline.model.weights import to_network

        path = f"{self.source}/{WEIGHTS_NAME}"
        try:
            with enough_memory(f"{path}: building its network"):
                return to_network(self.weights, self.card.architecture, path)
        except ConfigError as error:
            raise BundleError(f"{self.source}/{CARD_NAME}: {error}") from error


def _content(path: Path, max_bytes: int) -> bytes:
    size = path.stat().st_size
    if size > max_bytes:
        raise BundleError(
            f"{path} has {size:,} bytes, and no model's has more than {max_bytes:,}: it is "
            "something else. Export the bundle again."
        )
    with enough_memory(f"{path}: reading it"):
        return path.read_bytes()


def _holds(folder: Path, bundle: ModelBundle) -> bool:
    try:
        return ModelBundle.load(folder).digest == bundle.digest
    except BundleError:
        return False

"""Facts that decide which tiles a store holds and which scores they have, as frozen values.

A store that was left off may be gone on with only under equal `TilingFacts` and, for its scores,
equal `ScoringFacts`: which pixels they are, and by which library and in which precision they were
scored. Scores in bfloat16 are never mixed with others in float32. Each names what decides, field by
field: anything else in the configuration changes no tile and no score.

What decides whether a *finished* result still holds is `wsi_pipeline.outputs.provenance.Settings`.
"""

from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from wsi_pipeline.digests import Sha256, SlideDigest, digest_of
from wsi_pipeline.engine.execution import Precision, Runtime
from wsi_pipeline.errors import StoreError
from wsi_pipeline.slide.readers.protocol import Backend
from wsi_pipeline.tiles.grid import GridConfig
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.tissue import TissueConfig


class Record(BaseModel):
    """A frozen value, written as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Facts(Record):
    """A record that is known by its digest."""

    @property
    def digest(self) -> str:
        """SHA-256 of all fields."""
        return digest_of(self.model_dump(mode="json"))


class SlideFacts(Record):
    """Which slide it was, and how its pixels were understood."""

    name: str
    size_bytes: int
    digest: SlideDigest
    vendor: str
    backend: Backend
    width_px: int
    height_px: int
    mpp: FiniteFloat
    """µm per level-0 pixel."""
    mpp_source: str


class BundleFacts(Record):
    """Which model it was."""

    name: str
    version: str
    digest: Sha256
    demonstration: bool


class GridFacts(Record):
    """Where tiles lie; see `tiles.grid.GridConfig`. Leave to enlarge moves none of them."""

    mpp: FiniteFloat
    tile_px: int
    stride_px: int
    min_tissue: FiniteFloat

    @classmethod
    def of(cls, config: GridConfig) -> Self:
        """Take what decides from the configuration."""
        return cls(**config.model_dump(include=set(cls.model_fields)))


class TilingFacts(Facts):
    """All that decides the tiles of a slide: its digest is that of their store."""

    slide_digest: SlideDigest
    l0_bounds: tuple[int, int, int, int]
    """(x, y, width, height) of the scanned part, in level-0 pixels."""
    mpp: FiniteFloat
    """µm per level-0 pixel."""
    level: int
    """The level of the pyramid that tiles are read from, and `shrink`, see `slide.View`."""
    shrink: int
    tissue: TissueConfig
    grid: GridFacts

    @classmethod
    def of(cls, store: TileStore) -> Self:
        """Read what a store says of its tiles.

        Raises:
            StoreError: if it is damaged there.

        """
        return _read(cls, store, store.tiling)


class ScoringFacts(Facts):
    """All that decides the scores of given tiles: its digest is that of the store's scores."""

    bundle: BundleFacts
    classes: tuple[str, ...]
    runtime: Runtime
    precision: Precision
    graph: Sha256 | None
    """As `Execution.graph`."""
    views: int
    class_fractions: bool

    @classmethod
    def of(cls, store: TileStore) -> Self:
        """Read what a store says of its scores.

        Raises:
            StoreError: if it is damaged there, or has none.

        """
        return _read(cls, store, store.scoring)


Kind = TypeVar("Kind", bound=Facts)


def _read(kind: type[Kind], store: TileStore, content: object) -> Kind:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise StoreError(
            f"{store.path}: its description is damaged. Move it away and score the slide again."
        ) from error

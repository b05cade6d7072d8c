"""The whole configuration of a scoring run: the consumers' own models, composed once."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.engine.int8 import calibration
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.facts import GridFacts
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.machine import cores
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.model.score_error import ScoreError
from wsi_pipeline.outputs.fine_map import FineMapConfig
from wsi_pipeline.outputs.overlay import OverlayConfig
from wsi_pipeline.outputs.provenance import Settings
from wsi_pipeline.scoring.filing import Names
from wsi_pipeline.slide.readers.protocol import Backend
from wsi_pipeline.tiles.grid import GridConfig
from wsi_pipeline.tiles.store_place import StoreConfig
from wsi_pipeline.tiles.tissue import TissueConfig
from wsi_pipeline.validation import load_yaml, problems


class SlideConfig(BaseModel):
    """How slides are opened."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: Backend = "auto"
    """The reading library; "auto" chooses by format."""
    mpp: Mpp | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Overrides what files say of their level-0 pixel size, in µm."""


class ScoreConfig(BaseModel):
    """All that scoring can be told but for the bundle; `settings` is what decides results."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slide: SlideConfig = SlideConfig()
    tissue: TissueConfig = TissueConfig()
    grid: GridConfig = GridConfig()
    engine: EngineConfig = EngineConfig()
    overlay: OverlayConfig = OverlayConfig()
    fine_map: FineMapConfig = FineMapConfig()
    score_error: Path | None = None
    """How far scores are off at this laboratory, as `wsi accept` writes it; None takes what comes
    with the bundle."""
    min_coverage: float = Field(default=0.9, ge=0, le=1)
    """Share of the tissue that must have been scored for a slide-level figure to be given."""
    names: Names = "file"
    """What outputs call a slide: its file's name, or a pseudonym from its bytes ("digest")."""
    keep_tiles: bool = False
    """Whether the tiles' pixels stay in the store after scoring (half a megabyte each)."""
    workers: int = Field(default_factory=cores, ge=1, le=4096)
    """Threads that read the slide; does not change any result. As many as there are cores."""
    store: StoreConfig = StoreConfig()
    cluster: str | None = Field(default=None, pattern=r"^(tcp|tls|ucx|ws|wss)://[^@/]+$")
    """Address of a Dask scheduler whose workers read and score; None is this machine alone."""

    def settings(self, bundle: ModelBundle) -> Settings:
        """Return what of all this decides a result, when it is scored with this model.

        Raises:
            ConfigError: if 8 bits are asked for, and the bundle was not quantised.
            BundleError: if its graph in 8 bits is damaged.

        """
        engine = self.engine
        return Settings(
            bundle=bundle.digest,
            calibration=calibration(bundle)[1] if engine.precision == "int8" else None,
            precision=engine.precision,
            views=engine.views,
            class_fractions=engine.class_fractions,
            mpp=self.slide.mpp,
            tissue=self.tissue,
            grid=GridFacts.of(self.grid),
            overlay=self.overlay,
            fine_map=self.fine_map,
            min_coverage=self.min_coverage,
        )

    def errors_of(self, bundle: ModelBundle) -> ScoreError | None:
        """Return how far a model's scores are off; None if nobody measured it.

        Raises:
            ConfigError: if the laboratory's own file is missing, or of another model.
            BundleError: if a file is damaged.

        """
        if self.score_error is None:
            return bundle.score_error
        try:
            found = ScoreError.read(self.score_error)
        except FileNotFoundError as error:
            raise ConfigError(f"{self.score_error}: there is no such file.") from error
        if found.bundle != bundle.digest:
            raise ConfigError(
                f"{self.score_error}: it was measured on another model than "
                f"{bundle.card.name} {bundle.card.version}. Run `wsi accept` with this one's "
                f"results, or leave `score_error` out."
            )
        return found

    def of_slide(self, mpp: float | None, allow_upsampling: bool | None) -> Self:  # noqa: FBT001
        """Return what holds for a slide of which that is said; None leaves what holds for all."""
        said = {"slide": {"mpp": mpp}, "grid": {"allow_upsampling": allow_upsampling}}
        return self.model_validate(_laid_over(self.model_dump(), said))

    @classmethod
    def resolve(
        cls,
        path: Path | None = None,
        *,
        mpp: float | None = None,
        allow_upsampling: bool | None = None,
        device: str | None = None,
        workers: int | None = None,
        keep_tiles: bool | None = None,
    ) -> Self:
        """Lay a run's options over its configuration file, and both over the defaults.

        Args:
            path: the file; None is an empty one.
            mpp: see `SlideConfig.mpp`; as with all options, None leaves what the file says.
            allow_upsampling: see `GridConfig.allow_upsampling`.
            device: see `EngineConfig.device`.
            workers: see `ScoreConfig.workers`.
            keep_tiles: see `ScoreConfig.keep_tiles`.

        Raises:
            ConfigError: if the file cannot be used, or an option's value.

        """
        options = {
            "slide": {"mpp": mpp},
            "grid": {"allow_upsampling": allow_upsampling},
            "engine": {"device": device},
            "workers": workers,
            "keep_tiles": keep_tiles,
        }
        settings = load_yaml(path, cls) if path else cls()
        try:
            return cls.model_validate(_laid_over(settings.model_dump(), options))
        except ValidationError as error:
            raise ConfigError(f"An option cannot be used: {problems(error)}.") from error


def _laid_over(base: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Replace what the options give, section by section; None gives nothing."""
    return base | {
        key: _laid_over(base[key], value) if isinstance(value, dict) else value
        for key, value in options.items()
        if value is not None
    }

"""What training begins from: a finished run, or a bundle such as the one that comes with this."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import Tensor

from training.run import config_of, trained_weights
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.architecture import Architecture
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.model.hub import CARD_NAME

_STAGE_1 = "segmentation."
"""What names of stage 1's tensors begin with in a network of stage 2."""

_DEFAULTS = Architecture.model_fields


@dataclass(frozen=True)
class Start:
    """Trained weights, and what they were taught with."""

    source: str
    """A run's folder or a bundle's address, for messages."""
    weights: dict[str, Tensor]
    """Of stage 1, or of stage 2, which holds stage 1 within it."""
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    """None where a run does not say."""
    upsampling: str

    @classmethod
    def of(cls, source: str | Path) -> Self:
        """Read a run's folder, a bundle's folder, or a bundle of a hub (``hf://owner/name``).

        Raises:
            ConfigError: If it is neither, or the run is not finished.
            BundleError: If the bundle is damaged.

        """
        source = str(source)
        if source.startswith("hf:") or (Path(source) / CARD_NAME).is_file():
            bundle = ModelBundle.load(source)
            ours = bundle.card.architecture
            weights = bundle.network().state_dict()
            return cls(source, weights, ours.mean, ours.std, ours.upsampling)
        run = Path(source)
        config = config_of(run)
        config = config.get("architecture", config)  # where stage 2 has it
        mean, std = (tuple(config[k]) if k in config else None for k in ("mean", "std"))
        upsampling = config.get("upsampling", _DEFAULTS["upsampling"].default)
        return cls(source, trained_weights(run), mean, std, upsampling)

    @property
    def is_of_stage_2(self) -> bool:
        """Whether the weights are a whole regression network's."""
        return any(name.startswith("regression.") for name in self.weights)

    def segmentation(self) -> dict[str, Tensor]:
        """Return the weights of stage 1 alone, by stage 1's own names.

        Raises:
            ConfigError: If there are none.

        """
        if not self.is_of_stage_2:
            return self.weights
        own = {
            name.removeprefix(_STAGE_1): tensor
            for name, tensor in self.weights.items()
            if name.startswith(_STAGE_1)
        }
        if not own:
            raise ConfigError(
                f"{self.source} is a plain regression, which holds no segmentation to start from. "
                "Give a run of stage 1, or a guided network."
            )
        return own

    def require_normalised_alike(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """See that these weights were given pixels as those that come will be.

        Raises:
            ConfigError: If they were not: no weight's shape would tell.

        """
        for name, theirs, ours in (("mean", self.mean, mean), ("std", self.std, std)):
            if theirs is not None and theirs != ours:
                raise ConfigError(
                    f"{self.source} was trained with {name} {list(theirs)}, and here it is "
                    f"{list(ours)}: its weights would see other colours. Set the same."
                )

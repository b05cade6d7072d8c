"""Backbones of timm, cut and strided so that a network's guidance can enter.

The first residual stage of a backbone strides by 2 instead of 1, so that its second ends at stride
16, where the guidance is, and its last at stride 64. Nothing is ever downloaded: pretrained weights
come as explicit state dicts.
"""

import copy
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.architecture import REGRESSION_STRIDE, SEGMENTATION_STRIDE
from wsi_pipeline.model.layers import initialise

# The modules of timm whose networks are a plain sequence of children up to the global pooling, with
# residual stages that can be strided; and those of them that can be dilated to output stride 16.
_CUT_FAMILIES = ("resnet", "senet", "efficientnet")
_SEGMENTATION_FAMILIES = ("resnet", "efficientnet")
# Networks of cells, each of which reads the two before it: nowhere can they be cut in two.
_UNCUT_FAMILIES = ("nasnet", "pnasnet")


class RegressionBackbone(nn.Module):
    """A timm classification network, cut where guidance enters, without its classifier.

    ``early`` is the stem with stages 1 and 2 and ends at stride 16; ``late`` is stages 3 and 4 with
    whatever precedes the global pooling, and ends at stride 64. A NASNet cannot be cut: all of it
    is ``early``, and ``guidable`` is False.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        family = _require_family(name, (*_CUT_FAMILIES, *_UNCUT_FAMILIES), "regression")
        model = timm.create_model(name, pretrained=False)
        self._name = name
        self.guidable = family in _CUT_FAMILIES
        self.early, self.late = _cut(model, name) if self.guidable else _uncut(model)
        initialise(self)
        self.guided_channels, self.out_channels = self._probe()

    def forward(self, image: Tensor) -> Tensor:
        """Return features at stride 64, [B, D, H/64, W/64], of a normalised image [B, 3, H, W]."""
        features: Tensor = self.late(self.early(image))
        return features

    def require_guidable(self) -> None:
        """Raise if there is no place where guidance can enter.

        Raises:
            ConfigError: naming the backbone, and those that can be guided.

        """
        if not self.guidable:
            cause = (
                "its cells cannot be cut where guidance enters, so it serves the plain regression"
            )
            raise ConfigError(_misfit(self._name, cause))

    def load_backbone(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a timm state dict of the backbone's name, as pretrained on ImageNet.

        A shortcut that the changed stride made necessary keeps its fresh weights, and the
        classifier is left out.

        Raises:
            ConfigError: If another tensor is missing or has another shape.

        """
        # Dots and underscores differ where a stage was taken out of its container.
        theirs = {name.replace(".", "_"): tensor for name, tensor in state_dict.items()}
        fitting, wrong = {}, []
        for name, own in self.state_dict().items():
            inside = name.split(".", 1)[1]
            if isinstance(self.early, _Cells):
                inside = self.early.name_in_timm(inside)
            tensor = theirs.get(inside.replace(".", "_"))
            if tensor is not None and tensor.shape == own.shape:
                fitting[name] = tensor
            elif ".downsample." not in name and not name.endswith("num_batches_tracked"):
                wrong.append(name)
        if wrong:
            raise ConfigError(
                f"The pretrained weights do not fit the regression backbone: {wrong[0]} and "
                f"{len(wrong) - 1} more are missing or of another shape; "
                "take weights of the very timm network that the configuration names."
            )
        self.load_state_dict(fitting, strict=False)

    @torch.no_grad()
    def _probe(self) -> tuple[int, int]:
        """Return the channels of both parts, having seen that their strides are as promised."""
        side = 2 * REGRESSION_STRIDE
        self.eval()
        early = self.early(torch.zeros(1, 3, side, side))
        late = self.late(early)
        self.train()
        strides = side / early.shape[-1], side / late.shape[-1]
        promised = SEGMENTATION_STRIDE if self.guidable else REGRESSION_STRIDE, REGRESSION_STRIDE
        if strides != promised:
            raise ConfigError(_misfit(self._name, f"its stages end at other strides: {strides}"))
        return early.shape[1], late.shape[1]


def require_segmentation_backbone(name: str) -> None:
    """Raise if a network cannot be the backbone of a segmentation.

    Raises:
        ConfigError: if timm does not know it by a plain name, or it is of another family.

    """
    _require_family(name, _SEGMENTATION_FAMILIES, "segmentation")


def _require_family(name: str, families: tuple[str, ...], role: str) -> str:
    # A plain, registered name alone: timm would also take tags and fetch "hf-hub:" addresses.
    known = timm.is_model(name) and not set(name) & set(".:/")
    if not known:
        raise ConfigError(
            f"{name!r} is no network that timm {timm.__version__} knows; "
            "take a plain name without tag, such as 'resnet101' or 'tf_efficientnet_lite0'."
        )
    family = timm.model_entrypoint(name).__module__.removeprefix("timm.models.")
    if family not in families:
        raise ConfigError(_misfit(name, f"it is of no family that serves as {role} backbone"))
    return family


def _misfit(name: str, cause: str) -> str:
    return (
        f"The backbone {name!r} does not fit: {cause}. What fits is the ResNet, "
        "ResNeXt, SE-ResNet and EfficientNet networks of timm, for regression also its legacy "
        "SENets, and for plain regression its NASNets."
    )


def _cut(model: Any, name: str) -> tuple[nn.Module, nn.Module]:  # noqa: ANN401
    """Stride a network's first stage by 2, and part it behind its second."""
    ends: dict[int, str] = {info["reduction"]: info["module"] for info in model.feature_info}
    parts = OrderedDict(_parts(model, ends.values()))
    first_blocks = [block for part in parts.values() if (block := _first_block(part))]
    if ends.get(8) not in parts or len(first_blocks) < 2:
        raise ConfigError(_misfit(name, "its stages cannot be told apart"))
    _stride_like(first_blocks[0], first_blocks[1], name)

    cut = list(parts).index(ends[8]) + 1
    named = [(part.replace(".", "_"), module) for part, module in parts.items()]
    return nn.Sequential(OrderedDict(named[:cut])), nn.Sequential(OrderedDict(named[cut:]))


class _Cells(nn.Module):
    """A NASNet up to its global pooling, at stride 64.

    All its cells before the first reduction have stride 1 and wire two earlier maps, so none can be
    strided alone. A max pooling behind the first convolution, where ResNets have theirs, halves the
    resolution instead.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        first, convolution = next(model.named_children())
        model.set_submodule(
            first, nn.Sequential(convolution, nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
        )
        self.model: Any = model

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.model.forward_features(image)
        return features

    def name_in_timm(self, name: str) -> str:
        """Return what timm calls a tensor: its network has no pooling behind the first layer."""
        first, _ = next(self.model.named_children())
        return name.removeprefix("model.").replace(f"{first}.0.", f"{first}.", 1)


def _uncut(model: Any) -> tuple[nn.Module, nn.Module]:  # noqa: ANN401
    model.reset_classifier(0, global_pool="")
    return _Cells(model), nn.Identity()


def _parts(model: nn.Module, ends: Collection[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield what a network applies one after the other before its global pooling.

    A container of several stages (EfficientNet's ``blocks``) is opened; ``ends`` names the modules
    that end a stage.
    """
    for name, child in model.named_children():
        if name == "global_pool":
            return
        if any(end.startswith(f"{name}.") for end in ends):
            yield from ((f"{name}.{part}", module) for part, module in child.named_children())
        else:
            yield name, child


def _first_block(part: nn.Module) -> nn.Module | None:
    """Return a residual stage's first block; None for a layer or a stem, a sequence of layers."""
    first = part[0] if isinstance(part, nn.Sequential) else None
    return first if first is not None and any(True for _ in first.children()) else None


def _stride_like(block: nn.Module, example: nn.Module, name: str) -> None:
    """Make a residual block stride by 2 where the first block of the next stage does.

    A ResNet strides on its first or second convolution and on its shortcut, an EfficientNet on its
    depthwise convolution: each as its authors chose.
    """
    modules = dict(block.named_modules())
    for path, leaf in example.named_modules():
        if getattr(leaf, "stride", 1) in (1, (1,), (1, 1)) or any(True for _ in leaf.children()):
            continue
        own = modules.get(path)
        if isinstance(leaf, nn.Conv2d) and isinstance(own, nn.Conv2d):
            own.stride = leaf.stride
        elif isinstance(leaf, nn.AvgPool2d) and isinstance(own, nn.Identity):
            block.set_submodule(path, copy.deepcopy(leaf))
        elif not path.startswith("downsample"):
            raise ConfigError(_misfit(name, f"its first stage has nothing to stride at {path!r}"))

    if hasattr(block, "has_skip"):
        block.has_skip = False  # type: ignore[assignment]
    elif getattr(block, "downsample", None) is None:
        channels = next(m.in_channels for m in block.modules() if isinstance(m, nn.Conv2d))
        block.downsample = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=1, stride=2, bias=False),
            nn.BatchNorm2d(channels),
        )

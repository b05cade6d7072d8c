"""Weights between a network and the bytes of a safetensors file, which cannot run code."""

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from wsi_pipeline.errors import BundleError
from wsi_pipeline.model.architecture import REGRESSION_STRIDE, Architecture
from wsi_pipeline.model.network import RegressionNetwork, build_network


def to_bytes(network: RegressionNetwork, source: str, *, half: bool) -> bytes:
    """Turn a network's weights into a file's content.

    Args:
        network: trained, on any device.
        source: what the network is, for messages.
        half: whether convolution and linear weights are stored as float16.

    Raises:
        BundleError: If a weight is not finite, as it is stored.

    """
    tensors = {
        name: _stored(tensor, half=half).contiguous().cpu()
        for name, tensor in network.state_dict().items()
    }
    _require_finite(tensors, source)
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


READ = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Floating-point types that a bundle may hold: 8 bits say too little to be weights alone."""

PROBE_PX = 2 * REGRESSION_STRIDE


def to_network(content: bytes, architecture: Architecture, path: str) -> RegressionNetwork:
    """Build a network with a file's weights, in float32 and evaluation mode, on the CPU.

    Args:
        content: the file's.
        architecture: the network's.
        path: the file's, for messages.

    Raises:
        ConfigError: If the architecture cannot be built.
        BundleError: If the weights are not its own, cannot be a trained network's, or compute
            anything but numbers.

    """
    network = build_network(architecture)
    tensors = _tensors(content, path)
    _require_fit(tensors, network.state_dict(), path)
    _require_finite(tensors, path)
    _require_variances(tensors, path)
    network.load_state_dict(tensors, strict=True)
    network.eval()
    _require_numbers(network, path)
    return network


def _tensors(content: bytes, path: str) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise BundleError(
            f"{path} is no safetensors file ({error}): it is damaged or of another kind, and "
            "no other kind is read. Copy or export the bundle again."
        ) from error
    except KeyError as error:  # a type of numbers that torch does not know
        raise _unread_type(path, "weights", error.args[0]) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype not in READ:
            raise _unread_type(path, name, str(tensor.dtype).removeprefix("torch."))
    return tensors


def _unread_type(path: str, name: str, kind: str) -> BundleError:
    return BundleError(
        f"{path} holds {name} as {kind}, and weights are read as float16, bfloat16, float32 or "
        "float64. Export the bundle again in one of these."
    )


def _stored(tensor: Tensor, *, half: bool) -> Tensor:
    # The statistics of batch norms span more than float16 can hold, and weigh next to nothing.
    return tensor.half() if half and tensor.ndim > 1 else tensor


def _require_fit(tensors: dict[str, Tensor], own: dict[str, Tensor], path: str) -> None:
    faults = [f"{name} is missing" for name in own.keys() - tensors.keys()]
    faults += [f"{name} is surplus" for name in tensors.keys() - own.keys()]
    faults += [
        f"{name} is {_kind(tensors[name])} instead of {_kind(own[name])}"
        for name in own.keys() & tensors.keys()
        if tensors[name].shape != own[name].shape
        or tensors[name].is_floating_point() != own[name].is_floating_point()
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise BundleError(
            f"{path} does not fit the architecture on its card: {', '.join(sorted(faults)[:3])}"
            f"{more}. Export the bundle again."
        )


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _require_finite(tensors: dict[str, Tensor], path: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BundleError(
                f"{path} holds values that are not finite, in {name}: "
                "the training diverged, or the file is damaged."
            )


def _require_variances(tensors: dict[str, Tensor], path: str) -> None:
    for name, tensor in tensors.items():
        if name.endswith(".running_var") and (tensor < 0).any():
            raise BundleError(
                f"{path} holds a negative variance, in {name}, which no training leaves: the file "
                "is damaged. Copy or export the bundle again."
            )


@torch.inference_mode()
def _require_numbers(network: RegressionNetwork, path: str) -> None:
    """Raise if a layer makes something else than numbers of noise.

    The layers behind it may hide that: OpenVINO makes 0 of what is none, and the score is clamped.
    """

    def check(layer: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and not torch.isfinite(output).all():
            raise BundleError(
                f"{path} computes infinities or no numbers, in {names[layer]}: the training "
                "diverged, or the file is damaged. Copy or export the bundle again."
            )

    names = {layer: name for name, layer in network.named_modules()}
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1, PROBE_PX, PROBE_PX, 3), generator=noise, dtype=torch.uint8)
    hooks = [layer.register_forward_hook(check) for layer in network.modules()]
    try:
        network(pixels)
    finally:
        for hook in hooks:
            hook.remove()

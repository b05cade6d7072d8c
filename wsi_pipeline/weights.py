"""Weights between a network and the bytes of a safetensors file, which cannot run code."""

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from wsi_pipeline.architecture import Architecture
from wsi_pipeline.errors import BundleError
from wsi_pipeline.network import RegressionNetwork, build_network


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


def to_network(content: bytes, architecture: Architecture, path: str) -> RegressionNetwork:
    """Build a network with a file's weights, in float32 and evaluation mode, on the CPU.

    Args:
        content: the file's.
        architecture: the network's.
        path: the file's, for messages.

    Raises:
        ConfigError: If the architecture cannot be built.
        BundleError: If the weights are not its own.

    """
    network = build_network(architecture)
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise BundleError(
            f"{path} is no safetensors file ({error}): it is damaged or of another kind, and "
            "no other kind is read. Copy or export the bundle again."
        ) from error
    _require_fit(tensors, network.state_dict(), path)
    _require_finite(tensors, path)
    network.load_state_dict(tensors, strict=True)
    return network.eval()


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
        if not torch.isfinite(tensor).all():
            raise BundleError(
                f"{path} holds values that are not finite, in {name}: "
                "the training diverged, or the file is damaged."
            )

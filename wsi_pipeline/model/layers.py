"""Layers that the parts of a network share, and how they start."""

from torch import nn


def convolution(in_channels: int, out_channels: int, kernel: int) -> tuple[nn.Module, ...]:
    """Return a convolution that keeps the size, with its batch norm and activation."""
    return (
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def initialise(module: nn.Module) -> None:
    """Initialise as He et al.: Kaiming normal convolutions, unit batch norms, zero biases.

    By fan-in, which PyTorch counts rightly for grouped and depthwise convolutions. Linear layers
    start small, so that every patch starts at a score near 0.5, where the sigmoid is steep.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.01)
        elif isinstance(part, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.ones_(part.weight)
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)

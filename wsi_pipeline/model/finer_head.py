"""The head that takes a segmentation from stride 4 on to stride 2."""

import torch
from torch import Tensor, nn

from wsi_pipeline.model.layers import convolution, initialise

GUIDANCE_CHANNELS = 256
"""Channels of the segmentation encoder's output, and of the first fused map."""

# Channels of the head that goes on to stride 2: of what the decoder knows, and of detail.
_FINE_CHANNELS = 64
_DETAIL_CHANNELS = 16


class FinerHead(nn.Module):
    """Takes the decoder's map from stride 4 to class logits at stride 2, with features from there.

    A nucleus of a lymphocyte is 11 px wide: at stride 4 its outline is a guess.
    """

    def __init__(
        self, fine_channels: int, classes: int, *, align_corners: bool, centres: bool
    ) -> None:
        super().__init__()
        self.reduce = nn.Sequential(*convolution(GUIDANCE_CHANNELS, _FINE_CHANNELS, kernel=1))
        self.detail = nn.Sequential(*convolution(fine_channels, _DETAIL_CHANNELS, kernel=1))
        channels = _FINE_CHANNELS + _DETAIL_CHANNELS
        self.join = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            *convolution(channels, _FINE_CHANNELS, kernel=1),
        )
        self.classify = nn.Conv2d(_FINE_CHANNELS, classes, kernel_size=1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=align_corners or None)
        if centres:
            self.centres = nn.Sequential(
                *convolution(_FINE_CHANNELS, _FINE_CHANNELS, kernel=3),
                nn.Conv2d(_FINE_CHANNELS, 1, kernel_size=1),
            )
        initialise(self)

    def forward(self, decoded: Tensor, fine: Tensor) -> Tensor:
        """Return features [B, C, H/2, W/2] of what was decoded at stride 4 and of finer detail."""
        joined = torch.cat([self.up(self.reduce(decoded)), self.detail(fine)], dim=1)
        features: Tensor = self.join(joined)
        return features

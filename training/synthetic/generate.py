"""Patches and regions to order."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from training.synthetic.fields import noise
from training.synthetic.layout import Layout, Tissue, lay_ducts, lay_tumour
from training.synthetic.patch import Patch
from training.synthetic.patterns import PATTERN_WEIGHTS, PATTERNS, Pattern
from training.synthetic.render import render
from training.synthetic.stain import draw_stain


class SyntheticConfig(BaseModel):
    """What to generate.

    ``stain="shifted"`` draws each stain parameter from just outside the range that ``"usual"``
    draws it from, so that a validation set can hold stains that training never showed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(default=512, ge=64, description="side of a patch, px at 0.5 µm/px")
    stain: Literal["usual", "shifted"] = "usual"


def generate_patch(
    rng: np.random.Generator,
    config: SyntheticConfig | None = None,
    pattern: Pattern | None = None,
    weights: Mapping[Pattern, float] = PATTERN_WEIGHTS,
) -> Patch:
    """Generate one patch, of a pattern drawn by weight unless one is named."""
    config = config or SyntheticConfig()
    if pattern is None:
        share = np.array(list(weights.values()))
        pattern = list(weights)[rng.choice(len(share), p=share / share.sum())]
    layout = Layout.empty(config.size)
    PATTERNS[pattern](rng, layout)
    return render(rng, layout, draw_stain(rng, config.stain))


def generate_region(
    seed: int, size: int = 4096, stain: Literal["usual", "shifted"] = "usual"
) -> Patch:
    """Generate a slide-like picture: one section on glass, with four tissues in its quarters.

    Solid tumour lies top left, stroma with ducts top right, fat bottom left and lymphocytes bottom
    right. Memory is about 150 bytes a pixel while it is made.
    """
    rng = np.random.default_rng(seed)
    layout = Layout.empty(size)
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    wobble = 0.03 * noise(rng, size, size / 8)
    left, top = grid[None, :] + wobble < 0, grid[:, None] + wobble < 0
    lay_tumour(rng, layout, top & left, density=0.9, scale=60.0)
    lay_ducts(rng, layout, count=max(2, size // 400), where=top & ~left)
    layout.tissue[~top & left & (layout.tissue == Tissue.STROMA)] = Tissue.FAT
    layout.tissue[~top & ~left & (layout.tissue == Tissue.STROMA)] = Tissue.LYMPHOID
    layout.tissue[np.hypot(grid[None, :], grid[:, None]) + wobble > 0.42] = Tissue.GLASS
    return render(rng, layout, draw_stain(rng, stain))

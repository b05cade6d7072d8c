"""``python -m training.synthetic``: write sample patches and a contact sheet."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic.generate import SyntheticConfig, generate_patch
from training.synthetic.patch import BACKGROUND, Patch
from training.synthetic.patterns import PATTERNS

log = logging.getLogger(__name__)


def contact_sheet(patches: Sequence[Patch], columns: int, cell: int = 256) -> NDArray[np.uint8]:
    """Lay patches out in rows, each beside its truth, with its cellularity written on it."""
    colours = np.array([[255, 255, 255], [30, 160, 60], [40, 90, 220], [220, 40, 40]], np.uint8)
    tiles = []
    for patch in patches:
        truth = colours[patch.mask]
        truth[patch.tumour & (patch.mask == BACKGROUND)] = (250, 200, 200)
        truth[~patch.tissue] = (225, 225, 225)
        pair = np.hstack([patch.rgb, truth])
        tile = cv2.resize(pair, (2 * cell, cell), interpolation=cv2.INTER_AREA)
        origin = (6, 22)
        cv2.putText(
            tile, f"{patch.cellularity:.2f}", origin, cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 2
        )
        tiles.append(tile)
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Write sample patches and a contact sheet of every pattern."""
    parser = argparse.ArgumentParser(prog="python -m training.synthetic", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--each", type=int, default=3, help="patches of each pattern")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=512, help="side of a patch in pixels")
    parser.add_argument("--stain", choices=("usual", "shifted"), default="usual")
    chosen = parser.parse_args(arguments)
    config = SyntheticConfig(size=chosen.size, stain=chosen.stain)
    chosen.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(chosen.seed)
    patches = []
    for pattern in PATTERNS:
        for number in range(chosen.each):
            patch = generate_patch(rng, config, pattern)
            patches.append(patch)
            name = f"{pattern.replace(' ', '-')}-{number}-{patch.cellularity:.3f}.png"
            cv2.imwrite(str(chosen.out / name), patch.rgb[..., ::-1])
    sheet = contact_sheet(patches, columns=chosen.each)
    cv2.imwrite(str(chosen.out / "contact-sheet.png"), sheet[..., ::-1])
    log.info("%d patches and contact-sheet.png are in %s", len(patches), chosen.out)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()

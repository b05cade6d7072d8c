"""In which order tiles are scored where not all of them are: like ones in strata, drawn in turn.

Tiles that look alike on the thumbnail and lie near each other form a stratum. In every round each
stratum gives one tile, drawn at random of those that it has left. So a few rounds see all kinds of
tissue in all parts of the slide, and after any number of rounds the tiles of a stratum are a simple
random sample of it, which is what makes an unbiased mean and an honest interval of them possible.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.geometry import Box
from wsi_pipeline.tiles.grid import TileGrid

MOST_STRATA = 32
LEAST_IN_STRATUM = 6
"""More strata see more at first, and cost more before anything can be said at all: two tiles each
are the least that tell how a stratum varies."""


@dataclass(frozen=True, eq=False)
class Draw:
    """The order in which the tiles of a slide are drawn.

    Attributes:
        stratum: int64 [N], of each tile.
        turn: int64 [N], the round in which the tile is drawn, from 0.

    """

    stratum: NDArray[np.int64]
    turn: NDArray[np.int64]

    @property
    def rounds(self) -> int:
        """Rounds until every tile is drawn."""
        return int(self.turn.max(initial=-1)) + 1

    def drawn(self, rounds: int) -> NDArray[np.bool_]:
        """Return which tiles are drawn in so many rounds, bool [N]."""
        return self.turn < rounds


def draw_of(looks: NDArray[np.float64], seed: int) -> Draw:
    """Draw tiles in strata of those that look alike.

    Args:
        looks: float64 [N, features], as `looks_of` gives them.
        seed: of the generator.

    """
    rng = np.random.default_rng(seed)
    strata = max(1, min(MOST_STRATA, len(looks) // LEAST_IN_STRATUM))
    stratum = np.empty(len(looks), np.int64)
    turn = np.empty(len(looks), np.int64)
    for number, members in enumerate(_split(looks, strata)):
        stratum[members] = number
        turn[members] = rng.permutation(len(members))
    return Draw(stratum, turn)


def looks_of(grid: TileGrid, picture: NDArray[np.uint8], l0_bounds: Box) -> NDArray[np.float64]:
    """Return how each tile looks on a picture of the slide, and where it lies.

    Args:
        grid: the tiles.
        picture: uint8 [rows, columns, 3], the slide's bounds, at some 8 µm/px.
        l0_bounds: of the slide, in level-0 pixels.

    Returns:
        float64 [N, 5]: optical density, by how much more of it is red than blue (haematoxylin over
        eosin), its standard deviation over the tile, column and row; each with a mean of 0 and a
        deviation of 1, or 0 everywhere.

    """
    density = -np.log10((picture.astype(np.float32) + 1) / 256)
    across, down = picture.shape[1] / l0_bounds.width, picture.shape[0] / l0_bounds.height
    looks = np.empty((len(grid), 5))
    for index, (x, y) in enumerate(grid.l0_xy):
        left, top = int((x - l0_bounds.x) * across), int((y - l0_bounds.y) * down)
        right = max(left + 1, round((x - l0_bounds.x + grid.l0_tile) * across))
        bottom = max(top + 1, round((y - l0_bounds.y + grid.l0_tile) * down))
        of_tile = density[top:bottom, left:right].reshape(-1, 3)
        red, _, blue = of_tile.mean(0)
        looks[index] = of_tile.mean(), red - blue, of_tile.mean(1).std(), x, y
    spread = looks.std(0)
    return np.asarray((looks - looks.mean(0)) / np.where(spread > 0, spread, 1))


def _split(looks: NDArray[np.float64], parts: int) -> list[NDArray[np.int64]]:
    """Split tiles into parts of equal numbers (but for one), each time where they differ most."""
    waiting = [(np.arange(len(looks)), parts)]
    done = []
    while waiting:
        members, count = waiting.pop()
        if count == 1:
            done.append(members)
            continue
        widest = looks[members].var(0).argmax()
        ordered = members[np.argsort(looks[members, widest], kind="stable")]
        first = count // 2
        cut = len(members) * first // count
        waiting += [(ordered[cut:], count - first), (ordered[:cut], first)]
    return done

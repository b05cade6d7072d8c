"""Where the levels of a pyramid lie on level 0, and which of them are read for what.

Libraries divide the sides of level 0 by a level's own. Writers round sides up or down, and some
fill a level up to whole tiles: then the quotient is off by up to a tile, and so is every pixel read
there. So a level's scale comes from what the file states of it, and from sizes only where these
leave no doubt. A level that cannot be placed is left out: a finer one holds the same tissue.

A `View` is a level, or one that is decoded at a part of its size. Regions are read from the
coarsest view that is still fine enough.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from wsi_pipeline.errors import SlideError
from wsi_pipeline.geometry import MAX_UPSAMPLING_OF_LEVEL, Box, Size

log = logging.getLogger(__name__)

ROUNDED = 0.02
"""A stated scale may be off by this share: pixel sizes are often stated in few digits."""

EXACT = 0.001
"""Closer than this, a stated scale is taken at its word."""

SHAPE = 1.10
"""A level whose sides' ratio differs from level 0's by more is another picture."""

MOST_CANDIDATES = 64
"""More whole numbers than this need not be told apart."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid; `downsample` is its pixel's side in level-0 pixels."""

    size: Size
    downsample: float


@dataclass(frozen=True, slots=True)
class Described:
    """What a file says of one of its pictures.

    Attributes:
        size: in pixels.
        tile: of its tiles, up to which a writer may have filled it; None if there is no telling.
        scale: size of its pixels, in the same unit for all pictures; None where it is silent.

    """

    size: Size
    tile: Size | None = None
    scale: float | None = None


@dataclass(frozen=True, slots=True)
class View:
    """What regions can be read from: a level, or one decoded at a part of its size.

    Attributes:
        level: index of the level.
        shrink: its tiles are decoded at one part in so many of their sides.
        size: of the whole view, in its own pixels.
        downsample: side of its pixel in level-0 pixels.

    """

    level: int
    shrink: int
    size: Size
    downsample: float


def place_levels(
    sizes: Sequence[Size],
    downsamples: Sequence[float | None],
    described: Sequence[Described],
    file: str,
) -> tuple[Level | None, ...]:
    """Find the scale of each level.

    Args:
        sizes: of all levels, as the reader gives them.
        downsamples: those that the reader has from the format itself; None where it divides sizes.
        described: the file's pictures, levels among them, known again by their sizes.
        file: its name, for messages.

    Returns:
        the levels in their order; None in place of one that cannot be placed.

    Raises:
        SlideError: if a level has not the shape of level 0.

    """
    l0_size = sizes[0]
    said = {each.size: each for each in reversed(described)}
    l0_scale = said[l0_size].scale if l0_size in said else None
    levels: list[Level | None] = [Level(l0_size, 1.0)]
    for index, size in enumerate(sizes[1:], 1):
        about = said.get(size, Described(size))
        stated = about.scale / l0_scale if about.scale and l0_scale else None
        downsample = downsamples[index] or _downsample(l0_size, size, about.tile, stated)
        if downsample is None:
            if not (_has_shape_of(l0_size, size) or _padded(l0_size, size, about.tile)):
                raise SlideError(
                    f"{file}: level {index} of its pyramid has {size.width:,} × {size.height:,} px,"
                    f" which is not the shape of level 0 ({l0_size.width:,} × {l0_size.height:,}). "
                    f"The file is damaged: copy or scan it again."
                )
            log.info("%s: level %d is left out, since its scale is unclear.", file, index)
        levels.append(None if downsample is None else Level(size, downsample))
    return tuple(levels)


def scanned_part(l0_size: Size, l0_bounds: Box | None) -> Box:
    """Return the bounds that the header gives, or all of level 0 if it gives none of use."""
    whole = Box(0, 0, l0_size.width, l0_size.height)
    part = whole if l0_bounds is None else whole.intersection(l0_bounds)
    return part if part.width and part.height else whole


def finer_views(
    levels: Sequence[Level | None], shrinks: Sequence[Sequence[int]]
) -> dict[int, list[View]]:
    """Return for each level those that are finer, the coarsest first, shrunk to about its size."""
    placed = {index: level for index, level in enumerate(levels) if level is not None}
    finer: dict[int, list[View]] = {}
    for own, level in placed.items():
        others = [index for index in placed if placed[index].downsample < level.downsample]
        finer[own] = []
        for index in sorted(others, key=lambda each: -placed[each].downsample):
            other = placed[index]
            fitting = [
                each for each in shrinks[index] if other.downsample * each <= level.downsample
            ]
            shrink = max(fitting, default=1)
            size = Size(other.size.width // shrink, other.size.height // shrink)
            finer[own].append(View(index, shrink, size, other.downsample * shrink))
    return finer


def views_of(levels: Sequence[Level | None], shrinks: Sequence[Sequence[int]]) -> tuple[View, ...]:
    """Return the levels, and what shrinking gives in between, each of the coarsest that can.

    What a writer filled levels up with is no part of a view.
    """
    l0_size = levels[0].size if levels[0] is not None else Size(0, 0)
    views = [
        View(index, 1, _within(level.size, l0_size, level.downsample), level.downsample)
        for index, level in enumerate(levels)
        if level is not None
    ]
    for own in sorted(views, key=lambda view: -view.downsample):
        for shrink in shrinks[own.level]:
            size = Size(own.size.width // shrink, own.size.height // shrink)
            downsample = own.downsample * shrink
            there_is_one = any(
                abs(view.downsample / downsample - 1) < MAX_UPSAMPLING_OF_LEVEL - 1
                for view in views
            )
            if size.width and size.height and not there_is_one:
                views.append(View(own.level, shrink, size, downsample))
    return tuple(views)


def best_level(levels: Sequence[Level | View], downsample: float) -> int:
    """Index of the coarsest level that is still fine enough for `downsample`."""
    fine_enough = [
        index
        for index, level in enumerate(levels)
        if level.downsample <= downsample * MAX_UPSAMPLING_OF_LEVEL
    ]
    return max(fine_enough, key=lambda index: levels[index].downsample, default=0)


def is_copy_of(l0_size: Size, size: Size, tile: Size | None) -> bool:
    """Tell whether a picture may be a smaller copy of another one, filled up to tiles or not."""
    whole = round(_mean(l0_size, size))
    return whole > 1 and (_fits(l0_size, size, whole) or bool(_padded(l0_size, size, tile)))


def _within(size: Size, l0_size: Size, downsample: float) -> Size:
    """Return the part of a level that lies on level 0, in its pixels."""
    return Size(
        min(size.width, ceil(l0_size.width / downsample)),
        min(size.height, ceil(l0_size.height / downsample)),
    )


def _downsample(l0_size: Size, size: Size, tile: Size | None, stated: float | None) -> float | None:
    """Return the side of a level's pixel in level-0 pixels; None if it is in doubt."""
    mean = _mean(l0_size, size)
    whole = float(round(mean))
    fitting = next((scale for scale in (whole, mean) if _fits(l0_size, size, scale)), None)
    padded = _padded(l0_size, size, tile, stated)
    if stated is not None and not _near(stated, 1, ROUNDED):  # tags are often copied from level 0
        near = [scale for scale in (fitting, *padded) if scale and _near(stated, scale, ROUNDED)]
        own = float(round(stated))
        if not near and _near(stated, own, EXACT) and tile and _holds(l0_size, size, tile, own):
            return own
        best = min(near, key=lambda scale: abs(stated - scale), default=None)
        return best if best and (len(near) == 1 or _near(stated, best, EXACT)) else None
    if fitting is None:
        return padded[0] if len(padded) == 1 else None
    # Sides that are whole tiles by chance might be those of another scale, filled up.
    return fitting if not padded or (fitting == whole and _is_power_of_2(whole)) else None


def _padded(
    l0_size: Size, size: Size, tile: Size | None, stated: float | None = None
) -> list[float]:
    """Return the whole scales of which the level's sides are those filled up to whole tiles.

    There are many for a level of one tile; the first, and the one that is stated, will do.
    """
    if tile is None or not (tile.width and tile.height):
        return []
    least = ceil(max(l0_size.width / (size.width + 1), l0_size.height / (size.height + 1)))
    first = max(2, least)
    wholes = {*range(first, first + MOST_CANDIDATES), *([round(stated)] if stated else [])}
    return [
        float(whole)
        for whole in sorted(wholes)
        if _is_filled(l0_size, size, tile, whole) and not _fits(l0_size, size, whole)
    ]


def _is_filled(l0_size: Size, size: Size, tile: Size, downsample: float) -> bool:
    """Tell whether each side is explained: exactly, or filled up to whole tiles."""
    return downsample > 0 and all(
        abs(l0_side / downsample - side) < 1
        or (side % tile_side == 0 and side - tile_side < l0_side / downsample <= side)
        for l0_side, side, tile_side in _sides(l0_size, size, tile)
    )


def _holds(l0_size: Size, size: Size, tile: Size, downsample: float) -> bool:
    """Tell whether each side is that of level 0 and less than a tile more, filled up anyhow."""
    return downsample > 0 and all(
        -1 < side - l0_side / downsample < tile_side
        for l0_side, side, tile_side in _sides(l0_size, size, tile)
    )


def _fits(l0_size: Size, size: Size, downsample: float) -> bool:
    """Tell whether a scale explains both sides to within the pixel that rounding takes."""
    return downsample > 0 and all(
        abs(l0_side / downsample - side) < 1 for l0_side, side, _ in _sides(l0_size, size, size)
    )


def _has_shape_of(l0_size: Size, size: Size) -> bool:
    # Whatever the writer rounds, a pixel more or less explains.
    widest = l0_size.width / max(0.5, size.width - 1), l0_size.width / (size.width + 1)
    highest = l0_size.height / max(0.5, size.height - 1), l0_size.height / (size.height + 1)
    return widest[1] <= SHAPE * highest[0] and highest[1] <= SHAPE * widest[0]


def _sides(l0_size: Size, size: Size, tile: Size) -> Iterator[tuple[int, int, int]]:
    yield l0_size.width, size.width, tile.width
    yield l0_size.height, size.height, tile.height


def _mean(l0_size: Size, size: Size) -> float:
    return (l0_size.width / size.width + l0_size.height / size.height) / 2


def _near(one: float, other: float, share: float) -> bool:
    return abs(one - other) <= share * other


def _is_power_of_2(number: float) -> bool:
    return int(number) & (int(number) - 1) == 0

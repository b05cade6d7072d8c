"""Whether the pictures in a plain TIFF are one slide, and why a file may not be read.

A TIFF may hold anything: two sections, focal planes, colours in planes of their own. What is not
supported is no damage: it is named, with the way to convert it. Formats that a reader knows by
name have pictures of their own kinds, and are not judged here.
"""

import re
from collections import Counter
from collections.abc import Sequence

from wsi_pipeline.geometry import Size
from wsi_pipeline.slide.pyramid import is_copy_of
from wsi_pipeline.slide.tiff.headers import Picture
from wsi_pipeline.slide.tiff.ome_xml import is_ome_xml, parse_ome

CONVERT = (
    "Convert it, for instance with `vips tiffsave in.tif out.tif --tile --pyramid "
    "--compression jpeg`"
)

SLIDE_SIZE_SHARE = 1 / 16
"""Labels, overviews and thumbnails have a smaller part of the slide's pixels."""

_BESIDE_THE_SLIDE = re.compile(r"label|macro|thumbnail|overview|barcode", re.IGNORECASE)
_UPRIGHT = frozenset({0, 1})
_ORIENTATIONS = frozenset(range(2, 9))
_APERIO = "Aperio"

_COMPRESSIONS = {
    1: "none", 2: "CCITT", 3: "CCITT fax 3", 4: "CCITT fax 4", 5: "LZW", 6: "old-style JPEG",
    7: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate", 33003: "JPEG 2000",
    33004: "JPEG 2000", 33005: "JPEG 2000", 33007: "JPEG 2000", 34676: "SGI LogLuv",
    34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG", 34925: "LZMA", 34933: "PNG",
    34934: "JPEG XR", 22610: "JPEG XR", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL",
    52546: "JPEG XL", 34927: "WebP",
}  # fmt: skip


def fault_of(pictures: Sequence[Picture]) -> str | None:
    """Tell why the pictures are not one slide that can be read as it is, and what to do about it.

    Args:
        pictures: of a TIFF that is Aperio's, or no vendor's, in the file's order.

    """
    if not pictures:
        return None
    first = pictures[0]
    named = _beside_by_ome(first.description)
    main = [picture for picture in pictures if not picture.mask and not picture.below]
    turned = [
        picture.orientation
        for picture in (first, *(other for other in pictures[1:] if other.tile))
        if picture.orientation not in _UPRIGHT
    ]
    if turned and turned[0] in _ORIENTATIONS:
        return (
            f"its pixels are stored turned or mirrored (its orientation tag is {turned[0]}), which "
            f"is not supported. Turn them upright, for instance with `vips autorot in.tif "
            f"out.tif[tile,pyramid,compression=jpeg]`"
        )
    if first.description.startswith(_APERIO):
        sizes = Counter(picture.size for picture in main if picture.tile)
        planes = sizes[first.size]
        return _focal_planes(planes) if planes > 1 else None
    others = [
        picture
        for picture in main[1:]
        if not _BESIDE_THE_SLIDE.search(picture.description) and picture.size not in named
    ]
    larger = max(others, key=_area, default=first)
    if _area(larger) > _area(first):
        return (
            f"its first picture has {_shown(first)} px and another one {_shown(larger)}: the first "
            f"may be the label. Export the slide alone, or as the first"
        )
    equals = [picture for picture in others if picture.size == first.size]
    if equals and _has_planes(first.description):
        return _focal_planes(len(equals) + 1)
    further = [
        picture
        for picture in others
        if not picture.reduced
        and _area(picture) >= SLIDE_SIZE_SHARE * _area(first)
        and not is_copy_of(first.size, picture.size, picture.tile)
    ]
    if further:
        return (
            f"beside the first picture, of {_shown(first)} px, it holds {len(further)} more of a "
            f"slide's size (the next has {_shown(further[0])}): further sections, focal planes or "
            f"channels, which would be left out. Export each as a file of its own"
        )
    return None


def unsupported(pictures: Sequence[Picture], known: frozenset[int]) -> str | None:
    """Tell what of a TIFF that no reader opens is beyond them, and what to do about it.

    Args:
        pictures: in the file's order.
        known: the compressions that are supported.

    """
    if not pictures:
        return None
    first = pictures[0]
    if first.compression not in known:
        return unknown_compression(first.compression)
    if first.planes > 1:
        return planes_apart(first.planes, "tiles" if first.tile else "strips")
    if first.tile is None:
        return f"its pixels are stored in strips, which this reader does not support. {CONVERT}"
    return (
        f"it is a TIFF of a kind that is not supported, or it is damaged inside. {CONVERT}, or "
        f"copy it again"
    )


def planes_apart(planes: int, pieces: str) -> str:
    """Say that colours in planes of their own are not supported, and what to do about it."""
    return (
        f"each of its {planes} colours is stored in a plane of {pieces} of its own, which is not "
        f"supported. {CONVERT}"
    )


def unknown_compression(tag: int) -> str:
    """Name a compression that is not supported, and what to do about it."""
    name = _COMPRESSIONS.get(tag, "unknown")
    return (
        f"its pixels are compressed in a way that is not supported ({name}, {tag} by the tag). "
        f"{CONVERT}"
    )


def openslide_lacks(tag: int) -> str:
    """Name a compression that the other reader supports."""
    return (
        f"OpenSlide does not support its compression ({_COMPRESSIONS.get(tag, tag)}). Leave "
        f"slide.backend at auto, which reads it"
    )


def _focal_planes(count: int) -> str:
    return (
        f"it holds {count} focal planes or time points, which are not supported. Export one of "
        f"them as a file of its own"
    )


def _has_planes(description: str) -> bool:
    ome = parse_ome(description) if is_ome_xml(description) else None
    return ome is not None and any(set(each.planes) != {"1"} for each in ome.pictures)


def _beside_by_ome(description: str) -> set[Size]:
    """Return the sizes of what OME-XML calls a label, an overview or the like."""
    ome = parse_ome(description) if is_ome_xml(description) else None
    return {
        Size(int(picture.size[0]), int(picture.size[1]))
        for picture in (ome.pictures if ome else ())
        if _BESIDE_THE_SLIDE.search(picture.name) and all(side.isdigit() for side in picture.size)
    }


def _area(picture: Picture) -> int:
    return picture.size.width * picture.size.height


def _shown(picture: Picture) -> str:
    return f"{picture.size.width:,} × {picture.size.height:,}"

"""What a file says of its pixel size, place by place, in its own words.

Writers put numbers with a decimal comma, with a unit or without, in nanometres or in pixels per
inch. What they say is either understood, or handed on as it stands for a message: it never counts
as if the file were silent. `wsi_pipeline.slide.mpp` decides between the places.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from wsi_pipeline.geometry import Size
from wsi_pipeline.slide.tiff.headers import Resolution
from wsi_pipeline.slide.tiff.ome_xml import OmePicture, is_ome_xml, parse_ome

SCREEN_DPI = frozenset({1, 25.4, 72, 96})
"""Resolutions that image software writes where it knows none, 1 px/mm (libvips) among them: no
statement about the slide."""

MAX_SHOWN = 60
"""Letters of a file's own text that a message repeats."""

_NUMBER = r"[+-]?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?"
_LENGTH = re.compile(rf"({_NUMBER})\s*(.*)", re.DOTALL)
_POWER = re.compile(rf"[x×]?\s*({_NUMBER})\s*[x×]?", re.IGNORECASE)
_SILENCE = frozenset({"", "-", "?", "n/a", "na", "nan", "none", "null", "unknown", "undefined"})

_EXACT_UM = {
    "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "µm": 1.0, "nm": 1e-3, "pm": 1e-6, "Å": 1e-4,
    "in": 25_400.0, "thou": 25.4, "ft": 304_800.0, "pt": 25_400 / 72, "li": 25_400 / 12,
}  # fmt: skip
"""Units of OME-XML, where the case of a letter counts."""

_NAMED_UM = {
    "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "micrometers": 1.0, "micrometres": 1.0, "nanometer": 1e-3, "nanometre": 1e-3,
    "millimeter": 1e3, "millimetre": 1e3, "centimeter": 1e4, "centimetre": 1e4, "meter": 1e6,
    "metre": 1e6, "inch": 25_400.0, "inches": 25_400.0, '"': 25_400.0, "mpp": 1.0,
}  # fmt: skip
_NO_LENGTH = frozenset({"pixel", "pixels", "px", "reference frame"})
_PER_PIXEL = re.compile(r"\s*(/|per)\s*(px|pixel|pixels)\s*$", re.IGNORECASE)

_TAG_UNITS = {2: ("inch", 25_400.0), 3: ("cm", 10_000.0), 4: ("mm", 1_000.0), 5: ("µm", 1.0)}
"""ResolutionUnit; the last two are of some writers' own making."""
_NO_UNIT = 1

_DESCRIBED_MPP = re.compile(r"(?:^|[|;\r\n])\s*mpp\s*[=:]\s*([^|;\r\n]*)", re.IGNORECASE)
_DESCRIBED_POWER = re.compile(r"(?:^|[|;\r\n])\s*appmag\s*[=:]\s*([^|;\r\n]*)", re.IGNORECASE)
_VIPS_PROPERTY = r"<name>openslide\.mpp-{axis}</name>\s*<value[^>]*>([^<]*)</value>"
_IMAGEJ_UNIT = re.compile(r"^unit=(.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Statement:
    """What one place of a file says.

    Attributes:
        text: as the file has it, for messages.
        xy: the number along x and along y: µm per pixel, or an objective's power. None if it is no
            number, or none of that kind.
        understood: whether `text` is clear, even if it is that nothing is known.

    """

    text: str
    xy: tuple[float, float] | None = None
    understood: bool = True


def pixel_size(tags: Resolution | None, description: str, size: Size) -> Mapping[str, Statement]:
    """Collect all that a TIFF's first picture says of its pixel size, by `MppSources`' names."""
    by_source = {
        "ome_xml": ome_statement(description, size),
        "description": described(description, tags),
        "tiff_tags": tags_statement(tags),
    }
    return {source: said for source, said in by_source.items() if said is not None}


def number_of(text: str) -> float | None:
    """Read a number, with a decimal point or comma; None if the text is not one, or not finite."""
    if not re.fullmatch(_NUMBER, text.strip()):
        return None
    number = float(text.replace(",", "."))
    return number if isfinite(number) else None


def length_um(text: str, unit: str = "µm") -> float | None:
    """Read a length, in µm; None if the text is not understood, or it is not above zero.

    Args:
        text: a number, which may be followed by a unit.
        unit: of a number without one.

    """
    found = _LENGTH.fullmatch(text.strip())
    number = number_of(found[1]) if found else None
    um = _unit_um(found[2] or unit) if found else None
    return number * um if number is not None and um is not None and number > 0 else None


def length_statement(x: str | None, y: str | None, unit: str = "µm") -> Statement | None:
    """Understand the pixel size that two texts give, or the one that is there.

    Returns:
        None if both are missing, or words for it, or zero.

    """
    texts = [text.strip() for text in (x, y) if text is not None and not _is_silent(text)]
    if not texts:
        return None
    shown = _shown(" by ".join(dict.fromkeys(texts)))
    if unit != "µm":
        shown = f"{shown} {_shown(unit)}"
    if unit.strip().lower() in _NO_LENGTH:
        return Statement(shown)
    lengths = [length_um(text, unit) for text in texts]
    if None in lengths:
        return Statement(shown, understood=False)
    return Statement(shown, (lengths[0] or 0.0, lengths[-1] or 0.0))


def power_statement(text: str | None) -> Statement | None:
    """Understand the power of an objective, such as ``20``, ``40x`` or ``20,0``."""
    if text is None or _is_silent(text):
        return None
    found = _POWER.fullmatch(text.strip())
    power = number_of(found[1]) if found else None
    if power is None or power <= 0:
        return Statement(_shown(text), understood=False)
    return Statement(_shown(text), (power, power))


def tags_statement(tags: Resolution | None) -> Statement | None:
    """Understand the resolution tags of a TIFF; None if they are missing or hold no number."""
    densities = [] if tags is None else [value for value in (tags.x, tags.y) if value > 0]
    if tags is None or not densities:
        return None
    shown = " by ".join(dict.fromkeys(f"{value:.6g}" for value in densities))
    if tags.unit == _NO_UNIT:
        return None if set(densities) <= SCREEN_DPI else Statement(f"{shown} per unnamed unit")
    if tags.unit not in _TAG_UNITS:
        return Statement(f"{shown} per unit {tags.unit}", understood=False)
    name, unit_um = _TAG_UNITS[tags.unit]
    shown = f"{shown} per {name}"
    dpi = [value * 25_400 / unit_um for value in densities]
    if all(any(abs(value - screen) < 0.5 for screen in SCREEN_DPI) for value in dpi):
        return Statement(f"{shown}, as for a screen")
    return Statement(shown, (unit_um / densities[0], unit_um / densities[-1]))


def described(text: str, tags: Resolution | None) -> Statement | None:
    """Understand what a TIFF's description says, in Aperio's, libvips' or ImageJ's way.

    Args:
        text: the description.
        tags: ImageJ has its numbers there, and only the unit in the text.

    """
    if is_ome_xml(text):
        return None
    if text.startswith("ImageJ"):
        return _by_imagej(text, tags)
    if found := _DESCRIBED_MPP.search(text):
        return length_statement(found[1], None)
    by_axis = [re.search(_VIPS_PROPERTY.format(axis=axis), text) for axis in "xy"]
    x, y = (None if found is None else str(found[1]) for found in by_axis)
    return length_statement(x, y)


def described_power(text: str) -> Statement | None:
    """Understand the objective's power in a TIFF's description."""
    if is_ome_xml(text):
        ome = parse_ome(text)
        powers = set(ome.magnifications) if ome is not None else set()
        return power_statement(powers.pop()) if len(powers) == 1 else None
    found = _DESCRIBED_POWER.search(text)
    return power_statement(found[1]) if found else None


def ome_statement(text: str, size: Size) -> Statement | None:
    """Understand what OME-XML says of the picture of a given size.

    A file may hold several, such as a label and an overview: sizes tell which is meant.

    Returns:
        None if the text is no OME-XML, or is silent on the pixel size of all pictures.

    """
    if not is_ome_xml(text):
        return None
    ome = parse_ome(text)
    if ome is None:
        return Statement("XML that cannot be parsed", understood=False)
    said: dict[bool, list[Statement]] = {True: [], False: []}
    for picture in ome.pictures:
        statement = _of_picture(picture)
        if statement is not None:
            own = tuple(map(number_of, picture.size))
            said[own == (size.width, size.height)].append(statement)
    ours, others = said[True], said[False]
    if not ours:
        return (
            Statement(f"{others[0].text}, but of no picture of this size", understood=False)
            if others
            else None
        )
    if len({statement.xy for statement in ours}) > 1:
        texts = dict.fromkeys(statement.text for statement in ours)
        return Statement(_shown(" or ".join(texts)), understood=False)
    return ours[0]


def _of_picture(picture: OmePicture) -> Statement | None:
    (x, y), (x_unit, y_unit) = picture.physical, picture.units
    if x_unit == y_unit or not y:
        return length_statement(x, y, x_unit)
    return length_statement(f"{x} {x_unit}" if x else x, f"{y} {y_unit}")


def _by_imagej(text: str, tags: Resolution | None) -> Statement | None:
    found = _IMAGEJ_UNIT.search(text)
    if found is None or tags is None or tags.unit != _NO_UNIT:
        return None
    unit = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), found[1])
    densities = [value for value in (tags.x, tags.y) if value > 0]
    if not densities or _is_silent(unit):
        return None
    texts = [f"{1 / value:.6g}" for value in densities]
    return length_statement(texts[0], texts[-1], unit)


def _unit_um(unit: str) -> float | None:
    name = _PER_PIXEL.sub("", unit.strip()).replace("μ", "µ")
    return _EXACT_UM.get(name) or _NAMED_UM.get(name.lower())


def _is_silent(text: str) -> bool:
    return text.strip().lower() in _SILENCE or number_of(text) == 0


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_SHOWN else f"{line[: MAX_SHOWN - 1]}…"

"""What OME-XML, in the description of an OME-TIFF, says of the pictures in the file."""

import re
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

_OME = re.compile(r"<(?:\w+:)?OME[\s>]")


@dataclass(frozen=True, slots=True)
class OmePicture:
    """One picture, in the words of the XML; "" where it is silent.

    Attributes:
        name: of the picture, such as "label image".
        size: SizeX and SizeY.
        planes: SizeZ and SizeT.
        physical: PhysicalSizeX and PhysicalSizeY.
        units: of `physical`.

    """

    name: str
    size: tuple[str, str]
    planes: tuple[str, str]
    physical: tuple[str, str]
    units: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Ome:
    """All pictures, and the magnifications of all objectives."""

    pictures: tuple[OmePicture, ...]
    magnifications: tuple[str, ...]


def is_ome_xml(text: str) -> bool:
    """Tell OME-XML from other descriptions."""
    return bool(_OME.search(text[:65_536]))


def parse_ome(text: str) -> Ome | None:
    """Read OME-XML; None if it is no XML, or not one that is safe to read."""
    try:
        # Of a string, the encoding that the XML declares is none.
        root = fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))
    except (ParseError, DefusedXmlException, ValueError):
        return None
    return Ome(
        pictures=tuple(
            _picture(image, pixels)
            for image in _elements(root, "Image")
            for pixels in _elements(image, "Pixels")
        ),
        magnifications=tuple(
            each.get("NominalMagnification", "") for each in _elements(root, "Objective")
        ),
    )


def _picture(image: Element, pixels: Element) -> OmePicture:
    def both(names: str, default: str = "") -> tuple[str, str]:
        first, second = names.split()
        return pixels.get(first, default), pixels.get(second, default)

    return OmePicture(
        name=image.get("Name", ""),
        size=both("SizeX SizeY"),
        planes=both("SizeZ SizeT", "1"),
        physical=both("PhysicalSizeX PhysicalSizeY"),
        units=both("PhysicalSizeXUnit PhysicalSizeYUnit", "µm"),
    )


def _elements(root: Element, name: str) -> list[Element]:
    return [each for each in root.iter() if str(each.tag).rsplit("}", 1)[-1] == name]

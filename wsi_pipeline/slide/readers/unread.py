"""Why no reader opens a file, and what to do about it."""

import re
from collections.abc import Sequence

from wsi_pipeline.files import is_url, open_binary
from wsi_pipeline.slide.dicom import dicom_header, fault_of_dicom
from wsi_pipeline.slide.readers.protocol import PLAIN_VENDORS
from wsi_pipeline.slide.tiff.compressed_tiles import DECODED
from wsi_pipeline.slide.tiff.headers import Picture
from wsi_pipeline.slide.tiff.unsupported import CONVERT, fault_of, openslide_lacks, unsupported

HAMAMATSU_SUFFIX = ".ndpi"
"""By it alone, tifffile takes a file for one of Hamamatsu's."""
OPENSLIDE_LACKS = "Unsupported TIFF compression"

_TYPES = (
    (re.compile(rb"\x89PNG\r\n"), "a PNG picture"),
    (re.compile(rb"\xff\xd8\xff"), "a JPEG picture"),
    (re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL), "a BMP picture"),
    (re.compile(rb"GIF8"), "a GIF picture"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "a WebP picture"),
    (re.compile(rb"\0\0\0\x0cjP  "), "a JPEG 2000 picture"),
    (re.compile(rb"ZISRAWFILE"), "Zeiss's CZI"),
    (re.compile(rb"\x89HDF"), "HDF5"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive"),
    (re.compile(rb"%PDF"), "a PDF"),
    (re.compile(rb".{128}DICM", re.DOTALL), "DICOM with a header that is compressed or damaged"),
    (re.compile(rb"\s*<DataObject ObjectType=.DPUfsImport"), "Philips' iSyntax"),
)
FILE_TYPE_BYTES = 132
"""Of a file's beginning, what `file_type` needs."""


def why_unread(location: str, vendor: str | None, pictures: Sequence[Picture], said: str) -> str:
    """Say why no reader reads a file; damage is no more than a guess where its kind is unknown."""
    if pictures and location.lower().endswith(HAMAMATSU_SUFFIX) and vendor in PLAIN_VENDORS:
        return f"it is named {HAMAMATSU_SUFFIX}, but is a plain TIFF. Rename it to .tif."
    lacks = OPENSLIDE_LACKS in said and pictures[0].compression in DECODED
    reason = (
        fault_of(pictures)
        or (openslide_lacks(pictures[0].compression) if lacks else None)
        or unsupported(pictures, DECODED)
    )
    if reason is not None and vendor in {None, *PLAIN_VENDORS}:
        return f"{reason}."
    if vendor is not None and pictures:
        return (
            f"it is a slide of {vendor}'s of a kind that is not supported, or one of its parts is "
            f"damaged. {CONVERT}, or export it anew."
        )
    if not is_url(location) and (header := dicom_header(location)) is not None:
        return f"{fault_of_dicom(header.modality, said)}."
    with open_binary(location) as file:
        kind = file_type(file.read(FILE_TYPE_BYTES))
    if kind is not None:
        return (
            f"this is not a slide, but {kind}, which OpenSlide and tiffslide do not read. Check "
            f"that it is one, or convert it with `vips tiffsave` or the program that wrote it."
        )
    return (
        "this is not a slide that OpenSlide or tiffslide can read, or it is damaged. "
        "Check that it is one, or copy it again."
    )


def file_type(beginning: bytes) -> str | None:
    """Name what is no slide by a file's first bytes; None if they say nothing."""
    return next((kind for pattern, kind in _TYPES if pattern.match(beginning)), None)

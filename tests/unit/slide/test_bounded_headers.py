"""Headers made to fill the memory, or to keep busy the one process that plans a night."""

import io
import os
import struct
import time
import tracemalloc
import zlib

import pytest
from pydicom.uid import generate_uid

from tests.helpers.multi_file import write_dicom
from wsi_pipeline.errors import SlideError
from wsi_pipeline.night.config import InboxConfig
from wsi_pipeline.night.inbox import find_slides
from wsi_pipeline.slide.dicom import described_levels, dicom_header
from wsi_pipeline.slide.files import files_of
from wsi_pipeline.slide.tiff.headers import check_tiff

LITTLE, DEFLATED = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"
ENOUGH_BYTES = 100 << 20
ENOUGH_S = 20.0


def element(group, number, vr, value=b"", length=None):
    long = vr in (b"OB", b"SQ", b"UN", b"UT")
    size = len(value) if length is None else length
    head = struct.pack("<HH", group, number) + vr
    return head + (struct.pack("<HI", 0, size) if long else struct.pack("<H", size)) + value


def dicom(body, syntax=LITTLE):
    meta = element(2, 0x10, b"UI", syntax)
    return bytes(128) + b"DICM" + element(2, 0, b"UL", struct.pack("<I", len(meta))) + meta + body


def bomb():
    """100 KB that unpack to 100 MB, twice over."""
    packer = zlib.compressobj(9, wbits=-15)
    modality = element(8, 0x60, b"CS", b"SM")
    return packer.compress(modality + element(9, 0x10, b"OB", bytes(200 << 20))) + packer.flush()


def giant():
    """An element of 8 GB, all of which is there."""
    return element(8, 0x60, b"CS", b"SM") + element(9, 0x10, b"OB", length=0xFFFF_FFF0)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda: dicom(bomb(), DEFLATED), id="a bomb"),
        pytest.param(lambda: dicom(giant()), id="a giant element"),
        pytest.param(lambda: dicom(element(8, 0x60, b"CS", b"SM") * 200_000), id="elements"),
        pytest.param(
            lambda: (
                dicom(
                    element(8, 0x1140, b"SQ", length=0xFFFF_FFFF)
                    + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFF_FFFF)
                )
                + (
                    element(8, 0x1140, b"SQ", length=0xFFFF_FFFF)
                    + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFF_FFFF)
                )
                * 100_000
            ),
            id="sequences in each other",
        ),
    ],
)
def test_a_dicom_header_costs_neither_memory_nor_time(tmp_path, content):
    path = tmp_path / "a.dcm"
    path.write_bytes(content())
    os.truncate(path, 8 << 30)  # sparse: it takes no space
    start = time.perf_counter()
    tracemalloc.start()
    try:
        assert dicom_header(str(path)) is None
        assert files_of(str(path)) == [str(path)]
        (slide,) = find_slides(str(tmp_path), InboxConfig(quiet_s=0, look_again_s=0)).slides
        assert slide.location == str(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < ENOUGH_BYTES
    assert time.perf_counter() - start < ENOUGH_S


def test_a_dicom_slide_with_a_giant_element_has_no_levels_rather_than_no_memory(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom(giant()))
    os.truncate(path, 8 << 30)
    tracemalloc.start()
    try:
        assert described_levels([str(path)]) == []
        assert tracemalloc.get_traced_memory()[1] < ENOUGH_BYTES
    finally:
        tracemalloc.stop()


def test_a_series_is_found_before_pixels_of_any_size(tmp_path):
    series = generate_uid()
    path = write_dicom(tmp_path / "a.dcm", series)
    os.truncate(path, 8 << 30)
    assert dicom_header(str(path)).series == series


class Big(io.RawIOBase):
    """A file of zeros behind its beginning."""

    def __init__(self, beginning, size):
        self.beginning, self.size, self.at, self.read_bytes = beginning, size, 0, 0

    def seek(self, offset, whence=0):
        self.at = offset
        return offset

    def read(self, count=-1):
        self.read_bytes += count
        content = self.beginning[self.at : self.at + count]
        self.at += count
        return content + bytes(count - len(content))


def big_tiff(*tags, count=None, following=0):
    entries = b"".join(struct.pack("<HHQQ", *tag) for tag in tags)
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16)
    return head + struct.pack("<Q", count or len(tags)) + entries + struct.pack("<Q", following)


SIDES = ((256, 4, 1, 1 << 20), (257, 4, 1, 1 << 20), (322, 4, 1, 16), (323, 4, 1, 16))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (big_tiff(count=1 << 33), "one of its directories has 8,589,934,592 entries"),
        (big_tiff(count=5000), "one of its directories has 5,000 entries"),
        (big_tiff((330, 16, 1 << 32, 64)), "its tag 330 has 4,294,967,296 entries"),
        (big_tiff((256, 4, 1 << 32, 64)), "its tag 256 has 4,294,967,296 entries"),
        (
            big_tiff(*SIDES, (324, 16, 1 << 32, 64), (325, 16, 1 << 32, 64)),
            "its directories have more than 1,073,741,824 bytes",
        ),
        (big_tiff(following=16), "its directories lead in a circle"),
    ],
)
def test_a_bigtiff_is_refused_before_it_fills_the_memory(content, message):
    file = Big(content, 1 << 40)
    with pytest.raises(SlideError, match=message):
        check_tiff(file, 1 << 40, "a.tif")
    assert file.read_bytes < 1 << 26


def test_directories_that_name_the_same_numbers_again_and_again_are_refused_in_time():
    """Each is small, and there are thousands."""
    many = 4000
    length = 8 + 20 * 6 + 8
    content = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16)
    tags = (*SIDES, (324, 16, 1 << 20, 1 << 30), (325, 16, 1 << 20, 1 << 30))
    small = ((256, 4, 1, 1 << 14), (257, 4, 1, 1 << 14), *tags[2:])
    for number in range(many):
        entries = b"".join(struct.pack("<HHQQ", *tag) for tag in small)
        content += struct.pack("<Q", 6) + entries + struct.pack("<Q", 16 + (number + 1) * length)
    file = Big(content, 1 << 32)
    start = time.perf_counter()
    with pytest.raises(SlideError, match="its directories have more than"):
        check_tiff(file, 1 << 32, "a.tif")
    assert time.perf_counter() - start < ENOUGH_S

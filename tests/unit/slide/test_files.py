"""Which files a slide is made of, on real files."""

import hashlib
import os

import fsspec
import pytest
from pydicom.uid import generate_uid

from tests.helpers.multi_file import VMS, write, write_dicom
from wsi_pipeline.errors import SlideError
from wsi_pipeline.scoring.filing import file_slide
from wsi_pipeline.slide.dicom import dicom_header
from wsi_pipeline.slide.files import content_digest, files_of, names_in_index
from wsi_pipeline.slide.slide import Slide


def test_most_slides_are_one_file(tmp_path):
    for name in ("a.svs", "a.tiff", "a.NDPI", "no suffix", "a::b.svs"):
        path = str(write(tmp_path / name))
        assert files_of(path) == [path]


def test_a_url_is_one_file():
    assert files_of("memory://slides/a.mrxs") == ["memory://slides/a.mrxs"]


@pytest.mark.parametrize("suffix", [".mrxs", ".MRXS"])
def test_mrxs_has_a_folder_of_its_name(tmp_path, suffix):
    slide = write(tmp_path / f"a.b{suffix}")
    parts = [write(tmp_path / "a.b" / name) for name in ("Data0000.dat", "Slidedat.ini")]
    write(tmp_path / "a.b" / ".DS_Store")
    write(tmp_path / "a" / "Data0000.dat")
    write(tmp_path / "a.b.txt")
    assert files_of(str(slide)) == [str(slide), *map(str, parts)]


@pytest.mark.parametrize("suffix", [".vms", ".vmu"])
def test_vms_names_its_files(tmp_path, suffix):
    slide = write(tmp_path / f"s{suffix}", VMS.encode())
    parts = [write(tmp_path / name) for name in ("s(1,0).jpg", "s.jpg", "s.opt", "s_map2.jpg")]
    write(tmp_path / "other.jpg")
    write(tmp_path.parent / "s_macro.jpg")
    assert files_of(str(slide)) == [str(slide), *map(str, parts)]


def test_rubbish_named_vms_is_one_file(tmp_path):
    slide = write(tmp_path / "s.vms", bytes(range(256)) * 1000 + b"\na=b\0.jpg\nx=.\ny=s.vms\n")
    assert files_of(str(slide)) == [str(slide)]
    slide.unlink()
    assert files_of(str(slide)) == [str(slide)]


def test_a_dicom_slide_is_its_series(tmp_path):
    first, second = generate_uid(), generate_uid()
    mine = [write_dicom(tmp_path / f"{i}.dcm", first, instance=i) for i in (1, 3)]
    mine.append(write_dicom(tmp_path / "5.DCM", first, instance=5))
    theirs = [write_dicom(tmp_path / f"{i}.dcm", second, instance=i) for i in (2, 4)]
    write_dicom(tmp_path / "below" / "6.dcm", first)
    write(tmp_path / "0.dcm", b"not a DICOM file")
    for path in mine:
        assert files_of(str(path)) == [str(each) for each in mine]
    for path in theirs:
        assert files_of(str(path)) == [str(each) for each in theirs]
    assert files_of(str(tmp_path / "0.dcm")) == [str(tmp_path / "0.dcm")]


def test_dicom_from_an_archive_has_no_suffix(tmp_path):
    series = generate_uid()
    mine = [write_dicom(tmp_path / name, series) for name in ("IM0001", "IM0002")]
    write(tmp_path / "IM0003")
    assert files_of(str(mine[1])) == [str(each) for each in mine]


def test_damaged_dicom_headers_are_none(tmp_path):
    whole = write_dicom(tmp_path / "a.dcm", "1.2.3").read_bytes()
    assert dicom_header(str(tmp_path / "a.dcm")).series == "1.2.3"
    for length in (0, 100, 132, 150, 200, 300):
        assert dicom_header(str(write(tmp_path / "b.dcm", whole[:length]))) is None
    flipped = whole[:132] + bytes(255 - byte for byte in whole[132:])
    assert dicom_header(str(write(tmp_path / "b.dcm", flipped))) is None
    assert dicom_header(str(tmp_path / "missing.dcm")) is None


def test_the_digest_is_of_all_bytes_in_their_order(tmp_path):
    big = write(tmp_path / "big", bytes(range(256)) * 20_000)
    small = write(tmp_path / "a::b", b"small")
    with fsspec.open("memory://digests/small", "wb") as file:
        file.write(b"small")
    expected = hashlib.blake2b(big.read_bytes() + b"small", digest_size=16).hexdigest()
    assert content_digest([str(big), str(small)]) == expected
    assert content_digest([str(big), "memory://digests/small"]) == expected
    assert content_digest([str(small), str(big)]) != expected


def test_a_slide_digests_its_own_files(make_slide, tissue_like):
    path = make_slide(tissue_like(64, 64))
    with Slide.open(path) as slide:
        assert slide.digest() == hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        assert slide.size_bytes == path.stat().st_size


def test_what_is_no_file_is_never_opened(tmp_path):
    """To open a pipe is to wait for its writer, and a device may have no end."""
    for path, kind in ((tmp_path / "pipe.dcm", "a named pipe"), ("/dev/zero", "a device")):
        if kind == "a named pipe":
            os.mkfifo(path)
        with pytest.raises(OSError, match=kind):
            content_digest([str(path)])
        with pytest.raises(SlideError, match=kind):
            file_slide(str(path), "digest")
        assert dicom_header(str(path)) is None
        assert names_in_index(str(path)) == set()

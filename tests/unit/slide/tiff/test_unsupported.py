"""TIFFs whose pictures are not one slide, through both readers: what they are told to do."""

import re
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slide.slide import Slide

RGB = np.random.default_rng(0).integers(256, size=(600, 800, 3), dtype=np.uint8)
HALF = RGB.reshape(300, 2, 400, 2, 3).mean((1, 3)).astype(np.uint8)
OTHER = RGB[::-1].copy()
TILES = {"tile": (128, 128)}
PER_CM = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
CONVERT = "vips tiffsave in.tif out.tif --tile --pyramid --compression jpeg"


def write(path, *pictures, **writer):
    """Write pictures, each with options of its own."""
    with tifffile.TiffWriter(path, **writer) as tiff:
        for rgb, options in pictures:
            defaults = {"photometric": "rgb", "metadata": None, **PER_CM}
            tiff.write(rgb, **{**defaults, **options})
    return path


def aperio(depth):
    text = f"Aperio Image Library v11.2.1 \r\n800x600 (128x128)|MPP = 0.5|OffsetZ = {depth}"
    return {"description": text, "compression": "jpeg"}


def ome_planes(**sizes):
    rgb = 'DimensionOrder="XYCZT" Type="uint8" SizeC="3" SizeX="800" SizeY="600"'
    sizes = " ".join(f'{name}="{value}"' for name, value in sizes.items())
    return (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" {rgb} {sizes}><Channel ID="Channel:0:0" SamplesPerPixel="3"/>'
        "<TiffData/></Pixels></Image></OME>"
    )


PLANES = np.moveaxis(RGB, 2, 0).copy()
FAULTS = {
    "two sections": (
        [(RGB, TILES), (OTHER, TILES)],
        "1 more of a slide's size.*Export each as a file of its own",
    ),
    "a smaller section": (
        [(RGB, TILES), (OTHER[:300, :700], TILES)],
        r"the next has 700 × 300.*Export each",
    ),
    "a smaller section of the same shape": (
        [(RGB, TILES), (OTHER[:480, :640], TILES)],
        r"the next has 640 × 480.*Export each",
    ),
    "a larger section": ([(OTHER[:300, :700], TILES), (RGB, TILES)], "may be the label.*Export"),
    "focal planes of Aperio": (
        [
            (RGB, TILES | aperio(0)),
            (RGB[::4, ::4], aperio(0)),
            (RGB[::2, ::2], TILES | aperio(0)),
            (OTHER, TILES | aperio(1)),
            (OTHER[::2, ::2], TILES | aperio(1)),
        ],
        "2 focal planes.*Export one",
    ),
    "focal planes of Aperio, side by side": (
        [(RGB, TILES | aperio(0)), (RGB[::4, ::4], aperio(0)), (OTHER, TILES | aperio(1))],
        "2 focal planes.*Export one",
    ),
    "focal planes of OME": (
        [(RGB, TILES | {"description": ome_planes(SizeZ=2, SizeT=1)}), (OTHER, TILES)],
        "2 focal planes.*Export one",
    ),
    "planes in strips": (
        [(PLANES, {"planarconfig": "separate", "compression": "zlib", "rowsperstrip": 64})],
        f"3 colours.*plane of strips.*{CONVERT}",
    ),
    "planes in tiles of JPEG": (
        [(PLANES, {"planarconfig": "separate", "compression": "jpeg", "tile": (128, 128)})],
        f"3 colours.*plane of tiles.*{CONVERT}",
    ),
    "lying on its side": ([(RGB, TILES | {"extratags": [(274, 3, 1, 6, True)]})], "autorot"),
    "upside down": ([(RGB, TILES | {"extratags": [(274, 3, 1, 3, True)]})], "tag is 3.*autorot"),
    "JPEG XR": ([(RGB, TILES | {"compression": "jpegxr"})], f"not supported.*XR.*{CONVERT}"),
    "PNG tiles": ([(RGB, TILES | {"compression": "png"})], f"not supported.*PNG.*{CONVERT}"),
}


@pytest.mark.parametrize("backend", ["openslide", "tiffslide", "auto"])
@pytest.mark.parametrize("name", FAULTS)
def test_what_is_not_supported_is_not_called_damaged(tmp_path, backend, name, capfd):
    pictures, says = FAULTS[name]
    path = write(tmp_path / "slide.tif", *pictures)
    with pytest.raises(SlideError, match=says) as error:
        Slide.open(path, backend=backend)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert not re.search("damaged|[Cc]opy it again|\n", message)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("compression", ["webp", "jpeg2000"])
def test_what_the_other_reader_reads_is_not_called_damaged(tmp_path, compression):
    path = write(tmp_path / "slide.tif", (RGB, {**TILES, "compression": compression}))
    Slide.open(path).close()
    with pytest.raises(SlideError, match=r"Leave slide\.backend at auto, which reads it") as error:
        Slide.open(path, backend="openslide")
    assert "damaged" not in str(error.value)


@pytest.mark.parametrize("backend", ["tiffslide", "auto"])
def test_a_plain_tiff_by_the_name_of_another_format_is_to_be_renamed(tmp_path, backend):
    path = write(tmp_path / "slide.ndpi", (RGB, TILES))
    with pytest.raises(SlideError, match=r"named \.ndpi, but is a plain TIFF\. Rename it"):
        Slide.open(path, backend=backend)
    Slide.open(path.rename(tmp_path / "slide.tif"), backend=backend).close()


@pytest.mark.parametrize("backend", ["openslide", "tiffslide"])
def test_what_lies_beside_a_slide_does_no_harm(tmp_path, backend):
    """Levels that nobody marked, a label, an overview, a mask, and whatever is small."""
    path = write(
        tmp_path / "slide.tif",
        (RGB, TILES),
        (HALF, TILES),
        (OTHER[:400, :300], {"description": "label 300x400"}),
        (OTHER[:300, :700], {"description": "Macro"}),
        (OTHER[:100, :100], TILES),
    )
    with Slide.open(path, backend=backend) as slide:
        assert (slide.l0_size.width, slide.l0_size.height) == (800, 600)


def test_unknown_files_are_named(tmp_path):
    for content, says in (
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "not a slide, but a PNG picture.*Check that it is one"),
        (b"\xff\xd8\xff\xe0" + bytes(99), "a JPEG picture"),
        (b"ZISRAWFILE" + bytes(99), "CZI"),
        (b"\x00" * 99, "not a slide.*damaged"),
    ):
        path = tmp_path / "slide.svs"
        path.write_bytes(content)
        with pytest.raises(SlideError, match=says):
            Slide.open(path)


def test_the_terminal_hears_nothing_of_openslide(tmp_path):
    """It writes past Python. What others write meanwhile gets through."""
    path = write(tmp_path / "slide.svs", *FAULTS["focal planes of Aperio"][0])
    program = (
        "import os, sys\nfrom wsi_pipeline.slide.readers.quiet_libraries import hushed\n"
        "from wsi_pipeline.slide.readers.choose import READERS\n"
        "try:\n    READERS['openslide'](sys.argv[1])\n"
        "except Exception as error:\n    print(error)\n"
        "with hushed():\n    os.write(2, b'a bar\\n')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert "Unsupported or missing image file" in ended.stdout
    assert ended.stderr == "a bar\n"

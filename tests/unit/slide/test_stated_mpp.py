"""Pixel sizes as writers put them, in texts and in whole files through both readers."""

import numpy as np
import pytest
import tifffile

from wsi_pipeline.errors import MppError
from wsi_pipeline.geometry import Size
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.slide.stated_mpp import (
    described,
    described_power,
    length_statement,
    length_um,
    number_of,
    ome_statement,
    power_statement,
    tags_statement,
)
from wsi_pipeline.slide.tiff.headers import Resolution

SIZE = Size(400, 300)
RGB = np.random.default_rng(0).integers(256, size=(300, 400, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("text", "um"),
    [
        ("0.25", 0.25), ("0,25", 0.25), (" 2.5e-1 ", 0.25), ("2,5E-1", 0.25), (".25", 0.25),
        ("0.25 µm", 0.25), ("0.25\u03bcm", 0.25), ("0,25 um/px", 0.25), ("0.25 microns", 0.25),
        ("250 nm", 0.25), ("0.00025 mm", 0.25), ("2.5e-5cm", 0.25), ("0.25 µm per pixel", 0.25),
        ("1e-5 in", 0.254), ("0.25 Mm", None), ("abc", None), ("1.234,5", None), ("-0.25", None),
        ("0.25 furlongs", None), ("1e999", None), ("0x10", None), ("０.25", None),
    ],
)  # fmt: skip
def test_lengths_in_all_their_ways(text, um):
    assert length_um(text) == (None if um is None else pytest.approx(um))


def test_silence_is_told_from_what_is_not_understood():
    for silent in (None, "", " ", "0", "0,0", "nan", "N/A", "unknown"):
        assert length_statement(silent, silent) is None
        assert power_statement(silent) is None
    assert not length_statement("abc", "abc").understood
    assert length_statement("0.25", None).xy == (0.25, 0.25)
    assert length_statement("1", "1", "pixel").xy is None
    for text in ("40", "40x", "40 X", "x40", "40,0", "4e1"):
        assert power_statement(text).xy == (40, 40)
    assert not power_statement("Plan Apo").understood
    assert number_of("20,0") == 20


def test_resolution_tags_of_every_unit():
    assert tags_statement(None) is None
    assert tags_statement(Resolution(0, 0, 3)) is None
    assert tags_statement(Resolution(1, 1, 1)) is None
    for density, unit in ((20_000, 3), (50_800, 2), (2000, 4), (2, 5)):
        assert tags_statement(Resolution(density, density, unit)).xy == pytest.approx((0.5, 0.5))
    assert tags_statement(Resolution(20_000, 0, 3)).xy == pytest.approx((0.5, 0.5))
    # An editor's resolution of a screen is no pixel size, in whatever unit; nor is a bare number.
    for density, unit in ((72, 2), (96 / 2.54, 3), (10, 3), (20_000, 1)):
        said = tags_statement(Resolution(density, density, unit))
        assert (said.xy, said.understood) == (None, True)
    assert not tags_statement(Resolution(20_000, 20_000, 9)).understood


def test_descriptions():
    bare = Resolution(2, 2, 1)
    assert described("ImageJ=1.53\nunit=micron\nmin=0", bare).xy == (0.5, 0.5)
    assert described("ImageJ=1.53\nunit=\\u00B5m\n", bare).xy == (0.5, 0.5)
    assert described("ImageJ=1.53\nunit=mm\n", Resolution(4000, 4000, 1)).xy == (0.25, 0.25)
    assert not described("ImageJ=1.53\nunit=furlong\n", bare).understood
    for silent in ("unit=pixel", "unit=", "min=0"):
        said = described(f"ImageJ=1.53\n{silent}\n", bare)
        assert said is None or (said.xy is None and said.understood)
    assert described("ImageJ=1.53\nunit=inch\n", Resolution(50_800, 50_800, 2)) is None  # the tags
    assert described("Scanner 5|AppMag = 40x|MPP = 0,25", None).xy == (0.25, 0.25)
    assert described_power("Scanner 5|AppMag = 40x|MPP = 0,25").xy == (40, 40)
    vips = "<property><name>openslide.mpp-x</name><value type='VipsRefString'>0.5</value>"
    assert described(vips + vips.replace("-x", "-y").replace("0.5", "0.51"), None).xy == (0.5, 0.51)
    assert described("a picture of 0.25 µm", None) is None


def ome(*pictures, objective="", head='<?xml version="1.0" encoding="UTF-8"?>'):
    rgb = 'DimensionOrder="XYCZT" Type="uint8" SizeC="3" SizeZ="1" SizeT="1"'
    images = "".join(
        f'<Image ID="Image:{i}"><Pixels ID="Pixels:{i}" SizeX="{width}" SizeY="{height}" {rgb} '
        f'{said}><Channel ID="Channel:{i}" SamplesPerPixel="3"/>'
        f'<TiffData IFD="{i}" PlaneCount="1"/></Pixels></Image>'
        for i, (width, height, said) in enumerate(pictures)
    )
    namespace = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    return f'{head}<OME xmlns="{namespace}">{objective}{images}</OME>'


def said(size="0.5", unit="µm", y=None):
    unit_x, unit_y = (f'PhysicalSize{axis}Unit="{unit}"' if unit else "" for axis in "XY")
    return f'PhysicalSizeX="{size}" {unit_x} PhysicalSizeY="{y or size}" {unit_y}'


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        (ome((400, 300, said())), 0.5),
        (ome((400, 300, said(unit=""))), 0.5),  # before 2015 it was always µm
        (ome((400, 300, said("500", "nm"))), 0.5),
        (ome((400, 300, said("0,0005", "mm"))), 0.5),
        (ome((400, 300, said("5e-5", "cm"))), 0.5),
        (ome((400, 300, 'PhysicalSizeX="500" PhysicalSizeXUnit="nm" PhysicalSizeY="0.5"')), 0.5),
        (ome((400, 300, 'PhysicalSizeX="0.5"')), 0.5),
        # The label comes first, with pixels of its own size.
        (ome((90, 80, said("20")), (400, 300, said()), (60, 60, said("9"))), 0.5),
        (ome((400, 300, said()), objective="<Instrument/>", head=""), 0.5),
        (ome((400, 300, "")), None),
        (ome((400, 300, said("0"))), None),
        (ome((400, 300, said("1", "pixel"))), "1 pixel"),
        (ome((400, 300, said("1", "reference frame"))), "1 reference frame"),
        (ome((400, 300, said("0.5", "parsec"))), "not understood"),
        (ome((400, 300, said("half"))), "not understood"),
        (ome((400, 300, said()), (400, 300, said("0.25"))), "not understood"),
        (ome((401, 300, said())), "not understood"),
        (ome((400, 300, said()), head="<!--" + 5000 * " " + "-->"), 0.5),
        ("<OME>" + "<a", "not understood"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><OME>&b;</OME>', "not understood"),
    ],
)
def test_ome_xml(xml, expected):
    statement = ome_statement(xml, SIZE)
    if expected is None:
        assert statement is None
    elif isinstance(expected, float):
        assert statement.xy == pytest.approx((expected, expected))
    elif expected == "not understood":
        assert not statement.understood
    else:
        assert (statement.text, statement.xy, statement.understood) == (expected, None, True)


def test_the_objective_of_ome_xml():
    objective = '<Instrument><Objective NominalMagnification="20.0"/></Instrument>'
    assert described_power(ome((400, 300, ""), objective=objective)).xy == (20, 20)
    assert described_power(ome((400, 300, ""))) is None


def aperio(text):
    return f"Aperio Image Library v11.2.1 \r\n400x300 (128x128)|{text}"


DPI_300 = {"resolution": (300, 300), "resolutionunit": "INCH"}
PER_CM = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}


@pytest.mark.parametrize("backend", ["openslide", "tiffslide"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"description": aperio("AppMag = 20|MPP = 0,5")}, (0.5, "reader")),
        ({"description": aperio("AppMag = 20x|MPP = 0.5 um")}, (0.5, "reader")),
        ({"description": aperio("AppMag = 20x")}, (0.5, "objective power")),
        ({"description": aperio("AppMag = 20,0")}, (0.5, "objective power")),
        ({"description": aperio("AppMag = 20|MPP = half"), **PER_CM}, "'half'.*not understood"),
        ({"description": aperio("AppMag = twenty")}, "'twenty'.*not understood"),
        ({"description": aperio("AppMag = 20"), **PER_CM}, (0.5, "TIFF resolution tags")),
        ({"description": ome((400, 300, said("500", "nm")))}, (0.5, "OME-XML")),
        ({"description": ome((400, 300, said("0.25"))), **PER_CM}, "contradict.*0.25.*0.5"),
        ({"description": ome((400, 300, said("0.25", y="0.5")))}, "not square"),
        ({"description": ome((400, 300, said("1", "pixel")))}, "does not say.*'1 pixel'"),
        ({"resolution": (20_000, 40_000), "resolutionunit": "CENTIMETER"}, "not square"),
        ({"resolution": (20_000, 20_000), "resolutionunit": "NONE"}, "does not say.*'20000 per"),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, "does not say.*'72 per inch"),
        ({"description": ome((400, 300, said())), **DPI_300}, "implausible.*0.5.*84.67"),
        (
            {"description": "ImageJ=1.5\nunit=micron\n", "resolution": (2, 2), "resolutionunit": 1},
            (0.5, "image description"),
        ),
    ],
)
def test_whole_files(tmp_path, backend, options, expected):
    path = tmp_path / "slide.tif"
    options = {"metadata": None, "photometric": "rgb", "tile": (128, 128), **options}
    description = options.pop("description", "").encode()
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(RGB, description=description, **options)
    if isinstance(expected, str):
        with pytest.raises(MppError, match=expected) as error:
            Slide.open(path, backend=backend)
        assert str(error.value).startswith("slide.tif: ")
        assert "--mpp" in str(error.value)
        with Slide.open(path, backend=backend, mpp=0.5) as slide:
            assert slide.mpp_source == "override"
    else:
        with Slide.open(path, backend=backend) as slide:
            assert (slide.mpp, slide.mpp_source) == (pytest.approx(expected[0]), expected[1])

"""Slides that are wrong in one way each, and how reading each of them must end.

`DAMAGES` and `OTHERS` are the one table: a case's name, what makes it, the word in which its trial
ends (see `tests.helpers.trial`), and what its message must say: the file's name, the cause and the
remedy, in one line.
"""

import os
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from tests.helpers.made import write_slide
from tests.helpers.trial import DAMAGED, OK
from training.synthetic import generate_region

Maker = Callable[[Path, Path], Path]
"""Makes the bad slide from a good one, in a folder; returns what to open."""

TILE_WIDTH, TILE_LENGTH = 322, 323
IMAGE_WIDTH, IMAGE_LENGTH, ROWS_PER_STRIP = 256, 257, 278
OFFSETS, COUNTS = 324, 325


@dataclass(frozen=True)
class Case:
    """One bad slide.

    Attributes:
        name: of the case.
        make: makes it.
        word: in which its trial ends.
        says: a pattern that its message matches.
        mpp: given by the caller, as by --mpp.
        as_nobody: whether it is read without the rights of root.

    """

    name: str
    make: Maker
    word: str
    says: str = ""
    mpp: float | None = None
    as_nobody: bool = False


def good_slide(folder: Path) -> Path:
    """A generated section, 1024 × 1024 px at 0.5 µm/px: JPEG tiles of 256, three levels."""
    return write_slide(folder / "good.tif", _section(), downsamples=(2, 4), compression="jpeg")


def _copy(good: Path, folder: Path, name: str | None = None) -> Path:
    path = folder / (name or good.name)
    path.write_bytes(good.read_bytes())
    return path


@cache
def _section() -> np.ndarray:
    return generate_region(0, 1024).rgb


def _picture(draw: Callable[[], np.ndarray], **options: object) -> Maker:
    return lambda _good, folder: write_slide(folder / "picture.tif", draw(), **options)


def _bytes(content: bytes, name: str = "slide.svs") -> Maker:
    def make(_good: Path, folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _named(name: str | bytes) -> Maker:
    return lambda good, folder: _copy(good, folder, os.fsdecode(name))


def _truncated(share: float) -> Maker:
    def make(good: Path, folder: Path) -> Path:
        path = _copy(good, folder)
        os.truncate(path, int(path.stat().st_size * share))
        return path

    return make


def _tags(changes: dict[int, object], pages: slice = slice(1)) -> Maker:
    """Overwrite tags: with a value, or with what a function makes of the old one."""

    def make(good: Path, folder: Path) -> Path:
        path = _copy(good, folder)
        with tifffile.TiffFile(path, mode="r+") as tiff:
            for page in [page for page in tiff.pages if page.is_tiled][pages]:
                for code, value in changes.items():
                    tag = page.tags[code]
                    tag.overwrite(value(tag.value) if callable(value) else value, dtype="I")
        return path

    return make


def _tiles(change: Callable[[bytes, int], bytes], numbers: slice, *, every_page: bool) -> Maker:
    """Overwrite the compressed bytes of tiles; their lengths stay."""

    def make(good: Path, folder: Path) -> Path:
        path = _copy(good, folder)
        with tifffile.TiffFile(path) as tiff:
            pages = [page for page in tiff.pages if page.is_tiled or every_page]
            places = [
                place
                for page in (pages if every_page else pages[:1])
                for place in list(zip(page.dataoffsets, page.databytecounts, strict=True))[numbers]
            ]
        with path.open("r+b") as file:
            for seed, (offset, count) in enumerate(places):
                file.seek(offset)
                old = file.read(count)
                new = change(old, seed)
                file.seek(offset)
                file.write(new[:count])
        return path

    return make


def _zeroed(old: bytes, _seed: int) -> bytes:
    return bytes(len(old))


def _flipped(old: bytes, seed: int) -> bytes:
    new = np.frombuffer(old, np.uint8).copy()
    rng = np.random.default_rng(seed)
    at = rng.integers(len(new), size=max(8, len(new) // 8))
    new[at] ^= rng.integers(1, 256, size=len(at), dtype=np.uint8)
    return new.tobytes()


def _flipped_picture(old: bytes, seed: int) -> bytes:
    """Leave the header whole: JPEG has no checksum, so that this shows in the picture alone."""
    return old[:-64] + bytes(
        value if value == 0xFF or before == 0xFF else value ^ 1
        for before, value in zip(old[-65:-1], old[-64:], strict=True)
    )


def _frame_of_65000(old: bytes, _seed: int) -> bytes:
    at = old.index(b"\xff\xc0") + 5
    return old[:at] + struct.pack(">HH", 65000, 65000) + old[at + 4 :]


def _pointers(first: int | None = None, following: int | None = None) -> Maker:
    """Let the header or the first directory point somewhere else."""

    def make(good: Path, folder: Path) -> Path:
        path = _copy(good, folder)
        with tifffile.TiffFile(path) as tiff:
            offset = tiff.pages.first.offset
        content = bytearray(path.read_bytes())
        if first is not None:
            struct.pack_into("<I", content, 4, first)
        if following is not None:
            (count,) = struct.unpack_from("<H", content, offset)
            here = offset if following < 0 else following
            struct.pack_into("<I", content, offset + 2 + 12 * count, here)
        path.write_bytes(content)
        return path

    return make


def _many_directories(_good: Path, folder: Path) -> Path:
    """Five thousand directories, each of the same one tag."""
    start, step = 8, 2 + 12 + 4
    content = bytearray(struct.pack("<2sHI", b"II", 42, start))
    for number in range(5000):
        content += struct.pack("<HHHII", 1, 254, 4, 1, 0)
        content += struct.pack("<I", start + step * (number + 1) if number < 4999 else 0)
    path = folder / "many.tif"
    path.write_bytes(content)
    return path


def _without_level_0(good: Path, folder: Path) -> Path:
    """The header points at the second directory: what is there is a quarter of the slide."""
    with tifffile.TiffFile(good) as tiff:
        offset = tiff.pages[1].offset
    return _pointers(first=offset)(good, folder)


def _deflate_bomb(_good: Path, folder: Path) -> Path:
    """One tile of 196 608 bytes becomes a GiB of zeros."""
    rng = np.random.default_rng(0)
    rgb = _section().copy()
    rgb[:256, :256] = rng.integers(256, size=(256, 256, 3), dtype=np.uint8)  # takes many bytes
    path = write_slide(folder / "bomb.tif", rgb)
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(160)) + packer.flush()
    return _tiles(lambda _old, _seed: bomb, slice(1), every_page=False)(path, folder)


def _jpeg_2000_bomb(_good: Path, folder: Path) -> Path:
    """One tile whose header claims a side of 2^30."""
    path = write_slide(folder / "bomb.tif", _section(), compression="jpeg2000")

    def claim(old: bytes, _seed: int) -> bytes:
        at = old.index(b"\xff\x4f\xff\x51") + 8
        return old[:at] + struct.pack(">II", 1 << 30, 1 << 30) + old[at + 8 :]

    return _tiles(claim, slice(1), every_page=False)(path, folder)


def _aperio(description: str, pixels_per_cm: float | None = None) -> Maker:
    def make(_good: Path, folder: Path) -> Path:
        path = folder / "aperio.svs"
        tifffile.imwrite(
            path,
            _section(),
            tile=(256, 256),
            compression="jpeg",
            photometric="rgb",
            description=f"Aperio Image Library v11.2.1 \r\n1024x1024 (256x256)|{description}",
            metadata=None,
            resolution=(pixels_per_cm, pixels_per_cm) if pixels_per_cm else None,
            resolutionunit="CENTIMETER" if pixels_per_cm else "NONE",
        )
        return path

    return make


def _anisotropic(_good: Path, folder: Path) -> Path:
    path = folder / "stretched.tif"
    tifffile.imwrite(
        path, _section(), tile=(256, 256), photometric="rgb", metadata=None,
        resolution=(20_000, 40_000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


def _one_tile_of_tissue() -> np.ndarray:
    glass = np.full((2048, 2048, 3), 244, np.uint8)
    glass[800:1312, 900:1412] = _section()[200:712, 200:712]
    return glass


def _white() -> np.ndarray:
    return np.full((1024, 1024, 3), 255, np.uint8)


def _pen() -> np.ndarray:
    """Blue marker over all of the slide, with the streaks of its felt."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(1024, 1024)).astype(np.float32)
    streaks = cv2.GaussianBlur(noise, (0, 0), 9, sigmaY=90)
    tone = 1 + 2 * streaks[..., None]
    return np.clip(np.array([30, 60, 190]) * tone, 0, 255).astype(np.uint8)


def _strips(_good: Path, folder: Path) -> Path:
    """81 Mpx in one strip, says the header."""
    path = folder / "strips.tif"
    tifffile.imwrite(
        path, np.full((90, 90, 3), 230, np.uint8), photometric="rgb", compression="zlib",
        rowsperstrip=90, metadata=None, resolution=(20_000, 20_000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for code in (IMAGE_WIDTH, IMAGE_LENGTH, ROWS_PER_STRIP):
            tiff.pages.first.tags[code].overwrite(9000, dtype="I")
    return path


def _samples(dtype: type, channels: int) -> Maker:
    def make(_good: Path, folder: Path) -> Path:
        path = folder / "samples.tif"
        shape = (512, 512, channels) if channels > 1 else (512, 512)
        tifffile.imwrite(
            path, np.zeros(shape, dtype), tile=(256, 256), metadata=None,
            photometric="rgb" if channels > 1 else "minisblack",
            resolution=(20_000, 20_000), resolutionunit="CENTIMETER",
        )  # fmt: skip
        return path

    return make


def _longer(good: Path, folder: Path) -> Path:
    path = _copy(good, folder)
    os.truncate(path, 1 << 40)
    return path


def _hole(_good: Path, folder: Path) -> Path:
    path = folder / "hole.svs"
    path.touch()
    os.truncate(path, 1 << 40)
    return path


def _link_loop(_good: Path, folder: Path) -> Path:
    (folder / "a.svs").symlink_to("b.svs")
    (folder / "b.svs").symlink_to("a.svs")
    return folder / "a.svs"


def _dangling(_good: Path, folder: Path) -> Path:
    (folder / "a.svs").symlink_to("gone.svs")
    return folder / "a.svs"


def _device(_good: Path, folder: Path) -> Path:
    (folder / "zero.svs").symlink_to("/dev/zero")
    return folder / "zero.svs"


def _pipe(_good: Path, folder: Path) -> Path:
    os.mkfifo(folder / "pipe.svs")
    return folder / "pipe.svs"


def _socket(_good: Path, folder: Path) -> Path:
    path = folder / "s.svs"
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(folder)  # the address of a socket may have 108 bytes at most
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)
    return path


def _folder(_good: Path, folder: Path) -> Path:
    (folder / "folder.svs").mkdir()
    return folder / "folder.svs"


def _unreadable(good: Path, folder: Path) -> Path:
    path = _copy(good, folder)
    path.chmod(0)
    return path


def _png(_good: Path, folder: Path) -> Path:
    Image.new("RGB", (64, 64)).save(folder / "picture.png")
    return (folder / "picture.png").rename(folder / "picture.svs")


LARGEST = (1 << 31) - 1

DAMAGES = (
    # The file as a whole.
    Case("truncated at 10 %", _truncated(0.1), "SlideError", "truncated.*Copy it again"),
    Case("truncated at 50 %", _truncated(0.5), "SlideError", "truncated.*Copy it again"),
    Case("truncated at 90 %", _truncated(0.9), "SlideError", "truncated.*Copy it again"),
    Case("a TiB behind the pixels", _longer, "SlideError", "pixels end at byte.*copy or scan"),
    # Its tiles.
    Case("a tile of zeros", _tiles(_zeroed, slice(5, 6), every_page=False), DAMAGED),
    Case(
        "all tiles of zeros",
        _tiles(_zeroed, slice(None), every_page=True),
        "SlideError",
        "nothing of it can be decoded.*copy or scan it again",
    ),
    Case("flipped bytes in a tile", _tiles(_flipped, slice(5, 6), every_page=False), DAMAGED),
    Case(
        "flipped bits at a tile's end", _tiles(_flipped_picture, slice(5, 6), every_page=False), OK
    ),
    Case(
        "a JPEG tile of 65000 px", _tiles(_frame_of_65000, slice(5, 6), every_page=False), DAMAGED
    ),
    # Its directories.
    Case("first directory beyond the end", _pointers(first=LARGEST), "SlideError", "truncated or"),
    Case("first directory in the pixels", _pointers(first=9000), "SlideError", "directory|entries"),
    Case(
        "next directory beyond the end", _pointers(following=LARGEST), "SlideError", "truncated or"
    ),
    Case("directories in a circle", _pointers(following=-1), "SlideError", "circle.*copy or scan"),
    Case(
        "tile offsets beyond the end",
        _tags({OFFSETS: lambda old: [value + (1 << 30) for value in old]}),
        "SlideError",
        "truncated",
    ),
    Case(
        "tile offsets elsewhere",
        _tags({OFFSETS: lambda old: [old[0] + 777] * len(old)}),
        "SlideError|" + DAMAGED,
    ),
    Case(
        "tiles that were never scanned",
        _tags({COUNTS: lambda old: [0] * len(old)}, slice(None)),
        "TissueError",
    ),
    Case(
        "2 000 000 000 px wide", _tags({IMAGE_WIDTH: LARGEST}), "SlideError", "claims 2,147,483,647"
    ),
    Case("2 000 000 000 px high", _tags({IMAGE_LENGTH: LARGEST}), "SlideError", "2,147,483,647 px"),
    Case("no pixels", _tags({IMAGE_WIDTH: 0}), "SlideError", "header claims 0 ×"),
    Case(
        "fifty times wider",
        _tags({IMAGE_WIDTH: lambda old: old * 50}),
        "SlideError",
        "needs .*tiles",
    ),
    Case(
        "tiles of a billion px",
        _tags({TILE_WIDTH: 1 << 15, TILE_LENGTH: 1 << 15}),
        "SlideError",
        "claims tiles of 32,768 × 32,768",
    ),
    Case("tiles without a side", _tags({TILE_WIDTH: 0}), "SlideError", "claims tiles of 0 ×"),
    Case("no level but the first", _pointers(following=0), OK),
    Case("no level but the lower ones", _without_level_0, OK),
    # Its name, and what carries the name.
    Case("non-ASCII name", _named("Schnitt Ä ⚕ 病理 1.tif"), OK),
    Case("name of 255 bytes", _named("x" * 251 + ".tif"), OK),
    Case("name that is not UTF-8", _named(b"caf\xe9.tif"), "SlideError", "not UTF-8. Rename"),
    Case("name like a chain of URLs", _named("a::b[1]*.tif"), OK),
    Case(
        "no permission",
        _unreadable,
        "SlideError",
        "Permission denied.*Check its perm",
        as_nobody=True,
    ),
)
"""Made from a good slide."""

OTHERS = (
    # The file as a whole.
    Case("missing", lambda _good, folder: folder / "gone.svs", "SlideError", "no such file.*Check"),
    Case("empty", _bytes(b""), "SlideError", "empty.*Copy it again"),
    Case("text", _bytes(b"Dear colleague, " * 99), "SlideError", "not a slide.*Check that it is"),
    Case("picture", _png, "SlideError", "not a slide.*Check that it is one"),
    Case("random", _bytes(np.random.default_rng(0).bytes(9999)), "SlideError", "not a slide"),
    Case("magic alone", _bytes(b"II*\0"), "SlideError", "not a slide|truncated"),
    Case("a TiB of nothing", _hole, "SlideError", "not a slide"),
    Case("MRXS without its folder", _bytes(b"\xff\xd8\xff\xd9", "x.mrxs"), "SlideError", "not a s"),
    Case(
        "VMS of nothing", _bytes(b"[Virtual Microscope Specimen]\n", "x.vms"), "SlideError", "not a"
    ),
    Case("DICOM of nothing", _bytes(bytes(128) + b"DICM", "x.dcm"), "SlideError", "not a slide"),
    # Its tiles.
    # The decoder stops at the size of a tile: it is black, and nothing tells that it was not.
    Case("a deflate bomb", _deflate_bomb, OK),
    Case("a JPEG 2000 bomb", _jpeg_2000_bomb, DAMAGED),
    # Its directories.
    Case("5000 directories", _many_directories, "SlideError", "more than 4096 directories"),
    Case("one strip of 81 Mpx", _strips, "SlideError", "pieces of 9,000 × 9,000.*Convert it"),
    Case("16 bits", _samples(np.uint16, 3), "ColourError", "8-bit RGB. Convert it"),
    Case("grey", _samples(np.uint8, 1), "ColourError", "8-bit RGB. Export it as RGB"),
    # Its pixel size.
    Case("no mpp", _picture(_section, mpp=None), "MppError", "--mpp"),
    Case("no mpp, but told", _picture(_section, mpp=None), OK, mpp=0.5),
    Case("mpp against the tags", _aperio("MPP = 0.25", 20_000), "MppError", "contradict.*--mpp"),
    Case(
        "mpp against the objective",
        _aperio("AppMag = 40|MPP = 0.5"),
        "MppError",
        "contradict.*--mpp",
    ),
    Case("mpp of a photograph", _picture(_section, mpp=9.0), "MppError", "implausible.*--mpp"),
    Case("mpp that is no number", _aperio("MPP = nan"), "MppError", "does not say.*--mpp"),
    Case("pixels that are not square", _anisotropic, "MppError", "not square.*--mpp"),
    # What it shows.
    Case("all white", _picture(_white), "TissueError", "no tissue"),
    Case("all black", _picture(lambda: 0 * _white()), "TissueError", "no tissue"),
    Case("all pen", _picture(_pen), "TissueError", "no tissue"),
    Case("one tile of tissue", _picture(_one_tile_of_tissue), OK),
    Case("one pixel", _picture(lambda: _white()[:1, :1]), "TissueError", "no tissue"),
    # Its name, and what carries the name.
    Case(
        "name of 256 bytes",
        lambda _good, folder: folder / ("x" * 252 + ".tif"),
        "SlideError",
        "too long.*Check its permissions and its path",
    ),
    Case("links in a circle", _link_loop, "SlideError", "circle. Mend the links"),
    Case("link to nothing", _dangling, "SlideError", "no such file"),
    Case("folder", _folder, "SlideError", "this is a folder. Name the slide"),
    Case("named pipe", _pipe, "SlideError", "this is a named pipe.*Check the path"),
    Case("socket", _socket, "SlideError", "this is a socket.*Check the path"),
    Case("device", _device, "SlideError", "this is a device.*Check the path"),
)
"""Made from nothing, or from a picture."""
